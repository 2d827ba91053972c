//! Paths that are about no resource: discovery, health, the version, OpenAPI.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use http::header::{CONTENT_TYPE, ETAG, IF_NONE_MATCH, VARY};
use http::request::Parts;
use http::{HeaderValue, Response, StatusCode};
use serde_json::{Value, json};

use crate::backup;
use crate::body::{self, Body};
use crate::catalog::Catalog;
use crate::config::Config;
use crate::discovery;
use crate::error::ApiError;
use crate::health;
use crate::negotiate::{self, Accepted, Encoding, Form};
use crate::openapi;
use crate::request::RequestInfo;
use crate::requests;
use crate::server::{self, ApiServer};

/// What these paths answer from.
pub(crate) struct PublicPaths {
    version: Value,
}

impl PublicPaths {
    pub(crate) fn new(config: &Config, _catalog: &Catalog) -> Self {
        Self { version: version(&config.report_version) }
    }
}

/// Whether anybody may read this path.
pub(crate) fn is_open(path: &str) -> bool {
    // Single checks, which say why they fail, need a role (system:monitoring), as upstream's do.
    ["/version", "/healthz", "/livez", "/readyz"].contains(&path)
}

/// What a path that nobody serves is answered with.
pub(crate) fn page_not_found() -> Response<Body> {
    body::text(StatusCode::NOT_FOUND, "404 page not found\n")
}

/// The list of CustomResourceDefinitions, none of which can be made here. kubectl asks for it before
/// it sends a kind that no PATCH is documented for, such as the reviews, and stops at an error.
pub(crate) fn no_definitions(server: &ApiServer, info: &RequestInfo) -> Option<Value> {
    let asked = (info.group.as_str(), info.version.as_str(), info.resource.as_str());
    let wanted = ("apiextensions.k8s.io", "v1", "customresourcedefinitions");
    (asked == wanted && info.verb == "list").then(|| {
        json!({
            "kind": "CustomResourceDefinitionList",
            "apiVersion": "apiextensions.k8s.io/v1",
            "metadata": { "resourceVersion": server.store.revision().to_string() },
            "items": [],
        })
    })
}

/// Answers a request that is about no resource.
pub(crate) async fn answer(
    server: &Arc<ApiServer>,
    info: &RequestInfo,
    parts: &Parts,
) -> Result<Response<Body>, ApiError> {
    if !server::is_read(&parts.method) {
        return Err(ApiError::method_not_allowed());
    }
    let catalog = &server.catalog;
    let path = info.path.trim_end_matches('/');
    let segments: Vec<&str> = path.split('/').filter(|s| !s.is_empty()).collect();
    let document = match segments.as_slice() {
        [] => Some(paths(catalog)),
        ["openapi", rest @ ..] => {
            let answer = openapi::answer(server, rest, parts).await?;
            return Ok(answer.unwrap_or_else(page_not_found));
        }
        ["coracle", "backup"] => return Ok(backup::answer(server)),
        ["metrics"] => return Ok(requests::answer(server)),
        ["version"] => Some(server.public.version.clone()),
        ["healthz" | "livez" | "readyz", ..] => {
            return Ok(health::answer(server, parts, &segments).await);
        }
        ["api"] | ["apis"] => return groups(server, segments[0] == "api", parts),
        ["api", version] => discovery::resource_list(catalog, "", version),
        ["apis", group] => discovery::api_group(catalog, group),
        ["apis", group, version] => discovery::resource_list(catalog, group, version),
        [".well-known", "openid-configuration"] => Some(server.security.openid_configuration()),
        ["openid", "v1", "jwks"] => Some(server.security.key_set()),
        _ => None,
    };
    match document {
        Some(document) => json(parts, &document),
        None => Ok(page_not_found()),
    }
}

fn json(parts: &Parts, document: &Value) -> Result<Response<Body>, ApiError> {
    let accepted = negotiate::accepted(&parts.headers, |form| *form == Form::Whole)
        .unwrap_or(Accepted { encoding: Encoding::Json, form: Form::Whole });
    body::value(StatusCode::OK, document, accepted.encoding, &parts.headers)
}

/// `/api` and `/apis`, plain or aggregated.
fn groups(server: &ApiServer, core: bool, parts: &Parts) -> Result<Response<Body>, ApiError> {
    let catalog = &server.catalog;
    let accepted = negotiate::accepted(&parts.headers, |form| {
        matches!(form, Form::Whole | Form::Discovery(_))
    })?;
    let Form::Discovery(version) = accepted.form else {
        let document = if core {
            discovery::core_versions(catalog, &server.config.server_address)
        } else {
            discovery::group_list(catalog)
        };
        return json(parts, &document);
    };
    let bytes = discovery::aggregated(catalog, core, version).to_string();
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    let etag = format!("\"{:016X}\"", hasher.finish());
    let known =
        parts.headers.get(IF_NONE_MATCH).is_some_and(|tag| tag.as_bytes() == etag.as_bytes());
    let mut response = if known {
        let mut response = Response::new(Body::default());
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        response
    } else {
        body::json_bytes(StatusCode::OK, bytes.into(), &parts.headers)
    };
    let media_type =
        format!("application/json;g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList");
    let headers = response.headers_mut();
    headers.insert(VARY, HeaderValue::from_static("Accept"));
    for (name, text) in [(CONTENT_TYPE, media_type), (ETAG, etag)] {
        headers.insert(name, HeaderValue::from_str(&text).map_err(ApiError::internal)?);
    }
    Ok(response)
}

fn paths(catalog: &Catalog) -> Value {
    let mut paths: Vec<String> = [
        "/api",
        "/apis",
        "/healthz",
        "/livez",
        "/metrics",
        "/openapi/v2",
        "/openapi/v3",
        "/readyz",
        "/ui",
        "/version",
    ]
    .map(str::to_owned)
    .into();
    for group in discovery::groups(catalog) {
        if !group.is_empty() {
            paths.push(format!("/apis/{group}"));
        }
        for version in discovery::versions(catalog, group) {
            paths.push(if group.is_empty() {
                format!("/api/{version}")
            } else {
                format!("/apis/{group}/{version}")
            });
        }
    }
    paths.sort();
    json!({ "paths": paths })
}

/// What `/version` says for a version such as `v1.33.0`.
fn version(git_version: &str) -> Value {
    let mut numbers = git_version.trim_start_matches('v').split('.');
    let major = numbers.next().unwrap_or("1");
    let minor = numbers.next().unwrap_or("0");
    json!({
        "major": major,
        "minor": minor,
        "gitVersion": git_version,
        "gitCommit": env!("CARGO_PKG_VERSION"),
        "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "none",
        "compiler": "rustc",
        "platform": format!("linux/{}", platform()),
    })
}

fn platform() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
