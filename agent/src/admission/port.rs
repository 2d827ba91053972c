//! Whether the ports of the machine that a pod wants are free.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{ContainerPort, Pod};

/// Whether one of the others has a port that `pod` wants.
pub fn is_taken(pod: &Pod, others: &[Arc<Pod>]) -> bool {
    let wanted: Vec<&ContainerPort> = host_ports(pod).collect();
    !wanted.is_empty()
        && others.iter().flat_map(|other| host_ports(other)).any(|taken| {
            wanted.iter().any(|wanted| {
                taken.host_port == wanted.host_port
                    && protocol(taken) == protocol(wanted)
                    && overlap(address(taken), address(wanted))
            })
        })
}

/// The ports of the containers that run together.
fn host_ports(pod: &Pod) -> impl Iterator<Item = &ContainerPort> {
    let spec = pod.spec.iter();
    let sidecars = spec
        .clone()
        .flat_map(|spec| spec.init_containers.iter().flatten())
        .filter(|container| container.restart_policy.as_deref() == Some("Always"));
    let containers = spec.flat_map(|spec| &spec.containers).chain(sidecars);
    let ports = containers.flat_map(|container| container.ports.iter().flatten());
    ports.filter(|port| port.host_port.is_some_and(|number| number > 0))
}

fn protocol(port: &ContainerPort) -> &str {
    port.protocol.as_deref().unwrap_or("TCP")
}

fn address(port: &ContainerPort) -> &str {
    port.host_ip.as_deref().unwrap_or_default()
}

fn overlap(one: &str, other: &str) -> bool {
    let everywhere = |address: &str| matches!(address, "" | "0.0.0.0" | "::");
    one == other || everywhere(one) || everywhere(other)
}
