//! ConfigMap.

use jiff::Timestamp;
use serde_json::Value;

use super::row;
use super::secret::validate_immutable;
use crate::field::Field;
use crate::field_error::{ErrorList, FieldError};
use crate::names;
use crate::registry::{Behaviour, Cell, Column, Resource, Served, Subresource};

/// The row of the resource table.
pub const RESOURCE: Resource = Resource::new(SERVED, &ConfigMap);

const SERVED: &[Served] =
    &[Served::new("", "v1", "ConfigMap", "configmaps", "configmap").short(&["cm"])];

/// All values together.
const MAX_BYTES: usize = 1024 * 1024;

struct ConfigMap;

impl Behaviour for ConfigMap {
    fn validate(&self, object: &Value) -> ErrorList {
        let object = Field::root(object);
        let (data, binary) = (object.at("data"), object.at("binaryData"));
        let mut errors = ErrorList::new();
        let mut size = 0;
        for (key, value) in data.entries() {
            for message in names::config_map_key(key) {
                errors.push(FieldError::invalid(&value.path, key, message));
            }
            if binary.value.get(key).is_some() {
                let detail = format!("duplicate of key present in binaryData[{key}]");
                errors.push(FieldError::invalid(&value.path, key, detail));
            }
            size += value.str().len();
        }
        for (key, value) in binary.entries() {
            for message in names::config_map_key(key) {
                errors.push(FieldError::invalid(&value.path, key, message));
            }
            size += value.str().len() / 4 * 3;
        }
        if size > MAX_BYTES {
            // Upstream blames the object itself, whose path it prints like this.
            errors.push(FieldError::too_long("[]", MAX_BYTES));
        }
        errors
    }

    fn validate_update(&self, object: &Value, old: &Value, _: Subresource<'_>) -> ErrorList {
        let mut errors = validate_immutable(object, old, &["data", "binaryData"]);
        errors.extend(self.validate(object));
        errors
    }

    fn columns(&self) -> &'static [Column] {
        const { &[Column::NAME, Column::text("Data"), Column::AGE] }
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Cell> {
        let count = row::count(&object["data"]) + row::count(&object["binaryData"]);
        vec![row::name(object), count.into(), row::age(object, now)]
    }
}
