//! The store's access to the file system, behind a trait so that tests can inject failures and
//! rebuild what a power cut leaves.

mod staged;
mod system;

use std::fmt::Debug;
use std::io;
use std::path::Path;
use std::sync::Arc;

pub(crate) use staged::{Staged, Taint};
pub(crate) use system::SystemFiles;

/// Mode of every file of the store: root alone may read Secrets.
pub(crate) const FILE_MODE: u32 = 0o600;

/// The store's operations on directories.
pub(crate) trait Files: Debug + Send + Sync {
    /// Opens a file that exists for reading and writing and sets its mode to [`FILE_MODE`].
    ///
    /// Its pages in the page cache are written back and dropped, so that reads return what is on
    /// the disk: after a failed write-back the two can differ.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn FileHandle>>;
    /// Creates an empty file of mode [`FILE_MODE`], in place of any earlier one of that name.
    fn create(&self, path: &Path) -> io::Result<Arc<dyn FileHandle>>;
    /// Returns whether a file of that name exists.
    fn exists(&self, path: &Path) -> io::Result<bool>;
    /// Gives a file another name, in place of any earlier one of that name.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file; that it does not exist is no error.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Makes the entries of a directory durable.
    fn sync_directory(&self, path: &Path) -> io::Result<()>;
}

/// The store's operations on an open file.
pub(crate) trait FileHandle: Debug + Send + Sync {
    /// Its length in bytes.
    fn length(&self) -> io::Result<u64>;
    /// Fills `out` from `offset`, or fails.
    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()>;
    /// Writes all of `bytes` at `offset`, or fails after some of them.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// Reserves room on the disk for everything up to `length` and makes the file that long if it
    /// is shorter. Content does not change.
    fn allocate(&self, length: u64) -> io::Result<()>;
    /// Cuts the file off at `length`.
    fn truncate(&self, length: u64) -> io::Result<()>;
    /// Makes content and length durable.
    fn sync(&self) -> io::Result<()>;
}
