//! What Services own exclusively: cluster addresses and node ports.
//!
//! Invariant: the stored Services are the only record of what is taken; the sets here are rebuilt
//! from them at start and hold, besides, what writes in flight have reserved.

use std::collections::HashSet;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use api::{FieldError, Resource};
use ipnet::Ipv4Net;
use serde_json::{Value, json};
use store::Store;

use crate::call::Call;
use crate::catalog::Catalog;
use crate::config::Config;
use crate::error::ApiError;
use crate::meta::{self, Meta};
use crate::object;

/// Addresses that only Services which ask for them get: `kubernetes` and `kube-dns`.
const KEPT_OFFSETS: [u32; 2] = [1, 10];

/// The allocator of cluster addresses and node ports.
pub(crate) struct Services {
    taken: Arc<Mutex<Taken>>,
    range: Ipv4Net,
    node_ports: (u16, u16),
    host_ports: fn() -> Arc<HashSet<u16>>,
}

#[derive(Default)]
struct Taken {
    addresses: HashSet<Ipv4Addr>,
    ports: HashSet<u16>,
}

/// What a write in flight has reserved; given back on drop unless kept.
#[derive(Default)]
pub(crate) struct Reservation {
    taken: Option<Arc<Mutex<Taken>>>,
    gained: Holdings,
    /// What the old state of the Service had and the new one has not.
    lost: Holdings,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Holdings {
    addresses: Vec<Ipv4Addr>,
    ports: Vec<u16>,
}

impl Services {
    /// Finds out from the store what is taken.
    pub(crate) fn rebuild(config: &Config, catalog: &Catalog, store: &Store<Meta>) -> Self {
        let mut taken = Taken::default();
        if let Some(resource) = catalog.stored("", "services") {
            for record in store.list(&meta::prefix(resource, ""), None, 0).records {
                if let Ok(service) = serde_json::from_slice(&record.value) {
                    taken.add(&Holdings::of(&service));
                }
            }
        }
        Self {
            taken: Arc::new(Mutex::new(taken)),
            range: config.service_cidr,
            node_ports: config.node_ports,
            host_ports: config.host_ports,
        }
    }

    /// Fills in and reserves what a new Service needs.
    pub(crate) fn for_create(
        &self,
        call: &Call<'_>,
        service: &mut Value,
    ) -> Result<Reservation, ApiError> {
        self.settle(call, service, None)
    }

    /// Keeps what a changed Service has, reserves what it needs besides.
    pub(crate) fn for_update(
        &self,
        call: &Call<'_>,
        service: &mut Value,
        old: &Value,
    ) -> Result<Reservation, ApiError> {
        self.settle(call, service, Some(old))
    }

    /// Gives back what a removed Service had.
    pub(crate) fn release(&self, resource: &Resource, service: &Value) {
        if is_service(resource) {
            lock(&self.taken).remove(&Holdings::of(service));
        }
    }

    fn settle(
        &self,
        call: &Call<'_>,
        service: &mut Value,
        old: Option<&Value>,
    ) -> Result<Reservation, ApiError> {
        if !is_service(call.resource) || !service["spec"].is_object() {
            return Ok(Reservation::default());
        }
        let had = old.map(Holdings::of).unwrap_or_default();
        let mut reservation = Reservation::default();
        reservation.taken = Some(self.taken.clone());
        let name = object::name(service).to_owned();
        let refused = |error: FieldError| ApiError::invalid(call.served, &name, vec![error]);
        let mut taken = lock(&self.taken);
        let settled = self
            .settle_address(service, &had, &mut taken, &mut reservation)
            .and_then(|()| self.settle_ports(service, &had, &mut taken, &mut reservation));
        drop(taken);
        // A failure drops the reservation, which gives back what was gained so far.
        settled.map_err(|failure| match failure {
            Failure::Field(error) => refused(error),
            Failure::Full(what) => {
                ApiError::internal(format!("failed to allocate a {what}: range is full"))
            }
        })?;
        let has = Holdings::of(service);
        reservation.lost = had.without(&has);
        Ok(reservation)
    }

    fn settle_address(
        &self,
        service: &mut Value,
        had: &Holdings,
        taken: &mut Taken,
        reservation: &mut Reservation,
    ) -> Result<(), Failure> {
        let spec = object::child_mut(service, "spec");
        if !needs_address(spec) {
            for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
                spec.remove(field);
            }
            return Ok(());
        }
        if spec.get("ipFamilyPolicy").and_then(Value::as_str) == Some("RequireDualStack") {
            return Err(Failure::Field(FieldError::invalid(
                "spec.ipFamilyPolicy",
                "RequireDualStack",
                "this cluster is not configured for dual-stack services",
            )));
        }
        let families = spec.get("ipFamilies").and_then(Value::as_array);
        if families.is_some_and(|f| f.iter().any(|family| family == "IPv6")) {
            return Err(Failure::Field(FieldError::invalid(
                "spec.ipFamilies[0]",
                "IPv6",
                "not configured on this cluster",
            )));
        }
        let first = || spec.get("clusterIPs")?.get(0)?.as_str().map(str::to_owned);
        let asked = spec.get("clusterIP").and_then(Value::as_str).filter(|ip| !ip.is_empty());
        let asked = asked.map(str::to_owned).or_else(first).unwrap_or_default();
        let address = match asked.as_str() {
            "None" => asked,
            "" => {
                let address = self.free_address(taken).ok_or(Failure::Full("serviceIP"))?;
                taken.addresses.insert(address);
                reservation.gained.addresses.push(address);
                address.to_string()
            }
            text => {
                self.claim_address(text, had, taken, reservation)?;
                asked
            }
        };
        spec.insert("clusterIP".into(), address.clone().into());
        spec.insert("clusterIPs".into(), json!([address]));
        spec.insert("ipFamilies".into(), json!(["IPv4"]));
        if spec.get("ipFamilyPolicy").is_none_or(Value::is_null) {
            spec.insert("ipFamilyPolicy".into(), "SingleStack".into());
        }
        Ok(())
    }

    fn claim_address(
        &self,
        text: &str,
        had: &Holdings,
        taken: &mut Taken,
        reservation: &mut Reservation,
    ) -> Result<(), Failure> {
        let refused = |why: String| {
            Failure::Field(FieldError::invalid(
                "spec.clusterIPs",
                json!([text]),
                format!("failed to allocate IP {text}: {why}"),
            ))
        };
        // A text that is no address is left to validation.
        let Ok(address) = text.parse::<Ipv4Addr>() else { return Ok(()) };
        if had.addresses.contains(&address) {
            return Ok(());
        }
        let ends = [self.range.network(), self.range.broadcast()];
        if !self.range.contains(&address) || ends.contains(&address) {
            return Err(refused(format!(
                "the provided IP ({address}) is not in the valid range. The range of valid IPs is \
                 {}",
                self.range
            )));
        }
        if !taken.addresses.insert(address) {
            return Err(refused("provided IP is already allocated".into()));
        }
        reservation.gained.addresses.push(address);
        Ok(())
    }

    /// A free address, at random from the upper band first: the lower one is for addresses chosen
    /// by hand (upstream KEP-3070).
    fn free_address(&self, taken: &Taken) -> Option<Ipv4Addr> {
        let first = u32::from(self.range.network());
        let size = u32::from(self.range.broadcast()) - first + 1;
        let band = if size <= 16 { 0 } else { (size / 16).clamp(16, 256) };
        let pick = |from: u32, to: u32| {
            let span = to.saturating_sub(from);
            if span == 0 {
                return None;
            }
            let start = rand::random_range(0..span);
            (0..span)
                .map(|step| from + (start + step) % span)
                .filter(|offset| !KEPT_OFFSETS.contains(offset))
                .map(|offset| Ipv4Addr::from(first + offset))
                .find(|address| !taken.addresses.contains(address))
        };
        let last = size.saturating_sub(1);
        pick(band.max(1), last).or_else(|| pick(1, band))
    }

    fn settle_ports(
        &self,
        service: &mut Value,
        had: &Holdings,
        taken: &mut Taken,
        reservation: &mut Reservation,
    ) -> Result<(), Failure> {
        let spec = object::child_mut(service, "spec");
        let wants = needs_node_ports(spec);
        let wants_health_check = needs_health_check(spec);
        // Node ports of any other type are refused by validation.
        let may_hold = may_have_node_ports(spec);
        // The same number may serve several protocols of one Service.
        let mut own: HashSet<u16> = HashSet::new();
        let ports = spec.get_mut("ports").and_then(Value::as_array_mut);
        for (index, port) in ports.into_iter().flatten().enumerate() {
            let field = format!("spec.ports[{index}].nodePort");
            let explicit = port["nodePort"].as_i64().unwrap_or(0);
            if explicit != 0 && may_hold {
                let number = self.claim_port(&field, explicit, had, taken, reservation, &own)?;
                own.insert(number);
            } else if wants {
                let number = self.free_port(taken).ok_or(Failure::Full("nodePort"))?;
                taken.ports.insert(number);
                reservation.gained.ports.push(number);
                own.insert(number);
                port["nodePort"] = number.into();
            }
        }
        let explicit = spec.get("healthCheckNodePort").and_then(Value::as_i64).unwrap_or(0);
        if !wants_health_check {
            return Ok(());
        }
        let number = if explicit == 0 {
            let number = self.free_port(taken).ok_or(Failure::Full("nodePort"))?;
            taken.ports.insert(number);
            reservation.gained.ports.push(number);
            number
        } else {
            let field = "spec.healthCheckNodePort";
            self.claim_port(field, explicit, had, taken, reservation, &HashSet::new())?
        };
        spec.insert("healthCheckNodePort".into(), number.into());
        Ok(())
    }

    fn claim_port(
        &self,
        field: &str,
        number: i64,
        had: &Holdings,
        taken: &mut Taken,
        reservation: &mut Reservation,
        own: &HashSet<u16>,
    ) -> Result<u16, Failure> {
        let refused = |why: String| Failure::Field(FieldError::invalid(field, number, why));
        let (low, high) = self.node_ports;
        let port = u16::try_from(number).ok().filter(|p| (low..=high).contains(p)).ok_or_else(|| {
            refused(format!(
                "provided port is not in the valid range. The range of valid ports is {low}-{high}"
            ))
        })?;
        if own.contains(&port) || had.ports.contains(&port) {
            return Ok(port);
        }
        if !taken.ports.insert(port) {
            return Err(refused("provided port is already allocated".into()));
        }
        reservation.gained.ports.push(port);
        Ok(port)
    }

    fn free_port(&self, taken: &Taken) -> Option<u16> {
        let (low, high) = self.node_ports;
        let span = u32::from(high - low) + 1;
        let start = rand::random_range(0..span);
        // A process of the host would keep its port, and the Service would not be reached there.
        let busy = (self.host_ports)();
        (0..span)
            .map(|step| low + ((start + step) % span) as u16)
            .find(|port| !taken.ports.contains(port) && !busy.contains(port))
    }
}

enum Failure {
    Field(FieldError),
    Full(&'static str),
}

impl Reservation {
    /// The write happened: what was gained stays, what the Service lost is free again.
    pub(crate) fn keep(mut self, services: &Services) {
        lock(&services.taken).remove(&self.lost);
        self.taken = None;
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if let Some(taken) = &self.taken {
            lock(taken).remove(&self.gained);
        }
    }
}

impl Taken {
    fn add(&mut self, holdings: &Holdings) {
        self.addresses.extend(&holdings.addresses);
        self.ports.extend(&holdings.ports);
    }

    fn remove(&mut self, holdings: &Holdings) {
        for address in &holdings.addresses {
            self.addresses.remove(address);
        }
        for port in &holdings.ports {
            self.ports.remove(port);
        }
    }
}

impl Holdings {
    fn of(service: &Value) -> Self {
        let spec = &service["spec"];
        let addresses = spec["clusterIP"].as_str().and_then(|ip| ip.parse().ok());
        let ports = spec["ports"].as_array().into_iter().flatten().map(|p| &p["nodePort"]);
        Self {
            addresses: addresses.into_iter().collect(),
            ports: ports
                .chain([&spec["healthCheckNodePort"]])
                .filter_map(|p| u16::try_from(p.as_u64()?).ok())
                .filter(|p| *p != 0)
                .collect(),
        }
    }

    fn without(&self, other: &Self) -> Self {
        Self {
            addresses: self
                .addresses
                .iter()
                .filter(|a| !other.addresses.contains(a))
                .copied()
                .collect(),
            ports: self.ports.iter().filter(|p| !other.ports.contains(p)).copied().collect(),
        }
    }
}

type Spec = serde_json::Map<String, Value>;

fn text<'a>(spec: &'a Spec, field: &str) -> &'a str {
    spec.get(field).and_then(Value::as_str).unwrap_or_default()
}

fn needs_address(spec: &Spec) -> bool {
    matches!(text(spec, "type"), "" | "ClusterIP" | "NodePort" | "LoadBalancer")
}

fn needs_node_ports(spec: &Spec) -> bool {
    match text(spec, "type") {
        "NodePort" => true,
        "LoadBalancer" => {
            spec.get("allocateLoadBalancerNodePorts").and_then(Value::as_bool) != Some(false)
        }
        _ => false,
    }
}

fn may_have_node_ports(spec: &Spec) -> bool {
    matches!(text(spec, "type"), "NodePort" | "LoadBalancer")
}

fn needs_health_check(spec: &Spec) -> bool {
    text(spec, "type") == "LoadBalancer" && text(spec, "externalTrafficPolicy") == "Local"
}

fn is_service(resource: &Resource) -> bool {
    let stored = &resource.served[0];
    stored.group.is_empty() && stored.kind == "Service"
}

fn lock(taken: &Mutex<Taken>) -> MutexGuard<'_, Taken> {
    taken.lock().unwrap_or_else(PoisonError::into_inner)
}
