//! Keeps the records equal to Services and EndpointSlices.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{PoisonError, RwLock};

use futures::{FutureExt, StreamExt};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client};
use tokio_util::sync::CancellationToken;

use crate::name::Name;
use crate::records::{Contribution, Records, contribution};

/// The Service that an EndpointSlice belongs to.
const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";

/// Follows the API until cancelled.
pub async fn follow(
    client: Client,
    records: &RwLock<Records>,
    zone: &Name,
    token: &CancellationToken,
) {
    let everything = watcher::Config::default;
    let services = ::watch::follow::<Service>(Api::all(client.clone()), everything());
    let slices = ::watch::follow::<EndpointSlice>(Api::all(client), everything());
    let (mut services, mut slices) = (services.boxed(), slices.boxed());
    let mut objects = Objects::default();
    loop {
        tokio::select! {
            () = token.cancelled() => return,
            event = services.next() => objects.service_event(event.and_then(heard)),
            event = slices.next() => objects.slice_event(event.and_then(heard)),
        }
        while let Some(event) = services.next().now_or_never() {
            objects.service_event(event.and_then(heard));
        }
        while let Some(event) = slices.next().now_or_never() {
            objects.slice_event(event.and_then(heard));
        }
        objects.publish(records, zone);
    }
}

/// The watch comes back by itself; until then the last known records are the best there are.
fn heard<K>(event: watcher::Result<Event<K>>) -> Option<Event<K>> {
    event.inspect_err(|error| tracing::debug!(%error, "watch broke")).ok()
}

type Id = (String, String);

/// Services and slices as last heard of.
#[derive(Default)]
struct Objects {
    services: HashMap<Id, Known>,
    owners: HashMap<Id, Id>,
    service_list: List,
    slice_list: List,
    dirty: HashSet<Id>,
}

#[derive(Default)]
struct Known {
    service: Option<Service>,
    /// Boxed: a node of the map has room for eleven, and nearly every Service has one.
    slices: BTreeMap<String, Box<EndpointSlice>>,
    published: Contribution,
}

/// What a list in progress has named; what it lacks is gone.
#[derive(Default)]
struct List {
    present: HashSet<Id>,
    naming: HashSet<Id>,
    complete: bool,
}

impl List {
    fn done(&mut self) -> Vec<Id> {
        let named = std::mem::take(&mut self.naming);
        let gone = self.present.difference(&named).cloned().collect();
        self.present = named;
        self.complete = true;
        gone
    }
}

impl Objects {
    fn service_event(&mut self, event: Option<Event<Service>>) {
        match event {
            None => {}
            Some(Event::Init) => self.service_list.naming.clear(),
            Some(Event::InitApply(service)) => {
                self.service_list.naming.insert(id(&service.metadata));
                self.set_service(service);
            }
            Some(Event::InitDone) => {
                for id in self.service_list.done() {
                    self.remove_service(id);
                }
            }
            Some(Event::Apply(service)) => {
                self.service_list.present.insert(id(&service.metadata));
                self.set_service(service);
            }
            Some(Event::Delete(service)) => {
                let id = id(&service.metadata);
                self.service_list.present.remove(&id);
                self.remove_service(id);
            }
        }
    }

    fn slice_event(&mut self, event: Option<Event<EndpointSlice>>) {
        match event {
            None => {}
            Some(Event::Init) => self.slice_list.naming.clear(),
            Some(Event::InitApply(slice)) => {
                self.slice_list.naming.insert(id(&slice.metadata));
                self.set_slice(slice);
            }
            Some(Event::InitDone) => {
                for id in self.slice_list.done() {
                    self.remove_slice(&id);
                }
            }
            Some(Event::Apply(slice)) => {
                self.slice_list.present.insert(id(&slice.metadata));
                self.set_slice(slice);
            }
            Some(Event::Delete(slice)) => {
                let id = id(&slice.metadata);
                self.slice_list.present.remove(&id);
                self.remove_slice(&id);
            }
        }
    }

    fn set_service(&mut self, mut service: Service) {
        let id = id(&service.metadata);
        // What no record depends on is not kept.
        service.metadata.managed_fields = None;
        service.metadata.annotations = None;
        service.metadata.labels = None;
        service.status = None;
        if let Some(spec) = &mut service.spec {
            spec.selector = None;
        }
        self.services.entry(id.clone()).or_default().service = Some(service);
        self.dirty.insert(id);
    }

    fn remove_service(&mut self, id: Id) {
        if let Some(known) = self.services.get_mut(&id) {
            known.service = None;
            self.dirty.insert(id);
        }
    }

    fn set_slice(&mut self, mut slice: EndpointSlice) {
        let own = id(&slice.metadata);
        self.remove_slice(&own);
        let labels = slice.metadata.labels.as_ref();
        let Some(name) = labels.and_then(|labels| labels.get(SERVICE_NAME_LABEL)).cloned() else {
            return;
        };
        slice.metadata = ObjectMeta::default();
        let owner = (own.0.clone(), name);
        let known = self.services.entry(owner.clone()).or_default();
        known.slices.insert(own.1.clone(), Box::new(slice));
        self.owners.insert(own, owner.clone());
        self.dirty.insert(owner);
    }

    fn remove_slice(&mut self, own: &Id) {
        let Some(owner) = self.owners.remove(own) else { return };
        if let Some(known) = self.services.get_mut(&owner) {
            known.slices.remove(&own.1);
        }
        self.dirty.insert(owner);
    }

    /// Brings the records up to date, one Service at a time.
    fn publish(&mut self, records: &RwLock<Records>, zone: &Name) {
        let synced = self.service_list.complete && self.slice_list.complete;
        for id in std::mem::take(&mut self.dirty) {
            let Some(known) = self.services.get_mut(&id) else { continue };
            let after = known
                .service
                .as_ref()
                .map(|service| {
                    contribution(service, known.slices.values().map(AsRef::as_ref), zone)
                })
                .unwrap_or_default();
            let before = std::mem::replace(&mut known.published, after);
            if before != known.published {
                let mut records = records.write().unwrap_or_else(PoisonError::into_inner);
                records.replace(&before, &known.published);
            }
            if known.service.is_none() && known.slices.is_empty() {
                self.services.remove(&id);
            }
        }
        if synced && !records.read().unwrap_or_else(PoisonError::into_inner).is_synced() {
            records.write().unwrap_or_else(PoisonError::into_inner).set_synced();
        }
    }
}

fn id(metadata: &ObjectMeta) -> Id {
    (metadata.namespace.clone().unwrap_or_default(), metadata.name.clone().unwrap_or_default())
}
