//! Changes of entries that flags (immutable, append only) forbid.
//!
//! A tenant with CAP_LINUX_IMMUTABLE may set these flags on its files. They are cleared on entries of
//! the tree only: never through a symbolic link, never on what is mounted on an entry, and not for
//! longer than the change where a file has other names, which may be outside the tree.

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::sys::stat::{Mode, fstat};

use crate::sys::inode::{self, Flags, permit_changes};

/// Changes an entry; if that is forbidden, once more without the flags of the entry and of
/// `directories` that forbid it. A directory that is open as a path only keeps its flags.
pub(super) fn permitted(
    directories: &[BorrowedFd<'_>],
    parent: BorrowedFd<'_>,
    name: &CStr,
    change: impl Fn() -> nix::Result<()>,
) -> nix::Result<()> {
    match change() {
        Err(Errno::EPERM) => {}
        other => return other,
    }
    let mut cleared = false;
    for directory in directories {
        cleared |= permit_changes(*directory).is_ok_and(|flags| flags.is_some());
    }
    let entry = Entry::permit(parent, name).unwrap_or(None);
    if !cleared && entry.is_none() {
        return Err(Errno::EPERM);
    }
    let result = change();
    if let Some(entry) = entry {
        entry.protect_other_names();
    }
    result
}

/// An entry whose flags were cleared.
struct Entry {
    file: OwnedFd,
    flags: Flags,
}

impl Entry {
    fn permit(parent: BorrowedFd<'_>, name: &CStr) -> nix::Result<Option<Self>> {
        let how = OpenHow::new()
            .flags(OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_XDEV);
        let found = openat2(parent, name, how)?;
        // To open a device may have effects; a symbolic link and a socket cannot be opened.
        let kind = fstat(&found)?.st_mode & libc::S_IFMT;
        if !matches!(kind, libc::S_IFREG | libc::S_IFDIR | libc::S_IFIFO) {
            return Ok(None);
        }
        // The very entry that was looked at, whatever has its name by now.
        let same = format!("/proc/self/fd/{}", found.as_raw_fd());
        let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
        let file = open(same.as_str(), flags, Mode::empty())?;
        let flags = permit_changes(file.as_fd())?;
        Ok(flags.map(|flags| Self { file, flags }))
    }

    /// Sets the flags again on a file that has names left.
    fn protect_other_names(self) {
        let left = fstat(&self.file);
        if left.is_ok_and(|f| f.st_mode & libc::S_IFMT != libc::S_IFDIR && f.st_nlink > 0) {
            let _ = inode::set(self.file.as_fd(), self.flags);
        }
    }
}
