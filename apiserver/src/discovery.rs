//! What is served: groups, versions and resource types, in the plain and the aggregated form.

use std::cmp::Reverse;

use api::{Resource, Served};
use serde_json::{Value, json};

use crate::catalog::Catalog;

/// Groups in upstream's order, which decides what a bare name such as `deployments` means to
/// kubectl; groups that are not listed follow by name, `extensions` comes last.
const GROUP_ORDER: [&str; 16] = [
    "",
    "apiregistration.k8s.io",
    "apps",
    "events.k8s.io",
    "authentication.k8s.io",
    "authorization.k8s.io",
    "autoscaling",
    "batch",
    "certificates.k8s.io",
    "networking.k8s.io",
    "policy",
    "rbac.authorization.k8s.io",
    "storage.k8s.io",
    "admissionregistration.k8s.io",
    "apiextensions.k8s.io",
    "scheduling.k8s.io",
];

/// The groups that have a resource type, in order.
pub(crate) fn groups(catalog: &Catalog) -> Vec<&'static str> {
    let mut groups: Vec<&'static str> =
        catalog.resources().iter().flat_map(|r| r.served.iter().map(|s| s.group)).collect();
    groups.sort_by_key(|group| {
        let place = GROUP_ORDER.iter().position(|g| g == group).unwrap_or(GROUP_ORDER.len());
        (*group == "extensions", place, *group)
    });
    groups.dedup();
    groups
}

/// The versions of a group, the preferred one first.
pub(crate) fn versions(catalog: &Catalog, group: &str) -> Vec<&'static str> {
    let mut versions: Vec<&'static str> = catalog
        .resources()
        .iter()
        .flat_map(|r| r.served.iter())
        .filter(|s| s.group == group)
        .map(|s| s.version)
        .collect();
    versions.sort_by_key(|version| Reverse(priority(version)));
    versions.dedup();
    versions
}

/// Stable before beta before alpha, then the higher number (upstream `version.CompareKubeAware`).
fn priority(version: &str) -> (u8, u32, u32) {
    let rest = version.strip_prefix('v').unwrap_or(version);
    for (stability, word) in [(1, "beta"), (0, "alpha")] {
        if let Some((major, minor)) = rest.split_once(word) {
            return (stability, major.parse().unwrap_or(0), minor.parse().unwrap_or(0));
        }
    }
    (2, rest.parse().unwrap_or(0), 0)
}

fn group_version(group: &str, version: &str) -> String {
    if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
}

/// `/api`.
pub(crate) fn core_versions(catalog: &Catalog, server_address: &str) -> Value {
    json!({
        "kind": "APIVersions",
        "versions": versions(catalog, ""),
        "serverAddressByClientCIDRs": [
            { "clientCIDR": "0.0.0.0/0", "serverAddress": server_address },
        ],
    })
}

/// `/apis`.
pub(crate) fn group_list(catalog: &Catalog) -> Value {
    let groups: Vec<Value> =
        groups(catalog).into_iter().filter(|g| !g.is_empty()).map(|g| group(catalog, g)).collect();
    json!({ "kind": "APIGroupList", "apiVersion": "v1", "groups": groups })
}

/// `/apis/<group>`, or nothing if the group has no types.
pub(crate) fn api_group(catalog: &Catalog, name: &str) -> Option<Value> {
    if name.is_empty() || versions(catalog, name).is_empty() {
        return None;
    }
    let mut value = group(catalog, name);
    value["kind"] = "APIGroup".into();
    value["apiVersion"] = "v1".into();
    Some(value)
}

fn group(catalog: &Catalog, name: &str) -> Value {
    let versions: Vec<Value> = versions(catalog, name)
        .into_iter()
        .map(|v| json!({ "groupVersion": group_version(name, v), "version": v }))
        .collect();
    json!({ "name": name, "versions": versions, "preferredVersion": versions.first() })
}

fn types(
    catalog: &Catalog,
    group: &str,
    version: &str,
) -> Vec<(&'static Resource, &'static Served)> {
    let mut types: Vec<_> = catalog
        .resources()
        .iter()
        .flat_map(|r| r.served.iter().map(move |s| (r, s)))
        .filter(|(_, s)| s.group == group && s.version == version)
        .collect();
    types.sort_by_key(|(_, s)| s.plural);
    types
}

/// A subresource as both forms of discovery show it.
struct Sub {
    name: &'static str,
    kind: &'static str,
    /// Group and version of the kind where they differ from the parent's.
    of: Option<(&'static str, &'static str)>,
    verbs: Vec<&'static str>,
}

fn subresources(resource: &'static Resource, served: &Served) -> Vec<Sub> {
    let all = || vec!["get", "patch", "update"];
    let mut subs: Vec<Sub> = resource
        .subresources
        .iter()
        .map(|s| Sub {
            name: s.name,
            kind: s.kind,
            of: s.group_version,
            verbs: sorted(s.verbs.iter().copied()),
        })
        .collect();
    let kind = served.kind;
    let has = |subs: &[Sub], name: &str| subs.iter().any(|s| s.name == name);
    if resource.has_scale && !has(&subs, "scale") {
        let of = Some(("autoscaling", "v1"));
        subs.push(Sub { name: "scale", kind: "Scale", of, verbs: all() });
    }
    if resource.has_status && !has(&subs, "status") {
        // The kind has static names for every version; the storage one has the same spelling.
        let kind = resource.served.iter().find(|s| s.kind == kind).map_or("", |s| s.kind);
        subs.push(Sub { name: "status", kind, of: None, verbs: all() });
    }
    subs.sort_by_key(|s| s.name);
    subs
}

fn sorted<'a>(verbs: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut verbs: Vec<&str> = verbs.collect();
    verbs.sort_unstable();
    verbs
}

/// The verbs of a type.
fn verbs(resource: &Resource) -> Vec<&'static str> {
    sorted(resource.verbs.iter().copied())
}

/// `/api/v1` and `/apis/<group>/<version>`, or nothing if there are no such types.
pub(crate) fn resource_list(catalog: &Catalog, group: &str, version: &str) -> Option<Value> {
    let types = types(catalog, group, version);
    if types.is_empty() {
        return None;
    }
    let mut list = Vec::new();
    for (resource, served) in types {
        let mut entry = json!({
            "name": served.plural,
            "singularName": served.singular,
            "namespaced": resource.namespaced,
            "kind": served.kind,
            "verbs": verbs(resource),
        });
        if !served.short_names.is_empty() {
            entry["shortNames"] = json!(served.short_names);
        }
        if !served.categories.is_empty() {
            entry["categories"] = json!(served.categories);
        }
        list.push(entry);
        for sub in subresources(resource, served) {
            let mut entry = json!({
                "name": format!("{}/{}", served.plural, sub.name),
                "singularName": "",
                "namespaced": resource.namespaced,
                "kind": sub.kind,
                "verbs": sub.verbs,
            });
            if let Some((group, version)) = sub.of {
                entry["group"] = group.into();
                entry["version"] = version.into();
            }
            list.push(entry);
        }
    }
    Some(json!({
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": group_version(group, version),
        "resources": list,
    }))
}

/// Aggregated discovery of the core group or of all others.
pub(crate) fn aggregated(catalog: &Catalog, core: bool, version: &str) -> Value {
    let items: Vec<Value> = groups(catalog)
        .into_iter()
        .filter(|group| group.is_empty() == core)
        .map(|group| {
            let versions: Vec<Value> = versions(catalog, group)
                .into_iter()
                .map(|version| {
                    let resources: Vec<Value> = types(catalog, group, version)
                        .into_iter()
                        .map(|(resource, served)| aggregated_type(resource, served))
                        .collect();
                    json!({
                        "version": version, "freshness": "Current", "resources": resources,
                    })
                })
                .collect();
            let mut metadata = json!({ "creationTimestamp": null });
            if !group.is_empty() {
                metadata["name"] = group.into();
            }
            json!({ "metadata": metadata, "versions": versions })
        })
        .collect();
    json!({
        "kind": "APIGroupDiscoveryList",
        "apiVersion": format!("apidiscovery.k8s.io/{version}"),
        "metadata": {},
        "items": items,
    })
}

fn aggregated_type(resource: &'static Resource, served: &'static Served) -> Value {
    let kind = |group: &str, version: &str, kind: &str| json!({ "group": group, "version": version, "kind": kind });
    let subs: Vec<Value> = subresources(resource, served)
        .into_iter()
        .map(|sub| {
            let (group, version) = sub.of.unwrap_or((served.group, served.version));
            json!({
                "subresource": sub.name,
                "responseKind": kind(group, version, sub.kind),
                "verbs": sub.verbs,
            })
        })
        .collect();
    let mut entry = json!({
        "resource": served.plural,
        "responseKind": kind(served.group, served.version, served.kind),
        "scope": if resource.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": served.singular,
        "verbs": verbs(resource),
    });
    if !served.short_names.is_empty() {
        entry["shortNames"] = json!(served.short_names);
    }
    if !served.categories.is_empty() {
        entry["categories"] = json!(served.categories);
    }
    if !subs.is_empty() {
        entry["subresources"] = subs.into();
    }
    entry
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_preferred_as_upstream_prefers_them() {
        let mut versions = ["v1beta1", "v1", "v2", "v1alpha1", "v1beta2"];
        versions.sort_by_key(|v| Reverse(priority(v)));
        assert_eq!(versions, ["v2", "v1", "v1beta2", "v1beta1", "v1alpha1"]);
    }
}
