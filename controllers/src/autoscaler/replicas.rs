//! How many replicas a metric asks for (upstream `ReplicaCalculator`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use api::quantity::Quantity;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, Pod};

use crate::autoscaler::metrics::Sample;
use crate::pod;

/// A starting pod's CPU usage means little for this long.
const INITIALISATION: SignedDuration = SignedDuration::from_mins(5);
/// A pod that has not been ready by this time after its start never was.
const READINESS_DELAY: SignedDuration = SignedDuration::from_secs(30);

/// What a metric is compared with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Goal {
    /// Per cent of the requests.
    Utilization(i32),
    /// Thousandths of the unit per pod.
    AverageMilli(i64),
}

/// How far the ratio may be off without anything being done.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tolerance {
    /// Below one.
    pub down: f64,
    /// Above one.
    pub up: f64,
}

impl Tolerance {
    fn covers(self, ratio: f64) -> bool {
        ratio >= 1.0 - self.down && ratio <= 1.0 + self.up
    }
}

/// What is known of the pods of a workload.
pub struct Observed<'a> {
    /// How many replicas are wanted now.
    pub current: i32,
    /// The resource, for example `cpu`.
    pub resource: &'a str,
    /// The one container that matters.
    pub container: Option<&'a str>,
    /// The pods that the scale selects.
    pub pods: &'a [Arc<Pod>],
    /// Their usage.
    pub samples: &'a BTreeMap<String, Sample>,
    /// What the usage is compared with.
    pub goal: Goal,
    /// How far it may be off.
    pub tolerance: Tolerance,
    /// The time.
    pub now: Timestamp,
}

/// What a metric asks for.
#[derive(Clone, Debug, PartialEq)]
pub struct Proposal {
    /// How many replicas.
    pub replicas: i32,
    /// Usage as per cent of requests, where that is the goal.
    pub utilization: Option<i32>,
    /// Usage per pod in thousandths.
    pub average_milli: i64,
}

struct Groups {
    ready: usize,
    unready: BTreeSet<String>,
    missing: BTreeSet<String>,
    ignored: BTreeSet<String>,
}

/// Computes the proposal, or says why there is none.
pub fn propose(observed: &Observed<'_>) -> Result<Proposal, String> {
    if observed.pods.is_empty() {
        return Err("no pods returned by selector while calculating replica count".to_owned());
    }
    let groups = group(observed);
    let mut usage: BTreeMap<String, i64> = observed
        .samples
        .iter()
        .filter(|(name, _)| !groups.ignored.contains(*name) && !groups.unready.contains(*name))
        .map(|(name, sample)| (name.clone(), sample.milli))
        .collect();
    if usage.is_empty() {
        return Err("did not receive metrics for targeted pods (pods might be unready)".to_owned());
    }
    let requests = match observed.goal {
        Goal::Utilization(_) => requests(observed)?,
        Goal::AverageMilli(_) => BTreeMap::new(),
    };
    let (ratio, utilization, average_milli) = compare(observed.goal, &usage, &requests)?;
    let answer = |replicas: i32| Ok(Proposal { replicas, utilization, average_milli });
    let up_with_unready = !groups.unready.is_empty() && ratio > 1.0;
    if !up_with_unready && groups.missing.is_empty() {
        if observed.tolerance.covers(ratio) {
            return answer(observed.current);
        }
        return answer(ceil(ratio * groups.ready as f64));
    }
    // What is not known is assumed so that it dampens the change.
    for name in &groups.missing {
        let assumed = match observed.goal {
            _ if ratio > 1.0 => 0,
            Goal::Utilization(percent) => {
                let request = i128::from(requests.get(name).copied().unwrap_or(0));
                let assumed = request * i128::from(percent.max(100)) / 100;
                i64::try_from(assumed).unwrap_or(i64::MAX)
            }
            Goal::AverageMilli(target) => target,
        };
        if ratio != 1.0 {
            usage.insert(name.clone(), assumed);
        }
    }
    if up_with_unready {
        usage.extend(groups.unready.iter().map(|name| (name.clone(), 0)));
    }
    let (damped, ..) = compare(observed.goal, &usage, &requests)?;
    let turned = (ratio < 1.0 && damped > 1.0) || (ratio > 1.0 && damped < 1.0);
    if observed.tolerance.covers(damped) || turned {
        return answer(observed.current);
    }
    let replicas = ceil(damped * usage.len() as f64);
    let contrary = (damped < 1.0 && replicas > observed.current)
        || (damped > 1.0 && replicas < observed.current);
    answer(if contrary { observed.current } else { replicas })
}

/// Ratio to the goal, utilization and average per pod.
fn compare(
    goal: Goal,
    usage: &BTreeMap<String, i64>,
    requests: &BTreeMap<String, i64>,
) -> Result<(f64, Option<i32>, i64), String> {
    match goal {
        Goal::AverageMilli(target) => {
            let total = sum(usage.values());
            let average = total / i64::try_from(usage.len()).unwrap_or(1).max(1);
            Ok((average as f64 / target.max(1) as f64, None, average))
        }
        Goal::Utilization(target) => {
            let known: Vec<(i64, i64)> = usage
                .iter()
                .filter_map(|(name, used)| Some((*used, *requests.get(name)?)))
                .collect();
            let total = sum(known.iter().map(|(used, _)| used));
            let requested = sum(known.iter().map(|(_, request)| request));
            if requested == 0 {
                return Err("no metrics returned matched known pods".to_owned());
            }
            let utilization = i32::try_from(total.saturating_mul(100) / requested);
            let utilization = utilization.unwrap_or(i32::MAX);
            let average = total / i64::try_from(known.len()).unwrap_or(1).max(1);
            let ratio = f64::from(utilization) / f64::from(target.max(1));
            Ok((ratio, Some(utilization), average))
        }
    }
}

/// Adds up amounts, some of which clients choose.
fn sum<'a>(amounts: impl Iterator<Item = &'a i64>) -> i64 {
    amounts.fold(0, |sum, amount| sum.saturating_add(*amount))
}

fn group(observed: &Observed<'_>) -> Groups {
    let mut groups = Groups {
        ready: 0,
        unready: BTreeSet::new(),
        missing: BTreeSet::new(),
        ignored: BTreeSet::new(),
    };
    for pod in observed.pods {
        let name = pod.metadata.name.clone().unwrap_or_default();
        if pod.metadata.deletion_timestamp.is_some() || pod::phase(pod) == "Failed" {
            groups.ignored.insert(name);
        } else if matches!(pod::phase(pod), "Pending" | "") {
            groups.unready.insert(name);
        } else {
            match observed.samples.get(&name) {
                None => drop(groups.missing.insert(name)),
                Some(sample)
                    if observed.resource == "cpu" && is_cold(pod, sample, observed.now) =>
                {
                    groups.unready.insert(name);
                }
                Some(_) => groups.ready += 1,
            }
        }
    }
    groups
}

/// Whether the CPU usage of the pod is still that of its start.
fn is_cold(pod: &Pod, sample: &Sample, now: Timestamp) -> bool {
    let started = pod.status.as_ref().and_then(|status| status.start_time.as_ref());
    let (Some(ready), Some(started)) = (pod::condition(pod, "Ready"), started) else {
        return true;
    };
    let Some(changed) = ready.last_transition_time.as_ref().map(|time| time.0) else {
        return true;
    };
    let is_unready = ready.status == "False";
    if started.0 + INITIALISATION > now {
        return is_unready || sample.at < changed + sample.window;
    }
    is_unready && started.0 + READINESS_DELAY > changed
}

/// What each pod requests, in thousandths.
fn requests(observed: &Observed<'_>) -> Result<BTreeMap<String, i64>, String> {
    let mut requests = BTreeMap::new();
    for pod in observed.pods {
        let name = pod.metadata.name.clone().unwrap_or_default();
        let Some(spec) = &pod.spec else { continue };
        let sidecars = spec.init_containers.iter().flatten();
        let sidecars = sidecars.filter(|c| c.restart_policy.as_deref() == Some("Always"));
        let mut total = 0;
        for container in spec.containers.iter().chain(sidecars) {
            if observed.container.is_some_and(|wanted| wanted != container.name) {
                continue;
            }
            match request(container, observed.resource) {
                Some(milli) => total = milli.saturating_add(total),
                None => {
                    return Err(format!(
                        "missing request for {} in container {} of Pod {name}",
                        observed.resource, container.name
                    ));
                }
            }
        }
        requests.insert(name, total);
    }
    Ok(requests)
}

fn request(container: &Container, resource: &str) -> Option<i64> {
    let text = container.resources.as_ref()?.requests.as_ref()?.get(resource)?;
    Some(Quantity::parse(&text.0).ok()?.milli_value())
}

fn ceil(replicas: f64) -> i32 {
    // A float becomes the nearest number that fits.
    replicas.ceil() as i32
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::fixture::{self, ready};

    const NOW: &str = "2024-01-01T01:00:00Z";

    fn pod(name: &str, phase: &str, is_ready: bool) -> Arc<Pod> {
        let requests = json!({"cpu": "100m", "memory": "10Mi"});
        let more = json!({
            "spec": {"containers": [{"name": "c", "resources": {"requests": requests}}]},
            "status": {"phase": phase, "startTime": "2024-01-01T00:00:00Z",
                "conditions": [ready(is_ready, "2024-01-01T00:00:10Z")]}
        });
        fixture::pod(name, more)
    }

    fn propose_for(pods: &[Arc<Pod>], usage: &[(&str, i64)], goal: Goal) -> Result<i32, String> {
        let now: Timestamp = NOW.parse().unwrap();
        let window = SignedDuration::from_secs(15);
        let sample = |milli: i64| Sample { milli, at: now, window };
        let samples =
            usage.iter().map(|(name, milli)| ((*name).to_owned(), sample(*milli))).collect();
        let observed = Observed {
            current: i32::try_from(pods.len()).unwrap(),
            resource: "cpu",
            container: None,
            pods,
            samples: &samples,
            goal,
            tolerance: Tolerance { down: 0.1, up: 0.1 },
            now,
        };
        propose(&observed).map(|proposal| proposal.replicas)
    }

    #[test]
    fn replicas_follow_the_ratio() {
        let pods: Vec<_> = ["a", "b", "c"].map(|name| pod(name, "Running", true)).into();
        let all = |milli: i64| vec![("a", milli), ("b", milli), ("c", milli)];
        let half = Goal::Utilization(50);
        assert_eq!(propose_for(&pods, &all(50), half), Ok(3));
        assert_eq!(propose_for(&pods, &all(54), half), Ok(3));
        assert_eq!(propose_for(&pods, &all(100), half), Ok(6));
        assert_eq!(propose_for(&pods, &all(10), half), Ok(1));
        assert_eq!(propose_for(&pods, &all(80), Goal::AverageMilli(40)), Ok(6));
        assert_eq!(propose_for(&pods, &all(41), Goal::AverageMilli(40)), Ok(3));
    }

    #[test]
    fn what_is_missing_or_not_ready_dampens() {
        let half = Goal::Utilization(50);
        let pods = [
            pod("a", "Running", true),
            pod("b", "Running", true),
            pod("c", "Running", true),
            pod("d", "Pending", false),
        ];
        // Up: the missing pod and the pending one count as idle.
        assert_eq!(propose_for(&pods, &[("a", 100), ("b", 100)], half), Ok(4));
        assert_eq!(propose_for(&pods, &[("a", 300), ("b", 300)], half), Ok(12));
        // Down: the missing pod counts as fully used, the pending one not at all.
        assert_eq!(propose_for(&pods, &[("a", 10), ("b", 10)], half), Ok(3));
        assert_eq!(
            propose_for(&pods[3..], &[("d", 10)], half),
            Err("did not receive metrics for targeted pods (pods might be unready)".to_owned())
        );
        assert!(propose_for(&[], &[], half).is_err());
    }

    #[test]
    fn requests_must_be_there() {
        let mut bare = (*pod("a", "Running", true)).clone();
        bare.spec.as_mut().unwrap().containers[0].resources = None;
        assert_eq!(
            propose_for(&[Arc::new(bare.clone())], &[("a", 1)], Goal::Utilization(50)),
            Err("missing request for cpu in container c of Pod a".to_owned())
        );
        assert_eq!(propose_for(&[Arc::new(bare)], &[("a", 10)], Goal::AverageMilli(5)), Ok(2));
    }
}
