//! The requests that are so much work that the threads that serve the API do not do it.

use http::header::CONTENT_TYPE;
use http::request::Parts;

use crate::meta;
use crate::negotiate::{self, Accepted, Encoding, Form};
use crate::request::RequestInfo;
use crate::server::{ApiServer, is_read};

/// Bytes of a body and of the stored object that it changes from which on a request is heavy: below
/// that, its work takes about as long as reading and answering it.
pub(crate) const HEAVY_BYTES: usize = 64 << 10;

/// Objects in a list from which on it is heavy whatever their size.
const LIGHT_LIST_MAX: usize = 64;

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
    /// the stored one, an object to compress, the end of a collection, a JSON patch, or rules and
    /// budgets to compare. `written_bytes` are those of the body and of the object
    /// that it changes.
    pub(crate) fn is_heavy(&self, info: &RequestInfo, parts: &Parts, written_bytes: usize) -> bool {
        if !info.is_resource {
            return false;
        }
        let found = self.catalog.find(&info.group, &info.version, &info.resource);
        let converts =
            || found.is_some_and(|(resource, served)| !std::ptr::eq(served, &resource.served[0]));
        let as_stored = Accepted { encoding: Encoding::Json, form: Form::Whole };
        let transforms = || {
            let accepted = negotiate::accepted(&parts.headers, |_| true);
            converts() || accepted.is_ok_and(|accepted| accepted != as_stored)
        };
        let listed_bytes = || {
            found.map_or(0, |(resource, _)| {
                let namespace = if resource.namespaced { info.namespace.as_str() } else { "" };
                let prefix = meta::prefix(resource, namespace);
                let page = self.store.list(&prefix, None, LIGHT_LIST_MAX, |_| true);
                let bytes: usize = page.records.iter().map(|record| record.value.len()).sum();
                if page.remaining > 0 { usize::MAX } else { bytes }
            })
        };
        let compares_rules = match info.group.as_str() {
            "rbac.authorization.k8s.io" => !is_read(&parts.method),
            "authorization.k8s.io" => true,
            _ => false,
        };
        // An eviction compares the pod with every budget of its namespace.
        if compares_rules || info.subresource == "eviction" {
            return true;
        }
        match info.verb {
            "list" => transforms() && listed_bytes() > HEAVY_BYTES,
            "deletecollection" => listed_bytes() > HEAVY_BYTES,
            "get" => {
                let is_work = !info.subresource.is_empty()
                    || negotiate::accepts_gzip(&parts.headers)
                    || transforms();
                is_work && self.stored_bytes(info) > HEAVY_BYTES
            }
            // A few of its operations make or compare millions of values.
            "patch" if is_json_patch(parts) => true,
            _ => written_bytes > HEAVY_BYTES,
        }
    }
}

fn is_json_patch(parts: &Parts) -> bool {
    let media_type = parts.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    media_type.is_some_and(|media_type| media_type.contains("json-patch"))
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
