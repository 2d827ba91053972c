//! The order of everything that happened to the recorded directory.

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// An index into a recording: how many events lie before it.
pub type Position = usize;

/// One change or sync of the recorded directory, after it returned.
#[derive(Clone, Debug)]
pub enum Event {
    /// A file was created; its contents are empty.
    Create(PathBuf),
    Mkdir(PathBuf),
    Write {
        path: PathBuf,
        offset: u64,
        bytes: Vec<u8>,
    },
    /// The size was set.
    Truncate {
        path: PathBuf,
        size: u64,
    },
    /// The size was raised to at least this.
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
    /// A file or an empty directory was removed.
    Unlink(PathBuf),
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
    /// The clean pages of a file were dropped from the page cache: reads come from the disk.
    DropCache(PathBuf),
    /// The whole file system was synced.
    SyncAll {
        start: Position,
    },
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
