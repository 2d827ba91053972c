//! What controllers ask of a pod: is it active, ready, available, and which one goes first.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

pub use api::pod::{condition, is_active, is_ready, is_terminal, phase};

/// The annotation that makes a pod cheaper or dearer to delete.
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// The node that the pod is bound to.
pub fn node_name(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref().filter(|name| !name.is_empty())
}

/// Why no node takes the pod, if the scheduler says so.
pub fn unschedulable(pod: &Pod) -> Option<&str> {
    let condition = condition(pod, "PodScheduled").filter(|known| known.status == "False")?;
    let refused = condition.reason.as_deref() == Some("Unschedulable");
    condition.message.as_deref().filter(|_| refused)
}

/// Whether a pod counts as available.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Availability {
    /// It is not ready.
    Unavailable,
    /// It is ready and will be available after this long, if it stays so.
    After(Duration),
    /// It has been ready for long enough.
    Available,
}

/// Whether the pod has been ready for `min_ready_seconds`.
pub fn availability(pod: &Pod, min_ready_seconds: i32, now: Timestamp) -> Availability {
    let Some(ready) = condition(pod, "Ready").filter(|condition| condition.status == "True") else {
        return Availability::Unavailable;
    };
    if min_ready_seconds <= 0 {
        return Availability::Available;
    }
    let Some(since) = &ready.last_transition_time else { return Availability::Unavailable };
    let wanted = SignedDuration::from_secs(i64::from(min_ready_seconds));
    let left = wanted - now.duration_since(since.0);
    match Duration::try_from(left) {
        Ok(left) if !left.is_zero() => Availability::After(left),
        _ => Availability::Available,
    }
}

/// A pod made from a template, to be named by the server after `prefix`.
pub fn from_template(
    template: &PodTemplateSpec,
    namespace: &str,
    prefix: String,
    controller: OwnerReference,
) -> Pod {
    let metadata = template.metadata.as_ref();
    Pod {
        metadata: ObjectMeta {
            generate_name: Some(prefix),
            namespace: Some(namespace.to_owned()),
            labels: metadata.and_then(|meta| meta.labels.clone()),
            annotations: metadata.and_then(|meta| meta.annotations.clone()),
            finalizers: metadata.and_then(|meta| meta.finalizers.clone()),
            owner_references: Some(vec![controller]),
            ..ObjectMeta::default()
        },
        spec: template.spec.clone(),
        status: None,
    }
}

/// Sorts pods so that those to be deleted first come first (upstream `ActivePodsWithRanks`).
pub fn sort_for_deletion(pods: &mut [Arc<Pod>], now: Timestamp) {
    let mut per_node: HashMap<String, usize> = HashMap::new();
    for pod in pods.iter() {
        *per_node.entry(node_name(pod).unwrap_or_default().to_owned()).or_default() += 1;
    }
    let rank = |pod: &Pod| per_node.get(node_name(pod).unwrap_or_default()).copied().unwrap_or(0);
    pods.sort_by(|a, b| {
        node_name(a)
            .is_some()
            .cmp(&node_name(b).is_some())
            .then_with(|| phase_order(a).cmp(&phase_order(b)))
            .then_with(|| is_ready(a).cmp(&is_ready(b)))
            .then_with(|| deletion_cost(a).cmp(&deletion_cost(b)))
            .then_with(|| rank(b).cmp(&rank(a)))
            .then_with(|| by_age(ready_since(a), ready_since(b), now))
            .then_with(|| most_restarts(b).cmp(&most_restarts(a)))
            .then_with(|| by_age(created(a), created(b), now))
            .then_with(|| a.metadata.uid.cmp(&b.metadata.uid))
    });
}

/// When the object was created.
pub fn created(pod: &Pod) -> Option<Timestamp> {
    pod.metadata.creation_timestamp.as_ref().map(|time| time.0)
}

fn phase_order(pod: &Pod) -> u8 {
    match phase(pod) {
        "" | "Pending" => 0,
        "Unknown" => 1,
        _ => 2,
    }
}

fn deletion_cost(pod: &Pod) -> i32 {
    pod.metadata
        .annotations
        .as_ref()
        .and_then(|annotations| annotations.get(DELETION_COST))
        .and_then(|text| text.parse().ok())
        .unwrap_or(0)
}

fn ready_since(pod: &Pod) -> Option<Timestamp> {
    condition(pod, "Ready")
        .filter(|condition| condition.status == "True")
        .and_then(|condition| condition.last_transition_time.as_ref())
        .map(|time| time.0)
}

/// Younger first, in buckets of doubling length so that a few seconds among old pods do not
/// decide; what has no time is youngest.
fn by_age(a: Option<Timestamp>, b: Option<Timestamp>, now: Timestamp) -> Ordering {
    let bucket = |time: Option<Timestamp>| {
        time.map_or(0, |time| {
            let age = now.duration_since(time).as_millis().max(1).unsigned_abs();
            1 + u128::BITS - age.leading_zeros()
        })
    };
    bucket(a).cmp(&bucket(b))
}

fn most_restarts(pod: &Pod) -> i32 {
    pod.status
        .iter()
        .flat_map(|status| status.container_statuses.iter().flatten())
        .map(|container| container.restart_count)
        .max()
        .unwrap_or(0)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::fixture::{pod, ready};

    #[test]
    fn availability_waits_for_min_ready_seconds() {
        let now: Timestamp = "2024-01-01T00:01:00Z".parse().unwrap();
        let conditions = [ready(true, "2024-01-01T00:00:50Z")];
        let ready = pod("ready", json!({"status": {"conditions": conditions}}));
        assert_eq!(availability(&ready, 0, now), Availability::Available);
        assert_eq!(availability(&ready, 10, now), Availability::Available);
        assert_eq!(availability(&ready, 15, now), Availability::After(Duration::from_secs(5)));
        let pending = pod("pending", json!({}));
        assert_eq!(availability(&pending, 0, now), Availability::Unavailable);
    }

    #[test]
    fn pods_that_serve_nobody_are_deleted_first() {
        let now: Timestamp = "2024-01-01T10:00:00Z".parse().unwrap();
        let running = |name: &str, is_ready: bool, since: &str, cost: &str| {
            let more = json!({
                "metadata": {"creationTimestamp": since,
                    "annotations": {"controller.kubernetes.io/pod-deletion-cost": cost}},
                "spec": {"nodeName": "node"},
                "status": {"phase": "Running", "conditions": [ready(is_ready, since)]}
            });
            pod(name, more)
        };
        let mut pods = vec![
            running("old", true, "2024-01-01T00:00:00Z", "0"),
            running("young", true, "2024-01-01T09:59:00Z", "0"),
            running("cheap", true, "2024-01-01T00:00:00Z", "-5"),
            running("dear", true, "2024-01-01T09:59:00Z", "5"),
            running("unready", false, "2024-01-01T00:00:00Z", "100"),
            pod("pending", json!({"spec": {"nodeName": "node"}, "status": {"phase": "Pending"}})),
            pod("unassigned", json!({})),
        ];
        sort_for_deletion(&mut pods, now);
        let names: Vec<_> = pods.iter().map(|pod| pod.metadata.name.as_deref().unwrap()).collect();
        assert_eq!(names, ["unassigned", "pending", "unready", "cheap", "young", "old", "dear"]);
    }
}
