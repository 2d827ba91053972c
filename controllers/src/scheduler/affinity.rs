//! Affinity of pods to nodes and to each other, and their spreading.

use std::collections::BTreeMap;

use api::placement::node_selector;
use api::placement::taint::{KEEPS_AWAY, untolerated};
use k8s_openapi::api::core::v1::{Node, Pod, PodAffinityTerm, TopologySpreadConstraint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::ResourceExt;

use crate::scheduler::node::Nodes;
use crate::selector::{self, Labels};

/// The labels of namespaces, for affinity that selects namespaces by label.
pub type NamespaceLabels = BTreeMap<String, Labels>;

/// Why pods on the nodes keep a pod away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Distance {
    /// A pod that must be near is not.
    NotNear,
    /// A pod that must be far is near.
    TooNear,
    /// A pod that is there wants this one to be far.
    Unwelcome,
}

/// Checks required affinity and anti-affinity between `pod` and the pods on all nodes.
pub fn pods_agree(
    pod: &Pod,
    node: &str,
    nodes: &Nodes,
    namespaces: &NamespaceLabels,
) -> Result<(), Distance> {
    let affinity = pod.spec.as_ref().and_then(|spec| spec.affinity.as_ref());
    let near = affinity
        .and_then(|affinity| affinity.pod_affinity.as_ref())
        .and_then(|affinity| {
            affinity.required_during_scheduling_ignored_during_execution.as_deref()
        })
        .unwrap_or_default();
    let far = affinity
        .and_then(|affinity| affinity.pod_anti_affinity.as_ref())
        .and_then(|affinity| {
            affinity.required_during_scheduling_ignored_during_execution.as_deref()
        })
        .unwrap_or_default();
    let same_place = |other: &str, key: &str| {
        let here = nodes.topology(node, key);
        here.is_some() && here == nodes.topology(other, key)
    };
    if !is_near(pod, node, near, nodes, namespaces) {
        return Err(Distance::NotNear);
    }
    for term in far {
        let too_near = nodes.pods().any(|(place, used)| {
            same_place(place, &term.topology_key) && selects(term, pod, &used.pod, namespaces)
        });
        if too_near {
            return Err(Distance::TooNear);
        }
    }
    for (place, used) in nodes.pods() {
        let theirs = used
            .pod
            .spec
            .as_ref()
            .and_then(|spec| spec.affinity.as_ref())
            .and_then(|affinity| affinity.pod_anti_affinity.as_ref())
            .and_then(|anti| anti.required_during_scheduling_ignored_during_execution.as_deref())
            .unwrap_or_default();
        let refuses = theirs.iter().any(|term| {
            same_place(place, &term.topology_key) && selects(term, &used.pod, pod, namespaces)
        });
        if refuses {
            return Err(Distance::Unwelcome);
        }
    }
    Ok(())
}

/// Whether a pod that all `terms` select is in the same place, by every one of their keys.
fn is_near(
    pod: &Pod,
    node: &str,
    terms: &[PodAffinityTerm],
    nodes: &Nodes,
    namespaces: &NamespaceLabels,
) -> bool {
    let here: Option<Vec<&str>> =
        terms.iter().map(|term| nodes.topology(node, &term.topology_key)).collect();
    let Some(here) = here else { return false };
    let wanted = |other: &Pod| terms.iter().all(|term| selects(term, pod, other, namespaces));
    let friends: Vec<&str> =
        nodes.pods().filter(|(_, used)| wanted(&used.pod)).map(|(place, _)| place).collect();
    if friends.is_empty() {
        // The first of a group of pods that want each other may go anywhere.
        return terms.is_empty() || wanted(pod);
    }
    terms.iter().zip(here).all(|(term, here)| {
        friends.iter().any(|place| nodes.topology(place, &term.topology_key) == Some(here))
    })
}

fn selects(term: &PodAffinityTerm, owner: &Pod, other: &Pod, namespaces: &NamespaceLabels) -> bool {
    let namespace = other.metadata.namespace.as_deref().unwrap_or_default();
    let listed = term.namespaces.as_deref().unwrap_or_default();
    let in_scope = match &term.namespace_selector {
        Some(wanted) => {
            listed.iter().any(|name| name == namespace)
                || selector::matches(wanted, namespaces.get(namespace))
        }
        None if listed.is_empty() => owner.metadata.namespace == other.metadata.namespace,
        None => listed.iter().any(|name| name == namespace),
    };
    in_scope && label_selector_matches(term.label_selector.as_ref(), other)
}

/// Upstream: a selector that is absent matches nothing.
fn label_selector_matches(wanted: Option<&LabelSelector>, pod: &Pod) -> bool {
    wanted.is_some_and(|wanted| selector::matches(wanted, pod.metadata.labels.as_ref()))
}

/// Why the spreading of pods forbids a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Uneven {
    /// The node lacks the label that names its place.
    NoLabel,
    /// There are too many pods in its place already.
    TooMany,
}

/// Checks the constraints that forbid scheduling.
pub fn spreads(pod: &Pod, node: &str, nodes: &Nodes) -> Result<(), Uneven> {
    let constraints = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.topology_spread_constraints.as_deref())
        .unwrap_or_default();
    constraints
        .iter()
        .filter(|constraint| constraint.when_unsatisfiable == "DoNotSchedule")
        .try_for_each(|constraint| spread(pod, node, nodes, constraint))
}

fn spread(
    pod: &Pod,
    node: &str,
    nodes: &Nodes,
    constraint: &TopologySpreadConstraint,
) -> Result<(), Uneven> {
    let key = &constraint.topology_key;
    let here = nodes.topology(node, key).ok_or(Uneven::NoLabel)?;
    let mut places: BTreeMap<&str, i32> = BTreeMap::new();
    for (name, object) in &nodes.nodes {
        if let Some(place) = nodes.topology(name, key)
            && counts(constraint, pod, object)
        {
            places.entry(place).or_default();
        }
    }
    for (name, used) in nodes.pods() {
        let counted = used.pod.metadata.namespace == pod.metadata.namespace
            && used.pod.metadata.deletion_timestamp.is_none()
            && is_alike(constraint, pod, &used.pod);
        if counted
            && let Some(place) = nodes.topology(name, key)
            && let Some(count) = places.get_mut(place)
        {
            *count += 1;
        }
    }
    let enough_places = constraint
        .min_domains
        .is_none_or(|wanted| i32::try_from(places.len()).unwrap_or(i32::MAX) >= wanted);
    let least = if enough_places { places.values().min().copied().unwrap_or(0) } else { 0 };
    let itself = i32::from(is_alike(constraint, pod, pod));
    let count = places.get(here).copied().unwrap_or(0);
    if count + itself - least > constraint.max_skew { Err(Uneven::TooMany) } else { Ok(()) }
}

/// Whether a node is one of those over which the pods are spread.
fn counts(constraint: &TopologySpreadConstraint, pod: &Pod, node: &Node) -> bool {
    let affinity = constraint.node_affinity_policy.as_deref() == Some("Ignore");
    let taints = constraint.node_taints_policy.as_deref() == Some("Honor");
    (affinity || node_selector::matches(pod, node))
        && (!taints || untolerated(pod, node, &KEEPS_AWAY).is_none())
}

/// Whether `other` is one of the pods among which `pod` is spread.
fn is_alike(constraint: &TopologySpreadConstraint, pod: &Pod, other: &Pod) -> bool {
    let keys = constraint.match_label_keys.as_deref().unwrap_or_default();
    label_selector_matches(constraint.label_selector.as_ref(), other)
        && keys.iter().all(|key| {
            let own = pod.labels().get(key);
            own.is_none() || own == other.labels().get(key)
        })
}
