//! What the status of a budget says.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use api::int_or_string::IntOrString as Bound;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::{
    PodDisruptionBudget, PodDisruptionBudgetSpec, PodDisruptionBudgetStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::ownership::controller_of;
use crate::pod;

/// A pod that was to be evicted and is still there after this long counts again.
const DELETION_TIMEOUT: SignedDuration = SignedDuration::from_mins(2);
/// The condition that tells whether any pod may go.
const DISRUPTION_ALLOWED: &str = "DisruptionAllowed";

/// What is known of one budget.
pub struct Observed<'a> {
    /// The budget.
    pub budget: &'a PodDisruptionBudget,
    /// The pods that it selects.
    pub pods: &'a [Arc<Pod>],
    /// How many pods each controller wants, by its uid; `None` where it cannot be scaled.
    pub scales: &'a HashMap<String, Option<i32>>,
    /// The time.
    pub now: Timestamp,
}

/// What to do about one budget.
#[derive(Debug, PartialEq)]
pub struct Plan {
    /// The status.
    pub status: PodDisruptionBudgetStatus,
    /// Why the number of expected pods is unknown.
    pub failure: Option<String>,
    /// Names of pods without a controller, which a percentage cannot take into account.
    pub unmanaged: Vec<String>,
    /// Pods that were to be evicted long ago and are still there.
    pub not_deleted: Vec<Arc<Pod>>,
    /// When the next eviction is overdue.
    pub requeue_after: Option<Duration>,
}

/// Counts the pods of a budget.
pub fn plan(observed: &Observed<'_>) -> Plan {
    let known = observed.budget.status.clone().unwrap_or_default();
    let mut plan = Plan {
        status: known.clone(),
        failure: None,
        unmanaged: Vec::new(),
        not_deleted: Vec::new(),
        requeue_after: None,
    };
    let generation = observed.budget.metadata.generation;
    let condition = |allowed: bool, reason: &str, message: String| {
        let conditions = known.conditions.as_deref().unwrap_or_default();
        let old = conditions.iter().find(|condition| condition.type_ == DISRUPTION_ALLOWED);
        let status = if allowed { "True" } else { "False" };
        let since = old.filter(|old| old.status == status);
        let new = Condition {
            type_: DISRUPTION_ALLOWED.to_owned(),
            status: status.to_owned(),
            reason: reason.to_owned(),
            message,
            last_transition_time: since
                .map_or(Time(observed.now), |old| old.last_transition_time.clone()),
            observed_generation: generation,
        };
        let others = conditions.iter().filter(|known| known.type_ != DISRUPTION_ALLOWED);
        Some(others.cloned().chain([new]).collect())
    };
    let none = PodDisruptionBudgetSpec::default();
    let spec = observed.budget.spec.as_ref().unwrap_or(&none);
    let (expected, desired) = match expected(observed, spec, &mut plan.unmanaged) {
        Ok(counts) => counts,
        Err(failure) => {
            plan.status.disruptions_allowed = 0;
            plan.status.conditions = condition(false, "SyncFailed", failure.clone());
            plan.status.observed_generation = generation;
            plan.failure = Some(failure);
            return plan;
        }
    };
    let disrupted = disrupted(observed, &known, &mut plan);
    let healthy = observed.pods.iter().filter(|pod| {
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        pod.metadata.deletion_timestamp.is_none()
            && !disrupted.contains_key(name)
            && pod::is_ready(pod)
    });
    let healthy = count(healthy.count());
    let allowed = if expected <= 0 { 0 } else { healthy.saturating_sub(desired).max(0) };
    let reason = if allowed > 0 { "SufficientPods" } else { "InsufficientPods" };
    plan.status = PodDisruptionBudgetStatus {
        conditions: condition(allowed > 0, reason, String::new()),
        current_healthy: healthy,
        desired_healthy: desired,
        disrupted_pods: (!disrupted.is_empty()).then_some(disrupted),
        disruptions_allowed: allowed,
        expected_pods: expected,
        observed_generation: generation,
    };
    plan
}

/// How many pods there should be, and how many of them healthy.
fn expected(
    observed: &Observed<'_>,
    spec: &PodDisruptionBudgetSpec,
    unmanaged: &mut Vec<String>,
) -> Result<(i32, i32), String> {
    if let Some(most) = &spec.max_unavailable {
        let expected = scale(observed, unmanaged)?;
        return Ok((expected, expected.saturating_sub(part(most, expected)?).max(0)));
    }
    match &spec.min_available {
        None => Ok((0, 0)),
        Some(IntOrString::Int(least)) => Ok((count(observed.pods.len()), *least)),
        Some(percent) => {
            let expected = scale(observed, unmanaged)?;
            Ok((expected, part(percent, expected)?))
        }
    }
}

/// The sum of what the controllers of the pods want.
fn scale(observed: &Observed<'_>, unmanaged: &mut Vec<String>) -> Result<i32, String> {
    let mut scales: BTreeMap<&str, i32> = BTreeMap::new();
    for pod in observed.pods {
        let name = pod.metadata.name.clone().unwrap_or_default();
        let Some(owner) = controller_of(&pod.metadata) else {
            unmanaged.push(name);
            continue;
        };
        match observed.scales.get(&owner.uid) {
            Some(Some(replicas)) => drop(scales.insert(&owner.uid, *replicas)),
            Some(None) => {
                let group = owner.api_version.split_once('/').map_or("", |(group, _)| group);
                let plural = format!("{}s", owner.kind.to_lowercase());
                let resource = if group.is_empty() { plural } else { format!("{plural}.{group}") };
                return Err(format!("{resource} does not implement the scale subresource"));
            }
            None => return Err(format!("found no controllers for pod {name:?}")),
        }
    }
    Ok(scales.values().fold(0, |sum: i32, replicas| sum.saturating_add(*replicas)))
}

/// A number, or that many per cent of `total`, rounded up.
fn part(bound: &IntOrString, total: i32) -> Result<i32, String> {
    let bound = match bound {
        IntOrString::Int(number) => return Ok(*number),
        IntOrString::String(text) => Bound::from_json(&text.as_str().into()),
    };
    let scaled = bound.map(|bound| bound.scaled(i64::from(total), true));
    match scaled {
        Some(Ok(number)) => Ok(i32::try_from(number).unwrap_or(i32::MAX)),
        _ => Err("invalid value for IntOrString: invalid type: string is not a percentage".into()),
    }
}

/// The pods that are still expected to go because of an eviction.
fn disrupted(
    observed: &Observed<'_>,
    known: &PodDisruptionBudgetStatus,
    plan: &mut Plan,
) -> BTreeMap<String, Time> {
    let mut disrupted = BTreeMap::new();
    for pod in observed.pods {
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        let evicted = known.disrupted_pods.as_ref().and_then(|pods| pods.get(name));
        let Some(evicted) = evicted.filter(|_| pod.metadata.deletion_timestamp.is_none()) else {
            continue;
        };
        let left = DELETION_TIMEOUT - observed.now.duration_since(evicted.0);
        match Duration::try_from(left).ok().filter(|left| !left.is_zero()) {
            None => plan.not_deleted.push(pod.clone()),
            Some(left) => {
                disrupted.insert(name.to_owned(), evicted.clone());
                let sooner = plan.requeue_after.is_none_or(|known| left < known);
                if sooner {
                    plan.requeue_after = Some(left);
                }
            }
        }
    }
    disrupted
}

fn count(pods: usize) -> i32 {
    i32::try_from(pods).unwrap_or(i32::MAX)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::fixture::{self, ready};

    const NOW: &str = "2024-01-01T00:10:00Z";

    fn pod(name: &str, is_ready: bool) -> Arc<Pod> {
        let owner = json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "rs",
            "uid": "rs", "controller": true});
        let more = json!({"metadata": {"ownerReferences": [owner]},
            "status": {"conditions": [ready(is_ready, "2024-01-01T00:00:00Z")]}});
        fixture::pod(name, more)
    }

    fn at(spec: Value, status: Value, pods: &[Arc<Pod>], scale: Option<i32>) -> Plan {
        let budget: PodDisruptionBudget = serde_json::from_value(json!({
            "metadata": {"name": "b", "generation": 2}, "spec": spec, "status": status}))
        .unwrap();
        let scales = HashMap::from([("rs".to_owned(), scale)]);
        plan(&Observed { budget: &budget, pods, scales: &scales, now: NOW.parse().unwrap() })
    }

    fn zero() -> Value {
        json!({"currentHealthy": 0, "desiredHealthy": 0, "disruptionsAllowed": 0, "expectedPods": 0})
    }

    #[test]
    fn bounds_are_numbers_or_percentages_rounded_up() {
        let pods: Vec<_> = (0..4).map(|i| pod(&format!("p{i}"), i != 0)).collect();
        for (spec, expected, desired, allowed) in [
            (json!({"minAvailable": 2}), 4, 2, 1),
            (json!({"minAvailable": "50%"}), 5, 3, 0),
            (json!({"maxUnavailable": 2}), 5, 3, 0),
            (json!({"maxUnavailable": "41%"}), 5, 2, 1),
            (json!({"minAvailable": 0}), 4, 0, 3),
        ] {
            let plan = at(spec.clone(), zero(), &pods, Some(5));
            let status = &plan.status;
            assert_eq!(
                (status.expected_pods, status.desired_healthy, status.disruptions_allowed),
                (expected, desired, allowed),
                "{spec}"
            );
            let condition = &status.conditions.as_ref().unwrap()[0];
            let reason = if allowed > 0 { "SufficientPods" } else { "InsufficientPods" };
            assert_eq!(condition.reason, reason);
            assert_eq!(status.observed_generation, Some(2));
        }
        assert_eq!(at(json!({"minAvailable": 0}), zero(), &[], None).status.disruptions_allowed, 0);
    }

    #[test]
    fn evicted_pods_do_not_count_until_they_are_overdue() {
        let pods = [pod("a", true), pod("b", true), pod("c", true)];
        let mut status = zero();
        status["disruptedPods"] =
            json!({"a": "2024-01-01T00:09:00Z", "b": "2024-01-01T00:07:00Z", "x": NOW});
        let plan = at(json!({"minAvailable": 1}), status, &pods, Some(3));
        assert_eq!((plan.status.current_healthy, plan.status.disruptions_allowed), (2, 1));
        assert_eq!(plan.status.disrupted_pods.unwrap().keys().collect::<Vec<_>>(), ["a"]);
        assert_eq!(plan.not_deleted[0].metadata.name.as_deref(), Some("b"));
        assert_eq!(plan.requeue_after, Some(Duration::from_secs(60)));
    }

    #[test]
    fn what_cannot_be_scaled_fails_closed() {
        let pods = [pod("a", true)];
        let plan = at(json!({"maxUnavailable": 1}), zero(), &pods, None);
        let message = "replicasets.apps does not implement the scale subresource";
        assert_eq!(plan.failure.as_deref(), Some(message));
        assert_eq!(plan.status.conditions.unwrap()[0].reason, "SyncFailed");
        assert_eq!(plan.status.disruptions_allowed, 0);
        let mut loose = (*pods[0]).clone();
        loose.metadata.owner_references = None;
        let loose = [Arc::new(loose)];
        let plan = at(json!({"maxUnavailable": 1}), zero(), &loose, None);
        assert_eq!((plan.unmanaged, plan.status.expected_pods), (vec!["a".to_owned()], 0));
    }
}
