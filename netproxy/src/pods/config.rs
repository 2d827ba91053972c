//! What callers of the pod network give and get.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use crate::listeners::Listener;
use crate::netlink::NetlinkError;
use crate::protocol::Protocol;

/// How the pod network of this node looks.
#[derive(Debug, Clone)]
pub struct NetworkConfig {
    /// Addresses of pods. The first one is the node's own end (the pods' gateway).
    pub pod_cidr: Ipv4Net,
    /// Addresses of Services; traffic to them never leaves the machine.
    pub service_cidr: Ipv4Net,
    /// The cluster DNS address, bound on this node and kept out of connection tracking.
    pub dns_ip: Option<Ipv4Addr>,
    /// The addresses at which the API listens: no host port takes these ports.
    pub api: Vec<SocketAddr>,
    /// Holds namespace pins and attachment records; on tmpfs, since none outlives a boot.
    pub run_dir: PathBuf,
    /// Largest packet of pods; by default that of the interface with the default route.
    pub mtu: Option<u32>,
    /// Namespaces kept ready for the next pods.
    pub pool: usize,
}

impl NetworkConfig {
    /// The usual pool, the MTU of the machine, and neither DNS nor API addresses.
    pub fn new(pod_cidr: Ipv4Net, service_cidr: Ipv4Net, run_dir: PathBuf) -> Self {
        Self { pod_cidr, service_cidr, dns_ip: None, api: Vec::new(), run_dir, mtu: None, pool: 2 }
    }
}

/// A port of the node that leads to a pod.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct HostPort {
    /// Only on this address of the node; every one when absent.
    pub host_ip: Option<IpAddr>,
    /// The port on the node.
    pub host_port: u16,
    /// The port in the pod.
    pub container_port: u16,
    /// The transport protocol.
    pub protocol: Protocol,
}

/// Asks for a pod's link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttachRequest {
    /// The pod's uid.
    pub uid: String,
    /// Its host ports.
    pub host_ports: Vec<HostPort>,
}

/// A pod's link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodLink {
    /// A file that holds the pod's network namespace, for `setns` or a runtime-spec `path`.
    pub netns: PathBuf,
    /// The pod's address.
    pub address: IpAddr,
    /// The next hop of its default route.
    pub gateway: IpAddr,
    /// Largest packet in bytes.
    pub mtu: u32,
}

/// A host port that a process of the host has: packets go to that process and not to the pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPortConflict {
    /// The uid of the pod.
    pub uid: String,
    /// The port that the pod was to have.
    pub port: HostPort,
    /// The socket of the process.
    pub listener: Listener,
}

/// Result of a pod network operation.
pub type Result<T, E = NetworkError> = std::result::Result<T, E>;

/// A pod network operation failed.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// The pod range cannot hold a gateway and pods.
    #[error("pod range {0} is too small")]
    RangeTooSmall(Ipv4Net),
    /// Every address of the pod range is in use.
    #[error("no free address in pod range {0}")]
    NoAddress(Ipv4Net),
    /// A uid that cannot be a file name.
    #[error("pod uid {0:?} is not valid")]
    BadUid(String),
    /// A file operation failed.
    #[error("{step} {}", path.display())]
    File {
        /// The operation.
        step: &'static str,
        /// The file.
        path: PathBuf,
        /// The errno.
        #[source]
        source: io::Error,
    },
    /// A system call on a namespace failed.
    #[error("{step}")]
    Namespace {
        /// The system call's purpose.
        step: &'static str,
        /// The errno.
        #[source]
        source: io::Error,
    },
    /// The kernel refused links, routes or rules.
    #[error("{step}")]
    Kernel {
        /// What was being set up.
        step: &'static str,
        /// What the kernel said.
        #[source]
        source: NetlinkError,
    },
    /// An interface that was just made is not there.
    #[error("interface {0} disappeared")]
    LinkGone(String),
    /// The thread that makes namespaces ended at work; the next attempt starts another.
    #[error("the thread that makes pod namespaces has ended")]
    ThreadEnded,
    /// The caller gave up waiting.
    #[error("attaching was cancelled")]
    Cancelled,
    /// The process is ending.
    #[error("the pod network is shut down")]
    ShutDown,
}

impl NetworkError {
    pub(crate) fn file(step: &'static str, path: &std::path::Path, source: io::Error) -> Self {
        Self::File { step, path: path.to_owned(), source }
    }

    pub(crate) fn kernel(step: &'static str) -> impl FnOnce(NetlinkError) -> Self {
        move |source| Self::Kernel { step, source }
    }
}
