//! Whether the node has room for what a pod requests.

use std::sync::Arc;

use api::placement::Resources;
use api::placement::resources::{allocatable, requests};
use k8s_openapi::api::core::v1::{Node, Pod};

use crate::worker::state::Failure;

/// The resources that are looked at first, in this order.
const FIRST: [&str; 3] = ["cpu", "memory", "ephemeral-storage"];

/// The first resource of which too little is left beside the `others`.
pub fn shortage(pod: &Pod, node: &Node, others: &[Arc<Pod>]) -> Option<Failure> {
    let allocatable = allocatable(node);
    let pods = i64::try_from(others.len()).unwrap_or(i64::MAX);
    if pods >= allocatable.get("pods") {
        return Some(out_of("pods", 1, pods, allocatable.get("pods")));
    }
    let Resources(mut wanted) = requests(pod);
    // An extended resource that the node does not know is somebody else's to give.
    wanted.retain(|resource, amount| {
        *amount > 0 && (!is_extended(resource) || allocatable.0.contains_key(resource))
    });
    if wanted.is_empty() {
        return None;
    }
    let mut used = Resources::default();
    for other in others {
        used.add(&requests(other));
    }
    let rest = wanted.keys().map(String::as_str).filter(|resource| !FIRST.contains(resource));
    FIRST.into_iter().chain(rest).find_map(|resource| {
        let requested = *wanted.get(resource)?;
        let (used, capacity) = (used.get(resource), allocatable.get(resource));
        let fits = requested <= capacity.saturating_sub(used);
        (!fits).then(|| out_of(resource, requested, used, capacity))
    })
}

fn out_of(resource: &str, requested: i64, used: i64, capacity: i64) -> Failure {
    Failure {
        reason: format!("OutOf{resource}"),
        message: format!(
            "Node didn't have enough resource: {resource}, requested: {requested}, used: {used}, \
             capacity: {capacity}"
        ),
    }
}

/// Whether a resource is one that administrators invent (upstream `IsExtendedResourceName`).
fn is_extended(resource: &str) -> bool {
    let native = !resource.contains('/') || resource.contains("kubernetes.io/");
    !native && !resource.starts_with("requests.")
}
