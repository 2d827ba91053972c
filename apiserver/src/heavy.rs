//! The requests that are so much work that the threads that serve the API do not do it.

use api::Resource;
use http::header::CONTENT_TYPE;
use http::request::Parts;

use crate::catalog::Found;
use crate::meta;
use crate::negotiate::{self, Accepted, Encoding, Form};
use crate::request::{Query, RequestInfo};
use crate::server::{ApiServer, is_read};

/// Bytes of a body and of the stored object that it changes from which on a request is heavy: below
/// that, its work takes about as long as reading and answering it.
pub(crate) const HEAVY_BYTES: usize = 64 << 10;

/// Bytes of objects that are shown in another form, or compressed, from which on that is heavy.
pub(crate) const LIGHT_TRANSFORM_BYTES: usize = 16 << 10;

/// Objects in a list from which on it is heavy whatever their size.
const LIGHT_LIST_MAX: usize = 64;

/// Records from which a list selects some from which on it is heavy: each may have kilobytes of labels.
pub(crate) const LIGHT_SELECT_MAX: usize = 256;

/// Records that a list looks at from which on it is heavy: some half a millisecond.
pub(crate) const LIGHT_WALK_MAX: usize = 4096;

/// Memory of one value in a tree of JSON values, with room for another in its list.
const VALUE_BYTES: usize = 64;
/// Memory of a map with one member: its node has room for eleven.
const MAP_BYTES: usize = 704;
/// Bytes of protobuf that can be a map of one member.
const PROTOBUF_MAP_BYTES: usize = 4;

/// Memory that a body takes at the most as a tree of values, without its texts: what is known before
/// it is parsed.
pub(crate) fn tree_bytes(body: &[u8]) -> usize {
    let count = |byte: u8| memchr::memchr_iter(byte, body).count();
    let (values, maps) = match body.iter().find(|byte| !byte.is_ascii_whitespace()) {
        Some(b'{' | b'[') => {
            let open = count(b'{');
            (count(b',') + count(b'[') + open, open.min(count(b':')))
        }
        _ if body.starts_with(b"k8s\0") => (0, body.len() / PROTOBUF_MAP_BYTES),
        _ => (count(b',') + count(b'[') + count(b'{') + count(b'\n'), count(b':')),
    };
    VALUE_BYTES * values + MAP_BYTES * maps
}

impl ApiServer {
    /// Bytes of the stored object that the request names; 0 if it names none.
    pub(crate) fn stored_bytes(&self, info: &RequestInfo) -> usize {
        if info.name.is_empty() {
            return 0;
        }
        let found = self.catalog.find(&info.group, &info.version, &info.resource);
        let key = found.map(|(resource, _)| {
            let namespace = if resource.namespaced { info.namespace.as_str() } else { "" };
            meta::key(resource, namespace, &info.name)
        });
        key.and_then(|key| self.store.get(&key)).map_or(0, |record| record.value.len())
    }

    /// Returns whether the client has chosen so much work that it is done away from the threads
    /// that serve the API: a large body, a change of a large object, objects in another form than
    /// the stored one, an object to compress, very many objects, the end of a collection, a JSON
    /// patch, YAML with aliases, or objects to compare with all others of their kind. `written_bytes` are those of the
    /// body and of the object that it changes.
    pub(crate) fn is_heavy(
        &self,
        info: &RequestInfo,
        query: &Query,
        parts: &Parts,
        body: &[u8],
        written_bytes: usize,
    ) -> bool {
        if !info.is_resource {
            return false;
        }
        if compares(info, parts) {
            return true;
        }
        match info.verb {
            "list" => {
                let Some(found) = self.found(info) else { return false };
                self.walks_far(found.0, info, query)
                    || transforms(found, parts) && self.lists_much(found.0, info)
            }
            "deletecollection" => {
                self.found(info).is_some_and(|(resource, _)| self.lists_much(resource, info))
            }
            "get" => {
                self.stored_bytes(info) > LIGHT_TRANSFORM_BYTES
                    && (!info.subresource.is_empty()
                        || negotiate::accepts_gzip(&parts.headers)
                        || self.found(info).is_some_and(|found| transforms(found, parts)))
            }
            // A few operations of a JSON patch make or compare millions of values.
            _ if sends(parts, "json-patch") => true,
            // So do a few aliases of YAML, and the paths of managed fields that an apply compares.
            _ if sends(parts, "yaml") => {
                written_bytes > LIGHT_TRANSFORM_BYTES || !has_no_alias(body)
            }
            _ => written_bytes > HEAVY_BYTES,
        }
    }

    fn found(&self, info: &RequestInfo) -> Option<Found> {
        self.catalog.find(&info.group, &info.version, &info.resource)
    }

    /// Returns whether a list looks at so many records that this alone takes long.
    fn walks_far(&self, resource: &Resource, info: &RequestInfo, query: &Query) -> bool {
        let count = self.store.count(&listed_prefix(resource, info));
        let selects = ["labelSelector", "fieldSelector"]
            .iter()
            .any(|of| query.get(of).is_some_and(|selector| !selector.is_empty()));
        let limit = query.get("limit").and_then(|limit| limit.parse().ok()).filter(|max| *max > 0);
        if selects {
            count > LIGHT_SELECT_MAX
        } else {
            limit.unwrap_or(count).min(count) > LIGHT_WALK_MAX
        }
    }

    /// Returns whether the objects of a collection are many or large.
    fn lists_much(&self, resource: &Resource, info: &RequestInfo) -> bool {
        let page = self.store.list(&listed_prefix(resource, info), None, LIGHT_LIST_MAX);
        page.more
            || page.records.iter().map(|record| record.value.len()).sum::<usize>()
                > LIGHT_TRANSFORM_BYTES
    }
}

/// The keys of the collection that a request names.
fn listed_prefix(resource: &Resource, info: &RequestInfo) -> String {
    meta::prefix(resource, if resource.namespaced { &info.namespace } else { "" })
}

/// Returns whether objects are compared with others: rules, the budgets of an evicted pod, the pods of
/// a namespace with its new labels.
fn compares(info: &RequestInfo, parts: &Parts) -> bool {
    match info.group.as_str() {
        "rbac.authorization.k8s.io" => !is_read(&parts.method),
        "authorization.k8s.io" => true,
        "" if info.resource == "namespaces" => matches!(info.verb, "update" | "patch"),
        _ => info.subresource == "eviction",
    }
}

/// Returns whether the answer has another form than what is stored.
fn transforms((resource, served): Found, parts: &Parts) -> bool {
    let as_stored = Accepted { encoding: Encoding::Json, form: Form::Whole };
    let accepted = negotiate::accepted(&parts.headers, |_| true);
    !std::ptr::eq(served, &resource.served[0])
        || accepted.is_ok_and(|accepted| accepted != as_stored)
}

/// Returns whether YAML is written as most clients do, which send JSON, and can have no aliases.
fn has_no_alias(body: &[u8]) -> bool {
    body.trim_ascii_start().starts_with(b"{") && memchr::memchr(b'&', body).is_none()
}

/// Returns whether the body is of a media type with that name in it.
fn sends(parts: &Parts, name: &str) -> bool {
    let media_type = parts.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    media_type.is_some_and(|media_type| media_type.contains(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trees_of_dense_bodies_are_large() {
        let dense = format!("[{}0]", "{\"a\":1},".repeat(8000));
        assert!((5 << 20..8 << 20).contains(&tree_bytes(dense.as_bytes())));
        let yaml = "- a: 1\n".repeat(8000);
        assert!(tree_bytes(yaml.as_bytes()) > 5 << 20);
        let text = format!("{{\"data\":{{\"k\":\"{}\"}}}}", "x".repeat(60_000));
        assert!(tree_bytes(text.as_bytes()) < 4 << 10);
        assert_eq!(tree_bytes(b""), 0);
        assert!(tree_bytes(&[b"k8s\0", &[0x12, 0][..]].concat()) < 1 << 10);
    }
}
