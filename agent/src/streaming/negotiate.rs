//! Which protocol a client wants, and the answer that switches to it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{
    CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, UPGRADE,
};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use http_body_util::Full;

/// The body of the answers: empty, or one line of text.
pub type Body = Full<Bytes>;

const STREAM_PROTOCOL: HeaderName = HeaderName::from_static("x-stream-protocol-version");
const ACCEPTED: HeaderName = HeaderName::from_static("x-accepted-stream-protocol-versions");
const WEBSOCKET_GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// How to go on after the answer.
pub(super) enum Transport {
    /// SPDY/3.1 with this stream protocol.
    Spdy(String),
    /// WebSocket with this subprotocol.
    WebSocket(String),
}

fn list(headers: &HeaderMap, name: &HeaderName) -> Vec<String> {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|item| item.trim().to_owned())
        .filter(|item| !item.is_empty())
        .collect()
}

/// A refusal in plain text.
pub(super) fn refuse(code: StatusCode, text: String) -> Response<Body> {
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = code;
    response
}

/// Chooses among `spdy` stream protocols and `websocket` subprotocols (the client's order counts;
/// the first of each is what a client gets that names none) and builds the 101.
pub(super) fn negotiate(
    headers: &HeaderMap,
    spdy: &[&str],
    websocket: &[&str],
) -> Result<(Transport, Response<Body>), Box<Response<Body>>> {
    let upgrades = list(headers, &UPGRADE);
    let wants = |name: &str| upgrades.iter().any(|u| u.eq_ignore_ascii_case(name));
    let mut response = Response::new(Body::default());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let answer = response.headers_mut();
    answer.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    if wants("websocket") {
        let key = headers.get(SEC_WEBSOCKET_KEY).and_then(|key| key.to_str().ok());
        let Some(key) = key else {
            let text = "missing Sec-WebSocket-Key\n".to_owned();
            return Err(Box::new(refuse(StatusCode::BAD_REQUEST, text)));
        };
        let offered = list(headers, &SEC_WEBSOCKET_PROTOCOL);
        let Some(chosen) = choose(&offered, websocket) else {
            let text =
                format!("unable to upgrade: none of the subprotocols {offered:?} is supported\n");
            return Err(Box::new(refuse(StatusCode::BAD_REQUEST, text)));
        };
        let digest = ring::digest::digest(
            &ring::digest::SHA1_FOR_LEGACY_USE_ONLY,
            format!("{key}{WEBSOCKET_GUID}").as_bytes(),
        );
        answer.insert(UPGRADE, HeaderValue::from_static("websocket"));
        if let Ok(accept) = HeaderValue::from_str(&STANDARD.encode(digest)) {
            answer.insert(SEC_WEBSOCKET_ACCEPT, accept);
        }
        if !offered.is_empty()
            && let Ok(protocol) = HeaderValue::from_str(&chosen)
        {
            answer.insert(SEC_WEBSOCKET_PROTOCOL, protocol);
        }
        return Ok((Transport::WebSocket(chosen), response));
    }
    if !wants("SPDY/3.1") {
        let text = "unable to upgrade: missing upgrade headers in request\n".to_owned();
        return Err(Box::new(refuse(StatusCode::BAD_REQUEST, text)));
    }
    let offered = list(headers, &STREAM_PROTOCOL);
    let Some(chosen) = choose(&offered, spdy) else {
        let text = format!(
            "unable to upgrade: unable to negotiate protocol: client supports {offered:?}, server \
             accepts {spdy:?}\n"
        );
        let mut refusal = refuse(StatusCode::FORBIDDEN, text);
        for accepted in spdy {
            if let Ok(value) = HeaderValue::from_str(accepted) {
                refusal.headers_mut().append(ACCEPTED, value);
            }
        }
        return Err(Box::new(refusal));
    };
    answer.insert(UPGRADE, HeaderValue::from_static("SPDY/3.1"));
    if !offered.is_empty()
        && let Ok(protocol) = HeaderValue::from_str(&chosen)
    {
        answer.insert(STREAM_PROTOCOL, protocol);
    }
    Ok((Transport::Spdy(chosen), response))
}

fn choose(offered: &[String], served: &[&str]) -> Option<String> {
    if offered.is_empty() {
        return served.last().map(|s| (*s).to_owned());
    }
    offered.iter().find(|o| served.contains(&o.as_str())).cloned()
}
