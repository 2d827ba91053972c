//! Rolling a new template out over the nodes.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;

use crate::daemonset::place::Place;
use crate::daemonset::plan::{Observed, Plan, PodsByNode};
use crate::deployment::rollout::resolve;

/// How many nodes may be in between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Nodes with a second pod.
    pub surge: usize,
    /// Nodes without an available pod.
    pub unavailable: usize,
}

/// Whether the strategy is `RollingUpdate`.
fn is_rolling(observed: &Observed<'_>) -> bool {
    let strategy = observed.spec.update_strategy.as_ref();
    strategy.and_then(|strategy| strategy.type_.as_deref()).unwrap_or("RollingUpdate")
        == "RollingUpdate"
}

/// What the strategy allows with that many nodes: both percentages round up.
pub fn bounds(observed: &Observed<'_>, nodes: usize) -> Bounds {
    if !is_rolling(observed) {
        return Bounds { surge: 0, unavailable: 0 };
    }
    let nodes = i32::try_from(nodes).unwrap_or(i32::MAX);
    let rolling = observed.spec.update_strategy.as_ref().and_then(|s| s.rolling_update.as_ref());
    let count = |value: i32| usize::try_from(value).unwrap_or(0);
    let surge = rolling.and_then(|rolling| rolling.max_surge.as_ref());
    let surge = surge.map_or(0, |surge| count(resolve(Some(surge), nodes, true)));
    let unavailable = rolling.and_then(|rolling| rolling.max_unavailable.as_ref());
    let unavailable = unavailable.map_or(1, |bound| count(resolve(Some(bound), nodes, true)));
    // Validation forbids both to be zero; percentages of no nodes are not asked for anything.
    let unavailable = if surge == 0 { unavailable.max(1) } else { unavailable };
    Bounds { surge, unavailable }
}

/// The pod of the present template and the pod of an older one on a node.
type Pair<'a> = (Option<&'a Arc<Pod>>, Option<&'a Arc<Pod>>);

/// The pods of a node; `None` when there are several of a sort.
fn pair<'a>(observed: &Observed<'_>, pods: &'a [Arc<Pod>]) -> Option<Pair<'a>> {
    let (mut new, mut old) = (None, None);
    for pod in pods.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()) {
        let place = if observed.is_updated(pod) { &mut new } else { &mut old };
        if place.replace(pod).is_some() {
            return None;
        }
    }
    Some((new, old))
}

/// Takes the next steps of a rolling update.
pub fn roll(
    observed: &Observed<'_>,
    places: &BTreeMap<String, Place>,
    by_node: &PodsByNode,
    bounds: Bounds,
    plan: &mut Plan,
) {
    if !is_rolling(observed) {
        return;
    }
    // Nodes that want a pod or have one.
    let mut nodes: BTreeMap<&str, &[Arc<Pod>]> =
        by_node.iter().map(|(node, pods)| (node.as_str(), pods.as_slice())).collect();
    for (node, _) in places.iter().filter(|(_, place)| place.wanted) {
        nodes.entry(node).or_default();
    }
    if bounds.surge == 0 {
        replace(observed, &nodes, bounds.unavailable, plan);
    } else {
        surge(observed, &nodes, bounds.surge, plan);
    }
}

/// Deletes old pods as far as enough others are available.
fn replace(
    observed: &Observed<'_>,
    nodes: &BTreeMap<&str, &[Arc<Pod>]>,
    allowed: usize,
    plan: &mut Plan,
) {
    let mut unavailable = 0;
    let mut broken = Vec::new();
    let mut candidates = Vec::new();
    for pods in nodes.values() {
        match pair(observed, pods) {
            None | Some((None, None) | (Some(_), Some(_))) => unavailable += 1,
            Some((Some(new), None)) => unavailable += usize::from(!observed.is_available(new)),
            // What does not serve anyway costs nothing.
            Some((None, Some(old))) if !observed.is_available(old) => {
                unavailable += 1;
                broken.push(old.clone());
            }
            Some((None, Some(old))) => candidates.push(old.clone()),
        }
    }
    plan.delete.extend(broken);
    plan.delete.extend(candidates.into_iter().take(allowed.saturating_sub(unavailable)));
}

/// Puts new pods beside old ones, and deletes the old ones that have been relieved.
fn surge(
    observed: &Observed<'_>,
    nodes: &BTreeMap<&str, &[Arc<Pod>]>,
    allowed: usize,
    plan: &mut Plan,
) {
    let mut surging = 0;
    let mut broken = Vec::new();
    let mut candidates = Vec::new();
    for (node, pods) in nodes {
        match pair(observed, pods) {
            None => surging += 1,
            Some((_, None)) => {}
            Some((None, Some(old))) if !observed.is_available(old) => {
                broken.push((*node).to_owned());
            }
            Some((None, Some(_))) => candidates.push((*node).to_owned()),
            Some((Some(new), Some(_))) if !observed.is_available(new) => surging += 1,
            Some((Some(_), Some(old))) => plan.delete.push(old.clone()),
        }
    }
    plan.create.extend(broken);
    plan.create.extend(candidates.into_iter().take(allowed.saturating_sub(surging)));
}
