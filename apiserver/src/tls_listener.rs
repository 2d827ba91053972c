//! Serves HTTP over TLS: handshakes, client certificates, limits and an orderly end.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Request, Response};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use rustls::ServerConfig;
use rustls::pki_types::CertificateDer;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::connections::{Activity, Connections, Ongoing, Place};
use crate::guarded::Guarded;
use crate::progress::{Lasting, Pieces, Progress};
use crate::security::User;
use crate::socket::{Client, Socket};

/// A client that has not finished its handshake by then is gone or hostile.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest time that a connection may take to send a request's head.
const HEADER_TIMEOUT: Duration = Duration::from_secs(90);
/// How often an HTTP/2 client is asked whether it is still there.
const PING_INTERVAL: Duration = Duration::from_secs(60);
/// Requests in flight on one HTTP/2 connection.
const STREAMS_MAX: u32 = 250;
/// Bytes of header fields of one request.
const HEADER_BYTES_MAX: u32 = 64 << 10;
/// Bytes that are read ahead of a request, and that are written ahead of a slow client, on a
/// connection of HTTP/1.1; its request line and header fields have to fit.
const HTTP1_BUFFER_BYTES: usize = HEADER_BYTES_MAX as usize;
/// Bytes that wait in a stream of HTTP/2 when the next piece of its response is taken. What is
/// behind them is still counted.
const HTTP2_SEND_BYTES: usize = 1 << 10;
/// Bytes that the kernel holds of a connection and has not sent yet.
const UNSENT_BYTES_MAX: u32 = 128 << 10;
/// After so long without a packet the kernel asks the client's machine whether it is still there, and
/// again after each further such time (Go's default, and so upstream's).
const KEEPALIVE: Duration = Duration::from_secs(15);
/// How long open requests may go on after the end was announced.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause after a failed accept (out of file descriptors, say).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The connection over which a request came: an `Arc` of it is among the extensions of each request,
/// except for those of clients in this process.
#[derive(Debug, Default)]
pub(crate) struct Origin {
    /// The other end.
    pub(crate) peer: Option<SocketAddr>,
    /// True for a client on this machine, where bytes cost nothing on their way but compressing
    /// them does.
    pub(crate) on_this_machine: bool,
    /// The client, of which a session asks whether it is still there.
    pub(crate) client: Option<Client>,
}

/// Accepts connections until `shutdown`, then lets open requests finish for a few seconds.
///
/// `places` is shared by all listeners of the API. `handle` gets each request with the [`User`] of a
/// verified client certificate, if there was one, among its extensions; HTTP/1.1 upgrades work through
/// `hyper::upgrade::on`.
pub async fn serve_tls<H, F, B>(
    listener: TcpListener,
    tls: Arc<ServerConfig>,
    handle: H,
    places: Arc<Connections>,
    shutdown: CancellationToken,
) where
    H: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<B>> + Send + 'static,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let acceptor = TlsAcceptor::from(tls);
    let connections = TaskTracker::new();
    let end = CancellationToken::new();
    let http = http_server();
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = accept(&listener) => accepted,
        };
        let (stream, peer, local) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Some(place) = places.admit(peer, local).map(Arc::new) else {
            tracing::debug!(%peer, "too many connections; one is closed");
            continue;
        };
        let acceptor = acceptor.clone();
        let handle = handle.clone();
        let http = http.clone();
        let (shutdown, end) = (shutdown.clone(), end.clone());
        connections.spawn(async move {
            let evicted = place.evicted.clone();
            let served = serve_connection(stream, place, local, acceptor, http, handle, &shutdown);
            tokio::select! {
                served = served => if let Err(error) = served {
                    tracing::debug!(error = %error, "connection ended");
                },
                () = end.cancelled() => {}
                () = evicted.cancelled() => {}
            }
        });
    }
    drop(listener);
    connections.close();
    if timeout(DRAIN_TIMEOUT, connections.wait()).await.is_err() {
        end.cancel();
        connections.wait().await;
    }
}

/// Accepts the next connection; returns the address that it comes from, and whether that is this
/// machine: a client that calls an address of its own machine does so from that same address.
async fn accept(listener: &TcpListener) -> io::Result<(TcpStream, IpAddr, bool)> {
    let (stream, peer) = listener.accept().await?;
    stream.set_nodelay(true)?;
    let socket = SockRef::from(&stream);
    socket.set_tcp_notsent_lowat(UNSENT_BYTES_MAX)?;
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE))?;
    let peer = peer.ip().to_canonical();
    let local = peer.is_loopback() || stream.local_addr()?.ip().to_canonical() == peer;
    Ok((stream, peer, local))
}

/// HTTP/1.1 and HTTP/2 with bounds on what one connection takes.
pub(crate) fn http_server() -> auto::Builder<TokioExecutor> {
    let mut http = auto::Builder::new(TokioExecutor::new());
    http.http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(HTTP1_BUFFER_BYTES);
    http.http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_INTERVAL)
        .max_concurrent_streams(STREAMS_MAX)
        .max_send_buf_size(HTTP2_SEND_BYTES)
        .max_header_list_size(HEADER_BYTES_MAX);
    http
}

/// Why a connection ended early.
#[derive(Debug, thiserror::Error)]
enum ConnectionError {
    #[error("the TLS handshake failed: {0}")]
    Handshake(#[source] io::Error),
    #[error("the TLS handshake took too long")]
    HandshakeTimeout,
    #[error("the HTTP exchange failed: {0}")]
    Http(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("the client takes nothing of its responses")]
    Stalled,
}

async fn serve_connection<H, F, B>(
    stream: TcpStream,
    place: Arc<Place>,
    local: bool,
    acceptor: TlsAcceptor,
    http: auto::Builder<TokioExecutor>,
    handle: H,
    shutdown: &CancellationToken,
) -> Result<(), ConnectionError>
where
    H: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<B>> + Send + 'static,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let peer = stream.peer_addr().ok();
    let socket = Socket::new(stream);
    let client = Some(socket.client());
    let origin = Arc::new(Origin { peer, on_this_machine: local, client });
    let stream = timeout(HANDSHAKE_TIMEOUT, acceptor.accept(socket))
        .await
        .map_err(|_| ConnectionError::HandshakeTimeout)?
        .map_err(ConnectionError::Handshake)?;
    let user = stream
        .get_ref()
        .1
        .peer_certificates()
        .and_then(|chain| chain.first())
        .and_then(user_of_certificate)
        .map(Arc::new);
    let (activity, progress) = (Activity::new(), Progress::new());
    let stream = Guarded::new(stream, place.clone());
    let (requests, responses) = (activity.clone(), progress.clone());
    let service = service_fn(move |mut request: Request<Incoming>| {
        place.speaks();
        let ongoing = requests.begin();
        request.extensions_mut().insert(origin.clone());
        if let Some(user) = &user {
            user.clone().send(request.extensions_mut());
        }
        let answer = handle(request);
        let responses = responses.clone();
        async move {
            let response = answer.await;
            let pieces = responses.response(response.extensions().get::<Lasting>().is_some());
            Ok::<_, Infallible>(response.map(|body| Answer {
                body: Box::pin(body),
                pieces,
                _ongoing: ongoing,
            }))
        }
    });
    let connection = http.serve_connection_with_upgrades(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        served = connection.as_mut() => return served.map_err(ConnectionError::Http),
        () = shutdown.cancelled() => connection.as_mut().graceful_shutdown(),
        () = progress.stalled() => return Err(ConnectionError::Stalled),
        () = activity.idle() => {
            connection.as_mut().graceful_shutdown();
            // A peer that does not take note of the end is not waited for.
            return match timeout(DRAIN_TIMEOUT, connection).await {
                Ok(served) => served.map_err(ConnectionError::Http),
                Err(_) => Ok(()),
            };
        }
    }
    connection.await.map_err(ConnectionError::Http)
}

/// The body of an answer; the request lasts as long as it does.
struct Answer<B> {
    body: Pin<Box<B>>,
    pieces: Pieces,
    _ongoing: Ongoing,
}

impl<B: Body> Body for Answer<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let this = &mut *self;
        this.pieces.taken();
        let polled = this.body.as_mut().poll_frame(context);
        if let Poll::Ready(Some(Ok(_))) = &polled {
            this.pieces.handed_out();
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The user that a verified client certificate names: the common name, and each organization as a
/// group.
fn user_of_certificate(certificate: &CertificateDer<'_>) -> Option<User> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let subject = parsed.subject();
    let name = subject.iter_common_name().next()?.as_str().ok()?;
    let groups: Vec<&str> = subject.iter_organization().filter_map(|o| o.as_str().ok()).collect();
    let mut user = User::authenticated(name, &groups);
    let digest = ring::digest::digest(&ring::digest::SHA256, certificate);
    let hex: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    user.extra.insert(
        "authentication.kubernetes.io/credential-id".to_owned(),
        vec![format!("X509SHA256={hex}")],
    );
    Some(user)
}
