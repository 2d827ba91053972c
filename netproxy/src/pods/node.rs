//! The node's side of the pod network: what is attached, and the kernel's rules for it. Everything
//! here waits for the kernel and runs on threads that may.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::{Notify, watch};

use crate::conntrack::forget_udp;
use crate::firewall::{self, Openings, Report};
use crate::held::Held;
use crate::listeners;
use crate::netlink::{NetlinkError, Protocol as NetlinkProtocol, Socket};
use crate::nft::{self, Baseline, Batch, Family, Foreign, Monitor};
use crate::protocol::Protocol;
use crate::proxy;
use crate::route::Routes;

use super::address::Addresses;
use super::adoption::{adopt, working_pins};
use super::config::{
    AttachRequest, HostPort, HostPortConflict, NetworkConfig, NetworkError, PodLink, Result,
};
use super::files::{Directories, Pin, Record, holds_namespace};
use super::host::{self, Sysctls};
use super::namespace::{Blueprint, NamespaceMaker, new_host_link};
use super::network::Chain;
use super::openings;
use super::rules::{self, PodRules};

/// The things that all handles of a pod network share.
#[derive(Debug)]
pub struct Node {
    pub config: NetworkConfig,
    pub maker: NamespaceMaker,
    pub mtu: u32,
    pub gateway: Ipv4Addr,
    pub conflicts: watch::Sender<Vec<HostPortConflict>>,
    directories: Directories,
    openings: Openings,
    netfilter: Mutex<Socket>,
    state: Mutex<State>,
    /// True while a pod has a host port, and a notice that this changed.
    has_host_ports: AtomicBool,
    host_ports_changed: Notify,
}

/// The parts that change. Rules are sent under its lock.
#[derive(Debug)]
pub struct State {
    pub attached: HashMap<String, Record>,
    pub ready: VecDeque<Pin>,
    /// True while a task fills the pool.
    pub refilling: bool,
    /// Counts attachments, so that an idle timer sees whether there was one.
    pub attachments: u64,
    /// Everything was removed for good: missing rules are not written again.
    pub torn_down: bool,
    addresses: Addresses,
    /// The ports of the host that the kernel's rules leave alone.
    held: Held,
    firewalls: Report,
    baseline: Baseline,
}

impl Node {
    /// Sets up links, settings and rules in the namespace of the calling thread.
    pub fn open(config: NetworkConfig) -> Result<Self> {
        let directories = Directories::new(&config.run_dir);
        directories.create()?;
        let mut addresses = Addresses::new(config.pod_cidr, directories.read_last_address())
            .ok_or(NetworkError::RangeTooSmall(config.pod_cidr))?;
        let gateway = addresses.gateway();
        Sysctls::enable_forwarding(&directories.saved_sysctls())?;
        let routes = Routes::open().map_err(NetworkError::kernel("open route socket"))?;
        let mtu = match config.mtu {
            Some(mtu) => mtu,
            None => host::machine_mtu(&routes)?,
        };
        host::set_up(&routes, &config, gateway, mtu)?;

        let pins = working_pins(&directories, &routes)?;
        let attached = adopt(&directories, &pins)?;
        let claimed: HashSet<&str> = attached.values().map(|r| r.pin.as_str()).collect();
        let mut ready = VecDeque::new();
        let mut kept = Vec::new();
        for pin in pins {
            let name = pin.file_name();
            let reusable = config.pod_cidr.contains(&pin.address) && ready.len() < config.pool;
            if claimed.contains(name.as_str()) {
                addresses.reserve(pin.address);
                kept.push(pin);
            } else if reusable {
                addresses.reserve(pin.address);
                kept.push(pin.clone());
                ready.push_back(pin);
            } else {
                directories.unpin(&name)?;
            }
        }

        let netfilter = Socket::open_at(NetlinkProtocol::Netfilter, rules::PORT)
            .map_err(NetworkError::kernel("open netfilter socket"))?;
        let openings =
            Openings { pods: config.pod_cidr, dns: config.dns_ip, api: config.api.clone() };
        openings::explain_legacy(&openings);
        let has_host_ports = attached.values().any(|record| !record.host_ports.is_empty());
        let state = State {
            attached,
            ready,
            refilling: false,
            attachments: 0,
            torn_down: false,
            addresses,
            held: reserved(&config),
            firewalls: Report::default(),
            baseline: Baseline::default(),
        };
        let node = Self {
            maker: NamespaceMaker::start(directories.clone())?,
            conflicts: watch::Sender::default(),
            netfilter: Mutex::new(netfilter),
            state: Mutex::new(state),
            has_host_ports: AtomicBool::new(has_host_ports),
            host_ports_changed: Notify::new(),
            config,
            mtu,
            gateway,
            directories,
            openings,
        };
        // Rules before settings: `route_localnet` must not be without the rule that guards it.
        host::group_links(&routes, &kept)?;
        node.restore(Foreign { ours: true, others: true, lost: false })?;
        host::set_links(&kept)?;
        Ok(node)
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn netfilter(&self) -> MutexGuard<'_, Socket> {
        self.netfilter.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Subscribes to changes of rules by other programs.
    pub fn monitor(&self) -> Result<Monitor, NetlinkError> {
        Monitor::open(&self.netfilter(), rules::TABLE, &[proxy::SIBLING])
    }

    /// Returns whether a pod has a host port.
    pub fn has_host_ports(&self) -> bool {
        self.has_host_ports.load(Ordering::Relaxed)
    }

    /// Waits until [`Node::has_host_ports`] changes.
    pub async fn host_ports_changed(&self) {
        self.host_ports_changed.notified().await;
    }

    /// Writes our rules again where another program changed them, and opens firewalls.
    pub fn restore(&self, foreign: Foreign) -> Result<()> {
        let mut state = self.state();
        if state.torn_down {
            return Ok(());
        }
        let missed = foreign.lost && {
            let now = Baseline::now(&self.netfilter());
            let now = now.map_err(NetworkError::kernel("read the generation of rules"))?;
            !now.is_own_work_since(state.baseline)
        };
        if foreign.ours || missed {
            if state.baseline != Baseline::default() && foreign.ours {
                tracing::warn!("another program changed the rules of pods; writing them again");
            }
            self.follow(&mut state, Writing::Everything)?;
        }
        state.firewalls = openings::open(&self.netfilter(), &self.openings, &state.firewalls);
        let now = Baseline::now(&self.netfilter());
        state.baseline = now.map_err(NetworkError::kernel("read the generation of rules"))?;
        Ok(())
    }

    /// Removes what firewalls let through to this process.
    pub fn close_input(&self) -> Result<()> {
        firewall::close_input(&self.netfilter())
            .map_err(NetworkError::kernel("remove rules from firewalls"))
    }

    /// Looks which host ports processes of the host have now.
    pub fn follow_listeners(&self) -> Result<()> {
        self.follow(&mut self.state(), Writing::Changes)
    }

    fn follow(&self, state: &mut State, writing: Writing) -> Result<()> {
        let ports = || {
            let pods = state.attached.iter();
            pods.flat_map(|(uid, record)| record.host_ports.iter().map(move |port| (uid, port)))
        };
        let claimed: HashSet<_> =
            ports().map(|(_, port)| (port.protocol, port.host_port)).collect();
        let listeners = match claimed.is_empty() {
            true => Vec::new(),
            false => listeners::scan().map_err(NetworkError::kernel("list listeners"))?,
        };
        let held = reserved(&self.config)
            .with(&listeners, |protocol, port| claimed.contains(&(protocol, port)));
        let conflicts: Vec<HostPortConflict> = ports()
            .filter_map(|(uid, port)| {
                let (protocol, number) = (port.protocol, port.host_port);
                let found = listeners::conflict(&listeners, protocol, port.host_ip, number)?;
                let (uid, port, listener) = (uid.clone(), port.clone(), found.clone());
                Some(HostPortConflict { uid, port, listener })
            })
            .collect();
        let changed = held != state.held;
        let before = std::mem::replace(&mut state.held, held);
        let written = match writing {
            Writing::Everything => self.rewrite(state),
            Writing::Changes if changed => {
                let mut batch = rules::change();
                state.held.write(&before, &mut batch, Family::Ipv4);
                self.send("hold ports of the host", state, batch)
            }
            Writing::Changes => Ok(()),
        };
        if written.is_err() {
            state.held = before;
        } else if changed {
            let held = &state.held;
            forget(|address, port| held.has(address.into(), Protocol::Udp, port))?;
        }
        self.conflicts.send_if_modified(|known| {
            for conflict in conflicts.iter().filter(|conflict| !known.contains(conflict)) {
                let HostPortConflict { uid, port, listener } = conflict;
                tracing::warn!(
                    pod_uid = %uid, port = port.host_port, address = %listener.address,
                    "a process of the host listens at a pod's host port and has it"
                );
            }
            *known != conflicts && {
                *known = conflicts;
                true
            }
        });
        written
    }

    /// Replaces our tables by what they should be.
    fn rewrite(&self, state: &State) -> Result<()> {
        let pods = state.attached.values().filter_map(pod_rules);
        let batch = rules::replace(&self.config, &state.held, state.addresses.in_use(), pods);
        let netfilter = self.netfilter();
        nft::send(&netfilter, batch).map_err(NetworkError::kernel("write pod rules"))?;
        match nft::send(&netfilter, rules::replace_ipv6(&self.config)) {
            // The links' own settings keep IPv6 out as well.
            Err(error) if error.is_missing() || error.is_unsupported() => {
                tracing::debug!(error = %Chain(&error), "no IPv6 rules");
                Ok(())
            }
            result => result.map_err(NetworkError::kernel("write IPv6 rules of pods")),
        }
    }

    /// Sends a change that `state` has already; where the table is not as expected, all of it.
    fn send(&self, step: &'static str, state: &State, batch: Batch) -> Result<()> {
        let sent = nft::send(&self.netfilter(), batch);
        match sent {
            Err(error) if error.is_missing() && !state.torn_down => {
                tracing::warn!(error = %Chain(&error), step, "the rules of pods are not as expected; writing them again");
                self.rewrite(state)
            }
            result => result.map_err(NetworkError::kernel(step)),
        }
    }

    /// Takes an address and a name for a namespace.
    pub fn blueprint(&self) -> Result<Blueprint> {
        let host_link = new_host_link()?;
        let mut state = self.state();
        if state.torn_down {
            return Err(NetworkError::ShutDown);
        }
        let address = state
            .addresses
            .allocate(Instant::now())
            .ok_or(NetworkError::NoAddress(self.config.pod_cidr))?;
        drop(state);
        self.directories.write_last_address(address);
        let pin = Pin { address, host_link };
        Ok(Blueprint { pin, gateway: self.gateway, mtu: self.mtu })
    }

    /// Writes the rules of a namespace that was made; gives everything back when it was not.
    pub fn prepared(&self, pin: Pin, made: Result<()>) -> Result<Pin> {
        let made = made.and_then(|()| {
            let mut batch = rules::change();
            rules::add_address(&mut batch, pin.address);
            self.send("write rules of a pod", &self.state(), batch)
        });
        match made {
            Ok(()) => Ok(pin),
            Err(error) => {
                let _ = self.directories.unpin(&pin.file_name());
                self.state().addresses.release(pin.address, Instant::now());
                Err(error)
            }
        }
    }

    /// Puts a prepared namespace into the pool.
    pub fn add_ready(&self, pin: Pin) -> Result<()> {
        self.state().ready.push_back(pin);
        Ok(())
    }

    /// The link of a pod that is attached already, after bringing its host ports up to date.
    fn attached_link(&self, request: &AttachRequest) -> Result<Option<PodLink>> {
        self.directories.record_path(&request.uid)?;
        let mut state = self.state();
        let Some(record) = state.attached.get(&request.uid) else { return Ok(None) };
        if !holds_namespace(&self.directories.pin(&record.pin)) {
            drop(state);
            self.detach(&request.uid)?;
            return Ok(None);
        }
        if record.host_ports == request.host_ports {
            return Ok(Some(self.link(record)));
        }
        let record = Record { host_ports: request.host_ports.clone(), ..record.clone() };
        self.install(&mut state, &request.uid, record).map(Some)
    }

    /// Attaches a pod that is attached already, or for which a namespace is ready; `None` where one
    /// must be prepared first.
    pub fn attach_at_once(
        &self,
        request: &AttachRequest,
        is_wanted: impl FnOnce() -> bool,
    ) -> Result<Option<PodLink>> {
        if let Some(link) = self.attached_link(request)? {
            return Ok(Some(link));
        }
        let ready = self.state().ready.pop_front();
        ready.map(|pin| self.claim(request, pin, is_wanted)).transpose()
    }

    /// Gives a prepared namespace to a pod, or to the pool when its caller was cancelled.
    pub fn claim(
        &self,
        request: &AttachRequest,
        pin: Pin,
        is_wanted: impl FnOnce() -> bool,
    ) -> Result<PodLink> {
        let mut state = self.state();
        if !is_wanted() {
            if state.ready.len() < self.config.pool {
                state.ready.push_back(pin);
            } else {
                drop(state);
                self.discard(&pin)?;
            }
            return Err(NetworkError::Cancelled);
        }
        state.attachments += 1;
        if let Some(record) = state.attached.get(&request.uid) {
            // Two callers attached the same pod at once; the pool takes ours.
            let link = self.link(record);
            state.ready.push_back(pin);
            return Ok(link);
        }
        let record = Record {
            pin: pin.file_name(),
            host_ports: request.host_ports.clone(),
            mtu: self.mtu,
            gateway: self.gateway,
        };
        let link = self.install(&mut state, &request.uid, record);
        if link.is_err() && !state.attached.contains_key(&request.uid) {
            state.ready.push_back(pin);
        }
        link
    }

    /// Writes the record, then opens the host ports; after an error everything is as before.
    fn install(&self, state: &mut State, uid: &str, record: Record) -> Result<PodLink> {
        self.directories.write_record(uid, &record)?;
        let link = self.link(&record);
        let before = state.attached.insert(uid.to_owned(), record.clone());
        if let Err(error) = self.open_host_ports(state, uid, before.as_ref(), &record) {
            let _ = match &before {
                Some(before) => self.directories.write_record(uid, before),
                None => self.directories.remove_record(uid),
            };
            match before {
                Some(before) => state.attached.insert(uid.to_owned(), before),
                None => state.attached.remove(uid),
            };
            return Err(error);
        }
        self.note_host_ports(state);
        self.forget_flows(&record)?;
        Ok(link)
    }

    fn open_host_ports(
        &self,
        state: &mut State,
        uid: &str,
        before: Option<&Record>,
        record: &Record,
    ) -> Result<()> {
        let before = before.map(|record| record.host_ports.as_slice()).unwrap_or_default();
        if before.is_empty() && record.host_ports.is_empty() {
            return Ok(());
        }
        // A process of the host keeps its port from the first packet on.
        self.follow(state, Writing::Changes)?;
        let mut batch = rules::change();
        self.close_host_ports(state, uid, before, &mut batch);
        if let Some(pod) = pod_rules(record) {
            let open = self.unclaimed(state, uid, pod.host_ports);
            rules::add_host_ports(&mut batch, PodRules { host_ports: &open, ..pod });
        }
        self.send("open host ports", state, batch)
    }

    pub fn detach(&self, uid: &str) -> Result<()> {
        let mut state = self.state();
        let Some(record) = state.attached.remove(uid) else { return Ok(()) };
        let mut batch = rules::change();
        self.close_host_ports(&state, uid, &record.host_ports, &mut batch);
        if let Some(pin) = Pin::parse(&record.pin) {
            rules::remove_address(&mut batch, pin.address);
            state.addresses.release(pin.address, Instant::now());
        }
        let closed = self.send("close host ports", &state, batch);
        self.note_host_ports(&state);
        drop(state);
        // The record goes first: a pin without a record is cleaned up by the next start.
        self.directories.remove_record(uid)?;
        self.directories.unpin(&record.pin)?;
        closed?;
        self.forget_flows(&record)
    }

    /// Removes a prepared namespace.
    pub fn discard(&self, pin: &Pin) -> Result<()> {
        let mut batch = rules::change();
        rules::remove_address(&mut batch, pin.address);
        let mut state = self.state();
        state.addresses.release(pin.address, Instant::now());
        self.send("remove rules of a pod", &state, batch)?;
        drop(state);
        self.directories.unpin(&pin.file_name())
    }

    fn note_host_ports(&self, state: &State) {
        let now = state.attached.values().any(|record| !record.host_ports.is_empty());
        if self.has_host_ports.swap(now, Ordering::Relaxed) != now {
            self.host_ports_changed.notify_one();
        }
    }

    /// Removes the elements of these ports of pod `uid`, unless another pod owns the port.
    fn close_host_ports(&self, state: &State, uid: &str, ports: &[HostPort], batch: &mut Batch) {
        for port in self.unclaimed(state, uid, ports) {
            rules::remove_host_port(batch, &port);
        }
    }

    /// Those of the ports that no other pod has; within the list, the first of equal ones.
    fn unclaimed(&self, state: &State, uid: &str, ports: &[HostPort]) -> Vec<HostPort> {
        let others = state.attached.iter().filter(|(other, _)| *other != uid);
        let mut taken: HashSet<_> = others
            .flat_map(|(_, record)| record.host_ports.iter().filter_map(rules::host_port_key))
            .collect();
        let free =
            |port: &&HostPort| rules::host_port_key(port).is_some_and(|key| taken.insert(key));
        ports.iter().filter(free).cloned().collect()
    }

    /// UDP flows through a host port would go on to the pod that had it before.
    fn forget_flows(&self, record: &Record) -> Result<()> {
        let udp = record.host_ports.iter().filter(|port| port.protocol == Protocol::Udp);
        let udp: HashSet<u16> = udp.map(|port| port.host_port).collect();
        let Some(pin) = Pin::parse(&record.pin).filter(|_| !udp.is_empty()) else { return Ok(()) };
        forget(|address, port| udp.contains(&port) && address != pin.address)
    }

    fn link(&self, record: &Record) -> PodLink {
        let address = Pin::parse(&record.pin).map_or(Ipv4Addr::UNSPECIFIED, |pin| pin.address);
        PodLink {
            netns: self.directories.pin(&record.pin),
            address: address.into(),
            gateway: record.gateway.into(),
            mtu: record.mtu,
        }
    }
}

/// The part of the table that is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Writing {
    Changes,
    Everything,
}

fn reserved(config: &NetworkConfig) -> Held {
    Held::reserved(config.api.iter().map(SocketAddr::port))
}

/// Deletes tracked UDP flows by what their first packet was sent to.
fn forget(which: impl Fn(Ipv4Addr, u16) -> bool) -> Result<()> {
    let socket = Socket::open(NetlinkProtocol::Netfilter)
        .map_err(NetworkError::kernel("open netfilter socket"))?;
    forget_udp(&socket, Family::Ipv4, |flow| match flow.original.destination {
        (std::net::IpAddr::V4(address), port) => which(address, port),
        _ => false,
    })
    .map(drop)
    .map_err(NetworkError::kernel("forget UDP flows"))
}

fn pod_rules(record: &Record) -> Option<PodRules<'_>> {
    let pin = Pin::parse(&record.pin)?;
    Some(PodRules { address: pin.address, host_ports: &record.host_ports })
}
