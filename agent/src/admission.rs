//! Whether the node takes in a pod that is new to it: the kubelet's last word, which counts where
//! somebody else than the scheduler bound the pod.
//!
//! Tests, their order and their words are those of upstream's kubelet (its admit handlers, and
//! `pkg/kubelet/lifecycle/predicate.go`), but a critical pod drives nobody out: the scheduler does
//! that.

mod app_armor;
pub mod host_port;
mod room;
mod sysctl;

use std::sync::Arc;

use api::placement::node_selector;
use api::placement::port::host_ports;
use api::placement::taint::{DRIVES_OUT, untolerated};
use api::pod::is_terminal;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};

use crate::worker::state::Failure;

pub use sysctl::dotted;

/// The label that names an operating system, of nodes and pods.
const OS_LABEL: &str = "kubernetes.io/os";
/// The operating system of every node.
const OS: &str = "linux";

/// Whether the node has yet to take the pod in. One that it took in before keeps its place whatever
/// has become of the node: its start time, which only the agent writes, tells of that.
pub fn is_new(pod: &Pod) -> bool {
    let started = pod.status.as_ref().is_some_and(|status| status.start_time.is_some());
    !started && !is_terminal(pod) && pod.metadata.deletion_timestamp.is_none()
}

/// When a pod's turn comes among the new ones: the older first, then the one that was bound first.
pub fn turn(pod: &Pod) -> (Option<Timestamp>, u64) {
    let created = pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
    let version = pod.metadata.resource_version.as_deref().unwrap_or_default();
    (created, version.parse().unwrap_or(0))
}

/// Why the node does not take `pod` in beside the `others` on it: the first of all reasons. What
/// depends on the node is not tried where it is not known.
pub fn refusal(pod: &Pod, node: Option<&Node>, others: &[Arc<Pod>]) -> Option<Failure> {
    sysctl::refusal(pod)
        .or_else(|| wrong_os(pod))
        .or_else(|| failed_test(pod, node?, others))
        .or_else(|| app_armor::refusal(pod, app_armor::is_enabled))
}

fn failed_test(pod: &Pod, node: &Node, others: &[Arc<Pod>]) -> Option<Failure> {
    room::shortage(pod, node, others)
        .or_else(|| {
            let differs = !node_selector::matches(pod, node);
            let why = "node(s) didn't match Pod's node affinity/selector";
            differs.then(|| failed_predicate("NodeAffinity", why))
        })
        .or_else(|| {
            let why = "node(s) didn't have free ports for the requested pod ports";
            has_taken_port(pod, others).then(|| failed_predicate("NodePorts", why))
        })
        .or_else(|| {
            let why = "node(s) had taints that the pod didn't tolerate";
            untolerated(pod, node, &DRIVES_OUT).map(|_| failed_predicate("TaintToleration", why))
        })
}

/// Whether one of the others has a port of the machine that `pod` wants.
fn has_taken_port(pod: &Pod, others: &[Arc<Pod>]) -> bool {
    let wanted = host_ports(pod);
    let mut taken =
        others.iter().filter(|_| !wanted.is_empty()).flat_map(|other| host_ports(other));
    taken.any(|taken| wanted.iter().any(|wanted| wanted.conflicts(&taken)))
}

fn failed_predicate(name: &str, why: &str) -> Failure {
    Failure { reason: name.into(), message: format!("Predicate {name} failed: {why}") }
}

fn wrong_os(pod: &Pod) -> Option<Failure> {
    let label = pod.metadata.labels.as_ref().and_then(|labels| labels.get(OS_LABEL));
    if label.is_some_and(|label| label != OS) {
        return Some(Failure {
            reason: "PodOSSelectorNodeLabelDoesNotMatch".into(),
            message: "Failed to admit pod as the `kubernetes.io/os` label doesn't match node label"
                .into(),
        });
    }
    let os = pod.spec.as_ref().and_then(|spec| spec.os.as_ref());
    os.filter(|os| os.name != OS).map(|_| Failure {
        reason: "PodOSNotSupported".into(),
        message: "Failed to admit pod as the OS field doesn't match node OS".into(),
    })
}

#[cfg(test)]
#[path = "admission/tests.rs"]
mod tests;
