//! The roles and bindings that every Kubernetes cluster has (upstream `bootstrappolicy`), as a
//! table: verbs, API groups (`core` for the empty one), resources, all separated by blanks.

mod bindings;
mod cluster_roles;
mod controllers;

use serde_json::{Value, json};

use bindings::{CLUSTER_BINDINGS, SYSTEM_BINDINGS, SYSTEM_ROLES};
use cluster_roles::{AGGREGATED, AGGREGATION_LABELS, CLUSTER_ROLES, PATH_ROLES};
use controllers::CONTROLLERS;

use super::super::Objects;
use super::{GROUP, Rule};

/// Verbs, groups, resources.
type Row = (&'static str, &'static str, &'static str);

/// Verbs, group, resource, name of the one object meant (empty: all).
type NamedRow = (&'static str, &'static str, &'static str, &'static str);

const READ: &str = "get list watch";
const WRITE: &str = "create delete deletecollection patch update";
const EVENTS: Row = ("create update patch", "core events.k8s.io", "events");

fn words(text: &str) -> Vec<String> {
    text.split_whitespace()
        .map(|word| if word == "core" { String::new() } else { word.to_owned() })
        .collect()
}

fn rules(rows: &[Row]) -> Vec<Rule> {
    let rule = |(verbs, groups, resources): &Row| Rule {
        verbs: words(verbs),
        api_groups: words(groups),
        resources: words(resources),
        ..Rule::default()
    };
    rows.iter().map(rule).collect()
}

fn metadata(name: &str, namespace: &str) -> Value {
    let mut metadata = json!({
        "name": name,
        "labels": { "kubernetes.io/bootstrapping": "rbac-defaults" },
        "annotations": { "rbac.authorization.kubernetes.io/autoupdate": "true" },
    });
    if !namespace.is_empty() {
        metadata["namespace"] = json!(namespace);
    }
    for (role, label) in AGGREGATION_LABELS {
        if *role == name && namespace.is_empty() {
            metadata["labels"][label] = json!("true");
        }
    }
    metadata
}

fn cluster_role(name: &str, rules: &[Rule]) -> Value {
    json!({
        "apiVersion": format!("{GROUP}/v1"),
        "kind": "ClusterRole",
        "metadata": metadata(name, ""),
        "rules": rules,
    })
}

fn subjects(kind: &str, names: &str) -> Value {
    names
        .split_whitespace()
        .map(|name| json!({ "apiGroup": GROUP, "kind": kind, "name": name }))
        .collect()
}

fn cluster_binding(role: &str, subjects: Value) -> Value {
    json!({
        "apiVersion": format!("{GROUP}/v1"),
        "kind": "ClusterRoleBinding",
        "metadata": metadata(role, ""),
        "roleRef": { "apiGroup": GROUP, "kind": "ClusterRole", "name": role },
        "subjects": subjects,
    })
}

/// Every default role and binding with the plural under which it is created. Those in a namespace
/// are in `kube-system` or `kube-public`.
pub fn default_objects() -> Vec<(&'static str, Value)> {
    let mut objects = Vec::new();
    objects.push(("clusterroles", cluster_role("cluster-admin", &Rule::everything())));
    for (name, rows) in CLUSTER_ROLES {
        objects.push(("clusterroles", cluster_role(name, &rules(rows))));
    }
    for (name, paths) in PATH_ROLES {
        let rule = Rule {
            verbs: vec!["get".to_owned()],
            non_resource_urls: words(paths),
            ..Rule::default()
        };
        objects.push(("clusterroles", cluster_role(name, &[rule])));
    }
    for (name, label) in AGGREGATED {
        // The rules are what the aggregation comes to, so that they can be read there.
        let mut role = cluster_role(name, &aggregated(label));
        role["aggregationRule"] =
            json!({ "clusterRoleSelectors": [{ "matchLabels": { *label: "true" } }] });
        objects.push(("clusterroles", role));
    }
    for (role, kind, names) in CLUSTER_BINDINGS {
        objects.push(("clusterrolebindings", cluster_binding(role, subjects(kind, names))));
    }
    objects.push((
        "clusterrolebindings",
        cluster_binding(
            "system:kube-dns",
            json!([
                { "kind": "ServiceAccount", "namespace": "kube-system", "name": "kube-dns" },
                { "apiGroup": GROUP, "kind": "User", "name": "system:kube-dns" },
            ]),
        ),
    ));
    for (controller, rows) in CONTROLLERS {
        let name = format!("system:controller:{controller}");
        objects.push(("clusterroles", cluster_role(&name, &rules(rows))));
        let subjects = json!([
            { "kind": "ServiceAccount", "namespace": "kube-system", "name": controller },
            { "apiGroup": GROUP, "kind": "User", "name": "system:kube-controller-manager" },
        ]);
        objects.push(("clusterrolebindings", cluster_binding(&name, subjects)));
    }
    for (name, rows) in SYSTEM_ROLES {
        let rules: Vec<Rule> = rows
            .iter()
            .map(|(verbs, groups, resources, names)| Rule {
                resource_names: words(names),
                ..rules(&[(verbs, groups, resources)]).remove(0)
            })
            .collect();
        let role = json!({
            "apiVersion": format!("{GROUP}/v1"),
            "kind": "Role",
            "metadata": metadata(name, "kube-system"),
            "rules": rules,
        });
        objects.push(("roles", role));
    }
    for (name, role, kind, names) in SYSTEM_BINDINGS {
        let binding = json!({
            "apiVersion": format!("{GROUP}/v1"),
            "kind": "RoleBinding",
            "metadata": metadata(name, "kube-system"),
            "roleRef": { "apiGroup": GROUP, "kind": "Role", "name": role },
            "subjects": subjects(kind, names),
        });
        objects.push(("rolebindings", binding));
    }
    objects
}

/// What a label aggregates, parts of parts included.
fn aggregated(label: &str) -> Vec<Rule> {
    let mut all = Vec::new();
    for (part, own) in AGGREGATION_LABELS {
        if *own != label {
            continue;
        }
        if let Some((_, rows)) = CLUSTER_ROLES.iter().find(|(name, _)| name == part) {
            all.extend(rules(rows));
        }
        if let Some((_, nested)) = AGGREGATED.iter().find(|(name, _)| name == part) {
            all.extend(aggregated(nested));
        }
    }
    all
}

/// The default roles and bindings that the store lacks.
pub fn missing_objects(objects: &dyn Objects) -> Vec<(&'static str, Value)> {
    let mut defaults = default_objects();
    defaults.retain(|(plural, object)| {
        let metadata = &object["metadata"];
        let namespace = metadata["namespace"].as_str().unwrap_or_default();
        let name = metadata["name"].as_str().unwrap_or_default();
        objects.get(GROUP, plural, namespace, name).is_none()
    });
    defaults
}
