//! What the server keeps at hand of every stored object besides its bytes, and how objects are
//! keyed in the store.

use api::{Resource, Served, schema};
use serde_json::Value;

use crate::catalog::Catalog;

/// Parts of an object that reads look at without parsing its bytes.
#[derive(Clone, Debug, Default)]
pub struct Meta {
    /// `metadata.uid`.
    pub uid: Box<str>,
    /// `metadata.labels`: few, and of very many objects, so nothing larger than they need.
    pub labels: Box<[(Box<str>, Box<str>)]>,
    /// What field selectors can match besides name and namespace.
    pub fields: Vec<(&'static str, String)>,
    /// Bytes of memory that the object takes as the type of its kind.
    pub decoded_bytes: u32,
}

impl Meta {
    /// Derives it from an object in its storage version.
    pub(crate) fn of(resource: &Resource, object: &Value) -> Self {
        let metadata = &object["metadata"];
        let labels = metadata["labels"].as_object().into_iter().flatten();
        let stored = &resource.served[0];
        let message = schema::message(stored.group, stored.version, stored.kind);
        let decoded = message.map_or(0, |message| schema::decoded_bytes(message, object));
        Self {
            decoded_bytes: u32::try_from(decoded).unwrap_or(u32::MAX),
            uid: metadata["uid"].as_str().unwrap_or_default().into(),
            labels: labels
                .filter_map(|(k, v)| Some((k.as_str().into(), v.as_str()?.into())))
                .collect(),
            fields: resource.behaviour.selectable_fields(object),
        }
    }

    /// Derives it from a stored record; [`store::Store::open`] wants this.
    pub fn derive(catalog: &Catalog, key: &str, bytes: &[u8]) -> Result<Self, String> {
        let Some(resource) = catalog.resource_of_bucket(split(key).0) else {
            return Ok(Self::default());
        };
        let object = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        Ok(Self::of(resource, &object))
    }

    /// One label.
    pub(crate) fn label(&self, name: &str) -> Option<&str> {
        self.labels.iter().find(|(known, _)| &**known == name).map(|(_, value)| &**value)
    }

    /// One selectable field.
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(k, _)| *k == name).map(|(_, v)| v.as_str())
    }
}

/// The bucket of a resource type, by its stored name: `apps.deployments`, `core.pods`.
pub(crate) fn bucket(resource: &Resource) -> String {
    let Served { group, plural, .. } = &resource.served[0];
    if group.is_empty() { format!("core.{plural}") } else { format!("{group}.{plural}") }
}

/// `bucket/namespace/name`; the namespace is empty for cluster-scoped objects.
pub(crate) fn key(resource: &Resource, namespace: &str, name: &str) -> String {
    format!("{}/{namespace}/{name}", bucket(resource))
}

/// What all keys of a namespace have in common, or of all namespaces when it is empty.
pub(crate) fn prefix(resource: &Resource, namespace: &str) -> String {
    if namespace.is_empty() {
        format!("{}/", bucket(resource))
    } else {
        format!("{}/{namespace}/", bucket(resource))
    }
}

/// Bucket, namespace and name of a key.
pub(crate) fn split(key: &str) -> (&str, &str, &str) {
    let mut parts = key.splitn(3, '/');
    let mut next = || parts.next().unwrap_or_default();
    (next(), next(), next())
}
