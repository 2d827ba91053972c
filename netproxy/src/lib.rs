//! Pod network (routed veth pairs, addresses, host ports) and Service proxy (nftables).
//!
//! [`PodNetwork`] gives each pod a network namespace; [`proxy::run`] keeps the kernel's Service
//! rules equal to what Services and EndpointSlices say. The two share nothing but the kernel:
//! each owns one nftables table.

mod conntrack;
mod firewall;
mod held;
pub mod listeners;
mod netlink;
mod nft;
mod pods;
pub mod protocol;
pub mod proxy;
mod route;
mod teardown;

pub use netlink::NetlinkError;
pub use pods::{
    AttachRequest, HostPort, HostPortConflict, NetworkConfig, NetworkError, PodLink, PodNetwork,
    Result,
};
pub use protocol::Protocol;
pub use teardown::{opened_firewalls, teardown};

/// Entry points of the coverage-guided fuzzers (`make fuzz`).
#[cfg(fuzzing)]
pub mod fuzz_targets {
    pub use crate::firewall::chains::fuzz_targets::firewall_rules;
    pub use crate::listeners::fuzz_targets::host_listeners;
    pub use crate::netlink::fuzz_targets::netlink_dump;
    pub use crate::nft::monitor::fuzz_targets::rule_notifications;
    pub use crate::route::fuzz_targets::link_and_route;
}
