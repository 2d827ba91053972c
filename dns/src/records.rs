//! The names of the cluster: each Service contributes records, names map to records.

use std::collections::HashMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;

use crate::name::Name;

/// Data of one record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Data {
    /// An IPv4 or IPv6 address.
    Address(IpAddr),
    /// A port of a Service.
    Port {
        /// Its share among equals.
        weight: u16,
        /// The port number.
        port: u16,
        /// The host that has it.
        target: Name,
    },
    /// The name of an address.
    Pointer(Name),
    /// Another name, inside or outside of the cluster.
    Alias(Name),
}

/// What one Service contributes.
pub type Contribution = Vec<(Name, Data)>;

/// A name of the cluster: records of its own, or only names below it.
#[derive(Debug, Default)]
struct Node {
    records: Vec<Data>,
    /// Names with records at or below this one.
    uses: usize,
}

/// Every name of the cluster.
#[derive(Debug, Default)]
pub struct Records {
    names: HashMap<Box<[u8]>, Node>,
    synced: bool,
}

impl Records {
    /// Whether everything that exists was listed once; before, no answer is reliable.
    pub fn is_synced(&self) -> bool {
        self.synced
    }

    /// Says that everything was listed.
    pub fn set_synced(&mut self) {
        self.synced = true;
    }

    /// The records of a lower-case wire name: `None` when neither it nor a name below it exists.
    pub fn get(&self, wire: &[u8]) -> Option<&[Data]> {
        self.names.get(wire).map(|node| node.records.as_slice())
    }

    /// Replaces what a Service contributed.
    pub fn replace(&mut self, before: &[(Name, Data)], after: &[(Name, Data)]) {
        for (name, data) in after {
            self.each_level(name, |node| node.uses += 1);
            if let Some(node) = self.names.get_mut(name.wire()) {
                node.records.push(data.clone());
            }
        }
        for (name, data) in before {
            if let Some(node) = self.names.get_mut(name.wire())
                && let Some(at) = node.records.iter().position(|present| present == data)
            {
                node.records.remove(at);
            }
            self.each_level(name, |node| node.uses -= 1);
            let mut level = Some(name.clone());
            while let Some(name) = level {
                if self.names.get(name.wire()).is_some_and(|node| node.uses == 0) {
                    self.names.remove(name.wire());
                }
                level = name.parent();
            }
        }
    }

    fn each_level(&mut self, name: &Name, mut change: impl FnMut(&mut Node)) {
        let mut level = Some(name.clone());
        while let Some(name) = level {
            change(self.names.entry(name.wire().into()).or_default());
            level = name.parent();
        }
    }
}

/// The records of one Service in the zone (spec 1.1.0 §2.3–2.5).
pub fn contribution<'a>(
    service: &Service,
    slices: impl Iterator<Item = &'a EndpointSlice>,
    zone: &Name,
) -> Contribution {
    let mut records = Contribution::new();
    let metadata = &service.metadata;
    let (Some(name), Some(namespace), Some(spec)) =
        (&metadata.name, &metadata.namespace, &service.spec)
    else {
        return records;
    };
    let Some(host) = zone.prepend([name, namespace, "svc"]) else { return records };
    if spec.type_.as_deref() == Some("ExternalName") {
        let target = spec.external_name.as_deref().unwrap_or("");
        match (target.parse::<IpAddr>(), Name::parse(target)) {
            // Upstream answers with the address when the "name" is one.
            (Ok(address), _) => records.push((host, Data::Address(address))),
            (_, Some(target)) if target.wire().len() > 1 => {
                records.push((host, Data::Alias(target)));
            }
            _ => {}
        }
        return records;
    }
    let listed = spec.cluster_ips.as_deref().unwrap_or(&[]);
    let single = spec.cluster_ip.iter().filter(|_| listed.is_empty());
    let addresses: Vec<IpAddr> =
        listed.iter().chain(single).filter_map(|text| text.parse().ok()).collect();
    if !addresses.is_empty() {
        for address in addresses {
            records.push((host.clone(), Data::Address(address)));
            if let Some(reverse) = Name::reverse(address) {
                records.push((reverse, Data::Pointer(host.clone())));
            }
        }
        for port in spec.ports.iter().flatten() {
            let number = u16::try_from(port.port).unwrap_or_default();
            let data = Data::Port { weight: 100, port: number, target: host.clone() };
            add_port(&mut records, &host, port.name.as_deref(), port.protocol.as_deref(), data);
        }
    } else if is_headless(service) {
        let all = spec.publish_not_ready_addresses.unwrap_or(false);
        headless(&mut records, &host, slices, all);
    }
    records
}

fn is_headless(service: &Service) -> bool {
    let spec = service.spec.as_ref();
    spec.and_then(|spec| spec.cluster_ip.as_deref()) == Some("None")
}

fn headless<'a>(
    records: &mut Contribution,
    host: &Name,
    slices: impl Iterator<Item = &'a EndpointSlice>,
    not_ready_too: bool,
) {
    let slices: Vec<&EndpointSlice> = slices.collect();
    let ready = slices.iter().flat_map(|slice| {
        let endpoints = slice.endpoints.iter().filter(|endpoint| {
            let ready = endpoint.conditions.as_ref().and_then(|conditions| conditions.ready);
            not_ready_too || ready.unwrap_or(true)
        });
        endpoints.map(move |endpoint| (*slice, endpoint))
    });
    let mut seen = std::collections::HashSet::new();
    let found: Vec<_> = ready
        .flat_map(|(slice, endpoint)| {
            let addresses = endpoint.addresses.iter().filter_map(|a| a.parse::<IpAddr>().ok());
            addresses.map(move |address| (slice, endpoint, address))
        })
        .collect();
    let weight = (100 / found.len().max(1)).max(1) as u16;
    for (slice, endpoint, address) in found {
        let dashed = address.to_string().replace(['.', ':'], "-");
        let label = endpoint.hostname.as_deref().filter(|name| !name.is_empty()).unwrap_or(&dashed);
        let Some(own) = host.prepend([label]) else { continue };
        if seen.insert((own.clone(), address)) {
            records.push((host.clone(), Data::Address(address)));
            records.push((own.clone(), Data::Address(address)));
            if let Some(reverse) = Name::reverse(address) {
                records.push((reverse, Data::Pointer(own.clone())));
            }
        }
        for port in slice.ports.iter().flatten() {
            let Some(number) = port.port.and_then(|port| u16::try_from(port).ok()) else {
                continue;
            };
            let data = Data::Port { weight, port: number, target: own.clone() };
            add_port(records, host, port.name.as_deref(), port.protocol.as_deref(), data);
        }
    }
}

/// At the Service's name for whoever asks for all ports, and at `_name._protocol`.
fn add_port(
    records: &mut Contribution,
    host: &Name,
    name: Option<&str>,
    protocol: Option<&str>,
    data: Data,
) {
    records.push((host.clone(), data.clone()));
    let protocol = format!("_{}", protocol.unwrap_or("TCP").to_lowercase());
    if let Some(name) = name.filter(|name| !name.is_empty())
        && let Some(owner) = host.prepend([&*format!("_{name}"), &*protocol])
    {
        records.push((owner, data));
    }
}
