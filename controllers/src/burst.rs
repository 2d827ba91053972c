//! A bound on the pods that a controller makes in one round.
//!
//! Clients choose the number of replicas and the size of the template; what a round builds and
//! sends depends on neither.

use std::io;

use serde::Serialize;

/// The most pods created or deleted for one owner in one round (upstream `burstReplicas`).
pub const BURST_PODS: usize = 500;
/// The most bytes of pods and claims, as JSON, created for one owner in one round; one pod is
/// always created.
pub const BURST_BYTES: usize = 4 << 20;

/// Returns how many pods a round creates when each is made from `parts`.
pub fn pods(parts: &impl Serialize) -> usize {
    let mut size = Size(0);
    // What cannot be serialised cannot be sent either: the attempt reports it.
    if serde_json::to_writer(&mut size, parts).is_err() {
        return 1;
    }
    (BURST_BYTES / size.0.max(1)).clamp(1, BURST_PODS)
}

/// A writer that only counts bytes.
struct Size(usize);

impl io::Write for Size {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_templates_come_in_small_bursts() {
        for (bytes, expected) in [(10, BURST_PODS), (300 << 10, 13), (3 << 20, 1), (9 << 20, 1)] {
            assert_eq!(pods(&"x".repeat(bytes)), expected, "{bytes}");
        }
    }
}
