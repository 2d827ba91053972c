//! Every object of every kind, by its metadata: what the garbage collector and the end of a
//! namespace look at.
//!
//! Kinds that some controller caches anyway are taken from there; of all others only the metadata
//! that matters is kept.

use std::sync::{Arc, PoisonError, RwLock};

use api::registry::{Persistence, Resource};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, ApiResource, DynamicObject};
use kube::core::PartialObjectMeta;

use crate::cache::{Cache, Cached, Change, Selection};
use crate::context::Context;
use crate::held::Form;

/// One kind of the registry.
#[derive(Clone, Debug)]
pub struct Kind {
    /// Under which group, version and name it is requested.
    pub resource: ApiResource,
    /// Whether its objects live in a namespace.
    pub namespaced: bool,
    /// Every `group` and `kind` under which an owner reference may name it.
    pub aliases: Vec<(&'static str, &'static str)>,
    /// Whether its objects can be listed and watched.
    pub watched: bool,
}

/// One object was seen.
pub struct Sighting<'a> {
    /// The index of its kind.
    pub kind: usize,
    /// Its metadata.
    pub meta: &'a ObjectMeta,
    /// Whether it is gone.
    pub gone: bool,
}

type Handler = Box<dyn Fn(&Sighting<'_>) + Send + Sync>;
type Metadata = PartialObjectMeta<DynamicObject>;

/// All kinds and those who want to hear of their objects.
pub struct Inventory {
    /// The kinds.
    pub kinds: Vec<Kind>,
    handlers: Arc<RwLock<Vec<Handler>>>,
    caches: Vec<(ApiResource, Arc<Cache<Metadata>>)>,
}

impl Inventory {
    /// Takes the kinds from the configuration and connects to the caches that exist.
    pub fn new(context: &Context) -> Arc<Self> {
        let kinds: Vec<Kind> = context.config.resources.iter().filter_map(kind).collect();
        let mut inventory =
            Self { kinds, handlers: Arc::new(RwLock::new(Vec::new())), caches: Vec::new() };
        for index in 0..inventory.kinds.len() {
            if inventory.kinds[index].watched {
                inventory.connect(context, index);
            }
        }
        Arc::new(inventory)
    }

    /// Calls `handler` for every sighting from now on; it must only note what is to be done.
    pub fn on_sighting(&self, handler: impl Fn(&Sighting<'_>) + Send + Sync + 'static) {
        self.handlers.write().unwrap_or_else(PoisonError::into_inner).push(Box::new(handler));
    }

    /// Starts following the kinds that nobody else follows.
    pub fn start(&self, context: &Context) {
        for (resource, cache) in &self.caches {
            let api = Api::all_with(context.client.clone(), resource);
            let selection = Selection::default();
            cache.spawn(api, selection, context.token.clone());
        }
    }

    /// Waits until every object that existed at the start has been seen.
    pub async fn synced(&self) {
        for (_, cache) in &self.caches {
            cache.synced().await;
        }
    }

    /// The kind that an owner reference means.
    pub fn find(&self, api_version: &str, kind: &str) -> Option<usize> {
        let group = api_version.split_once('/').map_or("", |(group, _)| group);
        self.kinds.iter().position(|known| known.aliases.contains(&(group, kind)))
    }

    fn connect(&mut self, context: &Context, index: usize) {
        let caches = &context.caches;
        let resource = self.kinds[index].resource.clone();
        match (resource.group.as_str(), resource.plural.as_str()) {
            ("", "pods") => self.listen(&caches.pods, index),
            ("apps", "replicasets") => self.listen(&caches.replica_sets, index),
            ("", "replicationcontrollers") => self.listen(&caches.replication_controllers, index),
            ("apps", "daemonsets") => self.listen(&caches.daemon_sets, index),
            ("apps", "statefulsets") => self.listen(&caches.stateful_sets, index),
            ("apps", "controllerrevisions") => self.listen(&caches.controller_revisions, index),
            ("", "persistentvolumes") => self.listen(&caches.volumes, index),
            ("", "persistentvolumeclaims") => self.listen(&caches.claims, index),
            ("storage.k8s.io", "storageclasses") => self.listen(&caches.storage_classes, index),
            ("apps", "deployments") => self.listen(&caches.deployments, index),
            ("batch", "jobs") => self.listen(&caches.jobs, index),
            ("batch", "cronjobs") => self.listen(&caches.cron_jobs, index),
            ("autoscaling", "horizontalpodautoscalers") => {
                self.listen(&caches.autoscalers, index);
            }
            ("", "resourcequotas") => self.listen(&caches.quotas, index),
            ("policy", "poddisruptionbudgets") => self.listen(&caches.budgets, index),
            ("", "services") => self.listen(&caches.services, index),
            ("", "endpoints") => self.listen(&caches.endpoints, index),
            ("discovery.k8s.io", "endpointslices") => self.listen(&caches.endpoint_slices, index),
            ("", "nodes") => self.listen(&caches.nodes, index),
            ("", "namespaces") => self.listen(&caches.namespaces, index),
            ("", "serviceaccounts") => self.listen(&caches.service_accounts, index),
            _ => {
                // Nearly all of them are only ever looked at when they change.
                let trim = |object: &mut Metadata| {
                    object.metadata.annotations = None;
                    object.metadata.labels = None;
                };
                let cache = Cache::calm(Form { trim, ..Form::packed() });
                self.listen(&cache, index);
                self.caches.push((resource.clone(), cache));
            }
        }
    }

    fn listen<K: Cached>(&self, cache: &Cache<K>, kind: usize) {
        let handlers = self.handlers.clone();
        cache.on_change(move |change| {
            let meta = change.object().meta();
            let sighting = Sighting { kind, meta, gone: matches!(change, Change::Deleted(_)) };
            for handler in handlers.read().unwrap_or_else(PoisonError::into_inner).iter() {
                handler(&sighting);
            }
        });
    }
}

fn kind(resource: &'static Resource) -> Option<Kind> {
    let stored = resource.served.first()?;
    if resource.persistence == Persistence::None {
        return None;
    }
    let has = |verb: &str| resource.verbs.contains(&verb);
    if !has("delete") {
        return None;
    }
    Some(Kind {
        resource: ApiResource {
            group: stored.group.to_owned(),
            version: stored.version.to_owned(),
            api_version: stored.api_version(),
            kind: stored.kind.to_owned(),
            plural: stored.plural.to_owned(),
        },
        namespaced: resource.namespaced,
        aliases: resource.served.iter().map(|served| (served.group, served.kind)).collect(),
        // Events have no dependents and come in numbers; Leases change every few seconds.
        watched: has("list") && has("watch") && !matches!(stored.kind, "Event" | "Lease"),
    })
}
