//! The seam to the kernel: system calls that neither `std` nor `nix` offer safely.
//!
//! This is the only module of the crate with `unsafe` code. Every function is a thin wrapper: no
//! allocation, no lock, no logging, so that all of them may be called between clone and exec.

#![allow(unsafe_code)]

pub mod bpf;
pub mod clone;
pub mod dirent;
pub mod inode;
pub mod memory;
pub mod mount;
pub mod process;
pub mod scheduling;
pub mod tty;

use nix::errno::Errno;

/// Turns the result of a raw system call into a `Result`.
fn check(result: libc::c_long) -> nix::Result<libc::c_long> {
    if result < 0 { Err(Errno::last()) } else { Ok(result) }
}

/// Takes ownership of a descriptor that came in a control message.
pub fn own(fd: std::os::fd::RawFd) -> std::os::fd::OwnedFd {
    use std::os::fd::FromRawFd as _;
    // SAFETY: the kernel has put this descriptor into our table when it delivered the message, and
    // the caller passes each one on once.
    unsafe { std::os::fd::OwnedFd::from_raw_fd(fd) }
}

/// A second descriptor for one of the standard streams that the process was started with.
pub fn inherited(fd: std::os::fd::RawFd) -> std::io::Result<std::os::fd::OwnedFd> {
    // SAFETY: descriptors 0 to 2 stay open for as long as the process lives.
    unsafe { std::os::fd::BorrowedFd::borrow_raw(fd) }.try_clone_to_owned()
}
