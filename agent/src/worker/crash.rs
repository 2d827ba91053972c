//! How long a container that keeps ending has to wait for its next start.

use std::time::Duration;

use tokio::time::Instant;

/// Delay after the first restart.
pub const INITIAL: Duration = Duration::from_secs(10);
/// Longest delay.
pub const MAXIMUM: Duration = Duration::from_secs(300);
/// A container that ran this long starts over with the initial delay.
const RESET_AFTER: Duration = Duration::from_secs(600);

/// Back-off of one container: the first restart is immediate, then 10 s doubling to 5 minutes.
#[derive(Clone, Debug, Default)]
pub struct CrashBackOff {
    entry: Option<Entry>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    delay: Duration,
    updated: Instant,
}

impl CrashBackOff {
    /// When a container that ended at `finished` may start again, and the delay that holds it.
    pub fn until(&self, finished: Instant) -> Option<(Instant, Duration)> {
        let entry = self.entry?;
        if finished.saturating_duration_since(entry.updated) > RESET_AFTER {
            return None;
        }
        Some((finished + entry.delay, entry.delay))
    }

    /// Notes a restart at `now` of a container that had ended at `finished`.
    pub fn restarted(&mut self, finished: Instant, now: Instant) {
        let delay = match self.entry {
            Some(entry) if finished.saturating_duration_since(entry.updated) <= RESET_AFTER => {
                (entry.delay * 2).min(MAXIMUM)
            }
            _ => INITIAL,
        };
        self.entry = Some(Entry { delay, updated: now });
    }

    /// A back-off as it would stand after that many restarts, for adopted containers.
    pub fn after_restarts(restarts: u32, now: Instant) -> Self {
        if restarts == 0 {
            return Self::default();
        }
        let delay = (INITIAL * 2u32.pow((restarts - 1).min(5))).min(MAXIMUM);
        Self { entry: Some(Entry { delay, updated: now }) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_restart_is_immediate_then_delays_double_to_five_minutes() {
        let mut back_off = CrashBackOff::default();
        let mut now = Instant::now();
        assert!(back_off.until(now).is_none());
        back_off.restarted(now, now);
        let mut seen = Vec::new();
        for _ in 0..7 {
            let finished = now + Duration::from_secs(1);
            let (until, delay) = back_off.until(finished).expect("in back-off");
            assert_eq!(until, finished + delay);
            seen.push(delay.as_secs());
            now = until;
            back_off.restarted(finished, now);
        }
        assert_eq!(seen, [10, 20, 40, 80, 160, 300, 300]);
    }

    #[test]
    fn ten_quiet_minutes_start_over() {
        let mut back_off = CrashBackOff::default();
        let now = Instant::now();
        back_off.restarted(now, now);
        back_off.restarted(now, now);
        let finished = now + Duration::from_secs(601);
        assert!(back_off.until(finished).is_none());
        back_off.restarted(finished, finished);
        assert_eq!(back_off.until(finished).expect("entry").1, INITIAL);
    }
}
