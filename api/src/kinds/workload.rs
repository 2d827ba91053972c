//! What the kinds that make pods from a template have in common.

use jiff::Timestamp;
use serde_json::Value;

use super::row;
use crate::defaults::{child, set, set_default};
use crate::field::Field;
use crate::field_error::{ErrorList, FieldError};
use crate::int_or_string::IntOrString;
use crate::names;
use crate::pod_spec::defaults::default_template;
use crate::pod_spec::{pod_warnings, validate_template};
use crate::registry::{Cell, Column};

/// The groups and versions of before `apps/v1` in which selector and labels come from the template.
pub fn template_names_selector(group: &str, version: &str) -> bool {
    matches!(
        (group, version),
        ("extensions", "v1beta1") | ("apps", "v1beta1") | ("apps", "v1alpha1")
    )
}

/// Selector and labels from the labels of the template, where they are absent.
pub fn selector_from_template(object: &mut Value) {
    let labels = object["spec"]["template"]["metadata"]["labels"].clone();
    if labels.is_null() {
        return;
    }
    let spec = child(object, "spec");
    if spec["selector"].is_null() {
        set(child(spec, "selector"), "matchLabels", labels.clone());
    }
    labels_from(object, labels);
}

/// Makes `labels` those of the object, when it has none of its own.
pub fn labels_from(object: &mut Value, labels: Value) {
    let has_own = object["metadata"]["labels"].as_object().is_some_and(|map| !map.is_empty());
    if !has_own && labels.as_object().is_some_and(|map| !map.is_empty()) {
        set(child(object, "metadata"), "labels", labels);
    }
}

/// One replica and a defaulted template.
pub fn replicas_and_template(spec: &mut Value) {
    set_default(spec, "replicas", 1);
    default_template(child(spec, "template"));
}

/// Checks the template of a workload whose pods run until they are told to stop.
pub fn validate_running_template(template: &Field<'_>, kind: &str) -> ErrorList {
    let mut errors = validate_template(template, &["Always"]);
    let deadline = template.at("spec").at("activeDeadlineSeconds");
    if deadline.exists() {
        let detail = format!("activeDeadlineSeconds in {kind} is not Supported");
        errors.push(deadline.forbidden(detail));
    }
    errors
}

/// Warnings about the template.
pub fn template_warnings(object: &Value) -> Vec<String> {
    pod_warnings(&Field::root(object).at("spec").at("template").at("spec"))
}

/// `spec.selector` may not change.
pub fn immutable_selector(object: &Value, old: &Value) -> Option<FieldError> {
    Field::root(object).at("spec").at("selector").immutable(&old["spec"]["selector"])
}

/// Checks a bound that is a number or a percentage: its form, or (`capped`) that it is not above
/// 100%.
pub fn validate_int_or_percent(bound: &Field<'_>, capped: bool) -> Vec<FieldError> {
    let limit = IntOrString::from_json(bound.value);
    if capped {
        let above = limit.and_then(|limit| limit.percent()).is_some_and(|percent| percent > 100);
        return above.then(|| bound.invalid("must not be greater than 100%")).into_iter().collect();
    }
    match limit {
        Some(IntOrString::String(text)) => bound.invalid_each(names::percent(&text)),
        _ => bound.non_negative().into_iter().collect(),
    }
}

/// Whether such a bound lets nothing through: 0 or 0%.
pub fn is_zero_bound(bound: &Field<'_>) -> bool {
    IntOrString::from_json(bound.value).is_some_and(|limit| limit.scaled(100, false) == Ok(0))
}

/// The columns of the two kinds that keep a number of pods running, and nothing more.
pub const REPLICA_COLUMNS: &[Column] = &[
    Column::NAME,
    Column::integer("Desired"),
    Column::integer("Current"),
    Column::integer("Ready"),
    Column::AGE,
    Column::wide("Containers"),
    Column::wide("Images"),
    Column::wide("Selector"),
];

/// The cells of [`REPLICA_COLUMNS`]; the two kinds write their selectors differently.
pub fn replica_cells(object: &Value, now: Timestamp, selector: Cell) -> Vec<Cell> {
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
        selector,
    ]
}

/// What field selectors may ask of these two kinds.
pub fn replica_fields(object: &Value) -> Vec<(&'static str, String)> {
    vec![("status.replicas", object["status"]["replicas"].as_i64().unwrap_or(0).to_string())]
}
