//! Requests that go on to a node or into a pod: logs, exec, attach, port-forward and proxying.

mod address;
mod target;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use futures::future::BoxFuture;
use http::header::{
    AUTHORIZATION, CONNECTION, CONTENT_TYPE, COOKIE, HOST, TRANSFER_ENCODING, UPGRADE,
};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Uri, Version};
use http_body_util::BodyExt;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::body::Body;
use crate::budget::Lease;
use crate::call::Call;
use crate::error::ApiError;
use crate::intake;
use crate::socket::Client;
use crate::tls_listener::Origin;
use target::Target;

/// Bytes that are read ahead from a node or pod, whose client may read slowly; the head of its
/// answer has to fit.
const BUFFER_BYTES: usize = 64 << 10;
/// The text of a node's refusal that is passed on.
const REFUSAL_BYTES_MAX: usize = 64 << 10;

/// A byte stream in both directions.
pub trait AsyncReadWrite: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> AsyncReadWrite for T {}

/// How the apiserver reaches the kubelet of a node: it speaks HTTP/1.1 over what it gets.
pub trait NodeDialer: Send + Sync + 'static {
    /// Opens a stream to the kubelet of `node`.
    fn dial(&self, node: &str) -> BoxFuture<'static, io::Result<Box<dyn AsyncReadWrite>>>;
}

/// Answers a request for `log`, `exec`, `attach`, `portforward` or `proxy`.
pub(crate) async fn answer(
    call: &Call<'_>,
    parts: Parts,
    body: Body,
) -> Result<Response<Body>, ApiError> {
    let place = place(call, &parts)?;
    let target = target::resolve(call, parts.uri.query().unwrap_or("")).await?;
    match target {
        Some(Target::Node { node, path }) => {
            let Some(dialer) = call.server.node_dialer() else {
                return Err(ApiError::unavailable("no node can be reached from here"));
            };
            let stream = dialer
                .dial(&node)
                .await
                .map_err(|error| ApiError::internal(format!("error dialing backend: {error}")))?;
            let response = forward(stream, &node, &path, parts, body, place).await?;
            let code = response.status();
            let plain = call.info.subresource != "proxy";
            if plain && (code.is_client_error() || code.is_server_error()) {
                return Err(refusal(response).await);
            }
            Ok(response)
        }
        Some(Target::Address { address, path }) => {
            let unreachable =
                |why| ApiError::unavailable(format!("error trying to reach service: {why}"));
            let socket: SocketAddr =
                address.parse().map_err(|_| unreachable(format!("{address} is no address")))?;
            let stream = tokio::net::TcpStream::connect(socket)
                .await
                .map_err(|error| unreachable(error.to_string()))?;
            forward(Box::new(stream), &address, &path, parts, body, place).await
        }
        // The log of a pod that is not scheduled yet.
        None => {
            let mut response = Response::new(Body::default());
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
            Ok(response)
        }
    }
}

/// The place of a session, for a client of another process that wants one.
fn place(call: &Call<'_>, parts: &Parts) -> Result<Option<Lease>, ApiError> {
    let wanted =
        parts.headers.contains_key(UPGRADE) && parts.extensions.get::<Arc<Origin>>().is_some();
    wanted.then(|| call.server.intake.session(&intake::holder(call.user))).transpose()
}

/// Sends the request on, and ties the two connections together if the answer is an upgrade. They
/// hold `place` until both have ended.
async fn forward(
    stream: Box<dyn AsyncReadWrite>,
    host: &str,
    path: &str,
    parts: Parts,
    body: Body,
    place: Option<Lease>,
) -> Result<Response<Body>, ApiError> {
    let origin = parts.extensions.get::<Arc<Origin>>();
    let client = origin.and_then(|origin| origin.client.clone());
    let unreachable =
        |error: hyper::Error| ApiError::internal(format!("error dialing backend: {error}"));
    let upgrades = parts.headers.contains_key(UPGRADE);
    let mut request = Request::from_parts(parts, body);
    let from_client = upgrades.then(|| hyper::upgrade::on(&mut request));
    let (mut parts, body) = request.into_parts();
    let path: PathAndQuery =
        path.parse().map_err(|_| ApiError::bad_request(format!("{path:?} is not a path")))?;
    parts.uri = Uri::from(path);
    parts.version = Version::HTTP_11;
    strip(&mut parts.headers, upgrades);
    if let Ok(host) = HeaderValue::from_str(host) {
        parts.headers.insert(HOST, host);
    }
    let mut http = hyper::client::conn::http1::Builder::new();
    http.max_buf_size(BUFFER_BYTES);
    let (mut sender, connection) =
        http.handshake(TokioIo::new(stream)).await.map_err(unreachable)?;
    tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "the connection to a node or pod ended early");
        }
    });
    let mut response =
        sender.send_request(Request::from_parts(parts, body)).await.map_err(unreachable)?;
    if response.status() == StatusCode::SWITCHING_PROTOCOLS
        && let Some(from_client) = from_client
    {
        let from_node = hyper::upgrade::on(&mut response);
        tokio::spawn(async move {
            let _place = place;
            match tokio::try_join!(from_client, from_node) {
                Ok((from_client, node)) => carry(from_client, node, client).await,
                Err(error) => tracing::debug!(%error, "an upgrade came to nothing"),
            }
        });
        strip_claims(response.headers_mut());
        return Ok(response.map(|_| Body::default()));
    }
    let mut response = response.map(|body| body.map_err(Into::into).boxed_unsync());
    for header in [CONNECTION, TRANSFER_ENCODING] {
        response.headers_mut().remove(header);
    }
    strip_claims(response.headers_mut());
    *response.version_mut() = Version::default();
    Ok(response)
}

/// Carries bytes both ways until either side breaks off; both are closed then.
async fn carry(from_client: Upgraded, node: Upgraded, client: Option<Client>) {
    let (mut from_client, mut node) = (TokioIo::new(from_client), TokioIo::new(node));
    let gone = async {
        match client {
            Some(client) => client.gone().await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        _ = tokio::io::copy_bidirectional(&mut from_client, &mut node) => {}
        () = gone => tracing::debug!("a client is gone before its session took what it sent"),
    }
}

/// Removes what is between the client and us only. All applications share the host of this server,
/// so a cookie may be another application's, or the session of the dashboard.
fn strip(headers: &mut HeaderMap, upgrades: bool) {
    headers.remove(AUTHORIZATION);
    headers.remove(COOKIE);
    headers.remove(TRANSFER_ENCODING);
    let secret: Vec<_> =
        headers.keys().filter(|k| k.as_str().starts_with("impersonate-")).cloned().collect();
    for name in secret {
        headers.remove(name);
    }
    for name in ["keep-alive", "proxy-connection", "te", "trailer"] {
        headers.remove(name);
    }
    if upgrades {
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    } else {
        headers.remove(CONNECTION);
    }
}

/// Headers that ask a browser to do something for a whole origin, here the API's: a cookie would
/// go to every application behind it, `Clear-Site-Data` end the dashboard's session, `NEL` report its
/// requests elsewhere. Upstream removes `Access-Control-Allow-…`.
const ORIGIN_CLAIMS: [&str; 15] = [
    "accept-ch",
    "access-control-allow-credentials",
    "access-control-allow-headers",
    "access-control-allow-methods",
    "access-control-allow-origin",
    "alt-svc",
    "clear-site-data",
    "critical-ch",
    "nel",
    "public-key-pins",
    "report-to",
    "reporting-endpoints",
    "service-worker-allowed",
    "set-cookie",
    "strict-transport-security",
];

fn strip_claims(headers: &mut HeaderMap) {
    for name in ORIGIN_CLAIMS {
        headers.remove(name);
    }
}

/// A node's plain-text refusal as a Status.
async fn refusal(response: Response<Body>) -> ApiError {
    let (parts, mut body) = response.into_parts();
    let mut bytes = Vec::new();
    while let Some(Ok(frame)) = body.frame().await {
        if let Some(data) = frame.data_ref() {
            bytes.extend_from_slice(data);
        }
        if bytes.len() > REFUSAL_BYTES_MAX {
            break;
        }
    }
    let text = String::from_utf8_lossy(&bytes).trim().to_owned();
    match parts.status {
        StatusCode::BAD_REQUEST => ApiError::bad_request(text),
        StatusCode::INTERNAL_SERVER_ERROR => ApiError::internal(text),
        StatusCode::NOT_FOUND => ApiError::new(StatusCode::NOT_FOUND, "NotFound", text),
        StatusCode::FORBIDDEN => ApiError::new(StatusCode::FORBIDDEN, "Forbidden", text),
        code => ApiError::new(code, "InternalError", text),
    }
}

/// The apiserver's way to its nodes, given once when the node is up.
#[derive(Default)]
pub(crate) struct Nodes(std::sync::OnceLock<Arc<dyn NodeDialer>>);

impl Nodes {
    pub(crate) fn set(&self, dialer: Arc<dyn NodeDialer>) {
        if self.0.set(dialer).is_err() {
            tracing::warn!("the way to the nodes is set already");
        }
    }

    pub(crate) fn get(&self) -> Option<&Arc<dyn NodeDialer>> {
        self.0.get()
    }
}

#[cfg(test)]
mod tests;
