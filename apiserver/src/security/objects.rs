//! The stored objects that access decisions depend on.

use bytes::Bytes;

/// Read access to stored objects, in their storage version as JSON. The apiserver implements it
/// over its store; tests implement it over a map.
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
