//! Which pod has to go first: the one furthest beyond what it asked for, among the least important.

use std::cmp::Reverse;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, Pod};

use super::is_critical;
use super::signal::Observation;
use super::threshold::{Binary, Signal, Threshold};
use crate::container::resources;

/// A pod that could go.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// The pod.
    pub pod: Arc<Pod>,
    /// What it uses of the resource that is short.
    pub usage: u64,
    /// The same by container, where it is known.
    pub containers: Vec<(String, u64)>,
}

/// The pods that may go, in this order.
pub fn rank(signal: Signal, mut candidates: Vec<Candidate>) -> Vec<Candidate> {
    candidates.retain(|candidate| !is_critical(&candidate.pod));
    candidates.sort_by_key(|candidate| {
        let requested = requested(&candidate.pod, signal);
        let priority = candidate.pod.spec.as_ref().and_then(|spec| spec.priority).unwrap_or(0);
        let beyond = i128::from(candidate.usage) - i128::from(requested);
        (beyond <= 0, priority, Reverse(beyond))
    });
    candidates
}

/// Why a pod goes, in the words of the kubelet.
pub fn message(candidate: &Candidate, threshold: &Threshold, seen: &Observation) -> String {
    let resource = threshold.signal.resource();
    let level = seen.of(threshold.signal);
    let (least, left) = (threshold.least(level), level.available);
    let mut message = format!("The node was low on resource: {resource}. ");
    message.push_str(&match threshold.signal {
        Signal::Memory | Signal::NodeFs | Signal::ImageFs => {
            format!("Threshold quantity: {}, available: {}. ", Binary(least), Binary(left & !1023))
        }
        _ => format!("Threshold quantity: {least}, available: {left}. "),
    });
    let containers = candidate.pod.spec.iter().flat_map(|spec| &spec.containers);
    for container in containers {
        let used = candidate.containers.iter().find(|(name, _)| *name == container.name);
        let Some((name, used)) = used else { continue };
        let asked = request(container, threshold.signal);
        if *used > asked {
            message.push_str(&format!(
                "Container {name} was using {}, request is {}, has larger consumption of \
                 {resource}. ",
                Binary(*used & !1023),
                Binary(asked)
            ));
        }
    }
    message
}

fn requested(pod: &Pod, signal: Signal) -> u64 {
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    containers.map(|container| request(container, signal)).sum()
}

fn request(container: &Container, signal: Signal) -> u64 {
    let name = match signal {
        Signal::Memory => "memory",
        Signal::NodeFs | Signal::ImageFs => "ephemeral-storage",
        _ => return 0,
    };
    let requests = container.resources.as_ref().and_then(|resources| resources.requests.as_ref());
    let quantity = requests.and_then(|requests| requests.get(name));
    quantity.and_then(resources::units).and_then(|units| u64::try_from(units).ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::signal::Level;
    use super::*;
    use serde_json::json;

    fn candidate(name: &str, request: &str, priority: i32, usage_mib: u64) -> Candidate {
        let pod = json!({
            "metadata": {"name": name},
            "spec": {"priority": priority, "containers": [
                {"name": "main", "resources": {"requests": {"memory": request}}},
            ]},
        });
        let usage = usage_mib << 20;
        let pod = Arc::new(serde_json::from_value(pod).unwrap());
        Candidate { pod, usage, containers: vec![("main".into(), usage)] }
    }

    #[test]
    fn beyond_requests_then_priority_then_usage() {
        let order = rank(
            Signal::Memory,
            vec![
                candidate("within", "100Mi", 0, 90),
                candidate("important", "10Mi", 100, 500),
                candidate("beyond", "10Mi", 0, 40),
                candidate("far-beyond", "10Mi", 0, 400),
                candidate("critical", "0", 2_000_000_000, 900),
                candidate("best-effort", "0", 0, 50),
            ],
        );
        let names: Vec<_> =
            order.iter().map(|c| c.pod.metadata.name.clone().unwrap_or_default()).collect();
        assert_eq!(names, ["far-beyond", "best-effort", "beyond", "important", "within"]);
    }

    #[test]
    fn the_message_names_who_used_too_much() {
        let threshold: Threshold = "memory.available<100Mi".parse().unwrap();
        let memory = Level { available: 50 << 20, capacity: 1 << 30 };
        let seen = Observation { memory, ..Observation::default() };
        assert_eq!(
            message(&candidate("p", "10Mi", 0, 40), &threshold, &seen),
            "The node was low on resource: memory. Threshold quantity: 100Mi, available: 50Mi. \
             Container main was using 40Mi, request is 10Mi, has larger consumption of memory. "
        );
    }
}
