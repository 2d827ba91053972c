//! DaemonSet.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::row;
use super::workload::{
    immutable_selector, is_zero_bound, selector_from_template, template_names_selector,
    template_warnings, validate_int_or_percent, validate_running_template,
};
use crate::defaults::{child, copy_from, object_at, set, set_default, set_default_text, take};
use crate::field::{Field, same};
use crate::field_error::ErrorList;
use crate::pod_spec::defaults::{default_bounds, default_template};
use crate::pod_spec::validate_selector_and_labels;
use crate::registry::{
    Behaviour, Cell, Column, Resource, Served, Subresource, keep_all_but_status,
};

/// The row of the resource table.
pub const RESOURCE: Resource = Resource::new(SERVED, &DaemonSet).with_status().with_generation();

const CURRENT: Served =
    Served::new("apps", "v1", "DaemonSet", "daemonsets", "daemonset").short(&["ds"]).all();

const SERVED: &[Served] =
    &[CURRENT, CURRENT.also("apps", "v1beta2"), CURRENT.also("extensions", "v1beta1").bare()];

/// The annotation that carries `spec.templateGeneration` of the old versions.
const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";

struct DaemonSet;

impl Behaviour for DaemonSet {
    fn to_storage(&self, served: &Served, object: &mut Value) -> Result<(), ErrorList> {
        if template_names_selector(served.group, served.version) {
            selector_from_template(object);
        }
        let spec = child(object, "spec");
        default_template(child(spec, "template"));
        let usual = if served.group == "extensions" { "OnDelete" } else { "RollingUpdate" };
        let strategy = child(spec, "updateStrategy");
        set_default_text(strategy, "type", usual);
        if strategy["type"] == "RollingUpdate" {
            default_bounds(strategy, json!(1), json!(0));
        }
        set_default(spec, "revisionHistoryLimit", 10);
        take(spec, "templateGeneration");
        Ok(())
    }

    fn to_served(&self, served: &Served, object: &mut Value) {
        if served.group == "extensions" {
            let generation = template_generation(object);
            if let Some(annotations) = object_at(&mut object["metadata"], "annotations") {
                take(annotations, TEMPLATE_GENERATION);
            }
            set(child(object, "spec"), "templateGeneration", generation);
        }
    }

    fn prepare_for_create(&self, object: &mut Value) {
        let zero = json!({ "currentNumberScheduled": 0, "numberMisscheduled": 0,
            "desiredNumberScheduled": 0, "numberReady": 0 });
        set(object, "status", zero);
        set_template_generation(object, 1);
    }

    fn prepare_for_update(&self, object: &mut Value, old: &Value, subresource: Subresource<'_>) {
        if subresource == Subresource::Status {
            return keep_all_but_status(object, old);
        }
        copy_from(object, old, "status");
        let changed = !same(&object["spec"]["template"], &old["spec"]["template"]);
        set_template_generation(object, template_generation(old) + i64::from(changed));
    }

    fn validate(&self, object: &Value) -> ErrorList {
        let spec = Field::root(object).at("spec");
        let mut errors =
            validate_selector_and_labels(&spec, "empty selector is invalid for daemonset");
        errors.extend(validate_running_template(&spec.at("template"), "DaemonSet"));
        errors.extend(spec.all_non_negative(&["minReadySeconds", "revisionHistoryLimit"]));
        let strategy = spec.at("updateStrategy");
        let rolling = strategy.at("rollingUpdate");
        match strategy.at("type").str() {
            "OnDelete" => {}
            "RollingUpdate" => {
                let (unavailable, surge) = (rolling.at("maxUnavailable"), rolling.at("maxSurge"));
                errors.extend(validate_int_or_percent(&unavailable, false));
                errors.extend(validate_int_or_percent(&surge, false));
                match (is_zero_bound(&unavailable), is_zero_bound(&surge)) {
                    (true, true) => {
                        errors.push(unavailable.required("cannot be 0 when maxSurge is 0"));
                    }
                    (false, false) => {
                        errors.push(surge.invalid("may not be set when maxUnavailable is non-zero"))
                    }
                    _ => {}
                }
                errors.extend(validate_int_or_percent(&unavailable, true));
                errors.extend(validate_int_or_percent(&surge, true));
            }
            _ => errors.push(strategy.at("type").not_supported(&["OnDelete", "RollingUpdate"])),
        }
        errors
    }

    fn validate_change(&self, object: &Value, old: &Value) -> ErrorList {
        immutable_selector(object, old).into_iter().collect()
    }

    fn warnings(&self, object: &Value) -> Vec<String> {
        template_warnings(object)
    }

    fn columns(&self) -> &'static [Column] {
        const {
            &[
                Column::NAME,
                Column::integer("Desired"),
                Column::integer("Current"),
                Column::integer("Ready"),
                Column::integer("Up-to-date"),
                Column::integer("Available"),
                Column::text("Node Selector"),
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
            row::integer(&status["desiredNumberScheduled"]),
            row::integer(&status["currentNumberScheduled"]),
            row::integer(&status["numberReady"]),
            row::integer(&status["updatedNumberScheduled"]),
            row::integer(&status["numberAvailable"]),
            row::labels(&spec["template"]["spec"]["nodeSelector"]),
            row::age(object, now),
            names,
            images,
            row::label_selector(&spec["selector"]),
        ]
    }
}

fn template_generation(object: &Value) -> i64 {
    let annotation = &object["metadata"]["annotations"][TEMPLATE_GENERATION];
    annotation.as_str().and_then(|text| text.parse().ok()).unwrap_or(1)
}

fn set_template_generation(object: &mut Value, generation: i64) {
    let annotations = child(child(object, "metadata"), "annotations");
    set(annotations, TEMPLATE_GENERATION, generation.to_string());
}
