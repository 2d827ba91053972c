//! Upstream's sentence for a pod that no node will take.

use std::collections::BTreeMap;

use crate::scheduler::filter::Refusal;

/// How preemption ended for a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Preemption {
    /// Others make room; nothing more is to be said.
    MakesRoom,
    /// It was tried on every node, in vain for these reasons.
    Tried(Vec<String>),
    /// The pod may not preempt; the reason completes the sentence.
    NotEligible(&'static str),
}

/// `0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: …`.
pub fn sentence<'a>(
    refusals: impl ExactSizeIterator<Item = &'a Refusal>,
    preemption: Preemption,
) -> String {
    let total = refusals.len();
    if total == 0 {
        return "no nodes available to schedule pods".to_owned();
    }
    let filtered = count(refusals.flat_map(|refusal| refusal.reasons.iter().cloned()));
    let preempted = match preemption {
        Preemption::MakesRoom => String::new(),
        Preemption::NotEligible(reason) => format!(" preemption: not eligible due to {reason}."),
        Preemption::Tried(reasons) => {
            let reasons = count(reasons.into_iter());
            format!(" preemption: 0/{total} nodes are available: {reasons}.")
        }
    };
    format!("0/{total} nodes are available: {filtered}.{preempted}")
}

/// The sentence for a pod that something keeps from every one of `nodes` nodes.
pub fn obstacle(nodes: usize, reason: &str) -> String {
    if nodes == 0 {
        return sentence([].iter(), Preemption::MakesRoom);
    }
    format!(
        "0/{nodes} nodes are available: {reason}. preemption: 0/{nodes} nodes are available: \
         {nodes} Preemption is not helpful for scheduling."
    )
}

fn count(reasons: impl Iterator<Item = String>) -> String {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for reason in reasons {
        *counts.entry(reason).or_default() += 1;
    }
    let mut texts: Vec<String> =
        counts.into_iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    texts.sort();
    texts.join(", ")
}
