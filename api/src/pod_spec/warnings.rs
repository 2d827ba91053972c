//! What is allowed in a pod spec but hardly meant (upstream `pkg/api/pod/warnings.go`).

use std::collections::BTreeMap;

use crate::field::Field;
use crate::quantity::Quantity;

/// Labels of nodes that have been renamed: old, since, new.
const RENAMED_LABELS: &[(&str, &str, &str)] = &[
    ("beta.kubernetes.io/arch", "v1.14", "kubernetes.io/arch"),
    ("beta.kubernetes.io/os", "v1.14", "kubernetes.io/os"),
    ("failure-domain.beta.kubernetes.io/region", "v1.17", "topology.kubernetes.io/region"),
    ("failure-domain.beta.kubernetes.io/zone", "v1.17", "topology.kubernetes.io/zone"),
    ("beta.kubernetes.io/instance-type", "v1.17", "node.kubernetes.io/instance-type"),
];

/// Warnings about a pod spec, for the client.
pub fn pod_warnings(spec: &Field<'_>) -> Vec<String> {
    let mut warnings = Vec::new();
    for (key, field) in spec.at("nodeSelector").entries() {
        if let Some((_, since, new)) = RENAMED_LABELS.iter().find(|(old, ..)| *old == key) {
            warnings.push(format!("{}: deprecated since {since}; use {new:?} instead", field.path));
        }
    }
    let grace = spec.at("terminationGracePeriodSeconds");
    if grace.int().is_some_and(|seconds| seconds < 0) {
        warnings.push(format!(
            "{}: must be >= 0; negative values are invalid and will be treated as 1",
            grace.path
        ));
    }
    for list in ["initContainers", "containers"] {
        for container in spec.at(list).items() {
            duplicate_variables(&container.at("env"), &mut warnings);
            duplicate_ports(&container.at("ports"), &mut warnings);
            fractional_bytes(&container.at("resources"), &mut warnings);
        }
    }
    warnings
}

fn duplicate_variables(variables: &Field<'_>, warnings: &mut Vec<String>) {
    let mut seen: BTreeMap<&str, &str> = BTreeMap::new();
    for variable in variables.items() {
        let name = variable.at("name").str();
        let value = variable.at("value").str();
        // A later definition may well refer to the earlier one: that is an extension, not a mistake.
        let extends = value.contains(&format!("$({name})"));
        if seen.insert(name, value).is_some() && !extends {
            warnings.push(format!(
                "{}: hides previous definition of {name:?}, which may be dropped when using apply",
                variable.path
            ));
        }
    }
}

fn duplicate_ports(ports: &Field<'_>, warnings: &mut Vec<String>) {
    let mut seen: BTreeMap<[String; 4], String> = BTreeMap::new();
    for port in ports.items() {
        let identity = ["containerPort", "protocol", "hostPort", "hostIP"]
            .map(|name| port.at(name).value.to_string());
        match seen.get(&identity) {
            Some(first) => {
                warnings.push(format!("{}: duplicate port definition with {first}", port.path));
            }
            None => {
                seen.insert(identity, port.path);
            }
        }
    }
}

fn fractional_bytes(resources: &Field<'_>, warnings: &mut Vec<String>) {
    for list in ["limits", "requests"] {
        for name in ["memory", "ephemeral-storage"] {
            let field = resources.at(list).key(name);
            let Ok(quantity) = Quantity::from_json(field.value) else { continue };
            if !quantity.is_whole() {
                warnings.push(format!(
                    "{}: fractional byte value {:?} is invalid, must be an integer",
                    field.path,
                    quantity.to_string()
                ));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn texts() {
        let spec = json!({
            "nodeSelector": { "beta.kubernetes.io/os": "linux" },
            "containers": [{
                "env": [{ "name": "A", "value": "1" }, { "name": "A", "value": "2" },
                    { "name": "A", "value": "$(A):3" }],
                "ports": [{ "containerPort": 80 }, { "containerPort": 80 }],
                "resources": { "limits": { "memory": "100m" } },
            }],
        });
        assert_eq!(
            pod_warnings(&Field::new(&spec, "spec")),
            [
                "spec.nodeSelector[beta.kubernetes.io/os]: deprecated since v1.14; use \"kubernetes.io/os\" instead",
                "spec.containers[0].env[1]: hides previous definition of \"A\", which may be dropped when using apply",
                "spec.containers[0].ports[1]: duplicate port definition with spec.containers[0].ports[0]",
                "spec.containers[0].resources.limits[memory]: fractional byte value \"100m\" is invalid, must be an integer",
            ]
        );
    }
}
