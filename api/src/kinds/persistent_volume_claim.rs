//! PersistentVolumeClaim.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::persistent_volume::{access_modes, phase};
use super::row;
use crate::defaults::{child, object_at, set, set_default_text};
use crate::field_error::ErrorList;
use crate::pod_spec::defaults::default_claim_spec;
use crate::quantity::canonicalize_list;
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
    fn stored(&self) -> (&'static str, &'static str) {
        ("v1", "PersistentVolumeClaim")
    }

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
