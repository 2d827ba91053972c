//! The dashboard at `/ui/`: its files, who may use it, and the three helpers that a browser needs
//! beside the Kubernetes API (one connection for several watches, sessions, a guarded terminal).
//!
//! Everything that the page shows or changes goes through the same verbs as `kubectl`; nothing
//! here reads or writes an object by itself.

mod applications;
mod assets;
mod guard;
mod logins;
mod multiplex;
mod sessions;
mod terminal;

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use http::header::{AUTHORIZATION, CACHE_CONTROL, COOKIE, LOCATION, SET_COOKIE};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};
use serde_json::{Value, json};

use crate::body::{self, Body};
use crate::error::ApiError;
use crate::public;
use crate::request::{Query, RequestInfo};
use crate::security::User;
use crate::server::{self, ApiServer};
use crate::tls_listener::Origin;
use applications::Applications;
pub(crate) use guard::{
    Vouched, check_host, from_browser, harden, refuse_application, refuse_foreign_pages,
};
use logins::Logins;
use sessions::Sessions;

/// The header that our page puts on what it asks for: a page of another origin cannot send it, since
/// no cross-origin request with it is ever allowed. Its value is the page's token of the session:
/// browsers send the cookie to every port of the host, where a tenant may listen.
const PAGE_HEADER: &str = "x-coracle-dashboard";
/// The session's cookie; the prefix makes browsers insist on `Secure`, `Path=/` and one host.
const COOKIE_NAME: &str = "__Host-coracle";
/// Bytes of a posted login token.
const LOGIN_BYTES_MAX: usize = 256;
/// Longest time that a posted login token may take to arrive.
const LOGIN_TIMEOUT: Duration = Duration::from_secs(5);

/// The dashboard's state: sessions and tokens, in memory only.
#[derive(Default)]
pub(crate) struct Dashboard {
    sessions: Mutex<Sessions>,
    applications: Applications,
    logins: Logins,
}

impl Dashboard {
    /// Refuses what a page of another origin loads of an application that its user has not opened.
    pub(crate) fn admit_load(
        &self,
        parts: &Parts,
        info: &RequestInfo,
        user: &User,
    ) -> Result<(), ApiError> {
        self.applications.admit(parts, info, user, Instant::now())
    }

    fn sessions(&self) -> MutexGuard<'_, Sessions> {
        // No panic can leave the maps half-changed, so a poisoned lock is as good as another.
        self.sessions.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// The user of the session, if the request carries a good cookie with the page's token and no
    /// credential of another kind.
    pub(crate) fn user_of_cookie(&self, parts: &Parts, info: &RequestInfo) -> Option<User> {
        if parts.headers.contains_key(AUTHORIZATION) {
            return None;
        }
        let (token, now) = (cookie(&parts.headers)?, Instant::now());
        if info.path.starts_with(terminal::PREFIX) {
            // A WebSocket has no such header. It brings a token that only the page can ask for.
            return self.sessions().user_by_cookie(token, now);
        }
        let page = parts.headers.get(PAGE_HEADER)?.to_str().ok()?;
        self.sessions().user(token, page, now)
    }
}

/// Whether the dashboard answers this path.
pub(crate) fn owns(path: &str) -> bool {
    path == "/ui" || path.starts_with("/ui/")
}

/// Answers a request below `/ui`.
pub(crate) async fn answer(
    server: &Arc<ApiServer>,
    user: &User,
    info: &RequestInfo,
    query: &Query,
    parts: Parts,
    body: Body,
) -> Result<Response<Body>, ApiError> {
    guard::check_host(&parts, &server.config.ui_hosts)?;
    let Some(path) = info.path.strip_prefix("/ui/") else {
        // Relative, so that it holds under whatever prefix a proxy has put before it.
        return redirect("ui/");
    };
    match (&parts.method, path) {
        (&Method::GET, "watch") => multiplex::answer(server, user, query),
        (&Method::GET, path) if path.starts_with("terminal/") => {
            terminal::answer(server, user, path, parts, body).await
        }
        (&Method::GET, "session") => Ok(whoami(user, &parts)),
        (&Method::POST, "session") => {
            from_our_page(&parts)?;
            log_in(server, &parts, body).await
        }
        (&Method::POST, "session/offer") => {
            from_our_page(&parts)?;
            offer(server, &parts, body).await
        }
        (&Method::DELETE, "session") => {
            from_our_page(&parts)?;
            Ok(log_out(server, &parts))
        }
        (&Method::POST, "login-link") => {
            server.authorize(user, info)?;
            let token = server.ui.sessions().login_token(user.clone(), Instant::now());
            Ok(json_answer(&json!({ "path": format!("/ui/#/login/{token}") })))
        }
        (&Method::POST, "terminal-token") => {
            from_our_page(&parts)?;
            // They could open nothing with it, and would take the places of others.
            if user.in_group(crate::security::UNAUTHENTICATED) {
                return Err(unauthorized("log in to open a terminal"));
            }
            let token = server.ui.sessions().terminal_token(user, Instant::now());
            Ok(json_answer(&json!({ "token": token })))
        }
        (method, path) if server::is_read(method) => {
            Ok(assets::answer(path, &parts.headers).unwrap_or_else(public::page_not_found))
        }
        _ => Err(ApiError::method_not_allowed()),
    }
}

/// Exchanges a one-time login token for a session. The session that the page had ends.
async fn log_in(
    server: &Arc<ApiServer>,
    parts: &Parts,
    body: Body,
) -> Result<Response<Body>, ApiError> {
    let token = login_token(server, parts, body).await?;
    let begun = server.ui.sessions().exchange(&token, Instant::now()).ok_or_else(spent_link)?;
    if let Some(before) = cookie(&parts.headers) {
        server.ui.sessions().end(before);
    }
    let mut response = json_answer(&json!({ "user": begun.user.name, "page": begun.page }));
    set_cookie(&mut response, &format!("{COOKIE_NAME}={}; {COOKIE_RULES}", begun.session))?;
    Ok(response)
}

/// Tells whose session a login token would begin, so that the page can ask before another user's
/// session takes the place of its own.
async fn offer(
    server: &Arc<ApiServer>,
    parts: &Parts,
    body: Body,
) -> Result<Response<Body>, ApiError> {
    let token = login_token(server, parts, body).await?;
    let user = server.ui.sessions().offered(&token, Instant::now()).ok_or_else(spent_link)?;
    Ok(json_answer(&json!({ "user": user.name })))
}

fn spent_link() -> ApiError {
    unauthorized("this login link has been used or is too old; `coracle dashboard` prints another")
}

/// Reads a posted login token.
async fn login_token(
    server: &Arc<ApiServer>,
    parts: &Parts,
    body: Body,
) -> Result<String, ApiError> {
    let origin = parts.extensions.get::<Arc<Origin>>();
    let address = origin.and_then(|origin| origin.peer).map(|peer| peer.ip().to_canonical());
    let place = server.ui.logins.enter(address);
    let read = body::read_at_most(LOGIN_BYTES_MAX, &parts.headers, body);
    let bytes = tokio::select! {
        // A token that has arrived whole counts.
        biased;
        read = tokio::time::timeout(LOGIN_TIMEOUT, read) => {
            read.unwrap_or_else(|_| Err(ApiError::timed_out()))?
        }
        () = place.evicted.cancelled() => return Err(ApiError::too_many()),
    };
    drop(place);
    Ok(std::str::from_utf8(&bytes).unwrap_or_default().trim().to_owned())
}

fn unauthorized(why: &str) -> ApiError {
    ApiError::new(StatusCode::UNAUTHORIZED, "Unauthorized", why)
}

/// What a browser may do with the cookie: send it to this host only, over TLS, from our own
/// pages, and keep it from scripts.
const COOKIE_RULES: &str = "Path=/; Secure; HttpOnly; SameSite=Strict";

fn log_out(server: &Arc<ApiServer>, parts: &Parts) -> Response<Body> {
    if let Some(token) = cookie(&parts.headers) {
        server.ui.sessions().end(token);
    }
    let mut response = json_answer(&json!({}));
    let gone = format!("{COOKIE_NAME}=; Max-Age=0; {COOKIE_RULES}");
    // The text is constant and valid.
    let _ = set_cookie(&mut response, &gone);
    response
}

fn set_cookie(response: &mut Response<Body>, text: &str) -> Result<(), ApiError> {
    let value = HeaderValue::from_str(text).map_err(ApiError::internal)?;
    response.headers_mut().insert(SET_COOKIE, value);
    Ok(())
}

/// Who the page acts as, and whether it is a session of its own that it can end.
fn whoami(user: &User, parts: &Parts) -> Response<Body> {
    json_answer(&json!({
        "user": user.name,
        "anonymous": user.in_group(crate::security::UNAUTHENTICATED),
        "session": cookie(&parts.headers).is_some(),
    }))
}

fn cookie(headers: &HeaderMap) -> Option<&str> {
    let texts = headers.get_all(COOKIE).into_iter().filter_map(|value| value.to_str().ok());
    texts
        .flat_map(|text| text.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .find_map(|(name, value)| (name == COOKIE_NAME && !value.is_empty()).then_some(value))
}

/// Lets only scripts of our own origin pass.
fn from_our_page(parts: &Parts) -> Result<(), ApiError> {
    if parts.headers.contains_key(PAGE_HEADER) {
        return Ok(());
    }
    Err(guard::foreign("the request does not come from the dashboard"))
}

fn redirect(to: &'static str) -> Result<Response<Body>, ApiError> {
    let mut response = Response::new(Body::default());
    *response.status_mut() = StatusCode::TEMPORARY_REDIRECT;
    response.headers_mut().insert(LOCATION, HeaderValue::from_static(to));
    Ok(response)
}

fn json_answer(value: &Value) -> Response<Body> {
    let mut response =
        body::json_bytes(StatusCode::OK, value.to_string().into_bytes().into(), &HeaderMap::new());
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests;
