//! Whether a pod can run on a node, in the order and with the words of upstream's plugins.

use std::sync::Arc;

use api::placement::taint::KEEPS_AWAY;
use api::placement::{node_selector, resources, taint};
use k8s_openapi::api::core::v1::{Node, Taint};

use crate::scheduler::affinity::{self, Distance, NamespaceLabels, Uneven};
use crate::scheduler::node::{Nodes, Use};

/// The taint that stands for `spec.unschedulable`.
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

/// Why a node will not do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The reasons, one for each resource that is short.
    pub reasons: Vec<String>,
    /// Whether the removal of other pods could help.
    pub resolvable: bool,
}

impl Refusal {
    /// Nothing helps but another node.
    pub fn final_(reason: impl Into<String>) -> Self {
        Self { reasons: vec![reason.into()], resolvable: false }
    }

    /// The removal of other pods might help.
    pub fn for_now(reason: impl Into<String>) -> Self {
        Self { reasons: vec![reason.into()], resolvable: true }
    }
}

/// Checks one node.
pub fn check(
    wanted: &Use,
    name: &str,
    nodes: &Nodes,
    namespaces: &NamespaceLabels,
) -> Result<(), Refusal> {
    let pod = &wanted.pod;
    let Some(node) = nodes.nodes.get(name) else {
        return Err(Refusal::final_("node(s) didn't exist"));
    };
    let spec = node.spec.as_ref();
    if spec.and_then(|spec| spec.unschedulable) == Some(true) {
        let taint = Taint {
            key: UNSCHEDULABLE.to_owned(),
            effect: "NoSchedule".to_owned(),
            ..Taint::default()
        };
        if !taint::tolerates(pod, &taint) {
            return Err(Refusal::final_("node(s) were unschedulable"));
        }
    }
    if let Some(named) = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref())
        && !named.is_empty()
        && named != name
    {
        return Err(Refusal::final_("node(s) didn't match the requested node name"));
    }
    if let Some(taint) = taint::untolerated(pod, node, &KEEPS_AWAY) {
        let value = taint.value.as_deref().unwrap_or_default();
        let reason = format!("node(s) had untolerated taint {{{}: {value}}}", taint.key);
        return Err(Refusal::final_(reason));
    }
    if !node_selector::matches(pod, node) {
        return Err(Refusal::final_("node(s) didn't match Pod's node affinity/selector"));
    }
    if nodes.usage(name).is_some_and(|usage| usage.conflicts(&wanted.ports)) {
        return Err(Refusal::for_now("node(s) didn't have free ports for the requested pod ports"));
    }
    fits(wanted, name, node, nodes)?;
    wanted.claims.check(pod, node, nodes)?;
    affinity::spreads(pod, name, nodes).map_err(|uneven| match uneven {
        Uneven::TooMany => Refusal::for_now("node(s) didn't match pod topology spread constraints"),
        Uneven::NoLabel => Refusal::final_(
            "node(s) didn't match pod topology spread constraints (missing required label)",
        ),
    })?;
    affinity::pods_agree(pod, name, nodes, namespaces).map_err(|distance| match distance {
        Distance::NotNear => Refusal::final_("node(s) didn't match pod affinity rules"),
        Distance::TooNear => Refusal::for_now("node(s) didn't match pod anti-affinity rules"),
        Distance::Unwelcome => {
            Refusal::for_now("node(s) didn't satisfy existing pods anti-affinity rules")
        }
    })
}

fn fits(wanted: &Use, name: &str, node: &Arc<Node>, nodes: &Nodes) -> Result<(), Refusal> {
    let allocatable = resources::allocatable(node);
    let empty = crate::scheduler::node::Usage::default();
    let usage = nodes.usage(name).unwrap_or(&empty);
    let mut reasons = Vec::new();
    let mut resolvable = true;
    let pods = i64::try_from(usage.pods.len()).unwrap_or(i64::MAX);
    if pods + 1 > allocatable.get("pods") {
        reasons.push("Too many pods".to_owned());
        resolvable &= allocatable.get("pods") > 0;
    }
    for (resource, request) in &wanted.requests.0 {
        let has = allocatable.get(resource);
        if *request > 0 && *request > has.saturating_sub(usage.requested.get(resource)) {
            reasons.push(format!("Insufficient {resource}"));
            resolvable &= *request <= has;
        }
    }
    if reasons.is_empty() { Ok(()) } else { Err(Refusal { reasons, resolvable }) }
}
