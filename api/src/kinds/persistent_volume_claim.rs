//! PersistentVolumeClaim.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::persistent_volume::{
    access_modes, phase, validate_access_modes, validate_class_and_mode, validate_size,
};
use super::row;
use crate::defaults::{child, copy_from, object_at, set, set_default_text};
use crate::field::{Field, same};
use crate::field_error::{ErrorList, FieldError};
use crate::metadata::validate_label_selector;
use crate::pod_spec::defaults::default_claim_spec;
use crate::quantity::{Quantity, canonicalize_list};
use crate::registry::{Behaviour, Cell, Column, Resource, Served};

/// The row of the resource table.
pub const RESOURCE: Resource = Resource::new(SERVED, &PersistentVolumeClaim).with_status();

const SERVED: &[Served] = &[Served::new(
    "",
    "v1",
    "PersistentVolumeClaim",
    "persistentvolumeclaims",
    "persistentvolumeclaim",
)
.short(&["pvc"])];

struct PersistentVolumeClaim;

impl Behaviour for PersistentVolumeClaim {
    fn to_storage(&self, _served: &Served, object: &mut Value) -> Result<(), ErrorList> {
        let status = child(object, "status");
        set_default_text(status, "phase", "Pending");
        for list in ["capacity", "allocatedResources"] {
            if let Some(list) = object_at(status, list) {
                canonicalize_list(list);
            }
        }
        default_claim_spec(child(object, "spec"));
        Ok(())
    }

    fn prepare_for_create(&self, object: &mut Value) {
        set(object, "status", json!({ "phase": "Pending" }));
    }

    fn validate(&self, object: &Value) -> ErrorList {
        validate_claim_spec(&Field::root(object).at("spec"))
    }

    fn validate_change(&self, object: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let (new, before) = (&object["spec"], &old["spec"]);
        let mut expected = before.clone();
        // The volume is bound once; size may grow then.
        if row::plain(&before["volumeName"], "").is_empty() {
            copy_from(&mut expected, new, "volumeName");
        }
        if before["storageClassName"].is_null() {
            copy_from(&mut expected, new, "storageClassName");
        }
        copy_from(&mut expected, new, "volumeAttributesClassName");
        let size = |spec: &Value| Quantity::from_json(&spec["resources"]["requests"]["storage"]);
        let bound = old["status"]["phase"] == "Bound";
        if bound && new["resources"]["requests"]["storage"].is_string() {
            let requests = child(child(&mut expected, "resources"), "requests");
            copy_from(requests, &new["resources"]["requests"], "storage");
        }
        if !same(new, &expected) {
            errors.push(FieldError::forbidden(
                "spec",
                "spec is immutable after creation except resources.requests and \
                 volumeAttributesClassName for bound claims",
            ));
        } else if let (Ok(new_size), Ok(old_size)) = (size(new), size(before))
            && new_size < old_size
        {
            errors.push(FieldError::forbidden(
                "spec.resources.requests.storage",
                "field can not be less than status.capacity",
            ));
        }
        errors
    }

    fn columns(&self) -> &'static [Column] {
        const {
            &[
                Column::NAME,
                Column::text("Status"),
                Column::text("Volume"),
                Column::text("Capacity"),
                Column::text("Access Modes"),
                Column::text("StorageClass"),
                Column::text("VolumeAttributesClass"),
                Column::AGE,
                Column::wide("VolumeMode"),
            ]
        }
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Cell> {
        let (spec, status) = (&object["spec"], &object["status"]);
        let volume = row::plain(&spec["volumeName"], "");
        let (capacity, modes) = if volume.is_empty() {
            (String::new(), String::new())
        } else {
            (row::plain(&status["capacity"]["storage"], ""), access_modes(&status["accessModes"]))
        };
        vec![
            row::name(object),
            phase(object).into(),
            volume.into(),
            capacity.into(),
            modes.into(),
            row::text_or(&spec["storageClassName"], ""),
            row::text_or(&spec["volumeAttributesClassName"], "<unset>"),
            row::age(object, now),
            row::text_or(&spec["volumeMode"], "<unset>"),
        ]
    }
}

/// Checks the spec of a claim, or of the template of one.
pub fn validate_claim_spec(spec: &Field<'_>) -> ErrorList {
    let mut errors = validate_access_modes(&spec.at("accessModes"));
    errors.extend(validate_label_selector(&spec.at("selector")));
    let requests = spec.at("resources").at("requests");
    let storage = requests.key("storage");
    match Quantity::from_json(storage.value) {
        Ok(size) => errors.extend(validate_size(&storage, &size)),
        Err(_) => errors.push(storage.required("")),
    }
    errors.extend(validate_class_and_mode(spec));
    errors
}
