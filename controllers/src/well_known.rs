//! The two Services that every cluster has: `kubernetes` in `default` leads to the API, and
//! `kube-dns` in `kube-system` to the DNS server. Both come back when deleted and follow the
//! address of the node.

use std::future::Future;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::{
    EndpointAddress, EndpointPort, EndpointSubset, Endpoints, Service, ServicePort, ServiceSpec,
};
use k8s_openapi::api::discovery::v1::{
    Endpoint, EndpointConditions, EndpointPort as SlicePort, EndpointSlice,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::cache::{Cache, Cached, ObjectKey};
use crate::context::Context;
use crate::endpoint::mirror::SKIP;
use crate::endpoint::slices::SERVICE_NAME;
use crate::error::Error;
use crate::queue::{Queue, Requeue};
use crate::request::{self, Kind};
use crate::selector::Labels;

/// Which address of the Service range the API has, counted from the network address.
const API_ADDRESS: u32 = 1;
/// Which address of the Service range the DNS server has.
const DNS_ADDRESS: u32 = 10;
/// The port of DNS.
const DNS_PORT: i32 = 53;

/// One of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WellKnown {
    /// `default/kubernetes`.
    Kubernetes,
    /// `kube-system/kube-dns`.
    KubeDns,
}

impl WellKnown {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Kubernetes, Self::KubeDns];

    /// The key of the Service.
    pub fn key(self) -> ObjectKey {
        match self {
            Self::Kubernetes => ObjectKey::new("default", "kubernetes"),
            Self::KubeDns => ObjectKey::new("kube-system", "kube-dns"),
        }
    }

    fn labels(self) -> Labels {
        let labels: &[(&str, &str)] = match self {
            Self::Kubernetes => &[("component", "apiserver"), ("provider", "kubernetes")],
            Self::KubeDns => &[
                ("k8s-app", "kube-dns"),
                ("kubernetes.io/cluster-service", "true"),
                ("kubernetes.io/name", "CoreDNS"),
            ],
        };
        labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    /// The address of the Service in the range.
    pub fn address(self, range: &IpNet) -> Option<IpAddr> {
        let offset = match self {
            Self::Kubernetes => API_ADDRESS,
            Self::KubeDns => DNS_ADDRESS,
        };
        let address = match range.network() {
            IpAddr::V4(base) => IpAddr::V4((u32::from(base).checked_add(offset)?).into()),
            IpAddr::V6(base) => IpAddr::V6((u128::from(base).checked_add(offset.into())?).into()),
        };
        range.contains(&address).then_some(address)
    }

    /// Name, protocol, port of the Service, port of the node.
    fn ports(self, api_port: u16) -> Vec<(&'static str, &'static str, i32, i32)> {
        match self {
            Self::Kubernetes => vec![("https", "TCP", 443, i32::from(api_port))],
            Self::KubeDns => {
                vec![("dns", "UDP", DNS_PORT, DNS_PORT), ("dns-tcp", "TCP", DNS_PORT, DNS_PORT)]
            }
        }
    }
}

/// What shall be there.
#[derive(Clone, Debug, PartialEq)]
pub struct Wanted {
    /// The Service.
    pub service: Service,
    /// Its Endpoints.
    pub endpoints: Endpoints,
    /// Its slice, where the Endpoints are not mirrored.
    pub slice: Option<EndpointSlice>,
}

/// Describes a well-known Service from nothing but the configuration.
pub fn wanted(which: WellKnown, range: &IpNet, node_ip: IpAddr, api_port: u16) -> Option<Wanted> {
    let address = which.address(range)?.to_string();
    let key = which.key();
    let metadata = |labels: Labels| ObjectMeta {
        name: Some(key.name.clone()),
        namespace: Some(key.namespace.clone()),
        labels: Some(labels),
        ..ObjectMeta::default()
    };
    let ports = which.ports(api_port);
    let family = if node_ip.is_ipv6() { "IPv6" } else { "IPv4" };
    let service_ports = ports.iter().map(|(name, protocol, port, target)| ServicePort {
        name: Some((*name).to_owned()),
        protocol: Some((*protocol).to_owned()),
        port: *port,
        target_port: Some(IntOrString::Int(*target)),
        ..ServicePort::default()
    });
    let service = Service {
        metadata: metadata(which.labels()),
        spec: Some(ServiceSpec {
            type_: Some("ClusterIP".to_owned()),
            cluster_ip: Some(address.clone()),
            cluster_ips: Some(vec![address]),
            session_affinity: Some("None".to_owned()),
            ports: Some(service_ports.collect()),
            ..ServiceSpec::default()
        }),
        status: None,
    };
    let endpoint_ports = ports.iter().map(|(name, protocol, _, target)| EndpointPort {
        name: Some((*name).to_owned()),
        protocol: Some((*protocol).to_owned()),
        port: *target,
        app_protocol: None,
    });
    let mut endpoints = Endpoints {
        metadata: metadata(Labels::new()),
        subsets: Some(vec![EndpointSubset {
            addresses: Some(vec![EndpointAddress {
                ip: node_ip.to_string(),
                ..EndpointAddress::default()
            }]),
            not_ready_addresses: None,
            ports: Some(endpoint_ports.collect()),
        }]),
    };
    let mut slice = None;
    if which == WellKnown::Kubernetes {
        endpoints.metadata.labels = Some([(SKIP.to_owned(), "true".to_owned())].into());
        let slice_ports = ports.iter().map(|(name, protocol, _, target)| SlicePort {
            name: Some((*name).to_owned()),
            protocol: Some((*protocol).to_owned()),
            port: Some(*target),
            app_protocol: None,
        });
        slice = Some(EndpointSlice {
            metadata: metadata([(SERVICE_NAME.to_owned(), key.name.clone())].into()),
            address_type: family.to_owned(),
            endpoints: vec![Endpoint {
                addresses: vec![node_ip.to_string()],
                conditions: Some(EndpointConditions {
                    ready: Some(true),
                    ..EndpointConditions::default()
                }),
                ..Endpoint::default()
            }],
            ports: Some(slice_ports.collect()),
        });
    } else {
        endpoints.metadata.labels = Some(which.labels());
    }
    Some(Wanted { service, endpoints, slice })
}

/// Subscribes to what matters and returns the workers, to be run when the caches are filled.
pub fn workers(context: &Arc<Context>) -> impl Future<Output = ()> + Send + use<> {
    let queue: Arc<Queue<WellKnown>> = Queue::new();
    for which in WellKnown::ALL {
        queue.add(which);
    }
    watch(&context.caches.services, &queue);
    watch(&context.caches.endpoints, &queue);
    watch(&context.caches.endpoint_slices, &queue);
    let wake = queue.clone();
    context.caches.nodes.on_change(move |change| {
        let addresses = |state: &k8s_openapi::api::core::v1::Node| {
            state.status.as_ref().and_then(|status| status.addresses.clone())
        };
        let mut states = change.states();
        let same = match (states.next(), states.next()) {
            (Some(old), Some(new)) => addresses(old) == addresses(new),
            _ => false,
        };
        if !same {
            WellKnown::ALL.into_iter().for_each(|which| wake.add(which));
        }
    });
    // Their namespaces may still be missing when the process starts for the first time.
    let wake = queue.clone();
    context.caches.namespaces.on_change(move |change| {
        let name = change.object().metadata.name.as_deref();
        for which in WellKnown::ALL {
            if name == Some(which.key().namespace.as_str()) {
                wake.add(which);
            }
        }
    });
    context.serve(&queue, "well-known-services", WellKnown::ALL.len(), reconcile)
}

fn watch<K: Cached>(cache: &Cache<K>, queue: &Arc<Queue<WellKnown>>) {
    let wake = queue.clone();
    cache.on_change(move |change| {
        let key = ObjectKey::of(change.object().as_ref());
        for which in WellKnown::ALL {
            if key == which.key() {
                wake.add(which);
            }
        }
    });
}

async fn reconcile(context: Arc<Context>, which: WellKnown) -> Result<Requeue, Error> {
    let key = which.key();
    if context.caches.namespaces.get(&ObjectKey::new("", &key.namespace)).is_none() {
        return Ok(Requeue::Never);
    }
    let config = &context.config;
    let wanted = wanted(which, &config.service_cidr, context.node_ip(), config.api_port);
    let Some(wanted) = wanted else { return Ok(Requeue::Never) };
    ensure(&context, &context.caches.services, wanted.service, |known, wanted| {
        let mut target = known.clone();
        let (spec, needed) = (target.spec.get_or_insert_default(), wanted.spec.as_ref()?);
        spec.ports.clone_from(&needed.ports);
        spec.selector = None;
        add_labels(&mut target.metadata, &wanted.metadata);
        Some(target)
    })
    .await?;
    ensure(&context, &context.caches.endpoints, wanted.endpoints, |known, wanted| {
        let mut target = known.clone();
        target.subsets.clone_from(&wanted.subsets);
        add_labels(&mut target.metadata, &wanted.metadata);
        Some(target)
    })
    .await?;
    if let Some(slice) = wanted.slice {
        ensure(&context, &context.caches.endpoint_slices, slice, |known, wanted| {
            let mut target = known.clone();
            target.endpoints.clone_from(&wanted.endpoints);
            target.ports.clone_from(&wanted.ports);
            add_labels(&mut target.metadata, &wanted.metadata);
            Some(target)
        })
        .await?;
    }
    Ok(Requeue::Never)
}

fn add_labels(known: &mut ObjectMeta, wanted: &ObjectMeta) {
    for (key, value) in wanted.labels.iter().flatten() {
        known.labels.get_or_insert_default().insert(key.clone(), value.clone());
    }
}

/// Creates `wanted`, or corrects the object of that name by `merge`.
async fn ensure<K: Kind + Cached + PartialEq>(
    context: &Context,
    cache: &Cache<K>,
    wanted: K,
    merge: impl Fn(&K, &K) -> Option<K>,
) -> Result<(), Error> {
    let known = cache.get(&ObjectKey::of(&wanted));
    let written = match known {
        None => request::create(&context.client, &wanted).await?,
        Some(known) => match merge(&known, &wanted) {
            Some(target) if target != *known => request::replace(&context.client, &target).await?,
            _ => return Ok(()),
        },
    };
    cache.observe(written);
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_api_has_the_first_address_and_dns_the_tenth() {
        let range: IpNet = "10.47.240.0/20".parse().unwrap();
        let node: IpAddr = "192.0.2.7".parse().unwrap();
        let kubernetes = wanted(WellKnown::Kubernetes, &range, node, 6443).unwrap();
        let spec = kubernetes.service.spec.unwrap();
        assert_eq!(spec.cluster_ip.as_deref(), Some("10.47.240.1"));
        assert_eq!(spec.ports.unwrap()[0].port, 443);
        let subset = &kubernetes.endpoints.subsets.unwrap()[0];
        assert_eq!(subset.addresses.as_ref().unwrap()[0].ip, "192.0.2.7");
        assert_eq!(subset.ports.as_ref().unwrap()[0].port, 6443);
        let dns = wanted(WellKnown::KubeDns, &range, node, 6443).unwrap();
        assert_eq!(dns.service.spec.unwrap().cluster_ip.as_deref(), Some("10.47.240.10"));
        assert_eq!(dns.service.metadata.labels.unwrap()["k8s-app"], "kube-dns");
        assert!(dns.slice.is_none());
    }
}
