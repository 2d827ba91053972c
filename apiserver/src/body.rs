//! Bodies: reading requests within bounds, building responses.

use std::io::Write;

use bytes::{Bytes, BytesMut};
use flate2::Compression;
use flate2::write::GzEncoder;
use futures::Stream;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER, VARY};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use serde_json::Value;

use crate::error::ApiError;
use crate::negotiate::{self, Encoding};

/// What can go wrong while a body is streamed.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The body of requests and responses.
pub type Body = UnsyncBoxBody<Bytes, BoxError>;

/// The largest request body (upstream's limit for JSON and YAML).
pub const MAX_REQUEST_BYTES: usize = 3 << 20;
/// Responses above this size are compressed when the client takes gzip (upstream's threshold).
const GZIP_MIN_BYTES: usize = 128 << 10;

/// A body of known bytes.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// A body that comes in pieces.
pub(crate) fn stream(pieces: impl Stream<Item = Bytes> + Send + 'static) -> Body {
    use futures::StreamExt;
    StreamBody::new(pieces.map(|bytes| Ok(Frame::data(bytes)))).boxed_unsync()
}

/// Reads a request body, refusing more than [`MAX_REQUEST_BYTES`].
pub(crate) async fn read(headers: &HeaderMap, mut body: Body) -> Result<Bytes, ApiError> {
    let announced =
        headers.get(CONTENT_LENGTH).and_then(|l| l.to_str().ok()?.parse::<usize>().ok());
    if announced.is_some_and(|length| length > MAX_REQUEST_BYTES) {
        return Err(ApiError::too_large(MAX_REQUEST_BYTES));
    }
    let mut first = Bytes::new();
    let mut rest = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame =
            frame.map_err(|e| ApiError::bad_request(format!("the body cannot be read: {e}")))?;
        let Ok(data) = frame.into_data() else { continue };
        if first.len() + rest.len() + data.len() > MAX_REQUEST_BYTES {
            return Err(ApiError::too_large(MAX_REQUEST_BYTES));
        }
        if first.is_empty() {
            first = data;
        } else {
            if rest.is_empty() {
                rest.reserve(announced.unwrap_or(0).max(first.len() + data.len()));
                rest.extend_from_slice(&first);
                first = Bytes::new();
            }
            rest.extend_from_slice(&data);
        }
    }
    Ok(if rest.is_empty() { first } else { rest.freeze() })
}

/// A JSON response of encoded bytes, compressed if that pays.
pub(crate) fn json_bytes(status: StatusCode, bytes: Bytes, request: &HeaderMap) -> Response<Body> {
    typed(status, bytes, "application/json", request)
}

/// A response of encoded bytes, compressed if that pays.
pub(crate) fn typed(
    status: StatusCode,
    bytes: Bytes,
    media_type: &'static str,
    request: &HeaderMap,
) -> Response<Body> {
    let compressed = (bytes.len() > GZIP_MIN_BYTES && negotiate::accepts_gzip(request))
        .then(|| gzip(&bytes))
        .flatten();
    let mut response = Response::new(Body::default());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    headers.insert("cache-control", HeaderValue::from_static("no-cache, private"));
    let bytes = match compressed {
        Some(compressed) => {
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            headers.insert(VARY, HeaderValue::from_static("Accept-Encoding"));
            compressed
        }
        None => bytes,
    };
    *response.body_mut() = full(bytes);
    response
}

pub(crate) fn gzip(bytes: &[u8]) -> Option<Bytes> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(bytes.len() / 4), Compression::fast());
    encoder.write_all(bytes).ok()?;
    Some(encoder.finish().ok()?.into())
}

/// A response of one JSON value in the agreed encoding.
pub(crate) fn value(
    status: StatusCode,
    value: &Value,
    encoding: Encoding,
    request: &HeaderMap,
) -> Result<Response<Body>, ApiError> {
    Ok(match encoding {
        Encoding::Json => {
            let mut bytes = serde_json::to_vec(value).map_err(ApiError::internal)?;
            bytes.push(b'\n');
            json_bytes(status, bytes.into(), request)
        }
        Encoding::Yaml => {
            let text = serde_saphyr::to_string(value).map_err(ApiError::internal)?;
            typed(status, text.into(), "application/yaml", request)
        }
    })
}

/// A short plain text.
pub(crate) fn text(status: StatusCode, text: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(full(text));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    response
}

/// The Status of a failure.
pub(crate) fn failure(error: &ApiError) -> Response<Body> {
    let bytes = serde_json::to_vec(&error.status()).unwrap_or_default();
    let mut response = json_bytes(error.code(), bytes.into(), &HeaderMap::new());
    if let Some(seconds) = error.retry_after_seconds() {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}
