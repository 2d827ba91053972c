//! The Endpoints controller.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{
    EndpointAddress, EndpointPort, EndpointSubset, Endpoints, Pod, Service,
};

use crate::cache::{Change, ObjectKey};
use crate::context::Context;
use crate::endpoint::address::{self, Ports, TRIGGER_TIME};
use crate::error::Error;
use crate::pod;
use crate::queue::{Queue, Requeue};
use crate::request;

/// How many Services are served at once.
const WORKERS: usize = 8;
/// The label that marks Endpoints as computed.
pub const MANAGED_BY: (&str, &str) = ("endpoints.kubernetes.io/managed-by", "endpoint-controller");

/// How many addresses one Endpoints holds at most.
pub const ADDRESSES: usize = 1000;
/// The annotation of Endpoints that hold only part of the addresses.
pub const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";

/// The Endpoints that `service` shall have, on the base of those it has.
pub fn plan(service: &Service, pods: &[Arc<Pod>], known: Option<&Endpoints>) -> Endpoints {
    let mut endpoints = known.cloned().unwrap_or_default();
    endpoints.metadata.name = service.metadata.name.clone();
    endpoints.metadata.namespace = service.metadata.namespace.clone();
    let mut labels = address::service_labels(service);
    labels.insert(MANAGED_BY.0.to_owned(), MANAGED_BY.1.to_owned());
    endpoints.metadata.labels = Some(labels);
    let mut subsets = subsets(service, pods);
    let truncated = truncate(&mut subsets);
    if known.is_none() || endpoints.subsets.as_deref().unwrap_or_default() != subsets {
        let annotations = endpoints.metadata.annotations.get_or_insert_default();
        match address::trigger_time(service, pods.iter()) {
            Some(time) => {
                annotations.insert(TRIGGER_TIME.to_owned(), address::trigger_text(time));
            }
            None => {
                annotations.remove(TRIGGER_TIME);
            }
        }
    }
    let annotations = endpoints.metadata.annotations.get_or_insert_default();
    if truncated {
        annotations.insert(OVER_CAPACITY.to_owned(), "truncated".to_owned());
    } else {
        annotations.remove(OVER_CAPACITY);
    }
    if annotations.is_empty() {
        endpoints.metadata.annotations = None;
    }
    endpoints.subsets = (!subsets.is_empty()).then_some(subsets);
    endpoints
}

/// Takes away what is beyond the capacity: those that are not ready first, of each subset in
/// proportion to its size. True if there were too many.
fn truncate(subsets: &mut [EndpointSubset]) -> bool {
    let count = |list: &Option<Vec<EndpointAddress>>| list.as_ref().map_or(0, Vec::len);
    let ready: usize = subsets.iter().map(|subset| count(&subset.addresses)).sum();
    let unready: usize = subsets.iter().map(|subset| count(&subset.not_ready_addresses)).sum();
    if ready + unready <= ADDRESSES {
        return false;
    }
    let cuts_ready = ready > ADDRESSES;
    let (room, total) = if cuts_ready { (ADDRESSES, ready) } else { (ADDRESSES - ready, unready) };
    let mut left = room;
    for subset in subsets {
        let list = if cuts_ready { &mut subset.addresses } else { &mut subset.not_ready_addresses };
        let share = (count(list) * room).div_ceil(total).min(left);
        if let Some(addresses) = list {
            addresses.truncate(share);
            left -= addresses.len();
        }
        if count(list) == 0 {
            *list = None;
        }
        if cuts_ready {
            subset.not_ready_addresses = None;
        }
    }
    true
}

fn subsets(service: &Service, pods: &[Arc<Pod>]) -> Vec<EndpointSubset> {
    let all = address::publishes_unready(service);
    let portless =
        service.spec.as_ref().is_none_or(|spec| spec.ports.iter().flatten().next().is_none());
    let ipv6 = service
        .spec
        .as_ref()
        .and_then(|spec| spec.ip_families.as_ref())
        .is_some_and(|families| families.first().is_some_and(|family| family == "IPv6"));
    let mut groups: BTreeMap<Ports, (Vec<EndpointAddress>, Vec<EndpointAddress>)> = BTreeMap::new();
    for pod in pods {
        if pod::is_terminal(pod) || (pod.metadata.deletion_timestamp.is_some() && !all) {
            continue;
        }
        let Some(ip) = address::pod_address(pod, ipv6) else { continue };
        let ports = address::ports(service, pod);
        if ports.is_empty() && !(portless && address::is_headless(service)) {
            continue;
        }
        let entry = EndpointAddress {
            ip,
            hostname: address::hostname(pod, service),
            node_name: pod::node_name(pod).map(str::to_owned),
            target_ref: Some(address::target(pod)),
        };
        let (ready, unready) = groups.entry(ports).or_default();
        if all || pod::is_ready(pod) { ready.push(entry) } else { unready.push(entry) }
    }
    let order = |addresses: &mut Vec<EndpointAddress>| {
        addresses.sort_by_key(|entry| {
            (entry.ip.clone(), entry.target_ref.as_ref().and_then(|target| target.uid.clone()))
        });
    };
    let some = |addresses: Vec<EndpointAddress>| (!addresses.is_empty()).then_some(addresses);
    groups
        .into_iter()
        .map(|(ports, (mut ready, mut unready))| {
            order(&mut ready);
            order(&mut unready);
            let ports: Vec<EndpointPort> = ports
                .into_iter()
                .map(|(name, protocol, port, app_protocol)| EndpointPort {
                    name,
                    protocol: Some(protocol),
                    port,
                    app_protocol,
                })
                .collect();
            EndpointSubset {
                addresses: some(ready),
                not_ready_addresses: some(unready),
                ports: (!ports.is_empty()).then_some(ports),
            }
        })
        .collect()
}

/// Subscribes to what matters and returns the workers, to be run when the caches are filled.
pub fn workers(context: &Arc<Context>) -> impl Future<Output = ()> + Send + use<> {
    let queue: Arc<Queue<ObjectKey>> = Queue::new();
    let caches = &context.caches;
    let wake = queue.clone();
    caches.services.on_change(move |change| wake.add(ObjectKey::of(change.object().as_ref())));
    let (wake, selectors) = (queue.clone(), caches.selectors.clone());
    caches.pods.on_change(move |change| address::queue_services_of(change, &selectors, &wake));
    let (wake, services) = (queue.clone(), caches.services.clone());
    caches.endpoints.on_change(move |change| {
        let key = ObjectKey::of(change.object().as_ref());
        // Computed Endpoints whose Service is gone, or ones that somebody else changed.
        let leftover =
            matches!(change, Change::Applied { old: None, .. }) && is_computed(change.object());
        if leftover || services.get(&key).is_some_and(|service| address::selects_pods(&service)) {
            wake.add(key);
        }
    });
    context.serve(&queue, "endpoint-controller", WORKERS, reconcile)
}

fn is_computed(endpoints: &Endpoints) -> bool {
    let labels = endpoints.metadata.labels.as_ref();
    labels.and_then(|labels| labels.get(MANAGED_BY.0)).is_some_and(|value| value == MANAGED_BY.1)
}

async fn reconcile(context: Arc<Context>, key: ObjectKey) -> Result<Requeue, Error> {
    let known = context.caches.endpoints.get(&key);
    let Some(service) = context.caches.services.get(&key) else {
        if let Some(known) = known {
            let uid = known.metadata.uid.as_deref();
            request::delete::<Endpoints>(&context.client, &key, uid).await?;
        }
        return Ok(Requeue::Never);
    };
    if !address::selects_pods(&service) || service.metadata.deletion_timestamp.is_some() {
        return Ok(Requeue::Never);
    }
    let pods = address::selected(&service, &context.caches.pods);
    let wanted = plan(&service, &pods, known.as_deref());
    let written = match known {
        Some(known) if wanted == *known => return Ok(Requeue::Never),
        Some(_) => request::replace(&context.client, &wanted).await,
        None => request::create(&context.client, &wanted).await,
    };
    match written {
        Ok(written) => context.caches.endpoints.observe(written),
        Err(error) if error.is_namespace_terminating() => {}
        Err(error) => return Err(error),
    }
    Ok(Requeue::Never)
}
