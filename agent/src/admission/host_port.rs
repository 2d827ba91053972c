//! Ports and addresses of the machine that a pod may not take.
//!
//! A `hostPort` is translated before the machine's own sockets are asked: a pod with the port of
//! the API would cut everybody off from it. The host comes first.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::Pod;
use netproxy::Protocol;
use netproxy::listeners::{Listener, conflict, process_of};

use api::placement::port::{HostPort, host_ports};

use super::failed_predicate;
use crate::worker::state::Failure;

/// The machine's addresses and listeners, which pods could be in the way of.
#[derive(Clone, Debug, Default)]
pub struct Host {
    /// Addresses of its interfaces.
    pub addresses: Vec<IpAddr>,
    /// Sockets on which its processes listen.
    pub listeners: Vec<Listener>,
}

impl Host {
    /// Looks at the machine. What cannot be read is empty.
    pub fn look() -> Self {
        let interfaces = nix::ifaddrs::getifaddrs().into_iter().flatten();
        let addresses = interfaces.filter_map(|interface| {
            let address = interface.address?;
            let v4 = address.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
            v4.or_else(|| address.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip())))
        });
        let listeners = netproxy::listeners::scan().unwrap_or_else(|error| {
            tracing::warn!(%error, "cannot list the listening sockets of the machine");
            Vec::new()
        });
        Self { addresses: addresses.collect(), listeners }
    }
}

/// Returns whether a pod takes ports of the machine by translation. On the machine's network it
/// listens itself, and the kernel refuses what is taken.
pub fn concerns(pod: &Pod) -> bool {
    let host_network = pod.spec.as_ref().and_then(|spec| spec.host_network).unwrap_or(false);
    !host_network && !host_ports(pod).is_empty()
}

/// Returns the reason why the machine cannot give a pod the ports that it asks for.
pub fn refusal(pod: &Pod, host: &Host) -> Option<Failure> {
    if !concerns(pod) {
        return None;
    }
    let why = host_ports(pod).iter().find_map(|port| taken(port, host))?;
    Some(failed_predicate("NodePorts", &why))
}

fn taken(port: &HostPort, host: &Host) -> Option<String> {
    let address = match port.address.as_str() {
        "" => None,
        text => match text.parse::<IpAddr>() {
            Ok(address) if address.is_unspecified() => None,
            Ok(address) if address.is_loopback() || host.addresses.contains(&address) => {
                Some(address)
            }
            _ => return Some(format!("host IP {text} is not an address of this node")),
        },
    };
    let protocol = match port.protocol.as_str() {
        "TCP" => Protocol::Tcp,
        "UDP" => Protocol::Udp,
        _ => return None,
    };
    let number = u16::try_from(port.number).ok()?;
    let listener = conflict(&host.listeners, protocol, address, number)?;
    let process = process_of(listener.inode).map_or_else(
        || "a process of the node".to_owned(),
        |process| format!("process {} (pid {}) of the node", process.name, process.pid),
    );
    Some(format!("{process} listens on host port {number}/{}", port.protocol))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::{Value, json};

    use super::*;

    fn pod(port: Value, host_network: bool) -> Pod {
        serde_json::from_value(json!({"spec": {"hostNetwork": host_network,
            "containers": [{"name": "c", "ports": [port]}]}}))
        .unwrap()
    }

    #[test]
    fn listening_processes_keep_their_ports() {
        let own = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let number = own.local_addr().unwrap().port();
        let host = Host::look();
        let message = |port: Value, host_network| {
            refusal(&pod(port, host_network), &host).map(|failure| failure.message)
        };
        let process = std::process::id();
        let port = json!({"containerPort": 80, "hostPort": number, "hostIP": "127.0.0.1"});
        let found = message(port.clone(), false).unwrap();
        assert!(
            found.starts_with("Predicate NodePorts failed: process ")
                && found.ends_with(&format!(
                    "(pid {process}) of the node listens on host port {number}/TCP"
                )),
            "{found}"
        );
        let everywhere = json!({"containerPort": 80, "hostPort": number});
        assert_eq!(message(everywhere, false), Some(found));
        assert_eq!(message(port, true), None, "the kernel decides");
        let udp = json!({"containerPort": 80, "hostPort": number, "protocol": "UDP"});
        assert_eq!(message(udp, false), None);
    }

    #[test]
    fn host_address_is_one_of_the_node() {
        let host = Host { addresses: vec!["192.0.2.7".parse().unwrap()], ..Host::default() };
        for (address, fits) in [
            ("", true),
            ("0.0.0.0", true),
            ("::", true),
            ("127.0.0.1", true),
            ("127.8.9.1", true),
            ("192.0.2.7", true),
            ("203.0.113.7", false),
            ("10.44.0.5", false),
            ("nonsense", false),
        ] {
            let port = json!({"containerPort": 80, "hostPort": 8080, "hostIP": address});
            let refused = refusal(&pod(port, false), &host).map(|failure| failure.message);
            let why = format!(
                "Predicate NodePorts failed: host IP {address} is not an address of this node"
            );
            assert_eq!(refused, (!fits).then_some(why), "{address}");
        }
    }
}
