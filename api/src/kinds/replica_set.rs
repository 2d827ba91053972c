//! ReplicaSet.

use jiff::Timestamp;
use serde_json::Value;

use super::row;
use super::workload::{
    REPLICA_COLUMNS, immutable_selector, replica_cells, replica_fields, replicas_and_template,
    selector_from_template, template_names_selector, template_warnings, validate_running_template,
};
use crate::defaults::{child, set};
use crate::field::Field;
use crate::field_error::ErrorList;
use crate::pod_spec::validate_selector_and_labels;
use crate::registry::{Behaviour, Cell, Column, Resource, Served};

/// The row of the resource table.
pub const RESOURCE: Resource =
    Resource::new(SERVED, &ReplicaSet).with_status().with_scale().with_generation();

const CURRENT: Served =
    Served::new("apps", "v1", "ReplicaSet", "replicasets", "replicaset").short(&["rs"]).all();

const SERVED: &[Served] =
    &[CURRENT, CURRENT.also("apps", "v1beta2"), CURRENT.also("extensions", "v1beta1").bare()];

struct ReplicaSet;

impl Behaviour for ReplicaSet {
    fn to_storage(&self, served: &Served, object: &mut Value) -> Result<(), ErrorList> {
        if template_names_selector(served.group, served.version) {
            selector_from_template(object);
        }
        replicas_and_template(child(object, "spec"));
        Ok(())
    }

    fn prepare_for_create(&self, object: &mut Value) {
        set(object, "status", serde_json::json!({ "replicas": 0 }));
    }

    fn validate(&self, object: &Value) -> ErrorList {
        let spec = Field::root(object).at("spec");
        let mut errors = ErrorList::new();
        errors.extend(spec.all_non_negative(&["replicas", "minReadySeconds"]));
        errors.extend(validate_selector_and_labels(
            &spec,
            "empty selector is invalid for deployment",
        ));
        errors.extend(validate_running_template(&spec.at("template"), "ReplicaSet"));
        errors
    }

    fn validate_change(&self, object: &Value, old: &Value) -> ErrorList {
        immutable_selector(object, old).into_iter().collect()
    }

    fn warnings(&self, object: &Value) -> Vec<String> {
        template_warnings(object)
    }

    fn columns(&self) -> &'static [Column] {
        REPLICA_COLUMNS
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Cell> {
        replica_cells(object, now, row::label_selector(&object["spec"]["selector"]))
    }

    fn selectable_fields(&self, object: &Value) -> Vec<(&'static str, String)> {
        replica_fields(object)
    }
}
