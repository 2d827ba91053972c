//! The scheduler of the kernel.

use std::mem::size_of;
use std::time::Duration;

use nix::errno::Errno;

use super::check;

/// The shortest slice that the kernel takes for a thread (`kernel/sched/syscalls.c`).
const SHORT_SLICE: Duration = Duration::from_micros(100);
/// The niceness of a thread that is to run first: ten times the weight of others.
const FIRST_NICENESS: i32 = -10;

/// Has the kernel run the calling thread as soon as it wakes, before threads that compute: by short
/// slices, since by default another keeps the processor for a slice of milliseconds, and by its
/// niceness, where that is allowed (CAP_SYS_NICE). Threads and processes that it starts have the
/// defaults again. Kernels before Linux 6.12 know no slices of threads.
pub fn run_first() -> nix::Result<()> {
    // SAFETY: takes two numbers.
    let niceness = unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) };
    match set_short_slices(niceness.min(FIRST_NICENESS)) {
        Err(Errno::EPERM | Errno::EACCES) => set_short_slices(niceness),
        other => other,
    }
}

fn set_short_slices(niceness: i32) -> nix::Result<()> {
    let attributes = libc::sched_attr {
        size: size_of::<libc::sched_attr>() as u32,
        sched_policy: libc::SCHED_OTHER as u32,
        sched_flags: libc::SCHED_FLAG_RESET_ON_FORK as u64,
        sched_nice: niceness,
        sched_priority: 0,
        sched_runtime: SHORT_SLICE.as_nanos() as u64,
        sched_deadline: 0,
        sched_period: 0,
    };
    // SAFETY: the kernel reads the attributes, whose size they hold, before the call returns.
    check(unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &attributes, 0) })?;
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Slice and niceness of the calling thread, as the kernel has them.
    fn mine() -> (Duration, i32) {
        // SAFETY: all of its fields are numbers.
        let mut attributes: libc::sched_attr = unsafe { std::mem::zeroed() };
        let size = size_of::<libc::sched_attr>();
        // SAFETY: the kernel writes at most `size` bytes before the call returns.
        let read =
            unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attributes, size, 0) };
        check(read).unwrap();
        (Duration::from_nanos(attributes.sched_runtime), attributes.sched_nice)
    }

    #[test]
    fn threads_that_are_started_have_the_default() {
        std::thread::spawn(|| {
            let (slice, niceness) = mine();
            run_first().unwrap();
            // Kernels that know no slices of threads say zero.
            if slice > Duration::ZERO {
                assert_eq!(mine().0, SHORT_SLICE);
            }
            if nix::unistd::geteuid().is_root() {
                assert_eq!(mine().1, FIRST_NICENESS);
            }
            assert_eq!(std::thread::spawn(mine).join().unwrap(), (slice, niceness));
        })
        .join()
        .unwrap();
    }
}
