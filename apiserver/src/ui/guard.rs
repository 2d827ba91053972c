//! What keeps other people's web pages away from the API.
//!
//! A browser adds credentials by itself (a cookie, a client certificate, and behind
//! `kubectl proxy` whatever the kubeconfig holds), so a request alone does not show whose page sent
//! it. Browsers say so in `Sec-Fetch-Site` (Fetch Metadata) and in `Origin`; clients that are no
//! browsers send neither, and are not concerned.

use std::net::IpAddr;

use http::header::{AUTHORIZATION, AsHeaderName, HOST, ORIGIN, UPGRADE};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Response, StatusCode};

use super::PAGE_HEADER;
use crate::body::Body;
use crate::error::ApiError;
use crate::request::RequestInfo;
use crate::server;

const FETCH_SITE: &str = "sec-fetch-site";
const FETCH_MODE: &str = "sec-fetch-mode";
const FETCH_DEST: &str = "sec-fetch-dest";

/// Among a request's extensions: another check has shown that our own page sent it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Vouched;

/// 403 for a request that another page sent.
pub(super) fn foreign(why: &str) -> ApiError {
    ApiError::new(StatusCode::FORBIDDEN, "Forbidden", format!("refused: {why}"))
}

/// Whether a browser sent this.
pub(crate) fn from_browser(headers: &HeaderMap) -> bool {
    headers.contains_key(FETCH_SITE) || headers.contains_key(ORIGIN)
}

fn text(headers: &HeaderMap, name: impl AsHeaderName) -> Option<&str> {
    headers.get(name).map(|value| value.to_str().unwrap_or(""))
}

/// Refuses what a page of another origin asks for.
pub(crate) fn refuse_foreign_pages(parts: &Parts, info: &RequestInfo) -> Result<(), ApiError> {
    let headers = &parts.headers;
    let reads = server::is_read(&parts.method) && !headers.contains_key(UPGRADE);
    match text(headers, FETCH_SITE) {
        Some("same-origin" | "none") => return Ok(()),
        Some(_) => {
            // Following a link is fine: the other page cannot see what comes of it. What a
            // proxied application loads is decided later (`applications`).
            let link = text(headers, FETCH_MODE) == Some("navigate")
                && text(headers, FETCH_DEST) == Some("document");
            let application = info.subresource == "proxy";
            if reads && (link || application) {
                return Ok(());
            }
            return Err(foreign("a page of another origin may not use this API"));
        }
        None => {}
    }
    let Some(origin) = text(headers, ORIGIN) else { return Ok(()) };
    // An older browser. What it reads it does not show to the other page, since no answer of ours
    // allows that; a header of our own, or a bearer token, it would not have sent unasked.
    let upgrade_by_token = headers.contains_key(UPGRADE) && headers.contains_key(AUTHORIZATION);
    let same = same_host(origin, text(headers, HOST).or_else(|| authority(parts)));
    // A terminal brings a token that only our own page can read.
    let terminal = info.path.starts_with(super::terminal::PREFIX);
    if same || reads || terminal || upgrade_by_token || headers.contains_key(PAGE_HEADER) {
        return Ok(());
    }
    Err(foreign("a page of another origin may not use this API"))
}

/// Refuses to open an application with the session of the dashboard: its answers come from a pod,
/// which would count as the dashboard's own page.
pub(crate) fn refuse_application(info: &RequestInfo) -> Result<(), ApiError> {
    if info.subresource == "proxy" && matches!(info.resource.as_str(), "pods" | "services") {
        return Err(foreign("a session of the dashboard opens no applications; use kubectl proxy"));
    }
    Ok(())
}

/// The origin of a load of a proxied application.
pub(super) enum Load {
    /// A client that is no browser, our own page, or the user by following a link.
    Own,
    /// The user, who opens the application as a page.
    OpenedByUser,
    /// A page of another origin, or of none.
    Foreign,
}

/// Tells from its headers who loads something.
pub(super) fn load(parts: &Parts) -> Load {
    let headers = &parts.headers;
    let page = text(headers, FETCH_MODE) == Some("navigate")
        && text(headers, FETCH_DEST) == Some("document");
    match text(headers, FETCH_SITE) {
        Some("same-origin" | "none") if page => Load::OpenedByUser,
        Some("same-origin" | "none") | None => Load::Own,
        Some(_) if page => Load::Own,
        Some(_) => Load::Foreign,
    }
}

fn authority(parts: &Parts) -> Option<&str> {
    parts.uri.authority().map(|authority| authority.as_str())
}

fn same_host(origin: &str, host: Option<&str>) -> bool {
    let of_origin = origin.split_once("://").map(|(_, host)| host);
    matches!((of_origin, host), (Some(a), Some(b)) if a.eq_ignore_ascii_case(b))
}

/// Refuses a name that is not this server's: it may have been pointed here by somebody whose page
/// then counts as the same origin (DNS rebinding). Addresses cannot be pointed anywhere.
pub(crate) fn check_host(parts: &Parts, known: &[String]) -> Result<(), ApiError> {
    let host = parts.headers.get(HOST).and_then(|value| value.to_str().ok());
    let Some(host) = authority(parts).or(host) else { return Ok(()) };
    if is_known_host(host, known) {
        return Ok(());
    }
    let message = format!(
        "the dashboard does not answer to the name {host:?}; use an address, localhost, or a name \
         told with --dashboard-host"
    );
    Err(ApiError::new(StatusCode::FORBIDDEN, "Forbidden", message))
}

fn is_known_host(host: &str, known: &[String]) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or(""),
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    let name = name.trim_end_matches('.');
    name.parse::<IpAddr>().is_ok()
        || name.eq_ignore_ascii_case("localhost")
        || name.to_ascii_lowercase().ends_with(".localhost")
        || known.iter().any(|own| own.eq_ignore_ascii_case(name))
}

/// Tells a browser to keep an answer to itself, and an application that is seen through the API
/// that it has no origin: its scripts must not act as the user at the API.
pub(crate) fn harden(response: &mut Response<Body>, application: bool) {
    let headers = response.headers_mut();
    headers.insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    if application {
        headers.append(
            "content-security-policy",
            HeaderValue::from_static(
                "sandbox allow-scripts allow-forms allow-popups allow-downloads",
            ),
        );
    } else {
        headers.insert("cross-origin-resource-policy", HeaderValue::from_static("same-origin"));
    }
}

#[cfg(test)]
mod tests {
    use http::{Method, Request};

    use super::*;
    use crate::request::Query;

    /// Whether a request with these headers passes.
    fn passes(method: Method, path: &str, headers: &[(&str, &str)]) -> bool {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (parts, ()) = request.body(()).expect("a test request is valid").into_parts();
        let info = RequestInfo::parse(&parts.method, &parts.uri, &Query::parse(""));
        refuse_foreign_pages(&parts, &info).is_ok()
    }

    const PODS: &str = "/api/v1/namespaces/default/pods";
    const EXEC: &str = "/api/v1/namespaces/default/pods/p/exec";
    const PROXY: &str = "/api/v1/namespaces/default/services/s/proxy/app.js";

    #[test]
    fn clients_that_are_no_browsers_pass() {
        assert!(passes(Method::POST, PODS, &[("host", "node:6443")]));
        assert!(passes(Method::GET, EXEC, &[("upgrade", "websocket")]));
        let token =
            [("upgrade", "websocket"), ("origin", "http://localhost/"), ("authorization", "x")];
        assert!(passes(Method::GET, EXEC, &token));
    }

    #[test]
    fn our_own_page_passes() {
        for method in [Method::GET, Method::POST, Method::DELETE] {
            assert!(passes(method.clone(), PODS, &[("sec-fetch-site", "same-origin")]));
            let old = [("origin", "http://vm:8001"), ("host", "vm:8001")];
            assert!(passes(method.clone(), PODS, &old));
            let proxied =
                [("origin", "http://vm:8001"), ("host", "10.0.0.1:6443"), (PAGE_HEADER, "1")];
            assert!(passes(method, PODS, &proxied));
        }
        assert!(passes(Method::GET, "/ui/", &[("sec-fetch-site", "none")]));
    }

    #[test]
    fn another_page_can_neither_read_nor_write() {
        for site in ["cross-site", "same-site", "", "made-up"] {
            for method in [Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE] {
                let headers = [("sec-fetch-site", site), ("sec-fetch-mode", "no-cors")];
                assert!(!passes(method, PODS, &headers), "{site}");
            }
        }
        let navigate = [("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate")];
        assert!(!passes(Method::POST, PODS, &navigate), "a form");
        assert!(!passes(Method::GET, "/ui/", &navigate), "a frame");
        let link = [navigate[0], navigate[1], ("sec-fetch-dest", "document")];
        assert!(passes(Method::GET, "/ui/", &link));
        assert!(!passes(Method::POST, PODS, &link));
        assert!(passes(Method::GET, PROXY, &[("sec-fetch-site", "cross-site")]));
        assert!(!passes(Method::POST, PROXY, &[("sec-fetch-site", "cross-site")]));
    }

    #[test]
    fn another_page_in_an_older_browser_can_not_write_either() {
        for origin in ["https://evil.example", "null", ""] {
            let headers = [("origin", origin), ("host", "localhost:8001")];
            assert!(!passes(Method::POST, PODS, &headers), "{origin}");
            assert!(!passes(Method::DELETE, PODS, &headers), "{origin}");
            let socket = [headers[0], headers[1], ("upgrade", "websocket")];
            assert!(!passes(Method::GET, EXEC, &socket), "{origin}");
            assert!(passes(Method::GET, "/ui/terminal/default/p/exec", &socket), "by its token");
        }
    }

    #[test]
    fn only_names_that_nobody_else_can_point_here_are_answered() {
        let known = ["node.example".to_owned()];
        for host in [
            "localhost",
            "localhost:8001",
            "127.0.0.1:6443",
            "[::1]:6443",
            "192.0.2.10",
            "Node.Example:6443",
            "a.localhost:1",
            "node.example.",
        ] {
            assert!(is_known_host(host, &known), "{host}");
        }
        for host in
            ["evil.example", "localhost.evil.example:6443", "127.0.0.1.evil.example", "", "["]
        {
            assert!(!is_known_host(host, &known), "{host}");
        }
    }
}
