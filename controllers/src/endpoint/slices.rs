//! Distributing endpoints over slices with as few writes as possible.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::discovery::v1::{Endpoint, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use crate::endpoint::address::{Ports, TRIGGER_TIME};
use crate::selector::Labels;

/// The label that names the Service of a slice.
pub const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// The label that names the controller of a slice.
pub const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
/// How many endpoints one slice that is computed from pods holds at most.
pub const SLICE_ENDPOINTS: usize = 100;

/// Endpoints that serve the same ports.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Group {
    /// `IPv4` or `IPv6`.
    pub address_type: String,
    /// The ports.
    pub ports: Ports,
    /// The endpoints.
    pub endpoints: Vec<Endpoint>,
}

/// What all slices of one Service have in common.
#[derive(Clone, Debug)]
pub struct Frame {
    /// The namespace.
    pub namespace: String,
    /// The name of the Service; slices are named `<name>-<5 characters>`.
    pub name: String,
    /// All labels.
    pub labels: Labels,
    /// The owner.
    pub owner: OwnerReference,
    /// The annotation for slices that change.
    pub trigger_time: Option<String>,
    /// All other annotations, where they are not left to whoever writes them.
    pub annotations: Option<Labels>,
    /// How many endpoints one slice holds at most.
    pub capacity: usize,
}

/// What to do.
#[derive(Debug, Default, PartialEq)]
pub struct Plan {
    /// Slices to create, to be named by the server.
    pub create: Vec<EndpointSlice>,
    /// Slices to write.
    pub update: Vec<EndpointSlice>,
    /// Slices to delete.
    pub delete: Vec<Arc<EndpointSlice>>,
}

/// Compares groups of endpoints with the slices that exist. Endpoints stay in their slice; a
/// slice that became superfluous is used again before a new one is made.
pub fn plan(frame: &Frame, groups: Vec<Group>, existing: Vec<Arc<EndpointSlice>>) -> Plan {
    let mut plan = Plan::default();
    let mut unused = existing;
    unused.retain(|slice| slice.metadata.deletion_timestamp.is_none());
    unused.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
    let mut missing: Vec<Group> = Vec::new();
    for group in groups {
        let (mine, others) = unused.into_iter().partition(|slice| serves(slice, &group));
        unused = others;
        let mine: Vec<Arc<EndpointSlice>> = mine;
        let mut wanted: BTreeMap<String, Endpoint> =
            group.endpoints.iter().map(|endpoint| (identity(endpoint), endpoint.clone())).collect();
        let mut kept: Vec<(Arc<EndpointSlice>, Vec<Endpoint>)> = mine
            .into_iter()
            .map(|slice| {
                let endpoints = slice
                    .endpoints
                    .iter()
                    .filter_map(|endpoint| wanted.remove(&identity(endpoint)))
                    .collect();
                (slice, endpoints)
            })
            .collect();
        let mut new: Vec<Endpoint> = wanted.into_values().collect();
        for (_, endpoints) in &mut kept {
            let room = frame.capacity.saturating_sub(endpoints.len()).min(new.len());
            endpoints.extend(new.drain(..room));
        }
        let mut any = false;
        for (slice, endpoints) in kept {
            // One empty slice stays as the sign that the Service is known.
            if endpoints.is_empty() && (any || !group.endpoints.is_empty()) {
                unused.push(slice);
                continue;
            }
            any = true;
            keep(&mut plan, frame, &slice, &group, endpoints);
        }
        while !new.is_empty() || !any {
            any = true;
            let rest = new.split_off(new.len().min(frame.capacity));
            let endpoints = std::mem::replace(&mut new, rest);
            missing.push(Group { endpoints, ..group.clone() });
        }
    }
    for group in missing {
        let reusable = unused.iter().position(|slice| slice.address_type == group.address_type);
        let endpoints = group.endpoints.clone();
        match reusable {
            Some(index) => {
                let slice = unused.remove(index);
                keep(&mut plan, frame, &slice, &group, endpoints);
            }
            None => {
                let metadata = ObjectMeta {
                    generate_name: Some(format!("{}-", frame.name)),
                    namespace: Some(frame.namespace.clone()),
                    ..ObjectMeta::default()
                };
                let empty = EndpointSlice { metadata, ..EndpointSlice::default() };
                plan.create.push(fill(empty, frame, &group, endpoints));
            }
        }
    }
    plan.delete = unused;
    plan
}

fn keep(
    plan: &mut Plan,
    frame: &Frame,
    slice: &Arc<EndpointSlice>,
    group: &Group,
    endpoints: Vec<Endpoint>,
) {
    let labels = slice.metadata.labels.as_ref();
    let same = slice.endpoints == endpoints
        && ports(slice) == group.ports
        && labels == Some(&frame.labels)
        && frame.annotations.as_ref().is_none_or(|wanted| *wanted == lasting_annotations(slice))
        && slice.metadata.owner_references.as_deref() == Some(std::slice::from_ref(&frame.owner));
    if !same {
        plan.update.push(fill((**slice).clone(), frame, group, endpoints));
    }
}

fn fill(
    mut slice: EndpointSlice,
    frame: &Frame,
    group: &Group,
    endpoints: Vec<Endpoint>,
) -> EndpointSlice {
    slice.metadata.labels = Some(frame.labels.clone());
    slice.metadata.owner_references = Some(vec![frame.owner.clone()]);
    if let Some(wanted) = &frame.annotations {
        slice.metadata.annotations = Some(wanted.clone());
    }
    if let Some(time) = &frame.trigger_time {
        let annotations = slice.metadata.annotations.get_or_insert_default();
        annotations.insert(TRIGGER_TIME.to_owned(), time.clone());
    }
    slice.address_type.clone_from(&group.address_type);
    slice.endpoints = endpoints;
    slice.ports = Some(
        group
            .ports
            .iter()
            .map(|(name, protocol, port, app_protocol)| EndpointPort {
                name: Some(name.clone().unwrap_or_default()),
                protocol: Some(protocol.clone()),
                port: Some(*port),
                app_protocol: app_protocol.clone(),
            })
            .collect(),
    );
    slice
}

fn lasting_annotations(slice: &EndpointSlice) -> Labels {
    let mut annotations = slice.metadata.annotations.clone().unwrap_or_default();
    annotations.remove(TRIGGER_TIME);
    annotations
}

fn serves(slice: &EndpointSlice, group: &Group) -> bool {
    slice.address_type == group.address_type && ports(slice) == group.ports
}

fn ports(slice: &EndpointSlice) -> Ports {
    let mut ports: Ports = slice
        .ports
        .iter()
        .flatten()
        .map(|port| {
            let name = port.name.clone().filter(|name| !name.is_empty());
            let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".to_owned());
            (name, protocol, port.port.unwrap_or(0), port.app_protocol.clone())
        })
        .collect();
    ports.sort();
    ports
}

fn identity(endpoint: &Endpoint) -> String {
    let uid = endpoint.target_ref.as_ref().and_then(|target| target.uid.as_deref());
    format!("{}/{}", uid.unwrap_or_default(), endpoint.addresses.join(","))
}
