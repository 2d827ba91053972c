//! Filling in what a manifest leaves out, and small edits of JSON objects.

use serde_json::{Map, Value};

/// Sets `key` unless it is present and not null.
pub fn set_default(object: &mut Value, key: &str, value: impl Into<Value>) {
    if let Some(map) = object.as_object_mut() {
        match map.get(key) {
            Some(present) if !present.is_null() => {}
            _ => {
                map.insert(key.to_owned(), value.into());
            }
        }
    }
}

/// Sets `key` unless it is a text with something in it (Go's zero value for strings).
pub fn set_default_text(object: &mut Value, key: &str, value: &str) {
    if object.get(key).and_then(Value::as_str).is_none_or(str::is_empty) {
        set(object, key, value);
    }
}

/// Sets `key` unless it is a number other than zero (Go's zero value for numbers).
pub fn set_default_number(object: &mut Value, key: &str, value: i64) {
    if object.get(key).and_then(Value::as_i64).is_none_or(|n| n == 0) {
        set(object, key, value);
    }
}

/// Sets `key`.
pub fn set(object: &mut Value, key: &str, value: impl Into<Value>) {
    if let Some(map) = object.as_object_mut() {
        map.insert(key.to_owned(), value.into());
    }
}

/// Removes and returns `key`; null when absent.
pub fn take(object: &mut Value, key: &str) -> Value {
    object.as_object_mut().and_then(|map| map.remove(key)).unwrap_or_default()
}

/// The object at `key`, made when absent. (The schema has been checked before: what stands there
/// and is no object cannot be meant.)
pub fn child<'a>(object: &'a mut Value, key: &str) -> &'a mut Value {
    if !object.is_object() {
        *object = Value::Object(Map::new());
    }
    let entry = &mut object[key];
    if !entry.is_object() {
        *entry = Value::Object(Map::new());
    }
    entry
}

/// The value at `key` if it is an object.
pub fn object_at<'a>(object: &'a mut Value, key: &str) -> Option<&'a mut Value> {
    object.get_mut(key).filter(|value| value.is_object())
}

/// The elements of the list at `key`.
pub fn items_at<'a>(object: &'a mut Value, key: &str) -> impl Iterator<Item = &'a mut Value> {
    object.get_mut(key).and_then(Value::as_array_mut).into_iter().flatten()
}

/// Makes `key` of `object` what it is in `other`, absence included.
pub fn copy_from(object: &mut Value, other: &Value, key: &str) {
    match other.get(key) {
        Some(value) if !value.is_null() => set(object, key, value.clone()),
        _ => {
            take(object, key);
        }
    }
}

/// An empty JSON object.
pub fn empty() -> Value {
    Value::Object(Map::new())
}
