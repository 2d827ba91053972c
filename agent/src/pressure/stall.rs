//! Pressure stall information: the kernel says when processes wait for memory (`/proc/pressure`).

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::sync::mpsc;

/// Waits of 150 ms within two seconds are worth a look. (Two seconds is what the kernel allows to
/// everybody.)
const TRIGGER: &[u8] = b"some 150000 2000000\0";
/// Stalls that nobody has looked at yet; more than one say nothing new.
const UNSEEN: usize = 1;

/// Arms a trigger on memory stalls: one message per stall, at most one per window. Kernels without
/// the feature refuse.
///
/// A thread of its own sleeps in `poll`, since the trigger speaks through `POLLPRI` alone.
pub fn memory_stalls() -> io::Result<mpsc::Receiver<()>> {
    let mut file = File::options().read(true).write(true).open("/proc/pressure/memory")?;
    file.write_all(TRIGGER)?;
    let (sender, receiver) = mpsc::channel(UNSEEN);
    std::thread::Builder::new().name("memory-stalls".into()).spawn(move || {
        loop {
            let mut waiting = [PollFd::new(file.as_fd(), PollFlags::POLLPRI)];
            match poll(&mut waiting, PollTimeout::NONE) {
                Ok(_) => {}
                Err(Errno::EINTR) => continue,
                Err(_) => return,
            }
            let failed = waiting[0].revents().is_some_and(|e| e.contains(PollFlags::POLLERR));
            if failed || matches!(sender.try_send(()), Err(mpsc::error::TrySendError::Closed(()))) {
                return;
            }
        }
    })?;
    Ok(receiver)
}
