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
pub(crate) const GZIP_MIN_BYTES: usize = 128 << 10;

/// A body of known bytes.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// The same body, which keeps `held` until it ends or the client is gone.
pub(crate) fn holding(body: Body, held: impl Send + 'static) -> Body {
    body.map_frame(move |frame| {
        let _held = &held;
        frame
    })
    .boxed_unsync()
}

/// A body that comes in pieces.
pub(crate) fn stream(pieces: impl Stream<Item = Bytes> + Send + 'static) -> Body {
    use futures::StreamExt;
    StreamBody::new(pieces.map(|bytes| Ok(Frame::data(bytes)))).boxed_unsync()
}

/// Reads a request body, refusing more than [`MAX_REQUEST_BYTES`].
pub(crate) async fn read(headers: &HeaderMap, body: Body) -> Result<Bytes, ApiError> {
    read_at_most(MAX_REQUEST_BYTES, headers, body).await
}

/// Reads a request body, refusing more than `limit_bytes`.
pub(crate) async fn read_at_most(
    limit_bytes: usize,
    headers: &HeaderMap,
    body: Body,
) -> Result<Bytes, ApiError> {
    read_each(limit_bytes, headers, body, |_| Ok(())).await
}

/// Reads a request body of any number of frames, refusing more than `limit_bytes`; `admit` may
/// refuse the bytes of each frame before they are kept.
pub(crate) async fn read_each(
    limit_bytes: usize,
    headers: &HeaderMap,
    mut body: Body,
    mut admit: impl FnMut(usize) -> Result<(), ApiError>,
) -> Result<Bytes, ApiError> {
    if announced_bytes(headers).is_some_and(|length| length > limit_bytes) {
        return Err(ApiError::too_large(limit_bytes));
    }
    let mut whole = Gathered::default();
    while let Some(frame) = body.frame().await {
        let frame =
            frame.map_err(|e| ApiError::bad_request(format!("the body cannot be read: {e}")))?;
        let Ok(data) = frame.into_data() else { continue };
        if whole.len() + data.len() > limit_bytes {
            return Err(ApiError::too_large(limit_bytes));
        }
        admit(data.len())?;
        whole.push(data);
    }
    Ok(whole.into_bytes())
}

/// The length that the client has announced.
fn announced_bytes(headers: &HeaderMap) -> Option<usize> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// The frames of a body in their order. A single frame is kept as it is; several are copied into
/// one buffer, so that many small frames cost no more memory than their bytes.
#[derive(Default)]
enum Gathered {
    #[default]
    Nothing,
    One(Bytes),
    Many(BytesMut),
}

impl Gathered {
    fn len(&self) -> usize {
        match self {
            Self::Nothing => 0,
            Self::One(bytes) => bytes.len(),
            Self::Many(bytes) => bytes.len(),
        }
    }

    fn push(&mut self, data: Bytes) {
        if data.is_empty() {
            return;
        }
        match self {
            Self::Nothing => *self = Self::One(data),
            Self::One(first) => {
                let mut both = BytesMut::with_capacity(first.len() + data.len());
                both.extend_from_slice(first);
                both.extend_from_slice(&data);
                *self = Self::Many(both);
            }
            Self::Many(bytes) => bytes.extend_from_slice(&data),
        }
    }

    fn into_bytes(self) -> Bytes {
        match self {
            Self::Nothing => Bytes::new(),
            Self::One(bytes) => bytes,
            Self::Many(bytes) => bytes.freeze(),
        }
    }
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
    let mut response = headed(status, media_type, compressed.is_some());
    *response.body_mut() = full(compressed.unwrap_or(bytes));
    response
}

/// A response that has everything but its body.
pub(crate) fn headed(
    status: StatusCode,
    media_type: &'static str,
    is_compressed: bool,
) -> Response<Body> {
    let mut response = Response::new(Body::default());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    headers.insert("cache-control", HeaderValue::from_static("no-cache, private"));
    if is_compressed {
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        headers.insert(VARY, HeaderValue::from_static("Accept-Encoding"));
    }
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use hyper::body::Incoming;
    use hyper::service::service_fn;
    use hyper_util::rt::{TokioExecutor, TokioIo};
    use hyper_util::server::conn::auto;
    use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
    use tokio::sync::mpsc;

    use super::*;

    /// Bytes of which no two places look alike.
    fn random_bytes(length: usize) -> Bytes {
        (0..length).map(|_| rand::random::<u8>()).collect::<Vec<u8>>().into()
    }

    /// A body whose frames end at `cuts`.
    fn cut(whole: &Bytes, cuts: &[usize]) -> Body {
        let mut ends = cuts.to_vec();
        ends.sort_unstable();
        ends.push(whole.len());
        let mut from = 0;
        let frames = ends.into_iter().map(move |end| {
            let frame = whole.slice(from..end);
            from = end;
            frame
        });
        stream(futures::stream::iter(frames.collect::<Vec<_>>()))
    }

    async fn read_back(body: Body) -> Bytes {
        read(&HeaderMap::new(), body).await.expect("the body is within its bound")
    }

    #[tokio::test]
    async fn body_cut_at_every_boundary_arrives_whole() {
        let whole = random_bytes(9);
        // Every set of boundaries gives every number of frames from one to nine.
        for set in 0..1u32 << (whole.len() - 1) {
            let cuts: Vec<usize> =
                (1..whole.len()).filter(|at| set & (1 << (at - 1)) != 0).collect();
            assert_eq!(read_back(cut(&whole, &cuts)).await, whole, "cut at {cuts:?}");
        }
    }

    #[tokio::test]
    async fn large_body_of_any_frames_arrives_whole() {
        let whole = random_bytes(MAX_REQUEST_BYTES);
        for frames in 1..=40 {
            let cuts: Vec<usize> =
                (1..frames).map(|_| rand::random_range(0..=whole.len())).collect();
            assert!(read_back(cut(&whole, &cuts)).await == whole, "cut at {cuts:?}");
        }
    }

    #[tokio::test]
    async fn body_beyond_its_bound_is_refused() {
        let whole = random_bytes(MAX_REQUEST_BYTES + 1);
        for cuts in [vec![], vec![1], vec![MAX_REQUEST_BYTES], vec![1, 2, 3, 4, 5]] {
            let refused = read(&HeaderMap::new(), cut(&whole, &cuts)).await;
            let refused = refused.expect_err("it is one byte too long");
            assert_eq!(refused.code(), StatusCode::PAYLOAD_TOO_LARGE);
        }
        let announced = HeaderMap::from_iter([(CONTENT_LENGTH, HeaderValue::from(4u64 << 20))]);
        assert!(read(&announced, Body::default()).await.is_err());
    }

    /// Serves one connection whose requests' bodies are read by [`read`] and handed back.
    fn serve<T>(io: T) -> mpsc::UnboundedReceiver<Bytes>
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (sender, received) = mpsc::unbounded_channel();
        let service = service_fn(move |request: http::Request<Incoming>| {
            let sender = sender.clone();
            async move {
                let (parts, body) = request.into_parts();
                let body = body.map_err(BoxError::from).boxed_unsync();
                let bytes = read(&parts.headers, body).await.expect("the body can be read");
                sender.send(bytes).expect("the test goes on");
                Ok::<_, std::convert::Infallible>(Response::new(Body::default()))
            }
        });
        tokio::spawn(async move {
            let http = auto::Builder::new(TokioExecutor::new());
            let _ = http.serve_connection(TokioIo::new(io), service).await;
        });
        received
    }

    /// Writes in pieces that the server gets one by one.
    async fn write_in_pieces(io: &mut (impl AsyncWrite + Unpin), bytes: &[u8], pieces: usize) {
        let size = bytes.len().div_ceil(pieces).max(1);
        for piece in bytes.chunks(size) {
            io.write_all(piece).await.expect("the server reads on");
            io.flush().await.expect("the server reads on");
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn http1_body_with_length_arrives_whole() {
        for pieces in 1..=8 {
            let whole = random_bytes(200_000 + pieces);
            let (mut client, server) = tokio::io::duplex(32 << 10);
            let mut received = serve(server);
            let head = format!("POST / HTTP/1.1\r\ncontent-length: {}\r\n\r\n", whole.len());
            client.write_all(head.as_bytes()).await.expect("the server reads");
            write_in_pieces(&mut client, &whole, pieces).await;
            assert!(received.recv().await.expect("it arrives") == whole, "{pieces} pieces");
        }
    }

    #[tokio::test]
    async fn http1_chunked_body_arrives_whole() {
        for chunks in 1..=8 {
            let whole = random_bytes(200_000 + chunks);
            let (mut client, server) = tokio::io::duplex(32 << 10);
            let mut received = serve(server);
            let mut request = b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
            for chunk in whole.chunks(whole.len().div_ceil(chunks)) {
                request.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                request.extend_from_slice(chunk);
                request.extend_from_slice(b"\r\n");
            }
            request.extend_from_slice(b"0\r\n\r\n");
            write_in_pieces(&mut client, &request, 13).await;
            assert!(received.recv().await.expect("it arrives") == whole, "{chunks} chunks");
        }
    }

    #[tokio::test]
    async fn http2_body_arrives_whole() {
        let (client, server) = tokio::io::duplex(32 << 10);
        let mut received = serve(server);
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(client))
                .await
                .expect("the server speaks HTTP/2");
        tokio::spawn(connection);
        for frames in [1, 2, 3, 4, 5, 6, 50] {
            let whole = random_bytes(900_000 + frames);
            let cuts: Vec<usize> =
                (1..frames).map(|_| rand::random_range(0..=whole.len())).collect();
            let request = http::Request::post("http://localhost/").body(cut(&whole, &cuts));
            let answered = sender.send_request(request.expect("a valid request"));
            assert!(received.recv().await.expect("it arrives") == whole, "cut at {cuts:?}");
            answered.await.expect("the server answers");
        }
    }

    #[tokio::test]
    async fn body_that_breaks_off_is_refused() {
        let (mut client, server) = tokio::io::duplex(32 << 10);
        let outcome = Arc::new(tokio::sync::Mutex::new(None));
        let seen = outcome.clone();
        let service = service_fn(move |request: http::Request<Incoming>| {
            let seen = seen.clone();
            async move {
                let (parts, body) = request.into_parts();
                let body = body.map_err(BoxError::from).boxed_unsync();
                *seen.lock().await = Some(read(&parts.headers, body).await.is_err());
                Ok::<_, std::convert::Infallible>(Response::new(Body::default()))
            }
        });
        let served = tokio::spawn(async move {
            let http = auto::Builder::new(TokioExecutor::new());
            let _ = http.serve_connection(TokioIo::new(server), service).await;
        });
        client.write_all(b"POST / HTTP/1.1\r\ncontent-length: 100\r\n\r\nabc").await.expect("sent");
        client.shutdown().await.expect("closed");
        let mut rest = Vec::new();
        let _ = client.read_to_end(&mut rest).await;
        served.await.expect("the connection ends");
        assert_eq!(*outcome.lock().await, Some(true), "three of a hundred bytes are not a body");
    }
}
