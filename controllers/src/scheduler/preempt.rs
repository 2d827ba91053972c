//! Making room for a pod of higher priority.

use std::cmp::Reverse;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;

use crate::pod;
use crate::scheduler::affinity::NamespaceLabels;
use crate::scheduler::filter::{self, Refusal};
use crate::scheduler::node::{Nodes, Use, priority};
use crate::selector;

/// The reason of the condition that a pod carries which has to make room.
pub const PREEMPTED: &str = "PreemptionByScheduler";

/// The pods to delete from a node so that a pod fits there.
#[derive(Clone, Debug)]
pub struct Eviction {
    /// The node.
    pub node: String,
    /// The pods.
    pub victims: Vec<Arc<Pod>>,
    /// How many of them a budget would keep.
    violations: usize,
}

/// Whether pods are already leaving `node`, to which `pod` is nominated, to make room for it.
pub fn is_under_way(pod: &Pod, node: &str, nodes: &Nodes) -> bool {
    let mine = priority(pod);
    let leaves = |used: &Use| {
        used.priority() < mine
            && used.pod.metadata.deletion_timestamp.is_some()
            && pod::condition(&used.pod, "DisruptionTarget").is_some_and(|condition| {
                condition.status == "True" && condition.reason.as_deref() == Some(PREEMPTED)
            })
    };
    nodes.usage(node).is_some_and(|usage| usage.pods.values().any(leaves))
}

/// Finds the node where the least must go, or says of every node why nothing can.
pub fn plan(
    wanted: &Use,
    refusals: &[(&String, Refusal)],
    nodes: &Nodes,
    namespaces: &NamespaceLabels,
    budgets: &[Arc<PodDisruptionBudget>],
) -> Result<Eviction, Vec<String>> {
    let mut candidates = Vec::new();
    let mut reasons = Vec::new();
    for (name, refusal) in refusals {
        if !refusal.resolvable {
            reasons.push("Preemption is not helpful for scheduling".to_owned());
            continue;
        }
        match on_node(wanted, name, nodes, namespaces, budgets) {
            Ok(eviction) => candidates.push(eviction),
            Err(why) => reasons.extend(why),
        }
    }
    candidates.into_iter().min_by_key(cost).ok_or(reasons)
}

/// What upstream compares: broken budgets, the highest priority, the sum of them, the number.
fn cost(eviction: &Eviction) -> (usize, Option<i32>, i64, usize) {
    let priorities = || eviction.victims.iter().map(|pod| priority(pod));
    // Shifted, so that a pod of negative priority makes the sum no smaller.
    let sum = priorities().map(|priority| i64::from(priority) + i64::from(i32::MAX) + 1).sum();
    (eviction.violations, priorities().max(), sum, eviction.victims.len())
}

fn on_node(
    wanted: &Use,
    name: &str,
    nodes: &Nodes,
    namespaces: &NamespaceLabels,
    budgets: &[Arc<PodDisruptionBudget>],
) -> Result<Eviction, Vec<String>> {
    let mut trial = nodes.clone();
    let usage = trial.usage.entry(name.to_owned()).or_default();
    let lower = usage.pods.iter().filter(|(_, used)| used.priority() < wanted.priority());
    let mut lower: Vec<_> = lower.map(|(uid, used)| (uid.clone(), used.clone())).collect();
    if lower.is_empty() {
        return Err(vec!["No preemption victims found for incoming pod".to_owned()]);
    }
    for (uid, _) in &lower {
        usage.remove(uid);
    }
    filter::check(wanted, name, &trial, namespaces).map_err(|refusal| refusal.reasons)?;
    lower.sort_by_key(|(_, used)| importance(&used.pod));
    let (protected, free) = by_budget(lower, budgets);
    // Those that a budget protects may stay first, then the more important ones.
    let mut eviction = Eviction { node: name.to_owned(), victims: Vec::new(), violations: 0 };
    for (is_protected, pods) in [(true, protected), (false, free)] {
        for (uid, used) in pods {
            trial.usage.entry(name.to_owned()).or_default().insert(uid.clone(), used.clone());
            if filter::check(wanted, name, &trial, namespaces).is_err() {
                trial.usage.entry(name.to_owned()).or_default().remove(&uid);
                eviction.victims.push(used.pod);
                eviction.violations += usize::from(is_protected);
            }
        }
    }
    Ok(eviction)
}

/// Higher priority first, and among equals those that started earlier.
fn importance(pod: &Pod) -> (Reverse<i32>, bool, Option<Timestamp>) {
    let started = pod.status.as_ref().and_then(|status| status.start_time.as_ref());
    (Reverse(priority(pod)), started.is_none(), started.map(|time| time.0))
}

type Uses = Vec<(String, Use)>;

/// Those whose loss a budget does not allow, and the others, in the order given.
fn by_budget(pods: Uses, budgets: &[Arc<PodDisruptionBudget>]) -> (Uses, Uses) {
    let mut left: Vec<i32> = budgets
        .iter()
        .map(|budget| budget.status.as_ref().map_or(0, |status| status.disruptions_allowed))
        .collect();
    pods.into_iter().partition(|(_, used)| {
        let mut forbidden = false;
        for (budget, left) in budgets.iter().zip(&mut left) {
            if counts(budget, &used.pod) {
                *left -= 1;
                forbidden |= *left < 0;
            }
        }
        forbidden
    })
}

/// Whether the loss of the pod is one for the budget that it does not know of yet.
fn counts(budget: &PodDisruptionBudget, pod: &Pod) -> bool {
    let labels = pod.metadata.labels.as_ref();
    let wanted = budget.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    let known = budget.status.as_ref().and_then(|status| status.disrupted_pods.as_ref());
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    budget.metadata.namespace == pod.metadata.namespace
        && wanted.is_some_and(|s| !selector::is_empty(s) && selector::matches(s, labels))
        && !known.is_some_and(|known| known.contains_key(name))
}
