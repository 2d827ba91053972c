//! A registry that drips bytes must not hold a pull for ever.

use std::time::Duration;

/// The time over which the pace is judged: as long as a registry may send nothing.
const PACE_WINDOW: Duration = Duration::from_secs(30);
/// Bytes of a layer that come in that time at least: 2 KiB a second, less than a modem.
const MIN_PACE_BYTES: u64 = 64 << 10;

/// The bytes that came in the time that was spent on waiting for the network.
#[derive(Default)]
pub(super) struct Pace {
    waited: Duration,
    bytes: u64,
}

impl Pace {
    /// Counts bytes that were waited for; says so if there are too few.
    pub(super) fn note(&mut self, waited: Duration, bytes: u64) -> Result<(), String> {
        self.waited += waited;
        self.bytes += bytes;
        if self.waited < PACE_WINDOW {
            return Ok(());
        }
        let (seconds, bytes) = (self.waited.as_secs(), self.bytes);
        *self = Self::default();
        if bytes < MIN_PACE_BYTES {
            return Err(format!("the registry sent {bytes} bytes in {seconds} seconds"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn dripping_registries_are_given_up() {
        let mut pace = Pace::default();
        for _ in 0..5 {
            pace.note(Duration::from_secs(5), 1).unwrap();
        }
        let error = pace.note(Duration::from_secs(5), 1).unwrap_err();
        assert_eq!(error, "the registry sent 6 bytes in 30 seconds");
    }

    #[test]
    fn slow_networks_and_slow_disks_are_not() {
        let mut pace = Pace::default();
        for _ in 0..100 {
            pace.note(Duration::from_secs(1), 3 << 10).unwrap();
        }
        // A slow unpacker takes time that is not spent on the network.
        for _ in 0..100 {
            pace.note(Duration::from_millis(1), 1).unwrap();
        }
    }
}
