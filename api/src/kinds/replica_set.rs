//! ReplicaSet.

use jiff::Timestamp;
use serde_json::Value;

use super::row;
use super::workload::{
    immutable_selector, replicas_and_template, selector_from_template, template_names_selector,
    validate_running_template,
};
use crate::defaults::{child, set};
use crate::field::Field;
use crate::field_error::ErrorList;
use crate::pod_spec::pod_warnings;
use crate::pod_spec::validate_selector_and_labels;
use crate::registry::{Behaviour, Cell, Column, Resource, Served, Subresource};

/// The row of the resource table.
pub const RESOURCE: Resource =
    Resource::new(SERVED, &ReplicaSet).with_status().with_scale().with_generation();

const CURRENT: Served =
    Served::new("apps", "v1", "ReplicaSet", "replicasets", "replicaset").short(&["rs"]).all();

const SERVED: &[Served] =
    &[CURRENT, CURRENT.also("apps", "v1beta2"), CURRENT.also("extensions", "v1beta1")];

struct ReplicaSet;

impl Behaviour for ReplicaSet {
    fn stored(&self) -> (&'static str, &'static str) {
        ("apps/v1", "ReplicaSet")
    }

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
        for name in ["replicas", "minReadySeconds"] {
            errors.extend(spec.at(name).non_negative());
        }
        errors.extend(validate_selector_and_labels(
            &spec,
            "empty selector is invalid for deployment",
        ));
        errors.extend(validate_running_template(&spec.at("template"), "ReplicaSet"));
        errors
    }

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
        errors.extend(immutable_selector(object, old));
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
            row::label_selector(&spec["selector"]),
        ]
    }

    fn selectable_fields(&self, object: &Value) -> Vec<(&'static str, String)> {
        vec![("status.replicas", object["status"]["replicas"].as_i64().unwrap_or(0).to_string())]
    }
}
