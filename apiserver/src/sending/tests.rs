//! Tests of responses on their way, in process and over both versions of HTTP.
#![allow(clippy::unwrap_used)]

use std::convert::Infallible;

use http::{Request, StatusCode};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::*;
use crate::body::{full, stream};
use crate::tls_listener::http_server;

const SOON: Duration = Duration::from_millis(200);

/// Responses with small bounds.
fn bounded(total: usize, per_user: usize) -> Responses {
    with_slow_after(total, per_user, SOON)
}

fn with_slow_after(total: usize, per_user: usize, slow_after: Duration) -> Responses {
    let room = || Room::new(total, per_user);
    let (large, small, written) = (room(), room(), room());
    Responses(Arc::new(Shared { large, small, written, slow_after, room_wait: 2 * SOON }))
}

fn holder(name: &str) -> Arc<str> {
    name.into()
}

fn random(length: usize) -> Bytes {
    (0..length).map(|_| rand::random::<u8>()).collect::<Vec<u8>>().into()
}

fn send(responses: &Responses, user: &str, bytes: Bytes) -> Result<Response<Body>, ApiError> {
    responses.send(Response::new(full(bytes)), &holder(user))
}

async fn next(response: &mut Response<Body>) -> Option<Result<usize, BoxError>> {
    let frame = response.body_mut().frame().await?;
    Some(frame.map(|frame| frame.into_data().unwrap().len()))
}

#[tokio::test]
async fn body_arrives_whole_in_pieces() {
    let responses = Responses::new();
    for length in [1, TAIL_BYTES, TAIL_BYTES + 1, PIECE_BYTES, PIECE_BYTES + 1, 1 << 20] {
        let whole = random(length);
        let mut response = send(&responses, "jane", whole.clone()).unwrap();
        assert_eq!(response.body().size_hint().exact(), Some(length as u64));
        let (mut got, mut last) = (Vec::new(), 0);
        while let Some(frame) = response.body_mut().frame().await {
            let data = frame.unwrap().into_data().unwrap();
            assert!(data.len() <= PIECE_BYTES);
            last = data.len();
            got.extend_from_slice(&data);
        }
        assert!(got == whole && last <= TAIL_BYTES, "{length} bytes, the last {last}");
        drop(response);
        assert_eq!(responses.held(), 0);
    }
}

#[tokio::test]
async fn unread_responses_of_one_user_are_bounded() {
    let responses = bounded(1 << 20, 300 << 10);
    let body = || Bytes::from(vec![b'x'; 200 << 10]);
    let first = send(&responses, "jane", body()).unwrap();
    let refused = send(&responses, "jane", body()).err().unwrap();
    assert_eq!(refused.code(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(refused.retry_after_seconds(), Some(1));
    assert!(send(&responses, "joe", body()).is_ok());
    drop(first);
    let large = send(&responses, "jane", vec![b'x'; 4 << 20].into());
    assert!(large.is_ok(), "one response is always possible");
    drop(large);
    assert_eq!(responses.held(), 0);
}

#[tokio::test]
async fn slow_response_makes_room() {
    let responses = bounded(1 << 20, 1 << 20);
    let body = || Bytes::from(vec![b'x'; 600 << 10]);
    let mut slow = send(&responses, "jane", body()).unwrap();
    assert!(matches!(next(&mut slow).await, Some(Ok(PIECE_BYTES))));
    assert!(send(&responses, "joe", body()).is_err(), "it is not slow yet");
    tokio::time::sleep(SOON).await;
    let fast = send(&responses, "joe", body()).unwrap();
    assert_eq!(responses.held(), 600 << 10);
    assert!(matches!(next(&mut slow).await, Some(Err(_))), "the client learns of it");
    drop((slow, fast));
    assert_eq!(responses.held(), 0);
}

#[tokio::test]
async fn waiting_streams_look_at_no_response_before_time() {
    let responses = with_slow_after(1 << 20, 500, Duration::from_secs(3600));
    let body = || Bytes::from(vec![b'x'; 1]);
    let open: Vec<_> = (0..500).map(|_| send(&responses, "jane", body()).unwrap()).collect();
    let watch = || {
        let event = stream(futures::stream::iter([body()]));
        responses.stream(Response::new(event), &holder("jane")).unwrap()
    };
    let waiting = (0..500).map(|_| watch());
    let waiting = futures::future::join_all(waiting.map(async |mut watch| {
        let waited = tokio::time::timeout(SOON / 2, next(&mut watch)).await;
        assert!(waited.is_err());
    }));
    waiting.await;
    assert_eq!(responses.0.small.lock().looks, 0, "none can be slow yet");
    assert!(send(&responses, "joe", body()).is_ok(), "others have room");
    drop(open);
}

#[tokio::test]
async fn progress_is_looked_at_once() {
    let responses = bounded(1 << 20, 1 << 20);
    let body = || Bytes::from(vec![b'x'; 600 << 10]);
    let mut read = send(&responses, "jane", body()).unwrap();
    for _ in 0..SLOW_BYTES_PER_SECOND / PIECE_BYTES {
        assert!(matches!(next(&mut read).await, Some(Ok(PIECE_BYTES))));
    }
    tokio::time::sleep(SOON).await;
    for _ in 0..100 {
        assert!(send(&responses, "joe", body()).is_err(), "it took enough for a second more");
    }
    assert_eq!(responses.0.large.lock().looks, 1);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(send(&responses, "joe", body()).is_ok());
    assert!(matches!(next(&mut read).await, Some(Err(_))));
}

#[tokio::test]
async fn response_is_broken_off_once_it_is_slow() {
    let responses = bounded(1 << 20, 1000);
    let body = || Bytes::from(vec![b'x'; 600]);
    let began = Instant::now();
    let mut response = send(&responses, "jane", body()).unwrap();
    let other = loop {
        match send(&responses, "jane", body()) {
            Ok(other) => break other,
            Err(_) => tokio::time::sleep(Duration::from_millis(1)).await,
        }
    };
    let took = began.elapsed();
    assert!((SOON..SOON * 10).contains(&took), "{took:?}");
    assert!(matches!(next(&mut response).await, Some(Err(_))));
    assert_eq!(responses.held(), 600);
    drop((response, other));
    assert!(responses.0.small.lock().is_empty(), "holders of nothing are not kept");
}

#[tokio::test]
async fn slowest_response_of_the_holder_makes_room() {
    let responses = bounded(1800, 1200);
    let body = || Bytes::from(vec![b'x'; 600]);
    let mut others = send(&responses, "joe", body()).unwrap();
    tokio::time::sleep(SOON / 10).await;
    let mut first = send(&responses, "jane", body()).unwrap();
    tokio::time::sleep(SOON / 10).await;
    let mut second = send(&responses, "jane", body()).unwrap();
    tokio::time::sleep(SOON).await;
    let _more = send(&responses, "jane", body()).unwrap();
    assert!(matches!(next(&mut first).await, Some(Err(_))), "it was the slowest of its holder");
    let _more = send(&responses, "jack", body()).unwrap();
    assert!(matches!(next(&mut others).await, Some(Err(_))), "it was the slowest of all");
    assert!(matches!(next(&mut second).await, Some(Ok(_))));
}

#[tokio::test]
async fn slow_response_is_found_beside_one_in_work() {
    let responses = bounded(1200, 1200);
    let body = || Bytes::from(vec![b'x'; 600]);
    let _first = send(&responses, "jane", body()).unwrap();
    let worked_on = responses.0.small.lock().first_flow().unwrap();
    let mut second = send(&responses, "jane", body()).unwrap();
    tokio::time::sleep(SOON).await;
    let work = worked_on.lock();
    let third = send(&responses, "jane", body()).unwrap();
    assert!(send(&responses, "jane", body()).is_err(), "nothing else is slow");
    drop(work);
    assert!(matches!(next(&mut second).await, Some(Err(_))));
    assert!(send(&responses, "jane", body()).is_ok(), "the first is slow still");
    drop(third);
}

#[tokio::test]
async fn write_that_was_done_is_answered() {
    let responses = bounded(100, 100);
    let (jane, other) = (holder("jane"), holder("joe"));
    let all = responses.room(&other, 100).unwrap();
    assert!(responses.room(&jane, 1).is_err(), "it is refused before");
    let lease = responses.room(&jane, 0).unwrap();
    let sent = responses.send_in(Response::new(full(vec![b'x'; 50])), lease);
    assert_eq!(responses.held(), 150);
    drop((sent, all));
    assert_eq!(responses.held(), 0);
}

#[tokio::test]
async fn stream_waits_for_room() {
    let responses = bounded(100, 100);
    let all = responses.room(&holder("joe"), 100).unwrap();
    let event = || stream(futures::stream::iter([Bytes::from(vec![b'x'; 80])]));
    let mut watch = responses.stream(Response::new(event()), &holder("jane")).unwrap();
    let waited = tokio::time::timeout(SOON, next(&mut watch)).await;
    assert!(waited.is_err());
    drop(all);
    assert!(matches!(next(&mut watch).await, Some(Ok(80))));
    assert_eq!(responses.held(), 80, "until the next is asked for");
    assert!(next(&mut watch).await.is_none());
    assert_eq!(responses.held(), 0);
    let _all = responses.room(&holder("joe"), 100).unwrap();
    let mut watch = responses.stream(Response::new(event()), &holder("jane")).unwrap();
    assert!(matches!(next(&mut watch).await, Some(Err(_))));
}

#[tokio::test]
async fn watch_holds_its_beginning_until_it_is_sent() {
    let responses = bounded(1000, 1000);
    let watch = |sent: &Arc<AtomicBool>| {
        let mut response =
            Response::new(stream(futures::stream::iter(["a", "b", "c"].map(Bytes::from))));
        response.extensions_mut().insert(Beginning { bytes: 600, sent: sent.clone() });
        responses.stream(response, &holder("jane"))
    };
    let sent = Arc::new(AtomicBool::new(false));
    let mut first = watch(&sent).unwrap();
    assert!(watch(&sent).is_err(), "there is no room for a second one");
    assert!(matches!(next(&mut first).await, Some(Ok(1))));
    assert_eq!(responses.held(), 600);
    sent.store(true, Ordering::Release);
    assert!(matches!(next(&mut first).await, Some(Ok(1))));
    assert_eq!(responses.held(), 1);
    drop(first);
    assert_eq!(responses.held(), 0);
}

/// Serves one connection; the user's name is the path, the length of the body its query.
fn serve(responses: &Responses, io: DuplexStream) -> tokio::task::JoinHandle<()> {
    let responses = responses.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        let length: usize = request.uri().query().unwrap().parse().unwrap();
        let body = Bytes::from(vec![b'x'; length]);
        let response = send(&responses, request.uri().path(), body);
        let response = response.unwrap_or_else(|error| crate::body::failure(&error));
        async move { Ok::<_, Infallible>(response) }
    });
    tokio::spawn(async move {
        let _ = http_server().serve_connection(TokioIo::new(io), service).await;
    })
}

/// Waits until what is held does not change any more.
async fn settled(responses: &Responses) -> usize {
    let mut before = usize::MAX;
    loop {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let now = responses.held();
        if now == before {
            return now;
        }
        before = now;
    }
}

#[tokio::test]
async fn http1_client_that_never_reads_is_counted() {
    let responses = Responses::new();
    let (mut client, server) = tokio::io::duplex(4 << 10);
    let served = serve(&responses, server);
    client.write_all(b"GET /jane?9000000 HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    assert_eq!(settled(&responses).await, 9_000_000);
    let (mut other, server) = tokio::io::duplex(4 << 10);
    let other_served = serve(&responses, server);
    other.write_all(b"GET /joe?5 HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut text = String::new();
    other.read_to_string(&mut text).await.unwrap();
    assert!(text.starts_with("HTTP/1.1 200") && text.ends_with("xxxxx"), "{text}");
    other_served.await.unwrap();
    drop(client);
    served.await.unwrap();
    assert_eq!(responses.held(), 0);
}

#[tokio::test]
async fn http2_client_that_never_reads_is_counted() {
    let responses = Responses::new();
    let (client, server) = tokio::io::duplex(4 << 10);
    let served = serve(&responses, server);
    // The first byte fits into the window; the rest is the server's to keep.
    let mut http = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
    http.initial_stream_window_size(1);
    let (mut sender, connection) = http.handshake(TokioIo::new(client)).await.unwrap();
    let connection = tokio::spawn(connection);
    let mut unread = Vec::new();
    for length in [60_000, 9_000_000] {
        let uri = format!("http://a/jane?{length}");
        let request = Request::get(uri).body(Body::default()).unwrap();
        unread.push(sender.send_request(request).await.unwrap());
    }
    assert_eq!(settled(&responses).await, 9_060_000, "short responses are counted too");
    drop((sender, unread));
    connection.abort();
    served.await.unwrap();
    assert_eq!(settled(&responses).await, 0);
}

/// A small write may have a large response: expanded by defaults, or by what is wrong with it. It takes
/// no room of small ones, and keeps only its own client from writing.
#[tokio::test]
async fn large_response_to_a_write_takes_no_room_of_small_ones() {
    let responses = with_slow_after(3 * PIECE_BYTES, 2 * PIECE_BYTES, 2 * SOON);
    let room = responses.room_to_write(&holder("jane"), 100).unwrap();
    let held = responses.send_in(Response::new(full(random(20 * PIECE_BYTES))), room);
    let held_by = |room: &Room| room.budget.held();
    assert_eq!((held_by(&responses.0.small), held_by(&responses.0.large)), (0, 0));
    assert_eq!(responses.held(), 20 * PIECE_BYTES);
    for user in ["joe", "jane"] {
        assert!(send(&responses, user, random(PIECE_BYTES)).is_ok(), "{user} reads");
    }
    assert!(responses.room_to_write(&holder("joe"), 100).is_ok());
    assert!(responses.room_to_write(&holder("jane"), 100).is_err());
    // A client that takes nothing loses it.
    tokio::time::sleep(3 * SOON).await;
    let room = responses.room_to_write(&holder("jane"), 100).unwrap();
    assert_eq!(responses.held(), 100);
    drop(held);
    let held = responses.send_in(Response::new(full(random(200))), room);
    assert_eq!((held_by(&responses.0.small), responses.held()), (200, 200));
    // A refusal that would be too much is a short one.
    let rooms = [100, 100].map(|bytes| responses.room_to_write(&holder("jane"), bytes).unwrap());
    let [first, second] = rooms;
    let large = || {
        let mut response = Response::new(full(random(20 * PIECE_BYTES)));
        *response.status_mut() = StatusCode::UNPROCESSABLE_ENTITY;
        response
    };
    let sent = [responses.send_in(large(), first), responses.send_in(large(), second)];
    let codes = sent.each_ref().map(|response| response.status().as_u16());
    assert_eq!(codes, [422, 429]);
    drop((held, sent));
    assert_eq!(responses.held(), 0);
}
