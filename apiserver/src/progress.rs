//! Finds clients that do not take the responses that they asked for.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Longest time in which a client may take nothing of its responses; its connection is closed at
/// most twice that after the last byte. Watches and logs are not counted: their readers may pause.
const STALL_TIMEOUT: Duration = Duration::from_secs(60);

/// Among a response's extensions: it lasts, as watches and logs do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lasting;

/// The progress of the client of one connection.
#[derive(Clone, Debug)]
pub(crate) struct Progress {
    taken: Arc<Mutex<Taken>>,
    timeout: Duration,
}

#[derive(Debug)]
struct Taken {
    /// Responses of which a piece waits to be taken.
    waiting: usize,
    /// The time at which something was taken last, or began to wait.
    last: Instant,
}

/// The pieces of one response that the client takes.
#[derive(Debug)]
pub(crate) struct Pieces {
    progress: Progress,
    is_waiting: bool,
    lasts: bool,
}

impl Progress {
    /// A connection without responses.
    pub(crate) fn new() -> Self {
        Self::with_timeout(STALL_TIMEOUT)
    }

    fn with_timeout(timeout: Duration) -> Self {
        let taken = Taken { waiting: 0, last: Instant::now() };
        Self { taken: Arc::new(Mutex::new(taken)), timeout }
    }

    /// A response on this connection.
    pub(crate) fn response(&self, lasts: bool) -> Pieces {
        Pieces { progress: self.clone(), is_waiting: false, lasts }
    }

    /// Waits until the client has taken nothing for too long.
    pub(crate) async fn stalled(&self) {
        loop {
            let now = Instant::now();
            let due = {
                let taken = self.lock();
                let since = if taken.waiting == 0 { now } else { taken.last };
                since + self.timeout
            };
            if due <= now {
                return;
            }
            tokio::time::sleep_until(due).await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        // Nothing that holds the lock panics.
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pieces {
    /// Notes that the piece before is taken.
    pub(crate) fn taken(&mut self) {
        if std::mem::take(&mut self.is_waiting) {
            let mut taken = self.progress.lock();
            taken.waiting -= 1;
            taken.last = Instant::now();
        }
    }

    /// Notes that a piece waits to be taken.
    pub(crate) fn handed_out(&mut self) {
        if self.lasts || self.is_waiting {
            return;
        }
        self.is_waiting = true;
        let mut taken = self.progress.lock();
        if taken.waiting == 0 {
            taken.last = Instant::now();
        }
        taken.waiting += 1;
    }
}

impl Drop for Pieces {
    fn drop(&mut self) {
        self.taken();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_millis(100);

    async fn stalls(progress: &Progress, within: Duration) -> bool {
        tokio::time::timeout(within, progress.stalled()).await.is_ok()
    }

    #[tokio::test]
    async fn client_that_takes_nothing_stalls() {
        let progress = Progress::with_timeout(SOON);
        let (mut list, mut watch) = (progress.response(false), progress.response(true));
        watch.handed_out();
        assert!(!stalls(&progress, 3 * SOON).await, "the reader of a watch may pause");
        list.handed_out();
        assert!(stalls(&progress, 3 * SOON).await);
        list.taken();
        assert!(!stalls(&progress, 3 * SOON).await, "nothing waits");
        list.handed_out();
        drop(list);
        assert!(!stalls(&progress, 3 * SOON).await);
    }
}
