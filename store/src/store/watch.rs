//! Reading the history from a revision on.

use tokio::sync::watch;

use super::{Store, WatchBatch, WatchError};
use crate::record::{Revision, bucket_of};

/// A position in the history of one key prefix. It holds no queue: a slow reader costs nothing and
/// is told [`WatchError::TooOld`] once the history has moved past it.
pub struct Watch<M> {
    pub(super) store: Store<M>,
    pub(super) prefix: Box<str>,
    pub(super) cursor: Revision,
    pub(super) wake: watch::Receiver<Revision>,
}

impl<M: Send + Sync + 'static> Watch<M> {
    /// The changes since the last call, perhaps none, without waiting.
    pub fn poll(&mut self) -> Result<WatchBatch<M>, WatchError> {
        self.wake.borrow_and_update();
        let bucket = bucket_of(&self.prefix);
        let (changes, revision) = self.store.back(|back| {
            let changes = match back.rings.get(bucket) {
                Some(ring) => ring.after(self.cursor, &self.prefix),
                None => Some(Vec::new()),
            };
            (changes, back.revision)
        });
        let changes = changes.ok_or(WatchError::TooOld(self.cursor))?;
        self.cursor = revision;
        Ok(WatchBatch { changes, revision })
    }

    /// Waits until the bucket changes after the last [`Watch::poll`].
    pub async fn changed(&mut self) {
        // The sender lives in the store, which `self` keeps alive.
        let _ = self.wake.changed().await;
    }
}
