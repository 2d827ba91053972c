//! Cells that many tables have in common.

use jiff::Timestamp;
use serde_json::Value;

use crate::duration;
use crate::selector;

/// `metadata.name`.
pub fn name(object: &Value) -> Value {
    object["metadata"]["name"].clone()
}

/// Time since creation.
pub fn age(object: &Value, now: Timestamp) -> Value {
    duration::since(&object["metadata"]["creationTimestamp"], now).into()
}

/// A number; zero when absent.
pub fn integer(value: &Value) -> Value {
    value.as_i64().unwrap_or(0).into()
}

/// A text; `empty` when absent or empty.
pub fn text_or(value: &Value, empty: &str) -> Value {
    match value.as_str() {
        Some(text) if !text.is_empty() => text.into(),
        _ => empty.into(),
    }
}

/// A number or text as text; `empty` when absent.
pub fn plain(value: &Value, empty: &str) -> String {
    match value {
        Value::String(text) if !text.is_empty() => text.clone(),
        Value::Number(number) => number.to_string(),
        Value::Bool(flag) => flag.to_string(),
        _ => empty.to_owned(),
    }
}

/// Names and images of the containers of a pod spec, joined by commas.
pub fn containers(spec: &Value) -> [Value; 2] {
    let join = |key: &str| {
        let list = spec["containers"].as_array().into_iter().flatten();
        let texts: Vec<&str> = list.map(|c| c[key].as_str().unwrap_or_default()).collect();
        Value::from(texts.join(","))
    };
    [join("name"), join("image")]
}

/// A map of labels as `a=b,c=d`; `<none>` when there are none.
pub fn labels(labels: &Value) -> Value {
    let entries = labels.as_object().into_iter().flatten();
    let texts: Vec<String> = entries
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    if texts.is_empty() { "<none>".into() } else { texts.join(",").into() }
}

/// A `metav1.LabelSelector` in text.
pub fn label_selector(selector: &Value) -> Value {
    selector::format_json(selector).into()
}

/// The number of elements or entries.
pub fn count(value: &Value) -> usize {
    match value {
        Value::Array(items) => items.len(),
        Value::Object(map) => map.len(),
        _ => 0,
    }
}
