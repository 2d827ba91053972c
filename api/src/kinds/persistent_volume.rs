//! PersistentVolume.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::row;
use crate::defaults::{child, object_at, set, set_default, set_default_text};
use crate::field_error::ErrorList;
use crate::quantity::canonicalize_list;
use crate::registry::{Behaviour, Cell, Column, Resource, Served};

/// The row of the resource table.
pub const RESOURCE: Resource =
    Resource::new(SERVED, &PersistentVolume).cluster_scoped().with_status();

const SERVED: &[Served] =
    &[Served::new("", "v1", "PersistentVolume", "persistentvolumes", "persistentvolume")
        .short(&["pv"])];

struct PersistentVolume;

impl Behaviour for PersistentVolume {
    fn stored(&self) -> (&'static str, &'static str) {
        ("v1", "PersistentVolume")
    }

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
