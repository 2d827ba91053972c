//! Port-forwarding (upstream `k8s.io/kubelet/pkg/cri/streaming/portforward`).

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use http::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use super::PeerGone;
use super::negotiate::{Body, Transport, negotiate, refuse};
use super::spdy::{self, Stream};
use super::websocket;
use super::wire::{Inlet, Outlet};

const PROTOCOL: &str = "portforward.k8s.io";
const TUNNELED: &str = "SPDY/3.1+portforward.k8s.io";
/// The last is for clients that name no subprotocol.
const WEBSOCKET_PROTOCOLS: [&str; 4] =
    [TUNNELED, "v4.channel.k8s.io", "v4.base64.channel.k8s.io", ""];
/// How long one half of a pair of streams waits for the other.
const PAIR_TIMEOUT: Duration = Duration::from_secs(30);
/// Pairs that may be incomplete at the same time.
const HALF_PAIRS_MAX: usize = 256;
/// Ports that one WebSocket may carry: two channels each, which a byte numbers (255 means another
/// thing), or a digit in base64.
const BINARY_PORTS_MAX: usize = 127;
const BASE64_PORTS_MAX: usize = 5;

/// Connects to a port inside the pod.
pub type Dial = Arc<dyn Fn(u16) -> BoxFuture<'static, io::Result<TcpStream>> + Send + Sync>;

/// The way to a pod, and its name in messages (`name_namespace`, uid).
#[derive(Clone)]
pub struct Pod {
    /// Its name.
    pub name: String,
    /// Connects to its ports.
    pub dial: Dial,
    /// The connections that may be forwarded at the same time, to all pods of the node.
    pub places: Arc<Semaphore>,
}

impl Pod {
    /// Connects to a port, if there is a place for one more connection.
    async fn connect(&self, port: u16) -> Result<(TcpStream, OwnedSemaphorePermit), String> {
        let place = self.places.clone().try_acquire_owned();
        let place = place.map_err(|_| "too many connections are forwarded".to_owned())?;
        let stream = (self.dial)(port).await.map_err(|error| error.to_string())?;
        Ok((stream, place))
    }
}

/// Answers a port-forward request.
pub fn port_forward<B: Send + 'static>(mut request: Request<B>, pod: Pod) -> Response<Body> {
    let negotiated = negotiate(request.headers(), &[PROTOCOL], &WEBSOCKET_PROTOCOLS);
    let (transport, response) = match negotiated {
        Ok(negotiated) => negotiated,
        Err(refusal) => return *refusal,
    };
    // The channel protocols name their ports in the request, SPDY streams in their headers.
    let ports = match &transport {
        Transport::WebSocket(protocol) if protocol != TUNNELED => {
            let base64 = protocol.contains("base64");
            let limit = if base64 { BASE64_PORTS_MAX } else { BINARY_PORTS_MAX };
            match ports(request.uri().query().unwrap_or_default(), limit) {
                Ok(ports) => ports,
                Err(text) => return refuse(StatusCode::BAD_REQUEST, text),
            }
        }
        _ => Vec::new(),
    };
    let closed = PeerGone::of(request.extensions());
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        match upgrade.await {
            Ok(upgraded) => {
                let io = TokioIo::new(upgraded);
                match transport {
                    Transport::WebSocket(protocol) if protocol != TUNNELED => {
                        let base64 = protocol.contains("base64");
                        forward_channels(io, base64, ports, pod, closed).await;
                    }
                    transport => forward(io, transport, pod, closed).await,
                }
            }
            Err(error) => {
                tracing::debug!(%error, "the client did not go on after the upgrade");
            }
        }
    });
    response
}

pub(super) async fn forward<T>(io: T, transport: Transport, pod: Pod, closed: CancellationToken)
where
    T: AsyncRead + AsyncWrite + Send + 'static,
{
    let (mut opened, connection) = match transport {
        Transport::Spdy(_) => spdy::serve(io, closed),
        Transport::WebSocket(_) => spdy::serve(websocket::tunnel(io), closed),
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
        forwards.spawn(one(data, error, pod.clone()));
    }
    drop(forwards);
    connection.close().await;
}

/// The ports of a query: `port` and `ports`, repeated or with commas.
fn ports(query: &str, limit: usize) -> Result<Vec<u16>, String> {
    let mut ports = Vec::new();
    for (key, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
        if !matches!(key, "port" | "ports") {
            continue;
        }
        for text in value.replace("%2C", ",").replace("%2c", ",").split(',') {
            match text.parse() {
                Ok(port @ 1..) => ports.push(port),
                _ => return Err(format!("invalid port: {text:?}\n")),
            }
        }
    }
    if ports.is_empty() {
        return Err("query parameter \"port\" is required\n".to_owned());
    }
    if ports.len() > limit {
        return Err(format!("at most {limit} ports can be forwarded at once\n"));
    }
    Ok(ports)
}

/// One connection per port, each on a pair of channels: 2n for its data, 2n+1 for what went wrong.
/// Both begin with the port's number, as two bytes of which the lower comes first.
pub(super) async fn forward_channels<T>(
    io: T,
    base64: bool,
    ports: Vec<u16>,
    pod: Pod,
    closed: CancellationToken,
) where
    T: AsyncRead + AsyncWrite + Send + 'static,
{
    let inward: Vec<u32> = (0..ports.len() as u32).map(|pair| 2 * pair).collect();
    let (inlets, connection) = websocket::channels(io, base64, &inward, closed);
    let mut forwards = tokio::task::JoinSet::new();
    for ((port, inlet), channel) in ports.into_iter().zip(inlets).zip(inward) {
        let outlet = |stream| Outlet { stream, queue: connection.queue.clone() };
        let (data, error) = (outlet(channel), outlet(channel + 1));
        let number = Bytes::copy_from_slice(&port.to_le_bytes());
        if !data.send(number.clone()).await || !error.send(number).await {
            return;
        }
        let (pod, closed) = (pod.clone(), connection.closed.clone());
        forwards.spawn(async move {
            match pod.connect(port).await {
                Ok((target, _place)) => carry(inlet, data, closed, target).await,
                Err(why) => {
                    error.send(failure(&port.to_string(), &pod.name, &why)).await;
                }
            }
        });
    }
    while forwards.join_next().await.is_some() {}
    connection.close().await;
}

fn failure(port: &str, pod: &str, why: &str) -> Bytes {
    Bytes::from(format!("error forwarding port {port} to pod {pod}: {why}"))
}

/// One forwarded connection.
async fn one(data: Stream, error: Stream, pod: Pod) {
    let port = data.header("port").to_owned();
    let target = match port.parse() {
        Ok(number @ 1..) => pod.connect(number).await,
        _ => Err("it is not a port".to_owned()),
    };
    match target {
        Ok((target, _place)) => {
            let Stream { inlet, outlet, reset, .. } = data;
            carry(inlet, outlet, reset, target).await;
        }
        Err(why) => {
            error.outlet.send(failure(&port, &pod.name, &why)).await;
            error.outlet.finish().await;
            data.outlet.finish().await;
            return;
        }
    }
    error.outlet.finish().await;
}

async fn carry(mut inlet: Inlet, outlet: Outlet, reset: CancellationToken, target: TcpStream) {
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::ports;

    #[test]
    fn ports_of_a_query() {
        assert_eq!(ports("ports=80&x=y&port=8080", 5).unwrap(), [80, 8080]);
        assert_eq!(ports("ports=80,81%2C82", 5).unwrap(), [80, 81, 82]);
        assert_eq!(ports("", 5).unwrap_err(), "query parameter \"port\" is required\n");
        assert_eq!(ports("port=0", 5).unwrap_err(), "invalid port: \"0\"\n");
        assert_eq!(ports("port=65536", 5).unwrap_err(), "invalid port: \"65536\"\n");
        assert!(ports("ports=1,2,3", 2).is_err());
    }
}
