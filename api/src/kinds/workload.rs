//! What the kinds that make pods from a template have in common.

use serde_json::Value;

use crate::defaults::{child, set, set_default};
use crate::field::Field;
use crate::field_error::{ErrorList, FieldError};
use crate::names;
use crate::pod_spec::defaults::default_template;
use crate::pod_spec::validate_template;

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

/// `spec.selector` may not change.
pub fn immutable_selector(object: &Value, old: &Value) -> Option<FieldError> {
    Field::root(object).at("spec").at("selector").immutable(&old["spec"]["selector"])
}

/// Checks a bound that is a number or a percentage: its form, or (`capped`) that it is not above
/// 100%.
pub fn validate_int_or_percent(bound: &Field<'_>, capped: bool) -> Vec<FieldError> {
    let percent = bound.value.as_str();
    if capped {
        let above = percent.and_then(|t| t.strip_suffix('%')?.parse::<i64>().ok());
        let above = above.is_some_and(|percent| percent > 100);
        return above.then(|| bound.invalid("must not be greater than 100%")).into_iter().collect();
    }
    match percent {
        Some(text) => bound.invalid_each(names::percent(text)),
        None => bound.non_negative().into_iter().collect(),
    }
}
