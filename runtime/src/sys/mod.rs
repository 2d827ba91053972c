//! The seam to the kernel: system calls that neither `std` nor `nix` offer safely.
//!
//! This is the only module of the crate with `unsafe` code. Every function is a thin wrapper: no
//! allocation, no lock, no logging, so that all of them may be called between clone and exec.

#![allow(unsafe_code)]

pub mod clone;
pub mod memory;
pub mod mount;
pub mod process;
pub mod tty;

use nix::errno::Errno;

/// Turns the result of a raw system call into a `Result`.
fn check(result: libc::c_long) -> nix::Result<libc::c_long> {
    if result < 0 { Err(Errno::last()) } else { Ok(result) }
}
