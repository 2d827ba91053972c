//! `GET /ui/terminal/<namespace>/<pod>?…`: exec for the page's terminal.
//!
//! `kubectl proxy` turns exec away under its own path, because any web page may open a WebSocket to
//! it. Here a token is asked for that only our own page can read (`POST /ui/terminal-token`), and
//! comes as one of the WebSocket's sub-protocols, the one thing that a page can say in a handshake.

use std::sync::Arc;
use std::time::Instant;

use http::header::{SEC_WEBSOCKET_PROTOCOL, UPGRADE};
use http::request::Parts;
use http::{HeaderValue, Request, Response};

use super::guard::{self, Vouched};
use crate::body::Body;
use crate::error::ApiError;
use crate::public;
use crate::security::User;
use crate::server::ApiServer;

/// The path of terminals.
pub(super) const PREFIX: &str = "/ui/terminal/";
/// What the token is written behind.
const TOKEN_PREFIX: &str = "coracle.terminal.";

/// Checks the token and passes the request on to `pods/exec` (or `pods/attach`).
pub(super) async fn answer(
    server: &Arc<ApiServer>,
    user: &User,
    path: &str,
    mut parts: Parts,
    body: Body,
) -> Result<Response<Body>, ApiError> {
    let segments: Vec<&str> = path.split('/').collect();
    let ["terminal", namespace, pod, verb @ ("exec" | "attach")] = segments.as_slice() else {
        return Ok(public::page_not_found());
    };
    if !parts.headers.contains_key(UPGRADE) {
        return Err(ApiError::bad_request("a terminal is a WebSocket"));
    }
    let offered = parts.headers.get(SEC_WEBSOCKET_PROTOCOL).and_then(|v| v.to_str().ok());
    let (token, protocols) = split(offered.unwrap_or(""));
    let good =
        token.is_some_and(|token| server.ui.sessions().opens_terminal(token, user, Instant::now()));
    if !good {
        return Err(guard::foreign(
            "a terminal needs a token that the dashboard has just asked for",
        ));
    }
    let query = parts.uri.query().unwrap_or("");
    parts.uri = format!("/api/v1/namespaces/{namespace}/pods/{pod}/{verb}?{query}")
        .parse()
        .map_err(|_| ApiError::bad_request("the path of the terminal is malformed"))?;
    let protocols = HeaderValue::from_str(&protocols).map_err(ApiError::internal)?;
    parts.headers.insert(SEC_WEBSOCKET_PROTOCOL, protocols);
    Arc::new(user.clone()).send(&mut parts.extensions);
    parts.extensions.insert(Vouched);
    Ok(server.handle(Request::from_parts(parts, body)).await)
}

/// The token among the offered sub-protocols, and the others.
fn split(offered: &str) -> (Option<&str>, String) {
    let mut token = None;
    let mut others = Vec::new();
    for protocol in offered.split(',').map(str::trim).filter(|p| !p.is_empty()) {
        match protocol.strip_prefix(TOKEN_PREFIX) {
            Some(found) => token = Some(found),
            None => others.push(protocol),
        }
    }
    (token, others.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_is_taken_out_of_the_offer() {
        let (token, others) = split("v5.channel.k8s.io, coracle.terminal.abc,v4.channel.k8s.io");
        assert_eq!(token, Some("abc"));
        assert_eq!(others, "v5.channel.k8s.io, v4.channel.k8s.io");
        assert_eq!(split("").0, None);
    }
}
