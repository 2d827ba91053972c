//! Runs a loop that has ended again: after a delay that grows while it keeps ending.

use std::any::Any;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures::FutureExt;
use tokio::time::{Instant, sleep};

/// The delay before the first restart; it doubles with every further one.
pub const FIRST_RESTART_DELAY: Duration = Duration::from_secs(1);
/// The longest delay before a restart.
pub const RESTART_DELAY_MAX: Duration = Duration::from_secs(30);
/// A loop that ran this long before it ended starts over with the first delay.
pub const QUIET_PERIOD: Duration = Duration::from_secs(60);

/// The delays between the restarts of one loop.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backoff {
    restarts: u32,
}

impl Backoff {
    /// Returns the delay before the next start of a loop that ended after it ran for `ran`.
    pub fn delay(&mut self, ran: Duration) -> Duration {
        if ran >= QUIET_PERIOD {
            self.restarts = 0;
        }
        let factor = 1_u32.checked_shl(self.restarts).unwrap_or(u32::MAX);
        self.restarts = self.restarts.saturating_add(1);
        FIRST_RESTART_DELAY.saturating_mul(factor).min(RESTART_DELAY_MAX)
    }
}

/// Runs a loop that is not meant to end: when it ends or panics, that is logged under `name` and the
/// loop that `make` returns next runs after a delay.
pub async fn keep_running<F: Future<Output = ()>>(name: &str, make: impl FnMut() -> F) {
    keep_running_with(name, make, sleep).await;
}

/// The same with a clock of its own, for tests.
async fn keep_running_with<F: Future<Output = ()>, W: Future<Output = ()>>(
    name: &str,
    mut make: impl FnMut() -> F,
    wait: impl Fn(Duration) -> W,
) {
    let mut backoff = Backoff::default();
    loop {
        let started = Instant::now();
        let outcome = AssertUnwindSafe(async { make().await }).catch_unwind().await;
        let delay = backoff.delay(started.elapsed());
        let reason = match outcome {
            Ok(()) => "ended".to_owned(),
            Err(panic) => format!("panicked: {}", panic_text(&*panic)),
        };
        tracing::error!(name, reason, ?delay, "a loop ended; restarting it");
        wait(delay).await;
    }
}

/// Returns the text of a caught panic.
pub fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("without a text")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::{Cell, RefCell};

    #[test]
    fn backoff_doubles_up_to_its_maximum() {
        let mut backoff = Backoff::default();
        let delays: Vec<u64> = (0..8).map(|_| backoff.delay(Duration::ZERO).as_secs()).collect();
        assert_eq!(delays, [1, 2, 4, 8, 16, 30, 30, 30]);
    }

    #[test]
    fn backoff_resets_after_quiet_period() {
        let mut backoff = Backoff::default();
        for _ in 0..40 {
            backoff.delay(Duration::from_secs(59));
        }
        assert_eq!(backoff.delay(Duration::from_secs(59)), RESTART_DELAY_MAX);
        assert_eq!(backoff.delay(QUIET_PERIOD), FIRST_RESTART_DELAY);
    }

    #[test]
    fn panicking_loop_runs_again() {
        let (starts, waits) = (Cell::new(0), RefCell::new(Vec::new()));
        let body = || async {
            starts.set(starts.get() + 1);
            assert!(starts.get() > 3, "start {}", starts.get());
            std::future::pending().await
        };
        let wait = |delay: Duration| {
            waits.borrow_mut().push(delay.as_secs());
            std::future::ready(())
        };
        let endless = keep_running_with("test", body, wait);
        assert!(endless.now_or_never().is_none());
        assert_eq!((starts.get(), waits.take()), (4, vec![1, 2, 4]));
    }
}
