//! `/healthz`, `/livez` and `/readyz`, with the words of upstream (`apiserver/pkg/server/healthz`).

use std::sync::Arc;

use http::header::CACHE_CONTROL;
use http::request::Parts;
use http::{HeaderValue, Response, StatusCode};

use crate::body::{self, Body};
use crate::public;
use crate::request::Query;
use crate::server::ApiServer;

/// The parts of the node besides the server, as `/readyz` shows them.
pub trait NodeParts: Send + Sync {
    /// Each part's name, and the reason for which it is down, if it is.
    fn states(&self) -> Vec<(String, Option<String>)>;
}

/// What is looked at, in this order. The store is called by the name under which monitors of
/// Kubernetes ask for it.
const CHECKS: [&str; 3] = ["ping", "log", STORE];
const STORE: &str = "etcd";

/// Answers `/healthz`, `/healthz/<check>` and the same below `/livez` and `/readyz`.
pub(crate) async fn answer(
    server: &Arc<ApiServer>,
    parts: &Parts,
    path: &[&str],
) -> Response<Body> {
    let query = Query::parse(parts.uri.query().unwrap_or(""));
    let mut response = match path {
        [which, check] => {
            let found = failures(server, which).await.into_iter().find(|(name, _)| name == check);
            match found {
                Some((_, None)) => body::text(StatusCode::OK, "ok"),
                Some((_, Some(error))) => body::text(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    format!("internal server error: {error}\n"),
                ),
                None => public::page_not_found(),
            }
        }
        [which] => all(server, which, &query).await,
        _ => public::page_not_found(),
    };
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    response
}

async fn all(server: &Arc<ApiServer>, which: &str, query: &Query) -> Response<Body> {
    let mut excluded: Vec<&str> = query.all("exclude").collect();
    let mut lines = String::new();
    let mut failed = Vec::new();
    for (check, failure) in failures(server, which).await {
        if let Some(at) = excluded.iter().position(|name| *name == check) {
            excluded.remove(at);
            lines.push_str(&format!("[+]{check} excluded: ok\n"));
            continue;
        }
        match failure {
            None => lines.push_str(&format!("[+]{check} ok\n")),
            Some(error) => {
                // Any client may ask. The reason is in the log, and at the path of the check, which
                // needs a role.
                tracing::debug!(check, error, "a health check failed");
                failed.push(check.clone());
                lines.push_str(&format!("[-]{check} failed: reason withheld\n"));
            }
        }
    }
    if !excluded.is_empty() {
        let names: Vec<String> = excluded.iter().map(|name| format!("{name:?}")).collect();
        let names = names.join(",");
        lines.push_str(&format!(
            "warn: some health checks cannot be excluded: no matches for {names}\n"
        ));
    }
    if !failed.is_empty() {
        let text = format!("{lines}{which} check failed\n");
        return body::text(StatusCode::INTERNAL_SERVER_ERROR, text);
    }
    match query.all("verbose").next().is_some() {
        true => body::text(StatusCode::OK, format!("{lines}{which} check passed\n")),
        false => body::text(StatusCode::OK, "ok"),
    }
}

/// Why the store fails, if it does.
pub(crate) async fn of_store(server: &ApiServer) -> Option<String> {
    server.store.check().await.err().map(|error| error.to_string())
}

/// Every check with the reason for which it fails, if it does. Parts that are down make the node not
/// ready; restarting the process, which the other two paths suggest, would not help.
async fn failures(server: &Arc<ApiServer>, which: &str) -> Vec<(String, Option<String>)> {
    let mut checks = Vec::with_capacity(CHECKS.len());
    for check in CHECKS {
        // A client that gets an answer has reached a server that works.
        let failure = if check == STORE { of_store(server).await } else { None };
        checks.push((check.to_owned(), failure));
    }
    if which == "readyz" {
        checks.extend(server.parts.get().map(|parts| parts.states()).unwrap_or_default());
    }
    checks
}
