//! The one table of resource types. A new kind is one [`Resource`] here; the generic server does
//! the rest.

use jiff::Timestamp;
use serde_json::Value;

use crate::field_error::ErrorList;

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

/// One printed cell.
pub type Cell = Value;

/// What is particular to a kind. Objects are JSON in the storage version unless said otherwise.
pub trait Behaviour: Send + Sync + 'static {
    /// Applies the defaults of the version `served` and converts to the storage version, in place.
    fn decode(&self, served: &Served, object: &mut Value) -> Result<(), ErrorList>;

    /// Converts from the storage version to `served`, in place.
    fn encode(&self, served: &Served, object: &mut Value);

    /// Clears what a client may not set on creation (status) and sets what the server sets.
    fn prepare_for_create(&self, object: &mut Value);

    /// Carries over from `old` what a write to `subresource` may not change. The caller keeps
    /// `metadata` right and raises `metadata.generation`.
    fn prepare_for_update(&self, object: &mut Value, old: &Value, subresource: Subresource<'_>);

    /// Errors of a new object. `metadata` is checked by the caller, through [`Behaviour::name_rule`].
    fn validate(&self, object: &Value) -> ErrorList;

    /// Errors of a changed object: immutable fields, and all that `validate` finds.
    fn validate_update(
        &self,
        object: &Value,
        old: &Value,
        subresource: Subresource<'_>,
    ) -> ErrorList;

    /// Warnings for the client (`Warning: 299` headers), for example on deprecated fields.
    fn warnings(&self, _object: &Value) -> Vec<String> {
        Vec::new()
    }

    /// Which names are allowed: returns the messages of broken rules for `name`
    /// (`prefix` is true for generateName).
    fn name_rule(&self, name: &str, prefix: bool) -> Vec<String>;

    /// The columns of `kubectl get`.
    fn columns(&self) -> &'static [Column];

    /// The cells of one row, one per column. `now` serves ages.
    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Cell>;

    /// Values that field selectors can match besides `metadata.name` and `metadata.namespace`.
    fn selectable_fields(&self, _object: &Value) -> Vec<(&'static str, String)> {
        Vec::new()
    }
}
