//! Failures to read or write the store's files.

use std::io;
use std::path::{Path, PathBuf};

/// The outcome of the writes of a commit that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// None of them is stored, now or after a start.
    Refused,
    /// They may be on the disk: they take effect at a later start, unless a later commit succeeds.
    Unknown,
}

/// The reason why the files could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// A file cannot be opened or is not a database.
    #[error("open {path}: {source}")]
    Open {
        /// The file.
        path: PathBuf,
        /// redb's error.
        source: Box<redb::Error>,
    },
    /// Reading at start failed.
    #[error("read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// redb's error.
        source: Box<redb::Error>,
    },
    /// The bytes that were read are not those that were written.
    #[error("read {path}: {message}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The record, and its fault.
        message: String,
    },
    /// A newer version of this program wrote the file.
    #[error("{path} has format {found}, this version reads up to {known}")]
    TooNew {
        /// The file.
        path: PathBuf,
        /// The format of the file.
        found: u64,
        /// The newest format that this program reads.
        known: u64,
    },
    /// A commit failed.
    #[error("write {path}: {source}")]
    Write {
        /// The database file.
        path: PathBuf,
        /// redb's error.
        source: Box<redb::Error>,
        /// The outcome of the commit's writes.
        outcome: Outcome,
    },
    /// The thread that writes has panicked and does not go on.
    #[error("the thread that writes the store has panicked")]
    Panicked,
}

impl DiskError {
    pub(crate) fn open(path: &Path) -> impl Fn(redb::Error) -> Self {
        move |source| Self::Open { path: path.to_owned(), source: Box::new(source) }
    }

    pub(crate) fn read(path: &Path) -> impl Fn(redb::Error) -> Self {
        move |source| Self::Read { path: path.to_owned(), source: Box::new(source) }
    }

    /// Returns whether the file system is full.
    pub fn is_full(&self) -> bool {
        self.source_is(|e| {
            matches!(e, redb::Error::Io(e) if matches!(e.kind(),
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded))
        })
    }

    /// Returns whether the file is not, or no longer, a database that this program can read.
    pub fn is_damaged(&self) -> bool {
        matches!(self, Self::Damaged { .. })
            || self.source_is(|e| {
                matches!(e, redb::Error::Corrupted(_) | redb::Error::UpgradeRequired(_))
                    || matches!(e, redb::Error::Io(e) if matches!(e.kind(),
                    io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof))
            })
    }

    /// Returns whether the writes that it is about may take effect at a later start.
    pub fn is_unknown(&self) -> bool {
        matches!(self, Self::Panicked | Self::Write { outcome: Outcome::Unknown, .. })
    }

    fn source_is(&self, test: impl Fn(&redb::Error) -> bool) -> bool {
        match self {
            Self::Open { source, .. } | Self::Read { source, .. } | Self::Write { source, .. } => {
                test(source)
            }
            Self::Damaged { .. } | Self::TooNew { .. } | Self::Panicked => false,
        }
    }
}
