//! Waiting for something to become true, with a bound.

use std::time::{Duration, Instant};

/// Polls until `probe` returns something; panics after `seconds`.
pub fn eventually<T>(seconds: u64, what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(seconds);
    loop {
        if let Some(value) = probe() {
            return value;
        }
        assert!(Instant::now() < deadline, "{what}: not within {seconds} s");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Polls until `probe` is true; panics after `seconds`.
pub fn within(seconds: u64, what: &str, mut probe: impl FnMut() -> bool) {
    eventually(seconds, what, || probe().then_some(()));
}
