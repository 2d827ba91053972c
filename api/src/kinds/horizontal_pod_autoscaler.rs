//! HorizontalPodAutoscaler: stored as autoscaling/v2, also served as v1.

mod v1;
mod validation;

use jiff::Timestamp;
use serde_json::{Value, json};

use self::validation::{validate_behavior, validate_metric, validate_reference};
use super::row;
use crate::defaults::{child, object_at, set, set_default};
use crate::field::Field;
use crate::field_error::{ErrorList, FieldError};
use crate::registry::{Behaviour, Cell, Column, Resource, Served};

/// The row of the resource table.
pub const RESOURCE: Resource = Resource::new(SERVED, &HorizontalPodAutoscaler).with_status();

const CURRENT: Served = Served::new(
    "autoscaling",
    "v2",
    "HorizontalPodAutoscaler",
    "horizontalpodautoscalers",
    "horizontalpodautoscaler",
)
.short(&["hpa"])
.all();

const SERVED: &[Served] = &[CURRENT, CURRENT.also("autoscaling", "v1")];

struct HorizontalPodAutoscaler;

impl Behaviour for HorizontalPodAutoscaler {
    fn to_storage(&self, served: &Served, object: &mut Value) -> Result<(), ErrorList> {
        if served.version == "v1" {
            v1::to_v2(object);
        }
        let spec = child(object, "spec");
        set_default(spec, "minReplicas", 1);
        if row::count(&spec["metrics"]) == 0 {
            let target = json!({ "type": "Utilization", "averageUtilization": 80 });
            set(
                spec,
                "metrics",
                json!([{ "type": "Resource", "resource": { "name": "cpu", "target": target } }]),
            );
        }
        if let Some(behavior) = object_at(spec, "behavior") {
            default_behavior(behavior);
        }
        Ok(())
    }

    fn to_served(&self, served: &Served, object: &mut Value) {
        if served.version == "v1" {
            v1::from_v2(object);
        }
    }

    fn prepare_for_create(&self, object: &mut Value) {
        set(object, "status", json!({ "desiredReplicas": 0, "currentMetrics": null }));
    }

    fn validate(&self, object: &Value) -> ErrorList {
        let spec = Field::root(object).at("spec");
        let mut errors = ErrorList::new();
        let (least, most) = (spec.at("minReplicas"), spec.at("maxReplicas"));
        let lower = least.int().unwrap_or(1);
        if lower < 1 {
            errors.push(least.invalid("must be greater than or equal to 1"));
        }
        let upper = most.int().unwrap_or(0);
        if upper < 1 {
            errors.push(FieldError::invalid(&most.path, upper, "must be greater than 0"));
        }
        if upper < lower {
            let detail = "must be greater than or equal to `minReplicas`";
            errors.push(FieldError::invalid(&most.path, upper, detail));
        }
        errors.extend(validate_reference(&spec.at("scaleTargetRef")));
        for metric in spec.at("metrics").items() {
            errors.extend(validate_metric(&metric));
        }
        errors.extend(validate_behavior(&spec.at("behavior")));
        errors
    }

    fn columns(&self) -> &'static [Column] {
        const {
            &[
                Column::NAME,
                Column::text("Reference"),
                Column::text("Targets"),
                Column::text("MinPods"),
                Column::text("MaxPods"),
                Column::text("Replicas"),
                Column::AGE,
            ]
        }
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Cell> {
        let (spec, status) = (&object["spec"], &object["status"]);
        let target = &spec["scaleTargetRef"];
        let reference =
            format!("{}/{}", row::plain(&target["kind"], ""), row::plain(&target["name"], ""));
        vec![
            row::name(object),
            reference.into(),
            targets(&spec["metrics"], &status["currentMetrics"]).into(),
            row::plain(&spec["minReplicas"], "<unset>").into(),
            row::integer(&spec["maxReplicas"]),
            row::integer(&status["currentReplicas"]),
            row::age(object, now),
        ]
    }
}

fn default_behavior(behavior: &mut Value) {
    let percent = json!({ "type": "Percent", "value": 100, "periodSeconds": 15 });
    let pods = json!({ "type": "Pods", "value": 4, "periodSeconds": 15 });
    let up = child(behavior, "scaleUp");
    set_default(up, "stabilizationWindowSeconds", 0);
    set_default(up, "selectPolicy", "Max");
    set_default(up, "policies", json!([pods, percent]));
    let down = child(behavior, "scaleDown");
    set_default(down, "selectPolicy", "Max");
    set_default(down, "policies", json!([percent]));
}

/// At most this many metrics are shown.
const SHOWN: usize = 2;

fn targets(specs: &Value, statuses: &Value) -> String {
    let specs = specs.as_array().map_or(&[][..], Vec::as_slice);
    if specs.is_empty() {
        return "<none>".to_owned();
    }
    let texts: Vec<String> =
        specs.iter().enumerate().map(|(index, spec)| metric(spec, &statuses[index])).collect();
    if texts.len() > SHOWN {
        format!("{} + {} more...", texts[..SHOWN].join(", "), texts.len() - SHOWN)
    } else {
        texts.join(", ")
    }
}

fn metric(spec: &Value, status: &Value) -> String {
    let kind = spec["type"].as_str().unwrap_or_default();
    let key = match kind {
        "Resource" => "resource",
        "ContainerResource" => "containerResource",
        "Pods" => "pods",
        "Object" => "object",
        "External" => "external",
        _ => return "<unknown type>".to_owned(),
    };
    let (target, current) = (&spec[key]["target"], &status[key]["current"]);
    let name = format!("{}: ", row::plain(&spec[key]["name"], ""));
    let prefix = if key.ends_with("esource") { name.as_str() } else { "" };
    let average = &target["averageValue"];
    if average.is_string() {
        let shown = row::plain(&current["averageValue"], "<unknown>");
        let suffix = if matches!(kind, "Object" | "External") { " (avg)" } else { "" };
        return format!("{prefix}{shown}/{}{suffix}", row::plain(average, ""));
    }
    if matches!(kind, "Object" | "External") {
        let shown = row::plain(&current["value"], "<unknown>");
        return format!("{shown}/{}", row::plain(&target["value"], ""));
    }
    let percent = |value: &Value, empty: &str| match value.as_i64() {
        Some(number) => format!("{number}%"),
        None => empty.to_owned(),
    };
    format!(
        "{prefix}{}/{}",
        percent(&current["averageUtilization"], "<unknown>"),
        percent(&target["averageUtilization"], "<auto>")
    )
}
