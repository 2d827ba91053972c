//! Jumps of the machine's clock, which timers that count elapsed time do not see: the clock was
//! set, or the machine has slept.

use std::io;
use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use tokio::io::unix::AsyncFd;
use tokio_util::sync::CancellationToken;

/// Calls `jumped` whenever the clock jumps, until `token` is cancelled.
pub async fn on_jump(token: CancellationToken, jumped: impl Fn()) {
    tokio::select! {
        () = token.cancelled() => {}
        outcome = follow(jumped) => {
            if let Err(error) = outcome {
                tracing::warn!(%error, "jumps of the clock are not noticed");
                token.cancelled().await;
            }
        }
    }
}

async fn follow(jumped: impl Fn()) -> io::Result<()> {
    let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
    let timer = TimerFd::new(ClockId::CLOCK_REALTIME, flags)?;
    // An owned descriptor is what the replacement asks for, but it is an unsafe function.
    #[allow(deprecated)]
    let events = AsyncFd::new(timer.as_fd().try_clone_to_owned()?)?;
    loop {
        // Never due; what matters is that it is cancelled.
        let never = Expiration::OneShot(TimeSpec::new(i64::MAX / 4, 0));
        let cancel =
            TimerSetTimeFlags::TFD_TIMER_ABSTIME | TimerSetTimeFlags::TFD_TIMER_CANCEL_ON_SET;
        timer.set(never, cancel)?;
        let mut ready = events.readable().await?;
        match nix::unistd::read(timer.as_fd(), &mut [0; 8]) {
            Err(Errno::EAGAIN) => {}
            Ok(_) | Err(Errno::ECANCELED) => jumped(),
            Err(other) => return Err(other.into()),
        }
        ready.clear_ready();
    }
}
