//! The Service controller: a Service of type LoadBalancer gets the node's address, unless its
//! ports are taken there. A process of the machine that begins to listen at one of them later takes
//! the address away again, until it ends.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::future::Future;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::{LoadBalancerIngress, LoadBalancerStatus, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;

use crate::cache::ObjectKey;
use crate::context::Context;
use crate::error::Error;
use crate::event::Notice;
use crate::pod;
use crate::queue::{Queue, Requeue};
use crate::request;

/// How many Services are served at once. One, so that of two Services that want the same port
/// each sees what the other was given.
const WORKERS: usize = 1;

/// Time between two looks at the listeners of the machine, while a Service has or wants a port.
const HOST_PORTS_INTERVAL: Duration = Duration::from_secs(2);

/// A port on the node's address: protocol and number.
pub type NodePort = (String, i32);

/// The ports that processes of the machine have.
///
/// The controllers do not link the code that reads them: the program that runs both passes it in.
pub trait HostPorts: Send + Sync {
    /// Returns those of the ports at which a process listens on this address, each with a
    /// description of the process; `None` when that cannot be found out. Blocks for as long as the
    /// kernel needs.
    fn holders(&self, address: IpAddr, ports: &BTreeSet<NodePort>) -> Option<Holders>;
}

/// Conflicts that were reported, so that each is reported once.
#[derive(Debug, Default)]
pub struct Announced(Mutex<HashMap<ObjectKey, String>>);

impl Announced {
    /// Notes the conflict of a Service, `None` when it has none. Returns true if it is a new one.
    fn is_new(&self, key: &ObjectKey, conflict: Option<&str>) -> bool {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match conflict {
            None => {
                known.remove(key);
                false
            }
            Some(text) if known.get(key).is_some_and(|known| known == text) => false,
            Some(text) => {
                known.insert(key.clone(), text.to_owned());
                true
            }
        }
    }
}

/// Who holds which port of the node's address.
pub type Holders = BTreeMap<NodePort, String>;

/// The beginning of the name of a Service that holds a port.
const SERVICE_HOLDER: &str = "service ";

/// Whether this controller answers for the Service.
pub fn is_ours(service: &Service) -> bool {
    service.spec.as_ref().is_some_and(|spec| {
        spec.type_.as_deref() == Some("LoadBalancer")
            && spec.load_balancer_class.as_deref().is_none_or(str::is_empty)
    })
}

/// The group of the Services that this controller answers for.
const OURS: &str = "LoadBalancer";

/// Groups Services for a cache.
pub fn group(service: &Service) -> Option<String> {
    is_ours(service).then(|| OURS.to_owned())
}

fn ports(service: &Service) -> impl Iterator<Item = NodePort> + '_ {
    service
        .spec
        .iter()
        .flat_map(|spec| spec.ports.iter().flatten())
        .map(|port| (port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()), port.port))
}

/// Returns the holder of each port. Of several Services the oldest holds a port; the API, processes
/// of the machine (`host`) and host ports of pods come before Services. A Service is not in
/// conflict with what serves it: `served` returns the ports of the node at which its own endpoints
/// listen.
pub fn holders(
    services: &[Arc<Service>],
    pods: &[Arc<Pod>],
    api_port: u16,
    host: &Holders,
    served: impl Fn(&Service) -> BTreeSet<NodePort>,
) -> Holders {
    let mut holders = host.clone();
    let api = ("TCP".to_owned(), i32::from(api_port));
    holders.insert(api.clone(), "the Kubernetes API".to_owned());
    for pod in pods.iter().filter(|pod| !pod::is_terminal(pod)) {
        let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
        for port in containers.flat_map(|container| container.ports.iter().flatten()) {
            let Some(number) = port.host_port.filter(|number| *number > 0) else { continue };
            let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".to_owned());
            let holder = format!("pod {}", ObjectKey::of(pod.as_ref()));
            holders.entry((protocol, number)).or_insert(holder);
        }
    }
    let mut candidates: Vec<&Arc<Service>> =
        services.iter().filter(|service| is_ours(service)).collect();
    // One that has its address keeps it against an older one that asks for the port later.
    candidates.sort_by_key(|service| {
        let created = service.metadata.creation_timestamp.clone().map(|time| time.0);
        (!has_address(service), created, ObjectKey::of(service.as_ref()))
    });
    for service in candidates {
        let wanted: Vec<NodePort> = ports(service).collect();
        let own = served(service);
        // All of its ports or none.
        let is_taken = |port: &NodePort| match holders.get(port) {
            Some(holder) if holder.starts_with(SERVICE_HOLDER) => true,
            Some(_) => *port == api || !own.contains(port),
            None => false,
        };
        if wanted.iter().any(is_taken) {
            continue;
        }
        for port in wanted {
            holders.insert(port, format!("{SERVICE_HOLDER}{}", ObjectKey::of(service.as_ref())));
        }
    }
    holders
}

fn has_address(service: &Service) -> bool {
    service
        .status
        .as_ref()
        .and_then(|status| status.load_balancer.as_ref())
        .is_some_and(|status| status.ingress.iter().flatten().next().is_some())
}

/// What a Service shall say of its external address.
#[derive(Debug, PartialEq)]
pub enum Verdict {
    /// These addresses; none for a Service of another type.
    Addresses(Vec<LoadBalancerIngress>),
    /// No address: the port is somebody else's.
    Conflict {
        /// The port.
        port: NodePort,
        /// Who holds it.
        holder: String,
    },
}

/// Decides about one Service.
pub fn plan(service: &Service, holders: &Holders, address: &str) -> Verdict {
    if !is_ours(service) {
        return Verdict::Addresses(Vec::new());
    }
    let me = format!("{SERVICE_HOLDER}{}", ObjectKey::of(service));
    for port in ports(service) {
        if let Some(holder) = holders.get(&port).filter(|holder| **holder != me) {
            return Verdict::Conflict { port, holder: holder.clone() };
        }
    }
    Verdict::Addresses(vec![LoadBalancerIngress {
        ip: Some(address.to_owned()),
        ip_mode: Some("VIP".to_owned()),
        ..LoadBalancerIngress::default()
    }])
}

/// The addresses to write on the Service, where its status says otherwise. Addresses that another
/// implementation gave are none of ours.
pub fn correction(
    service: &Service,
    wanted: Vec<LoadBalancerIngress>,
) -> Option<Vec<LoadBalancerIngress>> {
    let is_balancer =
        service.spec.as_ref().is_some_and(|spec| spec.type_.as_deref() == Some("LoadBalancer"));
    if is_balancer && !is_ours(service) {
        return None;
    }
    let known = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let known = known.and_then(|status| status.ingress.as_deref()).unwrap_or_default();
    (known != wanted).then_some(wanted)
}

/// Subscribes to what matters and returns the workers, to be run when the caches are filled.
pub fn workers(context: &Arc<Context>) -> impl Future<Output = ()> + Send + use<> {
    let queue: Arc<Queue<ObjectKey>> = Queue::new();
    let caches = &context.caches;
    let (wake, services) = (queue.clone(), caches.services.clone());
    let wake_all = move || {
        for service in services.group(OURS) {
            wake.add(ObjectKey::of(service.as_ref()));
        }
    };
    let (wake, others) = (queue.clone(), wake_all.clone());
    caches.services.on_change(move |change| {
        wake.add(ObjectKey::of(change.object().as_ref()));
        // A port that was given up may be what another Service waits for.
        if change.states().any(|state| is_ours(state)) {
            others();
        }
    });
    let others = wake_all.clone();
    caches.nodes.on_change(move |change| {
        let addresses = |state: &k8s_openapi::api::core::v1::Node| {
            state.status.as_ref().and_then(|status| status.addresses.clone())
        };
        let mut states = change.states();
        let same = match (states.next(), states.next()) {
            (Some(old), Some(new)) => addresses(old) == addresses(new),
            _ => false,
        };
        if !same {
            others();
        }
    });
    caches.pods.on_change(move |change| {
        let pod = change.object();
        let ended = pod::is_terminal(pod) || matches!(change, crate::cache::Change::Deleted(_));
        let holds_port =
            pod.spec.iter().flat_map(|spec| &spec.containers).any(|container| {
                container.ports.iter().flatten().any(|port| port.host_port.is_some())
            });
        if ended && holds_port {
            wake_all();
        }
    });
    context.serve(&queue, "service-controller", WORKERS, reconcile)
}

async fn reconcile(context: Arc<Context>, key: ObjectKey) -> Result<Requeue, Error> {
    let Some(service) = context.caches.services.get(&key) else {
        context.port_conflicts.is_new(&key, None);
        return Ok(Requeue::Never);
    };
    if service.metadata.deletion_timestamp.is_some() {
        return Ok(Requeue::Never);
    }
    let recorder = context.recorder.speaking_for("service-controller");
    let (holders, requeue) = if is_ours(&service) {
        let again = Requeue::After(HOST_PORTS_INTERVAL);
        // Without this knowledge a Service keeps what it has.
        let Some(holders) = all_holders(&context).await else { return Ok(again) };
        (holders, again)
    } else {
        (Holders::new(), Requeue::Never)
    };
    let addresses = match plan(&service, &holders, &context.node_ip().to_string()) {
        Verdict::Addresses(addresses) => {
            context.port_conflicts.is_new(&key, None);
            addresses
        }
        Verdict::Conflict { port: (protocol, number), holder } => {
            let message = format!(
                "Port {number}/{protocol} of the node is taken by {holder}; the Service gets its \
                 external address when the port is free"
            );
            if context.port_conflicts.is_new(&key, Some(&message)) {
                recorder.record(service.as_ref(), Notice::warning("PortConflict", message));
            }
            Vec::new()
        }
    };
    let Some(addresses) = correction(&service, addresses) else { return Ok(requeue) };
    let ensured = !addresses.is_empty();
    let mut updated = (*service).clone();
    updated.status.get_or_insert_default().load_balancer =
        Some(LoadBalancerStatus { ingress: ensured.then_some(addresses) });
    match request::replace_status(&context.client, &updated).await {
        Ok(written) => context.caches.services.observe(written),
        Err(error) if error.is_not_found() => return Ok(Requeue::Never),
        Err(error) => return Err(error),
    }
    if ensured {
        let notice = Notice::normal("EnsuredLoadBalancer", "Ensured load balancer");
        recorder.record(service.as_ref(), notice);
    }
    Ok(requeue)
}

/// Returns the holders of the ports that Services of this controller want, processes of the machine
/// included.
async fn all_holders(context: &Arc<Context>) -> Option<Holders> {
    let services = context.caches.services.group(OURS);
    let wanted: BTreeSet<NodePort> = services.iter().flat_map(|service| ports(service)).collect();
    let (host_ports, node_ip) = (context.config.host_ports.clone(), context.node_ip());
    let host = tokio::task::spawn_blocking(move || host_ports.holders(node_ip, &wanted));
    let host = host.await.ok().flatten()?;
    let served = |service: &Service| {
        let key = ObjectKey::of(service);
        let slices = &context.caches.endpoint_slices;
        served_at(&slices.grouped(&key.namespace, &key.name), node_ip)
    };
    let pods = context.caches.pods.all();
    Some(holders(&services, &pods, context.config.api_port, &host, served))
}

/// The ports of the node at which endpoints of a Service listen: pods in the host's network.
fn served_at(slices: &[Arc<EndpointSlice>], node_ip: IpAddr) -> BTreeSet<NodePort> {
    let here = |slice: &&Arc<EndpointSlice>| {
        let mut addresses = slice.endpoints.iter().flat_map(|endpoint| &endpoint.addresses);
        addresses.any(|address| address.parse() == Ok(node_ip))
    };
    let ports = slices.iter().filter(here).flat_map(|slice| slice.ports.iter().flatten());
    ports
        .filter_map(|port| {
            Some((port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()), port.port?))
        })
        .collect()
}

#[cfg(test)]
#[path = "load_balancer_tests.rs"]
mod tests;
