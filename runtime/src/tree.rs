//! Walks over directory trees that a tenant made: iterative, with a bounded number of open
//! descriptors, by descriptor instead of by path, and never through a symbolic link or into
//! another mount.

mod permit;
mod remove;
mod usage;
mod walk;

use std::ffi::CStr;
use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};

pub use remove::remove;
pub use usage::{Usage, usage};
pub use walk::{Visitor, walk};

/// Opens the directory `name` in `parent` for reading.
///
/// Fails with `EXDEV` where something is mounted on it, and with `ENOTDIR` or `ELOOP` where it is
/// something else.
fn open_directory(parent: impl AsFd, name: &CStr) -> nix::Result<OwnedFd> {
    let how = OpenHow::new()
        .flags(
            OFlag::O_RDONLY
                | OFlag::O_DIRECTORY
                | OFlag::O_NOFOLLOW
                | OFlag::O_NONBLOCK
                | OFlag::O_CLOEXEC,
        )
        .resolve(
            ResolveFlag::RESOLVE_BENEATH
                | ResolveFlag::RESOLVE_NO_SYMLINKS
                | ResolveFlag::RESOLVE_NO_XDEV,
        );
    loop {
        match openat2(parent.as_fd(), name, how) {
            // A rename at the same time; the kernel wants the call again.
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            other => return other,
        }
    }
}

#[cfg(test)]
mod permit_tests;
#[cfg(test)]
mod tests;
