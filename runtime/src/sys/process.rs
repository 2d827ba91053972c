//! Credentials, namespaces, limits and execution of the calling process.

use std::ffi::{CStr, CString};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;

use super::check;

/// A pointer array as `execve` wants it, kept together with the strings it points to.
pub struct StringArray {
    _strings: Vec<CString>,
    pointers: Vec<*const libc::c_char>,
}

impl StringArray {
    /// Prepares the array; this allocates, so it is done before clone.
    pub fn new(strings: Vec<CString>) -> Self {
        let pointers =
            strings.iter().map(|s| s.as_ptr()).chain(std::iter::once(std::ptr::null())).collect();
        Self { _strings: strings, pointers }
    }
}

/// Replaces the program of this process; returns only on failure.
pub fn execute(program: &CStr, args: &StringArray, env: &StringArray) -> Errno {
    // SAFETY: both arrays end with NULL and point to NUL-terminated strings that live in them.
    unsafe { libc::execve(program.as_ptr(), args.pointers.as_ptr(), env.pointers.as_ptr()) };
    Errno::last()
}

/// Ends this process at once, without running anything of the parent's.
pub fn leave(code: i32) -> ! {
    // SAFETY: `_exit` never returns and touches no memory.
    unsafe { libc::_exit(code) }
}

/// Joins the namespaces that `fd` (a namespace or, from 5.8, a pidfd) stands for.
pub fn join_namespaces(fd: BorrowedFd<'_>, flags: i32) -> nix::Result<()> {
    // SAFETY: the call takes integers only.
    check(libc::c_long::from(unsafe { libc::setns(fd.as_raw_fd(), flags) })).map(drop)
}

/// Leaves namespaces for new ones.
pub fn unshare(flags: i32) -> nix::Result<()> {
    // SAFETY: the call takes integers only.
    check(libc::c_long::from(unsafe { libc::unshare(flags) })).map(drop)
}

/// A descriptor for a process, close-on-exec.
pub fn pidfd(pid: i32) -> nix::Result<OwnedFd> {
    // SAFETY: the call takes integers only.
    let fd = check(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
    // SAFETY: the kernel has just returned this descriptor to us and to nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// Sends a signal to the process that a descriptor of [`pidfd`] stands for.
pub fn signal(process: BorrowedFd<'_>, signal: i32) -> nix::Result<()> {
    let none: *const libc::siginfo_t = std::ptr::null();
    // SAFETY: no information is passed with the signal; the rest are integers.
    check(unsafe {
        libc::syscall(libc::SYS_pidfd_send_signal, process.as_raw_fd(), signal, none, 0)
    })
    .map(drop)
}

/// Marks every descriptor from `first` on to be closed by exec.
pub fn close_on_exec_from(first: u32) -> nix::Result<()> {
    // SAFETY: the call takes integers only.
    check(unsafe {
        libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC)
    })
    .map(drop)
}

/// Closes every descriptor from `first` on.
pub fn close_from(first: u32) -> nix::Result<()> {
    // SAFETY: the caller gives up all descriptors from `first` on; it is about to wait for ever
    // and uses none of them.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) }).map(drop)
}

/// Closes every descriptor from 3 on except two, which are none of the standard streams.
pub fn close_except(kept: [RawFd; 2]) -> nix::Result<()> {
    let [low, high] = [kept[0].min(kept[1]) as u32, kept[0].max(kept[1]) as u32];
    for (first, last) in [(3, low - 1), (low + 1, high - 1), (high + 1, u32::MAX)] {
        if first <= last {
            // SAFETY: the caller is about to execute another program and uses no other descriptor.
            check(unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) })?;
        }
    }
    Ok(())
}

/// Gives this process a session keyring of its own; on a kernel without keyrings there is none.
pub fn new_session_keyring() -> nix::Result<()> {
    const JOIN_SESSION_KEYRING: libc::c_long = 1;
    let no_name = std::ptr::null::<libc::c_char>();
    // SAFETY: without a name the call makes an anonymous keyring.
    match check(unsafe { libc::syscall(libc::SYS_keyctl, JOIN_SESSION_KEYRING, no_name) }) {
        Ok(_) | Err(Errno::ENOSYS) => Ok(()),
        Err(errno) => Err(errno),
    }
}

/// One of the standard streams of a process that is about to execute its program.
pub fn standard_stream(number: RawFd) -> BorrowedFd<'static> {
    // SAFETY: 0 to 2 were opened by `duplicate` and stay open until the program is executed.
    unsafe { BorrowedFd::borrow_raw(number) }
}

/// Makes `to` a copy of `from` that survives exec.
pub fn duplicate(from: BorrowedFd<'_>, to: RawFd) -> nix::Result<()> {
    if from.as_raw_fd() == to {
        // dup2 onto itself would leave close-on-exec set.
        // SAFETY: the call takes integers only.
        return check(libc::c_long::from(unsafe { libc::fcntl(to, libc::F_SETFD, 0) })).map(drop);
    }
    // SAFETY: only descriptors 0 to 2 are ever replaced, which nobody owns in a child.
    check(libc::c_long::from(unsafe { libc::dup2(from.as_raw_fd(), to) })).map(drop)
}

/// Makes an open descriptor, which keeps its number and its owner, refer to what `from` does.
pub fn replace(from: BorrowedFd<'_>, over: BorrowedFd<'_>) -> nix::Result<()> {
    // SAFETY: the call takes integers only; whoever owns `over` still owns an open descriptor.
    let result = unsafe { libc::dup3(from.as_raw_fd(), over.as_raw_fd(), libc::O_CLOEXEC) };
    check(libc::c_long::from(result)).map(drop)
}

/// Sets group, supplementary groups and user, in this order, by system calls of this thread.
pub fn set_ids(uid: u32, gid: u32, groups: &[u32], keep_groups: bool) -> nix::Result<()> {
    if !keep_groups {
        // SAFETY: pointer and length describe the slice.
        check(unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) })?;
    }
    // SAFETY: the call takes integers only.
    check(unsafe { libc::syscall(libc::SYS_setresgid, gid, gid, gid) })?;
    // SAFETY: the call takes integers only.
    check(unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) }).map(drop)
}

/// One number to `prctl`.
pub fn control(option: i32, argument: u64) -> nix::Result<()> {
    // SAFETY: the options used in this crate take integers only.
    check(libc::c_long::from(unsafe { libc::prctl(option, argument, 0, 0, 0) })).map(drop)
}

/// Adds one capability to the ambient set.
pub fn raise_ambient(capability: u32) -> nix::Result<()> {
    let raise = libc::PR_CAP_AMBIENT_RAISE as u64;
    // SAFETY: the call takes integers only.
    check(libc::c_long::from(unsafe {
        libc::prctl(libc::PR_CAP_AMBIENT, raise, u64::from(capability), 0, 0)
    }))
    .map(drop)
}

/// Names the calling process in `ps`.
pub fn set_name(name: &CStr) {
    // SAFETY: the string is NUL-terminated; the kernel copies at most 16 bytes.
    unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr() as u64, 0, 0, 0) };
}

/// The highest capability this kernel knows, found by asking for each.
pub fn last_capability() -> u32 {
    // SAFETY: the call takes integers only.
    (0..64)
        .take_while(|&cap| unsafe { libc::prctl(libc::PR_CAPBSET_READ, cap, 0, 0, 0) } >= 0)
        .count() as u32
        - 1
}

/// Sets the effective, permitted and inheritable capability sets of this thread.
pub fn set_capabilities(effective: u64, permitted: u64, inheritable: u64) -> nix::Result<()> {
    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    #[repr(C)]
    struct Data {
        effective: u32,
        permitted: u32,
        inheritable: u32,
    }
    const VERSION_3: u32 = 0x2008_0522;
    let header = Header { version: VERSION_3, pid: 0 };
    let half = |shift: u32| Data {
        effective: (effective >> shift) as u32,
        permitted: (permitted >> shift) as u32,
        inheritable: (inheritable >> shift) as u32,
    };
    let data = [half(0), half(32)];
    // SAFETY: version 3 reads a header and two data structures, which are laid out as in C.
    check(unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) }).map(drop)
}

/// The permitted capability set of this thread.
pub fn permitted_capabilities() -> nix::Result<u64> {
    let header = [0x2008_0522_u32, 0];
    let mut data = [0_u32; 6];
    // SAFETY: version 3 reads a header of two words and writes two structures of three words.
    check(unsafe { libc::syscall(libc::SYS_capget, header.as_ptr(), data.as_mut_ptr()) })?;
    Ok(u64::from(data[1]) | u64::from(data[4]) << 32)
}

/// One instruction of a seccomp filter; the same layout as the kernel's `sock_filter`.
pub type Instruction = libc::sock_filter;

/// Puts a seccomp filter on this process.
pub fn set_seccomp(program: &[Instruction], flags: u64) -> nix::Result<()> {
    let program = libc::sock_fprog {
        len: u16::try_from(program.len()).map_err(|_| Errno::E2BIG)?,
        filter: program.as_ptr().cast_mut(),
    };
    // SAFETY: `program` describes the slice, which the kernel only reads.
    check(unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program)
    })
    .map(drop)
}

/// Unblocks all signals and gives them their default actions, as a fresh program expects.
pub fn reset_signals() {
    // SAFETY: zeroed `sigaction` means the default action, a zeroed mask an empty one; the calls
    // fail for signals that cannot be changed, which is as it should be.
    unsafe {
        let action: libc::sigaction = std::mem::zeroed();
        for signal in 1..=64 {
            libc::sigaction(signal, &raw const action, std::ptr::null_mut());
        }
        let mut mask: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut mask);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const mask, std::ptr::null_mut());
    }
}

/// Sets one resource limit.
pub fn set_limit(resource: u32, soft: u64, hard: u64) -> nix::Result<()> {
    let limit = libc::rlimit { rlim_cur: soft, rlim_max: hard };
    // SAFETY: `limit` is valid; the old limit is not asked for.
    check(libc::c_long::from(unsafe {
        libc::prlimit(0, resource as _, &raw const limit, std::ptr::null_mut())
    }))
    .map(drop)
}

/// Sets the file mode creation mask.
pub fn set_umask(mask: u32) {
    // SAFETY: the call takes an integer and cannot fail.
    unsafe { libc::umask(mask) };
}

/// Whether the current directory lies inside the root of this process.
///
/// A directory reached through a leaked descriptor reads as `(unreachable)/…` (CVE-2024-21626).
pub fn cwd_is_inside() -> bool {
    let mut buffer = [0_u8; libc::PATH_MAX as usize];
    // SAFETY: pointer and length describe the buffer; the raw call does not allocate.
    let length = unsafe { libc::syscall(libc::SYS_getcwd, buffer.as_mut_ptr(), buffer.len()) };
    length > 0 && buffer[0] == b'/'
}

/// Sets the domain name of the UTS namespace.
pub fn set_domain_name(name: &CStr) -> nix::Result<()> {
    // SAFETY: pointer and length describe the string.
    check(libc::c_long::from(unsafe { libc::setdomainname(name.as_ptr(), name.count_bytes()) }))
        .map(drop)
}

/// Reaps orphans for ever, as the first process of a PID namespace must.
pub fn reap_forever() -> ! {
    loop {
        let mut status = 0;
        // SAFETY: `status` is a valid place for an int.
        if unsafe { libc::waitpid(-1, &raw mut status, libc::__WALL) } < 0 {
            // No child yet: sleep until one is given to us. SIGCHLD is blocked, so it stays
            // pending and cannot be missed between the two calls.
            // SAFETY: the set and the information are valid places.
            unsafe {
                let mut set: libc::sigset_t = std::mem::zeroed();
                libc::sigemptyset(&raw mut set);
                libc::sigaddset(&raw mut set, libc::SIGCHLD);
                let mut signal = 0;
                libc::sigwait(&raw const set, &raw mut signal);
            }
        }
    }
}

/// Sends a signal by number; real-time signals have no name.
pub fn send_signal(pid: i32, signal: i32) -> nix::Result<()> {
    // SAFETY: the call takes integers only.
    check(libc::c_long::from(unsafe { libc::kill(pid, signal) })).map(drop)
}
