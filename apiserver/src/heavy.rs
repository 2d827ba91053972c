//! Which requests are so much work that the threads that serve the API do not do it.

use http::header::ACCEPT;
use http::request::Parts;

use crate::meta;
use crate::request::RequestInfo;
use crate::server::{ApiServer, is_read};

/// Bytes of a body and of the stored object that it changes from which on a request is heavy: below
/// that, its work takes about as long as reading and answering it.
const HEAVY_BYTES: usize = 64 << 10;

/// Objects in a list from which on it is heavy whatever their size.
const LIGHT_LIST_MAX: usize = 64;

impl ApiServer {
    /// Bytes of the stored object that the request names.
    pub(crate) fn stored_bytes(&self, info: &RequestInfo) -> usize {
        let found = self.catalog.find(&info.group, &info.version, &info.resource);
        let key = found.map(|(resource, _)| {
            let namespace = if resource.namespaced { info.namespace.as_str() } else { "" };
            meta::key(resource, namespace, &info.name)
        });
        key.and_then(|key| self.store.get(&key)).map_or(0, |record| record.value.len())
    }

    /// Whether the client has chosen so much work that it is done away from the threads that serve
    /// the API: a large body, a change of a large object, objects in another form than the stored
    /// one, or rules to compare.
    pub(crate) fn is_heavy(&self, info: &RequestInfo, parts: &Parts, body_bytes: usize) -> bool {
        if !info.is_resource {
            return false;
        }
        let transforms = || {
            let accepts = parts.headers.get_all(ACCEPT).into_iter();
            accepts.filter_map(|value| value.to_str().ok()).any(|accept| {
                [";as=", ";as =", "yaml"].into_iter().any(|form| accept.contains(form))
            })
        };
        let stored_bytes = || self.stored_bytes(info);
        let listed_bytes = || {
            let found = self.catalog.find(&info.group, &info.version, &info.resource);
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
        if compares_rules {
            return true;
        }
        match info.verb {
            "list" => transforms() && listed_bytes() > HEAVY_BYTES,
            "get" => stored_bytes() > HEAVY_BYTES && transforms(),
            _ => body_bytes > HEAVY_BYTES || body_bytes + stored_bytes() > HEAVY_BYTES,
        }
    }
}
