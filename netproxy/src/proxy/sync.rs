//! [`Proxy`]: remembers Services, EndpointSlices and what the kernel has, and writes what
//! changed.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::SocketAddr;
use std::ops::Bound;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use watch::Packed;

use crate::held::Held;
use crate::listeners::{self, Listener};
use crate::nft::{Foreign, Monitor};
use crate::pods::Chain;
use crate::protocol::Protocol;

use super::config::{Backend, ProxyConfig, ProxyError, Result};
use super::frontends::{Change, Installed};
use super::keys::{ServiceKey, SliceId, slice_id};
use super::known::{Known, KnownSlice, cut_down, unpacked};
use super::nftables::Nftables;
use super::plan::{Frontend, HealthCheck, most_frontends, plan_health_check, plan_service, trim};
use super::room::{Bounded, Cost, Room, Shortage};

/// Services, frontends and map elements that are planned or written at once; more is done aside.
const LITTLE: usize = 512;
/// Room for Services that is not worth giving back.
const SPARE_SERVICES: usize = 1024;

/// A port of a Service at the node that a process of the host has: its packets go to the process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortConflict {
    /// The Service.
    pub service: ServiceKey,
    /// The Service's uid.
    pub uid: Option<String>,
    /// The port.
    pub frontend: Frontend,
    /// The socket of the process.
    pub listener: Listener,
}

/// Orders Services that claim the same frontend: the oldest has it.
type Claim = (Option<Time>, ServiceKey);

/// Keeps the kernel's Service rules equal to the objects that it is told of.
pub struct Proxy {
    config: ProxyConfig,
    /// Networks of pods and Services.
    internal: Vec<IpNet>,
    backend: Box<dyn Backend>,
    services: HashMap<ServiceKey, Known>,
    /// Which Service a slice belongs to; its label may change.
    slices: HashMap<SliceId, ServiceKey>,
    /// In order, of which the first has the frontend.
    claims: HashMap<Frontend, Vec<Claim>>,
    installed: HashMap<Frontend, Installed>,
    health_checks: BTreeMap<ServiceKey, HealthCheck>,
    room: Room,
    /// Services that have no or too few rules because there was no room, and what they need.
    waiting: BTreeMap<ServiceKey, Cost>,
    /// Those since the last report.
    shortages: Vec<Shortage>,
    /// The number of frontends outside the cluster's own ranges, by port.
    claimed: HashMap<(Protocol, u16), usize>,
    /// The sockets that the host listens on, as of the last look.
    listeners: Vec<Listener>,
    /// True if a port was claimed since then.
    look_again: bool,
    dirty: HashSet<ServiceKey>,
    /// Whether the kernel's rules are ours and complete.
    started: bool,
}

impl Proxy {
    /// A proxy over nftables in the calling thread's network namespace. Rules of an earlier
    /// process stay until the first [`Proxy::flush`].
    pub fn open(config: ProxyConfig) -> Result<Self> {
        let backend = Nftables::open(config.clone())?;
        Ok(Self::with_backend(config, Box::new(backend)))
    }

    /// A proxy over another backend.
    pub(crate) fn with_backend(config: ProxyConfig, backend: Box<dyn Backend>) -> Self {
        Self {
            internal: [config.pod_cidrs.as_slice(), &config.service_cidrs].concat(),
            config,
            backend,
            services: HashMap::new(),
            slices: HashMap::new(),
            claims: HashMap::new(),
            installed: HashMap::new(),
            health_checks: BTreeMap::new(),
            room: Room::default(),
            waiting: BTreeMap::new(),
            shortages: Vec::new(),
            claimed: HashMap::new(),
            listeners: Vec::new(),
            look_again: false,
            dirty: HashSet::new(),
            started: false,
        }
    }

    /// A Service was added or changed.
    pub fn set_service(&mut self, mut service: Service) {
        let key = ServiceKey::of(&service.metadata);
        trim(&mut service);
        let known = self.services.entry(key.clone()).or_default();
        known.frontends = most_frontends(&service);
        known.service = Packed::new(&service);
        self.dirty.insert(key);
    }

    /// A Service was deleted.
    pub fn remove_service(&mut self, key: &ServiceKey) {
        if let Some(known) = self.services.get_mut(key) {
            known.service = None;
            self.dirty.insert(key.clone());
        }
    }

    /// An EndpointSlice was added or changed.
    pub fn set_slice(&mut self, mut slice: EndpointSlice) {
        let id = slice_id(&slice.metadata);
        let owner = ServiceKey::of_slice(&slice.metadata);
        if self.slices.get(&id) != owner.as_ref() {
            self.remove_slice(&id);
        }
        let Some(owner) = owner else { return };
        slice.metadata = ObjectMeta::default();
        let known = self.services.entry(owner.clone()).or_default();
        known.slices.retain(|known| known.name != id.1);
        if known.slices.is_empty() {
            // Nearly every Service has one.
            known.slices.reserve_exact(1);
        }
        let endpoints = slice.endpoints.len();
        let packed = Packed::new(&slice);
        known.slices.extend(packed.map(|slice| KnownSlice {
            name: id.1.clone(),
            slice,
            endpoints,
        }));
        known.slices.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        self.slices.insert(id, owner.clone());
        self.dirty.insert(owner);
    }

    /// An EndpointSlice was deleted.
    pub fn remove_slice(&mut self, id: &SliceId) {
        let Some(owner) = self.slices.remove(id) else { return };
        if let Some(known) = self.services.get_mut(&owner) {
            known.slices.retain(|known| known.name != id.1);
        }
        self.dirty.insert(owner);
    }

    /// The Services that were added and not deleted.
    pub(super) fn service_keys(&self) -> impl Iterator<Item = &ServiceKey> {
        let present = self.services.iter().filter(|(_, known)| known.service.is_some());
        present.map(|(key, _)| key)
    }

    /// The EndpointSlices of Services that were added and not deleted.
    pub(super) fn slice_ids(&self) -> impl Iterator<Item = &SliceId> {
        self.slices.keys()
    }

    /// Writes what changed since the last time; the first time, everything. When the kernel
    /// refuses a change (after a foreign flush), everything is written again. Returns the number
    /// of frontends that changed.
    pub fn flush(&mut self) -> Result<usize> {
        let changes = self.plan();
        self.write(&changes)
    }

    /// Returns whether [`Proxy::plan`] is a matter of microseconds: few Services changed, and each is
    /// small.
    pub(super) fn plans_little(&self) -> bool {
        let work = |key: &ServiceKey| self.services.get(key).map_or(0, Known::work);
        self.waiting.is_empty()
            && self.dirty.len() <= LITTLE
            && self.dirty.iter().map(work).sum::<usize>() <= LITTLE
    }

    /// Returns whether [`Proxy::write`] is one short transaction, without a look at the connections
    /// and clients that the kernel knows.
    pub(super) fn writes_little(&self, changes: &[Change]) -> bool {
        let elements = changes.iter().map(Change::elements).sum::<usize>();
        self.started
            && !self.look_again
            && elements <= LITTLE
            && !changes.iter().any(Change::concerns_clients)
    }

    /// Takes the changes since the last time in; returns how the kernel's rules are to change, for
    /// [`Proxy::write`].
    pub(super) fn plan(&mut self) -> Vec<Change> {
        let changes = self.changes();
        for change in &changes {
            if change.after == Installed::default() {
                self.installed.remove(&change.frontend);
            } else {
                self.installed.insert(change.frontend, change.after.clone());
            }
        }
        changes
    }

    /// Writes what was planned. After an error everything is written by the next call.
    pub(super) fn write(&mut self, changes: &[Change]) -> Result<usize> {
        if self.started && changes.is_empty() && !self.look_again {
            return Ok(0);
        }
        let written = self.try_write(changes);
        self.started = written.is_ok();
        written.map(|()| changes.len())
    }

    fn try_write(&mut self, changes: &[Change]) -> Result<()> {
        if self.look_again {
            // A process of the host keeps its port from the first packet on.
            self.look_at_listeners()?;
        }
        self.hold()?;
        if self.started
            && let Err(error) = self.backend.update(changes)
        {
            tracing::warn!(
                error = %Chain(&error),
                "the kernel's Service rules are not as expected; replacing them"
            );
            self.started = false;
        }
        if !self.started {
            self.replace()?;
            self.hold()?;
        }
        self.forget(changes);
        Ok(())
    }

    fn replace(&mut self) -> Result<()> {
        let all: Vec<Change> = self.everything();
        self.backend.replace(&all)?;
        self.started = true;
        self.forget(&all);
        Ok(())
    }

    /// Writes everything again at the next [`Proxy::flush`] if another program changed our rules.
    pub(super) fn note(&mut self, foreign: Foreign) -> Result<()> {
        let missed = self.backend.may_be_changed()? && foreign.lost;
        if self.started && (foreign.ours || missed) {
            tracing::warn!("another program changed the rules of Services; writing them again");
            self.started = false;
        }
        Ok(())
    }

    /// Subscribes to changes of our rules by other programs.
    pub(super) fn monitor(&self) -> Result<Option<Monitor>> {
        self.backend.monitor()
    }

    /// Returns whether a Service has a port that processes of the host may want.
    pub fn claims_host_ports(&self) -> bool {
        !self.claimed.is_empty()
    }

    /// Looks which of the Services' ports at the node processes of the host have now, and leaves
    /// those to them. Returns the conflicts.
    pub fn follow_listeners(&mut self) -> Result<Vec<PortConflict>> {
        self.look_at_listeners()?;
        self.hold()?;
        Ok(self.conflicts())
    }

    fn look_at_listeners(&mut self) -> Result<()> {
        self.listeners = match self.claimed.is_empty() {
            true => Vec::new(),
            false => listeners::scan()
                .map_err(|source| ProxyError::Kernel { step: "list listeners", source })?,
        };
        self.look_again = false;
        Ok(())
    }

    fn hold(&mut self) -> Result<()> {
        let api = self.config.api.iter().map(SocketAddr::port);
        // Load balancers' health checks are answered by this process, soon if not yet.
        let health = self.health_checks.values().map(|check| check.port);
        let claimed = |protocol, port| self.claimed.contains_key(&(protocol, port));
        let held = Held::reserved(api.chain(health)).with(&self.listeners, claimed);
        match self.backend.hold(&held) {
            Err(error) if self.started => {
                tracing::warn!(error = %Chain(&error), "the kernel's Service rules are not as expected; replacing them");
                self.replace()?;
                self.backend.hold(&held)
            }
            // The first table is still to be written.
            Err(_) => Ok(()),
            Ok(()) => Ok(()),
        }
    }

    /// The ports that processes of the host have, except those of a Service's own endpoint: a pod
    /// in the host's network that serves the very port.
    fn conflicts(&self) -> Vec<PortConflict> {
        let mut found = Vec::new();
        for (service, known) in &self.services {
            for (frontend, target) in &known.targets {
                let (protocol, address, port) = match *frontend {
                    Frontend::Address { protocol, address, port } => {
                        (protocol, Some(address), port)
                    }
                    Frontend::NodePort { protocol, port, .. } => (protocol, None, port),
                };
                if !self.is_outside(*frontend) {
                    continue;
                }
                let Some(listener) = listeners::conflict(&self.listeners, protocol, address, port)
                else {
                    continue;
                };
                let pods = &self.config.pod_cidrs;
                let own = target.inside.endpoints.iter().any(|(address, number)| {
                    *number == port && !pods.iter().any(|pods| pods.contains(address))
                });
                if !own {
                    let uid = known
                        .service
                        .as_ref()
                        .and_then(Packed::unpack)
                        .and_then(|s| s.metadata.uid);
                    let (service, listener) = (service.clone(), listener.clone());
                    found.push(PortConflict { service, uid, frontend: *frontend, listener });
                }
            }
        }
        found
    }

    /// Returns whether a frontend is outside the cluster's own ranges.
    fn is_outside(&self, frontend: Frontend) -> bool {
        match frontend {
            Frontend::NodePort { .. } => true,
            Frontend::Address { address, .. } => {
                !self.internal.iter().any(|network| network.contains(&address))
            }
        }
    }

    /// What load balancers are to be told, as of the last [`Proxy::flush`].
    pub(super) fn health_checks(&self) -> &BTreeMap<ServiceKey, HealthCheck> {
        &self.health_checks
    }

    /// Whether the rules that were written lead new connections for a Service past a pod that it
    /// selects: the Service is gone, or its slices say that the pod is not ready. Where no slice
    /// names the pod, the change that does is still under way.
    pub fn has_withdrawn(&self, service: &ServiceKey, pod_uid: &str) -> bool {
        if !self.started || self.dirty.contains(service) {
            return false;
        }
        let Some(known) = self.services.get(service).filter(|known| known.service.is_some()) else {
            return true;
        };
        let uid = |endpoint: &Endpoint| {
            endpoint.target_ref.as_ref().and_then(|target| target.uid.clone()).unwrap_or_default()
        };
        let slices: Vec<EndpointSlice> = unpacked(&known.slices);
        let endpoints = slices.iter().flat_map(|slice| slice.endpoints.iter());
        let mut named = endpoints.filter(|endpoint| uid(endpoint) == pod_uid).peekable();
        let ready = |endpoint: &Endpoint| {
            endpoint.conditions.as_ref().and_then(|conditions| conditions.ready).unwrap_or(true)
        };
        named.peek().is_some() && !named.any(ready)
    }

    fn everything(&self) -> Vec<Change> {
        let change = |(frontend, after): (&Frontend, &Installed)| Change {
            frontend: *frontend,
            before: Installed::default(),
            after: after.clone(),
        };
        self.installed.iter().map(change).collect()
    }

    fn forget(&mut self, changes: &[Change]) {
        if let Err(error) = self.backend.forget(changes) {
            tracing::warn!(error = %Chain(&error), "flows to removed endpoints may live on");
        }
    }

    /// Plans every Service that changed; the result differs from what is installed.
    fn changes(&mut self) -> Vec<Change> {
        let mut affected: BTreeSet<Frontend> = BTreeSet::new();
        for key in std::mem::take(&mut self.dirty) {
            affected.extend(self.replan(&key));
        }
        let mut looked_at = None;
        while let Some(key) = self.next_waiting(looked_at.as_ref()) {
            affected.extend(self.replan(&key));
            looked_at = Some(key);
        }
        affected
            .into_iter()
            .filter_map(|frontend| {
                let before = self.installed.get(&frontend).cloned().unwrap_or_default();
                let winner = self.claims.get(&frontend).and_then(|claims| claims.first());
                let target = winner.and_then(|(_, key)| self.services.get(key)?.target(&frontend));
                let after = target
                    .map(|target| Installed::place(frontend, target, &before))
                    .unwrap_or_default();
                (before != after).then_some(Change { frontend, before, after })
            })
            .collect()
    }

    /// The next Service after `after` that waits for room and has it now. Those before have none:
    /// others that get room only take it.
    fn next_waiting(&self, after: Option<&ServiceKey>) -> Option<ServiceKey> {
        let fits = |(key, cost): &(&ServiceKey, &Cost)| {
            let has = self.services.get(key).map(|known| known.cost).unwrap_or_default();
            self.room.fits(&key.namespace, cost.beyond(has))
        };
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let waiting = self.waiting.range::<ServiceKey, _>((from, Bound::Unbounded));
        waiting.into_iter().find(fits).map(|(key, _)| key.clone())
    }

    /// The Services that have come to have too few rules since the last call.
    pub(super) fn take_shortages(&mut self) -> Vec<Shortage> {
        std::mem::take(&mut self.shortages)
    }

    /// A shortage of a Service.
    pub(super) fn shortage(&self, key: &ServiceKey, of: Bounded) -> Shortage {
        let known = self.services.get(key).and_then(|known| known.service.as_ref()?.unpack());
        let uid = known.and_then(|service| service.metadata.uid);
        Shortage { service: key.clone(), uid, of }
    }

    /// Gives the room of Services that are gone back.
    fn shrink(&mut self) {
        if self.services.capacity() > SPARE_SERVICES + 4 * self.services.len() {
            self.services.shrink_to_fit();
            self.slices.shrink_to_fit();
            self.claims.shrink_to_fit();
            self.installed.shrink_to_fit();
        }
    }

    /// Plans one Service anew; returns the frontends that it had or has.
    fn replan(&mut self, key: &ServiceKey) -> Vec<Frontend> {
        let Some(known) = self.services.get_mut(key) else { return Vec::new() };
        let old_claim = (known.created.take(), key.clone());
        let old = std::mem::take(&mut known.targets);
        let had = std::mem::take(&mut known.cost);
        self.room.give_back(&key.namespace, had);
        let waited = self.waiting.remove(key).is_some();
        self.health_checks.remove(key);
        if let Some(service) = &known.service.as_ref().and_then(Packed::unpack) {
            let node_name = &self.config.node_name;
            let slices = unpacked(&known.slices);
            let plan = plan_service(service, slices.iter(), node_name, &self.internal);
            let mut targets: Box<[_]> = plan.targets.into_iter().collect();
            if plan.is_cut && !known.is_cut {
                self.shortages.push(Shortage::of(key, service, Bounded::Service));
            }
            known.is_cut = plan.is_cut;
            let cost = Cost::of(&targets);
            if !cost.is_within(had) && !self.room.fits(&key.namespace, cost) {
                // It keeps what it had, with the endpoints of now.
                targets = cut_down(targets, &old);
                self.waiting.insert(key.clone(), cost);
                if !waited {
                    self.shortages.push(Shortage::of(key, service, Bounded::Namespace));
                }
            }
            known.cost = Cost::of(&targets);
            known.targets = targets;
            self.room.take(&key.namespace, known.cost);
            if let Some(check) = plan_health_check(service, slices.iter(), node_name) {
                self.health_checks.insert(key.clone(), check);
            }
            known.created = service.metadata.creation_timestamp.clone();
        }
        let new_claim = (known.created.clone(), key.clone());
        let new: Vec<Frontend> = known.targets.iter().map(|(frontend, _)| *frontend).collect();
        let ended = known.service.is_none() && known.slices.is_empty();
        let old: BTreeSet<Frontend> = old.iter().map(|(frontend, _)| *frontend).collect();
        let frontends = old.iter().chain(&new).copied().collect();
        for frontend in &old {
            self.release(*frontend);
            if let Some(claims) = self.claims.get_mut(frontend) {
                claims.retain(|claim| *claim != old_claim);
                if claims.is_empty() {
                    self.claims.remove(frontend);
                }
            }
        }
        for frontend in new {
            if self.is_outside(frontend) {
                *self.claimed.entry((frontend.protocol(), frontend.port())).or_default() += 1;
                self.look_again |= !old.contains(&frontend);
            }
            let claims = self.claims.entry(frontend).or_default();
            if claims.is_empty() {
                // Nearly every frontend has one.
                claims.reserve_exact(1);
            }
            claims.push(new_claim.clone());
            claims.sort();
            if claims.len() > 1 {
                tracing::debug!(?frontend, service = ?key, "claimed by several Services");
            }
        }
        if ended {
            self.services.remove(key);
            self.shrink();
        }
        frontends
    }

    /// Takes back what a frontend added to `claimed`.
    fn release(&mut self, frontend: Frontend) {
        let port = (frontend.protocol(), frontend.port());
        if self.is_outside(frontend)
            && let Some(count) = self.claimed.get_mut(&port)
        {
            *count -= 1;
            if *count == 0 {
                self.claimed.remove(&port);
            }
        }
    }
}

#[cfg(test)]
mod tests;
