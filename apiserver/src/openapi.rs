//! OpenAPI documents: made on demand, kept compressed for a moment, forgotten again.

use std::collections::HashMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::io::Read;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use api::openapi;
use bytes::{Buf, Bytes};
use flate2::read::GzDecoder;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, ETAG, IF_NONE_MATCH, VARY};
use http::request::Parts;
use http::{HeaderValue, Response, StatusCode};

use crate::body::{self, Body};
use crate::error::ApiError;
use crate::negotiate;
use crate::sending::PIECE_BYTES;
use crate::server::ApiServer;

/// The media type that kubectl up to 1.2x wants, and how it names the type in its Accept header.
const V2_PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
const V2_PROTOBUF_ACCEPT: [&str; 2] =
    ["application/com.github.proto-openapi.spec.v2@v1.0+protobuf", V2_PROTOBUF];
/// A kubectl asks for a few documents in a row; then nobody does for long.
const KEEP: Duration = Duration::from_secs(60);

/// The documents of the last minute.
#[derive(Default)]
pub(crate) struct Documents {
    recent: Arc<Mutex<HashMap<String, Document>>>,
    /// Held by who makes one: a document takes some twenty times its bytes while it is made.
    turn: Arc<tokio::sync::Mutex<()>>,
}

/// A document, compressed.
#[derive(Clone)]
struct Document {
    compressed: Bytes,
    /// Bytes of it uncompressed.
    length: usize,
    etag: HeaderValue,
}

/// Answers below `/openapi`; nothing if there is no such document.
pub(crate) async fn answer(
    server: &Arc<ApiServer>,
    segments: &[&str],
    parts: &Parts,
) -> Result<Option<Response<Body>>, ApiError> {
    let resources = server.catalog.resources();
    let version = server.config.report_version.clone();
    let text = "application/json";
    let (name, media_type, make): (_, _, Box<dyn FnOnce() -> Option<Vec<u8>> + Send>) =
        match *segments {
            ["v2"] if V2_PROTOBUF_ACCEPT.iter().any(|t| negotiate::lists(&parts.headers, t)) => {
                let make = move || Some(openapi::v2_protobuf(resources, &version));
                ("v2.pb".to_owned(), V2_PROTOBUF, Box::new(make))
            }
            ["v2"] => {
                let make = move || Some(openapi::v2_json(resources, &version).to_string().into());
                ("v2".to_owned(), text, Box::new(make))
            }
            ["v3"] => {
                let make = move || Some(openapi::v3_index(resources, &version).to_string().into());
                ("v3".to_owned(), text, Box::new(make))
            }
            ["v3", "api", core] => group(resources, version, "", core),
            ["v3", "apis", name, of] => group(resources, version, name, of),
            _ => return Ok(None),
        };
    let Some(document) = server.openapi.document(name, make).await? else { return Ok(None) };
    respond(&document, media_type, parts).map(Some)
}

type Make = Box<dyn FnOnce() -> Option<Vec<u8>> + Send>;

fn group(
    resources: &'static [api::Resource],
    report: String,
    group: &str,
    version: &str,
) -> (String, &'static str, Make) {
    let name = format!("v3/{group}/{version}");
    let (group, version) = (group.to_owned(), version.to_owned());
    let make = move || {
        let document = openapi::v3_group(resources, &report, &group, &version)?;
        Some(document.to_string().into())
    };
    (name, "application/json", Box::new(make))
}

impl Documents {
    fn recent(&self, name: &str) -> Option<Document> {
        lock(&self.recent).get(name).cloned()
    }

    async fn document(&self, name: String, make: Make) -> Result<Option<Document>, ApiError> {
        if let Some(document) = self.recent(&name) {
            return Ok(Some(document));
        }
        let turn = self.turn.clone().lock_owned().await;
        if let Some(document) = self.recent(&name) {
            return Ok(Some(document));
        }
        let made = tokio::task::spawn_blocking(move || {
            let bytes = make()?;
            let mut hasher = DefaultHasher::new();
            bytes.hash(&mut hasher);
            // The turn is kept until the document is there to be found, or to the end of this work when
            // the client has gone.
            Some((body::gzip(&bytes)?, bytes.len(), hasher.finish(), turn))
        });
        let Some((compressed, length, hash, _turn)) = made.await.map_err(ApiError::internal)?
        else {
            return Ok(None);
        };
        let etag =
            HeaderValue::from_str(&format!("\"{hash:016X}\"")).map_err(ApiError::internal)?;
        let document = Document { compressed, length, etag };
        let first = {
            let mut recent = lock(&self.recent);
            let first = recent.is_empty();
            recent.insert(name, document.clone());
            first
        };
        if first {
            let recent = self.recent.clone();
            tokio::spawn(async move {
                tokio::time::sleep(KEEP).await;
                *lock(&recent) = HashMap::new();
            });
        }
        Ok(Some(document))
    }
}

fn respond(
    document: &Document,
    media_type: &'static str,
    parts: &Parts,
) -> Result<Response<Body>, ApiError> {
    let mut response = Response::new(Body::default());
    let headers = response.headers_mut();
    headers.insert(ETAG, document.etag.clone());
    headers.insert(VARY, HeaderValue::from_static("Accept-Encoding, Accept"));
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    if parts.headers.get(IF_NONE_MATCH) == Some(&document.etag) {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        return Ok(response);
    }
    if negotiate::accepts_gzip(&parts.headers) {
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        *response.body_mut() = body::full(document.compressed.clone());
        return Ok(response);
    }
    headers.insert(CONTENT_LENGTH, document.length.into());
    *response.body_mut() = body::stream(futures::stream::iter(pieces(&document.compressed)));
    Ok(response)
}

/// The text, decompressed while the client takes it.
fn pieces(compressed: &Bytes) -> impl Iterator<Item = Bytes> + Send + use<> {
    let mut decoder = GzDecoder::new(compressed.clone().reader());
    std::iter::from_fn(move || {
        let mut piece = Vec::new();
        // It was compressed here; were it damaged, the length would not be reached.
        let read = decoder.by_ref().take(PIECE_BYTES as u64).read_to_end(&mut piece);
        (read.is_ok() && !piece.is_empty()).then(|| piece.into())
    })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
