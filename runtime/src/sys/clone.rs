//! clone3, and what a parent may do with the child.

use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;

use super::check;

/// Linux 5.7; the constant in `libc` overflows its type.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Which side of [`clone3`] this is.
pub enum Fork {
    /// The caller; the child's process ID.
    Parent(i32),
    /// The new process.
    Child,
}

/// Creates a process with new namespaces (`CLONE_NEW…` in `flags`), on cgroup v2 directly inside
/// the cgroup whose directory is `cgroup`. The parent gets SIGCHLD when it ends.
///
/// The caller must be single-threaded: the child continues with a copy of the whole memory, and a
/// lock held by another thread would stay locked in it for ever.
pub fn clone3(flags: u64, cgroup: Option<BorrowedFd<'_>>) -> nix::Result<Fork> {
    // SAFETY: `clone_args` is a plain structure of integers for which zero means "not used".
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = flags;
    args.exit_signal = libc::SIGCHLD as u64;
    if let Some(cgroup) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = cgroup.as_raw_fd() as u64;
    }
    // SAFETY: without CLONE_VM and with a zero stack the child runs on a copy of this stack, as
    // after fork; `args` is valid for its whole size.
    let pid = check(unsafe {
        libc::syscall(libc::SYS_clone3, &raw const args, size_of::<libc::clone_args>())
    })?;
    Ok(if pid == 0 { Fork::Child } else { Fork::Parent(pid as i32) })
}

/// Creates a process that is a sibling of the caller: its parent, which gets SIGCHLD, is the
/// caller's. It starts in the PID namespace that the caller has chosen for its children.
///
/// By the old call, which seccomp profiles allow where they refuse `clone3`. The caller must be
/// single-threaded, as for [`clone3`].
pub fn fork_sibling() -> nix::Result<Fork> {
    let flags = (libc::CLONE_PARENT | libc::SIGCHLD) as libc::c_long;
    let none = 0 as libc::c_long;
    // SAFETY: without CLONE_VM and with a zero stack the child runs on a copy of this stack, as
    // after fork; no other argument is used with these flags.
    let pid = check(unsafe { libc::syscall(libc::SYS_clone, flags, none, none, none, none) })?;
    Ok(if pid == 0 { Fork::Child } else { Fork::Parent(pid as i32) })
}

/// What became of a child.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Its process ID.
    pub pid: i32,
    /// The raw wait status.
    pub status: i32,
}

/// Reaps any child that has ended; `None` when none has.
pub fn reap() -> nix::Result<Option<Ended>> {
    let mut status = 0;
    // SAFETY: `status` is a valid place for an int.
    let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG | libc::__WALL) };
    match pid {
        0 => Ok(None),
        pid if pid > 0 => Ok(Some(Ended { pid, status })),
        _ => match Errno::last() {
            Errno::ECHILD => Ok(None),
            errno => Err(errno),
        },
    }
}

/// The exit code of a raw wait status: 128 + signal when killed, and that signal.
pub fn exit_code(status: i32) -> (i32, Option<i32>) {
    if libc::WIFSIGNALED(status) {
        let signal = libc::WTERMSIG(status);
        (128 + signal, Some(signal))
    } else {
        (libc::WEXITSTATUS(status), None)
    }
}
