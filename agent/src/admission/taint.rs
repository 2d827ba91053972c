//! Taints of the node, and which of them a pod tolerates.

use k8s_openapi::api::core::v1::{Node, Pod, Taint, Toleration};

/// Whether the node has a taint that would end the pod at once. Taints that only keep pods from
/// being scheduled are the scheduler's business.
pub fn drives_out(pod: &Pod, node: &Node) -> bool {
    let taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    taints.into_iter().any(|taint| taint.effect == "NoExecute" && !tolerates(pod, taint))
}

/// Whether the pod tolerates the taint.
pub fn tolerates(pod: &Pod, taint: &Taint) -> bool {
    let mut tolerations = pod.spec.iter().flat_map(|spec| spec.tolerations.iter().flatten());
    tolerations.any(|toleration| covers(toleration, taint))
}

fn covers(toleration: &Toleration, taint: &Taint) -> bool {
    let effect = toleration.effect.as_deref().unwrap_or_default();
    let key = toleration.key.as_deref().unwrap_or_default();
    let value = |value: &Option<String>| value.clone().unwrap_or_default();
    (effect.is_empty() || effect == taint.effect)
        && (key.is_empty() || key == taint.key)
        && match toleration.operator.as_deref().unwrap_or_default() {
            "Exists" => true,
            "" | "Equal" => !key.is_empty() && value(&toleration.value) == value(&taint.value),
            _ => false,
        }
}
