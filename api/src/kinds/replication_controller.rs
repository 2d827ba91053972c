//! ReplicationController.

use jiff::Timestamp;
use serde_json::Value;

use super::row;
use super::workload::{labels_from, replicas_and_template, validate_running_template};
use crate::defaults::{child, set};
use crate::field::Field;
use crate::field_error::ErrorList;
use crate::metadata::validate_labels;
use crate::pod_spec::pod_warnings;
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
    fn stored(&self) -> (&'static str, &'static str) {
        ("v1", "ReplicationController")
    }

    fn to_storage(&self, _served: &Served, object: &mut Value) -> Result<(), ErrorList> {
        let labels = object["spec"]["template"]["metadata"]["labels"].clone();
        let spec = child(object, "spec");
        replicas_and_template(spec);
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
        for name in ["replicas", "minReadySeconds"] {
            errors.extend(spec.at(name).non_negative());
        }
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
        pod_warnings(&Field::root(object).at("spec").at("template").at("spec"))
    }

    fn columns(&self) -> &'static [Column] {
        const {
            &[
                Column::NAME,
                Column::integer("Desired"),
                Column::integer("Current"),
                Column::integer("Ready"),
                Column::AGE,
                Column::wide("Containers"),
                Column::wide("Images"),
                Column::wide("Selector"),
            ]
        }
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Cell> {
        let (spec, status) = (&object["spec"], &object["status"]);
        let [names, images] = row::containers(&spec["template"]["spec"]);
        vec![
            row::name(object),
            row::integer(&spec["replicas"]),
            row::integer(&status["replicas"]),
            row::integer(&status["readyReplicas"]),
            row::age(object, now),
            names,
            images,
            row::labels(&spec["selector"]),
        ]
    }

    fn selectable_fields(&self, object: &Value) -> Vec<(&'static str, String)> {
        vec![("status.replicas", object["status"]["replicas"].as_i64().unwrap_or(0).to_string())]
    }
}
