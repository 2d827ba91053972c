//! ReplicationController.

use jiff::Timestamp;
use serde_json::Value;

use super::row;
use super::workload::{
    REPLICA_COLUMNS, labels_from, replica_cells, replica_fields, replicas_and_template,
    template_warnings, validate_running_template,
};
use crate::defaults::{child, set, set_default};
use crate::field::Field;
use crate::field_error::ErrorList;
use crate::metadata::validate_labels;
use crate::registry::{Behaviour, Cell, Column, Resource, Served};

/// The row of the resource table.
pub const RESOURCE: Resource =
    Resource::new(SERVED, &ReplicationController).with_status().with_scale().with_generation();

const SERVED: &[Served] = &[Served::new(
    "",
    "v1",
    "ReplicationController",
    "replicationcontrollers",
    "replicationcontroller",
)
.short(&["rc"])
.all()];

struct ReplicationController;

impl Behaviour for ReplicationController {
    fn to_storage(&self, _served: &Served, object: &mut Value) -> Result<(), ErrorList> {
        let labels = object["spec"]["template"]["metadata"]["labels"].clone();
        let spec = child(object, "spec");
        if spec["template"].is_null() {
            set_default(spec, "replicas", 1);
        } else {
            replicas_and_template(spec);
        }
        if row::count(&labels) > 0 {
            if row::count(&spec["selector"]) == 0 {
                set(spec, "selector", labels.clone());
            }
            labels_from(object, labels);
        }
        Ok(())
    }

    fn prepare_for_create(&self, object: &mut Value) {
        set(object, "status", serde_json::json!({ "replicas": 0 }));
    }

    fn validate(&self, object: &Value) -> ErrorList {
        let spec = Field::root(object).at("spec");
        let mut errors = ErrorList::new();
        errors.extend(spec.all_non_negative(&["replicas", "minReadySeconds"]));
        let (selector, template) = (spec.at("selector"), spec.at("template"));
        if selector.is_empty() {
            errors.push(selector.required(""));
        }
        errors.extend(validate_labels(&selector));
        if !template.exists() {
            errors.push(template.required(""));
            return errors;
        }
        let labels = template.at("metadata").at("labels");
        let selected = selector.entries().iter().all(|(k, v)| labels.at(k).value == v.value);
        if !selector.is_empty() && !selected {
            errors.push(labels.invalid("`selector` does not match template `labels`"));
        }
        errors.extend(validate_running_template(&template, "ReplicationController"));
        errors
    }

    fn warnings(&self, object: &Value) -> Vec<String> {
        template_warnings(object)
    }

    fn columns(&self) -> &'static [Column] {
        REPLICA_COLUMNS
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Cell> {
        replica_cells(object, now, row::labels(&object["spec"]["selector"]))
    }

    fn selectable_fields(&self, object: &Value) -> Vec<(&'static str, String)> {
        replica_fields(object)
    }
}
