//! Directories of the store that are being made: they are removed with their owners.

use std::path::{Path, PathBuf};

use crate::tree;

/// Layers that no removal touches while this exists.
#[derive(Debug)]
pub(super) struct Claim {
    _directory: Incoming,
}

impl Claim {
    /// Keeps the directory that names the layers.
    pub(super) fn new(directory: Incoming) -> Self {
        Self { _directory: directory }
    }
}

/// A directory that is removed when it is dropped, however deep what is in it.
#[derive(Debug)]
pub(super) struct Incoming {
    path: PathBuf,
}

impl Incoming {
    /// Takes over a directory.
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// Returns its path.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        if let Err(error) = tree::remove(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "removing an incoming directory failed");
        }
    }
}

/// The beginning of the name of what a process is making: with its start time, its process ID names
/// no other process.
pub(super) fn owner_prefix(pid: u32) -> String {
    format!("{pid}-{}-", crate::records::start_ticks(pid).unwrap_or(0))
}
