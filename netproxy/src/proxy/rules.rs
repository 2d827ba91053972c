//! The Service proxy's nftables table: its sets, base chains, and the chain of each [`Code`].
//!
//! A packet that opens a connection looks its destination up in one verdict map, which leads to a
//! chain that all Services with the same number of endpoints and the same policy share; that
//! chain picks a slot and looks the endpoint up in a second map. So neither the number of rules
//! nor the cost per connection grows with the number of Services, and a change touches only map
//! elements. All chains are of type `nat`, which the kernel consults once per connection.

use ipnet::{IpNet, Ipv4Net};

use crate::held::{self, Held};
use crate::nft::{
    Batch, DataType, Direction, Family, FibResult, Hook, Meta, Register, Rule, SetSpec, Verdict,
};
use crate::pods::{to_localhost, to_this_node};
use crate::protocol::Protocol;

use super::config::ProxyConfig;
use super::frontends::{Code, Pick};

/// The table's name.
pub(crate) const TABLE: &str = "coracle";

/// Client networks that are let in.
pub const SOURCE_RANGES: &str = "source-ranges";

const REJECT: &str = "reject";
const NODE_PORTS: &str = "nodeports";
/// Clients of Services with affinity that are remembered, of all Services together. Others are
/// served as if there were none.
const MAX_AFFINE_CLIENTS: u32 = 65_535;
const DESTINATION_NAT: i32 = -100;
const SOURCE_NAT: i32 = 100;
/// Set on the first packet of connections that are to be masqueraded, and cleared with it.
const MASQUERADE_MARK: u32 = 0x0080_0000;

/// The maps of one kind of frontend in one view.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Maps {
    /// Frontend → chain.
    pub chains: &'static str,
    /// Frontend and slot → endpoint.
    pub endpoints: &'static str,
    /// Client and frontend → endpoint.
    pub affinity: &'static str,
}

impl Maps {
    /// The maps that a chain of this code reads.
    pub fn of(node_port: bool, outside: bool) -> Self {
        let (chains, endpoints) = match (node_port, outside) {
            (false, false) => ("services", "endpoints"),
            (false, true) => ("services-outside", "endpoints-outside"),
            (true, false) => ("nodeports", "nodeport-endpoints"),
            (true, true) => ("nodeports-outside", "nodeport-endpoints-outside"),
        };
        let affinity = if node_port { "nodeport-affinity" } else { "affinity" };
        Self { chains, endpoints, affinity }
    }
}

/// Makes the table, its sets and base chains, without any Service.
pub fn create_table(batch: &mut Batch, family: Family, config: &ProxyConfig, held: &Held) {
    batch.replace_table();
    create_sets(batch, family);
    held::create_sets(batch, family);
    held.write(&Held::default(), batch, family);
    batch.chain(REJECT);
    batch.rule(REJECT, |rule| {
        rule.protocol_is(Protocol::Tcp.number()).reject_with_reset();
    });
    batch.rule(REJECT, |rule| {
        rule.reject();
    });
    batch.chain(NODE_PORTS);
    for _ in 0..2 {
        dispatch(batch, NODE_PORTS, family, config, true);
    }
    for (chain, hook) in [("prerouting", Hook::Prerouting), ("output", Hook::Output)] {
        batch.base_chain(chain, "nat", hook, DESTINATION_NAT);
        base_rules(batch, chain, hook, family, config);
    }
    batch.base_chain("postrouting", "nat", Hook::Postrouting, SOURCE_NAT);
    batch.rule("postrouting", |rule| {
        rule.load_meta(Meta::Mark, Register(0))
            .bitwise(Register(0), Register(0), MASQUERADE_MARK, 0)
            .equals(Register(0), MASQUERADE_MARK)
            .load_meta(Meta::Mark, Register(0))
            .bitwise(Register(0), Register(0), !MASQUERADE_MARK, 0)
            .set_meta(Meta::Mark, Register(0))
            .masquerade();
    });
}

fn create_sets(batch: &mut Batch, family: Family) {
    let address = family.address_type();
    let port = [DataType::Protocol, DataType::Port];
    let endpoint = [address, DataType::Port];
    for node_port in [false, true] {
        let frontend: Vec<DataType> =
            if node_port { port.to_vec() } else { [&[address][..], &port].concat() };
        let slot = [&frontend[..], &[DataType::Mark]].concat();
        let client = [&[address][..], &frontend].concat();
        for outside in [false, true] {
            let maps = Maps::of(node_port, outside);
            batch.set(SetSpec::new(maps.chains, &frontend, &[DataType::Verdict]));
            batch.set(SetSpec::new(maps.endpoints, &slot, &endpoint));
        }
        let affinity = SetSpec::new(Maps::of(node_port, false).affinity, &client, &endpoint);
        batch.set(SetSpec { expiring: Some(MAX_AFFINE_CLIENTS), ..affinity });
    }
    let range = [address, DataType::Protocol, DataType::Port, address];
    batch.set(SetSpec { ranges: true, ..SetSpec::new(SOURCE_RANGES, &range, &[]) });
}

fn base_rules(batch: &mut Batch, chain: &str, hook: Hook, family: Family, config: &ProxyConfig) {
    if let Some(dns) = config.dns_ip.filter(|_| family == Family::Ipv4) {
        batch.rule(chain, |rule| {
            rule.address_in(Direction::Destination, IpNet::V4(Ipv4Net::from(dns)))
                .verdict(Verdict::Accept);
        });
    }
    held::accept(batch, chain);
    // Twice: a commit between the two lookups of a packet can make the second one miss.
    for _ in 0..2 {
        dispatch(batch, chain, family, config, false);
    }
    batch.rule(chain, |rule| {
        to_this_node(rule).verdict(Verdict::Jump(NODE_PORTS));
    });
    if hook == Hook::Output && family == Family::Ipv4 {
        batch.rule(chain, |rule| {
            to_localhost(rule).verdict(Verdict::Jump(NODE_PORTS));
        });
    }
    for cidr in config.service_cidrs.iter().filter(|cidr| family.has(cidr.addr())) {
        batch.rule(chain, |rule| {
            rule.address_in(Direction::Destination, cidr.trunc()).verdict(Verdict::Jump(REJECT));
        });
    }
}

/// Looks the destination up and jumps to its chain; connections from elsewhere first look where
/// they may have endpoints of their own.
fn dispatch(batch: &mut Batch, chain: &str, family: Family, config: &ProxyConfig, node_port: bool) {
    batch.rule(chain, |rule| {
        from_elsewhere(rule, family, config);
        load_frontend(rule, node_port, 0);
        rule.dispatch(Maps::of(node_port, true).chains, Register(0));
    });
    batch.rule(chain, |rule| {
        load_frontend(rule, node_port, 0);
        rule.dispatch(Maps::of(node_port, false).chains, Register(0));
    });
}

/// Loads the frontend from the packet; returns the register after it.
fn load_frontend(rule: &mut Rule<'_, '_>, node_port: bool, mut at: u32) -> u32 {
    if !node_port {
        rule.load_destination(Register(at));
        at += words(rule.family());
    }
    rule.load_meta(Meta::TransportProtocol, Register(at)).load_destination_port(Register(at + 1));
    at + 2
}

fn words(family: Family) -> u32 {
    family.address_length() / 4
}

/// The name of a code's chain: what it does, for readers of `nft list ruleset`.
pub fn chain_name(code: Code) -> String {
    let mut name = String::from(if code.is_node_port() { "nodeport" } else { "service" });
    match code.pick() {
        Pick::Reject => name.push_str("-reject"),
        Pick::Drop => name.push_str("-drop"),
        Pick::Random(slots) => name.push_str(&format!("-{slots}")),
    }
    if let Some(seconds) = code.affinity() {
        name.push_str(&format!("-affinity{seconds}"));
    }
    for (present, suffix) in [
        (code.masquerade(), "-masquerade"),
        (code.ranges(), "-ranges"),
        (code.is_outside(), "-outside"),
    ] {
        if present {
            name.push_str(suffix);
        }
    }
    name
}

/// Makes the chain of a code.
pub fn create_chain(batch: &mut Batch, family: Family, config: &ProxyConfig, code: Code) {
    let chain = chain_name(code);
    let node_port = code.is_node_port();
    batch.chain(&chain);
    if code.ranges() {
        batch.rule(&chain, |rule| {
            let after = load_frontend(rule, node_port, 0);
            rule.load_source(Register(after))
                .is_not_in(SOURCE_RANGES, Register(0))
                .verdict(Verdict::Drop);
        });
    }
    if code.masquerade() {
        batch.rule(&chain, |rule| {
            from_elsewhere(rule, family, config)
                .load_meta(Meta::Mark, Register(0))
                .bitwise(Register(0), Register(0), !MASQUERADE_MARK, MASQUERADE_MARK)
                .set_meta(Meta::Mark, Register(0));
        });
    }
    match code.pick() {
        Pick::Reject => batch.rule(&chain, |rule| {
            rule.verdict(Verdict::Jump(REJECT));
        }),
        Pick::Drop => batch.rule(&chain, |rule| {
            rule.verdict(Verdict::Drop);
        }),
        Pick::Random(slots) => match code.affinity() {
            None => pick(batch, &chain, code, slots),
            Some(seconds) => pick_with_affinity(batch, &chain, code, slots, seconds),
        },
    }
}

/// Continues for packets that neither a pod nor this node sent.
fn from_elsewhere<'r, 'a, 'b>(
    rule: &'r mut Rule<'a, 'b>,
    family: Family,
    config: &ProxyConfig,
) -> &'r mut Rule<'a, 'b> {
    for cidr in config.pod_cidrs.iter().filter(|cidr| family.has(cidr.addr())) {
        rule.address_not_in(Direction::Source, cidr.trunc());
    }
    rule.address_type(Direction::Source, FibResult::NotLocal)
}

fn pick(batch: &mut Batch, chain: &str, code: Code, slots: u32) {
    let maps = Maps::of(code.is_node_port(), code.is_outside());
    batch.rule(chain, |rule| {
        let after = load_frontend(rule, code.is_node_port(), 0);
        let port = words(rule.family());
        rule.random(slots, Register(after))
            .lookup(maps.endpoints, Register(0), Register(0))
            .destination_nat(Register(0), Register(port));
    });
}

fn pick_with_affinity(batch: &mut Batch, chain: &str, code: Code, slots: u32, seconds: u32) {
    let maps = Maps::of(code.is_node_port(), code.is_outside());
    let timeout_ms = u64::from(seconds) * 1000;
    for known in [true, false] {
        batch.rule(chain, |rule| {
            let words = words(rule.family());
            rule.load_source(Register(0));
            let after = load_frontend(rule, code.is_node_port(), words);
            let endpoint = Register(after);
            // What the lookup overwrites; `nft` lists it in place of the port that was found.
            rule.load_destination_port(Register(after + words));
            if known {
                rule.lookup(maps.affinity, Register(0), endpoint);
            } else {
                rule.random(slots, Register(after));
                rule.lookup(maps.endpoints, Register(words), endpoint);
            }
            // A client that comes back extends its stay.
            if rule.family() == Family::Ipv4 {
                rule.measure_address(endpoint, Register(after + words + 1));
            }
            rule.remember(maps.affinity, Register(0), endpoint, timeout_ms)
                .destination_nat(endpoint, Register(after + words));
        });
    }
    // A rule ends where the map takes no more clients, before it translates.
    pick(batch, chain, code, slots);
}
