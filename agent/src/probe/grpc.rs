//! gRPC probes: `grpc.health.v1.Health/Check`, whose messages are small enough to write by hand.

use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{Answer, plain};

/// `grpc-status` codes that have words of their own.
const DEADLINE_EXCEEDED: u32 = 4;
const UNIMPLEMENTED: u32 = 12;

/// Most bytes of an answer; a `HealthCheckResponse` has seven.
const MAX_GRPC_BYTES: usize = 4 << 10;
/// Most bytes that a server may send ahead of what is read.
const WINDOW_BYTES: u32 = 64 << 10;
/// Most bytes of header fields and of trailers.
const MAX_HEADER_BYTES: u32 = 16 << 10;

/// Asks once; only SERVING is good.
pub async fn probe(address: &str, service: &str, patience: Duration) -> Answer {
    let connected = timeout(patience, TcpStream::connect(address)).await;
    let stream = match connected {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            return Answer::Bad(format!(
                "error: failed to connect service at \"{address}\": connection error: desc = \
                 \"transport: Error while dialing: dial tcp {address}: connect: {}\"",
                plain(&error)
            ));
        }
        Err(_) => {
            return Answer::Bad(format!(
                "timeout: failed to connect service \"{address}\" within {}s: context deadline \
                 exceeded",
                patience.as_secs()
            ));
        }
    };
    match timeout(patience, check(stream, address, service)).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(CheckError::TooLong)) => Answer::Bad(format!(
            "error: health rpc probe failed: rpc error: code = ResourceExhausted desc = grpc: \
             received message larger than max ({MAX_GRPC_BYTES})"
        )),
        Ok(Err(CheckError::Http(error))) => {
            let why = runtime::printable::chain(&error);
            Answer::Bad(format!("error: health rpc probe failed: {why}"))
        }
        Err(_) => Answer::Bad(format!(
            "timeout: health rpc did not complete within {}s",
            patience.as_secs()
        )),
    }
}

/// The reason why a call has no answer.
#[derive(Debug, thiserror::Error)]
enum CheckError {
    /// The answer is longer than its bound.
    #[error("the answer has more than {MAX_GRPC_BYTES} bytes")]
    TooLong,
    /// The exchange failed.
    #[error(transparent)]
    Http(#[from] hyper::Error),
}

async fn check(stream: TcpStream, address: &str, service: &str) -> Result<Answer, CheckError> {
    let (mut sender, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .max_header_list_size(MAX_HEADER_BYTES)
        .handshake(TokioIo::new(stream))
        .await?;
    let mut driver = tokio::task::JoinSet::new();
    driver.spawn(connection);
    let request = http::Request::post(format!("http://{address}/grpc.health.v1.Health/Check"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("user-agent", "kube-probe/1.33")
        .body(Full::new(frame(service)));
    let request = match request {
        Ok(request) => request,
        Err(error) => return Ok(Answer::Unknown(error.to_string())),
    };
    let response = sender.send_request(request).await?;
    let mut status = code(response.headers());
    let mut body = response.into_body();
    let mut answer = Vec::new();
    while let Some(frame) = body.frame().await {
        match frame?.into_data() {
            Ok(data) if data.len() > MAX_GRPC_BYTES - answer.len() => {
                return Err(CheckError::TooLong);
            }
            Ok(data) => answer.extend_from_slice(&data),
            Err(frame) => status = frame.trailers_ref().and_then(code).or(status),
        }
    }
    Ok(judge(status.unwrap_or(0), &answer))
}

/// A `HealthCheckRequest` in the framing of gRPC: flag, length, message.
fn frame(service: &str) -> Bytes {
    let mut message = Vec::new();
    if !service.is_empty() {
        message.push(0x0a);
        let mut length = service.len();
        while length >= 0x80 {
            message.push((length & 0x7f) as u8 | 0x80);
            length >>= 7;
        }
        message.push(length as u8);
        message.extend_from_slice(service.as_bytes());
    }
    let mut frame = vec![0];
    frame.extend_from_slice(&u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes());
    frame.extend(message);
    frame.into()
}

fn code(headers: &HeaderMap) -> Option<u32> {
    headers.get("grpc-status")?.to_str().ok()?.parse().ok()
}

/// The verdict on a status code and a framed `HealthCheckResponse`.
fn judge(code: u32, body: &[u8]) -> Answer {
    match code {
        0 => {}
        UNIMPLEMENTED => {
            return Answer::Bad(
                "error: this server does not implement the grpc health protocol \
                 (grpc.health.v1.Health)"
                    .into(),
            );
        }
        DEADLINE_EXCEEDED => {
            return Answer::Bad("timeout: health rpc did not complete within its time".into());
        }
        code => return Answer::Bad(format!("error: health rpc probe failed: code = {code}")),
    }
    // Field 1 is an enumeration; left out, it is 0.
    let word = match body.get(5..) {
        Some([0x08, 1, ..]) => return Answer::Good,
        Some([0x08, 2, ..]) => "NOT_SERVING",
        Some([0x08, 3, ..]) => "SERVICE_UNKNOWN",
        _ => "UNKNOWN",
    };
    Answer::Bad(format!("service unhealthy (responded with \"{word}\")"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::convert::Infallible;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures::StreamExt;

    use super::*;

    #[test]
    fn requests_are_framed() {
        assert_eq!(&frame("")[..], [0, 0, 0, 0, 0]);
        assert_eq!(&frame("ab")[..], [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']);
        let long = frame(&"x".repeat(200));
        assert_eq!(long[..9], [0, 0, 0, 0, 203, 0x0a, 0xc8, 1, b'x']);
    }

    #[test]
    fn only_serving_is_good() {
        let answer = |status: u8| judge(0, &[0, 0, 0, 0, 2, 8, status]);
        assert_eq!(answer(1), Answer::Good);
        let bad =
            |word: &str| Answer::Bad(format!("service unhealthy (responded with \"{word}\")"));
        assert_eq!(answer(2), bad("NOT_SERVING"));
        assert_eq!(judge(0, &[0; 5]), bad("UNKNOWN"));
        assert!(
            matches!(judge(12, &[]), Answer::Bad(why) if why.contains("does not implement the grpc health protocol"))
        );
    }

    #[tokio::test]
    async fn a_closed_port_is_bad() {
        let answer = probe("127.0.0.1:1", "", Duration::from_secs(5)).await;
        assert!(
            matches!(&answer, Answer::Bad(why) if why.contains("dial tcp 127.0.0.1:1: connect: connection refused")),
            "{answer:?}"
        );
    }

    /// Serves gRPC over one connection with bodies of so many bytes, and counts what is taken.
    async fn serve(bytes: usize, sent: Arc<AtomicUsize>) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let answer = hyper::service::service_fn(move |_| {
                let sent = sent.clone();
                let pieces = futures::stream::iter(0..bytes.div_ceil(PIECE)).map(move |piece| {
                    let mut data = vec![0; PIECE.min(bytes - piece * PIECE)];
                    if piece == 0 {
                        data[..7].copy_from_slice(&[0, 0, 0, 0, 2, 8, 1]);
                    }
                    sent.fetch_add(data.len(), Ordering::Relaxed);
                    Ok::<_, Infallible>(hyper::body::Frame::data(Bytes::from(data)))
                });
                let body = http_body_util::StreamBody::new(pieces);
                async move { Ok::<_, Infallible>(http::Response::new(body)) }
            });
            let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            // A client that hangs up is part of the test.
            let _ = server.serve_connection(TokioIo::new(stream), answer).await;
        });
        address
    }

    const PIECE: usize = 16 << 10;

    #[tokio::test]
    async fn endless_answer_is_cut() {
        let sent = Arc::new(AtomicUsize::new(0));
        let address = serve(7, sent.clone()).await;
        assert_eq!(probe(&address, "", Duration::from_secs(20)).await, Answer::Good);
        let address = serve(1 << 30, sent.clone()).await;
        let answer = probe(&address, "", Duration::from_secs(20)).await;
        assert!(
            matches!(&answer, Answer::Bad(why) if why.contains("larger than max (4096)")),
            "{answer:?}"
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(sent.load(Ordering::Relaxed) < 4 << 20, "the rest was not taken");
    }
}
