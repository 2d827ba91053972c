//! Validation of what a job says about failures, successes and indexes.

use std::collections::BTreeSet;

use crate::field::Field;
use crate::field_error::ErrorList;

/// An indexed job runs at most this many pods at once.
const INDEXED_PARALLELISM_MAX: i64 = 100_000;
const RULES_MAX: usize = 20;
const EXIT_CODES_MAX: usize = 255;

/// Checks the completion mode and what depends on it.
pub fn validate(spec: &Field<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    let indexed = spec.at("completionMode").str() == "Indexed";
    let (per_index, failed) = (spec.at("backoffLimitPerIndex"), spec.at("maxFailedIndexes"));
    if indexed {
        errors.extend(validate_indexed(spec));
    } else {
        for field in [&per_index, &failed, &spec.at("successPolicy")] {
            if field.exists() {
                errors.push(field.invalid("requires indexed completion mode"));
            }
        }
    }
    if failed.exists() && !per_index.exists() {
        errors.push(per_index.required("when maxFailedIndexes is specified"));
    }
    let policy = spec.at("podFailurePolicy");
    let replacement = spec.at("podReplacementPolicy");
    if policy.exists() {
        let restart = spec.at("template").at("spec").at("restartPolicy");
        if !restart.is_empty() && restart.str() != "Never" {
            let detail = "only \"Never\" is supported when podFailurePolicy is specified";
            errors.push(restart.invalid(detail));
        }
        let rules = policy.at("rules");
        if rules.len() > RULES_MAX {
            errors.push(rules.invalid(format!("must have at most {RULES_MAX} items")));
        }
        let pod = spec.at("template").at("spec");
        let containers: BTreeSet<&str> = ["containers", "initContainers"]
            .into_iter()
            .flat_map(|key| pod.at(key).items())
            .map(|container| container.at("name").str())
            .collect();
        for rule in rules.items() {
            errors.extend(validate_failure_rule(spec, &containers, &rule));
        }
        if replacement.exists() {
            errors.extend(replacement.one_of(&["Failed"]));
        }
    } else if replacement.exists() {
        errors.extend(replacement.one_of(&["Failed", "TerminatingOrFailed"]));
    }
    errors
}

fn validate_indexed(spec: &Field<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    let completions = spec.at("completions");
    if !completions.exists() {
        errors.push(completions.required("when completion mode is Indexed"));
    }
    let parallelism = spec.at("parallelism");
    if parallelism.int().is_some_and(|pods| pods > INDEXED_PARALLELISM_MAX) {
        errors.push(parallelism.invalid(format!(
            "must be less than or equal to {INDEXED_PARALLELISM_MAX} when completion mode is \
             Indexed"
        )));
    }
    let failed = spec.at("maxFailedIndexes");
    if let (Some(most), Some(completions)) = (failed.int(), completions.int())
        && most > completions
    {
        errors.push(failed.invalid("must be less than or equal to completions"));
    }
    let policy = spec.at("successPolicy");
    if !policy.exists() {
        return errors;
    }
    let rules = policy.at("rules");
    if rules.is_empty() {
        errors.push(
            rules.required(
                "at least one rules must be specified when the successPolicy is specified",
            ),
        );
    }
    if rules.len() > RULES_MAX {
        errors.push(rules.invalid(format!("must have at most {RULES_MAX} items")));
    }
    for rule in rules.items() {
        let (count, indexes) = (rule.at("succeededCount"), rule.at("succeededIndexes"));
        if !count.exists() && !indexes.exists() {
            let detail = "at least one of succeededCount or succeededIndexes must be specified";
            errors.push(rule.required(detail));
        }
        let mut named = completions.int();
        if indexes.exists() {
            match count_indexes(indexes.str(), completions.int().unwrap_or(0)) {
                Ok(total) => named = Some(total),
                Err(why) => {
                    errors.push(indexes.invalid(format!("error parsing succeededIndexes: {why}")))
                }
            }
        }
        if let (Some(count_wanted), Some(named)) = (count.int(), named) {
            if count_wanted < 1 {
                errors.push(count.invalid("must be greater than or equal to 1"));
            } else if count_wanted > named {
                let what = if indexes.exists() {
                    "the number of indexes in the specified succeededIndexes field"
                } else {
                    "the number of specified completions"
                };
                let detail = format!("must be less than or equal to {named} ({what})");
                errors.push(count.invalid(detail));
            }
        }
    }
    errors
}

/// How many indexes `1,3-5` names; they ascend and are below `completions`.
fn count_indexes(text: &str, completions: i64) -> Result<i64, String> {
    let (mut total, mut next) = (0, 0);
    for interval in text.split(',').filter(|_| !text.is_empty()) {
        let (first, last) = interval.split_once('-').unwrap_or((interval, interval));
        let number = |text: &str| {
            text.parse::<i64>()
                .map_err(|_| format!("cannot convert string to integer for index: {text:?}"))
        };
        let (first, last) = (number(first)?, number(last)?);
        if first < next || last < first {
            return Err(format!("non-increasing order, previous: {}, current: {first}", next - 1));
        }
        if last >= completions {
            return Err(format!("too large index: {:?}", last.to_string()));
        }
        total += last - first + 1;
        next = last + 1;
    }
    Ok(total)
}

fn validate_failure_rule(
    spec: &Field<'_>,
    containers: &BTreeSet<&str>,
    rule: &Field<'_>,
) -> ErrorList {
    let mut errors = ErrorList::new();
    let action = rule.at("action");
    if action.is_empty() {
        let detail = "valid values: [\"Count\" \"FailIndex\" \"FailJob\" \"Ignore\"]";
        errors.push(action.required(detail));
    } else if action.str() == "FailIndex" && !spec.at("backoffLimitPerIndex").exists() {
        errors.push(action.invalid("requires the backoffLimitPerIndex to be set"));
    } else {
        errors.extend(action.one_of(&["Count", "FailIndex", "FailJob", "Ignore"]));
    }
    let (codes, conditions) = (rule.at("onExitCodes"), rule.at("onPodConditions"));
    match (codes.exists(), !conditions.is_empty()) {
        (true, true) => errors
            .push(rule.invalid("specifying both OnExitCodes and OnPodConditions is not supported")),
        (false, false) => errors
            .push(rule.invalid("specifying one of OnExitCodes and OnPodConditions is required")),
        (true, false) => errors.extend(validate_exit_codes(containers, &codes)),
        (false, true) => {
            for pattern in conditions.items() {
                if pattern.at("type").is_empty() {
                    errors.push(pattern.at("type").required(""));
                }
                let status = pattern.at("status");
                if status.is_empty() {
                    let detail = "valid values: [\"False\" \"True\" \"Unknown\"]";
                    errors.push(status.required(detail));
                } else {
                    errors.extend(status.one_of(&["False", "True", "Unknown"]));
                }
            }
        }
    }
    errors
}

fn validate_exit_codes(containers: &BTreeSet<&str>, codes: &Field<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    let operator = codes.at("operator");
    if operator.is_empty() {
        errors.push(operator.required("valid values: [\"In\" \"NotIn\"]"));
    } else {
        errors.extend(operator.one_of(&["In", "NotIn"]));
    }
    let container = codes.at("containerName");
    if container.exists() && !containers.contains(container.str()) {
        let detail = "must be one of the container or initContainer names in the pod template";
        errors.push(container.invalid(detail));
    }
    let values = codes.at("values");
    if values.is_empty() {
        errors.push(values.invalid("at least one value is required"));
    } else if values.len() > EXIT_CODES_MAX {
        errors.push(values.invalid(format!("must have at most {EXIT_CODES_MAX} items")));
    }
    let mut seen = BTreeSet::new();
    let mut ordered = true;
    for value in values.items() {
        let Some(code) = value.int() else { continue };
        if code == 0 && operator.str() == "In" {
            errors.push(value.invalid("must not be 0 for the In operator"));
        }
        ordered &= seen.last().is_none_or(|last| code >= *last);
        if !seen.insert(code) {
            errors.push(value.duplicate());
        }
    }
    if !ordered {
        errors.push(values.invalid("must be ordered"));
    }
    errors
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn errors(spec: Value) -> Vec<String> {
        let mut spec = spec;
        spec["template"] =
            json!({"spec": {"restartPolicy": "Never", "containers": [{"name": "c"}]}});
        let spec = json!({ "spec": spec });
        validate(&Field::root(&spec).at("spec")).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_needs_indexes_says_so() {
        let found = errors(json!({"backoffLimitPerIndex": 1, "successPolicy": {"rules": []}}));
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found.iter().all(|error| error.ends_with("requires indexed completion mode")));
        let ok = json!({"completionMode": "Indexed", "completions": 3, "backoffLimitPerIndex": 1,
            "successPolicy": {"rules": [{"succeededIndexes": "0,2", "succeededCount": 2}]}});
        assert_eq!(errors(ok), Vec::<String>::new());
        let found = errors(json!({"completionMode": "Indexed", "completions": 3,
            "successPolicy": {"rules": [{"succeededIndexes": "2,1"}, {"succeededCount": 4}, {}]}}));
        assert_eq!(found.len(), 3, "{found:?}");
    }

    #[test]
    fn rules_are_about_one_thing_each() {
        let rule = |rule: Value| {
            errors(json!({"podReplacementPolicy": "Failed", "podFailurePolicy": {"rules": [rule]}}))
        };
        let codes = json!({"operator": "In", "values": [1, 3]});
        assert_eq!(rule(json!({"action": "Ignore", "onExitCodes": codes})), Vec::<String>::new());
        for (bad, text) in [
            (json!({"action": "Count"}), "specifying one of OnExitCodes and OnPodConditions"),
            (
                json!({"action": "FailIndex", "onExitCodes": codes}),
                "requires the backoffLimitPerIndex",
            ),
            (
                json!({"action": "Count", "onExitCodes": {"operator": "In", "values": [3, 1]}}),
                "must be ordered",
            ),
            (
                json!({"action": "Count", "onExitCodes": {"operator": "In", "values": [0]}}),
                "must not be 0 for the In operator",
            ),
            (
                json!({"action": "Count", "onExitCodes":
                    {"operator": "In", "values": [1], "containerName": "x"}}),
                "must be one of the container or initContainer names in the pod template",
            ),
        ] {
            let found = rule(bad);
            assert!(found.len() == 1 && found[0].contains(text), "{found:?}");
        }
    }

    #[test]
    fn each_of_many_containers_can_have_a_rule() {
        let containers: Vec<Value> =
            (0..3_000).map(|n| json!({ "name": format!("c{n}") })).collect();
        let rules: Vec<Value> = (0..3_001)
            .map(|n| {
                let codes =
                    json!({"containerName": format!("c{n}"), "operator": "In", "values": [1]});
                json!({ "action": "FailJob", "onExitCodes": codes })
            })
            .collect();
        let spec = json!({
            "template": {"spec": {"restartPolicy": "Never", "containers": containers}},
            "podFailurePolicy": {"rules": rules},
        });
        let errors = validate(&Field::new(&spec, "spec"));
        let paths: Vec<&str> = errors.iter().map(|error| error.field.as_str()).collect();
        let rules = "spec.podFailurePolicy.rules";
        assert_eq!(paths, [rules, &format!("{rules}[3000].onExitCodes.containerName")]);
    }
}
