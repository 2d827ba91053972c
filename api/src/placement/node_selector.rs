//! Whether a node is one on which a pod may run by its `nodeSelector` and required node affinity.

use k8s_openapi::api::core::v1::{Node, NodeSelectorRequirement, NodeSelectorTerm, Pod};

/// Whether the node satisfies the pod's `nodeSelector` and required node affinity.
pub fn matches(pod: &Pod, node: &Node) -> bool {
    let Some(spec) = &pod.spec else { return true };
    let mut selector = spec.node_selector.iter().flatten();
    if !selector.all(|(key, value)| label(node, key) == Some(value)) {
        return false;
    }
    let affinity = spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
    let required =
        affinity.and_then(|node| node.required_during_scheduling_ignored_during_execution.as_ref());
    required.is_none_or(|required| {
        required.node_selector_terms.iter().any(|term| term_matches(term, node))
    })
}

/// Whether one term matches; a term without any requirement matches nothing.
pub fn term_matches(term: &NodeSelectorTerm, node: &Node) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    let name = node.metadata.name.as_deref();
    !(expressions.is_empty() && fields.is_empty())
        && expressions.iter().all(|wanted| holds(wanted, label(node, &wanted.key)))
        && fields.iter().all(|wanted| wanted.key == "metadata.name" && holds(wanted, name))
}

fn label<'a>(node: &'a Node, key: &str) -> Option<&'a str> {
    node.metadata.labels.as_ref()?.get(key).map(String::as_str)
}

fn holds(wanted: &NodeSelectorRequirement, found: Option<&str>) -> bool {
    let values = wanted.values.as_deref().unwrap_or_default();
    let listed = found.is_some_and(|found| values.iter().any(|value| value == found));
    let numbers =
        || -> Option<(i64, i64)> { Some((found?.parse().ok()?, values.first()?.parse().ok()?)) };
    match wanted.operator.as_str() {
        "In" => listed,
        "NotIn" => !listed,
        "Exists" => found.is_some(),
        "DoesNotExist" => found.is_none(),
        "Gt" => numbers().is_some_and(|(found, bound)| found > bound),
        "Lt" => numbers().is_some_and(|(found, bound)| found < bound),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn one_of_the_terms_has_to_hold_as_a_whole() {
        let labels = json!({"disk": "ssd", "cores": "2"});
        let node: Node =
            serde_json::from_value(json!({"metadata": {"name": "n", "labels": labels}})).unwrap();
        let expression = |key: &str, operator: &str, values: Value| json!({"matchExpressions": [{"key": key, "operator": operator, "values": values}]});
        let field = |value: &str| {
            let name = json!({"key": "metadata.name", "operator": "In", "values": [value]});
            json!({"matchFields": [name]})
        };
        for (terms, expected) in [
            (json!([expression("disk", "In", json!(["hdd", "ssd"]))]), true),
            (json!([expression("disk", "In", json!(["hdd"]))]), false),
            (json!([expression("disk", "In", json!(["hdd"])), field("n")]), true),
            (json!([expression("disk", "NotIn", json!(["ssd"]))]), false),
            (json!([expression("tape", "NotIn", json!(["ssd"]))]), true),
            (json!([expression("disk", "Exists", json!([]))]), true),
            (json!([expression("disk", "DoesNotExist", json!([]))]), false),
            (json!([expression("cores", "Gt", json!(["1"]))]), true),
            (json!([expression("cores", "Lt", json!(["2"]))]), false),
            (json!([expression("disk", "Gt", json!(["1"]))]), false),
            (json!([field("other")]), false),
            (json!([{}]), false),
        ] {
            let required = json!({"requiredDuringSchedulingIgnoredDuringExecution":
                {"nodeSelectorTerms": terms}});
            let spec = json!({"containers": [], "affinity": {"nodeAffinity": required}});
            let pod: Pod = serde_json::from_value(json!({"spec": spec})).unwrap();
            assert_eq!(matches(&pod, &node), expected, "{terms}");
        }
    }
}
