//! What the server keeps at hand of every stored object besides its bytes, and how objects are
//! keyed in the store.

use std::sync::Arc;

use api::quota::Measured;
use api::{Resource, Served, schema};
use serde_json::Value;

use crate::catalog::Catalog;
use crate::measure::measure;
use crate::security::rbac::PolicyObject;

/// Parts of an object that reads look at without parsing its bytes.
#[derive(Clone, Debug, Default)]
pub struct Meta {
    /// `metadata.uid`.
    pub uid: Box<str>,
    /// `metadata.labels`.
    pub labels: Labels,
    /// What field selectors can match besides name and namespace.
    pub fields: Vec<(&'static str, String)>,
    /// Bytes of memory that the object takes as the type of its kind.
    pub decoded_bytes: u32,
    /// Bytes of memory that parts of the node keep because of it.
    pub kept_bytes: u32,
    /// A role or binding as decisions need it; `None` for all other kinds.
    pub policy: Option<Arc<PolicyObject>>,
    /// The amounts that quotas count; `None` where they count nothing but the object itself.
    pub measured: Option<Box<Measured>>,
}

impl store::Weigh for Meta {
    fn kept_bytes(&self) -> u64 {
        self.kept_bytes.into()
    }
}

impl Meta {
    /// Derives it from an object in its storage version.
    pub(crate) fn of(resource: &Resource, object: &Value) -> Self {
        let metadata = &object["metadata"];
        let stored = &resource.served[0];
        let message = schema::message(stored.group, stored.version, stored.kind);
        let decoded = message.map_or(0, |message| schema::decoded_bytes(message, object));
        let policy = PolicyObject::read(stored.group, stored.plural, object);
        let indexed = policy.as_ref().map_or(0, |object| object.index_bytes());
        let measured = Measured::of(stored.group, stored.plural, object);
        let counted = measured.as_ref().map_or(0, Measured::kept_bytes);
        let kept = decoded_copies(stored) * decoded + collected_bytes(metadata) + indexed + counted;
        let number = |bytes: usize| u32::try_from(bytes).unwrap_or(u32::MAX);
        Self {
            decoded_bytes: number(decoded),
            kept_bytes: number(kept),
            policy,
            uid: metadata["uid"].as_str().unwrap_or_default().into(),
            labels: Labels::of(&metadata["labels"]),
            fields: resource.behaviour.selectable_fields(object),
            measured: measured.map(Box::new),
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
        self.labels.iter().find(|(known, _)| *known == name).map(|(_, value)| value)
    }

    /// One selectable field.
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(k, _)| *k == name).map(|(_, v)| v.as_str())
    }
}

/// Labels as one text, since very many objects have few of them: each name and each value ends with a
/// NUL, which no label has.
#[derive(Clone, Debug, Default)]
pub struct Labels(Box<str>);

impl Labels {
    fn of(labels: &Value) -> Self {
        let mut text = String::new();
        for (name, value) in labels.as_object().into_iter().flatten() {
            let Some(value) = value.as_str() else { continue };
            if !name.contains('\0') && !value.contains('\0') {
                text.extend([name, "\0", value, "\0"]);
            }
        }
        Self(text.into())
    }

    /// The labels in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        let mut rest = &*self.0;
        std::iter::from_fn(move || {
            let (name, after) = rest.split_once('\0')?;
            let (value, after) = after.split_once('\0')?;
            rest = after;
            Some((name, value))
        })
    }
}

/// Bytes that the garbage collector keeps of an object of any kind: who owns it, and as much again for
/// what each owner owns, and its finalizers.
fn collected_bytes(metadata: &Value) -> usize {
    measure(&metadata["ownerReferences"]).memory + measure(&metadata["finalizers"]).memory
}

/// Returns the number of parts of a node that keep every object of a kind decoded: the controllers,
/// the agent its pods, and the policy its roles and bindings. Of these kinds, which are mere content
/// or come and go, none does.
fn decoded_copies(stored: &Served) -> usize {
    match stored.kind {
        "Pod" => 2,
        "ConfigMap" | "Secret" | "Event" | "Lease" => 0,
        _ => 1,
    }
}

/// The name that stands for the core group, which has none.
const CORE: &str = "core";

/// The bucket of a resource type, by its stored name: `apps.deployments`, `core.pods`.
pub(crate) fn bucket(resource: &Resource) -> String {
    let Served { group, plural, .. } = &resource.served[0];
    let group = if group.is_empty() { CORE } else { group };
    [group, ".", plural].concat()
}

/// `bucket/namespace/name`; the namespace is empty for cluster-scoped objects.
pub(crate) fn key(resource: &Resource, namespace: &str, name: &str) -> String {
    let Served { group, plural, .. } = &resource.served[0];
    let group = if group.is_empty() { CORE } else { group };
    [group, ".", plural, "/", namespace, "/", name].concat()
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

#[cfg(test)]
mod tests {
    use serde_json::json;
    use store::Weigh;

    use super::*;

    fn of(kind: &str, object: &Value) -> Meta {
        let mut resources = api::registry::resources().iter();
        let resource = resources.find(|resource| resource.served[0].kind == kind);
        Meta::of(resource.expect("the kind is served"), object)
    }

    #[test]
    fn labels_are_found_whole() {
        let labels = json!({"app": "web", "empty": "", "odd": 7});
        let meta = of("ConfigMap", &json!({"metadata": {"labels": labels}}));
        assert_eq!(meta.label("app"), Some("web"));
        assert_eq!(meta.label("empty"), Some(""));
        assert_eq!((meta.label("odd"), meta.label("web"), meta.label("")), (None, None, None));
        assert_eq!(meta.labels.iter().count(), 2);
    }

    #[test]
    fn memory_kept_for_an_object_is_known() {
        let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c"}]}});
        let kept = of("Pod", &pod).kept_bytes();
        assert!((8_000..14_000).contains(&kept), "{kept}");
        let map = |metadata: Value| {
            of("ConfigMap", &json!({"metadata": metadata, "data": {"k": "v"}})).kept_bytes()
        };
        assert!(map(json!({"name": "m"})) < 100);
        let owners: Value = (0..1000)
            .map(|n| json!({"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": n.to_string()}))
            .collect();
        assert!(map(json!({"ownerReferences": owners})) > 700_000);
    }
}
