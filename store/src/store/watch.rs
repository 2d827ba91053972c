//! Reading the history from a revision on.

use tokio::sync::watch;

use super::{Store, WatchBatch, WatchError};
use crate::record::{Revision, Weigh, bucket_of};

/// A position in the history of one key prefix. It holds no queue: a slow reader costs nothing and
/// is told [`WatchError::TooOld`] once the history has moved past it.
pub struct Watch<M> {
    pub(super) store: Store<M>,
    pub(super) prefix: Box<str>,
    pub(super) cursor: Revision,
    pub(super) wake: watch::Receiver<Revision>,
}

impl<M: Weigh + Send + Sync + 'static> Watch<M> {
    /// The changes since the last call, perhaps none, without waiting.
    pub fn poll(&mut self) -> Result<WatchBatch<M>, WatchError> {
        self.poll_at_most(usize::MAX)
    }

    /// The next changes, up to the one that makes `max_bytes` of values full. The others stay in the
    /// history, so that a slow reader keeps no more than that.
    pub fn poll_at_most(&mut self, max_bytes: usize) -> Result<WatchBatch<M>, WatchError> {
        self.wake.borrow_and_update();
        let bucket = bucket_of(&self.prefix);
        let (found, revision) = self.store.back(|back| {
            let found = match back.rings.get(bucket) {
                Some(ring) => ring.after(self.cursor, &self.prefix, max_bytes),
                None => Some((Vec::new(), None)),
            };
            (found, back.revision)
        });
        let (changes, stopped_at) = found.ok_or(WatchError::TooOld(self.cursor))?;
        self.cursor = stopped_at.unwrap_or(revision);
        Ok(WatchBatch { changes, revision: self.cursor, is_complete: stopped_at.is_none() })
    }

    /// Waits until the bucket changes after the last [`Watch::poll`].
    pub async fn changed(&mut self) {
        // The sender lives in the store, which `self` keeps alive.
        let _ = self.wake.changed().await;
    }
}
