//! Deployment.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::row;
use super::workload::{replicas_and_template, selector_from_template, template_names_selector};
use crate::defaults::{child, copy_from, empty, set, set_default, set_default_text, take};
use crate::field::same;
use crate::field_error::ErrorList;
use crate::pod_spec::defaults::{default_bounds, quarter};
use crate::registry::{
    Behaviour, Cell, Column, Resource, Served, Subresource, keep_all_but_status,
};

/// The row of the resource table.
pub const RESOURCE: Resource =
    Resource::new(SERVED, &Deployment).with_status().with_scale().with_generation();

const CURRENT: Served =
    Served::new("apps", "v1", "Deployment", "deployments", "deployment").short(&["deploy"]).all();

const SERVED: &[Served] = &[
    CURRENT,
    CURRENT.also("apps", "v1beta2"),
    CURRENT.also("apps", "v1beta1"),
    CURRENT.also("extensions", "v1beta1"),
];

/// The annotation that carries `spec.rollbackTo` of the old versions.
const ROLLBACK_TO: &str = "deprecated.deployment.rollback.to";

struct Deployment;

impl Behaviour for Deployment {
    fn stored(&self) -> (&'static str, &'static str) {
        ("apps/v1", "Deployment")
    }

    fn to_storage(&self, served: &Served, object: &mut Value) -> Result<(), ErrorList> {
        if template_names_selector(served.group, served.version) {
            selector_from_template(object);
        }
        let spec = child(object, "spec");
        replicas_and_template(spec);
        let strategy = child(spec, "strategy");
        set_default_text(strategy, "type", "RollingUpdate");
        let extensions = served.group == "extensions";
        if strategy["type"] == "RollingUpdate" {
            let bound = if extensions { json!(1) } else { quarter() };
            default_bounds(strategy, bound.clone(), bound);
        }
        let (history, deadline) = match (served.group, served.version) {
            ("extensions", _) => (i32::MAX, i32::MAX),
            (_, "v1beta1") => (2, 600),
            _ => (10, 600),
        };
        set_default(spec, "revisionHistoryLimit", history);
        set_default(spec, "progressDeadlineSeconds", deadline);
        let rollback = take(spec, "rollbackTo");
        if rollback.is_object() && served.version == "v1beta1" {
            let revision = rollback["revision"].as_i64().unwrap_or(0);
            let annotations = child(child(object, "metadata"), "annotations");
            set(annotations, ROLLBACK_TO, revision.to_string());
        }
        Ok(())
    }

    fn from_storage(&self, served: &Served, object: &mut Value) {
        if served.version == "v1beta1" {
            let annotation = &object["metadata"]["annotations"][ROLLBACK_TO];
            if let Some(revision) = annotation.as_str().and_then(|t| t.parse::<i64>().ok()) {
                take(&mut object["metadata"]["annotations"], ROLLBACK_TO);
                set(child(object, "spec"), "rollbackTo", json!({ "revision": revision }));
            }
        }
    }

    fn prepare_for_create(&self, object: &mut Value) {
        set(object, "status", empty());
    }

    fn prepare_for_update(&self, object: &mut Value, old: &Value, subresource: Subresource<'_>) {
        match subresource {
            Subresource::Status => {
                keep_all_but_status(object, old);
                copy_from(&mut object["metadata"], &old["metadata"], "labels");
            }
            _ => copy_from(object, old, "status"),
        }
    }

    fn generation_changed(&self, object: &Value, old: &Value) -> bool {
        let annotations = |value: &Value| value["metadata"]["annotations"].clone();
        !same(&object["spec"], &old["spec"]) || !same(&annotations(object), &annotations(old))
    }

    fn columns(&self) -> &'static [Column] {
        const {
            &[
                Column::NAME,
                Column::text("Ready"),
                Column::text("Up-to-date"),
                Column::text("Available"),
                Column::AGE,
                Column::wide("Containers"),
                Column::wide("Images"),
                Column::wide("Selector"),
            ]
        }
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Cell> {
        let (spec, status) = (&object["spec"], &object["status"]);
        let desired = spec["replicas"].as_i64().unwrap_or(0);
        let ready = status["readyReplicas"].as_i64().unwrap_or(0);
        let [names, images] = row::containers(&spec["template"]["spec"]);
        vec![
            row::name(object),
            format!("{ready}/{desired}").into(),
            row::integer(&status["updatedReplicas"]),
            row::integer(&status["availableReplicas"]),
            row::age(object, now),
            names,
            images,
            row::label_selector(&spec["selector"]),
        ]
    }
}
