//! Waiting for something to become true, with a bound.

use std::time::{Duration, Instant};

/// How long what is waited for is looked at often; asking that often for minutes, all tests
/// together would leave the nodes no processor.
const SOON: Duration = Duration::from_secs(10);

/// The variable with the factor of all bounds: an emulated machine is slower than others.
const PATIENCE: &str = "CORACLE_PATIENCE";

/// Returns how much slower than others this machine may be.
pub fn factor() -> u64 {
    std::env::var(PATIENCE).ok().and_then(|text| text.parse().ok()).unwrap_or(1)
}

/// Polls until `probe` returns something; panics after `seconds`.
pub fn eventually<T>(seconds: u64, what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    let seconds = seconds * factor();
    let deadline = start + Duration::from_secs(seconds);
    loop {
        if let Some(value) = probe() {
            return value;
        }
        assert!(Instant::now() < deadline, "{what}: not within {seconds} s");
        let pause = if start.elapsed() < SOON { 20 } else { 200 };
        std::thread::sleep(Duration::from_millis(pause));
    }
}

/// Polls until `probe` is true; panics after `seconds`.
pub fn within(seconds: u64, what: &str, mut probe: impl FnMut() -> bool) {
    eventually(seconds, what, || probe().then_some(()));
}
