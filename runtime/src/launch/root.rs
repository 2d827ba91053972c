//! Paths inside a container's root, opened and made without ever leaving it. Does not allocate.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::{Mode, mkdirat};

use crate::sys::mount::open_in_root;

/// What a mount point has to be.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Directory,
    File,
}

/// Opens `path` as a place to mount on; makes it, and directories above it, when missing.
pub(super) fn target(root: BorrowedFd<'_>, path: &CStr, kind: Kind) -> nix::Result<OwnedFd> {
    match open_in_root(root, path, libc::O_PATH, 0) {
        Err(Errno::ENOENT) => {}
        other => return other,
    }
    let (parent, name) = parent(root, path)?;
    let name = name.as_c_str()?;
    match kind {
        Kind::Directory => match mkdirat(&parent, name, Mode::from_bits_truncate(0o755)) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(errno) => return Err(errno),
        },
        Kind::File => {
            let flags = OFlag::O_CREAT
                | OFlag::O_EXCL
                | OFlag::O_NOFOLLOW
                | OFlag::O_CLOEXEC
                | OFlag::O_WRONLY;
            match openat(&parent, name, flags, Mode::from_bits_truncate(0o644)) {
                Ok(_) | Err(Errno::EEXIST) => {}
                Err(errno) => return Err(errno),
            }
        }
    }
    open_in_root(root, path, libc::O_PATH, 0)
}

/// The last component of a path, copied to the stack.
pub(super) struct Name {
    bytes: [u8; 256],
}

impl Name {
    pub fn as_c_str(&self) -> nix::Result<&CStr> {
        CStr::from_bytes_until_nul(&self.bytes).map_err(|_| Errno::ENAMETOOLONG)
    }
}

/// Opens the directory that `path` lies in, making what is missing; returns it with the last
/// component's name.
pub(super) fn parent(root: BorrowedFd<'_>, path: &CStr) -> nix::Result<(OwnedFd, Name)> {
    let bytes = path.to_bytes();
    let mut prefix = [0_u8; libc::PATH_MAX as usize];
    if bytes.len() >= prefix.len() {
        return Err(Errno::ENAMETOOLONG);
    }
    let mut directory = open_in_root(root, c".", libc::O_PATH | libc::O_DIRECTORY, 0)?;
    let mut start = 0;
    loop {
        let end = bytes[start..].iter().position(|&b| b == b'/').map(|at| start + at);
        let component = &bytes[start..end.unwrap_or(bytes.len())];
        let mut name = Name { bytes: [0; 256] };
        if component.len() >= name.bytes.len() {
            return Err(Errno::ENAMETOOLONG);
        }
        name.bytes[..component.len()].copy_from_slice(component);
        let Some(end) = end else { return Ok((directory, name)) };
        prefix[..end].copy_from_slice(&bytes[..end]);
        prefix[end] = 0;
        let so_far = CStr::from_bytes_until_nul(&prefix).map_err(|_| Errno::ENAMETOOLONG)?;
        let flags = libc::O_PATH | libc::O_DIRECTORY;
        directory = match open_in_root(root, so_far, flags, 0) {
            Err(Errno::ENOENT) => {
                match mkdirat(directory.as_fd(), name.as_c_str()?, Mode::from_bits_truncate(0o755))
                {
                    Ok(()) | Err(Errno::EEXIST) => {}
                    Err(errno) => return Err(errno),
                }
                open_in_root(root, so_far, flags, 0)?
            }
            other => other?,
        };
        start = end + 1;
    }
}
