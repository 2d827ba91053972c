//! Settings of the apiserver.

use std::collections::HashSet;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::Ipv4Net;

/// What the apiserver needs to know about its cluster.
#[derive(Clone, Debug)]
pub struct Config {
    /// The range of ClusterIPs; its first address is kept for the `kubernetes` Service.
    pub service_cidr: Ipv4Net,
    /// The range of pods' addresses, which Services are proxied to.
    pub pod_cidr: Ipv4Net,
    /// First and last port of the range of node ports.
    pub node_ports: (u16, u16),
    /// Returns the ports on which processes of the machine listen: none of them is chosen as a node
    /// port. Must be quick.
    pub host_ports: fn() -> Arc<HashSet<u16>>,
    /// The version that `/version` reports, for example `v1.33.0`; kubectl of some SDKs picks
    /// itself by it.
    pub report_version: String,
    /// The address of the server, for `/api`.
    pub server_address: String,
    /// How long a request other than a watch or a stream may take.
    pub request_timeout: Duration,
    /// Requests in flight from outside the process, watches and streams not counted.
    pub max_requests_in_flight: usize,
    /// Descriptors that this process may have.
    pub open_files: u64,
    /// Whether a `kubectl set image` that does not record itself on a Deployment that carries a
    /// change-cause gets its change-cause written by the server. Upstream keeps the stale one.
    pub reconstruct_change_cause: bool,
    /// How long an Event is kept after it last happened.
    pub event_ttl: Duration,
    /// How long a pod's creation waits for its ServiceAccount to appear.
    pub service_account_wait: Duration,
    /// Names besides `localhost` and addresses that the dashboard answers to.
    pub ui_hosts: Vec<String>,
}

impl Default for Config {
    fn default() -> Self {
        let service_cidr = Ipv4Net::new_assert(Ipv4Addr::new(10, 47, 240, 0), 20);
        Self {
            service_cidr,
            pod_cidr: Ipv4Net::new_assert(Ipv4Addr::new(10, 44, 0, 0), 16),
            node_ports: (30_000, 32_767),
            host_ports: Arc::default,
            report_version: "v1.33.0".into(),
            server_address: "127.0.0.1:6443".into(),
            request_timeout: Duration::from_secs(60),
            max_requests_in_flight: 400,
            open_files: 1024,
            reconstruct_change_cause: true,
            event_ttl: Duration::from_secs(3600),
            service_account_wait: Duration::from_secs(1),
            ui_hosts: Vec::new(),
        }
    }
}
