//! Validation of what guides the scheduler: affinity, tolerations, spreading.

use crate::field::Field;
use crate::field_error::{ErrorList, FieldError};
use crate::metadata::validate_label_selector;
use crate::names;

/// Checks `spec.tolerations`.
pub fn validate_tolerations(tolerations: &Field<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    for toleration in tolerations.items() {
        let [key, operator, value, effect] =
            ["key", "operator", "value", "effect"].map(|name| toleration.at(name));
        if !key.is_empty() {
            errors.extend(key.invalid_each(names::label_key(key.str())));
        } else if operator.str() != "Exists" {
            errors.push(FieldError::invalid(
                &operator.path,
                operator.str(),
                "operator must be Exists when `key` is empty, which means \"match all values and \
                 all keys\"",
            ));
        }
        if toleration.at("tolerationSeconds").exists() && effect.str() != "NoExecute" {
            errors.push(FieldError::invalid(
                &effect.path,
                effect.str(),
                "effect must be 'NoExecute' when `tolerationSeconds` is set",
            ));
        }
        match operator.str() {
            "Equal" | "" => {
                for message in names::label_value(value.str()) {
                    errors.push(FieldError::invalid(&operator.path, value.str(), message));
                }
            }
            "Exists" => {
                if !value.is_empty() {
                    errors.push(FieldError::invalid(
                        &operator.path,
                        toleration.value.clone(),
                        "value must be empty when `operator` is 'Exists'",
                    ));
                }
            }
            _ => errors.push(operator.not_supported(&["Equal", "Exists"])),
        }
        if !effect.is_empty() {
            errors.extend(effect.one_of(&["NoSchedule", "PreferNoSchedule", "NoExecute"]));
        }
    }
    errors
}

/// Checks `spec.affinity`.
pub fn validate_affinity(affinity: &Field<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    let node = affinity.at("nodeAffinity");
    let required = node.at("requiredDuringSchedulingIgnoredDuringExecution");
    if required.exists() {
        errors.extend(validate_node_selector(&required));
    }
    for preferred in node.at("preferredDuringSchedulingIgnoredDuringExecution").items() {
        errors.extend(validate_weight(&preferred.at("weight")));
        errors.extend(validate_node_term(&preferred.at("preference")));
    }
    for name in ["podAffinity", "podAntiAffinity"] {
        let pods = affinity.at(name);
        for term in pods.at("requiredDuringSchedulingIgnoredDuringExecution").items() {
            errors.extend(validate_pod_term(&term));
        }
        for preferred in pods.at("preferredDuringSchedulingIgnoredDuringExecution").items() {
            errors.extend(validate_weight(&preferred.at("weight")));
            errors.extend(validate_pod_term(&preferred.at("podAffinityTerm")));
        }
    }
    errors
}

/// Checks a `NodeSelector`.
pub fn validate_node_selector(selector: &Field<'_>) -> ErrorList {
    let terms = selector.at("nodeSelectorTerms");
    let mut errors = ErrorList::new();
    if terms.is_empty() {
        errors.push(terms.required("must have at least one node selector term"));
    }
    for term in terms.items() {
        errors.extend(validate_node_term(&term));
    }
    errors
}

fn validate_node_term(term: &Field<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    for expression in term.at("matchExpressions").items() {
        let [key, operator, values] = ["key", "operator", "values"].map(|name| expression.at(name));
        match operator.str() {
            "In" | "NotIn" if values.is_empty() => {
                errors
                    .push(values.required("must be specified when `operator` is 'In' or 'NotIn'"));
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                errors.push(values.forbidden(
                    "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
                ))
            }
            "Gt" | "Lt" if values.len() != 1 => errors.push(
                values.required("must be specified single value when `operator` is 'Lt' or 'Gt'"),
            ),
            "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
            _ => errors.push(operator.invalid("not a valid selector operator")),
        }
        errors.extend(key.invalid_each(names::label_key(key.str())));
    }
    for expression in term.at("matchFields").items() {
        let (key, operator) = (expression.at("key"), expression.at("operator"));
        if !matches!(operator.str(), "In" | "NotIn") {
            errors.push(operator.invalid("not a valid selector operator"));
        }
        if key.str() != "metadata.name" {
            errors.push(key.invalid("not a valid field selector key"));
        }
    }
    errors
}

fn validate_weight(weight: &Field<'_>) -> Option<FieldError> {
    let range = 1..=100;
    (!range.contains(&weight.int().unwrap_or(0)))
        .then(|| weight.invalid("must be in the range 1-100"))
}

fn validate_pod_term(term: &Field<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    for name in ["labelSelector", "namespaceSelector"] {
        errors.extend(validate_label_selector(&term.at(name)));
    }
    for namespace in term.at("namespaces").items() {
        errors.extend(namespace.invalid_each(names::dns1123_label(namespace.str())));
    }
    let key = term.at("topologyKey");
    if key.is_empty() {
        errors.push(key.required("can not be empty"));
    } else {
        errors.extend(key.invalid_each(names::label_key(key.str())));
    }
    errors
}

/// Checks `spec.topologySpreadConstraints`.
pub fn validate_spread(constraints: &Field<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    for constraint in constraints.items() {
        let skew = constraint.at("maxSkew");
        if skew.int().unwrap_or(0) <= 0 {
            errors.push(skew.invalid("must be greater than zero"));
        }
        let key = constraint.at("topologyKey");
        if key.is_empty() {
            errors.push(key.required("can not be empty"));
        } else {
            errors.extend(key.invalid_each(names::label_key(key.str())));
        }
        let action = constraint.at("whenUnsatisfiable");
        errors.extend(action.one_of(&["DoNotSchedule", "ScheduleAnyway"]));
        errors.extend(validate_label_selector(&constraint.at("labelSelector")));
    }
    errors
}
