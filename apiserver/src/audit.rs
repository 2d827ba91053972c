//! The audit log: an Event of `audit.k8s.io/v1` for each stage of each request that the policy
//! selects, a line each, written by a thread of its own.

mod body;
mod event;
mod file;
mod log;
pub(crate) mod policy;
#[cfg(test)]
mod tests;
mod trail;

use std::path::PathBuf;
use std::sync::Arc;

pub use file::{FileError, FileOptions};
pub use policy::{Policy, PolicyError};

pub(crate) use trail::{admit, begin};

/// The audit log and the policy that decides what is written to it.
#[derive(Debug)]
pub struct Audit {
    policy: Policy,
    log: log::Log,
}

/// The reason why the audit log cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// The policy file cannot be read.
    #[error("read the audit policy {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The error of the system.
        source: std::io::Error,
    },
    /// The policy is not valid.
    #[error("the audit policy {path} is not valid: {source}")]
    Policy {
        /// The file.
        path: PathBuf,
        /// The first thing that is wrong.
        source: PolicyError,
    },
    /// The log cannot be written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The thread that writes cannot be started.
    #[error("start the thread that writes the audit log: {0}")]
    Thread(#[source] std::io::Error),
}

impl Audit {
    /// Reads the policy, opens the log and starts the thread that writes it.
    pub fn open(policy: PathBuf, options: FileOptions) -> Result<Arc<Self>, AuditError> {
        let text = match std::fs::read_to_string(&policy) {
            Ok(text) => text,
            Err(source) => return Err(AuditError::Read { path: policy, source }),
        };
        let policy =
            Policy::parse(&text).map_err(|source| AuditError::Policy { path: policy, source })?;
        let log = log::Log::start(file::File::open(options)?).map_err(AuditError::Thread)?;
        Ok(Arc::new(Self { policy, log }))
    }

    /// Waits until everything that was queued before is written.
    pub fn flush(&self) {
        self.log.flush();
    }
}
