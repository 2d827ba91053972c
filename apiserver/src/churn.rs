//! Tells when very many objects were created or removed: what that took can be given back to the
//! machine.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Notify;

use crate::server::ApiServer;

/// As many creations and removals are worth a look at the memory.
const MANY: u64 = 1000;

/// Counts creations and removals of objects.
#[derive(Debug, Default)]
pub(crate) struct Churn {
    since: AtomicU64,
    many: Notify,
}

impl Churn {
    /// Counts one.
    pub(crate) fn note(&self) {
        if self.since.fetch_add(1, Ordering::Relaxed) + 1 >= MANY {
            self.since.store(0, Ordering::Relaxed);
            self.many.notify_one();
        }
    }

    /// Returns the count since the last call or the last [`MANY`], and restarts it.
    fn take(&self) -> u64 {
        self.since.swap(0, Ordering::Relaxed)
    }

    /// Waits until there were many more.
    pub(crate) async fn many(&self) {
        self.many.notified().await;
    }
}

impl ApiServer {
    /// Returns how many objects were created or removed since the last call, or since there were very
    /// many, and counts from here on.
    pub fn take_churn(&self) -> u64 {
        self.churn.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[test]
    fn many_changes_are_told_once() {
        let churn = Churn::default();
        (1..MANY).for_each(|_| churn.note());
        assert!(churn.many().now_or_never().is_none());
        churn.note();
        assert!(churn.many().now_or_never().is_some());
        assert!(churn.many().now_or_never().is_none());
    }

    #[test]
    fn count_begins_anew_when_taken() {
        let churn = Churn::default();
        (0..7).for_each(|_| churn.note());
        assert_eq!((churn.take(), churn.take()), (7, 0));
    }
}
