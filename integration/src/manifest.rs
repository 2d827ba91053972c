//! Manifests that tests write as JSON.

use serde_json::{Value, json};

/// A pod that runs until it is told to end, and then ends at once, with `spec` laid over its spec.
pub fn sleeper(name: &str, spec: Value) -> Value {
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {
            "terminationGracePeriodSeconds": 1,
            "containers": [{
                "name": "main", "image": "busybox", "imagePullPolicy": "IfNotPresent",
                "command": ["sh", "-c", "trap 'exit 0' TERM; while :; do sleep 0.1; done"],
            }],
        },
    });
    merge(&mut pod["spec"], spec);
    pod
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
