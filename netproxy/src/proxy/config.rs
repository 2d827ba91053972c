//! What the Service proxy is told and what can go wrong.

use std::net::{Ipv4Addr, SocketAddr};

use ipnet::IpNet;

use crate::held::Held;
use crate::netlink::NetlinkError;
use crate::nft::Monitor;

use super::frontends::Change;

/// Where this proxy runs.
#[derive(Debug, Clone)]
pub struct ProxyConfig {
    /// The node's name, which tells local endpoints from others.
    pub node_name: String,
    /// Addresses of pods.
    pub pod_cidrs: Vec<IpNet>,
    /// Addresses of Services; those that no Service owns are rejected.
    pub service_cidrs: Vec<IpNet>,
    /// The cluster DNS address when it is served on this node: it is left alone.
    pub dns_ip: Option<Ipv4Addr>,
    /// The addresses at which the API listens: no Service takes these ports of the node.
    pub api: Vec<SocketAddr>,
}

/// Result of a proxy operation.
pub type Result<T, E = ProxyError> = std::result::Result<T, E>;

/// The Service proxy cannot do its work.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// The kernel refused rules.
    #[error("{step}")]
    Kernel {
        /// What was being written.
        step: &'static str,
        /// What the kernel said.
        #[source]
        source: NetlinkError,
    },
}

/// Writes Service rules; nftables now, other mechanisms may follow.
pub(crate) trait Backend: Send {
    /// Replaces every rule by these frontends: there is no moment without rules. Many frontends take
    /// several steps.
    fn replace(&mut self, frontends: &[Change]) -> Result<()>;

    /// Changes some frontends, each in one step; established connections are not disturbed.
    fn update(&mut self, changes: &[Change]) -> Result<()>;

    /// Ends UDP flows of these frontends that lead elsewhere than to a current endpoint, and
    /// forgets client affinity to endpoints that are gone.
    fn forget(&mut self, frontends: &[Change]) -> Result<()>;

    /// Leaves these ports to the host from now on.
    fn hold(&mut self, _held: &Held) -> Result<()> {
        Ok(())
    }

    /// Subscribes to changes of the rules by other programs; `None` when there are none.
    fn monitor(&self) -> Result<Option<Monitor>> {
        Ok(None)
    }

    /// Returns whether other programs may have changed rules since the last call, of which no
    /// notification came.
    fn may_be_changed(&mut self) -> Result<bool> {
        Ok(false)
    }
}
