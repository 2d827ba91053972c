//! LimitRange.

use serde_json::Value;

use crate::defaults::{child, items_at, object_at, set_default};
use crate::field_error::ErrorList;
use crate::quantity::canonicalize_list;
use crate::registry::{Behaviour, Resource, Served};

/// The row of the resource table.
pub const RESOURCE: Resource = Resource::new(SERVED, &LimitRange);

const SERVED: &[Served] =
    &[Served::new("", "v1", "LimitRange", "limitranges", "limitrange").short(&["limits"])];

struct LimitRange;

impl Behaviour for LimitRange {
    fn stored(&self) -> (&'static str, &'static str) {
        ("v1", "LimitRange")
    }

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
}

/// Copies the resources of `from` that `to` does not name.
fn inherit(limit: &mut Value, from: &str, to: &str) {
    let Value::Object(source) = limit[from].clone() else { return };
    let target = child(limit, to);
    for (name, quantity) in source {
        set_default(target, &name, quantity);
    }
}
