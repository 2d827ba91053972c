//! The one table of resource types. A new kind is one [`Resource`] here; the generic server does
//! the rest.

mod behaviour;
mod column;
mod deprecation;
mod served;

use serde_json::Value;

use crate::defaults::set;
use crate::field_error::ErrorList;
use crate::kinds;
use crate::unsupported;

pub use behaviour::{Behaviour, keep_all_but_status};
pub use column::{Cell, Column};
pub use deprecation::deprecation_warning;
pub use served::Served;

/// The verbs of an ordinary resource type.
pub const ALL_VERBS: &[&str] =
    &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];

/// One resource type, stored under one version and served under one or more.
pub struct Resource {
    /// Every group, version and name under which the type is served; the first one is the version
    /// that is stored and the one that is preferred in discovery.
    pub served: &'static [Served],
    /// Whether objects live in a namespace.
    pub namespaced: bool,
    /// What of it survives a crash, and at which cost.
    pub persistence: Persistence,
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`.
    pub verbs: &'static [&'static str],
    /// Whether `/status` is served (and spec writes leave status alone).
    pub has_status: bool,
    /// Whether `/scale` is served.
    pub has_scale: bool,
    /// Further subresources for discovery, for example `log`, `exec`, `binding`.
    pub subresources: &'static [SubresourceInfo],
    /// Whether a changed spec raises `metadata.generation`.
    pub has_generation: bool,
    /// Defaults, validation, columns and strategy.
    pub behaviour: &'static dyn Behaviour,
}

impl Resource {
    /// A namespaced, durable type with all verbs and nothing else.
    pub const fn new(served: &'static [Served], behaviour: &'static dyn Behaviour) -> Self {
        Self {
            served,
            namespaced: true,
            persistence: Persistence::Durable,
            verbs: ALL_VERBS,
            has_status: false,
            has_scale: false,
            subresources: &[],
            has_generation: false,
            behaviour,
        }
    }

    /// Objects live outside namespaces.
    pub const fn cluster_scoped(mut self) -> Self {
        self.namespaced = false;
        self
    }

    /// `/status` is served.
    pub const fn with_status(mut self) -> Self {
        self.has_status = true;
        self
    }

    /// `/scale` is served.
    pub const fn with_scale(mut self) -> Self {
        self.has_scale = true;
        self
    }

    /// A changed spec raises `metadata.generation`.
    pub const fn with_generation(mut self) -> Self {
        self.has_generation = true;
        self
    }

    /// Other persistence than durable.
    pub const fn persistence(mut self, persistence: Persistence) -> Self {
        self.persistence = persistence;
        self
    }

    /// Other verbs than all.
    pub const fn verbs(mut self, verbs: &'static [&'static str]) -> Self {
        self.verbs = verbs;
        self
    }

    /// Subresources besides status and scale.
    pub const fn subresources(mut self, list: &'static [SubresourceInfo]) -> Self {
        self.subresources = list;
        self
    }

    /// The storage version.
    pub fn storage(&self) -> &'static Served {
        &self.served[0]
    }

    /// Applies the defaults of the version `served` and converts to the storage version, in place.
    pub fn decode(&self, served: &Served, object: &mut Value) -> Result<(), ErrorList> {
        self.behaviour.to_storage(served, object)?;
        name_version(self.storage(), object);
        Ok(())
    }

    /// Returns the warnings for a write of `object`: those of the kind, and a line for each field
    /// that is accepted and not acted on. `old` is `None` for a new object.
    pub fn warnings(&self, object: &Value, old: Option<&Value>) -> Vec<String> {
        let mut warnings = self.behaviour.warnings(object);
        warnings.extend(unsupported::warnings(self, object, old.is_none()));
        warnings
    }

    /// Converts from the storage version to `served`, in place.
    pub fn encode(&self, served: &Served, object: &mut Value) {
        self.behaviour.to_served(served, object);
        name_version(served, object);
    }
}

/// A subresource as discovery lists it.
pub struct SubresourceInfo {
    /// The last path segment, for example `log`.
    pub name: &'static str,
    /// The kind that goes in and out.
    pub kind: &'static str,
    /// The group and version of that kind where it differs from the parent's.
    pub group_version: Option<(&'static str, &'static str)>,
    /// Verbs.
    pub verbs: &'static [&'static str],
}

impl SubresourceInfo {
    /// A subresource of a kind in the parent's group and version.
    pub const fn new(
        name: &'static str,
        kind: &'static str,
        verbs: &'static [&'static str],
    ) -> Self {
        Self { name, kind, group_version: None, verbs }
    }

    /// Its kind lives in another group and version.
    pub const fn of(mut self, group: &'static str, version: &'static str) -> Self {
        self.group_version = Some((group, version));
        self
    }
}

/// What of a resource type survives a crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Persistence {
    /// Spec writes reach the disk before they are acknowledged; status writes follow lazily.
    Durable,
    /// Written to disk along with the next durable write or a little later (Events).
    Lazy,
    /// Kept in memory only (Leases).
    Volatile,
    /// Not stored at all: a request that is answered (reviews).
    None,
}

/// Which part of an object a write addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subresource<'a> {
    /// The object itself.
    None,
    /// `/status`.
    Status,
    /// `/scale`.
    Scale,
    /// Any other, by name.
    Other(&'a str),
}

fn name_version(served: &Served, object: &mut Value) {
    set(object, "apiVersion", served.api_version());
    set(object, "kind", served.kind);
}

/// Every resource type that is served.
pub fn resources() -> &'static [Resource] {
    kinds::RESOURCES
}

/// The resource type served at a path.
pub fn find(
    group: &str,
    version: &str,
    plural: &str,
) -> Option<(&'static Resource, &'static Served)> {
    search(|served| served.plural == plural && served.group == group && served.version == version)
}

fn search(wanted: impl Fn(&Served) -> bool) -> Option<(&'static Resource, &'static Served)> {
    resources()
        .iter()
        .find_map(|resource| resource.served.iter().find(|s| wanted(s)).map(|s| (resource, s)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use jiff::Timestamp;

    use super::*;
    use serde_json::json;

    #[test]
    fn every_row_is_whole() {
        for resource in resources() {
            let storage = resource.storage();
            let kind = storage.kind;
            let cells = resource.behaviour.cells(&json!({ "metadata": {} }), Timestamp::UNIX_EPOCH);
            assert_eq!(cells.len(), resource.behaviour.columns().len(), "{kind}");
            for served in resource.served {
                let found = find(served.group, served.version, served.plural).unwrap();
                assert_eq!(found.1, served);
                // Decoding twice changes nothing, and what is decoded can be encoded again.
                let mut object = json!({ "metadata": { "name": "x" } });
                resource.decode(served, &mut object).unwrap();
                let once = object.clone();
                resource.decode(storage, &mut object).unwrap();
                assert_eq!(object, once, "{kind}");
                resource.encode(served, &mut object);
                assert_eq!(object["kind"], served.kind);
            }
        }
    }

    #[test]
    fn hostile_shapes_do_no_harm() {
        let shapes = [
            json!(null),
            json!(-1),
            json!("x"),
            json!([]),
            json!([null, 1, "x", [], {}]),
            json!({ "a": 1 }),
            json!({ "containers": [{ "env": [1], "ports": 3 }], "volumes": [{ "secret": 1 }],
                "template": { "spec": { "containers": [{}], "volumes": [{ "projected": [] }] } },
                "selector": 3, "strategy": [], "ports": [1, { "port": "x" }], "metrics": [{}],
                "jobTemplate": 1, "finalizers": {}, "hard": { "cpu": [] }, "limits": [{}] }),
        ];
        let now = Timestamp::UNIX_EPOCH;
        for resource in resources() {
            for served in resource.served {
                for (a, b) in shapes.iter().flat_map(|a| shapes.iter().map(move |b| (a, b))) {
                    let mut object = json!({ "metadata": b, "spec": a, "status": b, "data": a,
                        "subsets": a, "endpoints": a, "ports": b, "rules": a, "subjects": a,
                        "roleRef": b, "template": a, "stringData": a, "involvedObject": b });
                    let behaviour = resource.behaviour;
                    let old = object.clone();
                    let _ = resource.decode(served, &mut object);
                    behaviour.cells(&object, now);
                    behaviour.selectable_fields(&object);
                    behaviour.validate(&object);
                    resource.warnings(&object, None);
                    for subresource in
                        [Subresource::None, Subresource::Status, Subresource::Other("resize")]
                    {
                        behaviour.prepare_for_update(&mut object, &old, subresource);
                        behaviour.validate_update(&object, &old, subresource);
                        behaviour.generation_changed(&object, &old);
                    }
                    behaviour.prepare_for_create(&mut object);
                    resource.encode(served, &mut object);
                }
            }
        }
    }
}
