//! The nftables backend: turns frontend changes into map elements.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use crate::conntrack::{Flow, forget_udp};
use crate::held::Held;
use crate::netlink::{NetlinkError, Protocol as NetlinkProtocol, Socket};
use crate::nft::{
    self, Baseline, Batch, Element, Expiring, Family, Key, Monitor, Sibling, dump_elements,
    dump_expiring,
};
use crate::pods;
use crate::protocol::Protocol;

use super::chains::{Chains, Turnover};
use super::config::{Backend, ProxyConfig, ProxyError, Result};
use super::frontends::{Change, Installed, View};
use super::plan::{Endpoint, Frontend};
use super::rules::{self, Maps, SOURCE_RANGES, TABLE};

/// Map elements of one transaction, as a rule: for each, the kernel holds a notification of some
/// kilobytes until the transaction is over.
const TRANSACTION_ELEMENTS: usize = 8192;
/// The netlink port of the socket that writes Service rules: the letters of `CORA`.
const PORT: u32 = 0x434f_5241;
/// The table of Service rules, for those who watch others.
pub const SIBLING: Sibling = Sibling { table: TABLE, port: Some(PORT) };
/// An element may expire between listing and deleting it, which fails the whole batch.
const PURGE_ATTEMPTS: u32 = 3;

/// Writes Service rules into the table `coracle`.
#[derive(Debug)]
pub struct Nftables {
    socket: Socket,
    config: ProxyConfig,
    chains: HashMap<Family, Chains>,
    /// The ports of the host, as the kernel has them.
    held: Held,
    baseline: Baseline,
}

impl Nftables {
    /// Opens a socket in the calling thread's network namespace.
    pub fn open(config: ProxyConfig) -> Result<Self> {
        let socket = Socket::open_at(NetlinkProtocol::Netfilter, PORT)
            .map_err(kernel("open netfilter socket"))?;
        let mut chains = HashMap::new();
        for cidr in &config.service_cidrs {
            let family = if cidr.addr().is_ipv6() { Family::Ipv6 } else { Family::Ipv4 };
            chains.insert(family, Chains::default());
        }
        let held = Held::reserved(config.api.iter().map(SocketAddr::port));
        // Without it, the first notifications that are lost lead to one rewrite too many.
        let baseline = Baseline::now(&socket).unwrap_or_default();
        Ok(Self { socket, config, chains, held, baseline })
    }

    fn families(&self) -> Vec<Family> {
        self.chains.keys().copied().collect()
    }

    /// Appends the changes of one family; returns what becomes of its chains.
    fn write(&mut self, batch: &mut Batch, family: Family, changes: &[Change]) -> Turnover {
        let changes = || changes.iter().filter(|change| in_family(change.frontend, family));
        let turnover = self.chains.entry(family).or_default().turnover(changes());
        for code in &turnover.new {
            rules::create_chain(batch, family, &self.config, *code);
        }
        let mut elements = Elements::default();
        changes().for_each(|change| elements.diff(change));
        elements.write(batch);
        for code in &turnover.gone {
            batch.delete_chain(&rules::chain_name(*code));
        }
        turnover
    }

    /// Replaces the table by one for these frontends, and for clients that have an endpoint.
    fn rebuild(
        &mut self,
        family: Family,
        frontends: &[Change],
        known: &[(&'static str, Vec<Element>)],
    ) -> Result<(), NetlinkError> {
        self.chains.insert(family, Chains::default());
        let mut pieces = pieces(frontends);
        let mut batch = Batch::new(family, TABLE);
        rules::create_table(&mut batch, family, &self.config, &self.held);
        let turnover = self.write(&mut batch, family, pieces.next().unwrap_or(&[]));
        for (map, elements) in known {
            batch.add(map, elements);
        }
        self.send(family, batch, &turnover)?;
        pieces.try_for_each(|piece| self.write_piece(family, piece))
    }

    fn write_piece(&mut self, family: Family, changes: &[Change]) -> Result<(), NetlinkError> {
        let mut batch = Batch::new(family, TABLE);
        let turnover = self.write(&mut batch, family, changes);
        self.send(family, batch, &turnover)
    }

    fn send(
        &mut self,
        family: Family,
        batch: Batch,
        turnover: &Turnover,
    ) -> Result<(), NetlinkError> {
        nft::send(&self.socket, batch)?;
        self.chains.entry(family).or_default().apply(turnover);
        Ok(())
    }

    /// What the table that is there knows of clients whose endpoints these frontends still have:
    /// they stay with them when an earlier process's table is replaced.
    fn remembered(
        &self,
        family: Family,
        frontends: &[Change],
    ) -> Vec<(&'static str, Vec<Element>)> {
        let wanted: HashMap<Key, &Installed> = frontends
            .iter()
            .filter(|change| in_family(change.frontend, family))
            .map(|change| (frontend_key(change.frontend), &change.after))
            .collect();
        let address_length = family.address_length() as usize;
        let stays = |element: &Expiring| {
            let frontend = element.key.0.get(address_length..).unwrap_or(&[]).to_vec();
            wanted.get(&Key(frontend)).is_some_and(|after| sticks_to(after, &element.data))
        };
        let maps = [false, true].map(|node_port| Maps::of(node_port, false).affinity);
        maps.into_iter()
            .map(|map| {
                // Where there is no such table, nobody is known.
                let found = dump_expiring(&self.socket, family, TABLE, map).unwrap_or_default();
                (map, found.into_iter().filter(stays).map(Element::Expiring).collect::<Vec<_>>())
            })
            .filter(|(_, elements)| !elements.is_empty())
            .collect()
    }

    fn purge_affinity(&self, family: Family, changes: &[Change]) -> Result<(), NetlinkError> {
        let stuck = |view: &View| view.code.affinity().is_some();
        let changed: HashMap<Key, &Installed> = changes
            .iter()
            .filter(|c| in_family(c.frontend, family) && c.before.views().any(stuck))
            .filter(|c| c.before != c.after)
            .map(|c| (frontend_key(c.frontend), &c.after))
            .collect();
        if changed.is_empty() {
            return Ok(());
        }
        let address_length = family.address_length() as usize;
        for map in [false, true].map(|node_port| Maps::of(node_port, false).affinity) {
            for attempt in 1..=PURGE_ATTEMPTS {
                let stale: Vec<Element> = dump_elements(&self.socket, family, TABLE, map)?
                    .into_iter()
                    .filter(|(client, endpoint)| {
                        let frontend = client.0.get(address_length..).unwrap_or(&[]).to_vec();
                        let after = changed.get(&Key(frontend));
                        after.is_some_and(|after| !sticks_to(after, endpoint))
                    })
                    .map(|(client, _)| Element::Key(client))
                    .collect();
                let mut batch = Batch::new(family, TABLE);
                batch.remove(map, &stale);
                match nft::send(&self.socket, batch) {
                    Err(error) if error.is_missing() && attempt < PURGE_ATTEMPTS => {}
                    Err(error) => return Err(error),
                    Ok(()) => break,
                }
            }
        }
        Ok(())
    }

    fn end_flows(&self, family: Family, changes: &[Change]) -> Result<usize, NetlinkError> {
        let mut addresses: HashMap<(IpAddr, u16), &Change> = HashMap::new();
        let mut node_ports: HashMap<u16, &Change> = HashMap::new();
        for change in changes {
            let udp = change.frontend.protocol() == Protocol::Udp;
            if !udp || !in_family(change.frontend, family) || change.before == change.after {
                continue;
            }
            match change.frontend {
                Frontend::Address { address, port, .. } => {
                    addresses.insert((address, port), change);
                }
                Frontend::NodePort { port, .. } => {
                    node_ports.insert(port, change);
                }
            }
        }
        if addresses.is_empty() && node_ports.is_empty() {
            return Ok(0);
        }
        let pods = &self.config.pod_cidrs;
        forget_udp(&self.socket, family, |flow| {
            if let Some(change) = addresses.get(&flow.original.destination) {
                return !change.after.has_endpoint(flow.reply.source);
            }
            let change = node_ports.get(&flow.original.destination.1);
            change.is_some_and(|change| node_port_flow_is_stale(change, flow, pods))
        })
    }
}

/// Cuts changes into transactions.
fn pieces(changes: &[Change]) -> impl Iterator<Item = &[Change]> {
    let mut sum = 0;
    changes.chunk_by(move |change, _| {
        sum += change.elements();
        let goes_on = sum < TRANSACTION_ELEMENTS;
        if !goes_on {
            sum = 0;
        }
        goes_on
    })
}

/// Whether clients of a frontend stay with their endpoints, of which this is one.
fn sticks_to(installed: &Installed, endpoint: &Key) -> bool {
    installed.views().any(|view| {
        view.code.affinity().is_some()
            && view.endpoints.iter().any(|known| endpoint_data(*known) == *endpoint)
    })
}

/// A node port has no address of its own, so transit traffic to the same port must be told apart.
fn node_port_flow_is_stale(change: &Change, flow: &Flow, pods: &[IpNet]) -> bool {
    let endpoint = flow.reply.source;
    let translated = endpoint != flow.original.destination;
    if translated {
        let ours = change.before.has_endpoint(endpoint)
            || pods.iter().any(|pods| pods.contains(&endpoint.0));
        ours && !change.after.has_endpoint(endpoint)
    } else {
        // Sent before the Service had endpoints: it would stick to the node itself.
        flow.reply.destination == flow.original.source && change.after.inside.is_some()
    }
}

impl Backend for Nftables {
    fn replace(&mut self, frontends: &[Change]) -> Result<()> {
        for family in self.families() {
            let known = self.remembered(family, frontends);
            let result = match self.rebuild(family, frontends, &known) {
                // Clients that lose their endpoint are better than Services that lose their rules.
                Err(error) if !known.is_empty() => {
                    tracing::debug!(%error, "client affinity begins anew");
                    self.rebuild(family, frontends, &[])
                }
                result => result,
            };
            result.map_err(kernel("replace Service rules"))?;
        }
        Ok(())
    }

    fn update(&mut self, changes: &[Change]) -> Result<()> {
        for family in self.families() {
            for piece in pieces(changes) {
                self.write_piece(family, piece).map_err(kernel("change Service rules"))?;
            }
        }
        Ok(())
    }

    fn hold(&mut self, held: &Held) -> Result<()> {
        if *held == self.held {
            return Ok(());
        }
        for family in self.families() {
            let mut batch = Batch::new(family, TABLE);
            held.write(&self.held, &mut batch, family);
            nft::send(&self.socket, batch).map_err(kernel("hold ports of the host"))?;
        }
        self.held = held.clone();
        for family in self.families() {
            forget_udp(&self.socket, family, |flow| {
                let (address, port) = flow.original.destination;
                flow.reply.source != flow.original.destination
                    && held.has(address, Protocol::Udp, port)
            })
            .map_err(kernel("end UDP flows"))?;
        }
        Ok(())
    }

    fn monitor(&self) -> Result<Option<Monitor>> {
        Monitor::open(&self.socket, TABLE, &[pods::SIBLING])
            .map(Some)
            .map_err(kernel("watch rules"))
    }

    fn may_be_changed(&mut self) -> Result<bool> {
        let now = Baseline::now(&self.socket).map_err(kernel("read the generation of rules"))?;
        let before = std::mem::replace(&mut self.baseline, now);
        Ok(!now.is_own_work_since(before))
    }

    fn forget(&mut self, changes: &[Change]) -> Result<()> {
        for family in self.families() {
            self.purge_affinity(family, changes).map_err(kernel("forget client affinity"))?;
            let ended = self.end_flows(family, changes).map_err(kernel("end UDP flows"))?;
            if ended > 0 {
                tracing::debug!(ended, "ended UDP flows to endpoints that are gone");
            }
        }
        Ok(())
    }
}

fn kernel(step: &'static str) -> impl FnOnce(NetlinkError) -> ProxyError {
    move |source| ProxyError::Kernel { step, source }
}

fn in_family(frontend: Frontend, family: Family) -> bool {
    frontend.is_ipv6() == (family == Family::Ipv6)
}

/// Elements to remove from and add to each map.
#[derive(Default)]
struct Elements {
    remove: BTreeMap<&'static str, Vec<Element>>,
    add: BTreeMap<&'static str, Vec<Element>>,
}

impl Elements {
    fn diff(&mut self, change: &Change) {
        let node_port = matches!(change.frontend, Frontend::NodePort { .. });
        let key = frontend_key(change.frontend);
        for (outside, before, after) in [
            (false, &change.before.inside, &change.after.inside),
            (true, &change.before.outside, &change.after.outside),
        ] {
            let maps = Maps::of(node_port, outside);
            let code = |view: &Option<View>| view.as_ref().map(|view| view.code);
            if code(before) != code(after) {
                if before.is_some() {
                    self.remove(maps.chains, Element::Key(key.clone()));
                }
                if let Some(code) = code(after) {
                    let chain = rules::chain_name(code);
                    self.add(maps.chains, Element::Jump(key.clone(), chain));
                }
            }
            let before = before.as_ref().map(|v| v.slots.as_slice()).unwrap_or_default();
            let after = after.as_ref().map(|v| v.slots.as_slice()).unwrap_or_default();
            for slot in 0..before.len().max(after.len()) {
                let (old, new) = (before.get(slot), after.get(slot));
                if old == new {
                    continue;
                }
                let key = key.clone().mark(slot as u32);
                if old.is_some() {
                    self.remove(maps.endpoints, Element::Key(key.clone()));
                }
                if let Some(new) = new {
                    self.add(maps.endpoints, Element::Value(key, endpoint_data(*new)));
                }
            }
        }
        let (before, after) = (&change.before.ranges, &change.after.ranges);
        for range in before.iter().filter(|range| !after.contains(range)) {
            self.remove(SOURCE_RANGES, range_element(&key, *range));
        }
        for range in after.iter().filter(|range| !before.contains(range)) {
            self.add(SOURCE_RANGES, range_element(&key, *range));
        }
    }

    fn remove(&mut self, map: &'static str, element: Element) {
        self.remove.entry(map).or_default().push(element);
    }

    fn add(&mut self, map: &'static str, element: Element) {
        self.add.entry(map).or_default().push(element);
    }

    fn write(&self, batch: &mut Batch) {
        for (map, elements) in &self.remove {
            batch.remove(map, elements);
        }
        for (map, elements) in &self.add {
            batch.add(map, elements);
        }
    }
}

fn frontend_key(frontend: Frontend) -> Key {
    match frontend {
        Frontend::Address { address, protocol, port } => {
            Key::new().address(address).protocol(protocol.number()).port(port)
        }
        Frontend::NodePort { protocol, port, .. } => {
            Key::new().protocol(protocol.number()).port(port)
        }
    }
}

fn endpoint_data((address, port): Endpoint) -> Key {
    Key::new().address(address).port(port)
}

fn range_element(frontend: &Key, range: IpNet) -> Element {
    Element::Range(
        frontend.clone().address(range.network()),
        frontend.clone().address(range.broadcast()),
    )
}
