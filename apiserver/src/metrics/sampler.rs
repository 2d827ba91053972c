//! Rates need two samples: the present one and one from when somebody asked before, or else a
//! second one a moment later. Nothing is sampled while nobody asks.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;

use super::summary::{self, Summary};
use crate::stream_proxy::NodeDialer;

/// The shortest time over which a rate means something.
const WINDOW_MIN: Duration = Duration::from_secs(1);
/// Where there is a choice, rates are over this long.
const WINDOW_WANTED: Duration = Duration::from_secs(10);
/// Samples older than this say nothing about the present.
const WINDOW_MAX: Duration = Duration::from_secs(60);
/// How many samples of a node are kept.
const SAMPLES: usize = 16;

/// Two samples of one node.
pub(super) struct Pair {
    pub(super) before: Summary,
    pub(super) after: Summary,
}

/// The samples of every node.
#[derive(Default)]
pub(crate) struct Sampler {
    nodes: Mutex<HashMap<String, Arc<Mutex<VecDeque<Summary>>>>>,
}

impl Sampler {
    /// Two samples of `node`, the later one from now; the error is a sentence for the log.
    pub(super) async fn sample(&self, dialer: &dyn NodeDialer, node: &str) -> Result<Pair, String> {
        let samples = self.nodes.lock().await.entry(node.to_owned()).or_default().clone();
        // One reader at a time: those who wait share what it finds.
        let mut samples = samples.lock().await;
        samples.retain(|sample| sample.taken.elapsed() < WINDOW_MAX);
        let is_fresh = |sample: &Summary| sample.taken.elapsed() < WINDOW_MIN;
        if !samples.back().is_some_and(is_fresh) {
            samples.push_back(summary::fetch(dialer, node).await?);
        }
        if let Some(pair) = pair(&samples) {
            while samples.len() > SAMPLES {
                samples.pop_front();
            }
            return Ok(pair);
        }
        tokio::time::sleep(WINDOW_MIN).await;
        samples.push_back(summary::fetch(dialer, node).await?);
        pair(&samples).ok_or_else(|| "the clock stands still".to_owned())
    }
}

/// The newest sample, with the newest of those before it that are far enough away.
fn pair(samples: &VecDeque<Summary>) -> Option<Pair> {
    let after = samples.back()?;
    let distance = |sample: &Summary| after.taken.duration_since(sample.taken);
    let before = samples
        .iter()
        .rev()
        .find(|sample| distance(sample) >= WINDOW_WANTED)
        .or_else(|| samples.iter().find(|sample| distance(sample) >= WINDOW_MIN))?;
    Some(Pair { before: before.clone(), after: after.clone() })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    #[test]
    fn a_rate_is_over_about_ten_seconds_where_possible() {
        let start = Instant::now();
        let at = |seconds: u64| Summary {
            taken: start + Duration::from_secs(seconds),
            node: Default::default(),
            pods: HashMap::new(),
        };
        let window = |seconds: &[u64]| {
            let samples: VecDeque<Summary> = seconds.iter().map(|s| at(*s)).collect();
            pair(&samples).map(|pair| pair.after.taken.duration_since(pair.before.taken).as_secs())
        };
        assert_eq!(window(&[0]), None);
        assert_eq!(window(&[0, 0]), None);
        assert_eq!(window(&[0, 1]), Some(1));
        assert_eq!(window(&[0, 3, 5]), Some(5));
        assert_eq!(window(&[0, 15, 30]), Some(15));
        assert_eq!(window(&[0, 15, 18, 30]), Some(12));
    }
}
