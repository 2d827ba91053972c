//! What a pod contributes to the endpoints of a Service.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ObjectReference, Pod, Service, ServicePort};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::cache::{Cache, Change, ObjectKey};
use crate::endpoint::selectors::Selectors;
use crate::pod;
use crate::queue::Queue;
use crate::selector::{self, Labels};

/// The annotation that tells when what led to the endpoints happened.
pub const TRIGGER_TIME: &str = "endpoints.kubernetes.io/last-change-trigger-time";
/// The label on endpoints of a Service without an address.
pub const HEADLESS: &str = "service.kubernetes.io/headless";

/// Name, protocol, number and application protocol of the ports that one address serves.
pub type Ports = Vec<(Option<String>, String, i32, Option<String>)>;

/// Whether the Service has its endpoints computed from pods.
pub fn selects_pods(service: &Service) -> bool {
    service.spec.as_ref().is_some_and(|spec| {
        spec.selector.as_ref().is_some_and(|labels| !labels.is_empty())
            && spec.type_.as_deref() != Some("ExternalName")
    })
}

/// Whether the Service has no address of its own.
pub fn is_headless(service: &Service) -> bool {
    let address = service.spec.as_ref().and_then(|spec| spec.cluster_ip.as_deref());
    matches!(address, None | Some("" | "None"))
}

/// Whether pods are published before they are ready.
pub fn publishes_unready(service: &Service) -> bool {
    service.spec.as_ref().and_then(|spec| spec.publish_not_ready_addresses) == Some(true)
}

/// The first address of the pod in that family.
pub fn pod_address(pod: &Pod, ipv6: bool) -> Option<String> {
    let status = pod.status.as_ref()?;
    let listed = status.pod_ips.iter().flatten().map(|ip| &ip.ip);
    listed
        .chain(&status.pod_ip)
        .find(|text| text.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv6() == ipv6))
        .cloned()
}

/// The name under which DNS knows the pod below the Service.
pub fn hostname(pod: &Pod, service: &Service) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let subdomain = spec.subdomain.as_ref().filter(|name| !name.is_empty())?;
    let hostname = spec.hostname.as_ref().filter(|name| !name.is_empty())?;
    (Some(subdomain) == service.metadata.name.as_ref()).then(|| hostname.clone())
}

/// A reference to the pod without its version, so that endpoints do not change with every status.
pub fn target(pod: &Pod) -> ObjectReference {
    ObjectReference {
        kind: Some("Pod".to_owned()),
        namespace: pod.metadata.namespace.clone(),
        name: pod.metadata.name.clone(),
        uid: pod.metadata.uid.clone(),
        ..ObjectReference::default()
    }
}

/// The ports of the Service on that pod. A port named by the pod differs from pod to pod; one
/// that the pod does not name is left out.
pub fn ports(service: &Service, pod: &Pod) -> Ports {
    let wanted = service.spec.as_ref().and_then(|spec| spec.ports.as_deref()).unwrap_or_default();
    let mut ports: Ports = wanted
        .iter()
        .filter_map(|port| {
            let number = target_port(port, pod)?;
            let name = port.name.clone().filter(|name| !name.is_empty());
            Some((name, protocol(port).to_owned(), number, port.app_protocol.clone()))
        })
        .collect();
    ports.sort();
    ports
}

fn protocol(port: &ServicePort) -> &str {
    port.protocol.as_deref().unwrap_or("TCP")
}

fn target_port(port: &ServicePort, pod: &Pod) -> Option<i32> {
    match &port.target_port {
        None => Some(port.port),
        Some(IntOrString::Int(0)) => Some(port.port),
        Some(IntOrString::Int(number)) => Some(*number),
        Some(IntOrString::String(name)) => {
            let spec = pod.spec.as_ref()?;
            // Sidecars are init containers that keep running.
            let sidecars = spec
                .init_containers
                .iter()
                .flatten()
                .filter(|container| container.restart_policy.as_deref() == Some("Always"));
            spec.containers
                .iter()
                .chain(sidecars)
                .flat_map(|container| container.ports.iter().flatten())
                .find(|candidate| {
                    candidate.name.as_ref() == Some(name)
                        && candidate.protocol.as_deref().unwrap_or("TCP") == protocol(port)
                })
                .map(|candidate| candidate.container_port)
        }
    }
}

/// When the newest change that the endpoints show happened.
pub fn trigger_time<'a>(
    service: &Service,
    pods: impl Iterator<Item = &'a Arc<Pod>>,
) -> Option<Timestamp> {
    let ready = pods.filter_map(|pod| {
        pod::condition(pod, "Ready")?.last_transition_time.as_ref().map(|time| time.0)
    });
    let created = service.metadata.creation_timestamp.as_ref().map(|time| time.0);
    ready.chain(created).max()
}

/// The annotation's text.
pub fn trigger_text(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// The labels of a Service without those that only its endpoints may carry.
pub fn service_labels(service: &Service) -> Labels {
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.remove(HEADLESS);
    if is_headless(service) {
        labels.insert(HEADLESS.to_owned(), String::new());
    }
    labels
}

/// What of a pod its endpoints depend on.
fn fingerprint(pod: &Pod) -> impl PartialEq + '_ {
    let spec = pod.spec.as_ref();
    (
        pod.status.as_ref().map(|status| (&status.pod_ip, &status.pod_ips)),
        pod::is_ready(pod),
        pod::is_terminal(pod),
        pod.metadata.deletion_timestamp.is_some(),
        pod::node_name(pod),
        spec.map(|spec| (&spec.hostname, &spec.subdomain)),
    )
}

/// Queues the Services whose endpoints a pod's change may alter.
pub fn queue_services_of(
    change: &Change<'_, Pod>,
    selectors: &Selectors,
    queue: &Queue<ObjectKey>,
) {
    let pod = change.object();
    let relabelled = match change {
        Change::Applied { old: Some(old), new } => {
            let relabelled = old.metadata.labels != new.metadata.labels;
            if !relabelled && fingerprint(old) == fingerprint(new) {
                return;
            }
            relabelled
        }
        _ => false,
    };
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let mut labels = vec![pod.metadata.labels.as_ref()];
    if relabelled {
        labels.extend(change.states().map(|state| state.metadata.labels.as_ref()));
    }
    for key in selectors.matching(namespace, &labels) {
        queue.add(key);
    }
}

/// The pods that the Service selects.
pub fn selected(service: &Service, pods: &Cache<Pod>) -> Vec<Arc<Pod>> {
    let none = BTreeMap::new();
    let wanted = service.spec.as_ref().and_then(|spec| spec.selector.as_ref()).unwrap_or(&none);
    let namespace = service.metadata.namespace.as_deref().unwrap_or_default();
    let mut selected = pods.namespaced(namespace);
    selected.retain(|pod| selector::matches_map(wanted, pod.metadata.labels.as_ref()));
    selected
}
