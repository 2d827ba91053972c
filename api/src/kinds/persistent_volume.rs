//! PersistentVolume.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::row;
use crate::defaults::{child, object_at, set, set_default, set_default_text};
use crate::field::{Field, same};
use crate::field_error::{ErrorList, FieldError};
use crate::names;
use crate::quantity::{Quantity, canonicalize_list};
use crate::registry::{Behaviour, Cell, Column, Resource, Served};

/// The row of the resource table.
pub const RESOURCE: Resource =
    Resource::new(SERVED, &PersistentVolume).cluster_scoped().with_status();

const SERVED: &[Served] =
    &[Served::new("", "v1", "PersistentVolume", "persistentvolumes", "persistentvolume")
        .short(&["pv"])];

struct PersistentVolume;

impl Behaviour for PersistentVolume {
    fn to_storage(&self, _served: &Served, object: &mut Value) -> Result<(), ErrorList> {
        set_default_text(child(object, "status"), "phase", "Pending");
        let spec = child(object, "spec");
        set_default_text(spec, "persistentVolumeReclaimPolicy", "Retain");
        set_default(spec, "volumeMode", "Filesystem");
        if let Some(capacity) = object_at(spec, "capacity") {
            canonicalize_list(capacity);
        }
        if let Some(host) = object_at(spec, "hostPath") {
            set_default(host, "type", "");
        }
        Ok(())
    }

    fn prepare_for_create(&self, object: &mut Value) {
        set(object, "status", json!({ "phase": "Pending" }));
    }

    fn validate(&self, object: &Value) -> ErrorList {
        let spec = Field::root(object).at("spec");
        let mut errors = validate_access_modes(&spec.at("accessModes"));
        let capacity = spec.at("capacity");
        if capacity.is_empty() {
            errors.push(capacity.required(""));
        } else if capacity.len() > 1 || !capacity.at("storage").exists() {
            errors.push(capacity.not_supported(&["storage"]));
        } else {
            let size = Quantity::from_json(capacity.at("storage").value).unwrap_or_default();
            errors.extend(validate_size(&capacity.key("storage"), &size));
        }
        errors.extend(
            spec.at("persistentVolumeReclaimPolicy").one_of(&["Delete", "Recycle", "Retain"]),
        );
        let sources = sources(&spec);
        match sources.as_slice() {
            [] => errors.push(spec.required("must specify a volume type")),
            [_] => {}
            [_, more @ ..] => {
                for source in more {
                    let detail = "may not specify more than 1 volume type";
                    errors.push(spec.at(source).forbidden(detail));
                }
            }
        }
        let path = spec.at("hostPath").at("path");
        if path.str().split('/').any(|part| part == "..") {
            errors.push(path.invalid("must not contain '..'"));
        }
        let local = spec.at("local");
        if local.exists() && local.at("path").is_empty() {
            errors.push(local.at("path").required(""));
        }
        if local.exists() && !spec.at("nodeAffinity").exists() {
            let detail = "Local volume requires node affinity";
            errors.push(spec.at("nodeAffinity").required(detail));
        }
        errors.extend(validate_class_and_mode(&spec));
        errors
    }

    fn validate_change(&self, object: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let (new, before) = (Field::root(object).at("spec"), Field::root(old).at("spec"));
        let (mine, theirs) = (sources(&new), sources(&before));
        let equal = mine == theirs
            && mine.iter().all(|name| same(new.at(name).value, before.at(name).value));
        if !equal {
            errors.push(FieldError::forbidden(
                "spec.persistentvolumesource",
                "spec.persistentvolumesource is immutable after creation",
            ));
        }
        errors.extend(new.at("volumeMode").immutable(before.at("volumeMode").value));
        errors
    }

    fn columns(&self) -> &'static [Column] {
        const {
            &[
                Column::NAME,
                Column::text("Capacity"),
                Column::text("Access Modes"),
                Column::text("Reclaim Policy"),
                Column::text("Status"),
                Column::text("Claim"),
                Column::text("StorageClass"),
                Column::text("VolumeAttributesClass"),
                Column::text("Reason"),
                Column::AGE,
                Column::wide("VolumeMode"),
            ]
        }
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Cell> {
        let (spec, status) = (&object["spec"], &object["status"]);
        let claim = &spec["claimRef"];
        let claim = if claim.is_object() {
            format!("{}/{}", row::plain(&claim["namespace"], ""), row::plain(&claim["name"], ""))
        } else {
            String::new()
        };
        vec![
            row::name(object),
            row::plain(&spec["capacity"]["storage"], "").into(),
            access_modes(&spec["accessModes"]).into(),
            row::text_or(&spec["persistentVolumeReclaimPolicy"], ""),
            phase(object).into(),
            claim.into(),
            row::text_or(&spec["storageClassName"], ""),
            row::text_or(&spec["volumeAttributesClassName"], "<unset>"),
            row::text_or(&status["reason"], ""),
            row::age(object, now),
            row::text_or(&spec["volumeMode"], "<unset>"),
        ]
    }
}

/// The members of a volume's spec that say where its data is.
fn sources(spec: &Field<'_>) -> Vec<String> {
    const OTHERS: &[&str] = &[
        "accessModes",
        "capacity",
        "claimRef",
        "mountOptions",
        "nodeAffinity",
        "persistentVolumeReclaimPolicy",
        "storageClassName",
        "volumeAttributesClassName",
        "volumeMode",
    ];
    let entries = spec.value.as_object().into_iter().flatten();
    entries
        .filter(|(name, value)| !OTHERS.contains(&name.as_str()) && !value.is_null())
        .map(|(name, _)| name.clone())
        .collect()
}

/// Checks the access modes of a volume or claim.
pub fn validate_access_modes(modes: &Field<'_>) -> ErrorList {
    let known = ["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];
    let mut errors = ErrorList::new();
    if modes.is_empty() {
        errors.push(modes.required("at least 1 access mode is required"));
    }
    for mode in modes.items() {
        if !known.contains(&mode.str()) {
            errors.push(FieldError::not_supported(&modes.path, mode.str(), &known));
        }
    }
    let exclusive = modes.items().iter().any(|mode| mode.str() == "ReadWriteOncePod");
    if exclusive && modes.len() > 1 {
        let detail = "may not use ReadWriteOncePod with other access modes";
        errors.push(modes.forbidden(detail));
    }
    errors
}

/// Checks that there is room for something.
pub fn validate_size(field: &Field<'_>, size: &Quantity) -> Option<FieldError> {
    let none = size.is_zero() || size.is_negative();
    none.then(|| FieldError::invalid(&field.path, size.to_string(), "must be greater than zero"))
}

/// Checks the storage class and the mode of a volume or claim.
pub fn validate_class_and_mode(spec: &Field<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    let class = spec.at("storageClassName");
    if !class.is_empty() {
        errors.extend(class.invalid_each(names::dns1123_subdomain(class.str())));
    }
    errors.extend(spec.at("volumeMode").one_of(&["Block", "Filesystem"]));
    errors
}

/// The phase, or `Terminating` once deletion is asked for.
pub fn phase(object: &Value) -> String {
    if object["metadata"]["deletionTimestamp"].is_string() {
        return "Terminating".to_owned();
    }
    row::plain(&object["status"]["phase"], "")
}

/// Access modes in short form: `RWO,ROX`.
pub fn access_modes(modes: &Value) -> String {
    let has = |mode: &str| modes.as_array().is_some_and(|list| list.iter().any(|m| m == mode));
    [
        ("ReadWriteOnce", "RWO"),
        ("ReadOnlyMany", "ROX"),
        ("ReadWriteMany", "RWX"),
        ("ReadWriteOncePod", "RWOP"),
    ]
    .into_iter()
    .filter(|(mode, _)| has(mode))
    .map(|(_, short)| short)
    .collect::<Vec<_>>()
    .join(",")
}
