//! HTTP and HTTPS probes: one request, redirects within the same host followed.

use std::time::Duration;

use http::Uri;
use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::HTTPGetAction;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;

use super::connect::connect;
use super::{Answer, MAX_OUTPUT, Target, bracketed, plain, port, tls};

/// Redirects that are followed before a probe gives up.
const MAX_REDIRECTS: usize = 10;
/// Most bytes of the head of an answer.
const MAX_HEAD_BYTES: usize = 64 << 10;

/// What a server answered in the end.
#[derive(Debug, PartialEq, Eq)]
struct Response {
    status: u16,
    location: Option<String>,
    body: String,
}

/// Asks once. 200 to 299 is good, a redirect to another host is odd, everything else is bad.
pub async fn probe(action: &HTTPGetAction, target: &Target, patience: Duration) -> Answer {
    let url = match url(action, target) {
        Ok(url) => url,
        Err(why) => return Answer::Unknown(why),
    };
    match ask(action, target, &url, patience, "kube-probe/1.33").await {
        Ok(Response { status: 200..=299, .. }) => Answer::Good,
        Ok(Response { status: 300..=399, body, .. }) => {
            Answer::Odd(format!("Probe terminated redirects, Response body: {body}"))
        }
        Ok(Response { status, .. }) => {
            Answer::Bad(format!("HTTP probe failed with statuscode: {status}"))
        }
        Err(why) => Answer::Bad(why),
    }
}

/// Asks once on behalf of a lifecycle hook, which any answer contents.
pub async fn hook(
    action: &HTTPGetAction,
    target: &Target,
    patience: Duration,
) -> Result<(), String> {
    let url = url(action, target)?;
    ask(action, target, &url, patience, "kube-lifecycle/1.33").await.map(|_| ())
}

fn url(action: &HTTPGetAction, target: &Target) -> Result<Uri, String> {
    let port = port(&action.port, &target.ports)?;
    let host = action.host.clone().filter(|host| !host.is_empty());
    let authority = format!("{}:{port}", bracketed(host, target.host));
    let path = action.path.clone().unwrap_or_default();
    let path = if path.starts_with('/') { path } else { format!("/{path}") };
    let scheme = action.scheme.as_deref().unwrap_or("HTTP").to_lowercase();
    let text = format!("{scheme}://{authority}{path}");
    text.parse().map_err(|error| format!("parse \"{text}\": {error}"))
}

async fn ask(
    action: &HTTPGetAction,
    target: &Target,
    url: &Uri,
    patience: Duration,
    agent: &str,
) -> Result<Response, String> {
    let asked = timeout(patience, follow(action, target, url, agent)).await;
    asked.unwrap_or_else(|_| {
        Err(format!(
            "Get \"{url}\": context deadline exceeded (Client.Timeout exceeded while awaiting \
             headers)"
        ))
    })
}

/// Follows redirects while they stay on the host that was asked first.
async fn follow(
    action: &HTTPGetAction,
    target: &Target,
    first: &Uri,
    agent: &str,
) -> Result<Response, String> {
    let mut url = first.clone();
    for _ in 0..=MAX_REDIRECTS {
        let response = exchange(action, target, &url, agent).await?;
        let redirect = matches!(response.status, 301 | 302 | 303 | 307 | 308);
        let Some(location) = response.location.as_deref().filter(|_| redirect) else {
            return Ok(response);
        };
        let next = resolve(&url, location).ok_or_else(|| {
            format!("Get \"{url}\": failed to parse Location header {location:?}")
        })?;
        if next.host() != first.host() {
            return Ok(response);
        }
        url = next;
    }
    Err(format!("Get \"{url}\": stopped after {MAX_REDIRECTS} redirects"))
}

/// A `Location` as seen from the page that gave it (RFC 3986, section 5.2, for what servers send).
fn resolve(base: &Uri, location: &str) -> Option<Uri> {
    let location = location.split('#').next().unwrap_or_default();
    let (scheme, authority) = (base.scheme_str()?, base.authority()?);
    if location.contains("://") {
        return location.parse().ok();
    }
    let text = if location.starts_with("//") {
        format!("{scheme}:{location}")
    } else if location.starts_with('/') {
        format!("{scheme}://{authority}{location}")
    } else if location.starts_with('?') {
        format!("{scheme}://{authority}{}{location}", base.path())
    } else {
        let directory = &base.path()[..=base.path().rfind('/')?];
        format!("{scheme}://{authority}{directory}{location}")
    };
    text.parse().ok()
}

async fn exchange(
    action: &HTTPGetAction,
    target: &Target,
    url: &Uri,
    agent: &str,
) -> Result<Response, String> {
    let failed = |why: String| format!("Get \"{url}\": {why}");
    let https = url.scheme_str() == Some("https");
    let host = url.host().unwrap_or_default();
    let port = url.port_u16().unwrap_or(if https { 443 } else { 80 });
    let authority = format!("{host}:{port}");
    let stream = connect(&target.container, host, port)
        .await
        .map_err(|error| failed(format!("dial tcp {authority}: connect: {}", plain(&error))))?;
    if !https {
        return talk(action, url, agent, stream).await;
    }
    let connector = tls::connector().map_err(|error| failed(error.to_string()))?;
    let name = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let name = ServerName::try_from(name).map_err(|error| failed(error.to_string()))?;
    let stream = connector.connect(name, stream).await.map_err(|error| {
        // What plain HTTP servers say to a TLS greeting begins with "HTTP/".
        let spoke_plain = error.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>());
        match spoke_plain {
            Some(rustls::Error::InvalidMessage(_)) => {
                failed("http: server gave HTTP response to HTTPS client".into())
            }
            _ => failed(error.to_string()),
        }
    })?;
    talk(action, url, agent, stream).await
}

/// One request over a connection of its own.
async fn talk<S>(
    action: &HTTPGetAction,
    url: &Uri,
    agent: &str,
    stream: S,
) -> Result<Response, String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let failed = |why: hyper::Error| {
        let why = runtime::printable::chain(&why);
        format!("Get \"{url}\": {}", if why.is_empty() { "EOF".into() } else { why })
    };
    let path = url.path_and_query().map_or("/", |path| path.as_str());
    let mut request = http::Request::get(path);
    let custom = |name: &str| {
        action.http_headers.iter().flatten().any(|header| header.name.eq_ignore_ascii_case(name))
    };
    let authority = url.authority().map(ToString::to_string).unwrap_or_default();
    let defaults =
        [("Host", authority.as_str()), ("User-Agent", agent), ("Accept", "*/*")].into_iter();
    for (name, value) in defaults.filter(|(name, _)| !custom(name)) {
        request = request.header(name, value);
    }
    for header in action.http_headers.iter().flatten() {
        // An empty value takes a default header away.
        let default = ["user-agent", "accept"].iter().any(|n| header.name.eq_ignore_ascii_case(n));
        if !(default && header.value.is_empty()) {
            request = request.header(&header.name, &header.value);
        }
    }
    let request = request
        .header("Connection", "close")
        .body(Empty::<Bytes>::new())
        .map_err(|error| format!("Get \"{url}\": {error}"))?;
    let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
        .max_buf_size(MAX_HEAD_BYTES)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(failed)?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(failed)?;
        let status = response.status().as_u16();
        let location = response.headers().get("location");
        let location = location.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
        let mut body = response.into_body();
        let mut text = Vec::new();
        while let Some(Ok(frame)) = body.frame().await {
            let Ok(data) = frame.into_data() else { continue };
            let room = MAX_OUTPUT - text.len();
            text.extend_from_slice(&data[..room.min(data.len())]);
            if text.len() == MAX_OUTPUT {
                break;
            }
        }
        Ok(Response { status, location, body: String::from_utf8_lossy(&text).into_owned() })
    };
    tokio::pin!(exchange);
    tokio::pin!(connection);
    let mut over = false;
    loop {
        tokio::select! {
            answer = &mut exchange => return answer,
            _ = &mut connection, if !over => over = true,
        }
    }
}

#[cfg(test)]
#[path = "http_tests.rs"]
mod tests;
