//! Making room for a pod of higher priority.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;

use crate::pod;
use crate::scheduler::affinity::NamespaceLabels;
use crate::scheduler::filter;
use crate::scheduler::node::{Nodes, Use};

/// The pods to delete from a node so that a pod fits there.
#[derive(Clone, Debug)]
pub struct Eviction {
    /// The node.
    pub node: String,
    /// The pods.
    pub victims: Vec<Arc<Pod>>,
}

/// Whether pods are already leaving a node to make room there for `pod`.
pub fn is_under_way(pod: &Pod, nodes: &Nodes) -> bool {
    let nominated = pod.status.as_ref().and_then(|status| status.nominated_node_name.as_deref());
    let Some(usage) = nominated.and_then(|node| nodes.usage(node)) else { return false };
    let mine = crate::scheduler::node::priority(pod);
    usage
        .pods
        .values()
        .any(|used| used.priority() < mine && used.pod.metadata.deletion_timestamp.is_some())
}

/// Finds the node where the least must go: the lowest highest priority, then the fewest pods.
pub fn plan(wanted: &Use, nodes: &Nodes, namespaces: &NamespaceLabels) -> Option<Eviction> {
    let candidates = nodes.nodes.keys().filter_map(|name| on_node(wanted, name, nodes, namespaces));
    candidates.min_by_key(|eviction| {
        let highest =
            eviction.victims.iter().map(|pod| crate::scheduler::node::priority(pod)).max();
        (highest, eviction.victims.len())
    })
}

fn on_node(
    wanted: &Use,
    name: &str,
    nodes: &Nodes,
    namespaces: &NamespaceLabels,
) -> Option<Eviction> {
    let mut trial = nodes.clone();
    let usage = trial.usage.get_mut(name)?;
    let mut lower: Vec<(String, Use)> = usage
        .pods
        .iter()
        .filter(|(_, used)| used.priority() < wanted.priority())
        .map(|(uid, used)| (uid.clone(), used.clone()))
        .collect();
    if lower.is_empty() {
        return None;
    }
    for (uid, _) in &lower {
        usage.remove(uid);
    }
    filter::check(wanted, name, &trial, namespaces).ok()?;
    // Those of higher priority, and among equals those that started earlier, may stay first.
    lower.sort_by_key(|(_, used)| (std::cmp::Reverse(used.priority()), pod::created(&used.pod)));
    let mut victims = Vec::new();
    for (uid, used) in lower {
        trial.usage.entry(name.to_owned()).or_default().insert(uid.clone(), used.clone());
        if filter::check(wanted, name, &trial, namespaces).is_err() {
            trial.usage.entry(name.to_owned()).or_default().remove(&uid);
            victims.push(used.pod);
        }
    }
    (!victims.is_empty()).then(|| Eviction { node: name.to_owned(), victims })
}
