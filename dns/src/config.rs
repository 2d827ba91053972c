//! What the DNS server is told and what can go wrong.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use ipnet::IpNet;

/// How the cluster's DNS server works.
#[derive(Debug, Clone)]
pub struct DnsConfig {
    /// Addresses that it answers at, UDP and TCP. They need not exist yet.
    pub listen: Vec<SocketAddr>,
    /// The cluster's domain, such as `cluster.local`.
    pub cluster_domain: String,
    /// Reverse names of these Service addresses never leave the machine.
    pub service_cidr: IpNet,
    /// Reverse names of these pod addresses never leave the machine.
    pub pod_cidr: IpNet,
    /// Names the machine's resolvers; read again when it changes.
    pub resolv_conf: PathBuf,
    /// Resolvers to use instead of those in `resolv_conf`.
    pub upstreams: Option<Vec<SocketAddr>>,
}

/// Result of running the DNS server.
pub type Result<T, E = DnsError> = std::result::Result<T, E>;

/// The DNS server cannot run.
#[derive(Debug, thiserror::Error)]
pub enum DnsError {
    /// The cluster's domain is not a domain name.
    #[error("cluster domain {0:?} is not a domain name")]
    BadDomain(String),
    /// An address could not be bound.
    #[error("listen at {address} for DNS over {transport}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// `UDP` or `TCP`.
        transport: &'static str,
        /// The errno.
        #[source]
        source: io::Error,
    },
    /// A thread could not be started.
    #[error("start DNS thread")]
    Thread(#[source] io::Error),
    /// The part that answers over one of the transports ended.
    #[error("DNS over {transport} ended: {reason}")]
    Ended {
        /// `UDP` or `TCP`.
        transport: &'static str,
        /// Its last message.
        reason: String,
    },
}
