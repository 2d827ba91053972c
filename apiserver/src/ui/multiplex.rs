//! `GET /ui/watch`: several watches over one connection.
//!
//! Browsers allow six connections per origin over HTTP/1.1, which is all that `kubectl proxy`
//! speaks, and a page follows more kinds than that. Each parameter `w=<id>:<form>:<path and query>`
//! names a watch of the Kubernetes API; each line of the answer is `<id> <watch event>`. Every
//! watch is a request of its own to this server, with the same user, so all that holds for a watch
//! (authorization, selectors, bookmarks, errors) holds here.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::future::ready;
use futures::stream::{self, SelectAll};
use futures::{FutureExt, Stream, StreamExt};
use http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, Uri};
use http_body_util::BodyStream;

use crate::body::{self, Body};
use crate::error::ApiError;
use crate::request::{Query, RequestInfo};
use crate::security::User;
use crate::server::ApiServer;
use crate::tls_listener::Origin;

/// Watches on one connection.
const WATCHES_MAX: usize = 24;
/// The text of a refusal that is passed on.
const REFUSAL_BYTES_MAX: usize = 64 << 10;

/// One wanted watch.
#[derive(Debug, PartialEq, Eq)]
struct Wanted {
    id: String,
    accept: &'static str,
    uri: Uri,
}

/// Answers with the events of every wanted watch.
pub(super) fn answer(
    server: &Arc<ApiServer>,
    user: &User,
    query: &Query,
) -> Result<Response<Body>, ApiError> {
    let wanted = query.all("w").map(parse).collect::<Result<Vec<_>, _>>()?;
    if wanted.is_empty() || wanted.len() > WATCHES_MAX {
        return Err(ApiError::bad_request(format!("between 1 and {WATCHES_MAX} watches, please")));
    }
    let all: SelectAll<_> = wanted
        .into_iter()
        .map(|watch| lines(server.clone(), user.clone(), watch).boxed())
        .collect();
    // A watch that ends in its time ends the connection: the page resumes them all.
    let pieces = all
        .take_while(|piece| ready(!matches!(piece, Piece::End)))
        .filter_map(|piece| ready(piece.into_bytes()));
    let mut response = Response::new(body::stream(pieces));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

fn parse(text: &str) -> Result<Wanted, ApiError> {
    let bad = || ApiError::bad_request(format!("{text:?} is not <id>:<form>:<path of a watch>"));
    let mut fields = text.splitn(3, ':');
    let (Some(id), Some(form), Some(path)) = (fields.next(), fields.next(), fields.next()) else {
        return Err(bad());
    };
    let accept = match form {
        "object" => "application/json",
        "table" => "application/json;as=Table;v=v1;g=meta.k8s.io",
        "metadata" => "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io",
        _ => return Err(bad()),
    };
    let uri: Uri = path.parse().map_err(|_| bad())?;
    let query = Query::parse(uri.query().unwrap_or(""));
    let info = RequestInfo::parse(&Method::GET, &uri, &query);
    let plain = !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_alphanumeric());
    if !plain || !path.starts_with('/') || !info.is_resource || info.verb != "watch" {
        return Err(bad());
    }
    Ok(Wanted { id: id.to_owned(), accept, uri })
}

/// What one watch adds to the connection.
enum Piece {
    /// Whole lines.
    Lines(Bytes),
    /// The watch was refused; it stays silent.
    Refused(Bytes),
    /// The watch has ended in its time.
    End,
}

impl Piece {
    fn into_bytes(self) -> Option<Bytes> {
        match self {
            Self::Lines(bytes) | Self::Refused(bytes) => Some(bytes),
            Self::End => None,
        }
    }
}

/// The lines of one watch.
fn lines(server: Arc<ApiServer>, user: User, watch: Wanted) -> impl Stream<Item = Piece> + Send {
    let Wanted { id, accept, uri } = watch;
    let mut request = Request::new(body::full(Bytes::new()));
    *request.uri_mut() = uri;
    request.headers_mut().insert(ACCEPT, HeaderValue::from_static(accept));
    Arc::new(user).send(request.extensions_mut());
    // What it holds for a slow page is counted as for any client.
    request.extensions_mut().insert(Arc::new(Origin::default()));
    let opened = async move {
        let response = server.handle(request).await;
        if response.status().is_success() {
            let mut tagger = Tagger::new(&id);
            let events = BodyStream::new(response.into_body()).filter_map(move |frame| {
                let data = frame.ok().and_then(|frame| frame.into_data().ok());
                ready(data.and_then(|data| tagger.lines(&data)).map(Piece::Lines))
            });
            return events.chain(stream::once(ready(Piece::End))).left_stream();
        }
        let status = refusal(response.into_body()).await;
        let mut event = b"{\"type\":\"ERROR\",\"object\":".to_vec();
        event.extend_from_slice(&status);
        event.extend_from_slice(b"}\n");
        let line = Tagger::new(&id).lines(&event).unwrap_or_default();
        stream::once(ready(Piece::Refused(line))).right_stream()
    };
    opened.flatten_stream()
}

/// Puts the id before every line.
struct Tagger {
    id: String,
    /// The line that has begun, with its id.
    line: BytesMut,
}

impl Tagger {
    fn new(id: &str) -> Self {
        Self { id: id.to_owned(), line: BytesMut::new() }
    }

    /// The lines that are complete with this piece of the watch's answer.
    fn lines(&mut self, piece: &[u8]) -> Option<Bytes> {
        let mut complete = BytesMut::new();
        for part in piece.split_inclusive(|byte| *byte == b'\n') {
            if self.line.is_empty() {
                self.line.extend_from_slice(self.id.as_bytes());
                self.line.extend_from_slice(b" ");
            }
            self.line.extend_from_slice(part);
            if part.ends_with(b"\n") {
                complete.unsplit(self.line.split());
            }
        }
        (!complete.is_empty()).then(|| complete.freeze())
    }
}

/// The Status that refuses a watch.
async fn refusal(body: Body) -> Bytes {
    let mut bytes = BytesMut::new();
    let mut frames = BodyStream::new(body);
    while let Some(Ok(frame)) = frames.next().await {
        if let Ok(data) = frame.into_data() {
            bytes.extend_from_slice(&data);
        }
        if bytes.len() > REFUSAL_BYTES_MAX {
            return Bytes::from_static(b"null");
        }
    }
    // One line, whatever the Status was written like.
    let status = serde_json::from_slice::<serde_json::Value>(&bytes).unwrap_or_default();
    status.to_string().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_watches_are_taken() {
        let good = parse("p1:table:/api/v1/pods?watch=1&labelSelector=a%3Db").expect("a watch");
        assert_eq!((good.id.as_str(), good.uri.path()), ("p1", "/api/v1/pods"));
        for bad in [
            "",
            "p:object",
            "p:object:",
            "p:object:/api/v1/pods",
            "p:object:/api/v1/namespaces/default/pods/x/exec?watch=1",
            "p:object:/api/v1/namespaces/default/pods/x/log?follow=1&watch=1",
            "p:object:/ui/watch?w=p:object:/api/v1/pods?watch=1",
            "p:yaml:/api/v1/pods?watch=1",
            "p 1:object:/api/v1/pods?watch=1",
            ":object:/api/v1/pods?watch=1",
            "p:object:http://elsewhere/api/v1/pods?watch=1",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn each_line_gets_its_id() {
        let mut tagger = Tagger::new("p");
        assert_eq!(tagger.lines(b"{1}\n{2}\n{"), Some("p {1}\np {2}\n".into()));
        assert_eq!(tagger.lines(b"3"), None, "it waits for the end of the line");
        assert_eq!(tagger.lines(b"}\n{4}\n"), Some("p {3}\np {4}\n".into()));
    }
}
