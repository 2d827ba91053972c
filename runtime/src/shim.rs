//! The shim: one process per sandbox that parents its containers and outlives the agent.

use std::ffi::OsString;

/// Runs the shim until its sandbox is removed; `args` are those after `coracle shim`.
///
/// Must be called before any thread is started. The result is the exit code of the process.
pub fn main(args: &[OsString]) -> i32 {
    let _ = args;
    2
}
