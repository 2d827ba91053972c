//! Pods for tests: the least that makes a pod, and over it what the test is about.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

/// The pod `default/name`, whose uid is its name and which has one container `c`, with `more` laid
/// over it.
pub fn pod(name: &str, more: Value) -> Arc<Pod> {
    let mut pod = json!({"metadata": {"name": name, "namespace": "default", "uid": name,
        "creationTimestamp": "2024-01-01T00:00:00Z"},
        "spec": {"containers": [{"name": "c"}]}});
    merge(&mut pod, more);
    Arc::new(serde_json::from_value(pod).unwrap())
}

/// The condition that says whether a pod is ready, `since` in RFC 3339.
pub fn ready(is_ready: bool, since: &str) -> Value {
    let status = if is_ready { "True" } else { "False" };
    json!({"type": "Ready", "status": status, "lastTransitionTime": since})
}

/// Lays `from` over `into`: objects field by field, lists and scalars as a whole.
pub fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}
