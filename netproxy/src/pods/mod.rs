//! The pod network: one network namespace with a routed veth pair and an address per pod.

mod address;
mod adoption;
mod config;
mod files;
mod host;
mod namespace;
mod network;
mod node;
mod openings;
mod rules;

pub use config::{
    AttachRequest, HostPort, HostPortConflict, NetworkConfig, NetworkError, PodLink, Result,
};
pub(crate) use files::Directories;
pub(crate) use host::{Sysctls, remove_links};
pub(crate) use network::Chain;
pub use network::PodNetwork;
pub(crate) use rules::{SIBLING, TABLE, to_localhost, to_this_node};
