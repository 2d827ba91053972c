//! Validation of pod templates and of the selectors that go with them.

use crate::field::Field;
use crate::field_error::{ErrorList, FieldError};
use crate::metadata::{validate_annotations, validate_label_selector, validate_labels};
use crate::pod_spec::validate_pod_spec;
use crate::selector::LabelSelector;

/// Checks a pod template; `restart_policies` are those that the workload allows.
pub fn validate_template(template: &Field<'_>, restart_policies: &[&str]) -> ErrorList {
    let metadata = template.at("metadata");
    let mut errors = validate_labels(&metadata.at("labels"));
    errors.extend(validate_annotations(&metadata.at("annotations")));
    let spec = template.at("spec");
    errors.extend(validate_pod_spec(&spec));
    let ephemeral = spec.at("ephemeralContainers");
    if !ephemeral.is_empty() {
        errors.push(ephemeral.forbidden("ephemeral containers not allowed in pod template"));
    }
    let policy = spec.at("restartPolicy");
    let known = ["Always", "OnFailure", "Never"].contains(&policy.str());
    if known && !restart_policies.contains(&policy.str()) {
        if restart_policies.contains(&"Always") {
            errors.push(policy.not_supported(restart_policies));
        } else {
            let names: Vec<String> = restart_policies.iter().map(|p| format!("{p:?}")).collect();
            errors.push(policy.required(&format!("valid values: {}", names.join(", "))));
        }
    }
    errors
}

/// Checks that a selector is there, says something, and selects the template beside it.
pub fn validate_selector_and_labels(spec: &Field<'_>, empty_message: &str) -> ErrorList {
    let mut errors = ErrorList::new();
    let selector = spec.at("selector");
    if !selector.exists() {
        errors.push(selector.required(""));
        return errors;
    }
    errors.extend(validate_label_selector(&selector));
    if selector.at("matchLabels").is_empty() && selector.at("matchExpressions").is_empty() {
        errors.push(selector.invalid(empty_message));
    }
    match LabelSelector::from_json(selector.value) {
        Ok(parsed) => {
            let labels = spec.at("template").at("metadata").at("labels");
            if !parsed.is_everything() && !parsed.matches_json(labels.value) {
                errors.push(labels.invalid("`selector` does not match template `labels`"));
            }
        }
        Err(_) => errors.push(FieldError::invalid(
            &selector.path,
            selector.value.clone(),
            "invalid label selector",
        )),
    }
    errors
}
