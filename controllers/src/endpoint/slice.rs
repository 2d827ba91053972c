//! The EndpointSlice controller.

use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::sync::Arc;

use futures::future::join_all;
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointSlice};

use crate::cache::{Cache, ObjectKey};
use crate::context::Context;
use crate::endpoint::address::{self, Ports};
use crate::endpoint::slices::{
    self, Frame, Group, MANAGED_BY, Plan, SERVICE_NAME, SLICE_ENDPOINTS,
};
use crate::error::Error;
use crate::ownership::controller_reference;
use crate::pod;
use crate::queue::{Queue, Requeue};
use crate::request;

/// How many Services are served at once.
const WORKERS: usize = 8;
/// The name of this controller on its slices.
pub const CONTROLLER: &str = "endpointslice-controller.k8s.io";
/// The label of a node that names its zone.
const ZONE: &str = "topology.kubernetes.io/zone";

/// The endpoints of a Service, grouped by the ports they serve.
pub fn groups(service: &Service, pods: &[Arc<Pod>], zones: &HashMap<String, String>) -> Vec<Group> {
    let spec = service.spec.as_ref();
    let families = spec
        .and_then(|spec| spec.ip_families.clone())
        .filter(|families| !families.is_empty())
        .unwrap_or_else(|| vec!["IPv4".to_owned()]);
    families
        .into_iter()
        .flat_map(|family| {
            let mut by_ports: BTreeMap<Ports, Vec<Endpoint>> = BTreeMap::new();
            for pod in pods.iter().filter(|pod| !pod::is_terminal(pod)) {
                let Some(address) = address::pod_address(pod, family == "IPv6") else { continue };
                let endpoint = endpoint(service, pod, address, zones);
                by_ports.entry(address::ports(service, pod)).or_default().push(endpoint);
            }
            if by_ports.is_empty() {
                by_ports.insert(Ports::new(), Vec::new());
            }
            by_ports.into_iter().map(move |(ports, mut endpoints)| {
                endpoints.sort_by(|a, b| a.addresses.cmp(&b.addresses));
                Group { address_type: family.clone(), ports, endpoints }
            })
        })
        .collect()
}

fn endpoint(
    service: &Service,
    pod: &Pod,
    address: String,
    zones: &HashMap<String, String>,
) -> Endpoint {
    let serving = pod::is_ready(pod);
    let terminating = pod.metadata.deletion_timestamp.is_some();
    let ready = address::publishes_unready(service) || (serving && !terminating);
    let node_name = pod::node_name(pod).map(str::to_owned);
    Endpoint {
        addresses: vec![address],
        conditions: Some(EndpointConditions {
            ready: Some(ready),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        hostname: address::hostname(pod, service),
        zone: node_name.as_ref().and_then(|node| zones.get(node)).cloned(),
        node_name,
        target_ref: Some(address::target(pod)),
        ..Endpoint::default()
    }
}

/// Whether `controller` manages the slice.
pub fn is_managed_by(slice: &EndpointSlice, controller: &str) -> bool {
    slice.metadata.labels.as_ref().and_then(|labels| labels.get(MANAGED_BY)).map(String::as_str)
        == Some(controller)
}

/// The key of the Service of a slice.
pub fn service_of(slice: &EndpointSlice) -> Option<ObjectKey> {
    let name = slice.metadata.labels.as_ref()?.get(SERVICE_NAME)?;
    Some(ObjectKey::new(slice.metadata.namespace.clone().unwrap_or_default(), name))
}

/// Queues the Service of every slice that changes, if `controller` manages the slice.
pub fn wake_services(
    slices: &Cache<EndpointSlice>,
    controller: &'static str,
    queue: &Arc<Queue<ObjectKey>>,
) {
    let queue = queue.clone();
    slices.on_change(move |change| {
        let managed = change.states().filter(|state| is_managed_by(state, controller));
        managed.filter_map(|slice| service_of(slice)).for_each(|service| queue.add(service));
    });
}

/// The slices of a Service that `controller` manages.
pub fn managed(
    context: &Context,
    service: &ObjectKey,
    controller: &str,
) -> Vec<Arc<EndpointSlice>> {
    let mut slices = context.caches.endpoint_slices.grouped(&service.namespace, &service.name);
    slices.retain(|slice| is_managed_by(slice, controller));
    slices
}

/// Carries a plan for slices out.
pub async fn apply(context: &Context, plan: Plan) -> Result<(), Error> {
    let client = &context.client;
    let cache = &context.caches.endpoint_slices;
    let create = join_all(plan.create.iter().map(|slice| request::create(client, slice)));
    let update = join_all(plan.update.iter().map(|slice| request::replace(client, slice)));
    let delete = join_all(plan.delete.iter().map(|slice| async move {
        let uid = slice.metadata.uid.as_deref();
        request::delete::<EndpointSlice>(client, &ObjectKey::of(slice.as_ref()), uid).await
    }));
    let (created, updated, deleted) = tokio::join!(create, update, delete);
    for written in created.into_iter().chain(updated) {
        match written {
            Ok(written) => cache.observe(written),
            Err(error) if error.is_namespace_terminating() => return Ok(()),
            Err(error) => return Err(error),
        }
    }
    deleted.into_iter().collect()
}

/// Subscribes to what matters and returns the workers, to be run when the caches are filled.
pub fn workers(context: &Arc<Context>) -> impl Future<Output = ()> + Send + use<> {
    let queue: Arc<Queue<ObjectKey>> = Queue::new();
    let caches = &context.caches;
    let wake = queue.clone();
    caches.services.on_change(move |change| wake.add(ObjectKey::of(change.object().as_ref())));
    let (wake, selectors) = (queue.clone(), caches.selectors.clone());
    caches.pods.on_change(move |change| address::queue_services_of(change, &selectors, &wake));
    wake_services(&caches.endpoint_slices, CONTROLLER, &queue);
    context.serve(&queue, "endpoint-slice-controller", WORKERS, reconcile)
}

async fn reconcile(context: Arc<Context>, key: ObjectKey) -> Result<Requeue, Error> {
    let existing = managed(&context, &key, CONTROLLER);
    let service = context.caches.services.get(&key);
    let Some(service) = service.filter(|service| service.metadata.deletion_timestamp.is_none())
    else {
        // The garbage collector follows the owner reference.
        return Ok(Requeue::Never);
    };
    if !address::selects_pods(&service) {
        // The selector was taken away: what was computed from it goes.
        apply(&context, Plan { delete: existing, ..Plan::default() }).await?;
        return Ok(Requeue::Never);
    }
    let pods = address::selected(&service, &context.caches.pods);
    let zones: HashMap<String, String> = context
        .caches
        .nodes
        .all()
        .iter()
        .filter_map(|node| {
            let zone = node.metadata.labels.as_ref()?.get(ZONE)?;
            Some((node.metadata.name.clone()?, zone.clone()))
        })
        .collect();
    let mut labels = address::service_labels(&service);
    labels.insert(SERVICE_NAME.to_owned(), key.name.clone());
    labels.insert(MANAGED_BY.to_owned(), CONTROLLER.to_owned());
    let frame = Frame {
        namespace: key.namespace,
        name: key.name,
        labels,
        owner: controller_reference(service.as_ref()),
        trigger_time: address::trigger_time(&service, pods.iter()).map(address::trigger_text),
        annotations: None,
        capacity: SLICE_ENDPOINTS,
    };
    let plan = slices::plan(&frame, groups(&service, &pods, &zones), existing);
    apply(&context, plan).await?;
    Ok(Requeue::Never)
}
