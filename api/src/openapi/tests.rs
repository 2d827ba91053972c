//! Documents over a small resource table.

#![allow(clippy::unwrap_used)]

use serde_json::{Value, json};

use super::*;
use crate::registry::{Behaviour, Persistence, SubresourceInfo};

struct Nothing;

impl Behaviour for Nothing {}

const VERBS: &[&str] =
    &["get", "list", "watch", "create", "update", "patch", "delete", "deletecollection"];

const fn served_as(
    group: &'static str,
    version: &'static str,
    kind: &'static str,
    plural: &'static str,
) -> Served {
    Served { group, version, kind, plural, singular: "", short_names: &[], categories: &[] }
}

const fn resource(served: &'static [Served], namespaced: bool, has_scale: bool) -> Resource {
    Resource {
        served,
        namespaced,
        persistence: Persistence::Durable,
        verbs: VERBS,
        has_status: true,
        has_scale,
        subresources: &[],
        has_generation: true,
        behaviour: &Nothing,
    }
}

static RESOURCES: [Resource; 3] = [
    resource(
        &[
            served_as("apps", "v1", "Deployment", "deployments"),
            served_as("extensions", "v1beta1", "Deployment", "deployments"),
        ],
        true,
        true,
    ),
    resource(&[served_as("", "v1", "Node", "nodes")], false, false),
    Resource {
        subresources: &[
            SubresourceInfo { name: "log", kind: "Pod", group_version: None, verbs: &["get"] },
            SubresourceInfo {
                name: "eviction",
                kind: "Eviction",
                group_version: Some(("policy", "v1")),
                verbs: &["create"],
            },
        ],
        ..resource(&[served_as("", "v1", "Pod", "pods")], true, false)
    },
];

/// Each `$ref` must lead somewhere.
fn verify_references(document: &Value, value: &Value) {
    match value {
        Value::Object(object) => {
            if let Some(Value::String(reference)) = object.get("$ref") {
                let pointer = reference.trim_start_matches('#');
                assert!(document.pointer(pointer).is_some(), "{reference}");
            }
            object.values().for_each(|value| verify_references(document, value));
        }
        Value::Array(list) => list.iter().for_each(|value| verify_references(document, value)),
        _ => {}
    }
}

#[test]
fn v3_groups() {
    let document = v3_group(&RESOURCES, "v1.33.0", "apps", "v1").unwrap();
    verify_references(&document, &document);
    let patch =
        &document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"];
    let names: Vec<&Value> =
        patch["parameters"].as_array().unwrap().iter().map(|p| &p["name"]).collect();
    assert_eq!(names, ["dryRun", "fieldManager", "fieldValidation", "force"]);
    let kind = json!({"group": "apps", "version": "v1", "kind": "Deployment"});
    assert_eq!(patch["x-kubernetes-group-version-kind"], kind);
    assert_eq!(patch["operationId"], "patchAppsV1NamespacedDeployment");
    let schemas = &document["components"]["schemas"];
    let deployment = &schemas["io.k8s.api.apps.v1.Deployment"];
    assert_eq!(deployment["x-kubernetes-group-version-kind"], json!([kind]));
    assert_eq!(
        deployment["properties"]["spec"]["allOf"],
        json!([{"$ref": "#/components/schemas/io.k8s.api.apps.v1.DeploymentSpec"}])
    );
    let containers = &schemas["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"];
    assert_eq!(containers["x-kubernetes-list-map-keys"], json!(["name"]));
    assert_eq!(containers["x-kubernetes-patch-merge-key"], "name");
    assert_eq!(containers["x-kubernetes-patch-strategy"], "merge");
    let volume = &schemas["io.k8s.api.core.v1.Volume"]["properties"];
    assert!(volume["emptyDir"].is_object(), "inlined members are members");
    assert!(schemas.get("io.k8s.api.core.v1.VolumeSource").is_none());
    assert!(schemas.get("io.k8s.api.core.v1.NodeSpec").is_none(), "of another group");
    assert!(schemas["io.k8s.api.apps.v1.DeploymentList"].is_object());
    let description = deployment["description"].as_str().unwrap();
    assert!(description.starts_with("Deployment enables declarative updates"), "{description}");
    assert_eq!(v3_group(&RESOURCES, "v1.33.0", "batch", "v1"), None);
}

#[test]
fn v3_scale_of_old_groups() {
    let document = v3_group(&RESOURCES, "v1.33.0", "extensions", "v1beta1").unwrap();
    verify_references(&document, &document);
    let path = "/apis/extensions/v1beta1/namespaces/{namespace}/deployments/{name}/scale";
    assert_eq!(
        document["paths"][path]["get"]["x-kubernetes-group-version-kind"],
        json!({"group": "extensions", "version": "v1beta1", "kind": "Scale"})
    );
}

#[test]
fn v3_index_names_each_group() {
    let index = v3_index(&RESOURCES, "v1.33.0");
    let paths = index["paths"].as_object().unwrap();
    assert_eq!(
        paths.keys().collect::<Vec<_>>(),
        ["api/v1", "apis/apps/v1", "apis/extensions/v1beta1"]
    );
    let url = paths["apis/apps/v1"]["serverRelativeURL"].as_str().unwrap();
    assert!(url.starts_with("/openapi/v3/apis/apps/v1?hash="), "{url}");
    assert_eq!(index, v3_index(&RESOURCES, "v1.33.0"));
    assert_ne!(index, v3_index(&RESOURCES, "v1.33.1"));
}

#[test]
fn v2_in_both_encodings() {
    let document = v2_json(&RESOURCES, "v1.33.0");
    verify_references(&document, &document);
    assert!(document["paths"]["/api/v1/namespaces/{namespace}/pods/{name}/eviction"].is_object());
    let limits =
        &document["definitions"]["io.k8s.api.core.v1.ResourceRequirements"]["properties"]["limits"];
    assert_eq!(
        limits["additionalProperties"]["$ref"],
        "#/definitions/io.k8s.apimachinery.pkg.api.resource.Quantity"
    );
    let encoded = v2_protobuf(&RESOURCES, "v1.33.0");
    assert!(encoded.starts_with(b"\x0a\x032.0\x12"));
    assert!(encoded.len() > 100_000);
}

#[test]
fn the_whole_registry() {
    let resources = crate::registry::resources();
    let document = v2_json(resources, "v1.33.0");
    verify_references(&document, &document);
    for (group, version) in group_versions(resources) {
        let document = v3_group(resources, "v1.33.0", group, version).unwrap();
        verify_references(&document, &document);
    }
    for (_, served) in served(resources) {
        let name = format!("{}/{} {}", served.group, served.version, served.kind);
        assert!(message(served.group, served.version, served.kind).is_some(), "{name}");
    }
}

/// Writes the documents for clients that are driven by hand.
#[test]
#[ignore = "writes files"]
fn write_documents() {
    let directory = std::path::PathBuf::from(std::env::var_os("OPENAPI_OUT").unwrap());
    let write =
        |name: &str, content: Vec<u8>| std::fs::write(directory.join(name), content).unwrap();
    write("v2.pb", v2_protobuf(crate::registry::resources(), "v1.33.0"));
    write("v2.json", v2_json(crate::registry::resources(), "v1.33.0").to_string().into_bytes());
    write("v3.json", v3_index(crate::registry::resources(), "v1.33.0").to_string().into_bytes());
    for (group, version) in group_versions(crate::registry::resources()) {
        let document = v3_group(crate::registry::resources(), "v1.33.0", group, version).unwrap();
        write(&format!("v3_{group}_{version}.json"), document.to_string().into_bytes());
    }
}
