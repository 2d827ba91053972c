//! The objects that the measurements create.

use std::net::Ipv4Addr;

use serde_json::{Value, json};

/// Where the web pod listens.
pub const WEB_PORT: u16 = 80;

/// A pod that ends at once on TERM.
pub fn pod(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": name, "labels": { "app": "bench" } },
        "spec": pod_spec(),
    })
}

fn pod_spec() -> Value {
    json!({ "containers": [{
        "name": "main", "image": "busybox", "imagePullPolicy": "IfNotPresent",
        // The first process of a container ignores TERM unless it says otherwise.
        "command": ["sh", "-c", "trap 'exit 0' TERM; sleep 100000 & wait"],
    }] })
}

/// A pod named web that serves HTTP.
pub fn web_pod() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": "web", "labels": { "app": "web" } },
        "spec": { "containers": [{
            "name": "nginx", "image": "nginx", "imagePullPolicy": "IfNotPresent",
            "ports": [{ "containerPort": WEB_PORT }],
        }] },
    })
}

/// A Deployment of pods that end at once on TERM.
pub fn deployment(name: &str, replicas: u32) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": { "name": name },
        "spec": {
            "replicas": replicas,
            "selector": { "matchLabels": { "app": name } },
            "strategy": { "rollingUpdate": { "maxSurge": 1, "maxUnavailable": 0 } },
            "template": { "metadata": { "labels": { "app": name } }, "spec": pod_spec() },
        },
    })
}

/// A Service in front of the web pod.
pub fn service(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": { "name": name },
        "spec": { "selector": { "app": "web" }, "ports": [{ "port": WEB_PORT }] },
    })
}

/// A Service whose endpoints are written by hand (see [`endpoint_slice`]).
pub fn bare_service(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": { "name": name },
        "spec": { "ports": [{ "name": "http", "port": WEB_PORT }] },
    })
}

/// The endpoints of a [`bare_service`].
pub fn endpoint_slice(service: &str, addresses: &[Ipv4Addr]) -> Value {
    let endpoints: Vec<Value> = addresses
        .iter()
        .map(|a| json!({ "addresses": [a], "conditions": { "ready": true } }))
        .collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": service,
            "labels": {
                "kubernetes.io/service-name": service,
                "endpointslice.kubernetes.io/managed-by": "bench",
            },
        },
        "addressType": "IPv4",
        "endpoints": endpoints,
        "ports": [{ "name": "http", "port": WEB_PORT, "protocol": "TCP" }],
    })
}

/// A ConfigMap with 1 KiB of data.
pub fn config_map(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": { "name": name },
        "data": { "text": "x".repeat(1024) },
    })
}

/// Whether a pod's Ready condition is true.
pub fn is_ready(pod: &Value) -> bool {
    condition(pod, "Ready")
}

/// Whether a condition is true.
pub fn condition(object: &Value, name: &str) -> bool {
    object["status"]["conditions"]
        .as_array()
        .is_some_and(|all| all.iter().any(|c| c["type"] == name && c["status"] == "True"))
}
