//! The pod network's nftables table: host ports, masquerading, and what is not tracked: DNS and the
//! loopback's connections to the API.
//!
//! It is apart from the Service proxy's table so that each side can replace its own as a whole.

use std::collections::{BTreeSet, HashSet};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::held::{self, Held};
use crate::nft::{
    Batch, DataType, Direction, Element, Family, FibResult, Hook, Key, Meta, Register, Rule,
    SetSpec, Sibling, Verdict,
};
use crate::protocol::Protocol;
use crate::route::POD_LINK_GROUP;

use super::config::{HostPort, NetworkConfig};

/// The table's name.
pub(crate) const TABLE: &str = "coracle-pods";
/// The netlink port of the socket that writes the table: the letters of `CORB`.
pub(crate) const PORT: u32 = 0x434f_5242;
/// The table, for those who watch others.
pub(crate) const SIBLING: Sibling = Sibling { table: TABLE, port: Some(PORT) };

const HAIRPIN: &str = "hairpin";
const HOST_PORTS: &str = "hostports";
const HOST_PORTS_AT: &str = "hostports-at-address";
/// After the Service proxy, whose chains are at the usual place of destination NAT (-100).
const AFTER_SERVICES: i32 = -99;
const SOURCE_NAT: i32 = 100;
const RAW: i32 = -300;
/// Before connection tracking.
const RAW_CHAINS: [(&str, Hook); 2] =
    [("raw-prerouting", Hook::Prerouting), ("raw-output", Hook::Output)];
const FILTER: i32 = 0;
const DNS_PORT: u16 = 53;
/// The loopback interface has this index in every namespace.
const LOOPBACK_LINK: u32 = 1;
const LOOPBACK: IpNet = IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8));
const LOOPBACK_IPV6: IpNet = IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::LOCALHOST, 128));

/// One attached pod.
#[derive(Debug, Clone, Copy)]
pub struct PodRules<'a> {
    /// Its address.
    pub address: Ipv4Addr,
    /// Its host ports.
    pub host_ports: &'a [HostPort],
}

/// Replaces the whole table in one step. `addresses` are those of all prepared namespaces.
pub fn replace<'a>(
    config: &NetworkConfig,
    held: &Held,
    addresses: impl Iterator<Item = Ipv4Addr>,
    pods: impl Iterator<Item = PodRules<'a>>,
) -> Batch {
    let mut batch = Batch::new(Family::Ipv4, TABLE);
    batch.replace_table();
    let address = DataType::Ipv4Address;
    let port = [DataType::Protocol, DataType::Port];
    let port_at = [address, DataType::Protocol, DataType::Port];
    let destination = [address, DataType::Port];
    batch.set(SetSpec::new(HAIRPIN, &[address, address], &[]));
    batch.set(SetSpec::new(HOST_PORTS, &port, &destination));
    batch.set(SetSpec::new(HOST_PORTS_AT, &port_at, &destination));
    held::create_sets(&mut batch, Family::Ipv4);
    held.write(&Held::default(), &mut batch, Family::Ipv4);

    for (chain, hook) in [("prerouting", Hook::Prerouting), ("output", Hook::Output)] {
        batch.base_chain(chain, "nat", hook, AFTER_SERVICES);
        if let Some(dns) = config.dns_ip {
            batch.rule(chain, |rule| {
                rule.address_in(Direction::Destination, IpNet::V4(Ipv4Net::from(dns)))
                    .verdict(Verdict::Accept);
            });
        }
        held::accept(&mut batch, chain);
        host_port_rules(&mut batch, chain, hook);
    }
    batch.base_chain("postrouting", "nat", Hook::Postrouting, SOURCE_NAT);
    postrouting_rules(&mut batch, config);
    batch.base_chain("forward", "filter", Hook::Forward, FILTER);
    for direction in [Direction::Source, Direction::Destination] {
        batch.rule("forward", |rule| {
            // The kernel does not translate such packets: a pod's peer would see a stranger.
            rule.address_in(direction, IpNet::V4(config.pod_cidr.trunc()))
                .connection_invalid()
                .verdict(Verdict::Drop);
        });
    }
    batch.base_chain("strangers", "filter", Hook::Prerouting, RAW);
    stranger_rules(&mut batch, config);
    for (chain, hook) in RAW_CHAINS {
        batch.base_chain(chain, "filter", hook, RAW);
        api_rules(&mut batch, chain, config, LOOPBACK);
        if let Some(dns) = config.dns_ip {
            dns_rules(&mut batch, chain, dns);
        }
    }
    for address in addresses {
        add_address(&mut batch, address);
    }
    let mut taken = HashSet::new();
    for pod in pods {
        let free = |port: &&HostPort| host_port_key(port).is_some_and(|key| taken.insert(key));
        let host_ports: Vec<HostPort> = pod.host_ports.iter().filter(free).cloned().collect();
        add_host_ports(&mut batch, PodRules { host_ports: &host_ports, ..pod });
    }
    batch
}

/// Replaces the IPv6 table, which drops what pods send: they have no IPv6. The links' settings say
/// so as well, but a program of the host may set those back.
pub fn replace_ipv6(config: &NetworkConfig) -> Batch {
    let mut batch = Batch::new(Family::Ipv6, TABLE);
    batch.replace_table();
    batch.base_chain("prerouting", "filter", Hook::Prerouting, RAW);
    batch.rule("prerouting", |rule| {
        rule.load_meta(Meta::InputGroup, Register(0))
            .equals(Register(0), POD_LINK_GROUP)
            .verdict(Verdict::Drop);
    });
    for (chain, hook) in RAW_CHAINS {
        batch.base_chain(chain, "filter", hook, RAW);
        api_rules(&mut batch, chain, config, LOOPBACK_IPV6);
    }
    batch
}

/// A batch for changes to the table.
pub fn change() -> Batch {
    Batch::new(Family::Ipv4, TABLE)
}

/// Lets a pod reach itself through a Service or host port.
pub fn add_address(batch: &mut Batch, address: Ipv4Addr) {
    batch.add(HAIRPIN, &[hairpin_element(address)]);
}

/// Undoes [`add_address`].
pub fn remove_address(batch: &mut Batch, address: Ipv4Addr) {
    batch.remove(HAIRPIN, &[hairpin_element(address)]);
}

/// Opens a pod's host ports.
pub fn add_host_ports(batch: &mut Batch, pod: PodRules<'_>) {
    for port in pod.host_ports {
        let Some((map, key)) = host_port_key(port) else { continue };
        let to = Key::new().address(pod.address.into()).port(port.container_port);
        batch.add(map, &[Element::Value(key, to)]);
    }
}

/// Closes a host port.
pub fn remove_host_port(batch: &mut Batch, port: &HostPort) {
    if let Some((map, key)) = host_port_key(port) {
        batch.remove(map, &[Element::Key(key)]);
    }
}

/// The map of a host port and its key there, which is what makes two host ports collide. `None`
/// for a port at an IPv6 address: pods have no IPv6, and IPv4 was not asked for.
pub fn host_port_key(port: &HostPort) -> Option<(&'static str, Key)> {
    let number = port.protocol.number();
    match port.host_ip.filter(|address| !address.is_unspecified()) {
        None => Some((HOST_PORTS, Key::new().protocol(number).port(port.host_port))),
        Some(address) if address.is_ipv4() => {
            let key = Key::new().address(address).protocol(number).port(port.host_port);
            Some((HOST_PORTS_AT, key))
        }
        Some(_) => None,
    }
}

fn hairpin_element(address: Ipv4Addr) -> Element {
    Element::Key(Key::new().address(address.into()).address(address.into()))
}

fn host_port_rules(batch: &mut Batch, chain: &str, hook: Hook) {
    batch.rule(chain, |rule| {
        // A pod must not divert the traffic of an address that is not this node's.
        rule.address_type(Direction::Destination, FibResult::Local)
            .load_destination(Register(0))
            .load_meta(Meta::TransportProtocol, Register(1))
            .load_destination_port(Register(2))
            .lookup(HOST_PORTS_AT, Register(0), Register(0))
            .destination_nat(Register(0), Register(1));
    });
    batch.rule(chain, |rule| {
        look_up_host_port(to_this_node(rule));
    });
    if hook == Hook::Output {
        batch.rule(chain, |rule| {
            look_up_host_port(to_localhost(rule));
        });
    }
}

fn look_up_host_port(rule: &mut Rule<'_, '_>) {
    rule.load_meta(Meta::TransportProtocol, Register(0))
        .load_destination_port(Register(1))
        .lookup(HOST_PORTS, Register(0), Register(0))
        .destination_nat(Register(0), Register(1));
}

/// Continues for the node's own addresses but not for 127.0.0.0/8, see [`to_localhost`].
pub fn to_this_node<'r, 'a, 'b>(rule: &'r mut Rule<'a, 'b>) -> &'r mut Rule<'a, 'b> {
    let loopback = match rule.family() {
        Family::Ipv4 => LOOPBACK,
        Family::Ipv6 => LOOPBACK_IPV6,
    };
    rule.address_type(Direction::Destination, FibResult::Local)
        .address_not_in(Direction::Destination, loopback)
}

/// Continues for 127.0.0.1, where the node alone may connect to. The loopback's other addresses
/// may be those of local resolvers.
pub fn to_localhost<'r, 'a, 'b>(rule: &'r mut Rule<'a, 'b>) -> &'r mut Rule<'a, 'b> {
    rule.address_in(Direction::Destination, IpNet::V4(Ipv4Net::from(Ipv4Addr::LOCALHOST)))
}

/// Drops packets that name an address which their sender has nothing to do with.
fn stranger_rules(batch: &mut Batch, config: &NetworkConfig) {
    // Each packet passes here: the node's own to itself leave with the first rule.
    accept_from(batch, Meta::InputLink, LOOPBACK_LINK);
    for direction in [Direction::Source, Direction::Destination] {
        batch.rule("strangers", |rule| {
            // Pods' links have `route_localnet` for answers to the loopback, which are translated
            // after this; other packets must not reach it (CVE-2020-8558).
            rule.address_in(direction, LOOPBACK).verdict(Verdict::Drop);
        });
    }
    accept_from(batch, Meta::InputGroup, POD_LINK_GROUP);
    // Clients outside use addresses of the node, which are translated after this. A sender outside
    // that names an address of a pod, of a Service or of DNS uses the node as a router into the
    // cluster, or pretends to be a pod.
    for network in [config.pod_cidr, config.service_cidr] {
        for direction in [Direction::Source, Direction::Destination] {
            batch.rule("strangers", |rule| {
                rule.address_in(direction, IpNet::V4(network.trunc())).verdict(Verdict::Drop);
            });
        }
    }
}

fn accept_from(batch: &mut Batch, link: Meta, number: u32) {
    batch.rule("strangers", |rule| {
        rule.load_meta(link, Register(0)).equals(Register(0), number).verdict(Verdict::Accept);
    });
}

fn postrouting_rules(batch: &mut Batch, config: &NetworkConfig) {
    batch.rule("postrouting", |rule| {
        // The pod would drop an answer to itself that did not pass through this machine.
        rule.load_source(Register(0))
            .load_destination(Register(1))
            .is_in(HAIRPIN, Register(0))
            .masquerade();
    });
    batch.rule("postrouting", |rule| {
        // A connection to 127.0.0.1 that leads elsewhere: that is no address to answer to.
        rule.address_in(Direction::Source, LOOPBACK)
            .address_type(Direction::Destination, FibResult::NotLocal)
            .masquerade();
    });
    let pods = IpNet::V4(config.pod_cidr.trunc());
    let services = IpNet::V4(config.service_cidr.trunc());
    batch.rule("postrouting", |rule| {
        // Also for the node's own address in the pod range, which its connections to a Service
        // have as source when the endpoint turns out to be elsewhere.
        rule.address_in(Direction::Source, pods)
            .address_not_in(Direction::Destination, pods)
            .address_not_in(Direction::Destination, services)
            .address_type(Direction::Destination, FibResult::NotLocal)
            .masquerade();
    });
}

/// The administrator reaches the API while pods have filled the table of connections, which is one
/// for the machine: the kernel drops packets that it would have to track and cannot. Nothing of ours
/// translates between two addresses of the loopback, so no translation is lost. (A redirection of the
/// administrator's own, from another port of the loopback to the API's, is: its answers keep the API's
/// port.)
fn api_rules(batch: &mut Batch, chain: &str, config: &NetworkConfig, loopback: IpNet) {
    let ports: BTreeSet<u16> = config.api.iter().map(SocketAddr::port).collect();
    for port in ports {
        for direction in [Direction::Destination, Direction::Source] {
            batch.rule(chain, |rule| {
                rule.address_in(Direction::Source, loopback)
                    .address_in(Direction::Destination, loopback)
                    .protocol_is(Protocol::Tcp.number());
                match direction {
                    Direction::Destination => rule.destination_port_is(port),
                    Direction::Source => rule.source_port_is(port),
                };
                rule.untracked();
            });
        }
    }
}

/// Tracking DNS costs time and, when a resolver asks twice from one port, loses answers for five
/// seconds (kubernetes #56903).
fn dns_rules(batch: &mut Batch, chain: &str, dns: Ipv4Addr) {
    let dns = IpNet::V4(Ipv4Net::from(dns));
    batch.rule(chain, |rule| {
        rule.address_in(Direction::Destination, dns)
            .protocol_is(Protocol::Udp.number())
            .destination_port_is(DNS_PORT)
            .untracked();
    });
    batch.rule(chain, |rule| {
        rule.address_in(Direction::Source, dns)
            .protocol_is(Protocol::Udp.number())
            .source_port_is(DNS_PORT)
            .untracked();
    });
}
