//! StorageClass.

use jiff::Timestamp;
use serde_json::Value;

use super::row;
use crate::defaults::set_default;
use crate::field::{Field, same};
use crate::field_error::{ErrorList, FieldError};
use crate::names;
use crate::registry::{Behaviour, Cell, Column, Resource, Served};

/// The row of the resource table.
pub const RESOURCE: Resource = Resource::new(SERVED, &StorageClass).cluster_scoped();

const SERVED: &[Served] =
    &[Served::new("storage.k8s.io", "v1", "StorageClass", "storageclasses", "storageclass")
        .short(&["sc"])];

struct StorageClass;

impl Behaviour for StorageClass {
    fn to_storage(&self, _served: &Served, object: &mut Value) -> Result<(), ErrorList> {
        set_default(object, "reclaimPolicy", "Delete");
        set_default(object, "volumeBindingMode", "Immediate");
        Ok(())
    }

    fn validate(&self, object: &Value) -> ErrorList {
        let object = Field::root(object);
        let mut errors = ErrorList::new();
        let provisioner = object.at("provisioner");
        if provisioner.is_empty() {
            errors.push(provisioner.required(""));
        } else {
            let messages = names::label_key(&provisioner.str().to_lowercase());
            errors.extend(provisioner.invalid_each(messages));
        }
        for (key, _) in object.at("parameters").entries() {
            if key.is_empty() {
                errors.push(FieldError::invalid("parameters", key, "field can not be empty."));
            }
        }
        errors.extend(object.at("reclaimPolicy").one_of(&["Delete", "Retain"]));
        errors
            .extend(object.at("volumeBindingMode").one_of(&["Immediate", "WaitForFirstConsumer"]));
        for topology in object.at("allowedTopologies").items() {
            for requirement in topology.at("matchLabelExpressions").items() {
                let (key, values) = (requirement.at("key"), requirement.at("values"));
                if values.is_empty() {
                    errors.push(values.required(""));
                }
                errors.extend(key.invalid_each(names::label_key(key.str())));
            }
        }
        errors
    }

    fn validate_change(&self, object: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        if !same(&object["parameters"], &old["parameters"]) {
            let detail = "updates to parameters are forbidden.";
            errors.push(FieldError::forbidden("parameters", detail));
        }
        if !same(&object["provisioner"], &old["provisioner"]) {
            let detail = "updates to provisioner are forbidden.";
            errors.push(FieldError::forbidden("provisioner", detail));
        }
        if !same(&object["reclaimPolicy"], &old["reclaimPolicy"]) {
            let detail = "updates to reclaimPolicy are forbidden.";
            errors.push(FieldError::forbidden("reclaimPolicy", detail));
        }
        let mode = Field::root(object).at("volumeBindingMode");
        errors.extend(mode.immutable(&old["volumeBindingMode"]));
        errors
    }

    fn columns(&self) -> &'static [Column] {
        const {
            &[
                Column::NAME,
                Column::text("Provisioner"),
                Column::text("ReclaimPolicy"),
                Column::text("VolumeBindingMode"),
                Column::text("AllowVolumeExpansion"),
                Column::AGE,
            ]
        }
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Cell> {
        let annotations = &object["metadata"]["annotations"];
        let is_default = [
            "storageclass.kubernetes.io/is-default-class",
            "storageclass.beta.kubernetes.io/is-default-class",
        ]
        .iter()
        .any(|key| annotations[*key] == "true");
        let mut name = row::plain(&object["metadata"]["name"], "");
        if is_default {
            name.push_str(" (default)");
        }
        vec![
            name.into(),
            row::text_or(&object["provisioner"], ""),
            row::text_or(&object["reclaimPolicy"], "Delete"),
            row::text_or(&object["volumeBindingMode"], "Immediate"),
            (object["allowVolumeExpansion"] == true).into(),
            row::age(object, now),
        ]
    }
}
