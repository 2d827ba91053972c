//! The one table of resource types. A new kind is one [`Resource`] here; the generic server does
//! the rest.

use jiff::Timestamp;
use serde_json::Value;

use crate::defaults::{copy_from, set, take};
use crate::field::same;
use crate::field_error::ErrorList;
use crate::kinds;
use crate::names;

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
}

/// One group and version under which a resource type is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Served {
    /// The API group, empty for core.
    pub group: &'static str,
    /// The API version, for example `v1beta1`.
    pub version: &'static str,
    /// The kind in this version.
    pub kind: &'static str,
    /// The plural, lower-case name in URLs.
    pub plural: &'static str,
    /// The singular name.
    pub singular: &'static str,
    /// Abbreviations that kubectl expands.
    pub short_names: &'static [&'static str],
    /// Group names such as `all`.
    pub categories: &'static [&'static str],
}

impl Served {
    /// Without short names and categories.
    pub const fn new(
        group: &'static str,
        version: &'static str,
        kind: &'static str,
        plural: &'static str,
        singular: &'static str,
    ) -> Self {
        Self { group, version, kind, plural, singular, short_names: &[], categories: &[] }
    }

    /// Adds abbreviations.
    pub const fn short(mut self, names: &'static [&'static str]) -> Self {
        self.short_names = names;
        self
    }

    /// Makes it a member of the category `all`.
    pub const fn all(mut self) -> Self {
        self.categories = &["all"];
        self
    }

    /// The same names in another group and version.
    pub const fn also(mut self, group: &'static str, version: &'static str) -> Self {
        self.group = group;
        self.version = version;
        self
    }

    /// `group/version`, or `version` alone in the core group.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_owned()
        } else {
            format!("{}/{}", self.group, self.version)
        }
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

/// One printed column (`kubectl get`), as upstream's `printers/internalversion` defines it.
#[derive(Clone, Copy, Debug)]
pub struct Column {
    /// Header, for example `Ready`; kubectl prints it in capitals.
    pub name: &'static str,
    /// `string`, `integer`, `date`, `boolean`.
    pub kind: &'static str,
    /// `name` for the name column, else empty.
    pub format: &'static str,
    /// 0 is always shown, 1 only with `-o wide`.
    pub priority: i32,
    /// For `kubectl explain`-like clients.
    pub description: &'static str,
}

impl Column {
    /// The object's name.
    pub const NAME: Self = Self {
        name: "Name",
        kind: "string",
        format: "name",
        priority: 0,
        description: "Name must be unique within a namespace.",
    };
    /// Time since creation.
    pub const AGE: Self = Self {
        name: "Age",
        kind: "string",
        format: "",
        priority: 0,
        description: "Time since the object was created.",
    };
    /// Time of creation, which kubectl turns into an age.
    pub const CREATED_AT: Self = Self {
        name: "Created At",
        kind: "date",
        format: "",
        priority: 0,
        description: "CreationTimestamp is the server time when the object was created.",
    };

    /// A column of text.
    pub const fn text(name: &'static str) -> Self {
        Self { name, kind: "string", format: "", priority: 0, description: "" }
    }

    /// A column of text shown with `-o wide` only.
    pub const fn wide(name: &'static str) -> Self {
        Self { name, kind: "string", format: "", priority: 1, description: "" }
    }

    /// A column of numbers.
    pub const fn integer(name: &'static str) -> Self {
        Self { name, kind: "integer", format: "", priority: 0, description: "" }
    }

    /// A column of another type.
    pub const fn typed(name: &'static str, kind: &'static str) -> Self {
        Self { name, kind, format: "", priority: 0, description: "" }
    }
}

/// One printed cell.
pub type Cell = Value;

/// What is particular to a kind. Objects are JSON in the storage version unless said otherwise.
pub trait Behaviour: Send + Sync + 'static {
    /// `apiVersion` and `kind` of the storage version.
    fn stored(&self) -> (&'static str, &'static str);

    /// Applies the defaults of the version `served` and converts to the storage version, in place.
    fn decode(&self, served: &Served, object: &mut Value) -> Result<(), ErrorList> {
        self.to_storage(served, object)?;
        let (api_version, kind) = self.stored();
        set(object, "apiVersion", api_version);
        set(object, "kind", kind);
        Ok(())
    }

    /// Converts from the storage version to `served`, in place.
    fn encode(&self, served: &Served, object: &mut Value) {
        self.to_served(served, object);
        set(object, "apiVersion", served.api_version());
        set(object, "kind", served.kind);
    }

    /// The part of [`Behaviour::decode`] that is particular to the kind.
    fn to_storage(&self, _served: &Served, _object: &mut Value) -> Result<(), ErrorList> {
        Ok(())
    }

    /// The part of [`Behaviour::encode`] that is particular to the kind.
    fn to_served(&self, _served: &Served, _object: &mut Value) {}

    /// Clears what a client may not set on creation (status) and sets what the server sets.
    fn prepare_for_create(&self, object: &mut Value) {
        take(object, "status");
    }

    /// Carries over from `old` what a write to `subresource` may not change. The caller keeps
    /// `metadata` right and raises `metadata.generation`.
    fn prepare_for_update(&self, object: &mut Value, old: &Value, subresource: Subresource<'_>) {
        match subresource {
            Subresource::Status => keep_all_but_status(object, old),
            _ => copy_from(object, old, "status"),
        }
    }

    /// Whether an update raises `metadata.generation`.
    fn generation_changed(&self, object: &Value, old: &Value) -> bool {
        !same(&object["spec"], &old["spec"])
    }

    /// Errors of a new object. `metadata` is checked by the caller, through
    /// [`Behaviour::name_rule`].
    fn validate(&self, _object: &Value) -> ErrorList {
        ErrorList::new()
    }

    /// Errors of a changed object: immutable fields, and all that `validate` finds.
    fn validate_update(
        &self,
        object: &Value,
        _old: &Value,
        subresource: Subresource<'_>,
    ) -> ErrorList {
        match subresource {
            Subresource::Status => ErrorList::new(),
            _ => self.validate(object),
        }
    }

    /// Warnings for the client (`Warning: 299` headers), for example on deprecated fields.
    fn warnings(&self, _object: &Value) -> Vec<String> {
        Vec::new()
    }

    /// Which names are allowed: returns the messages of broken rules for `name`
    /// (`prefix` is true for generateName).
    fn name_rule(&self, name: &str, prefix: bool) -> Vec<String> {
        names::subdomain_name(name, prefix)
    }

    /// The columns of `kubectl get`.
    fn columns(&self) -> &'static [Column] {
        const { &[Column::NAME, Column::CREATED_AT] }
    }

    /// The cells of one row, one per column. `now` serves ages.
    fn cells(&self, object: &Value, _now: Timestamp) -> Vec<Cell> {
        let metadata = &object["metadata"];
        vec![metadata["name"].clone(), metadata["creationTimestamp"].clone()]
    }

    /// Values that field selectors can match besides `metadata.name` and `metadata.namespace`.
    /// Every name is present for every object, null included: their list tells which are known.
    fn selectable_fields(&self, _object: &Value) -> Vec<(&'static str, String)> {
        Vec::new()
    }

    /// What a field selector on an unknown field is answered with.
    fn unknown_field_message(&self, field: &str) -> String {
        if self.selectable_fields(&Value::Null).is_empty() {
            format!(
                "{field:?} is not a known field selector: only \"metadata.name\", \
                 \"metadata.namespace\""
            )
        } else {
            format!("field label not supported: {field}")
        }
    }
}

/// Restores all but `metadata` and `status` from `old`: a write to `/status`.
pub fn keep_all_but_status(object: &mut Value, old: &Value) {
    let (Some(map), Some(old)) = (object.as_object_mut(), old.as_object()) else { return };
    let ours = |key: &str| matches!(key, "metadata" | "status" | "apiVersion" | "kind");
    map.retain(|key, _| ours(key) || old.contains_key(key));
    for (key, value) in old.iter().filter(|(key, _)| !ours(key)) {
        map.insert(key.clone(), value.clone());
    }
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

/// The resource type of a group, version and kind.
pub fn find_kind(
    group: &str,
    version: &str,
    kind: &str,
) -> Option<(&'static Resource, &'static Served)> {
    search(|served| served.kind == kind && served.group == group && served.version == version)
}

fn search(wanted: impl Fn(&Served) -> bool) -> Option<(&'static Resource, &'static Served)> {
    resources()
        .iter()
        .find_map(|resource| resource.served.iter().find(|s| wanted(s)).map(|s| (resource, s)))
}

/// Served versions that upstream calls deprecated: group, version, kind, since, gone in, successor.
const DEPRECATED: &[(&str, &str, &str, &str, &str, &str)] = &[
    ("apps", "v1alpha1", "PetSet", "v1.5", "v1.5", "apps/v1 StatefulSet"),
    ("apps", "v1beta1", "ControllerRevision", "v1.8", "v1.16", "apps/v1 ControllerRevision"),
    ("apps", "v1beta1", "Deployment", "v1.8", "v1.16", "apps/v1 Deployment"),
    ("apps", "v1beta1", "StatefulSet", "v1.8", "v1.16", "apps/v1 StatefulSet"),
    ("apps", "v1beta2", "ControllerRevision", "v1.9", "v1.16", "apps/v1 ControllerRevision"),
    ("apps", "v1beta2", "DaemonSet", "v1.9", "v1.16", "apps/v1 DaemonSet"),
    ("apps", "v1beta2", "Deployment", "v1.9", "v1.16", "apps/v1 Deployment"),
    ("apps", "v1beta2", "ReplicaSet", "v1.9", "v1.16", "apps/v1 ReplicaSet"),
    ("apps", "v1beta2", "StatefulSet", "v1.9", "v1.16", "apps/v1 StatefulSet"),
    ("batch", "v1beta1", "CronJob", "v1.21", "v1.25", "batch/v1 CronJob"),
    ("extensions", "v1beta1", "DaemonSet", "v1.8", "v1.16", "apps/v1 DaemonSet"),
    ("extensions", "v1beta1", "Deployment", "v1.8", "v1.16", "apps/v1 Deployment"),
    ("extensions", "v1beta1", "ReplicaSet", "v1.8", "v1.16", "apps/v1 ReplicaSet"),
    ("policy", "v1beta1", "PodDisruptionBudget", "v1.21", "v1.25", "policy/v1 PodDisruptionBudget"),
];

/// The warning for requests to a deprecated version; `None` for the others.
pub fn deprecation_warning(served: &Served) -> Option<String> {
    if served.group.is_empty() && served.kind == "Endpoints" {
        return Some(
            "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice"
                .to_owned(),
        );
    }
    let (_, _, kind, since, gone, successor) = DEPRECATED.iter().find(|entry| {
        entry.0 == served.group && entry.1 == served.version && entry.2 == served.kind
    })?;
    Some(format!(
        "{} {kind} is deprecated in {since}+, unavailable in {gone}+; use {successor}",
        served.api_version()
    ))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    #[test]
    fn every_row_is_whole() {
        for resource in resources() {
            let storage = resource.storage();
            let (api_version, kind) = resource.behaviour.stored();
            assert_eq!((storage.api_version().as_str(), storage.kind), (api_version, kind));
            let cells = resource.behaviour.cells(&json!({ "metadata": {} }), Timestamp::UNIX_EPOCH);
            assert_eq!(cells.len(), resource.behaviour.columns().len(), "{kind}");
            for served in resource.served {
                let found = find(served.group, served.version, served.plural).unwrap();
                assert_eq!(found.1, served);
                // Decoding twice changes nothing, and what is decoded can be encoded again.
                let mut object = json!({ "metadata": { "name": "x" } });
                resource.behaviour.decode(served, &mut object).unwrap();
                let once = object.clone();
                resource.behaviour.decode(storage, &mut object).unwrap();
                assert_eq!(object, once, "{kind}");
                resource.behaviour.encode(served, &mut object);
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
                    let _ = behaviour.decode(served, &mut object);
                    behaviour.cells(&object, now);
                    behaviour.selectable_fields(&object);
                    behaviour.validate(&object);
                    behaviour.warnings(&object);
                    for subresource in
                        [Subresource::None, Subresource::Status, Subresource::Other("resize")]
                    {
                        behaviour.prepare_for_update(&mut object, &old, subresource);
                        behaviour.validate_update(&object, &old, subresource);
                        behaviour.generation_changed(&object, &old);
                    }
                    behaviour.prepare_for_create(&mut object);
                    behaviour.encode(served, &mut object);
                }
            }
        }
    }

    #[test]
    fn warnings_for_old_versions() {
        let (_, old) = find("apps", "v1beta1", "deployments").unwrap();
        assert_eq!(
            deprecation_warning(old).unwrap(),
            "apps/v1beta1 Deployment is deprecated in v1.8+, unavailable in v1.16+; use apps/v1 Deployment"
        );
        assert_eq!(deprecation_warning(find("apps", "v1", "deployments").unwrap().1), None);
    }
}
