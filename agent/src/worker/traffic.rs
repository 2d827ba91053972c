//! When connections may come to a pod: it is ready once it listens, and is asked to end only once
//! no Service leads to it (`docs/decisions/0005`).

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Container;

use super::state::Role;
use super::stop::facts;
use super::{Note, Worker};
use crate::machine::Network;
use crate::probe::{Purpose, Verdict};
use crate::sockets::Sockets;

/// A container without probes that does not listen on what it declares is ready after this long.
/// Kubernetes takes about as long to notice that a container runs.
const LISTEN_PATIENCE: Duration = Duration::from_secs(2);
/// Longest wait for Services to lead elsewhere before a container is signalled all the same.
const WITHDRAW_PATIENCE: Duration = Duration::from_secs(1);
/// Packets that were sent to the pod just before the rules changed have arrived by then.
const IN_FLIGHT: Duration = Duration::from_millis(10);

/// The TCP ports that a container must listen on to be ready: none where a probe decides.
pub(crate) fn awaited_ports(role: Role, spec: &Container) -> HashSet<u16> {
    let probed = spec.readiness_probe.is_some() || spec.startup_probe.is_some();
    if probed || !matches!(role, Role::Main | Role::Sidecar) {
        return HashSet::new();
    }
    let ports = spec.ports.iter().flatten();
    ports
        .filter(|port| port.protocol.as_deref().unwrap_or("TCP") == "TCP")
        .filter_map(|port| u16::try_from(port.container_port).ok())
        .collect()
}

/// The wait before a container is asked to end.
pub(crate) struct Withdrawal {
    network: Arc<dyn Network>,
    uid: String,
    namespace: String,
    services: Vec<String>,
    own_network: bool,
}

impl Withdrawal {
    /// Waits until no new connection can come and those that came are accepted, at most for
    /// `grace`. A server that is told to end closes its sockets at once, and what waits in their
    /// queues is reset.
    pub(crate) async fn run(self, pid: Option<u32>, grace: Duration) {
        let wait = async {
            self.network.withdrawn(&self.uid, &self.namespace, self.services).await;
            tokio::time::sleep(IN_FLIGHT).await;
            if let Some(pid) = pid.filter(|_| self.own_network) {
                Sockets::around(pid).all_accepted().await;
            }
        };
        if tokio::time::timeout(WITHDRAW_PATIENCE.min(grace), wait).await.is_err() {
            tracing::debug!(pod = %self.uid, "a pod that ends may still get connections");
        }
    }
}

impl Worker {
    /// What to wait for before this pod's containers are asked to end; nothing unless the pod is
    /// being deleted and a Service leads to it.
    pub(crate) fn withdrawal(&self) -> Option<Withdrawal> {
        let metadata = &self.pod.metadata;
        if metadata.deletion_timestamp.is_none() || self.state.vanished {
            return None;
        }
        let host_network = self.host_network();
        let addresses: &[IpAddr] =
            if host_network { &self.node.config.node_ips } else { &self.state.addresses };
        let namespace = metadata.namespace.clone().unwrap_or_default();
        let labels = metadata.labels.as_ref();
        let services = self.node.services.leading_to(&namespace, labels, addresses);
        (!services.is_empty()).then(|| Withdrawal {
            network: self.node.machine.network.clone(),
            uid: self.uid.clone(),
            namespace,
            services,
            own_network: !host_network,
        })
    }

    /// Calls a container that was just started ready once it listens on these ports, or has not
    /// done so for long.
    pub(crate) fn await_listening(&mut self, index: usize, ports: HashSet<u16>) {
        let record = &self.state.containers[index];
        let (Some(live), Some(sandbox)) = (record.live(), self.sandbox.clone()) else { return };
        if ports.is_empty() {
            return;
        }
        let (id, name) = (live.id.clone(), record.name.clone());
        let note = self.note.clone();
        let handle = self.tasks.spawn(async move {
            if let (Some(pid), _) = facts(&sandbox, &id).await {
                let sockets = Sockets::around(pid);
                let listening = sockets.all_listen(&ports);
                if let Ok(false) = tokio::time::timeout(LISTEN_PATIENCE, listening).await {
                    // The process ended; whoever waits for it will tell.
                    return;
                }
            }
            let verdict = Verdict { container: id, purpose: Purpose::Readiness, healthy: true };
            // Without a receiver the worker is gone.
            let _ = note.send(Note::Probe(verdict));
        });
        self.probes.entry(name).or_default().push((Purpose::Readiness, handle));
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn declared_tcp_ports_are_awaited_unless_a_probe_decides() {
        let spec =
            |value: serde_json::Value| -> Container { serde_json::from_value(value).unwrap() };
        let ports = json!([{"containerPort": 80}, {"containerPort": 443, "protocol": "TCP"},
            {"containerPort": 53, "protocol": "UDP"}]);
        let plain = spec(json!({"name": "a", "ports": ports}));
        assert_eq!(awaited_ports(Role::Main, &plain), [80, 443].into());
        assert_eq!(awaited_ports(Role::Sidecar, &plain), [80, 443].into());
        assert!(awaited_ports(Role::Init, &plain).is_empty());
        for probe in ["readinessProbe", "startupProbe"] {
            let probed = spec(json!({"name": "a", "ports": ports, probe: {}}));
            assert!(awaited_ports(Role::Main, &probed).is_empty());
        }
        assert!(awaited_ports(Role::Main, &spec(json!({"name": "a"}))).is_empty());
    }
}
