//! The stored objects that access decisions depend on.

use std::sync::Arc;

use bytes::Bytes;
use store::{ChangeKind, Store, Watch};

use super::rbac::PolicyObject;
use crate::meta::Meta;

/// Read access to stored objects, in their storage version as JSON. The apiserver's store is one;
/// tests use a map.
pub trait Objects: Send + Sync + 'static {
    /// One object; `namespace` is empty for cluster-scoped ones.
    fn get(&self, group: &str, plural: &str, namespace: &str, name: &str) -> Option<Bytes>;

    /// The uid of one object, without reading it.
    fn uid(&self, group: &str, plural: &str, namespace: &str, name: &str) -> Option<String>;

    /// Every role or binding of a type in all namespaces, except those that cannot be read.
    fn list(&self, group: &str, plural: &str) -> Vec<Arc<PolicyObject>>;

    /// The store's revision: when it has not moved, nothing changed.
    fn revision(&self) -> u64;

    /// Watches a type of roles or bindings for changes.
    fn changes(&self, group: &str, plural: &str) -> Box<dyn Changes>;
}

/// Follows the objects of one type.
pub trait Changes: Send {
    /// The changes since the last call in their order, the last ones of which lead to what is
    /// stored now. `None` where they are not known, as at the first call: then all are listed.
    fn poll(&mut self) -> Option<Vec<ObjectChange>>;
}

/// A new state of one role or binding.
#[derive(Clone, Debug)]
pub struct ObjectChange {
    /// Empty for a cluster-scoped one.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// As it is now; `None` when it is gone or cannot be read.
    pub object: Option<Arc<PolicyObject>>,
    /// The store's revision of the change.
    pub revision: u64,
}

/// The bucket of a resource type: `apps.deployments`, `core.pods`.
fn bucket(group: &str, plural: &str) -> String {
    format!("{}.{plural}", if group.is_empty() { "core" } else { group })
}

/// The key of an object.
fn key(group: &str, plural: &str, namespace: &str, name: &str) -> String {
    format!("{}/{namespace}/{name}", bucket(group, plural))
}

impl Objects for Store<Meta> {
    fn get(&self, group: &str, plural: &str, namespace: &str, name: &str) -> Option<Bytes> {
        Some(Store::get(self, &key(group, plural, namespace, name))?.value.clone())
    }

    fn uid(&self, group: &str, plural: &str, namespace: &str, name: &str) -> Option<String> {
        Some(Store::get(self, &key(group, plural, namespace, name))?.meta.uid.to_string())
    }

    fn list(&self, group: &str, plural: &str) -> Vec<Arc<PolicyObject>> {
        let page = Store::list(self, &format!("{}/", bucket(group, plural)), None, 0);
        page.records.iter().filter_map(|record| record.meta.policy.clone()).collect()
    }

    fn revision(&self) -> u64 {
        Store::revision(self)
    }

    fn changes(&self, group: &str, plural: &str) -> Box<dyn Changes> {
        let prefix = format!("{}/", bucket(group, plural));
        Box::new(StoreChanges { watch: None, store: self.clone(), prefix })
    }
}

struct StoreChanges {
    store: Store<Meta>,
    prefix: String,
    watch: Option<Watch<Meta>>,
}

impl Changes for StoreChanges {
    fn poll(&mut self) -> Option<Vec<ObjectChange>> {
        let Some(Ok(batch)) = self.watch.as_mut().map(Watch::poll) else {
            self.watch = self.store.watch(&self.prefix, 0).ok();
            return None;
        };
        let follow = |change: &store::Change<Meta>| {
            let place = change.record.key.strip_prefix(&self.prefix)?;
            let (namespace, name) = place.split_once('/')?;
            let is_there = change.kind != ChangeKind::Deleted;
            Some(ObjectChange {
                namespace: namespace.to_owned(),
                name: name.to_owned(),
                object: is_there.then(|| change.record.meta.policy.clone()).flatten(),
                revision: change.record.revision,
            })
        };
        Some(batch.changes.iter().filter_map(follow).collect())
    }
}
