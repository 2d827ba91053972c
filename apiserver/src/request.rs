//! What a request is about, read from its method and URL (upstream `request.RequestInfo`).

use http::{Method, Uri};

use crate::percent::decode;

/// A request, taken apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestInfo {
    /// Whether the path names a resource.
    pub is_resource: bool,
    /// `get`, `list`, `watch`, `create`, …; the lower-case method for other paths.
    pub verb: &'static str,
    /// The API group, empty for core.
    pub group: String,
    /// The API version.
    pub version: String,
    /// The namespace, empty for cluster-scoped requests.
    pub namespace: String,
    /// True if the path has the form `namespaces/<namespace>/<resource>…`, which only namespaced
    /// resources have; false for a namespace itself and its subresources.
    pub below_namespace: bool,
    /// The plural resource name.
    pub resource: String,
    /// The subresource, empty for the object itself.
    pub subresource: String,
    /// The object's name, empty for collections.
    pub name: String,
    /// What follows the subresource, without the leading slash, undecoded (for proxying).
    pub rest: String,
    /// The whole path.
    pub path: String,
}

/// Namespaced-looking paths that address a namespace itself.
const NAMESPACE_SUBRESOURCES: [&str; 2] = ["status", "finalize"];

impl RequestInfo {
    /// Takes a method and URL apart.
    pub fn parse(method: &Method, uri: &Uri, query: &Query) -> Self {
        let path = uri.path();
        let mut info = Self { path: path.to_owned(), verb: method_verb(method), ..Self::default() };
        let parts: Vec<&str> = path.split('/').filter(|p| !p.is_empty()).collect();
        let mut rest = match parts.as_slice() {
            ["api", version, rest @ ..] if !rest.is_empty() => {
                info.version = decode(version);
                rest
            }
            ["apis", group, version, rest @ ..] if !rest.is_empty() => {
                info.group = decode(group);
                info.version = decode(version);
                rest
            }
            _ => return info,
        };
        info.is_resource = true;
        let legacy_watch = rest[0] == "watch" && rest.len() > 1;
        if legacy_watch {
            rest = &rest[1..];
        }
        if rest[0] == "namespaces" && rest.len() > 1 {
            info.namespace = decode(rest[1]);
            if rest.len() > 2 && !NAMESPACE_SUBRESOURCES.contains(&rest[2]) {
                info.below_namespace = true;
                rest = &rest[2..];
            }
        }
        info.resource = decode(rest[0]);
        info.name = rest.get(1).map(|p| decode(p)).unwrap_or_default();
        info.subresource = rest.get(2).map(|p| decode(p)).unwrap_or_default();
        if rest.len() > 2 {
            info.rest = rest_of(path, rest[2], rest.get(3..).unwrap_or_default());
        }
        info.verb = resource_verb(method, &info, query, legacy_watch);
        if info.name.is_empty()
            && matches!(info.verb, "list" | "watch" | "deletecollection")
            && let Some(name) = query.get("fieldSelector").and_then(single_name)
        {
            info.name = name;
        }
        info
    }

    /// Whether the request may last for as long as the client wants.
    pub fn is_long_running(&self) -> bool {
        self.verb == "watch"
            || matches!(self.subresource.as_str(), "exec" | "attach" | "portforward" | "proxy")
            || self.subresource == "log"
    }
}

/// The undecoded path below the subresource, with its trailing slash.
fn rest_of(path: &str, subresource: &str, rest: &[&str]) -> String {
    let Some(first) = rest.first() else {
        let slash = path.ends_with(&format!("{subresource}/"));
        return if slash { "/".into() } else { String::new() };
    };
    // The parts borrow from the path, so the first one knows where the rest begins.
    let start = first.as_ptr() as usize - path.as_ptr() as usize;
    path[start..].to_owned()
}

fn single_name(selector: &str) -> Option<String> {
    selector.split(',').find_map(|term| {
        let name = term.strip_prefix("metadata.name=")?.trim_start_matches('=');
        (!name.is_empty()).then(|| name.to_owned())
    })
}

fn method_verb(method: &Method) -> &'static str {
    match *method {
        Method::GET => "get",
        Method::HEAD => "head",
        Method::POST => "post",
        Method::PUT => "put",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        Method::OPTIONS => "options",
        _ => "",
    }
}

fn resource_verb(
    method: &Method,
    info: &RequestInfo,
    query: &Query,
    legacy_watch: bool,
) -> &'static str {
    match *method {
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE if info.name.is_empty() => "deletecollection",
        Method::DELETE => "delete",
        Method::GET | Method::HEAD => {
            let watch = legacy_watch || query.flag("watch");
            if watch && info.subresource.is_empty() && (legacy_watch || info.name.is_empty()) {
                "watch"
            } else if info.name.is_empty() {
                "list"
            } else {
                "get"
            }
        }
        _ => "",
    }
}

/// The decoded query parameters, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Parses `a=b&c`.
    pub fn parse(text: &str) -> Self {
        let pairs = text.split('&').filter(|p| !p.is_empty()).map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode_form(key), decode_form(value))
        });
        Self(pairs.collect())
    }

    /// The first value of a parameter that is not empty.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(k, v)| k == key && !v.is_empty()).map(|(_, v)| v.as_str())
    }

    /// Every value of a parameter.
    pub fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(k, _)| k == key).map(|(_, v)| v.as_str())
    }

    /// Whether a boolean parameter is set, as upstream reads it: anything but `false` and `0`.
    pub fn flag(&self, key: &str) -> bool {
        self.0
            .iter()
            .find(|(k, _)| k == key)
            .is_some_and(|(_, v)| !v.eq_ignore_ascii_case("false") && v != "0")
    }
}

fn decode_form(text: &str) -> String {
    if text.contains('+') { decode(&text.replace('+', " ")) } else { decode(text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(method: Method, uri: &str) -> RequestInfo {
        let uri: Uri = uri.parse().expect("a test URI parses");
        let query = Query::parse(uri.query().unwrap_or(""));
        RequestInfo::parse(&method, &uri, &query)
    }

    #[test]
    fn paths_are_taken_apart_as_upstream_does() {
        // method, URL, verb, group, namespace, resource, subresource, name
        let table = [
            (Method::GET, "/api/v1/namespaces", "list", "", "", "namespaces", "", ""),
            (Method::GET, "/api/v1/namespaces/a", "get", "", "a", "namespaces", "", "a"),
            (
                Method::PUT,
                "/api/v1/namespaces/a/finalize",
                "update",
                "",
                "a",
                "namespaces",
                "finalize",
                "a",
            ),
            (Method::GET, "/api/v1/namespaces/a/pods", "list", "", "a", "pods", "", ""),
            (Method::GET, "/api/v1/pods?watch=true", "watch", "", "", "pods", "", ""),
            (Method::GET, "/api/v1/watch/namespaces/a/pods/p", "watch", "", "a", "pods", "", "p"),
            (Method::GET, "/api/v1/namespaces/a/pods/p/log", "get", "", "a", "pods", "log", "p"),
            (
                Method::POST,
                "/api/v1/namespaces/a/pods/p/exec?command=ls",
                "create",
                "",
                "a",
                "pods",
                "exec",
                "p",
            ),
            (
                Method::PATCH,
                "/apis/apps/v1/namespaces/a/deployments/d/scale",
                "patch",
                "apps",
                "a",
                "deployments",
                "scale",
                "d",
            ),
            (
                Method::DELETE,
                "/apis/apps/v1/namespaces/a/deployments",
                "deletecollection",
                "apps",
                "a",
                "deployments",
                "",
                "",
            ),
            (
                Method::GET,
                "/apis/rbac.authorization.k8s.io/v1/clusterroles/system%3Anode",
                "get",
                "rbac.authorization.k8s.io",
                "",
                "clusterroles",
                "",
                "system:node",
            ),
            (
                Method::GET,
                "/api/v1/pods?fieldSelector=metadata.name%3Dx",
                "list",
                "",
                "",
                "pods",
                "",
                "x",
            ),
        ];
        for (method, uri, verb, group, namespace, resource, subresource, name) in table {
            let got = info(method, uri);
            assert!(got.is_resource, "{uri}");
            assert_eq!(
                (
                    got.verb,
                    &*got.group,
                    &*got.namespace,
                    &*got.resource,
                    &*got.subresource,
                    &*got.name
                ),
                (verb, group, namespace, resource, subresource, name),
                "{uri}"
            );
        }
        for uri in ["/", "/api", "/api/v1", "/apis", "/apis/apps", "/apis/apps/v1", "/healthz"] {
            assert!(!info(Method::GET, uri).is_resource, "{uri}");
        }
    }

    #[test]
    fn what_follows_a_proxy_stays_as_it_is() {
        let got = info(Method::GET, "/api/v1/namespaces/a/services/s:80/proxy/x%20y/z/?q=1");
        assert_eq!((&*got.name, &*got.rest), ("s:80", "x%20y/z/"));
        assert_eq!(info(Method::GET, "/api/v1/nodes/n/proxy/").rest, "/");
        assert_eq!(info(Method::GET, "/api/v1/nodes/n/proxy").rest, "");
    }

    #[test]
    fn queries_decode() {
        let query = Query::parse("a=1%2C2+3&watch&b=false");
        assert_eq!(query.get("a"), Some("1,2 3"));
        assert!(query.flag("watch") && !query.flag("b") && !query.flag("c"));
    }
}
