//! What the kinds that make pods from a template have in common.

use serde_json::Value;

use crate::defaults::{child, set, set_default};
use crate::pod_spec::defaults::default_template;

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
