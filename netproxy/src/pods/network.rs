//! [`PodNetwork`]: attaches pods, keeps a small pool of prepared namespaces, adopts what an
//! earlier process left.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use crate::conntrack::forget_udp;
use crate::firewall::{Openings, Report};
use crate::held::Held;
use crate::netlink::{Protocol as NetlinkProtocol, Socket};
use crate::nft::{self, Batch, Family};
use crate::protocol::Protocol;
use crate::route::Routes;

use super::address::Addresses;
use super::config::{AttachRequest, HostPort, NetworkConfig, NetworkError, PodLink, Result};
use super::files::{Directories, Pin, Record, holds_namespace};
use super::host::{self, Sysctls};
use super::namespace::{Blueprint, NamespaceMaker, new_host_link};
use super::rules::{self, PodRules};

/// After this long without a new pod the prepared namespaces are given back.
const POOL_IDLE: Duration = Duration::from_secs(600);

/// The pod network of this node; clones share it.
#[derive(Debug, Clone)]
pub struct PodNetwork {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    config: NetworkConfig,
    directories: Directories,
    maker: NamespaceMaker,
    netfilter: Mutex<Socket>,
    mtu: u32,
    gateway: Ipv4Addr,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    addresses: Addresses,
    attached: HashMap<String, Record>,
    ready: VecDeque<Pin>,
    /// Whether a task fills the pool.
    refilling: bool,
    /// Counts attachments, so that an idle timer sees whether there was one.
    attachments: u64,
}

impl PodNetwork {
    /// Sets up the node's side in the network namespace of the calling thread and adopts the
    /// pods that an earlier process attached. Must be called within a Tokio runtime.
    pub async fn start(config: NetworkConfig) -> Result<Self> {
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
        for pin in pins {
            let name = pin.file_name();
            let reusable = config.pod_cidr.contains(&pin.address) && ready.len() < config.pool;
            if claimed.contains(name.as_str()) {
                addresses.reserve(pin.address);
            } else if reusable {
                addresses.reserve(pin.address);
                ready.push_back(pin);
            } else {
                directories.unpin(&name)?;
            }
        }

        let netfilter = Socket::open(NetlinkProtocol::Netfilter)
            .map_err(NetworkError::kernel("open netfilter socket"))?;
        let all = || attached.values().filter_map(|record| Pin::parse(&record.pin));
        let held = Held::reserved(config.api.iter().map(SocketAddr::port));
        let batch = rules::replace(
            &config,
            &held,
            all().map(|pin| pin.address).chain(ready.iter().map(|pin| pin.address)),
            attached.values().filter_map(pod_rules),
        );
        nft::send(&netfilter, batch).map_err(NetworkError::kernel("write pod rules"))?;
        match nft::send(&netfilter, rules::replace_ipv6()) {
            // The links' own settings keep IPv6 out as well.
            Err(error) if error.is_missing() || error.is_unsupported() => {
                tracing::debug!(error = %Chain(&error), "no IPv6 rules");
            }
            result => result.map_err(NetworkError::kernel("write IPv6 rules of pods"))?,
        }
        // Links that an earlier version made lack this.
        let pins: Vec<Pin> = all().chain(ready.iter().cloned()).collect();
        host::adopt_links(&routes, &pins)?;

        let openings =
            Openings { pods: config.pod_cidr, dns: config.dns_ip, api: config.api.clone() };
        let firewalls = super::openings::open(&netfilter, &openings, &Report::default());
        super::openings::explain_legacy(&openings);
        let _ = firewalls;
        let netfilter = Mutex::new(netfilter);
        let maker = NamespaceMaker::start(directories.clone())?;
        let state = State { addresses, attached, ready, refilling: false, attachments: 0 };
        let state = Mutex::new(state);
        let inner = Arc::new(Inner { config, directories, maker, netfilter, mtu, gateway, state });
        let network = Self { inner };
        network.refill();
        Ok(network)
    }

    /// Gives a pod its network. Asking again for the same uid returns the same link, with the
    /// host ports of the latest request.
    pub async fn attach(&self, request: &AttachRequest) -> Result<PodLink> {
        let inner = &self.inner;
        inner.directories.record_path(&request.uid)?;
        if let Some(link) = inner.attached_link(request)? {
            return Ok(link);
        }
        let prepared = inner.state().ready.pop_front();
        let pin = match prepared {
            Some(pin) => pin,
            None => inner.prepare().await?,
        };
        let link = inner.claim(request, pin);
        self.refill();
        link
    }

    /// Takes a pod's network away: its host ports close at once, the namespace is dismantled by
    /// the kernel in the background once no process uses it. Succeeds for an unknown uid.
    pub async fn detach(&self, uid: &str) -> Result<()> {
        self.inner.detach(uid)
    }

    /// Detaches every pod that is not in the set.
    pub async fn retain(&self, uids: &HashSet<String>) -> Result<()> {
        let gone: Vec<String> = {
            let state = self.inner.state();
            state.attached.keys().filter(|uid| !uids.contains(*uid)).cloned().collect()
        };
        for uid in gone {
            self.inner.detach(&uid)?;
        }
        Ok(())
    }

    /// Removes every trace of the pod network, running pods' links included.
    pub async fn teardown(&self) -> Result<()> {
        {
            let mut state = self.inner.state();
            state.attached.clear();
            state.ready.clear();
        }
        crate::teardown::teardown(&self.inner.config.run_dir)
    }

    /// The node's own address in the pod range, which pods have as gateway.
    pub fn gateway(&self) -> Ipv4Addr {
        self.inner.gateway
    }

    /// Addresses that this network bound on the node besides its own: the cluster DNS address.
    pub fn local_addresses(&self) -> Vec<Ipv4Addr> {
        std::iter::once(self.inner.gateway).chain(self.inner.config.dns_ip).collect()
    }

    /// Largest packet of pods in bytes.
    pub fn mtu(&self) -> u32 {
        self.inner.mtu
    }

    /// Fills the pool in the background and gives it back when no pod comes for long.
    fn refill(&self) {
        let inner = Arc::clone(&self.inner);
        if std::mem::replace(&mut inner.state().refilling, true) {
            return;
        }
        tokio::spawn(async move {
            while inner.state().ready.len() < inner.config.pool {
                match inner.prepare().await {
                    Ok(pin) => inner.state().ready.push_back(pin),
                    Err(error) => {
                        // An attach that needs a namespace meets and reports the same error.
                        tracing::debug!(error = %Chain(&error), "prepare pod namespace");
                        break;
                    }
                }
            }
            let attachments = {
                let mut state = inner.state();
                state.refilling = false;
                state.attachments
            };
            tokio::spawn(release_when_idle(Arc::downgrade(&inner), attachments));
        });
    }
}

async fn release_when_idle(inner: Weak<Inner>, attachments: u64) {
    tokio::time::sleep(POOL_IDLE).await;
    let Some(inner) = inner.upgrade() else { return };
    let pins: Vec<Pin> = {
        let mut state = inner.state();
        if state.attachments != attachments {
            return;
        }
        state.ready.drain(..).collect()
    };
    for pin in pins {
        if let Err(error) = inner.discard(&pin) {
            tracing::warn!(error = %Chain(&error), "give back an unused pod namespace");
        }
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn netfilter(&self) -> MutexGuard<'_, Socket> {
        self.netfilter.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn send(&self, step: &'static str, batch: Batch) -> Result<()> {
        nft::send(&self.netfilter(), batch).map_err(NetworkError::kernel(step))
    }

    /// Makes a namespace with a link and an address that no pod has yet.
    async fn prepare(&self) -> Result<Pin> {
        let host_link = new_host_link()?;
        let address = self
            .state()
            .addresses
            .allocate(Instant::now())
            .ok_or(NetworkError::NoAddress(self.config.pod_cidr))?;
        self.directories.write_last_address(address);
        let pin = Pin { address, host_link };
        let blueprint = Blueprint { pin: pin.clone(), gateway: self.gateway, mtu: self.mtu };
        let made = self.maker.make(blueprint).await.and_then(|()| {
            let mut batch = rules::change();
            rules::add_address(&mut batch, address);
            self.send("write rules of a pod", batch)
        });
        match made {
            Ok(()) => Ok(pin),
            Err(error) => {
                let _ = self.directories.unpin(&pin.file_name());
                self.state().addresses.release(address, Instant::now());
                Err(error)
            }
        }
    }

    /// The link of a pod that is attached already, after bringing its host ports up to date.
    fn attached_link(&self, request: &AttachRequest) -> Result<Option<PodLink>> {
        let state = self.state();
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
        drop(state);
        self.install(&request.uid, record).map(Some)
    }

    fn claim(&self, request: &AttachRequest, pin: Pin) -> Result<PodLink> {
        {
            let mut state = self.state();
            state.attachments += 1;
            if let Some(record) = state.attached.get(&request.uid) {
                // Two callers attached the same pod at once; the pool takes ours.
                let link = self.link(record);
                state.ready.push_back(pin);
                return Ok(link);
            }
        }
        let record = Record {
            pin: pin.file_name(),
            host_ports: request.host_ports.clone(),
            mtu: self.mtu,
            gateway: self.gateway,
        };
        self.install(&request.uid, record)
    }

    /// Writes the record, then opens the host ports.
    fn install(&self, uid: &str, record: Record) -> Result<PodLink> {
        self.directories.write_record(uid, &record)?;
        let link = self.link(&record);
        let mut state = self.state();
        let before = state.attached.insert(uid.to_owned(), record.clone());
        let before = before.map(|record| record.host_ports).unwrap_or_default();
        let mut batch = rules::change();
        self.close_host_ports(&state, uid, &before, &mut batch);
        if let Some(pod) = pod_rules(&record) {
            let open = self.unclaimed(&state, uid, pod.host_ports);
            let pod = PodRules { host_ports: &open, ..pod };
            rules::add_host_ports(&mut batch, pod);
        }
        self.send("open host ports", batch)?;
        drop(state);
        self.forget_flows(&record, &record.host_ports)?;
        Ok(link)
    }

    fn detach(&self, uid: &str) -> Result<()> {
        let mut state = self.state();
        let Some(record) = state.attached.remove(uid) else { return Ok(()) };
        let mut batch = rules::change();
        self.close_host_ports(&state, uid, &record.host_ports, &mut batch);
        let pin = Pin::parse(&record.pin);
        if let Some(pin) = &pin {
            rules::remove_address(&mut batch, pin.address);
        }
        let closed = self.send("close host ports", batch);
        if let Some(pin) = &pin {
            state.addresses.release(pin.address, Instant::now());
        }
        drop(state);
        // The record goes first: a pin without a record is cleaned up by the next start.
        self.directories.remove_record(uid)?;
        self.directories.unpin(&record.pin)?;
        closed?;
        self.forget_flows(&record, &record.host_ports)
    }

    fn discard(&self, pin: &Pin) -> Result<()> {
        let mut batch = rules::change();
        rules::remove_address(&mut batch, pin.address);
        self.send("remove rules of a pod", batch)?;
        self.directories.unpin(&pin.file_name())?;
        self.state().addresses.release(pin.address, Instant::now());
        Ok(())
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
    fn forget_flows(&self, record: &Record, ports: &[HostPort]) -> Result<()> {
        let udp: HashSet<u16> = ports
            .iter()
            .filter(|port| port.protocol == Protocol::Udp)
            .map(|port| port.host_port)
            .collect();
        if udp.is_empty() {
            return Ok(());
        }
        let Some(pin) = Pin::parse(&record.pin) else { return Ok(()) };
        forget_udp(&self.netfilter(), Family::Ipv4, |flow| {
            let destination = flow.original.destination;
            udp.contains(&destination.1) && destination.0 != pin.address
        })
        .map(drop)
        .map_err(NetworkError::kernel("forget UDP flows"))
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

fn pod_rules(record: &Record) -> Option<PodRules<'_>> {
    let pin = Pin::parse(&record.pin)?;
    Some(PodRules { address: pin.address, host_ports: &record.host_ports })
}

/// Pins whose link is still there; the others are let go.
fn working_pins(directories: &Directories, routes: &Routes) -> Result<Vec<Pin>> {
    let links = routes.links().map_err(NetworkError::kernel("list links"))?;
    let names: HashSet<&str> = links.iter().map(|link| link.name.as_str()).collect();
    let (working, broken): (Vec<Pin>, Vec<Pin>) = directories
        .live_pins()?
        .into_iter()
        .partition(|pin| names.contains(pin.host_link.as_str()));
    for pin in broken {
        directories.unpin(&pin.file_name())?;
    }
    Ok(working)
}

/// Records whose pin works, by uid; the others are removed.
fn adopt(directories: &Directories, pins: &[Pin]) -> Result<HashMap<String, Record>> {
    let names: HashSet<String> = pins.iter().map(Pin::file_name).collect();
    let mut attached = HashMap::new();
    for (uid, record) in directories.read_records()? {
        if names.contains(&record.pin) {
            attached.insert(uid, record);
        } else {
            directories.remove_record(&uid)?;
        }
    }
    Ok(attached)
}

/// An error with its causes, for logs.
pub(crate) struct Chain<'a>(pub &'a (dyn std::error::Error + 'static));

impl std::fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut source = self.0.source();
        while let Some(error) = source {
            write!(f, ": {error}")?;
            source = error.source();
        }
        Ok(())
    }
}
