//! Ports of the machine that pods claim.

use k8s_openapi::api::core::v1::Pod;

/// A port that a pod claims on its node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    /// The address of the node; empty for all.
    pub address: String,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
    /// The number.
    pub number: i32,
}

impl HostPort {
    /// Whether two pods with these ports cannot run on one node.
    pub fn conflicts(&self, other: &Self) -> bool {
        let everywhere = |address: &str| matches!(address, "" | "0.0.0.0" | "::");
        self.number == other.number
            && self.protocol == other.protocol
            && (self.address == other.address
                || everywhere(&self.address)
                || everywhere(&other.address))
    }
}

/// The host ports that a pod claims: those of the containers that run together.
pub fn host_ports(pod: &Pod) -> Vec<HostPort> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    let init = spec.init_containers.iter().flatten();
    let sidecars = init.filter(|container| container.restart_policy.as_deref() == Some("Always"));
    let containers = spec.containers.iter().chain(sidecars);
    containers
        .flat_map(|container| container.ports.iter().flatten())
        .filter_map(|port| {
            Some(HostPort {
                address: port.host_ip.clone().unwrap_or_default(),
                protocol: port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
                number: port.host_port.filter(|number| *number > 0)?,
            })
        })
        .collect()
}
