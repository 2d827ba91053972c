//! Keeps the records equal to Services and EndpointSlices.

use std::collections::{HashMap, HashSet};
use std::sync::{PoisonError, RwLock};

use futures::{FutureExt, StreamExt};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client};
use tokio_util::sync::CancellationToken;

use crate::facts::{ServiceFacts, SliceFacts, contribution};
use crate::name::Name;
use crate::records::{Contribution, Difference, Records};

/// The Service that an EndpointSlice belongs to.
const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";
/// Entries of a map that is not worth shrinking.
const SPARE_ENTRIES: usize = 256;

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
    let mut objects = Objects::new(zone.clone());
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
        objects.publish(records);
    }
}

/// The watch comes back by itself; until then the last known records are the best there are.
fn heard<K>(event: watcher::Result<Event<K>>) -> Option<Event<K>> {
    event.inspect_err(|error| tracing::debug!(%error, "watch broke")).ok()
}

type Id = (String, String);

/// Services and slices as last heard of.
struct Objects {
    services: HashMap<Id, Known>,
    owners: HashMap<Id, Id>,
    service_list: List,
    slice_list: List,
    /// The earlier contributions of Services that have changed.
    dirty: HashMap<Id, Contribution>,
    zone: Name,
}

#[derive(Default)]
struct Known {
    service: Option<ServiceFacts>,
    slices: Vec<(String, SliceFacts)>,
}

impl Known {
    fn contribution(&self, (namespace, name): &Id, zone: &Name) -> Contribution {
        let service = self.service.as_ref();
        let slices = self.slices.iter().map(|(_, slice)| slice);
        service
            .map(|facts| contribution((namespace, name), facts, slices, zone))
            .unwrap_or_default()
    }
}

/// What a list in progress has named; what it lacks is gone.
#[derive(Default)]
struct List {
    naming: HashSet<Id>,
    complete: bool,
}

impl List {
    /// Returns what it lacks of all that is known.
    fn done<'k>(&mut self, known: impl Iterator<Item = &'k Id>) -> Vec<Id> {
        let named = std::mem::take(&mut self.naming);
        self.complete = true;
        known.filter(|id| !named.contains(*id)).cloned().collect()
    }
}

impl Objects {
    fn new(zone: Name) -> Self {
        Self {
            services: HashMap::new(),
            owners: HashMap::new(),
            service_list: List::default(),
            slice_list: List::default(),
            dirty: HashMap::new(),
            zone,
        }
    }

    fn service_event(&mut self, event: Option<Event<Service>>) {
        match event {
            None => {}
            Some(Event::Init) => self.service_list.naming.clear(),
            Some(Event::InitApply(service)) => {
                self.service_list.naming.insert(id(&service.metadata));
                self.set_service(&service);
            }
            Some(Event::InitDone) => {
                let present = self.services.iter().filter(|(_, known)| known.service.is_some());
                for id in self.service_list.done(present.map(|(id, _)| id)) {
                    self.remove_service(&id);
                }
            }
            Some(Event::Apply(service)) => self.set_service(&service),
            Some(Event::Delete(service)) => self.remove_service(&id(&service.metadata)),
        }
    }

    fn slice_event(&mut self, event: Option<Event<EndpointSlice>>) {
        match event {
            None => {}
            Some(Event::Init) => self.slice_list.naming.clear(),
            Some(Event::InitApply(slice)) => {
                self.slice_list.naming.insert(id(&slice.metadata));
                self.set_slice(&slice);
            }
            Some(Event::InitDone) => {
                for id in self.slice_list.done(self.owners.keys()) {
                    self.remove_slice(&id);
                }
            }
            Some(Event::Apply(slice)) => self.set_slice(&slice),
            Some(Event::Delete(slice)) => self.remove_slice(&id(&slice.metadata)),
        }
    }

    /// The entry of a Service that is about to change.
    fn change(&mut self, id: &Id) -> &mut Known {
        let known = self.services.entry(id.clone()).or_default();
        if !self.dirty.contains_key(id) {
            self.dirty.insert(id.clone(), known.contribution(id, &self.zone));
        }
        known
    }

    fn set_service(&mut self, service: &Service) {
        self.change(&id(&service.metadata)).service = Some(ServiceFacts::of(service));
    }

    fn remove_service(&mut self, id: &Id) {
        if self.services.contains_key(id) {
            self.change(id).service = None;
        }
    }

    fn set_slice(&mut self, slice: &EndpointSlice) {
        let own = id(&slice.metadata);
        self.remove_slice(&own);
        let labels = slice.metadata.labels.as_ref();
        let Some(name) = labels.and_then(|labels| labels.get(SERVICE_NAME_LABEL)).cloned() else {
            return;
        };
        let owner = (own.0.clone(), name);
        let slices = &mut self.change(&owner).slices;
        if slices.is_empty() {
            // Nearly every Service has one.
            slices.reserve_exact(1);
        }
        slices.push((own.1.clone(), SliceFacts::of(slice)));
        self.owners.insert(own, owner);
    }

    fn remove_slice(&mut self, own: &Id) {
        let Some(owner) = self.owners.remove(own) else { return };
        self.change(&owner).slices.retain(|(name, _)| *name != own.1);
    }

    /// Brings the records up to date, one Service at a time.
    fn publish(&mut self, records: &RwLock<Records>) {
        let synced = self.service_list.complete && self.slice_list.complete;
        for (id, before) in std::mem::take(&mut self.dirty) {
            let Some(known) = self.services.get(&id) else { continue };
            let difference = Difference::between(before, known.contribution(&id, &self.zone));
            if !difference.is_empty() {
                records.write().unwrap_or_else(PoisonError::into_inner).apply(&difference);
            }
            if known.service.is_none() && known.slices.is_empty() {
                self.services.remove(&id);
            }
        }
        self.shrink();
        if synced && !records.read().unwrap_or_else(PoisonError::into_inner).is_synced() {
            records.write().unwrap_or_else(PoisonError::into_inner).set_synced();
        }
    }

    /// Gives the memory of many that are gone back.
    fn shrink(&mut self) {
        if self.services.capacity() > SPARE_ENTRIES + 4 * self.services.len() {
            self.services.shrink_to_fit();
            self.owners.shrink_to_fit();
        }
    }
}

fn id(metadata: &ObjectMeta) -> Id {
    (metadata.namespace.clone().unwrap_or_default(), metadata.name.clone().unwrap_or_default())
}
