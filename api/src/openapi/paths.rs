//! Paths and operations: clients look up which query parameters a PATCH takes and which kind lives
//! at a path.

use serde_json::{Map, Value, json};

use super::Dialect;
use crate::registry::{Resource, Served};
use crate::schema::message;

const STATUS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Status";
const DELETE_OPTIONS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions";
const PATCH_TYPES: [&str; 4] = [
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
];

/// The group and version of the Scale that a resource is scaled with: the old groups have their
/// own, all others the one of autoscaling/v1.
pub fn scale_version(served: &Served) -> (&'static str, &'static str) {
    match message(served.group, served.version, "Scale") {
        Some(_) => (served.group, served.version),
        None => ("autoscaling", "v1"),
    }
}

/// Adds the paths of a resource.
pub fn add(paths: &mut Map<String, Value>, dialect: Dialect, resource: &Resource, served: &Served) {
    // Types without a schema of their own are served all the same.
    if message(served.group, served.version, served.kind).is_none() {
        return;
    }
    let prefix = match served.group {
        "" => format!("/api/{}", served.version),
        group => format!("/apis/{group}/{}", served.version),
    };
    let plural = served.plural;
    let collection = match resource.namespaced {
        true => format!("{prefix}/namespaces/{{namespace}}/{plural}"),
        false => format!("{prefix}/{plural}"),
    };
    let own = Kind { group: served.group, version: served.version, kind: served.kind };
    let has = |verb: &str| resource.verbs.contains(&verb);
    let mut add = |path: &str, kind: Kind<'_>, verbs: &[&str], suffix: &str| {
        let mut item = Map::new();
        for verb in verbs {
            let id = operation_id(verb, served, resource.namespaced, suffix);
            let (method, operation) = operation(dialect, verb, kind, own, id);
            item.insert(method.to_owned(), operation);
        }
        if item.is_empty() {
            return;
        }
        let parameters: Vec<Value> = ["name", "namespace"]
            .into_iter()
            .filter(|name| path.contains(&format!("{{{name}}}")))
            .map(|name| path_parameter(dialect, name))
            .collect();
        if !parameters.is_empty() {
            item.insert("parameters".to_owned(), parameters.into());
        }
        paths.insert(path.to_owned(), item.into());
    };
    let only = |wanted: &[&'static str]| -> Vec<&'static str> {
        wanted.iter().copied().filter(|verb| has(verb)).collect()
    };
    add(&collection, own, &only(&["list", "create", "deletecollection"]), "");
    if resource.namespaced {
        let everywhere = format!("{prefix}/{plural}");
        add(&everywhere, own, &only(&["list"]), "ForAllNamespaces");
    }
    let item = format!("{collection}/{{name}}");
    add(&item, own, &only(&["get", "update", "patch", "delete"]), "");
    if resource.has_status {
        add(&format!("{item}/status"), own, &["get", "update", "patch"], "Status");
    }
    if resource.has_scale {
        let (group, version) = scale_version(served);
        let kind = Kind { group, version, kind: "Scale" };
        add(&format!("{item}/scale"), kind, &["get", "update", "patch"], "Scale");
    }
    for subresource in resource.subresources {
        let (group, version) = subresource.group_version.unwrap_or((served.group, served.version));
        // Streams such as `exec` take and give no objects.
        if message(group, version, subresource.kind).is_none()
            || ["status", "scale"].contains(&subresource.name)
        {
            continue;
        }
        let kind = Kind { group, version, kind: subresource.kind };
        let path = format!("{item}/{}", subresource.name);
        let verbs: Vec<&str> = subresource
            .verbs
            .iter()
            .copied()
            .filter(|verb| ["get", "create", "update", "patch"].contains(verb))
            .collect();
        add(&path, kind, &verbs, &capital(subresource.name));
    }
}

#[derive(Clone, Copy)]
struct Kind<'a> {
    group: &'a str,
    version: &'a str,
    kind: &'a str,
}

fn capital(text: &str) -> String {
    let mut characters = text.chars();
    match characters.next() {
        Some(first) => first.to_uppercase().chain(characters).collect(),
        None => String::new(),
    }
}

/// For example `patchAppsV1NamespacedDeploymentStatus`.
fn operation_id(verb: &str, served: &Served, namespaced: bool, suffix: &str) -> String {
    let verb = match verb {
        "get" => "read",
        "update" => "replace",
        "deletecollection" => "deleteCollection",
        other => other,
    };
    let group = match served.group.split('.').next() {
        Some("") | None => "Core".to_owned(),
        Some(group) => capital(group),
    };
    let version = capital(served.version);
    let scope = if namespaced && suffix != "ForAllNamespaces" { "Namespaced" } else { "" };
    format!("{verb}{group}{version}{scope}{}{suffix}", served.kind)
}

fn operation(
    dialect: Dialect,
    verb: &str,
    kind: Kind<'_>,
    owner: Kind<'_>,
    id: String,
) -> (&'static str, Value) {
    let name = message(kind.group, kind.version, kind.kind).map_or("", |message| message.name());
    let list = format!("{name}List");
    const WRITE: [&str; 3] = ["dryRun", "fieldManager", "fieldValidation"];
    const LIST: [&str; 9] = [
        "allowWatchBookmarks",
        "continue",
        "fieldSelector",
        "labelSelector",
        "limit",
        "resourceVersion",
        "resourceVersionMatch",
        "sendInitialEvents",
        "timeoutSeconds",
    ];
    const DELETE: [&str; 4] =
        ["dryRun", "gracePeriodSeconds", "orphanDependents", "propagationPolicy"];
    let (method, action, body, answer, parameters): (_, _, _, &str, Vec<&str>) = match verb {
        "get" => ("get", "get", None, name, Vec::new()),
        "list" => ("get", "list", None, &list, [&LIST[..], &["watch"]].concat()),
        "create" => ("post", "post", Some(name), name, WRITE.to_vec()),
        "update" => ("put", "put", Some(name), name, WRITE.to_vec()),
        "patch" => ("patch", "patch", Some(PATCH), name, [&WRITE[..], &["force"]].concat()),
        "delete" => ("delete", "delete", Some(DELETE_OPTIONS), STATUS, DELETE.to_vec()),
        _ => {
            let parameters = [&DELETE[..], &LIST[1..]].concat();
            ("delete", "deletecollection", Some(DELETE_OPTIONS), STATUS, parameters)
        }
    };
    let mut parameters: Vec<Value> =
        parameters.into_iter().map(|name| query_parameter(dialect, name)).collect();
    let description = format!("{verb} {}", kind.kind);
    let mut operation = Map::new();
    let mut set = |name: &str, value: Value| {
        operation.insert(name.to_owned(), value);
    };
    match dialect {
        Dialect::V2 => {
            if let Some(body) = body {
                let schema = match body {
                    PATCH => json!({"type": "object"}),
                    name => json!({"$ref": format!("#/definitions/{name}")}),
                };
                parameters.push(json!({"in": "body", "name": "body", "schema": schema,
                    "required": body != DELETE_OPTIONS}));
            }
            if verb == "patch" {
                set("consumes", PATCH_TYPES.to_vec().into());
            }
            let schema = json!({"$ref": format!("#/definitions/{answer}")});
            set("responses", json!({"200": {"description": "OK", "schema": schema}}));
        }
        Dialect::V3 => {
            let reference = |name: &str| json!({"$ref": format!("#/components/schemas/{name}")});
            if let Some(body) = body {
                let mut content = Map::new();
                if body == PATCH {
                    for media_type in PATCH_TYPES {
                        let schema = json!({"schema": {"type": "object"}});
                        content.insert(media_type.to_owned(), schema);
                    }
                } else {
                    let schema = json!({"schema": reference(body)});
                    content.insert("*/*".to_owned(), schema);
                }
                let required = body != DELETE_OPTIONS;
                set("requestBody", json!({"content": content, "required": required}));
            }
            set(
                "responses",
                json!({"200": {"description": "OK", "content":
                    {"application/json": {"schema": reference(answer)}}}}),
            );
        }
    }
    set("description", description.into());
    set("operationId", id.into());
    set("parameters", parameters.into());
    let tag = match owner.group {
        "" => format!("core_{}", owner.version),
        group => format!("{}_{}", group.split('.').next().unwrap_or(group), owner.version),
    };
    set("tags", json!([tag]));
    set("x-kubernetes-action", action.into());
    set(
        "x-kubernetes-group-version-kind",
        json!({"group": kind.group, "version": kind.version, "kind": kind.kind}),
    );
    (method, operation.into())
}

/// Stands for a body of any of the patch types.
const PATCH: &str = "patch";

fn path_parameter(dialect: Dialect, name: &str) -> Value {
    let description = match name {
        "name" => "name of the object",
        _ => "object name and auth scope, such as for teams and projects",
    };
    parameter(dialect, name, "path", "string", description)
}

fn query_parameter(dialect: Dialect, name: &str) -> Value {
    let (ty, description) = match name {
        "allowWatchBookmarks" => ("boolean", "Asks for watch events of type BOOKMARK."),
        "continue" => ("string", "Where the previous page of a list ended."),
        "dryRun" => ("string", "With the value All, nothing is stored."),
        "fieldManager" => ("string", "The name of the actor that makes these changes."),
        "fieldSelector" => ("string", "Restricts the list by fields."),
        "fieldValidation" => {
            ("string", "What happens to unknown or duplicate fields: Ignore, Warn or Strict.")
        }
        "force" => ("boolean", "Whether an apply request takes fields from other managers."),
        "gracePeriodSeconds" => ("integer", "How long the object has to end gracefully."),
        "labelSelector" => ("string", "Restricts the list by labels."),
        "limit" => ("integer", "The most items of one page."),
        "orphanDependents" => ("boolean", "Deprecated: use propagationPolicy."),
        "propagationPolicy" => ("string", "Orphan, Background or Foreground."),
        "resourceVersion" => ("string", "The version to start from."),
        "resourceVersionMatch" => ("string", "How resourceVersion applies to a list."),
        "sendInitialEvents" => ("boolean", "Whether a watch starts with what exists."),
        "timeoutSeconds" => ("integer", "When a list or watch ends."),
        _ => ("boolean", "Whether changes are streamed."),
    };
    parameter(dialect, name, "query", ty, description)
}

fn parameter(dialect: Dialect, name: &str, place: &str, ty: &str, description: &str) -> Value {
    let mut parameter = json!({"name": name, "in": place, "description": description});
    if place == "path" {
        parameter["required"] = true.into();
    }
    match dialect {
        Dialect::V2 => parameter["type"] = ty.into(),
        Dialect::V3 => parameter["schema"] = json!({"type": ty, "uniqueItems": true}),
    }
    parameter
}
