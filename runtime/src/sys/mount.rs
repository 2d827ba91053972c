//! The mount API of Linux 5.2 and later, and path resolution confined to a root.

use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use super::check;

/// `MOUNT_ATTR_*` bits and propagation to set on a mount.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    /// Bits to set.
    pub set: u64,
    /// Bits to clear.
    pub clear: u64,
    /// `MS_PRIVATE`, `MS_SLAVE`, `MS_SHARED`, `MS_UNBINDABLE` or 0 for no change.
    pub propagation: u64,
    /// Whether mounts below are changed too.
    pub recursive: bool,
}

/// The current directory as a base for relative paths.
pub const CWD: BorrowedFd<'static> = {
    // SAFETY: AT_FDCWD is not a descriptor that could be closed; the kernel knows its meaning.
    unsafe { BorrowedFd::borrow_raw(libc::AT_FDCWD) }
};

fn owned(fd: libc::c_long) -> OwnedFd {
    // SAFETY: the kernel has just returned this descriptor to us and to nobody else.
    unsafe { OwnedFd::from_raw_fd(fd as RawFd) }
}

/// Opens the mount at `path` under `dir` as a detached copy.
pub fn clone_tree(dir: BorrowedFd<'_>, path: &CStr, recursive: bool) -> nix::Result<OwnedFd> {
    let mut flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC | libc::AT_EMPTY_PATH as u32;
    if recursive {
        flags |= libc::AT_RECURSIVE as u32;
    }
    // SAFETY: `path` is NUL-terminated and outlives the call.
    check(unsafe { libc::syscall(libc::SYS_open_tree, dir.as_raw_fd(), path.as_ptr(), flags) })
        .map(owned)
}

/// Attaches the detached mount `from` at the place that `to` refers to.
pub fn attach(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> nix::Result<()> {
    let flags = libc::MOVE_MOUNT_F_EMPTY_PATH | libc::MOVE_MOUNT_T_EMPTY_PATH;
    // SAFETY: both paths are the empty string.
    check(unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            from.as_raw_fd(),
            c"".as_ptr(),
            to.as_raw_fd(),
            c"".as_ptr(),
            flags,
        )
    })
    .map(drop)
}

/// A filesystem being configured.
pub struct Filesystem(OwnedFd);

impl Filesystem {
    /// Starts configuring a filesystem of type `name`.
    pub fn open(name: &CStr) -> nix::Result<Self> {
        // SAFETY: `name` is NUL-terminated and outlives the call.
        check(unsafe { libc::syscall(libc::SYS_fsopen, name.as_ptr(), libc::FSOPEN_CLOEXEC) })
            .map(|fd| Self(owned(fd)))
    }

    /// Sets `key` to `value`, or the flag `key` when there is no value.
    pub fn set(&self, key: &CStr, value: Option<&CStr>) -> nix::Result<()> {
        let (command, value) = match value {
            Some(value) => (libc::FSCONFIG_SET_STRING, value.as_ptr()),
            None => (libc::FSCONFIG_SET_FLAG, std::ptr::null()),
        };
        // SAFETY: `key` and `value` are NUL-terminated and outlive the call; a flag takes NULL.
        check(unsafe {
            libc::syscall(libc::SYS_fsconfig, self.0.as_raw_fd(), command, key.as_ptr(), value, 0)
        })
        .map(drop)
    }

    /// Sets `key` to what a descriptor refers to.
    pub fn set_fd(&self, key: &CStr, fd: BorrowedFd<'_>) -> nix::Result<()> {
        // SAFETY: `key` is NUL-terminated and outlives the call; this command takes no value.
        check(unsafe {
            libc::syscall(
                libc::SYS_fsconfig,
                self.0.as_raw_fd(),
                libc::FSCONFIG_SET_FD,
                key.as_ptr(),
                std::ptr::null::<libc::c_char>(),
                fd.as_raw_fd(),
            )
        })
        .map(drop)
    }

    /// Makes the filesystem and a detached mount of it.
    pub fn mount(self, attributes: u64) -> nix::Result<OwnedFd> {
        // SAFETY: this command takes neither key nor value.
        check(unsafe {
            libc::syscall(
                libc::SYS_fsconfig,
                self.0.as_raw_fd(),
                libc::FSCONFIG_CMD_CREATE,
                std::ptr::null::<libc::c_char>(),
                std::ptr::null::<libc::c_char>(),
                0,
            )
        })?;
        // SAFETY: the call takes integers only.
        check(unsafe {
            libc::syscall(
                libc::SYS_fsmount,
                self.0.as_raw_fd(),
                libc::FSMOUNT_CLOEXEC,
                attributes as libc::c_uint,
            )
        })
        .map(owned)
    }
}

/// Changes the attributes of the mount that `mount` refers to.
pub fn set_attributes(mount: BorrowedFd<'_>, attributes: Attributes) -> nix::Result<()> {
    // SAFETY: `mount_attr` is a plain structure of integers.
    let mut attr: libc::mount_attr = unsafe { std::mem::zeroed() };
    attr.attr_set = attributes.set;
    attr.attr_clr = attributes.clear;
    attr.propagation = attributes.propagation;
    let mut flags = libc::AT_EMPTY_PATH;
    if attributes.recursive {
        flags |= libc::AT_RECURSIVE;
    }
    // SAFETY: the path is the empty string; `attr` is valid for its whole size.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attr,
            size_of::<libc::mount_attr>(),
        )
    })
    .map(drop)
}

/// Opens `path` with `root` as its root: no symbolic link, `..` or magic link leads out of it.
pub fn open_in_root(
    root: BorrowedFd<'_>,
    path: &CStr,
    flags: libc::c_int,
    mode: u32,
) -> nix::Result<OwnedFd> {
    open_resolving(root, path, flags, mode, libc::RESOLVE_IN_ROOT | libc::RESOLVE_NO_MAGICLINKS)
}

/// Opens `path` below `root` if no part of it is a symbolic link; `ELOOP` otherwise.
pub fn open_beneath(root: BorrowedFd<'_>, path: &CStr, flags: libc::c_int) -> nix::Result<OwnedFd> {
    open_resolving(root, path, flags, 0, libc::RESOLVE_BENEATH | libc::RESOLVE_NO_SYMLINKS)
}

fn open_resolving(
    root: BorrowedFd<'_>,
    path: &CStr,
    flags: libc::c_int,
    mode: u32,
    resolve: u64,
) -> nix::Result<OwnedFd> {
    // SAFETY: `open_how` is a plain structure of integers.
    let mut how: libc::open_how = unsafe { std::mem::zeroed() };
    how.flags = (flags | libc::O_CLOEXEC) as u64;
    how.mode = u64::from(mode);
    how.resolve = resolve;
    loop {
        // SAFETY: `path` is NUL-terminated and `how` valid for its whole size.
        let result = check(unsafe {
            libc::syscall(
                libc::SYS_openat2,
                root.as_raw_fd(),
                path.as_ptr(),
                &raw const how,
                size_of::<libc::open_how>(),
            )
        });
        match result {
            // A rename raced with the resolution; the kernel asks us to try again.
            Err(nix::errno::Errno::EAGAIN) => {}
            other => return other.map(owned),
        }
    }
}

/// The old mount call, for what the new one cannot say.
pub fn mount_by_path(
    source: &CStr,
    target: &CStr,
    kind: &CStr,
    flags: u64,
    data: &CStr,
) -> nix::Result<()> {
    // SAFETY: all strings are NUL-terminated and outlive the call.
    check(libc::c_long::from(unsafe {
        libc::mount(source.as_ptr(), target.as_ptr(), kind.as_ptr(), flags, data.as_ptr().cast())
    }))
    .map(drop)
}

/// Makes every mount of this namespace private or a slave, so that nothing leaks out of it.
pub fn isolate_all(propagation: u64) -> nix::Result<()> {
    // SAFETY: the strings are NUL-terminated; source, type and data may be NULL for this flag.
    check(libc::c_long::from(unsafe {
        libc::mount(
            std::ptr::null(),
            c"/".as_ptr(),
            std::ptr::null(),
            propagation | libc::MS_REC,
            std::ptr::null(),
        )
    }))
    .map(drop)
}

/// Makes the current directory the root of the mount namespace and drops the old root.
pub fn pivot_to_cwd() -> nix::Result<()> {
    // SAFETY: both paths are NUL-terminated.
    check(unsafe { libc::syscall(libc::SYS_pivot_root, c".".as_ptr(), c".".as_ptr()) })?;
    // The old root is now stacked on the new one; slaves forward no unmount to it.
    // SAFETY: the path is NUL-terminated.
    check(libc::c_long::from(unsafe { libc::umount2(c".".as_ptr(), libc::MNT_DETACH) }))?;
    // SAFETY: the path is NUL-terminated.
    check(libc::c_long::from(unsafe { libc::chdir(c"/".as_ptr()) })).map(drop)
}
