//! The step of the traced process that fails, and its failure.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;
use nix::libc;

use crate::recording::Change;
use crate::syscalls::Action;

/// The way in which a step fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The system call does nothing and returns this error.
    Error(Errno),
    /// A write writes half of its bytes, and the next one fails with `ENOSPC`. Other calls fail at
    /// once.
    Short,
    /// The process is killed before the system call does anything.
    Kill,
}

/// The steps that count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Steps {
    All,
    Syncs,
    Writes,
}

/// A fault: the `nth` of the steps (from 0) and the `count - 1` ones after it fail.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    pub steps: Steps,
    /// Only steps on files whose names begin so count.
    pub files: &'static str,
    pub nth: usize,
    pub count: usize,
    pub failure: Failure,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { steps, files, nth, count, failure } = self;
        let times: &dyn fmt::Display = if *count > 1000 { &"all" } else { count };
        write!(f, "{failure:?} at step {nth} of {steps:?} on {files:?}*, {times} times")
    }
}

/// The tracer's part in one system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Pass,
    Fail(Errno),
    /// Only the first half of the bytes is written.
    Half,
    Kill,
}

/// The armed fault, how far it is, and every step that was taken.
#[derive(Default)]
pub struct Plan(Mutex<Progress>);

#[derive(Default)]
struct Progress {
    fault: Option<Fault>,
    seen: usize,
    trail: Vec<String>,
}

impl Plan {
    /// Counts from now on, for a fault or for the trail alone.
    pub fn arm(&self, fault: Option<Fault>) {
        *self.lock() = Progress { fault, ..Progress::default() };
    }

    fn lock(&self) -> MutexGuard<'_, Progress> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns whether the fault has happened at least once.
    pub fn struck(&self) -> bool {
        let progress = self.lock();
        progress.fault.is_some_and(|fault| progress.seen > fault.nth)
    }

    /// Every step since [`Plan::arm`], as numbered for [`Steps::All`].
    pub fn trail(&self) -> Vec<String> {
        self.lock().trail.clone()
    }

    /// Counts the next system call and decides about it.
    pub fn next(&self, action: &Action) -> Verdict {
        let changes = match action {
            Action::Open { existed, flags, .. } => !existed && flags & libc::O_CREAT != 0,
            Action::Change(Change::DropCache(_)) => false,
            _ => true,
        };
        if !changes {
            return Verdict::Pass;
        }
        let mut progress = self.lock();
        let name = action.path().and_then(|path| path.file_name()).unwrap_or_default();
        progress.trail.push(format!("{} {}", action.name(), name.display()));
        let Some(fault) = progress.fault else { return Verdict::Pass };
        let counts = match fault.steps {
            Steps::All => true,
            Steps::Syncs => matches!(action, Action::Sync(_) | Action::SyncAll),
            Steps::Writes => matches!(action, Action::Write { .. }),
        };
        if !counts || !name.as_encoded_bytes().starts_with(fault.files.as_bytes()) {
            return Verdict::Pass;
        }
        let step = progress.seen;
        progress.seen += 1;
        if !(fault.nth..fault.nth + fault.count).contains(&step) {
            return Verdict::Pass;
        }
        match fault.failure {
            Failure::Error(errno) => Verdict::Fail(errno),
            Failure::Short if step == fault.nth && matches!(action, Action::Write { .. }) => {
                Verdict::Half
            }
            Failure::Short => Verdict::Fail(Errno::ENOSPC),
            Failure::Kill => Verdict::Kill,
        }
    }
}
