//! PriorityClass.

use jiff::Timestamp;
use serde_json::Value;

use super::row;
use crate::defaults::set_default;
use crate::field::{Field, same};
use crate::field_error::{ErrorList, FieldError};
use crate::registry::{Behaviour, Cell, Column, Resource, Served, Subresource};

/// The row of the resource table.
pub const RESOURCE: Resource =
    Resource::new(SERVED, &PriorityClass).cluster_scoped().with_generation();

const SERVED: &[Served] =
    &[Served::new("scheduling.k8s.io", "v1", "PriorityClass", "priorityclasses", "priorityclass")
        .short(&["pc"])];

/// Values above this belong to the system.
const HIGHEST_USER_VALUE: i64 = 1_000_000_000;

struct PriorityClass;

impl Behaviour for PriorityClass {
    fn to_storage(&self, _served: &Served, object: &mut Value) -> Result<(), ErrorList> {
        set_default(object, "preemptionPolicy", "PreemptLowerPriority");
        Ok(())
    }

    fn generation_changed(&self, _object: &Value, _old: &Value) -> bool {
        false
    }

    fn validate(&self, object: &Value) -> ErrorList {
        let object = Field::root(object);
        let mut errors = ErrorList::new();
        let name = object.at("metadata").at("name").str();
        let value = object.at("value").int().unwrap_or(0);
        if name.starts_with("system-") {
            let known = [
                ("system-cluster-critical", 2_000_000_000),
                ("system-node-critical", 2_000_001_000),
            ];
            if !known.contains(&(name, value)) {
                errors.push(FieldError::forbidden(
                    "metadata.name",
                    "priority class names with 'system-' prefix are reserved for system use only. error: only system priority classes may use this prefix",
                ));
            }
        } else if value > HIGHEST_USER_VALUE {
            let detail =
                format!("maximum allowed value of a user defined priority is {HIGHEST_USER_VALUE}");
            errors.push(FieldError::forbidden("value", detail));
        }
        errors.extend(object.at("preemptionPolicy").one_of(&["PreemptLowerPriority", "Never"]));
        errors
    }

    fn validate_update(&self, object: &Value, old: &Value, _: Subresource<'_>) -> ErrorList {
        let mut errors = ErrorList::new();
        let value = |object: &Value| object["value"].as_i64().unwrap_or(0);
        if value(object) != value(old) {
            errors.push(FieldError::forbidden("value", "may not be changed in an update."));
        }
        if !same(&object["preemptionPolicy"], &old["preemptionPolicy"]) {
            let policy = Field::root(object).at("preemptionPolicy");
            errors.extend(policy.immutable(&old["preemptionPolicy"]));
        }
        errors
    }

    fn columns(&self) -> &'static [Column] {
        const {
            &[
                Column::NAME,
                Column::integer("Value"),
                Column::typed("Global-Default", "boolean"),
                Column::AGE,
                Column::text("PreemptionPolicy"),
            ]
        }
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Cell> {
        vec![
            row::name(object),
            row::integer(&object["value"]),
            (object["globalDefault"] == true).into(),
            row::age(object, now),
            row::text_or(&object["preemptionPolicy"], ""),
        ]
    }
}
