//! A durable, versioned key-value store with watch. It knows bytes and revisions, not Kubernetes.
//!
//! Keys have the form `bucket/rest`; a bucket is the unit of watch history (one resource type).
//! Every write gets the next [`Revision`]. Readers and watchers see a write only once it is as
//! durable as it asked to be, in the order of revisions.
//!
//! Invariant: revisions never go back and are never given twice, across crashes too; see
//! [`disk::Disk::reserve`].

mod archive;
mod disk;
mod files;
mod history;
mod journal;
mod offline;
mod record;
mod store;

pub use archive::{ARCHIVE_FORMAT, ArchiveError, ArchiveWriter, Stored, read_archive};
pub use disk::{DiskError, Outcome};
pub use history::{Change, ChangeKind};
pub use offline::Offline;
pub use record::{Record, Revision, Weigh};
pub use store::{
    Action, Alarms, Durability, Exceeded, Options, Page, Store, Watch, WatchBatch, WatchError,
    WriteError, Written,
};

/// Entry points of the coverage-guided fuzzers (`make fuzz`).
#[cfg(fuzzing)]
pub mod fuzz_targets {
    pub use crate::archive::fuzz_targets::archive;
    pub use crate::journal::fuzz_targets::{journal, journal_batch};
}

#[cfg(test)]
mod tests;
