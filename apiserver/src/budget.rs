//! An amount of something that several holders share, none of which gets more than its part.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What is there to share, in units of the owner's choice.
#[derive(Clone)]
pub(crate) struct Budget(Arc<Shared>);

struct Shared {
    total: usize,
    per_holder: usize,
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    sum: usize,
    by_holder: HashMap<Arc<str>, usize>,
}

/// An amount that a holder has; given back on drop.
pub(crate) struct Lease {
    budget: Budget,
    holder: Arc<str>,
    amount: usize,
}

impl Budget {
    /// A budget of `total`, of which one holder gets at most `per_holder`.
    pub(crate) fn new(total: usize, per_holder: usize) -> Self {
        Self(Arc::new(Shared { total, per_holder, held: Mutex::default() }))
    }

    /// A lease of nothing, which can grow.
    pub(crate) fn lease(&self, holder: &Arc<str>) -> Lease {
        Lease { budget: self.clone(), holder: holder.clone(), amount: 0 }
    }

    /// A lease of `amount`; `None` when the holder or all together would have too much.
    pub(crate) fn take(&self, holder: &Arc<str>, amount: usize) -> Option<Lease> {
        let mut lease = self.lease(holder);
        lease.grow(amount).then_some(lease)
    }

    /// The sum of all leases.
    pub(crate) fn held(&self) -> usize {
        self.lock().sum
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        // Nothing that holds the lock panics.
        self.0.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lease {
    /// Takes `more`, or nothing and returns false when that would be too much.
    pub(crate) fn grow(&mut self, more: usize) -> bool {
        let shared = &self.budget.0;
        let mut held = self.budget.lock();
        let own = held.by_holder.get(&self.holder).copied().unwrap_or(0);
        if held.sum + more > shared.total || own + more > shared.per_holder {
            return false;
        }
        held.sum += more;
        held.by_holder.insert(self.holder.clone(), own + more);
        self.amount += more;
        true
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut held = self.budget.lock();
        held.sum -= self.amount;
        if let Some(own) = held.by_holder.get_mut(&self.holder) {
            *own -= self.amount;
            if *own == 0 {
                held.by_holder.remove(&self.holder);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_holder_takes_more_than_its_part() {
        let budget = Budget::new(10, 6);
        let (jane, joe): (Arc<str>, Arc<str>) = ("jane".into(), "joe".into());
        let mut first = budget.take(&jane, 4).expect("it is hers");
        assert!(!first.grow(3), "seven are more than her part");
        assert!(first.grow(2));
        assert!(budget.take(&jane, 1).is_none());
        let second = budget.take(&joe, 4).expect("the rest is there for others");
        assert!(budget.take(&joe, 1).is_none(), "nothing is left");
        assert_eq!(budget.held(), 10);
        drop(first);
        drop(second);
        assert_eq!(budget.held(), 0);
        assert!(budget.lock().by_holder.is_empty(), "holders of nothing are not kept");
    }
}
