//! Port-forwarding (upstream `k8s.io/kubelet/pkg/cri/streaming/portforward`).

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use http::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use super::negotiate::{Body, Transport, negotiate};
use super::spdy::{self, Stream};
use super::websocket;

const PROTOCOL: &str = "portforward.k8s.io";
const TUNNELED: &str = "SPDY/3.1+portforward.k8s.io";
/// How long one half of a pair of streams waits for the other.
const PAIR_TIMEOUT: Duration = Duration::from_secs(30);
/// Pairs that may be incomplete at the same time.
const HALF_PAIRS_MAX: usize = 256;

/// Connects to a port inside the pod.
pub type Dial = Arc<dyn Fn(u16) -> BoxFuture<'static, io::Result<TcpStream>> + Send + Sync>;

/// Answers a port-forward request; `pod` names the pod in messages (`name_namespace`, uid).
pub fn port_forward<B: Send + 'static>(
    mut request: Request<B>,
    pod: String,
    dial: Dial,
) -> Response<Body> {
    let (transport, response) = match negotiate(request.headers(), &[PROTOCOL], &[TUNNELED]) {
        Ok(negotiated) => negotiated,
        Err(refusal) => return *refusal,
    };
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        match upgrade.await {
            Ok(upgraded) => forward(TokioIo::new(upgraded), transport, pod, dial).await,
            Err(error) => {
                tracing::debug!(%error, "the client did not go on after the upgrade");
            }
        }
    });
    response
}

pub(super) async fn forward<T>(io: T, transport: Transport, pod: String, dial: Dial)
where
    T: AsyncRead + AsyncWrite + Send + 'static,
{
    let (mut opened, connection) = match transport {
        Transport::Spdy(_) => spdy::serve(io),
        Transport::WebSocket(_) => spdy::serve(websocket::tunnel(io)),
    };
    let mut halves: HashMap<String, (tokio::time::Instant, Stream)> = HashMap::new();
    let mut forwards = tokio::task::JoinSet::new();
    while let Some(stream) = opened.recv().await {
        while forwards.try_join_next().is_some() {}
        let now = tokio::time::Instant::now();
        halves.retain(|_, (since, _)| now.duration_since(*since) < PAIR_TIMEOUT);
        // Old clients send no request id; their streams come as neighbours.
        let id = match stream.header("requestid") {
            "" => match stream.header("streamtype") {
                "error" => stream.outlet.stream.to_string(),
                _ => stream.outlet.stream.saturating_sub(2).to_string(),
            },
            id => id.to_owned(),
        };
        let Some((_, other)) = halves.remove(&id) else {
            if halves.len() < HALF_PAIRS_MAX {
                halves.insert(id, (now, stream));
            }
            continue;
        };
        let (data, error) =
            if stream.header("streamtype") == "error" { (other, stream) } else { (stream, other) };
        forwards.spawn(one(data, error, pod.clone(), dial.clone()));
    }
    drop(forwards);
    connection.close().await;
}

/// One forwarded connection.
async fn one(data: Stream, error: Stream, pod: String, dial: Dial) {
    let port = data.header("port").to_owned();
    let target = match port.parse() {
        Ok(number @ 1..) => dial(number).await.map_err(|e| e.to_string()),
        _ => Err("it is not a port".to_owned()),
    };
    match target {
        Ok(target) => carry(data, target).await,
        Err(why) => {
            let text = format!("error forwarding port {port} to pod {pod}: {why}");
            error.outlet.send(Bytes::from(text)).await;
            error.outlet.finish().await;
            data.outlet.finish().await;
            return;
        }
    }
    error.outlet.finish().await;
}

async fn carry(data: Stream, target: TcpStream) {
    let Stream { mut inlet, outlet, reset, .. } = data;
    let (mut from, mut to) = target.into_split();
    let up = async {
        while let Some(bytes) = inlet.recv().await {
            if to.write_all(&bytes).await.is_err() {
                break;
            }
        }
        let _ = to.shutdown().await;
    };
    let down = async {
        outlet.send_all(&mut from, || reset.clone().cancelled_owned().boxed()).await;
        outlet.finish().await;
    };
    // The pod's end decides: once it has said everything, the client has nothing to wait for.
    tokio::pin!(up, down);
    tokio::select! {
        () = &mut down => {}
        () = &mut up => down.await,
    }
}
