//! Namespace.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::row;
use crate::defaults::{child, copy_from, set, set_default};
use crate::field::Field;
use crate::field_error::ErrorList;
use crate::names;
use crate::registry::{
    Behaviour, Cell, Column, Resource, Served, Subresource, SubresourceInfo, keep_all_but_status,
};

/// The row of the resource table.
pub const RESOURCE: Resource = Resource::new(SERVED, &Namespace)
    .cluster_scoped()
    .with_status()
    .verbs(&["create", "delete", "get", "list", "patch", "update", "watch"])
    .subresources(SUBRESOURCES);

const SERVED: &[Served] =
    &[Served::new("", "v1", "Namespace", "namespaces", "namespace").short(&["ns"])];

const SUBRESOURCES: &[SubresourceInfo] =
    &[SubresourceInfo::new("finalize", "Namespace", &["update"])];

/// The label that carries the name, for selectors.
const NAME_LABEL: &str = "kubernetes.io/metadata.name";

struct Namespace;

impl Behaviour for Namespace {
    fn to_storage(&self, _served: &Served, object: &mut Value) -> Result<(), ErrorList> {
        label_with_name(object);
        Ok(())
    }

    fn prepare_for_create(&self, object: &mut Value) {
        label_with_name(object);
        set(object, "status", json!({ "phase": "Active" }));
        let spec = child(object, "spec");
        set_default(spec, "finalizers", json!([]));
        if let Some(finalizers) = spec["finalizers"].as_array_mut() {
            let ours = json!("kubernetes");
            if !finalizers.contains(&ours) {
                finalizers.push(ours);
            }
        }
    }

    fn prepare_for_update(&self, object: &mut Value, old: &Value, subresource: Subresource<'_>) {
        match subresource {
            Subresource::Status => keep_all_but_status(object, old),
            Subresource::Other("finalize") => copy_from(object, old, "status"),
            _ => {
                copy_from(object, old, "spec");
                copy_from(object, old, "status");
            }
        }
    }

    fn validate(&self, object: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        for finalizer in Field::root(object).at("spec").at("finalizers").items() {
            errors.extend(finalizer.invalid_each(names::label_key(finalizer.str())));
            if !finalizer.str().contains('/') && finalizer.str() != "kubernetes" {
                errors.push(finalizer.invalid(
                    "name is neither a standard finalizer name nor is it fully qualified",
                ));
            }
        }
        errors
    }

    fn name_rule(&self, name: &str, prefix: bool) -> Vec<String> {
        names::label_name(name, prefix)
    }

    fn columns(&self) -> &'static [Column] {
        const { &[Column::NAME, Column::text("Status"), Column::AGE] }
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Cell> {
        vec![row::name(object), row::text_or(&object["status"]["phase"], ""), row::age(object, now)]
    }

    fn selectable_fields(&self, object: &Value) -> Vec<(&'static str, String)> {
        vec![("status.phase", row::plain(&object["status"]["phase"], ""))]
    }
}

fn label_with_name(object: &mut Value) {
    let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    if !name.is_empty() {
        set_default(child(child(object, "metadata"), "labels"), NAME_LABEL, name);
    }
}
