//! What is particular to a kind, as the generic server asks for it.

use jiff::Timestamp;
use serde_json::Value;

use super::{Cell, Column, Served, Subresource};
use crate::defaults::{copy_from, take};
use crate::field::same;
use crate::field_error::ErrorList;
use crate::names;

/// What is particular to a kind. Objects are JSON in the storage version unless said otherwise.
pub trait Behaviour: Send + Sync + 'static {
    /// Applies the defaults of the version `served` and converts to the storage version, in place;
    /// [`Resource::decode`](super::Resource::decode) names the version.
    fn to_storage(&self, _served: &Served, _object: &mut Value) -> Result<(), ErrorList> {
        Ok(())
    }

    /// Converts from the storage version to `served`, in place;
    /// [`Resource::encode`](super::Resource::encode) names the version.
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

    /// Errors of a change besides those of the new state: what is immutable.
    fn validate_change(&self, _object: &Value, _old: &Value) -> ErrorList {
        ErrorList::new()
    }

    /// Errors of a write to `subresource` of an object that exists. Status is its writer's matter.
    fn validate_update(
        &self,
        object: &Value,
        old: &Value,
        subresource: Subresource<'_>,
    ) -> ErrorList {
        if subresource == Subresource::Status {
            return ErrorList::new();
        }
        let mut errors = self.validate(object);
        errors.extend(self.validate_change(object, old));
        errors
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
