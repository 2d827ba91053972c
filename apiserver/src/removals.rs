//! Tells when very many objects were removed: what they took can be given back to the machine.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Notify;

/// As many removals are worth a look at the memory.
const MANY: u64 = 1000;

/// Counts removals of objects.
#[derive(Debug, Default)]
pub(crate) struct Removals {
    since: AtomicU64,
    many: Notify,
}

impl Removals {
    /// Counts one.
    pub(crate) fn note(&self) {
        if self.since.fetch_add(1, Ordering::Relaxed) + 1 >= MANY {
            self.since.store(0, Ordering::Relaxed);
            self.many.notify_one();
        }
    }

    /// Waits until there were many more.
    pub(crate) async fn many(&self) {
        self.many.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[test]
    fn many_removals_are_told_once() {
        let removals = Removals::default();
        (1..MANY).for_each(|_| removals.note());
        assert!(removals.many().now_or_never().is_none());
        removals.note();
        assert!(removals.many().now_or_never().is_some());
        assert!(removals.many().now_or_never().is_none());
    }
}
