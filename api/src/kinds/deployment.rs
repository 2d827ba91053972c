//! Deployment.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::row;
use super::workload::{
    immutable_selector, is_zero_bound, replicas_and_template, selector_from_template,
    template_names_selector, template_warnings, validate_int_or_percent, validate_running_template,
};
use crate::defaults::{child, copy_from, empty, set, set_default, set_default_text, take};
use crate::field::{Field, same};
use crate::field_error::ErrorList;
use crate::pod_spec::defaults::{default_bounds, quarter};
use crate::pod_spec::validate_selector_and_labels;
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
    CURRENT.also("extensions", "v1beta1").bare(),
];

/// The annotation that carries `spec.rollbackTo` of the old versions.
const ROLLBACK_TO: &str = "deprecated.deployment.rollback.to";

struct Deployment;

impl Behaviour for Deployment {
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

    fn to_served(&self, served: &Served, object: &mut Value) {
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

    fn validate(&self, object: &Value) -> ErrorList {
        let spec = Field::root(object).at("spec");
        let mut errors = ErrorList::new();
        errors.extend(spec.all_non_negative(&[
            "replicas",
            "minReadySeconds",
            "revisionHistoryLimit",
        ]));
        errors.extend(validate_selector_and_labels(
            &spec,
            "empty selector is invalid for deployment",
        ));
        errors.extend(validate_running_template(&spec.at("template"), "ReplicaSet"));
        errors.extend(validate_strategy(&spec.at("strategy")));
        let deadline = spec.at("progressDeadlineSeconds");
        errors.extend(deadline.non_negative());
        if let Some(seconds) = deadline.int()
            && seconds <= spec.at("minReadySeconds").int().unwrap_or(0)
        {
            errors.push(deadline.invalid("must be greater than minReadySeconds"));
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

fn validate_strategy(strategy: &Field<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    let rolling = strategy.at("rollingUpdate");
    match strategy.at("type").str() {
        "Recreate" => {
            if rolling.exists() {
                let detail = "may not be specified when strategy `type` is 'Recreate'";
                errors.push(rolling.forbidden(detail));
            }
        }
        "RollingUpdate" => {
            let (unavailable, surge) = (rolling.at("maxUnavailable"), rolling.at("maxSurge"));
            errors.extend(validate_int_or_percent(&unavailable, false));
            errors.extend(validate_int_or_percent(&surge, false));
            if is_zero_bound(&unavailable) && is_zero_bound(&surge) {
                errors.push(unavailable.invalid("may not be 0 when `maxSurge` is 0"));
            }
            errors.extend(validate_int_or_percent(&unavailable, true));
        }
        _ => errors.push(strategy.at("type").not_supported(&["Recreate", "RollingUpdate"])),
    }
    errors
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn decoded(version: &str, more: Value) -> Value {
        let template = json!({ "metadata": { "labels": { "app": "nginx" } },
            "spec": { "containers": [{ "name": "nginx", "image": "nginx" }] } });
        let mut object = json!({ "metadata": { "name": "d" }, "spec": { "template": template } });
        if let (Some(spec), Value::Object(more)) = (object["spec"].as_object_mut(), more) {
            spec.extend(more);
        }
        let (group, version) = version.split_once('/').unwrap();
        let served = SERVED.iter().find(|s| s.group == group && s.version == version).unwrap();
        RESOURCE.decode(served, &mut object).unwrap();
        object
    }

    fn errors(version: &str, more: Value) -> Vec<String> {
        Deployment.validate(&decoded(version, more)).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn defaults_of_each_version() {
        let old = decoded("apps/v1beta1", json!({}));
        assert_eq!(old["apiVersion"], "apps/v1");
        assert_eq!(old["spec"]["selector"], json!({ "matchLabels": { "app": "nginx" } }));
        assert_eq!(old["metadata"]["labels"], json!({ "app": "nginx" }));
        assert_eq!(old["spec"]["revisionHistoryLimit"], 2);
        assert_eq!(old["spec"]["strategy"]["rollingUpdate"]["maxSurge"], "25%");
        let extensions = decoded("extensions/v1beta1", json!({}));
        assert_eq!(extensions["spec"]["strategy"]["rollingUpdate"]["maxSurge"], 1);
        assert_eq!(extensions["spec"]["progressDeadlineSeconds"], i32::MAX);
        let current = decoded("apps/v1", json!({}));
        assert_eq!(current["spec"]["revisionHistoryLimit"], 10);
        assert!(current["spec"]["selector"].is_null());
    }

    #[test]
    fn messages() {
        assert_eq!(errors("apps/v1beta1", json!({})), [""; 0]);
        assert_eq!(errors("apps/v1", json!({})), ["spec.selector: Required value"]);
        assert_eq!(
            errors("apps/v1", json!({ "selector": { "matchLabels": { "app": "x" } } })),
            [
                "spec.template.metadata.labels: Invalid value: {\"app\":\"nginx\"}: `selector` does not match template `labels`"
            ]
        );
        let zero = json!({ "rollingUpdate": { "maxSurge": 0, "maxUnavailable": "0%" } });
        assert_eq!(
            errors("apps/v1beta1", json!({ "strategy": zero })),
            [
                "spec.strategy.rollingUpdate.maxUnavailable: Invalid value: \"0%\": may not be 0 when `maxSurge` is 0"
            ]
        );
        let both = json!({ "type": "Recreate", "rollingUpdate": { "maxSurge": 1 } });
        assert_eq!(
            errors("apps/v1beta1", json!({ "strategy": both })),
            [
                "spec.strategy.rollingUpdate: Forbidden: may not be specified when strategy `type` is 'Recreate'"
            ]
        );
    }
}
