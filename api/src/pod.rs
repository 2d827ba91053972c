//! Facts about pods that the scheduler, the controllers and the agent must agree on.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Pod, PodCondition, ResourceRequirements};
use serde_json::Value;

use crate::quantity::Quantity;

/// The condition of a type.
pub fn condition<'a>(pod: &'a Pod, kind: &str) -> Option<&'a PodCondition> {
    pod.status.as_ref()?.conditions.as_ref()?.iter().find(|condition| condition.type_ == kind)
}

/// Whether the condition `Ready` is true.
pub fn is_ready(pod: &Pod) -> bool {
    condition(pod, "Ready").is_some_and(|condition| condition.status == "True")
}

/// Whether the pod has run to its end, well or not.
pub fn is_terminal(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

/// Whether the pod is neither at its end nor being deleted.
pub fn is_active(pod: &Pod) -> bool {
    !is_terminal(pod) && pod.metadata.deletion_timestamp.is_none()
}

/// `status.phase`; empty when absent.
pub fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

/// The quality-of-service class of a pod spec in JSON: `Guaranteed`, `Burstable` or `BestEffort`.
pub fn qos_class(spec: &Value) -> &'static str {
    let has_own = |resources: &&Value| {
        let filled = |list: &str| resources[list].as_object().is_some_and(|map| !map.is_empty());
        filled("requests") || filled("limits")
    };
    // Resources of the pod as a whole outrank those of its containers.
    if let Some(resources) = spec.get("resources").filter(has_own) {
        return class_of([resources].into_iter());
    }
    let containers = ["containers", "initContainers"]
        .into_iter()
        .flat_map(|key| spec[key].as_array().into_iter().flatten());
    class_of(containers.map(|container| &container["resources"]))
}

fn class_of<'a>(lists: impl Iterator<Item = &'a Value>) -> &'static str {
    let mut any = false;
    let mut guaranteed = true;
    for resources in lists {
        for name in ["cpu", "memory"] {
            let of = |list: &str| {
                Quantity::from_json(&resources[list][name]).ok().filter(|q| !q.is_zero())
            };
            let (limit, request) = (of("limits"), of("requests"));
            any |= limit.is_some() || request.is_some();
            guaranteed &= limit.is_some() && request.is_none_or(|r| Some(r) == limit);
        }
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

/// What a pod asks for, per resource: what it says for itself as a whole, or else the sum over
/// containers and sidecars or the largest init container at its turn if that is more; and overhead
/// (upstream `resourcehelper.PodRequests`).
pub fn pod_requests(pod: &Pod) -> BTreeMap<String, Quantity> {
    pod_resources(pod, |resources| resources.requests.as_ref())
}

/// What a pod may use at most, per resource that every container limits.
pub fn pod_limits(pod: &Pod) -> BTreeMap<String, Quantity> {
    pod_resources(pod, |resources| resources.limits.as_ref())
}

type Typed = k8s_openapi::apimachinery::pkg::api::resource::Quantity;

fn pod_resources(
    pod: &Pod,
    of: impl Fn(&ResourceRequirements) -> Option<&BTreeMap<String, Typed>>,
) -> BTreeMap<String, Quantity> {
    let Some(spec) = &pod.spec else { return BTreeMap::new() };
    let read = |resources: &Option<ResourceRequirements>| -> BTreeMap<String, Quantity> {
        let amounts = resources.as_ref().and_then(&of).into_iter().flatten();
        amounts
            .filter_map(|(name, value)| Some((name.clone(), Quantity::parse(&value.0).ok()?)))
            .collect()
    };
    let mut total = BTreeMap::new();
    for container in &spec.containers {
        add(&mut total, &read(&container.resources));
    }
    // Init containers run one after the other, beside the sidecars that started before them.
    let mut sidecars = BTreeMap::new();
    let mut peak = BTreeMap::new();
    for container in spec.init_containers.iter().flatten() {
        let mut needed = read(&container.resources);
        if container.restart_policy.as_deref() == Some("Always") {
            add(&mut total, &needed);
            add(&mut sidecars, &needed);
            needed = sidecars.clone();
        } else {
            add(&mut needed, &sidecars);
        }
        raise(&mut peak, &needed);
    }
    raise(&mut total, &peak);
    total.extend(read(&spec.resources));
    for (name, value) in spec.overhead.iter().flatten() {
        if let Ok(quantity) = Quantity::parse(&value.0) {
            add(&mut total, &BTreeMap::from([(name.clone(), quantity)]));
        }
    }
    total
}

fn add(total: &mut BTreeMap<String, Quantity>, more: &BTreeMap<String, Quantity>) {
    for (name, quantity) in more {
        let entry = total.entry(name.clone()).or_default();
        *entry = *entry + *quantity;
    }
}

fn raise(total: &mut BTreeMap<String, Quantity>, other: &BTreeMap<String, Quantity>) {
    for (name, quantity) in other {
        let entry = total.entry(name.clone()).or_default();
        *entry = (*entry).max(*quantity);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    #[test]
    fn classes() {
        let limits = json!({"limits": {"cpu": "1", "memory": "1Gi"},
            "requests": {"cpu": "1", "memory": "1Gi"}});
        for (containers, class) in [
            (json!([{}]), "BestEffort"),
            (json!([{"resources": {"requests": {"cpu": "0"}}}]), "BestEffort"),
            (json!([{"resources": {"requests": {"cpu": "1"}}}]), "Burstable"),
            (json!([{"resources": limits}]), "Guaranteed"),
            (json!([{"resources": limits}, {}]), "Burstable"),
        ] {
            assert_eq!(qos_class(&json!({ "containers": containers })), class, "{containers}");
        }
    }

    #[test]
    fn requests() {
        let pod: Pod = serde_json::from_value(json!({"spec": {
            "containers": [
                {"name": "a", "resources": {"requests": {"cpu": "100m", "memory": "10Mi"}}},
                {"name": "b", "resources": {"requests": {"cpu": "200m"}}}],
            "initContainers": [
                {"name": "s", "restartPolicy": "Always", "resources": {"requests": {"cpu": "50m"}}},
                {"name": "i", "resources": {"requests": {"cpu": "1"}}}],
        }}))
        .unwrap();
        let requests = pod_requests(&pod);
        assert_eq!(requests["cpu"].to_string(), "1050m");
        assert_eq!(requests["memory"].to_string(), "10Mi");
        // What the pod says for itself counts instead.
        let mut pod = pod;
        pod.spec.as_mut().unwrap().resources =
            serde_json::from_value(json!({"requests": {"cpu": "2"}})).unwrap();
        pod.spec.as_mut().unwrap().overhead =
            serde_json::from_value(json!({"cpu": "100m"})).unwrap();
        let requests = pod_requests(&pod);
        assert_eq!(requests["cpu"].to_string(), "2100m");
        assert_eq!(requests["memory"].to_string(), "10Mi");
    }
}
