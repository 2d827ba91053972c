//! What the server adds to a new pod (upstream `podStrategy.PrepareForCreate`).

use serde_json::{Value, json};

use crate::defaults::{child, items_at, object_at, set};
use crate::pod;

/// The status that a pod begins with.
pub fn first_status(pod: &Value) -> Value {
    let mut status = json!({ "phase": "Pending", "qosClass": pod::qos_class(&pod["spec"]) });
    let gates = pod["spec"]["schedulingGates"].as_array();
    if gates.is_some_and(|gates| !gates.is_empty()) {
        status["conditions"] = json!([{
            "type": "PodScheduled",
            "status": "False",
            "reason": "SchedulingGated",
            "message": "Scheduling is blocked due to non-empty scheduling gates",
            "lastProbeTime": null,
            "lastTransitionTime": null,
        }]);
    }
    status
}

/// Writes the labels that `matchLabelKeys` and `mismatchLabelKeys` name into the selectors of the
/// pod's affinity, so that a later change of its labels changes nothing.
pub fn resolve_label_keys(pod: &mut Value) {
    let labels = pod["metadata"]["labels"].clone();
    let Some(affinity) = object_at(child(pod, "spec"), "affinity") else { return };
    for kind in ["podAffinity", "podAntiAffinity"] {
        let Some(pods) = object_at(affinity, kind) else { continue };
        for term in items_at(pods, "requiredDuringSchedulingIgnoredDuringExecution") {
            resolve_term(term, &labels);
        }
        for term in items_at(pods, "preferredDuringSchedulingIgnoredDuringExecution") {
            if let Some(term) = object_at(term, "podAffinityTerm") {
                resolve_term(term, &labels);
            }
        }
    }
}

fn resolve_term(term: &mut Value, labels: &Value) {
    if !term["labelSelector"].is_object() {
        return;
    }
    let mut added = Vec::new();
    for (list, operator) in [("matchLabelKeys", "In"), ("mismatchLabelKeys", "NotIn")] {
        for key in term[list].as_array().into_iter().flatten().filter_map(Value::as_str) {
            if let Some(value) = labels[key].as_str() {
                added.push(json!({ "key": key, "operator": operator, "values": [value] }));
            }
        }
    }
    if added.is_empty() {
        return;
    }
    let selector = child(term, "labelSelector");
    let mut expressions = selector["matchExpressions"].as_array().cloned().unwrap_or_default();
    expressions.extend(added);
    set(selector, "matchExpressions", expressions);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gated_pod_says_that_it_is() {
        let gated = first_status(&json!({"spec": {"schedulingGates": [{"name": "a.example/b"}]}}));
        assert_eq!(gated["conditions"][0]["reason"], "SchedulingGated");
        let free = first_status(&json!({"spec": {"schedulingGates": []}}));
        assert_eq!(free, json!({"phase": "Pending", "qosClass": "BestEffort"}));
    }

    #[test]
    fn label_keys_are_resolved_once() {
        let term = |keys: &str| {
            json!({"topologyKey": "zone", keys: ["version", "absent"],
                "labelSelector": {"matchLabels": {"app": "web"}}})
        };
        let mut pod = json!({"metadata": {"labels": {"version": "2"}}, "spec": {"affinity": {
            "podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
                [term("matchLabelKeys")]},
            "podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution":
                [{"weight": 1, "podAffinityTerm": term("mismatchLabelKeys")}]}}}});
        resolve_label_keys(&mut pod);
        let affinity = &pod["spec"]["affinity"];
        let near = &affinity["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"][0];
        assert_eq!(
            near["labelSelector"],
            json!({"matchLabels": {"app": "web"}, "matchExpressions": [
                {"key": "version", "operator": "In", "values": ["2"]}]})
        );
        let far = &affinity["podAntiAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"];
        assert_eq!(
            far[0]["podAffinityTerm"]["labelSelector"]["matchExpressions"],
            json!([{"key": "version", "operator": "NotIn", "values": ["2"]}])
        );
        // What has no affinity between pods keeps none.
        let plain = json!({"metadata": {}, "spec": {"affinity": {"nodeAffinity": {}}}});
        let mut same = plain.clone();
        resolve_label_keys(&mut same);
        assert_eq!(same, plain);
    }
}
