//! The EndpointSliceMirroring controller: slices for Endpoints that people write by hand for a
//! Service without a selector.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{EndpointAddress, Endpoints, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions};

use crate::cache::ObjectKey;
use crate::context::Context;
use crate::endpoint::address::{Ports, TRIGGER_TIME};
use crate::endpoint::slice::{apply, managed, wake_services};
use crate::endpoint::slices::{self, Frame, Group, MANAGED_BY, Plan, SERVICE_NAME};
use crate::error::Error;
use crate::event::Notice;
use crate::ownership::controller_reference;
use crate::queue::{Queue, Requeue};

/// How many Endpoints are served at once.
const WORKERS: usize = 4;
/// The name of this controller on its slices.
const CONTROLLER: &str = "endpointslicemirroring-controller.k8s.io";
/// The label that keeps Endpoints from being mirrored.
pub const SKIP: &str = "endpointslice.kubernetes.io/skip-mirror";
/// The annotation of Endpoints that only serve leader election.
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";

/// How many addresses of one subset are mirrored; they fit in one slice.
pub const SUBSET_ADDRESSES: usize = 1000;
/// The annotation with what `kubectl apply` applied.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// What mirrors some Endpoints.
#[derive(Debug, Default, PartialEq)]
pub struct Mirror {
    /// The endpoints.
    pub groups: Vec<Group>,
    /// How many addresses are left out because they are none.
    pub invalid: usize,
    /// How many are left out because there are too many.
    pub surplus: usize,
}

impl Mirror {
    /// What to tell whoever wrote the Endpoints.
    pub fn notices(&self) -> Vec<Notice> {
        let mut notices = Vec::new();
        if self.invalid > 0 {
            let message = format!(
                "Skipped {} invalid IP addresses when mirroring to EndpointSlices",
                self.invalid
            );
            notices.push(Notice::warning("InvalidIPAddress", message));
        }
        if self.surplus > 0 {
            let message = format!(
                "A max of {SUBSET_ADDRESSES} addresses can be mirrored to EndpointSlices per \
                 Endpoints subset. {} addresses were skipped",
                self.invalid + self.surplus
            );
            notices.push(Notice::warning("TooManyAddressesToMirror", message));
        }
        notices
    }
}

/// What mirrors `endpoints`.
pub fn mirror(endpoints: &Endpoints) -> Mirror {
    let mut mirror = Mirror::default();
    let groups = &mut mirror.groups;
    for subset in endpoints.subsets.iter().flatten() {
        let mut ports: Ports = subset
            .ports
            .iter()
            .flatten()
            .map(|port| {
                let name = port.name.clone().filter(|name| !name.is_empty());
                let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".to_owned());
                (name, protocol, port.port, port.app_protocol.clone())
            })
            .collect();
        ports.sort();
        let ready = subset.addresses.iter().flatten().map(|address| (address, true));
        let unready = subset.not_ready_addresses.iter().flatten().map(|address| (address, false));
        let mut room = SUBSET_ADDRESSES;
        for (address, ready) in ready.chain(unready) {
            let Ok(ip) = address.ip.parse::<IpAddr>() else {
                mirror.invalid += 1;
                continue;
            };
            let Some(left) = room.checked_sub(1) else {
                mirror.surplus += 1;
                continue;
            };
            room = left;
            let family = if ip.is_ipv6() { "IPv6" } else { "IPv4" };
            let mirrored = endpoint(address, ready);
            let known = groups
                .iter_mut()
                .find(|group| group.address_type == family && group.ports == ports);
            match known {
                Some(group) => group.endpoints.push(mirrored),
                None => groups.push(Group {
                    address_type: family.to_owned(),
                    ports: ports.clone(),
                    endpoints: vec![mirrored],
                }),
            }
        }
    }
    mirror
}

/// The frame of the slices that mirror `endpoints`: its labels and annotations go along.
pub fn frame(endpoints: &Endpoints) -> Frame {
    let name = endpoints.metadata.name.clone().unwrap_or_default();
    let mut labels = endpoints.metadata.labels.clone().unwrap_or_default();
    labels.insert(SERVICE_NAME.to_owned(), name.clone());
    labels.insert(MANAGED_BY.to_owned(), CONTROLLER.to_owned());
    let mut annotations = endpoints.metadata.annotations.clone().unwrap_or_default();
    let trigger_time = annotations.remove(TRIGGER_TIME);
    annotations.remove(LAST_APPLIED);
    Frame {
        namespace: endpoints.metadata.namespace.clone().unwrap_or_default(),
        name,
        labels,
        owner: controller_reference(endpoints),
        trigger_time,
        annotations: Some(annotations),
        capacity: SUBSET_ADDRESSES,
    }
}

fn endpoint(address: &EndpointAddress, ready: bool) -> Endpoint {
    Endpoint {
        addresses: vec![address.ip.clone()],
        conditions: Some(EndpointConditions {
            ready: Some(ready),
            ..EndpointConditions::default()
        }),
        hostname: address.hostname.clone(),
        node_name: address.node_name.clone(),
        target_ref: address.target_ref.clone(),
        ..Endpoint::default()
    }
}

/// Subscribes to what matters and returns the workers, to be run when the caches are filled.
pub fn workers(context: &Arc<Context>) -> impl Future<Output = ()> + Send + use<> {
    let queue: Arc<Queue<ObjectKey>> = Queue::new();
    let caches = &context.caches;
    let wake = queue.clone();
    caches.services.on_change(move |change| wake.add(ObjectKey::of(change.object().as_ref())));
    let wake = queue.clone();
    caches.endpoints.on_change(move |change| wake.add(ObjectKey::of(change.object().as_ref())));
    wake_services(&caches.endpoint_slices, CONTROLLER, &queue);
    context.serve(&queue, "endpoint-slice-mirroring-controller", WORKERS, reconcile)
}

async fn reconcile(context: Arc<Context>, key: ObjectKey) -> Result<Requeue, Error> {
    let existing = managed(&context, &key, CONTROLLER);
    let service = context.caches.services.get(&key);
    let by_hand = service.is_some_and(|service| is_by_hand(&service));
    let endpoints =
        context.caches.endpoints.get(&key).filter(|endpoints| by_hand && wants(endpoints));
    let Some(endpoints) = endpoints else {
        apply(&context, Plan { delete: existing, ..Plan::default() }).await?;
        return Ok(Requeue::Never);
    };
    let mirror = mirror(&endpoints);
    let recorder = context.recorder.speaking_for("endpoint-slice-mirroring-controller");
    let plan = slices::plan(&frame(&endpoints), mirror.groups.clone(), existing);
    // Said once for every change of the Endpoints, not whenever a slice was looked at.
    if plan != Plan::default() {
        for notice in mirror.notices() {
            recorder.record(endpoints.as_ref(), notice);
        }
    }
    apply(&context, plan).await?;
    Ok(Requeue::Never)
}

/// Whether the Endpoints of the Service are written by somebody else than the controller.
pub fn is_by_hand(service: &Service) -> bool {
    let selector = service.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    selector.is_none_or(BTreeMap::is_empty)
}

/// Whether Endpoints that somebody wrote by hand are to be mirrored.
pub fn wants(endpoints: &Endpoints) -> bool {
    let meta = &endpoints.metadata;
    let skipped = meta
        .labels
        .as_ref()
        .and_then(|labels| labels.get(SKIP))
        .is_some_and(|value| value == "true");
    let leader = meta.annotations.as_ref().is_some_and(|known| known.contains_key(LEADER));
    !skipped && !leader && meta.deletion_timestamp.is_none()
}
