//! Says what one Service needs of the kernel: pure, (Service, EndpointSlices, node) → frontends.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::protocol::Protocol;

use super::frontends::endpoints_within;

/// A Service with this label belongs to another proxy.
const FOREIGN_PROXY_LABEL: &str = "service.kubernetes.io/service-proxy-name";
/// The older way to write `spec.loadBalancerSourceRanges`.
const RANGES_ANNOTATION: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";
/// Upstream's default of `sessionAffinityConfig.clientIP.timeoutSeconds`.
const DEFAULT_AFFINITY_SECONDS: u32 = 10_800;
const MAX_AFFINITY_SECONDS: u32 = 86_400;
/// Map elements of all ports and addresses of a Service together; with more, each port has fewer
/// endpoints.
const SERVICE_ELEMENTS_MAX: usize = 1 << 15;
/// Ports times addresses of a Service; those that are beyond lead nowhere.
const SERVICE_FRONTENDS_MAX: usize = 1 << 15;
/// External addresses of a Service, and as many of load balancers.
const SERVICE_ADDRESSES_MAX: usize = 1 << 10;
/// Networks of clients of a Service, in all its frontends together; clients of others are not let in.
const SERVICE_RANGES_MAX: usize = 1 << 10;

/// Where clients connect to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Frontend {
    /// An address of a Service and one of its ports.
    Address {
        /// Cluster, load balancer or external address.
        address: IpAddr,
        /// The transport protocol.
        protocol: Protocol,
        /// The port.
        port: u16,
    },
    /// A port on every address of the node.
    NodePort {
        /// On the node's IPv6 addresses rather than its IPv4 ones.
        ipv6: bool,
        /// The transport protocol.
        protocol: Protocol,
        /// The port.
        port: u16,
    },
}

impl Frontend {
    /// Whether its addresses are IPv6 ones.
    pub fn is_ipv6(self) -> bool {
        match self {
            Self::Address { address, .. } => address.is_ipv6(),
            Self::NodePort { ipv6, .. } => ipv6,
        }
    }

    /// The port.
    pub fn port(self) -> u16 {
        match self {
            Self::Address { port, .. } | Self::NodePort { port, .. } => port,
        }
    }

    /// The transport protocol.
    pub fn protocol(self) -> Protocol {
        match self {
            Self::Address { protocol, .. } | Self::NodePort { protocol, .. } => protocol,
        }
    }
}

/// Where a connection ends up.
pub type Endpoint = (IpAddr, u16);

/// What happens when there is no endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum When {
    /// The client is told: there is no endpoint anywhere.
    Reject,
    /// The packet is dropped: there are endpoints, but policy keeps to this node, which has none.
    Drop,
}

/// Endpoints with what happens without any.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pool {
    /// In the order of their slots; no duplicates.
    pub endpoints: Vec<Endpoint>,
    /// What happens when there are none.
    pub empty: When,
}

/// Where a frontend leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// For connections from pods and from the node.
    pub inside: Pool,
    /// For connections from elsewhere, where they differ (`externalTrafficPolicy: Local`).
    pub outside: Option<Pool>,
    /// Connections from elsewhere get an address of the node as source.
    pub masquerade: bool,
    /// A client stays with its endpoint for so many seconds.
    pub affinity: Option<u32>,
    /// Only clients of these networks are let in.
    pub source_ranges: Option<Vec<IpNet>>,
}

/// What a load balancer is told at a port of the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HealthCheck {
    /// `spec.healthCheckNodePort`.
    pub port: u16,
    /// How many ready endpoints this node has.
    pub local: usize,
}

/// What load balancers may ask about a Service: something only with `externalTrafficPolicy: Local`.
pub fn plan_health_check<'a>(
    service: &Service,
    slices: impl Iterator<Item = &'a EndpointSlice>,
    node_name: &str,
) -> Option<HealthCheck> {
    let spec = service.spec.as_ref().filter(|spec| proxied(service, spec))?;
    let is_balancer = spec.type_.as_deref() == Some("LoadBalancer");
    let is_local = spec.external_traffic_policy.as_deref() == Some("Local");
    let port = spec.health_check_node_port.and_then(|port| u16::try_from(port).ok());
    let port = port.filter(|port| *port != 0 && is_balancer && is_local)?;
    let endpoints = slices.flat_map(|slice| &slice.endpoints).filter(|endpoint| {
        let ready = endpoint.conditions.as_ref().and_then(|conditions| conditions.ready);
        endpoint.node_name.as_deref() == Some(node_name) && ready.unwrap_or(true)
    });
    // An endpoint is in one slice for each set of ports.
    let addresses: BTreeSet<&String> = endpoints.filter_map(|e| e.addresses.first()).collect();
    Some(HealthCheck { port, local: addresses.len() })
}

/// The needs of one Service.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// The frontends, each with its target.
    pub targets: BTreeMap<Frontend, Target>,
    /// True if it wants more than one Service may have.
    pub is_cut: bool,
}

/// Plans one Service: nothing for headless, ExternalName and foreign ones.
///
/// External and load balancer addresses inside the `internal` networks are ignored: they belong to
/// pods and other Services, whose traffic a Service must not take (CVE-2020-8554). Upstream
/// admits any other external address, and so do we.
///
/// Of what is beyond the bounds of one Service, ports, addresses and client networks that come first
/// count, and the lowest addresses of endpoints.
pub fn plan_service<'a>(
    service: &Service,
    slices: impl Iterator<Item = &'a EndpointSlice> + Clone,
    node_name: &str,
    internal: &[IpNet],
) -> Plan {
    let mut frontends = BTreeMap::new();
    let Some(spec) = service.spec.as_ref().filter(|spec| proxied(service, spec)) else {
        return Plan::default();
    };
    let external_local = spec.external_traffic_policy.as_deref() == Some("Local");
    let internal_local = spec.internal_traffic_policy.as_deref() == Some("Local");
    let affinity = affinity_seconds(spec);
    let mut source_ranges = source_ranges(service, spec);
    let may_claim = |address: &IpAddr| {
        !is_special(*address) && !internal.iter().any(|network| network.contains(address))
    };
    let balancers = balancer_addresses(service).into_iter().filter(may_claim);
    let externals = addresses(spec.external_ips.iter().flatten()).filter(may_claim);
    let (balancers, more_balancers) = first(balancers, SERVICE_ADDRESSES_MAX);
    let (externals, more_externals) = first(externals, SERVICE_ADDRESSES_MAX);

    let ports = spec.ports.as_deref().unwrap_or_default();
    let at_node = usize::from(ports.iter().any(|port| node_port(port).is_some()));
    let addresses = cluster_addresses(spec).count() + balancers.len() + externals.len() + at_node;
    let all_ports = ports.len();
    let ports = &ports[..all_ports.min(SERVICE_FRONTENDS_MAX / addresses)];
    let views = if external_local { 2 } else { 1 };
    let limit = SERVICE_ELEMENTS_MAX / (ports.len() * addresses * views).max(1);
    let limit = endpoints_within(limit);
    let mut is_cut = more_balancers || more_externals || ports.len() < all_ports;
    if let Some(ranges) = &mut source_ranges {
        let most = (SERVICE_RANGES_MAX / (ports.len() * balancers.len()).max(1)).max(1);
        is_cut |= ranges.len() > most;
        ranges.truncate(most);
    }
    let endpoints = [false, true].map(|ipv6| Endpoints::of(slices.clone(), node_name, ipv6, limit));
    for port in ports {
        let (Some(protocol), Ok(number)) =
            (Protocol::parse(port.protocol.as_deref()), u16::try_from(port.port))
        else {
            continue;
        };
        for family in [false, true] {
            let pools = endpoints[usize::from(family)].at(port, protocol);
            is_cut |= pools.is_cut;
            let same_family = |address: &IpAddr| address.is_ipv6() == family;
            let at = |address| Frontend::Address { address, protocol, port: number };
            let inside = if internal_local { pools.local() } else { pools.cluster() };
            for address in cluster_addresses(spec).filter(same_family) {
                let target = Target {
                    inside: inside.clone(),
                    outside: None,
                    masquerade: true,
                    affinity,
                    source_ranges: None,
                };
                frontends.entry(at(address)).or_insert(target);
            }
            let external = Target {
                inside: pools.cluster(),
                outside: external_local.then(|| pools.local()).filter(|p| *p != pools.cluster()),
                masquerade: !external_local,
                affinity,
                source_ranges: None,
            };
            for address in balancers.iter().copied().filter(same_family) {
                let ranges = source_ranges.as_ref().map(|ranges| {
                    ranges.iter().copied().filter(|r| same_family(&r.addr())).collect()
                });
                let target = Target { source_ranges: ranges, ..external.clone() };
                frontends.entry(at(address)).or_insert(target);
            }
            for address in externals.iter().copied().filter(same_family) {
                frontends.entry(at(address)).or_insert_with(|| external.clone());
            }
            let has_family = cluster_addresses(spec).any(|address| same_family(&address));
            if let Some(port) = node_port(port).filter(|_| has_family) {
                let frontend = Frontend::NodePort { ipv6: family, protocol, port };
                frontends.entry(frontend).or_insert(external);
            }
        }
    }
    Plan { targets: frontends, is_cut }
}

/// The usable endpoints of one slice.
struct Usable<'a> {
    slice: &'a EndpointSlice,
    ready: Vec<(IpAddr, bool)>,
    terminating: Vec<(IpAddr, bool)>,
}

impl<'a> Usable<'a> {
    /// Addresses with whether they are on this node, each once.
    fn of(slice: &'a EndpointSlice, node_name: &str, ipv6: bool) -> Self {
        let (mut ready, mut terminating) = (BTreeMap::new(), BTreeMap::new());
        for endpoint in &slice.endpoints {
            let conditions = endpoint.conditions.as_ref();
            let is_ready = conditions.and_then(|c| c.ready).unwrap_or(true);
            let is_serving = conditions.and_then(|c| c.serving).unwrap_or(is_ready);
            let is_terminating = conditions.and_then(|c| c.terminating).unwrap_or(false);
            let candidates = match (is_ready, is_serving && is_terminating) {
                (true, _) => &mut ready,
                (false, true) => &mut terminating,
                (false, false) => continue,
            };
            // Upstream consumers use the first address only.
            let address = endpoint.addresses.first().and_then(|a| a.parse::<IpAddr>().ok());
            if let Some(address) = address.filter(|address| address.is_ipv6() == ipv6) {
                *candidates.entry(address).or_insert(false) |=
                    endpoint.node_name.as_deref() == Some(node_name);
            }
        }
        let list = |found: BTreeMap<IpAddr, bool>| found.into_iter().collect();
        Self { slice, ready: list(ready), terminating: list(terminating) }
    }
}

/// The endpoints of every port of a Service, found by name and protocol.
struct Endpoints<'a> {
    slices: Vec<Usable<'a>>,
    /// Index of the slice and the port's number there.
    ports: HashMap<(&'a str, Protocol), Vec<(usize, u16)>>,
    /// The most endpoints that one port of the Service may have.
    limit: usize,
}

impl<'a> Endpoints<'a> {
    fn of(
        slices: impl Iterator<Item = &'a EndpointSlice>,
        node_name: &str,
        ipv6: bool,
        limit: usize,
    ) -> Self {
        let wanted = if ipv6 { "IPv6" } else { "IPv4" };
        let slices: Vec<Usable<'a>> = slices
            .filter(|slice| slice.address_type == wanted)
            .map(|slice| Usable::of(slice, node_name, ipv6))
            .collect();
        let mut ports: HashMap<_, Vec<(usize, u16)>> = HashMap::new();
        for (index, usable) in slices.iter().enumerate() {
            for port in usable.slice.ports.iter().flatten() {
                let Some(protocol) = Protocol::parse(port.protocol.as_deref()) else { continue };
                let Some(number) = port.port.and_then(|p| u16::try_from(p).ok()) else { continue };
                let found =
                    ports.entry((port.name.as_deref().unwrap_or(""), protocol)).or_default();
                // Of several ports with one name in a slice the first counts.
                if found.last().is_none_or(|(last, _)| *last != index) {
                    found.push((index, number));
                }
            }
        }
        Self { slices, ports, limit }
    }

    fn at(&self, port: &ServicePort, protocol: Protocol) -> Pools {
        let found = self.ports.get(&(port.name.as_deref().unwrap_or(""), protocol));
        let is_cut = Cell::new(false);
        let choose = |terminating: bool, local_only: bool| {
            let candidates = found.into_iter().flatten().flat_map(|(index, number)| {
                let usable = &self.slices[*index];
                let addresses = if terminating { &usable.terminating } else { &usable.ready };
                let wanted = addresses.iter().filter(move |(_, local)| *local || !local_only);
                // With one more, it is known that some are missing.
                wanted.take(self.limit + 1).map(|(address, _)| (*address, *number))
            });
            let mut endpoints: Vec<Endpoint> = candidates.collect();
            endpoints.sort_unstable();
            endpoints.dedup();
            is_cut.set(is_cut.get() || endpoints.len() > self.limit);
            endpoints.truncate(self.limit);
            endpoints
        };
        // Pods that are going away but still serve are better than nothing.
        let best = |local_only| {
            let ready = choose(false, local_only);
            if ready.is_empty() { choose(true, local_only) } else { ready }
        };
        let (cluster, local) = (best(false), best(true));
        Pools { cluster, local, is_cut: is_cut.get() }
    }
}

/// The endpoints of one port in one family.
struct Pools {
    cluster: Vec<Endpoint>,
    local: Vec<Endpoint>,
    /// True if there are more.
    is_cut: bool,
}

impl Pools {
    fn cluster(&self) -> Pool {
        Pool { endpoints: self.cluster.clone(), empty: When::Reject }
    }

    fn local(&self) -> Pool {
        let empty = if self.cluster.is_empty() { When::Reject } else { When::Drop };
        Pool { endpoints: self.local.clone(), empty }
    }
}

/// Returns the most frontends that a Service may have, from the lengths of its lists; those with
/// networks of clients count as very many, since each network takes long.
pub fn most_frontends(service: &Service) -> usize {
    let Some(spec) = &service.spec else { return 0 };
    let has_ranges = spec.load_balancer_source_ranges.as_ref().is_some_and(|r| !r.is_empty())
        || service.metadata.annotations.as_ref().is_some_and(|a| a.contains_key(RANGES_ANNOTATION));
    if has_ranges {
        return usize::MAX;
    }
    let status = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let balancers = status.and_then(|balancer| balancer.ingress.as_ref()).map_or(0, Vec::len);
    let externals = spec.external_ips.as_ref().map_or(0, Vec::len);
    let clusters = spec.cluster_ips.as_ref().map_or(0, Vec::len).max(1);
    // In either family a port at the node.
    let addresses = clusters + balancers + externals + 2;
    spec.ports.as_ref().map_or(0, Vec::len) * addresses
}

/// Takes away what no rule and no event depends on.
pub fn trim(service: &mut Service) {
    let metadata = std::mem::take(&mut service.metadata);
    let only = |map: Option<BTreeMap<String, String>>, name: &str| {
        let value = map?.remove(name)?;
        Some(BTreeMap::from([(name.to_owned(), value)]))
    };
    service.metadata = ObjectMeta {
        uid: metadata.uid,
        creation_timestamp: metadata.creation_timestamp,
        labels: only(metadata.labels, FOREIGN_PROXY_LABEL),
        annotations: only(metadata.annotations, RANGES_ANNOTATION),
        ..ObjectMeta::default()
    };
    if let Some(spec) = &mut service.spec {
        spec.selector = None;
    }
}

fn proxied(service: &Service, spec: &ServiceSpec) -> bool {
    let labels = service.metadata.labels.as_ref();
    let foreign = labels.is_some_and(|labels| labels.contains_key(FOREIGN_PROXY_LABEL));
    let external_name = spec.type_.as_deref() == Some("ExternalName");
    !foreign && !external_name && cluster_addresses(spec).next().is_some()
}

/// Empty for headless Services.
fn cluster_addresses(spec: &ServiceSpec) -> impl Iterator<Item = IpAddr> + '_ {
    let listed = spec.cluster_ips.as_deref().unwrap_or(&[]);
    let single = spec.cluster_ip.iter().filter(move |_| listed.is_empty());
    addresses(listed.iter().chain(single))
}

/// The first of these, and whether there are more.
fn first<T>(items: impl Iterator<Item = T>, most: usize) -> (Vec<T>, bool) {
    let mut found: Vec<T> = items.take(most + 1).collect();
    let more = found.len() > most;
    found.truncate(most);
    (found, more)
}

fn addresses<'a>(texts: impl Iterator<Item = &'a String>) -> impl Iterator<Item = IpAddr> {
    texts.filter_map(|text| text.parse().ok())
}

/// Addresses of the load balancer that expect this node to take their traffic.
fn balancer_addresses(service: &Service) -> Vec<IpAddr> {
    let is_balancer =
        service.spec.as_ref().and_then(|s| s.type_.as_deref()) == Some("LoadBalancer");
    let status = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    status
        .and_then(|balancer| balancer.ingress.as_ref())
        .into_iter()
        .flatten()
        .filter(|ingress| is_balancer && ingress.ip_mode.as_deref() != Some("Proxy"))
        .filter_map(|ingress| ingress.ip.as_ref()?.parse().ok())
        .collect()
}

/// Addresses that no machine has as its own to the outside.
fn is_special(address: IpAddr) -> bool {
    let link_local = match address {
        IpAddr::V4(address) => address.is_link_local() || address.is_broadcast(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    link_local || address.is_loopback() || address.is_unspecified() || address.is_multicast()
}

fn source_ranges(service: &Service, spec: &ServiceSpec) -> Option<Vec<IpNet>> {
    let parse = |text: &str| text.trim().parse::<IpNet>().ok().map(|net| net.trunc());
    let listed = spec.load_balancer_source_ranges.as_deref().unwrap_or(&[]);
    let annotation = service.metadata.annotations.as_ref().and_then(|a| a.get(RANGES_ANNOTATION));
    let ranges: Vec<IpNet> = match annotation {
        _ if !listed.is_empty() => listed.iter().filter_map(|text| parse(text)).collect(),
        Some(text) if !text.trim().is_empty() => text.split(',').filter_map(parse).collect(),
        _ => return None,
    };
    let mut ranges = IpNet::aggregate(&ranges);
    ranges.sort();
    // A range of everything is no restriction.
    let everything = ranges.iter().any(|range| range.prefix_len() == 0 && range.addr().is_ipv4());
    (!everything).then_some(ranges)
}

fn affinity_seconds(spec: &ServiceSpec) -> Option<u32> {
    (spec.session_affinity.as_deref() == Some("ClientIP")).then(|| {
        let configured = spec.session_affinity_config.as_ref().and_then(|c| c.client_ip.as_ref());
        configured
            .and_then(|client| u32::try_from(client.timeout_seconds?).ok())
            .unwrap_or(DEFAULT_AFFINITY_SECONDS)
            .clamp(1, MAX_AFFINITY_SECONDS)
    })
}

fn node_port(port: &ServicePort) -> Option<u16> {
    port.node_port.and_then(|port| u16::try_from(port).ok()).filter(|port| *port != 0)
}

#[cfg(test)]
mod tests;
