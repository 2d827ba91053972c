//! LimitRange.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::defaults::{child, items_at, object_at, set_default};
use crate::field::Field;
use crate::field_error::{ErrorList, FieldError};
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
            if !kinds.insert(kind.str()) {
                errors.push(kind.duplicate());
            }
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
