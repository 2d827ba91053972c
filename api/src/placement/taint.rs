//! Which taints of a node a pod tolerates.

use k8s_openapi::api::core::v1::{Node, Pod, Taint, Toleration};

/// The effects that keep a pod from being scheduled.
pub const KEEPS_AWAY: [&str; 2] = ["NoSchedule", "NoExecute"];
/// The effect that drives running pods out, too.
pub const DRIVES_OUT: [&str; 1] = ["NoExecute"];

/// The first taint of one of these effects that the pod does not tolerate.
pub fn untolerated<'a>(pod: &Pod, node: &'a Node, effects: &[&str]) -> Option<&'a Taint> {
    let taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    let mut harmful = taints.filter(|taint| effects.contains(&taint.effect.as_str()));
    harmful.find(|taint| !tolerates(pod, taint))
}

/// Whether the pod tolerates the taint.
pub fn tolerates(pod: &Pod, taint: &Taint) -> bool {
    let mut tolerations = pod.spec.iter().flat_map(|spec| spec.tolerations.iter().flatten());
    tolerations.any(|toleration| covers(toleration, taint))
}

/// Whether one toleration is about the taint (upstream `Toleration.ToleratesTaint`).
pub fn covers(toleration: &Toleration, taint: &Taint) -> bool {
    let effect = toleration.effect.as_deref().unwrap_or_default();
    let key = toleration.key.as_deref().unwrap_or_default();
    (effect.is_empty() || effect == taint.effect)
        && (key.is_empty() || key == taint.key)
        && match toleration.operator.as_deref().unwrap_or_default() {
            "Exists" => true,
            "" | "Equal" => {
                !key.is_empty()
                    && toleration.value.as_deref().unwrap_or_default()
                        == taint.value.as_deref().unwrap_or_default()
            }
            _ => false,
        }
}
