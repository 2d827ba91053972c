//! Flags of files that forbid changes whatever their mode says.

use std::os::fd::{AsRawFd, BorrowedFd};

use super::check;

/// `FS_IMMUTABLE_FL` and `FS_APPEND_FL`.
const FORBIDDING: libc::c_long = 0x10 | 0x20;

/// The flags that a file had before those that forbid changes were cleared.
#[derive(Clone, Copy, Debug)]
pub struct Flags(libc::c_long);

/// Clears the flags that keep a file or directory, open for reading, from being changed or removed.
/// Returns the former flags, or `None` if there was nothing to clear.
pub fn permit_changes(fd: BorrowedFd<'_>) -> nix::Result<Option<Flags>> {
    // The kernel uses an int; the request is defined with a long, which some file systems use.
    let mut flags: libc::c_long = 0;
    // SAFETY: `flags` has room for what is written, an int or a long.
    check(libc::c_long::from(unsafe {
        libc::ioctl(fd.as_raw_fd(), libc::FS_IOC_GETFLAGS, &raw mut flags)
    }))?;
    if flags & FORBIDDING == 0 {
        return Ok(None);
    }
    set(fd, Flags(flags & !FORBIDDING))?;
    Ok(Some(Flags(flags)))
}

/// Sets the flags of a file that is open for reading.
pub fn set(fd: BorrowedFd<'_>, Flags(flags): Flags) -> nix::Result<()> {
    // SAFETY: `flags` is valid and only read.
    check(libc::c_long::from(unsafe {
        libc::ioctl(fd.as_raw_fd(), libc::FS_IOC_SETFLAGS, &raw const flags)
    }))?;
    Ok(())
}
