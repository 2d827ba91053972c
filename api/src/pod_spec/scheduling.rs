//! Validation of what guides the scheduler: affinity, tolerations, spreading.

use std::collections::BTreeSet;

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
        if matches!(operator.str(), "In" | "NotIn") && expression.at("values").len() != 1 {
            let detail = "must be only one value when `operator` is 'In' or 'NotIn' for node \
                          field selector";
            errors.push(expression.at("values").required(detail));
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
    let mut seen = BTreeSet::new();
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
        if !seen.insert((key.str(), action.str())) {
            let path = format!("{}.{{topologyKey, whenUnsatisfiable}}", constraint.path);
            let pair = format!("{{{}, {}}}", key.str(), action.str());
            errors.push(FieldError::duplicate(&path, pair));
        }
        let domains = constraint.at("minDomains");
        if let Some(least) = domains.int() {
            if least <= 0 {
                errors.push(domains.invalid("must be greater than zero"));
            }
            if action.str() != "DoNotSchedule" {
                errors.push(domains.invalid(format!(
                    "can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {}",
                    action.str()
                )));
            }
        }
        for policy in ["nodeAffinityPolicy", "nodeTaintsPolicy"].map(|name| constraint.at(name)) {
            if policy.exists() {
                errors.extend(policy.one_of(&["Honor", "Ignore"]));
            }
        }
        errors.extend(validate_match_label_keys(&constraint));
        errors.extend(validate_label_selector(&constraint.at("labelSelector")));
    }
    errors
}

/// Keys whose values the pod's own labels give go with a selector that does not name them.
fn validate_match_label_keys(constraint: &Field<'_>) -> ErrorList {
    let (keys, selector) = (constraint.at("matchLabelKeys"), constraint.at("labelSelector"));
    let mut errors = ErrorList::new();
    if keys.is_empty() {
        return errors;
    }
    if !selector.exists() {
        errors.push(keys.forbidden("must not be specified when labelSelector is not set"));
    }
    let labels = selector.at("matchLabels").entries().into_iter().map(|(key, _)| key);
    let expressions = selector.at("matchExpressions").items();
    let selected: BTreeSet<&str> =
        labels.chain(expressions.iter().map(|expression| expression.at("key").str())).collect();
    for key in keys.items() {
        errors.extend(key.invalid_each(names::label_key(key.str())));
        if selected.contains(key.str()) {
            errors.push(key.invalid("exists in both matchLabelKeys and labelSelector"));
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn spread(constraints: Value) -> Vec<String> {
        let errors = validate_spread(&Field::new(&constraints, "c"));
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn spreading_says_what_it_means() {
        let valid = json!([{
            "maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule",
            "minDomains": 2, "nodeTaintsPolicy": "Honor", "matchLabelKeys": ["hash"],
            "labelSelector": {"matchLabels": {"app": "web"}},
        }]);
        assert!(spread(valid).is_empty());
        let invalid = json!([
            {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway",
                "minDomains": 0, "nodeAffinityPolicy": "Maybe", "matchLabelKeys": ["a"]},
            {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway",
                "matchLabelKeys": ["app"], "labelSelector": {"matchLabels": {"app": "web"}}},
        ]);
        assert_eq!(
            spread(invalid),
            [
                "c[0].minDomains: Invalid value: 0: must be greater than zero",
                "c[0].minDomains: Invalid value: 0: can only use minDomains if \
                 whenUnsatisfiable=DoNotSchedule, not ScheduleAnyway",
                "c[0].nodeAffinityPolicy: Unsupported value: \"Maybe\": supported values: \
                 \"Honor\", \"Ignore\"",
                "c[0].matchLabelKeys: Forbidden: must not be specified when labelSelector is not \
                 set",
                "c[1].{topologyKey, whenUnsatisfiable}: Duplicate value: \"{zone, \
                 ScheduleAnyway}\"",
                "c[1].matchLabelKeys[0]: Invalid value: \"app\": exists in both matchLabelKeys \
                 and labelSelector",
            ]
        );
    }

    #[test]
    fn a_node_is_selected_by_one_name() {
        let selector = json!({"nodeSelectorTerms": [{"matchFields": [
            {"key": "metadata.name", "operator": "In", "values": ["a", "b"]}]}]});
        let errors = validate_node_selector(&Field::new(&selector, "s"));
        assert_eq!(
            errors.iter().map(ToString::to_string).collect::<Vec<_>>(),
            [
                "s.nodeSelectorTerms[0].matchFields[0].values: Required value: must be only one value \
              when `operator` is 'In' or 'NotIn' for node field selector"
            ]
        );
    }
}
