//! The requests to the store and its answers.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::usage::{Exceeded, STORE_MAX_BYTES};
use crate::disk::DiskError;
use crate::history::Change;
use crate::record::{Record, Revision};

/// The part of a write that must survive a crash before it is acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// On disk (fsync) before the write returns and before anybody sees it.
    Durable,
    /// Visible at once; reaches the disk with the next durable write or after
    /// [`Options::lazy_flush_delay`].
    Lazy,
    /// In memory only.
    Volatile,
}

/// Settings of a store.
#[derive(Clone, Debug)]
pub struct Options {
    /// Longest time that a lazy write waits for a durable one to take it along.
    pub lazy_flush_delay: Duration,
    /// Bytes of keys and values that the store may hold; writes that grow beyond are refused.
    pub max_bytes: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self { lazy_flush_delay: Duration::from_secs(10), max_bytes: STORE_MAX_BYTES }
    }
}

/// The effect of a write on its key.
pub enum Action<M> {
    /// Stores these bytes.
    Put {
        /// The encoded value.
        value: Bytes,
        /// The value that the caller derives from it.
        meta: M,
    },
    /// Removes the key; watchers get these bytes as its last state.
    Delete {
        /// The encoded final state.
        value: Bytes,
        /// The value that the caller derives from it.
        meta: M,
    },
    /// Leaves everything as it is; the write spends no revision.
    Keep,
}

/// The outcome of a write.
#[derive(Debug)]
pub enum Written<M> {
    /// The new record.
    Put(Arc<Record<M>>),
    /// The final state of a removed key.
    Deleted(Arc<Record<M>>),
    /// Nothing was written.
    Kept,
}

/// The reason why a write did not happen.
#[derive(Debug, thiserror::Error)]
pub enum WriteError<E> {
    /// The caller's own function refused.
    #[error("rejected")]
    Rejected(E),
    /// The disk failed: nothing changed, unless [`DiskError::is_unknown`].
    #[error(transparent)]
    Disk(Arc<DiskError>),
    /// The store is full; nothing changed.
    #[error(transparent)]
    Exceeded(#[from] Exceeded),
    /// The store is shut.
    #[error("the store is closed")]
    Closed,
}

/// The conditions that an administrator should know about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Alarms {
    /// The store is nearly as large as it may become.
    pub space: bool,
    /// The last commit failed.
    pub disk: bool,
}

/// The reason why a watch cannot start or go on.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum WatchError {
    /// Changes after the wanted revision are forgotten: list again.
    #[error("revision {0} is too old")]
    TooOld(Revision),
    /// The wanted revision is not reached yet.
    #[error("revision {wanted} is ahead of {current}")]
    Future {
        /// The wanted revision.
        wanted: Revision,
        /// The present one.
        current: Revision,
    },
}

/// Some records in key order, all as of one revision.
pub struct Page<M> {
    /// The store's revision when the page was cut.
    pub revision: Revision,
    /// The records.
    pub records: Vec<Arc<Record<M>>>,
    /// True if others that match follow.
    pub more: bool,
    /// The number of all records with the prefix, for one of a bucket or share.
    pub count: usize,
}

/// The changes since the last look, and the revision up to which they are complete.
pub struct WatchBatch<M> {
    /// In revision order.
    pub changes: Vec<Change<M>>,
    /// No further change at or before this revision will come.
    pub revision: Revision,
    /// True if these are all so far. Otherwise more may be there already, of which
    /// [`Watch::changed`](super::Watch::changed) need not give notice.
    pub is_complete: bool,
}
