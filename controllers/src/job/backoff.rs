//! Pods of a Job that keep failing are replaced ever more slowly: after 10 s, 20 s, 40 s, … 10 min.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;

use crate::job::tracked::ended;

/// The delay after a first failure; it doubles with every further one.
const FIRST: Duration = Duration::from_secs(10);
/// The longest delay.
const LAST: Duration = Duration::from_secs(600);

/// What is remembered of the failures of one Job.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backoff {
    failures: i32,
    last: Option<Timestamp>,
}

impl Backoff {
    /// After `failures` in a row, the last at that time.
    pub fn new(failures: i32, last: Timestamp) -> Self {
        Self { failures, last: Some(last) }
    }

    /// After pods that ended since: only failures after the last success count.
    #[must_use]
    pub fn after(self, succeeded: &[Arc<Pod>], failed: &[Arc<Pod>]) -> Self {
        let success = succeeded.iter().map(|pod| ended(pod)).max();
        let known = if success.is_some() { Self::default() } else { self };
        let since = |at: &Timestamp| success.is_none_or(|success| *at > success);
        let later: Vec<Timestamp> = failed.iter().map(|pod| ended(pod)).filter(since).collect();
        Self {
            failures: known.failures.saturating_add(i32::try_from(later.len()).unwrap_or(i32::MAX)),
            last: later.into_iter().max().or(known.last),
        }
    }

    /// How long no pod may be created yet.
    pub fn remaining(self, now: Timestamp) -> Option<Duration> {
        let doublings = u32::try_from(self.failures.checked_sub(1)?).ok()?;
        let delay =
            FIRST.saturating_mul(1_u32.checked_shl(doublings).unwrap_or(u32::MAX)).min(LAST);
        let passed = now.duration_since(self.last?);
        // A clock that was set back must not stretch the delay.
        let passed = Duration::try_from(passed).unwrap_or(Duration::ZERO);
        delay.checked_sub(passed).filter(|left| !left.is_zero())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::fixture;

    fn pod(ended: &str) -> Arc<Pod> {
        let state = json!({"terminated": {"exitCode": 1, "finishedAt": ended}});
        let statuses = json!([{"name": "c", "state": state}]);
        fixture::pod("p", json!({"status": {"containerStatuses": statuses}}))
    }

    #[test]
    fn the_delay_doubles_and_a_success_ends_it() {
        let now: Timestamp = "2024-01-01T00:01:00Z".parse().unwrap();
        let one = Backoff::default().after(&[], &[pod("2024-01-01T00:00:55Z")]);
        assert_eq!(one.remaining(now), Some(Duration::from_secs(5)));
        let two = one.after(&[], &[pod("2024-01-01T00:01:00Z")]);
        assert_eq!(two.remaining(now), Some(Duration::from_secs(20)));
        let many = Backoff::new(40, now);
        assert_eq!(many.remaining(now), Some(LAST));
        let success = [pod("2024-01-01T00:00:58Z")];
        assert_eq!(two.after(&success, &[]).remaining(now), None);
        let mixed =
            two.after(&success, &[pod("2024-01-01T00:00:50Z"), pod("2024-01-01T00:00:59Z")]);
        assert_eq!(mixed.remaining(now), Some(Duration::from_secs(9)));
    }
}
