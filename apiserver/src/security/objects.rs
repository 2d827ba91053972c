//! The stored objects that access decisions depend on.

use bytes::Bytes;
use store::{Store, Watch, Weigh};

/// Read access to stored objects, in their storage version as JSON. The apiserver's store is one;
/// tests use a map.
pub trait Objects: Send + Sync + 'static {
    /// One object; `namespace` is empty for cluster-scoped ones.
    fn get(&self, group: &str, plural: &str, namespace: &str, name: &str) -> Option<Bytes>;

    /// Every object of a type, in all namespaces.
    fn list(&self, group: &str, plural: &str) -> Vec<Bytes>;

    /// The store's revision: when it has not moved, nothing changed.
    fn revision(&self) -> u64;

    /// Watches a type for changes.
    fn changes(&self, group: &str, plural: &str) -> Box<dyn Changes>;
}

/// Tells whether objects of one type changed.
pub trait Changes: Send {
    /// Whether anything changed since the last call (or since the watch began). May say yes when
    /// in doubt.
    fn changed(&mut self) -> bool;
}

/// The bucket of a resource type: `apps.deployments`, `core.pods`.
fn bucket(group: &str, plural: &str) -> String {
    format!("{}.{plural}", if group.is_empty() { "core" } else { group })
}

impl<M: Weigh + Send + Sync + 'static> Objects for Store<M> {
    fn get(&self, group: &str, plural: &str, namespace: &str, name: &str) -> Option<Bytes> {
        let key = format!("{}/{namespace}/{name}", bucket(group, plural));
        Some(Store::get(self, &key)?.value.clone())
    }

    fn list(&self, group: &str, plural: &str) -> Vec<Bytes> {
        let page = Store::list(self, &format!("{}/", bucket(group, plural)), None, 0, |_| true);
        page.records.iter().map(|record| record.value.clone()).collect()
    }

    fn revision(&self) -> u64 {
        Store::revision(self)
    }

    fn changes(&self, group: &str, plural: &str) -> Box<dyn Changes> {
        let prefix = format!("{}/", bucket(group, plural));
        Box::new(StoreChanges { watch: None, store: self.clone(), prefix })
    }
}

struct StoreChanges<M> {
    store: Store<M>,
    prefix: String,
    watch: Option<Watch<M>>,
}

impl<M: Weigh + Send + Sync + 'static> Changes for StoreChanges<M> {
    fn changed(&mut self) -> bool {
        if let Some(Ok(batch)) = self.watch.as_mut().map(Watch::poll) {
            return !batch.changes.is_empty();
        }
        self.watch = self.store.watch(&self.prefix, 0).ok();
        true
    }
}
