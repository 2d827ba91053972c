//! The node's side of the pod network: the internal link, its routes, and kernel settings.

use std::collections::{BTreeMap, HashSet};
use std::net::Ipv4Addr;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::netlink::NetlinkError;
use crate::route::{Changes, Link, POD_LINK_GROUP, Routes, Scope, VethEnd, Via};

use super::config::{NetworkConfig, NetworkError, Result};
use super::files::{Pin, read_json, write_json};
use super::namespace::{admit_localhost, refuse_ipv6, without_ipv6};

/// Carries the node's own address in the pod range and the DNS address, and gives the Service
/// range a route: without one the node's own connections to a Service would fail before the rules
/// see them. What no rule takes ends here, inside the machine.
const INTERNAL_LINK: &str = "coracle0";
/// The other end, which nothing uses; a veth needs one, and not every kernel has dummy links.
const INTERNAL_PEER: &str = "coracle1";
const ETHERNET_MTU: u32 = 1500;

/// Makes the internal link, its addresses and routes as configured, whatever was there before.
pub fn set_up(routes: &Routes, config: &NetworkConfig, gateway: Ipv4Addr, mtu: u32) -> Result<()> {
    let link = internal_link(routes, mtu).map_err(NetworkError::kernel("create internal link"))?;
    let mut wanted = vec![(gateway, Scope::Global)];
    wanted.extend(config.dns_ip.map(|address| (address, Scope::Host)));
    let present = routes.addresses().map_err(NetworkError::kernel("list addresses"))?;

    let mut changes = Changes::new();
    for (index, address) in present {
        if index == link.index && !wanted.iter().any(|(wanted, _)| *wanted == address) {
            changes.delete_address(index, address);
        }
    }
    changes.up(link.index);
    for (address, scope) in wanted {
        changes.address(link.index, address, scope);
    }
    let wanted = [
        (config.service_cidr.trunc(), Via::Link(link.index)),
        (config.pod_cidr.trunc(), Via::Unreachable),
    ];
    let ours = routes.own_routes().map_err(NetworkError::kernel("list routes"))?;
    for (destination, via) in ours {
        let catch_all = via == Via::Unreachable || via == Via::Link(link.index);
        if catch_all && !wanted.contains(&(destination, via)) {
            changes.delete_route(destination, via);
        }
    }
    for (destination, via) in wanted {
        changes.route(destination, via);
    }
    routes.apply(&changes).map_err(NetworkError::kernel("set up internal link"))
}

/// Puts links that an earlier version made into the group by which rules know pods' links.
pub fn group_links(routes: &Routes, pins: &[Pin]) -> Result<()> {
    let names: HashSet<&str> = pins.iter().map(|pin| pin.host_link.as_str()).collect();
    let links = routes.links().map_err(NetworkError::kernel("list links"))?;
    let mut changes = Changes::new();
    for link in links.iter().filter(|link| names.contains(link.name.as_str())) {
        changes.group(link.index, POD_LINK_GROUP);
    }
    routes.apply(&changes).map_err(NetworkError::kernel("group pod links"))
}

/// Gives links that an earlier version made the settings that links get today.
pub fn set_links(pins: &[Pin]) -> Result<()> {
    pins.iter().try_for_each(|pin| {
        admit_localhost(&pin.host_link);
        refuse_ipv6(&pin.host_link)
    })
}

fn internal_link(routes: &Routes, mtu: u32) -> Result<Link, NetlinkError> {
    if let Some(link) = routes.link(INTERNAL_LINK)? {
        return Ok(link);
    }
    let mut changes = Changes::new();
    changes.veth(
        VethEnd { name: INTERNAL_LINK, mac: [0x0a, 0x5a, 0, 0, 0, 0], mtu, group: 0 },
        VethEnd { name: INTERNAL_PEER, mac: [0x0a, 0x5a, 0, 0, 0, 1], mtu, group: 0 },
        None,
    );
    routes.apply(&changes)?;
    let links = routes.links()?;
    let mut up = Changes::new();
    for link in links.iter().filter(|l| l.name == INTERNAL_LINK || l.name == INTERNAL_PEER) {
        without_ipv6(routes, link.index);
        up.up(link.index);
    }
    routes.apply(&up)?;
    let found = links.into_iter().find(|link| link.name == INTERNAL_LINK);
    found.ok_or(NetlinkError::Unanswered { operation: "create internal link" })
}

/// The MTU that pods get when none is configured.
pub fn machine_mtu(routes: &Routes) -> Result<u32> {
    let link = routes.default_link().map_err(NetworkError::kernel("find default route"))?;
    Ok(link.map_or(ETHERNET_MTU, |link| link.mtu).clamp(576, 65_535))
}

/// Deletes the internal link with its addresses and routes, every pod link that is left, and the
/// catch-all route.
pub(crate) fn remove_links() -> Result<()> {
    let routes = Routes::open().map_err(NetworkError::kernel("open route socket"))?;
    let links = routes.links().map_err(NetworkError::kernel("list links"))?;
    let delete = |changes: &Changes| match routes.apply(changes) {
        // Dismantling namespaces takes their links along; both may happen at once.
        Err(error) if error.is_missing() => Ok(()),
        result => result,
    };
    for link in links.iter().filter(|link| is_ours(&link.name)) {
        let mut changes = Changes::new();
        changes.delete_link(link.index);
        delete(&changes).map_err(NetworkError::kernel("delete link"))?;
    }
    for (destination, via) in routes.own_routes().map_err(NetworkError::kernel("list routes"))? {
        let mut changes = Changes::new();
        changes.delete_route(destination, via);
        delete(&changes).map_err(NetworkError::kernel("delete route"))?;
    }
    Ok(())
}

fn is_ours(link: &str) -> bool {
    let pod_link = link
        .strip_prefix("cor")
        .is_some_and(|id| id.len() == 12 && id.bytes().all(|b| b.is_ascii_hexdigit()));
    pod_link || link == INTERNAL_LINK
}

/// Kernel settings that we changed, as they were before.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Sysctls {
    boot_id: String,
    before: BTreeMap<String, String>,
}

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
const IP_FORWARD: &str = "/proc/sys/net/ipv4/ip_forward";

impl Sysctls {
    /// Lets the kernel route between pods and the world, remembering whether it did before.
    pub fn enable_forwarding(saved: &Path) -> Result<()> {
        let boot_id = read_setting(BOOT_ID)?;
        let mut sysctls: Self = read_json(saved).unwrap_or_default();
        if sysctls.boot_id != boot_id {
            sysctls = Self { boot_id, before: BTreeMap::new() };
        }
        let now = read_setting(IP_FORWARD)?;
        if now == "1" {
            return Ok(());
        }
        sysctls.before.entry(IP_FORWARD.to_owned()).or_insert(now);
        write_json(saved, &sysctls)?;
        std::fs::write(IP_FORWARD, "1")
            .map_err(|source| NetworkError::file("write", Path::new(IP_FORWARD), source))
    }

    /// Puts back what was changed, unless the machine was started anew since.
    pub fn restore(saved: &Path) -> Result<()> {
        let Some(sysctls) = read_json::<Self>(saved) else { return Ok(()) };
        if sysctls.boot_id != read_setting(BOOT_ID)? {
            return Ok(());
        }
        for (path, value) in sysctls.before {
            std::fs::write(&path, value)
                .map_err(|source| NetworkError::file("write", Path::new(&path), source))?;
        }
        Ok(())
    }
}

fn read_setting(path: &str) -> Result<String> {
    std::fs::read_to_string(path)
        .map(|text| text.trim().to_owned())
        .map_err(|source| NetworkError::file("read", Path::new(path), source))
}
