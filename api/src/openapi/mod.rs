//! The OpenAPI documents, made on demand from the schema and the resource table. Nothing stays in
//! memory: the caller compresses and caches what it serves.

mod definitions;
mod gnostic;
mod paths;

use std::hash::{DefaultHasher, Hash, Hasher};

use serde_json::{Map, Value, json};

use crate::registry::{Resource, Served};
use crate::schema::{Descriptions, Message, fingerprint, kinds, message, messages};
use definitions::Writer;

/// The dialect of a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dialect {
    /// Swagger 2.0.
    V2,
    /// OpenAPI 3.0.
    V3,
}

/// What the documents call us.
fn info(version: &str) -> Value {
    json!({"title": "Kubernetes", "version": version})
}

/// The versions under which resources are served, with those of their groups.
fn served(
    resources: &'static [Resource],
) -> impl Iterator<Item = (&'static Resource, &'static Served)> {
    resources
        .iter()
        .flat_map(|resource| resource.served.iter().map(move |served| (resource, served)))
}

/// Groups and versions, in alphabetical order.
fn group_versions(resources: &'static [Resource]) -> Vec<(&'static str, &'static str)> {
    let mut list: Vec<_> =
        served(resources).map(|(_, served)| (served.group, served.version)).collect();
    list.sort_unstable();
    list.dedup();
    list
}

/// Kinds that requests and answers of every group use.
const COMMON: [&str; 2] = ["DeleteOptions", "Status"];

/// The messages that documents over `kept` groups and versions define, in alphabetical order:
/// the kinds there, what they refer to, and the common ones.
fn closure(
    resources: &'static [Resource],
    keep: impl Fn(&str, &str) -> bool,
) -> Vec<&'static Message> {
    let mut roots: Vec<&'static Message> = Vec::new();
    for (resource, served) in served(resources).filter(|(_, s)| keep(s.group, s.version)) {
        roots.extend(message(served.group, served.version, served.kind));
        for subresource in resource.subresources {
            let (group, version) =
                subresource.group_version.unwrap_or((served.group, served.version));
            roots.extend(message(group, version, subresource.kind));
        }
        if resource.has_scale {
            let (group, version) = paths::scale_version(served);
            roots.extend(message(group, version, "Scale"));
        }
    }
    roots.extend(COMMON.iter().filter_map(|kind| message("", "v1", kind)));
    let mut wanted = vec![false; messages().len()];
    while let Some(message) = roots.pop() {
        let slot = &mut wanted[message.index()];
        if !*slot {
            *slot = true;
            roots.extend(message.fields().iter().filter_map(|field| field.message()));
        }
    }
    // Inlined messages appear as members of others, never by themselves.
    let inlined = |message: &Message| {
        messages().iter().flat_map(Message::fields).any(|field| {
            field.is_inlined() && field.message().is_some_and(|m| m.name() == message.name())
        })
    };
    let named = |message: &Message| {
        messages().iter().flat_map(Message::fields).any(|field| {
            !field.is_inlined() && field.message().is_some_and(|m| m.name() == message.name())
        })
    };
    messages()
        .iter()
        .zip(wanted)
        .filter(|(message, wanted)| *wanted && (!inlined(message) || named(message)))
        .map(|(message, _)| message)
        .collect()
}

/// Group, version and kind of every served kind that a message is.
fn kinds_of(message: &Message, resources: &'static [Resource]) -> Vec<Value> {
    let kind = |group: &str, version: &str, kind: &str| json!({"group": group, "version": version, "kind": kind});
    if COMMON.contains(&message.short_name()) {
        let short = message.short_name();
        if short == "Status" {
            return vec![kind("", "v1", short)];
        }
        return group_versions(resources).iter().map(|(g, v)| kind(g, v, short)).collect();
    }
    kinds()
        .iter()
        .filter(|entry| entry.message().name() == message.name())
        .map(|entry| kind(entry.group(), entry.version(), entry.kind()))
        .collect()
}

/// The whole document in Swagger 2.0.
pub fn v2_json(resources: &'static [Resource], version: &str) -> Value {
    let descriptions = Descriptions::load();
    let mut writer = Writer::new(Dialect::V2, &descriptions);
    for message in closure(resources, |_, _| true) {
        writer.message(message, kinds_of(message, resources));
    }
    let mut operations = Map::new();
    for (resource, served) in served(resources) {
        paths::add(&mut operations, Dialect::V2, resource, served);
        writer.list(resource, served);
    }
    json!({
        "swagger": "2.0",
        "info": info(version),
        "paths": operations,
        "definitions": writer.finish(),
    })
}

/// The same in the protobuf encoding of gnostic's `openapi.v2.Document`.
pub fn v2_protobuf(resources: &'static [Resource], version: &str) -> Vec<u8> {
    gnostic::encode(&v2_json(resources, version))
}

/// The index of the 3.0 documents. Each address carries a hash, so that clients may keep a
/// document as long as its hash stays.
pub fn v3_index(resources: &'static [Resource], version: &str) -> Value {
    let mut hasher = DefaultHasher::new();
    (FORMAT, version, fingerprint()).hash(&mut hasher);
    for (resource, served) in served(resources) {
        (served.group, served.version, served.kind, served.plural).hash(&mut hasher);
        (resource.namespaced, resource.verbs, resource.has_status).hash(&mut hasher);
    }
    let hash = hasher.finish();
    let paths: Map<String, Value> = group_versions(resources)
        .into_iter()
        .map(|(group, version)| {
            let path = match group {
                "" => format!("api/{version}"),
                group => format!("apis/{group}/{version}"),
            };
            let url = format!("/openapi/v3/{path}?hash={hash:016X}");
            (path, json!({"serverRelativeURL": url}))
        })
        .collect();
    json!({"paths": paths})
}

/// Raised when the documents change though the tables do not.
const FORMAT: u32 = 1;

/// The 3.0 document of one group and version; `None` if nothing is served there.
pub fn v3_group(
    resources: &'static [Resource],
    version: &str,
    group: &str,
    group_version: &str,
) -> Option<Value> {
    let is_here = |g: &str, v: &str| g == group && v == group_version;
    let here: Vec<_> = served(resources).filter(|(_, s)| is_here(s.group, s.version)).collect();
    if here.is_empty() {
        return None;
    }
    let descriptions = Descriptions::load();
    let mut writer = Writer::new(Dialect::V3, &descriptions);
    for message in closure(resources, is_here) {
        writer.message(message, kinds_of(message, resources));
    }
    let mut operations = Map::new();
    for (resource, served) in here {
        paths::add(&mut operations, Dialect::V3, resource, served);
        writer.list(resource, served);
    }
    Some(json!({
        "openapi": "3.0.0",
        "info": info(version),
        "paths": operations,
        "components": {"schemas": writer.finish()},
    }))
}

#[cfg(test)]
mod tests;
