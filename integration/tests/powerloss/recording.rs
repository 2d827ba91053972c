//! The order of everything that happened to the recorded directory.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// An index into a recording: how many events lie before it.
pub type Position = usize;

/// A change whose effect the arguments of its system call tell.
#[derive(Clone, Debug)]
pub enum Change {
    Mkdir(PathBuf),
    /// Sets the size.
    Truncate {
        path: PathBuf,
        size: u64,
    },
    /// Raises the size to at least this.
    Extend {
        path: PathBuf,
        size: u64,
    },
    Rename {
        from: PathBuf,
        to: PathBuf,
    },
    Link {
        from: PathBuf,
        to: PathBuf,
    },
    /// Removes a file or an empty directory.
    Unlink(PathBuf),
    /// Drops the clean pages of a file from the page cache: reads come from the disk.
    DropCache(PathBuf),
}

/// One change or sync of the recorded directory, after it returned.
#[derive(Clone, Debug)]
pub enum Event {
    /// A file was created; its contents are empty.
    Create(PathBuf),
    Write {
        path: PathBuf,
        offset: u64,
        bytes: Vec<u8>,
    },
    Change(Change),
    /// `fsync` or `fdatasync` of a file or directory succeeded. It covers the changes before
    /// `start`.
    Sync {
        path: PathBuf,
        start: Position,
    },
    /// The same, with an error: the kernel may have dropped pages that it could not write.
    FailedSync {
        path: PathBuf,
        start: Position,
    },
    /// The whole file system was synced.
    SyncAll {
        start: Position,
    },
}

impl Change {
    /// The file that is changed.
    pub fn path(&self) -> &Path {
        match self {
            Self::Mkdir(path)
            | Self::Truncate { path, .. }
            | Self::Extend { path, .. }
            | Self::Rename { to: path, .. }
            | Self::Link { to: path, .. }
            | Self::Unlink(path)
            | Self::DropCache(path) => path,
        }
    }

    /// The kind of change, in a word.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Mkdir(_) => "mkdir",
            Self::Truncate { .. } => "truncate",
            Self::Extend { .. } => "extend",
            Self::Rename { .. } => "rename",
            Self::Link { .. } => "link",
            Self::Unlink(_) => "unlink",
            Self::DropCache(_) => "drop the cache of",
        }
    }
}

/// A phase of the run, from its position on.
#[derive(Clone, Debug)]
pub struct Phase {
    pub start: Position,
    pub name: String,
}

/// A recording that goes on. The tracer adds an event before the traced process can go on, so that
/// an answer which a client has received depends on no event behind [`Log::position`].
#[derive(Default)]
pub struct Log(Mutex<Recorded>);

/// The contents of a [`Log`].
#[derive(Clone, Default)]
pub struct Recorded {
    pub events: Vec<Event>,
    pub phases: Vec<Phase>,
    /// System calls that the recorder does not understand: the recording is worth nothing.
    pub unsupported: Vec<String>,
}

impl Log {
    fn lock(&self) -> MutexGuard<'_, Recorded> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn position(&self) -> Position {
        self.lock().events.len()
    }

    pub fn push(&self, event: Event) {
        self.lock().events.push(event);
    }

    pub fn unsupported(&self, description: String) {
        self.lock().unsupported.push(description);
    }

    /// The events so far, if a sync has failed among them.
    pub fn after_failed_sync(&self) -> Option<Vec<Event>> {
        let recorded = self.lock();
        let failed = |event: &Event| matches!(event, Event::FailedSync { .. });
        recorded.events.iter().any(failed).then(|| recorded.events.clone())
    }

    /// Begins a phase.
    pub fn phase(&self, name: &str) {
        let mut recorded = self.lock();
        let start = recorded.events.len();
        recorded.phases.push(Phase { start, name: name.to_owned() });
    }

    pub fn take(&self) -> Recorded {
        std::mem::take(&mut self.lock())
    }
}

impl Recorded {
    /// The phase that a position lies in.
    pub fn phase_at(&self, position: Position) -> &str {
        let phase = self.phases.iter().rev().find(|phase| phase.start <= position);
        phase.map_or("", |phase| &phase.name)
    }
}
