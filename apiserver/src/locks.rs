//! What requests of one kind share while there are any, as a lock by which they wait for each other.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// Locks by name: of a user, of a namespace. Those that are not in use are not kept.
pub(crate) struct Locks<T>(Mutex<HashMap<Arc<str>, Weak<T>>>);

impl<T> Default for Locks<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T> Locks<T> {
    /// The lock of that name, made if nothing uses one.
    pub(crate) fn of(&self, name: &str, make: impl FnOnce() -> T) -> Arc<T> {
        // Nothing that holds the mutex panics.
        let mut locks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(lock) = locks.get(name).and_then(Weak::upgrade) {
            return lock;
        }
        locks.retain(|_, lock| lock.strong_count() > 0);
        let lock = Arc::new(make());
        locks.insert(name.into(), Arc::downgrade(&lock));
        lock
    }

    /// The number of names.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locks_are_shared_while_they_are_used() {
        let locks = Locks::default();
        let first = locks.of("a", || 1);
        assert_eq!((*locks.of("a", || 2), *locks.of("b", || 3)), (1, 3));
        drop(first);
        assert_eq!((*locks.of("a", || 4), locks.len()), (4, 1));
    }
}
