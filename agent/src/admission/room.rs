//! Whether the node has room for what a pod requests.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::pod::pod_requests;
use api::quantity::Quantity;
use k8s_openapi::api::core::v1::{Node, Pod};

use crate::worker::state::Failure;

/// Amounts by resource: thousandths for `cpu`, whole units for all others.
type Amounts = BTreeMap<String, i64>;

/// The resources that are looked at first, in this order.
const FIRST: [&str; 3] = ["cpu", "memory", "ephemeral-storage"];

/// The first resource of which too little is left beside the `others`.
pub fn shortage(pod: &Pod, node: &Node, others: &[Arc<Pod>]) -> Option<Failure> {
    let allocatable = allocatable(node);
    let capacity = |resource: &str| allocatable.get(resource).copied().unwrap_or(0);
    let pods = i64::try_from(others.len()).unwrap_or(i64::MAX);
    if pods >= capacity("pods") {
        return Some(out_of("pods", 1, pods, capacity("pods")));
    }
    let mut wanted = requests(pod);
    // An extended resource that the node does not know is somebody else's to give.
    wanted.retain(|resource, amount| {
        *amount > 0 && (!is_extended(resource) || allocatable.contains_key(resource))
    });
    if wanted.is_empty() {
        return None;
    }
    let mut used = Amounts::new();
    for (resource, amount) in others.iter().flat_map(|other| requests(other)) {
        let sum = used.entry(resource).or_default();
        *sum = sum.saturating_add(amount);
    }
    let rest = wanted.keys().map(String::as_str).filter(|resource| !FIRST.contains(resource));
    FIRST.into_iter().chain(rest).find_map(|resource| {
        let requested = *wanted.get(resource)?;
        let used = used.get(resource).copied().unwrap_or(0);
        let capacity = capacity(resource);
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

fn requests(pod: &Pod) -> Amounts {
    let requests = pod_requests(pod).into_iter();
    requests.map(|(resource, quantity)| amount(resource, quantity)).collect()
}

fn allocatable(node: &Node) -> Amounts {
    let status = node.status.as_ref();
    let map = status.and_then(|status| status.allocatable.as_ref().or(status.capacity.as_ref()));
    let read = |(resource, text): (&String, &_)| {
        let k8s_openapi::apimachinery::pkg::api::resource::Quantity(text) = text;
        amount(resource.clone(), Quantity::parse(text).unwrap_or_default())
    };
    map.into_iter().flatten().map(read).collect()
}

fn amount(resource: String, quantity: Quantity) -> (String, i64) {
    let amount = if resource == "cpu" { quantity.milli_value() } else { quantity.value() };
    (resource, amount)
}

/// Whether a resource is one that administrators invent (upstream `IsExtendedResourceName`).
fn is_extended(resource: &str) -> bool {
    let native = !resource.contains('/') || resource.contains("kubernetes.io/");
    !native && !resource.starts_with("requests.")
}
