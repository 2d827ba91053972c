//! Finds resource types by the names that requests and keys use.

use std::collections::HashMap;

use api::{Resource, Served};

use crate::meta;

/// A resource type as one group and version serve it.
pub type Found = (&'static Resource, &'static Served);

/// The table of resource types, indexed.
pub struct Catalog {
    resources: &'static [Resource],
    by_name: HashMap<(&'static str, &'static str, &'static str), Found>,
    by_bucket: HashMap<String, &'static Resource>,
}

impl Catalog {
    /// Indexes a table.
    pub fn new(resources: &'static [Resource]) -> Self {
        let by_name = resources
            .iter()
            .flat_map(|resource| resource.served.iter().map(move |served| (resource, served)))
            .map(|(resource, served)| {
                ((served.group, served.version, served.plural), (resource, served))
            })
            .collect();
        let by_bucket = resources.iter().map(|r| (meta::bucket(r), r)).collect();
        Self { resources, by_name, by_bucket }
    }

    /// Every resource type.
    pub fn resources(&self) -> &'static [Resource] {
        self.resources
    }

    /// The type that is served under these names.
    pub fn find(&self, group: &str, version: &str, plural: &str) -> Option<Found> {
        self.by_name.get(&(group, version, plural)).copied()
    }

    /// The type whose stored group and plural are these.
    pub fn stored(&self, group: &str, plural: &str) -> Option<&'static Resource> {
        let group = if group.is_empty() { "core" } else { group };
        self.by_bucket.get(&format!("{group}.{plural}")).copied()
    }

    pub(crate) fn resource_of_bucket(&self, bucket: &str) -> Option<&'static Resource> {
        self.by_bucket.get(bucket).copied()
    }
}
