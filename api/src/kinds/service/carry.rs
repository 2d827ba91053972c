//! What the server allocated for a Service and an update leaves out is kept; what the new type has
//! no use for is dropped (upstream `patchAllocatedValues`, `dropTypeDependentFields`).

use std::collections::{HashMap, HashSet};

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

fn name(port: &Value) -> String {
    port["name"].as_str().unwrap_or_default().to_owned()
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
        // A port is known by its name; the last of several without one counts.
        let had: HashMap<String, &Value> =
            before["ports"].as_array().into_iter().flatten().map(|p| (name(p), p)).collect();
        let mut taken: HashSet<Value> =
            items_at(spec, "ports").map(|p| p["nodePort"].clone()).collect();
        for port in items_at(spec, "ports").filter(|port| is_unset(&port["nodePort"])) {
            if let Some(previous) = had.get(&name(port))
                && taken.insert(previous["nodePort"].clone())
            {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_ports_keep_their_node_ports() {
        let ports = |allocated: bool| -> Vec<Value> {
            (0..3_000)
                .map(|n| match allocated {
                    true => json!({ "name": format!("p{n}"), "nodePort": 30_000 + n / 2 }),
                    false => json!({ "name": format!("p{n}") }),
                })
                .collect()
        };
        let old = json!({ "spec": { "type": "NodePort", "ports": ports(true) } });
        let mut new = json!({ "spec": { "type": "NodePort", "ports": ports(false) } });
        keep_allocated(&mut new, &old);
        for (n, port) in new["spec"]["ports"].as_array().into_iter().flatten().enumerate() {
            // A number is given to one port only.
            let kept = if n % 2 == 0 { json!(30_000 + n / 2) } else { Value::Null };
            assert_eq!(port["nodePort"], kept, "{n}");
        }
    }
}
