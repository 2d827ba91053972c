//! The disk space that a tree takes.

use std::collections::HashSet;
use std::ffi::CStr;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::Path;

use nix::sys::stat::FileStat;

use super::walk::{Visitor, walk};

/// Size of the blocks that `st_blocks` counts, in bytes.
const BLOCK_BYTES: u64 = 512;

/// The disk usage of a tree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Allocated bytes; a file with several names counts once.
    pub bytes: u64,
    /// Files, directories and other inodes, the top itself included.
    pub inodes: u64,
    /// True if everything was counted; false where the walk ended at its bound or was disturbed by
    /// renames.
    pub complete: bool,
}

/// Counts `path` and what is below it on the same mount, at most `max_entries` entries.
pub fn usage(path: &Path, max_entries: u64) -> io::Result<Usage> {
    let top = nix::sys::stat::lstat(path)?;
    let mut count = Count::default();
    count.add(&top);
    let complete = if top.st_mode & libc::S_IFMT == libc::S_IFDIR {
        walk(path, max_entries, &mut count)?
    } else {
        true
    };
    Ok(Usage { complete, ..count.usage })
}

#[derive(Default)]
struct Count {
    usage: Usage,
    /// Files with several names that were met.
    linked: HashSet<u64>,
}

impl Count {
    fn add(&mut self, stat: &FileStat) {
        let is_directory = stat.st_mode & libc::S_IFMT == libc::S_IFDIR;
        if !is_directory && stat.st_nlink > 1 && !self.linked.insert(stat.st_ino) {
            return;
        }
        self.usage.inodes += 1;
        self.usage.bytes += (stat.st_blocks as u64).saturating_mul(BLOCK_BYTES);
    }
}

impl Visitor for Count {
    fn entry(&mut self, _parent: BorrowedFd<'_>, _name: &CStr, stat: &FileStat) -> bool {
        self.add(stat);
        true
    }
}
