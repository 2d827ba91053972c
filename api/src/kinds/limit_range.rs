//! LimitRange.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::defaults::{child, items_at, object_at, set_default};
use crate::field::Field;
use crate::field_error::{ErrorList, FieldError};
use crate::names;
use crate::pod_spec::validate_resource_name;
use crate::quantity::{Quantity, canonicalize_list};
use crate::registry::{Behaviour, Resource, Served};

/// The row of the resource table.
pub const RESOURCE: Resource = Resource::new(SERVED, &LimitRange);

const SERVED: &[Served] =
    &[Served::new("", "v1", "LimitRange", "limitranges", "limitrange").short(&["limits"])];

struct LimitRange;

impl Behaviour for LimitRange {
    fn to_storage(&self, _served: &Served, object: &mut Value) -> Result<(), ErrorList> {
        for limit in items_at(child(object, "spec"), "limits") {
            for list in ["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"] {
                if let Some(list) = object_at(limit, list) {
                    canonicalize_list(list);
                }
            }
            if limit["type"] == "Container" {
                inherit(limit, "max", "default");
                inherit(limit, "default", "defaultRequest");
                inherit(limit, "min", "defaultRequest");
            }
        }
        Ok(())
    }

    fn validate(&self, object: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let mut kinds = BTreeSet::new();
        for limit in Field::root(object).at("spec").at("limits").items() {
            let kind = limit.at("type");
            errors.extend(validate_kind(&kind));
            if !kinds.insert(kind.str()) {
                errors.push(kind.duplicate());
            }
            errors.extend(validate_lists(&limit));
            let read = |list: &str, name: &str| Quantity::from_json(&limit.value[list][name]).ok();
            for (low, high) in LADDER {
                for (name, field) in limit.at(low).entries() {
                    if let (Some(a), Some(b)) = (read(low, name), read(high, name))
                        && a > b
                    {
                        let detail = format!("{low} value {a} is greater than {high} value {b}");
                        errors.push(FieldError::invalid(field.path, a.to_string(), detail));
                    }
                }
            }
        }
        errors
    }
}

/// What limits are about, besides what an extension names with its domain.
const KINDS: [&str; 3] = ["Container", "PersistentVolumeClaim", "Pod"];

fn validate_kind(kind: &Field<'_>) -> ErrorList {
    let messages = names::label_key(kind.str());
    if messages.is_empty() && !kind.str().contains('/') && !KINDS.contains(&kind.str()) {
        return kind.invalid("must be a standard limit type or fully qualified").into();
    }
    kind.invalid_each(messages).into()
}

fn validate_lists(limit: &Field<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    let kind = limit.at("type").str();
    if matches!(kind, "Container" | "Pod") {
        for list in ["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"] {
            if kind == "Pod" && list.starts_with("default") {
                if !limit.at(list).is_empty() {
                    let detail = "may not be specified when `type` is 'Pod'";
                    errors.push(limit.at(list).forbidden(detail));
                }
                continue;
            }
            for (name, quantity) in limit.at(list).entries() {
                errors.extend(validate_resource_name(name, &quantity.path));
            }
        }
    }
    let has_storage = |list: &str| limit.at(list).at("storage").exists();
    if kind == "PersistentVolumeClaim" && !has_storage("min") && !has_storage("max") {
        errors.push(limit.at("limits").required(
            "either minimum or maximum storage value is required, but neither was provided",
        ));
    }
    for (_, ratio) in limit.at("maxLimitRequestRatio").entries() {
        if let Ok(value) = Quantity::from_json(ratio.value)
            && value < Quantity::from_units(1)
        {
            let detail = format!("ratio {value} is less than 1");
            errors.push(FieldError::invalid(&ratio.path, value.to_string(), detail));
        }
    }
    errors
}

/// Pairs of lists of which the first may not exceed the second.
const LADDER: [(&str, &str); 6] = [
    ("min", "max"),
    ("min", "defaultRequest"),
    ("min", "default"),
    ("defaultRequest", "default"),
    ("defaultRequest", "max"),
    ("default", "max"),
];

/// Copies the resources of `from` that `to` does not name.
fn inherit(limit: &mut Value, from: &str, to: &str) {
    let Value::Object(source) = limit[from].clone() else { return };
    let target = child(limit, to);
    for (name, quantity) in source {
        set_default(target, &name, quantity);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn limits_are_of_a_known_type_and_say_something() {
        let object = json!({"spec": {"limits": [
            {"type": "Foo"},
            {"type": "Pod", "default": {"cpu": "1"}, "max": {"foo": "1"}},
            {"type": "Container", "maxLimitRequestRatio": {"cpu": "500m"}},
            {"type": "PersistentVolumeClaim"},
            {"type": "example.com/thing", "max": {"example.com/part": "1"}},
        ]}});
        let errors: Vec<String> =
            LimitRange.validate(&object).iter().map(ToString::to_string).collect();
        assert_eq!(
            errors,
            [
                "spec.limits[0].type: Invalid value: \"Foo\": must be a standard limit type or \
                 fully qualified",
                "spec.limits[1].max[foo]: Invalid value: \"foo\": must be a standard resource for \
                 containers",
                "spec.limits[1].default: Forbidden: may not be specified when `type` is 'Pod'",
                "spec.limits[2].maxLimitRequestRatio[cpu]: Invalid value: \"500m\": ratio 500m is \
                 less than 1",
                "spec.limits[3].limits: Required value: either minimum or maximum storage value is \
                 required, but neither was provided",
            ]
        );
    }
}
