//! The facts of Services and EndpointSlices that records depend on: a fraction of the objects.

use std::collections::HashSet;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Service, ServicePort};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointPort, EndpointSlice};

use crate::name::Name;
use crate::records::{Contribution, Data};

/// Records that one Service may contribute: addresses first, then ports. An answer over TCP has room
/// for some 4,000 addresses.
pub const SERVICE_RECORDS_MAX: usize = 16_384;

/// The facts of a Service that its records depend on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceFacts {
    kind: Kind,
    ports: Box<[Port]>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    /// Another name, or an address written in its place.
    External(Box<str>),
    /// Cluster addresses.
    Cluster(Box<[IpAddr]>),
    /// The endpoints; those that are not ready too, if set.
    Headless { not_ready_too: bool },
    /// No records.
    Nothing,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Port {
    name: Box<str>,
    number: u16,
    protocol: Box<str>,
}

/// The facts of one EndpointSlice that the records of a headless Service depend on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SliceFacts {
    endpoints: Box<[Host]>,
    ports: Box<[Port]>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Host {
    address: IpAddr,
    hostname: Option<Box<str>>,
    ready: bool,
}

impl ServiceFacts {
    /// Returns what the records of `service` depend on.
    pub fn of(service: &Service) -> Self {
        let Some(spec) = &service.spec else {
            return Self { kind: Kind::Nothing, ports: [].into() };
        };
        let listed = spec.cluster_ips.as_deref().unwrap_or(&[]);
        let single = spec.cluster_ip.iter().filter(|_| listed.is_empty());
        let texts = listed.iter().chain(single);
        let addresses: Box<[IpAddr]> = texts.filter_map(|text| text.parse().ok()).collect();
        let kind = if spec.type_.as_deref() == Some("ExternalName") {
            Kind::External(spec.external_name.as_deref().unwrap_or("").into())
        } else if !addresses.is_empty() {
            Kind::Cluster(addresses)
        } else if spec.cluster_ip.as_deref() == Some("None") {
            let not_ready_too = spec.publish_not_ready_addresses.unwrap_or(false);
            Kind::Headless { not_ready_too }
        } else {
            Kind::Nothing
        };
        let ports = match kind {
            Kind::Cluster(_) => spec.ports.iter().flatten().map(Port::of_service).collect(),
            _ => [].into(),
        };
        Self { kind, ports }
    }
}

impl SliceFacts {
    /// Returns what the records of a Service depend on, of `slice`.
    pub fn of(slice: &EndpointSlice) -> Self {
        Self {
            endpoints: slice.endpoints.iter().flat_map(Host::of).collect(),
            ports: slice.ports.iter().flatten().filter_map(Port::of_slice).collect(),
        }
    }
}

impl Host {
    fn of(endpoint: &Endpoint) -> impl Iterator<Item = Self> + '_ {
        let ready = endpoint.conditions.as_ref().and_then(|conditions| conditions.ready);
        let addresses = endpoint.addresses.iter().filter_map(|text| text.parse().ok());
        addresses.map(move |address| Self {
            address,
            hostname: endpoint.hostname.as_deref().filter(|name| !name.is_empty()).map(Into::into),
            ready: ready.unwrap_or(true),
        })
    }
}

impl Port {
    fn new(name: Option<&str>, number: u16, protocol: Option<&str>) -> Self {
        let protocol = protocol.unwrap_or("TCP").to_lowercase().into();
        Self { name: name.unwrap_or("").into(), number, protocol }
    }

    fn of_service(port: &ServicePort) -> Self {
        let number = u16::try_from(port.port).unwrap_or_default();
        Self::new(port.name.as_deref(), number, port.protocol.as_deref())
    }

    fn of_slice(port: &EndpointPort) -> Option<Self> {
        let number = port.port.and_then(|port| u16::try_from(port).ok())?;
        Some(Self::new(port.name.as_deref(), number, port.protocol.as_deref()))
    }
}

/// Returns the records of the Service `name` in `namespace` (spec 1.1.0 §2.3–2.5), at most
/// [`SERVICE_RECORDS_MAX`].
pub fn contribution<'a>(
    (namespace, name): (&str, &str),
    service: &ServiceFacts,
    slices: impl Iterator<Item = &'a SliceFacts>,
    zone: &Name,
) -> Contribution {
    let mut records = Contribution::new();
    let Some(host) = zone.prepend([name, namespace, "svc"]) else { return records };
    match &service.kind {
        Kind::Nothing => {}
        Kind::External(target) => match (target.parse::<IpAddr>(), Name::parse(target)) {
            // Upstream answers with the address when the "name" is one.
            (Ok(address), _) => records.push((host, Data::Address(address))),
            (_, Some(target)) if target.wire().len() > 1 => {
                records.push((host, Data::Alias(target)));
            }
            _ => {}
        },
        Kind::Cluster(addresses) => {
            for address in addresses {
                records.push((host.clone(), Data::Address(*address)));
                if let Some(reverse) = Name::reverse(*address) {
                    records.push((reverse, Data::Pointer(host.clone())));
                }
            }
            for port in &service.ports {
                add_port(&mut records, &host, port, 100, &host);
            }
        }
        Kind::Headless { not_ready_too } => headless(&mut records, &host, slices, *not_ready_too),
    }
    records.truncate(SERVICE_RECORDS_MAX);
    records
}

fn headless<'a>(
    records: &mut Contribution,
    host: &Name,
    slices: impl Iterator<Item = &'a SliceFacts>,
    not_ready_too: bool,
) {
    let found: Vec<(&SliceFacts, &Host)> = slices
        .flat_map(|slice| slice.endpoints.iter().map(move |endpoint| (slice, endpoint)))
        .filter(|(_, endpoint)| not_ready_too || endpoint.ready)
        .take(SERVICE_RECORDS_MAX)
        .collect();
    let weight = (100 / found.len().max(1)).max(1) as u16;
    let named: Vec<(&SliceFacts, IpAddr, Name)> = found
        .into_iter()
        .filter_map(|(slice, Host { address, hostname, .. })| {
            let dashed = address.to_string().replace(['.', ':'], "-");
            let label = hostname.as_deref().unwrap_or(&dashed);
            Some((slice, *address, host.prepend([label])?))
        })
        .collect();
    let mut seen = HashSet::new();
    for (_, address, own) in &named {
        if seen.insert((own, address)) {
            records.push((host.clone(), Data::Address(*address)));
            records.push((own.clone(), Data::Address(*address)));
            if let Some(reverse) = Name::reverse(*address) {
                records.push((reverse, Data::Pointer(own.clone())));
            }
        }
    }
    for (slice, _, own) in &named {
        for port in &slice.ports {
            if records.len() >= SERVICE_RECORDS_MAX {
                return;
            }
            add_port(records, host, port, weight, own);
        }
    }
}

/// At the Service's name for clients that ask for all ports, and at `_name._protocol`.
fn add_port(records: &mut Contribution, host: &Name, port: &Port, weight: u16, target: &Name) {
    let data = Data::Port { weight, port: port.number, target: target.clone() };
    records.push((host.clone(), data.clone()));
    let labels = [&*format!("_{}", port.name), &*format!("_{}", port.protocol)];
    if !port.name.is_empty()
        && let Some(owner) = host.prepend(labels)
    {
        records.push((owner, data));
    }
}
