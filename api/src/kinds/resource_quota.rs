//! ResourceQuota.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde_json::Value;

use super::row;
use crate::defaults::{child, empty, object_at, set};
use crate::field::Field;
use crate::field_error::{ErrorList, FieldError};
use crate::names;
use crate::quantity::{Quantity, canonicalize_list};
use crate::registry::{Behaviour, Cell, Column, Resource, Served};

/// The row of the resource table.
pub const RESOURCE: Resource = Resource::new(SERVED, &ResourceQuota).with_status();

const SERVED: &[Served] =
    &[Served::new("", "v1", "ResourceQuota", "resourcequotas", "resourcequota").short(&["quota"])];

/// Which pods a quota can be limited to.
const SCOPES: &[&str] = &[
    "BestEffort",
    "CrossNamespacePodAffinity",
    "NotBestEffort",
    "NotTerminating",
    "PriorityClass",
    "Terminating",
];

struct ResourceQuota;

impl Behaviour for ResourceQuota {
    fn to_storage(&self, _served: &Served, object: &mut Value) -> Result<(), ErrorList> {
        if let Some(hard) = object_at(child(object, "spec"), "hard") {
            canonicalize_list(hard);
        }
        for list in ["hard", "used"] {
            if let Some(list) = object_at(child(object, "status"), list) {
                canonicalize_list(list);
            }
        }
        Ok(())
    }

    fn prepare_for_create(&self, object: &mut Value) {
        set(object, "status", empty());
    }

    fn validate(&self, object: &Value) -> ErrorList {
        let spec = Field::root(object).at("spec");
        let mut errors = ErrorList::new();
        for (name, quantity) in spec.at("hard").entries() {
            errors.extend(validate_resource(&quantity, name));
            if Quantity::from_json(quantity.value).is_ok_and(|q| q.is_negative()) {
                errors.push(quantity.invalid("must be greater than or equal to 0"));
            }
        }
        errors.extend(validate_scopes(&spec));
        errors.extend(validate_scope_selector(&spec));
        errors
    }

    fn validate_change(&self, object: &Value, old: &Value) -> ErrorList {
        let scopes = Field::root(object).at("spec").at("scopes");
        scopes.immutable(&old["spec"]["scopes"]).into_iter().collect()
    }

    fn columns(&self) -> &'static [Column] {
        const { &[Column::NAME, Column::text("Request"), Column::text("Limit"), Column::AGE] }
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Cell> {
        let (spec, status) = (&object["spec"], &object["status"]);
        let (mut requests, mut limits) = (Vec::new(), Vec::new());
        for (resource, hard) in spec["hard"].as_object().into_iter().flatten() {
            let used = row::plain(&status["used"][resource], "0");
            let hard = row::plain(hard, "0");
            let list = if resource.starts_with("limits.") { &mut limits } else { &mut requests };
            list.push(format!("{resource}: {used}/{hard}"));
        }
        vec![
            row::name(object),
            requests.join(", ").into(),
            limits.join(", ").into(),
            row::age(object, now),
        ]
    }
}

/// Resources besides those that are counted under `count/`.
const STANDARD: [&str; 19] = [
    "configmaps",
    "cpu",
    "ephemeral-storage",
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "memory",
    "persistentvolumeclaims",
    "pods",
    "replicationcontrollers",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
    "requests.storage",
    "resourcequotas",
    "secrets",
    "services",
    "services.loadbalancers",
    "services.nodeports",
];

/// What only pods that ask for something take.
const COMPUTE: [&str; 6] =
    ["cpu", "limits.cpu", "limits.memory", "memory", "requests.cpu", "requests.memory"];

fn is_standard(name: &str) -> bool {
    STANDARD.contains(&name)
        || ["hugepages-", "requests.hugepages-"].iter().any(|prefix| name.starts_with(prefix))
}

fn validate_resource(quantity: &Field<'_>, name: &str) -> ErrorList {
    let messages = names::label_key(name);
    if messages.is_empty() && !name.contains('/') && !is_standard(name) {
        let detail = "must be a standard resource for quota";
        return FieldError::invalid(&quantity.path, name, detail).into();
    }
    let invalid = |message: String| FieldError::invalid(&quantity.path, name, message);
    messages.into_iter().map(invalid).collect()
}

/// Whether pods of a scope can be counted by a resource.
fn fits(scope: &str, resource: &str) -> bool {
    match scope {
        "BestEffort" => resource == "pods",
        _ => resource == "pods" || COMPUTE.contains(&resource),
    }
}

/// The scopes whose pods do not take something that the quota limits.
fn missed(spec: &Field<'_>) -> BTreeSet<&'static str> {
    let hard = spec.at("hard").entries();
    let misses =
        |scope: &&'static str| hard.iter().any(|(name, _)| is_standard(name) && !fits(scope, name));
    SCOPES.iter().copied().filter(misses).collect()
}

fn validate_scopes(spec: &Field<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    let scopes = spec.at("scopes");
    let misses = missed(spec);
    for scope in scopes.items() {
        if !SCOPES.contains(&scope.str()) {
            errors.push(scopes.invalid("unsupported scope"));
        }
        if misses.contains(scope.str()) {
            errors.push(scopes.invalid("unsupported scope applied to resource"));
        }
    }
    let scope_names: BTreeSet<&str> = scopes.items().iter().map(Field::str).collect();
    let has = |name: &str| scope_names.contains(name);
    for (scope, opposite) in [("BestEffort", "NotBestEffort"), ("Terminating", "NotTerminating")] {
        if has(scope) && has(opposite) {
            errors.push(scopes.invalid("conflicting scopes"));
        }
    }
    errors
}

/// Upstream names the list, not its element.
fn validate_scope_selector(spec: &Field<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    let list = spec.at("scopeSelector").at("matchExpressions");
    let misses = missed(spec);
    for requirement in list.items() {
        let at =
            |name: &str| Field::new(requirement.at(name).value, format!("{}.{name}", list.path));
        let [scope, operator, values] = ["scopeName", "operator", "values"].map(at);
        if !SCOPES.contains(&scope.str()) {
            errors.push(scope.invalid("unsupported scope"));
        }
        if misses.contains(scope.str()) {
            errors.push(list.invalid("unsupported scope applied to resource"));
        }
        let by_class = scope.str() == "PriorityClass";
        if SCOPES.contains(&scope.str()) && !by_class && operator.str() != "Exists" {
            errors.push(operator.invalid(
                "must be 'Exist' when scope is any of ResourceQuotaScopeTerminating, \
                 ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, \
                 ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity",
            ));
        }
        match operator.str() {
            "In" | "NotIn" if values.is_empty() => errors.push(values.required(
                "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector",
            )),
            "Exists" | "DoesNotExist" if !values.is_empty() => errors.push(values.invalid(
                "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector",
            )),
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            _ => errors.push(operator.invalid("not a valid selector operator")),
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::field_error::{ERRORS_MAX, VALUE_BYTES_MAX};

    fn errors(spec: Value) -> Vec<String> {
        let quota = json!({ "spec": spec });
        ResourceQuota.validate(&quota).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn resources_are_known_and_fit_the_scopes() {
        let fine = json!({"hard": {"pods": "4", "cpu": "1", "count/jobs.batch": "3",
            "requests.nvidia.com/gpu": "1", "requests.hugepages-2Mi": "2Mi"}});
        assert!(errors(fine).is_empty());
        assert_eq!(
            errors(json!({"hard": {"foo": "1"}})),
            ["spec.hard[foo]: Invalid value: \"foo\": must be a standard resource for quota"]
        );
        assert_eq!(
            errors(json!({"hard": {"cpu": "1", "pods": "1"}, "scopes": ["BestEffort"]})),
            ["spec.scopes: Invalid value: [\"BestEffort\"]: unsupported scope applied to resource"]
        );
        assert!(errors(json!({"hard": {"cpu": "1"}, "scopes": ["NotBestEffort"]})).is_empty());
        assert_eq!(
            errors(json!({"hard": {"pods": "1"}, "scopes": ["Foo"]})),
            ["spec.scopes: Invalid value: [\"Foo\"]: unsupported scope"]
        );
        assert_eq!(
            errors(json!({"hard": {"pods": "1"}, "scopes": ["Terminating", "NotTerminating"]})),
            [
                "spec.scopes: Invalid value: [\"Terminating\",\"NotTerminating\"]: conflicting scopes"
            ]
        );
    }

    #[test]
    fn selectors_of_scopes() {
        let of = |requirement: Value| {
            errors(json!({"hard": {"pods": "1"},
                "scopeSelector": {"matchExpressions": [requirement]}}))
        };
        let class = |operator: &str, values: Value| json!({"scopeName": "PriorityClass", "operator": operator, "values": values});
        assert!(of(class("In", json!(["high"]))).is_empty());
        assert_eq!(
            of(class("In", json!([]))),
            ["spec.scopeSelector.matchExpressions.values: Required value: must be at least one \
              value when `operator` is 'In' or 'NotIn' for scope selector"]
        );
        assert_eq!(
            of(class("Is", json!([]))),
            ["spec.scopeSelector.matchExpressions.operator: Invalid value: \"Is\": not a valid \
              selector operator"]
        );
        assert!(
            of(json!({"scopeName": "BestEffort", "operator": "DoesNotExist"}))[0]
                .contains("must be 'Exist' when scope is any of")
        );
    }
    #[test]
    fn many_scopes_are_bounded_errors() {
        let hard: serde_json::Map<String, Value> =
            (0..2_000).map(|n| (format!("a.b/r{n}"), json!("1"))).collect();
        let mut spec = json!({"hard": hard, "scopes": vec!["BestEffort"; 3_000]});
        assert_eq!(errors(spec.clone()), [""; 0]);
        spec["hard"]["cpu"] = json!("1");
        let texts = errors(spec);
        assert_eq!(texts.len(), ERRORS_MAX);
        for text in texts {
            assert!(text.starts_with("spec.scopes: Invalid value: [\"BestEffort\","), "{text}");
            assert!(text.ends_with("...: unsupported scope applied to resource"), "{text}");
            assert!(text.len() < VALUE_BYTES_MAX + 100, "{}", text.len());
        }
    }
}
