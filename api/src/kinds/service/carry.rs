//! What the server allocated for a Service and an update leaves out is kept; what the new type has
//! no use for is dropped (upstream `patchAllocatedValues`, `dropTypeDependentFields`).

use serde_json::{Value, json};

use crate::defaults::{child, copy_from, items_at, set, take};
use crate::field::same;

fn kind(spec: &Value) -> &str {
    spec["type"].as_str().unwrap_or_default()
}

fn needs_address(spec: &Value) -> bool {
    matches!(kind(spec), "ClusterIP" | "NodePort" | "LoadBalancer")
}

fn needs_node_port(spec: &Value) -> bool {
    kind(spec) == "NodePort"
        || (kind(spec) == "LoadBalancer" && spec["allocateLoadBalancerNodePorts"] != false)
}

fn needs_health_port(spec: &Value) -> bool {
    kind(spec) == "LoadBalancer" && spec["externalTrafficPolicy"] == "Local"
}

fn is_unset(value: &Value) -> bool {
    value.is_null() || value == "" || value == 0 || value.as_array().is_some_and(Vec::is_empty)
}

/// Fills in allocated values that the update leaves out.
pub fn keep_allocated(object: &mut Value, old: &Value) {
    let before = &old["spec"];
    let spec = child(object, "spec");
    if needs_address(before) && needs_address(spec) {
        if is_unset(&spec["clusterIP"]) {
            copy_from(spec, before, "clusterIP");
        }
        if is_unset(&spec["clusterIPs"]) && spec["clusterIP"] == before["clusterIP"] {
            copy_from(spec, before, "clusterIPs");
        }
        for name in ["ipFamilies", "ipFamilyPolicy"] {
            if is_unset(&spec[name]) {
                copy_from(spec, before, name);
            }
        }
    }
    if needs_node_port(before) && needs_node_port(spec) {
        let had = before["ports"].as_array().cloned().unwrap_or_default();
        let mut taken: Vec<Value> =
            items_at(spec, "ports").map(|p| p["nodePort"].clone()).collect();
        for port in items_at(spec, "ports").filter(|port| is_unset(&port["nodePort"])) {
            // A port is known by its name; the last of several without one counts.
            let same_port = |p: &&Value| same(&p["name"], &port["name"]);
            if let Some(previous) = had.iter().rfind(same_port)
                && !taken.contains(&previous["nodePort"])
            {
                taken.push(previous["nodePort"].clone());
                copy_from(port, previous, "nodePort");
            }
        }
    }
    if needs_health_port(before)
        && needs_health_port(spec)
        && is_unset(&spec["healthCheckNodePort"])
    {
        copy_from(spec, before, "healthCheckNodePort");
    }
}

/// Drops values that belonged to the old type and were not changed by the update.
pub fn drop_of_old_type(object: &mut Value, old: &Value) {
    let before = &old["spec"];
    let spec = child(object, "spec");
    if needs_address(before) && !needs_address(spec) {
        for name in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
            if same(&spec[name], &before[name]) {
                take(spec, name);
            }
        }
    }
    if needs_node_port(before) && !needs_node_port(spec) {
        let had = before["ports"].as_array().cloned().unwrap_or_default();
        for (port, previous) in items_at(spec, "ports").zip(had) {
            if port["nodePort"] == previous["nodePort"] {
                take(port, "nodePort");
            }
        }
    }
    if needs_health_port(before)
        && !needs_health_port(spec)
        && spec["healthCheckNodePort"] == before["healthCheckNodePort"]
    {
        take(spec, "healthCheckNodePort");
    }
    if kind(before) == "LoadBalancer" && kind(spec) != "LoadBalancer" {
        for name in ["allocateLoadBalancerNodePorts", "loadBalancerClass"] {
            if same(&spec[name], &before[name]) {
                take(spec, name);
            }
        }
    }
    let reaches_out = |spec: &Value| {
        matches!(kind(spec), "NodePort" | "LoadBalancer")
            || spec["externalIPs"].as_array().is_some_and(|list| !list.is_empty())
    };
    if reaches_out(before)
        && !reaches_out(spec)
        && spec["externalTrafficPolicy"] == before["externalTrafficPolicy"]
    {
        take(spec, "externalTrafficPolicy");
    }
    if kind(spec) != "LoadBalancer" && kind(before) == "LoadBalancer" {
        set(object, "status", json!({ "loadBalancer": {} }));
    }
}
