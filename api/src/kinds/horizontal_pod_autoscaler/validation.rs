//! Validation of what an autoscaler goes by and how fast (upstream `validateMetrics`,
//! `validateBehavior`).

use crate::field::Field;
use crate::field_error::ErrorList;
use crate::names;
use crate::quantity::Quantity;

/// Types of metric source, and the field in which each is described.
const SOURCES: [(&str, &str); 5] = [
    ("ContainerResource", "containerResource"),
    ("External", "external"),
    ("Object", "object"),
    ("Pods", "pods"),
    ("Resource", "resource"),
];

const MAX_STABILIZATION_SECONDS: i64 = 3600;
const MAX_PERIOD_SECONDS: i64 = 1800;

/// Checks a reference to what is scaled or measured.
pub fn validate_reference(target: &Field<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    for field in ["kind", "name"].map(|name| target.at(name)) {
        errors.extend(validate_segment(&field));
    }
    errors
}

/// Checks one element of `spec.metrics`.
pub fn validate_metric(metric: &Field<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    let kind = metric.at("type");
    if kind.is_empty() {
        errors.push(kind.required("must specify a metric source type"));
        return errors;
    }
    let Some((_, name)) = SOURCES.iter().find(|(known, _)| *known == kind.str()) else {
        errors.push(kind.not_supported(&SOURCES.map(|(known, _)| known)));
        return errors;
    };
    let source = metric.at(name);
    if source.exists() {
        errors.extend(validate_source(kind.str(), &source));
    } else {
        errors.push(source.required("must populate information for the given metric source"));
    }
    for (_, other) in SOURCES.iter().filter(|(_, other)| other != name) {
        if metric.at(other).exists() {
            let detail = "must populate the given metric source only";
            errors.push(metric.at(other).forbidden(detail));
        }
    }
    errors
}

fn validate_source(kind: &str, source: &Field<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    let target = source.at("target");
    let [value, average, utilization] =
        ["value", "averageValue", "averageUtilization"].map(|name| target.at(name));
    if kind == "Object" {
        errors.extend(validate_reference(&source.at("describedObject")));
    }
    if kind.ends_with("Resource") {
        if source.at("name").is_empty() {
            errors.push(source.at("name").required("must specify a resource name"));
        }
        if kind == "ContainerResource" && source.at("container").is_empty() {
            errors.push(source.at("container").required("must specify a container"));
        }
    } else {
        errors.extend(validate_segment(&source.at("metric").at("name")));
    }
    errors.extend(validate_target(&target));
    match kind {
        "Pods" => {
            if !average.exists() || !is_positive(&average) {
                errors.push(average.required("must specify a positive target averageValue"));
            }
        }
        "Object" | "External" => {
            if !value.exists() && !average.exists() {
                let detail = "must set either a target value for metric or a per-pod target";
                errors.push(average.required(detail));
            } else if kind == "External" && value.exists() && average.exists() {
                let detail = "may not set both a target value for metric and a per-pod target";
                errors.push(value.forbidden(detail));
            }
        }
        _ => {
            if !utilization.exists() && !average.exists() {
                let detail = "must set either a target raw value or a target utilization";
                errors.push(utilization.required(detail));
            } else if utilization.exists() && average.exists() {
                let detail = "may not set both a target raw value and a target utilization";
                errors.push(average.forbidden(detail));
            }
        }
    }
    errors
}

fn validate_target(target: &Field<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    let kind = target.at("type");
    if kind.is_empty() {
        errors.push(kind.required("must specify a metric target type"));
    } else if !matches!(kind.str(), "Utilization" | "Value" | "AverageValue") {
        errors.push(kind.invalid("must be either Utilization, Value, or AverageValue"));
    }
    for quantity in ["value", "averageValue"].map(|name| target.at(name)) {
        if quantity.exists() && !is_positive(&quantity) {
            errors.push(quantity.invalid("must be positive"));
        }
    }
    errors.extend(target.at("averageUtilization").positive());
    errors
}

fn is_positive(quantity: &Field<'_>) -> bool {
    Quantity::from_json(quantity.value).is_ok_and(|quantity| quantity > Quantity::default())
}

/// A name that becomes part of a path.
fn validate_segment(name: &Field<'_>) -> ErrorList {
    if name.is_empty() {
        return name.required("").into();
    }
    name.invalid_each(names::path_segment(name.str())).into()
}

/// Checks `spec.behavior`.
pub fn validate_behavior(behavior: &Field<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    for rules in ["scaleUp", "scaleDown"].map(|name| behavior.at(name)) {
        if rules.exists() {
            errors.extend(validate_rules(&rules));
        }
    }
    errors
}

fn validate_rules(rules: &Field<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    let window = rules.at("stabilizationWindowSeconds");
    if window.int().is_some_and(|seconds| seconds < 0) {
        errors.push(window.invalid("must be greater than or equal to zero"));
    }
    if window.int().is_some_and(|seconds| seconds > MAX_STABILIZATION_SECONDS) {
        let detail = format!("must be less than or equal to {MAX_STABILIZATION_SECONDS}");
        errors.push(window.invalid(detail));
    }
    let choice = rules.at("selectPolicy");
    if choice.exists() {
        errors.extend(choice.one_of(&["Disabled", "Max", "Min"]));
    }
    let policies = rules.at("policies");
    if policies.is_empty() {
        errors.push(policies.required("must specify at least one Policy"));
    }
    for policy in policies.items() {
        errors.extend(policy.at("type").one_of(&["Percent", "Pods"]));
        for number in ["value", "periodSeconds"].map(|name| policy.at(name)) {
            if number.int().unwrap_or(0) <= 0 {
                errors.push(number.invalid("must be greater than zero"));
            }
        }
        let period = policy.at("periodSeconds");
        if period.int().is_some_and(|seconds| seconds > MAX_PERIOD_SECONDS) {
            let detail = format!("must be less than or equal to {MAX_PERIOD_SECONDS}");
            errors.push(period.invalid(detail));
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn texts(errors: &ErrorList) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn metrics() {
        let cases: [(Value, &[&str]); 8] = [
            (
                json!({"type": "Resource", "resource": {"name": "cpu",
                    "target": {"type": "Utilization", "averageUtilization": 50}}}),
                &[],
            ),
            (
                json!({"type": "Resource"}),
                &["m.resource: Required value: must populate information for the given metric \
                   source"],
            ),
            (
                json!({"type": "Resource", "resource": {"name": "cpu", "target": {
                    "type": "X", "averageUtilization": 0, "averageValue": "1"}}, "pods": {}}),
                &[
                    "m.resource.target.type: Invalid value: \"X\": must be either Utilization, \
                     Value, or AverageValue",
                    "m.resource.target.averageUtilization: Invalid value: 0: must be greater than \
                     0",
                    "m.resource.target.averageValue: Forbidden: may not set both a target raw \
                     value and a target utilization",
                    "m.pods: Forbidden: must populate the given metric source only",
                ],
            ),
            (
                json!({"type": "ContainerResource", "containerResource": {"name": "cpu",
                    "target": {"type": "Utilization"}}}),
                &[
                    "m.containerResource.container: Required value: must specify a container",
                    "m.containerResource.target.averageUtilization: Required value: must set \
                     either a target raw value or a target utilization",
                ],
            ),
            (
                json!({"type": "Pods", "pods": {"metric": {"name": "a/b"},
                    "target": {"type": "AverageValue", "averageValue": "0"}}}),
                &[
                    "m.pods.metric.name: Invalid value: \"a/b\": may not contain '/'",
                    "m.pods.target.averageValue: Invalid value: \"0\": must be positive",
                    "m.pods.target.averageValue: Required value: must specify a positive target \
                     averageValue",
                ],
            ),
            (
                json!({"type": "Object", "object": {"metric": {"name": "a"}, "target": {},
                    "describedObject": {"kind": "Service"}}}),
                &[
                    "m.object.describedObject.name: Required value",
                    "m.object.target.type: Required value: must specify a metric target type",
                    "m.object.target.averageValue: Required value: must set either a target value \
                     for metric or a per-pod target",
                ],
            ),
            (
                json!({"type": "External", "external": {"metric": {"name": "a"},
                    "target": {"type": "Value", "value": "1", "averageValue": "1"}}}),
                &[
                    "m.external.target.value: Forbidden: may not set both a target value for metric \
                   and a per-pod target",
                ],
            ),
            (
                json!({"type": "Foo"}),
                &["m.type: Unsupported value: \"Foo\": supported values: \"ContainerResource\", \
                   \"External\", \"Object\", \"Pods\", \"Resource\""],
            ),
        ];
        for (metric, expected) in cases {
            assert_eq!(texts(&validate_metric(&Field::new(&metric, "m"))), expected, "{metric}");
        }
    }

    #[test]
    fn behavior() {
        let behavior = json!({
            "scaleUp": {"stabilizationWindowSeconds": 5000, "selectPolicy": "All",
                "policies": [{"type": "Some", "value": 0, "periodSeconds": 5000}]},
            "scaleDown": {"policies": []},
        });
        assert_eq!(
            texts(&validate_behavior(&Field::new(&behavior, "b"))),
            [
                "b.scaleUp.stabilizationWindowSeconds: Invalid value: 5000: must be less than or \
                 equal to 3600",
                "b.scaleUp.selectPolicy: Unsupported value: \"All\": supported values: \
                 \"Disabled\", \"Max\", \"Min\"",
                "b.scaleUp.policies[0].type: Unsupported value: \"Some\": supported values: \
                 \"Percent\", \"Pods\"",
                "b.scaleUp.policies[0].value: Invalid value: 0: must be greater than zero",
                "b.scaleUp.policies[0].periodSeconds: Invalid value: 5000: must be less than or \
                 equal to 1800",
                "b.scaleDown.policies: Required value: must specify at least one Policy",
            ]
        );
    }
}
