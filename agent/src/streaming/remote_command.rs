//! Exec and attach (upstream `k8s.io/kubelet/pkg/cri/streaming/remotecommand`).

use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use http::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use runtime::sandbox::Session;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::PeerGone;
use super::negotiate::{Body, Transport, negotiate, refuse};
use super::wire::{Connection, Inlet, Outlet};
use super::{spdy, websocket};

/// How long a SPDY client may take to open its streams.
const STREAMS_TIMEOUT: Duration = Duration::from_secs(30);
/// How long after the end of a process its output may stay silent before it counts as finished
/// (a child of the process may hold it open for ever).
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);
const SPDY_PROTOCOLS: [&str; 5] = [
    "v5.channel.k8s.io",
    "v4.channel.k8s.io",
    "v3.channel.k8s.io",
    "v2.channel.k8s.io",
    "channel.k8s.io",
];
const WEBSOCKET_PROTOCOLS: [&str; 6] = [
    "v5.channel.k8s.io",
    "v4.channel.k8s.io",
    "v4.base64.channel.k8s.io",
    "base64.channel.k8s.io",
    "channel.k8s.io",
    "",
];

/// Which streams a client wants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StreamOptions {
    /// Standard input.
    pub stdin: bool,
    /// Standard output.
    pub stdout: bool,
    /// Standard error; never with a terminal.
    pub stderr: bool,
    /// A terminal.
    pub tty: bool,
}

impl StreamOptions {
    /// Reads the kubelet's query parameters (`input=1&output=1&error=1&tty=1`) or the apiserver's
    /// (`stdin=true&…`).
    pub fn from_query(query: &str) -> Self {
        let set = |names: [&str; 2]| {
            query.split('&').any(|pair| {
                let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
                names.contains(&key) && (value == "1" || value.eq_ignore_ascii_case("true"))
            })
        };
        let tty = set(["tty", "tty"]);
        Self {
            stdin: set(["input", "stdin"]),
            stdout: set(["output", "stdout"]),
            stderr: set(["error", "stderr"]) && !tty,
            tty,
        }
    }
}

/// What a client comes for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// A process of its own, whose exit code it is told.
    Exec,
    /// The process of the container. The end of the streams is a success whatever the exit code:
    /// kubectl takes a failure for one of the connection and turns to the logs instead.
    Attach,
}

/// Answers an exec request. `start` begins the process once the client's streams are there; its
/// error is what the client sees.
pub fn exec<B, F, E>(
    request: Request<B>,
    options: StreamOptions,
    start: impl FnOnce() -> F + Send + 'static,
) -> Response<Body>
where
    B: Send + 'static,
    F: Future<Output = Result<Session, E>> + Send + 'static,
    E: std::fmt::Display + Send + 'static,
{
    serve(request, options, Purpose::Exec, start)
}

/// Answers an attach request; as [`exec`], but how the process ends is not for the client to learn
/// here: it finds that in the pod's status.
pub fn attach<B, F, E>(
    request: Request<B>,
    options: StreamOptions,
    start: impl FnOnce() -> F + Send + 'static,
) -> Response<Body>
where
    B: Send + 'static,
    F: Future<Output = Result<Session, E>> + Send + 'static,
    E: std::fmt::Display + Send + 'static,
{
    serve(request, options, Purpose::Attach, start)
}

fn serve<B, F, E>(
    mut request: Request<B>,
    options: StreamOptions,
    purpose: Purpose,
    start: impl FnOnce() -> F + Send + 'static,
) -> Response<Body>
where
    B: Send + 'static,
    F: Future<Output = Result<Session, E>> + Send + 'static,
    E: std::fmt::Display + Send + 'static,
{
    if !options.stdin && !options.stdout && !options.stderr {
        return refuse(
            StatusCode::BAD_REQUEST,
            "you must specify at least 1 of stdin, stdout, stderr\n".to_owned(),
        );
    }
    let negotiated = negotiate(request.headers(), &SPDY_PROTOCOLS, &WEBSOCKET_PROTOCOLS);
    let (transport, response) = match negotiated {
        Ok(negotiated) => negotiated,
        Err(refusal) => return *refusal,
    };
    let closed = PeerGone::of(request.extensions());
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let io = match upgrade.await {
            Ok(upgraded) => TokioIo::new(upgraded),
            Err(error) => {
                tracing::debug!(%error, "the client did not go on after the upgrade");
                return;
            }
        };
        if let Some((streams, connection)) = open(io, transport, options, closed).await {
            let what = match purpose {
                Purpose::Exec => "error executing command in container",
                Purpose::Attach => "error attaching to container",
            };
            let started = async move { start().await.map_err(|e| format!("{what}: {e}")) };
            run(streams, connection, purpose, started).await;
        }
    });
    response
}

/// The client's streams.
pub(super) struct Streams {
    stdin: Option<Inlet>,
    stdout: Option<Outlet>,
    stderr: Option<Outlet>,
    error: Outlet,
    resize: Option<Inlet>,
    /// Whether the outcome is told as a Status (v4 and later) or as plain text.
    status: bool,
}

/// Waits until every stream is there.
pub(super) async fn open<T>(
    io: T,
    transport: Transport,
    options: StreamOptions,
    closed: CancellationToken,
) -> Option<(Streams, Connection)>
where
    T: AsyncRead + AsyncWrite + Send + 'static,
{
    match transport {
        Transport::WebSocket(protocol) => {
            let inward = [websocket::STDIN, websocket::RESIZE];
            let base64 = protocol.contains("base64");
            let (mut inlets, connection) = websocket::channels(io, base64, &inward, closed);
            let (resize, stdin) = (inlets.pop(), inlets.pop());
            let outlet = |stream| Outlet { stream, queue: connection.queue.clone() };
            let streams = Streams {
                stdin: stdin.filter(|_| options.stdin),
                stdout: options.stdout.then(|| outlet(websocket::STDOUT)),
                stderr: options.stderr.then(|| outlet(websocket::STDERR)),
                error: outlet(websocket::ERROR),
                resize: resize.filter(|_| options.tty),
                status: protocol.starts_with("v4.") || protocol.starts_with("v5."),
            };
            // An empty message tells the client that the connection stands.
            let first = streams.stdout.as_ref().or(streams.stderr.as_ref());
            first.unwrap_or(&streams.error).send(Bytes::new()).await;
            Some((streams, connection))
        }
        Transport::Spdy(protocol) => {
            let (mut opened, connection) = spdy::serve(io, closed);
            let resizes = options.tty && !protocol.starts_with("v2.") && protocol.starts_with('v');
            let mut missing = 1
                + usize::from(options.stdin)
                + usize::from(options.stdout)
                + usize::from(options.stderr)
                + usize::from(resizes);
            let (mut stdin, mut stdout, mut stderr, mut error, mut resize) =
                (None, None, None, None, None);
            let deadline = tokio::time::Instant::now() + STREAMS_TIMEOUT;
            while missing > 0 {
                let next = tokio::time::timeout_at(deadline, opened.recv()).await;
                let Ok(Some(stream)) = next else {
                    connection.closed.cancel();
                    return None;
                };
                match stream.header("streamtype") {
                    "stdin" => stdin = Some(stream.inlet),
                    "stdout" => stdout = Some(stream.outlet),
                    "stderr" => stderr = Some(stream.outlet),
                    "error" => error = Some(stream.outlet),
                    "resize" => resize = Some(stream.inlet),
                    _ => continue,
                }
                missing -= 1;
            }
            let status = protocol.starts_with("v4.") || protocol.starts_with("v5.");
            let streams = Streams { stdin, stdout, stderr, error: error?, resize, status };
            Some((streams, connection))
        }
    }
}

/// Carries bytes both ways until the process ends or the client is gone, then tells the outcome.
pub(super) async fn run(
    streams: Streams,
    connection: Connection,
    purpose: Purpose,
    start: impl Future<Output = Result<Session, String>>,
) {
    let Streams { stdin, stdout, stderr, error, resize, status } = streams;
    let outcome = match start.await {
        Ok(session) => {
            let outputs = (stdout.clone(), stderr.clone());
            tokio::select! {
                code = carry(session, stdin, outputs, resize) => match purpose {
                    Purpose::Exec => Ok(code),
                    Purpose::Attach => Ok(Some(0)),
                },
                () = connection.closed.cancelled() => return,
            }
        }
        Err(why) => Err(why),
    };
    for outlet in [&stdout, &stderr].into_iter().flatten() {
        outlet.finish().await;
    }
    let text = if status { report(&outcome).to_string() } else { plain(&outcome) };
    if !text.is_empty() {
        error.send(Bytes::from(text)).await;
    }
    error.finish().await;
    drop((stdout, stderr, error));
    connection.close().await;
}

async fn carry(
    session: Session,
    stdin: Option<Inlet>,
    (stdout, stderr): (Option<Outlet>, Option<Outlet>),
    resize: Option<Inlet>,
) -> Option<i32> {
    let Session {
        stdin: to_process,
        stdout: from_stdout,
        stderr: from_stderr,
        resize: sizes,
        exit,
        leash: _,
    } = session;
    let (ended, watch_end) = watch::channel(false);
    let input = async {
        if let (Some(mut inlet), Some(mut process)) = (stdin, to_process) {
            while let Some(bytes) = inlet.recv().await {
                if process.write_all(&bytes).await.is_err() || process.flush().await.is_err() {
                    break;
                }
            }
            let _ = process.shutdown().await;
        }
        std::future::pending::<()>().await;
    };
    let resizing = async {
        if let Some(inlet) = resize {
            forward_sizes(inlet, sizes).await;
        }
        std::future::pending::<()>().await;
    };
    let finish = async {
        let exit = exit.await;
        let _ = ended.send(true);
        exit.ok().map(|exit| exit.code)
    };
    let outputs = async {
        let out = output(stdout, Some(from_stdout), watch_end.clone());
        let err = output(stderr, from_stderr, watch_end.clone());
        tokio::join!(finish, out, err).0
    };
    tokio::select! {
        code = outputs => code,
        () = input => None,
        () = resizing => None,
    }
}

/// Carries one output of the process until its end, or until it is silent after the process ended.
async fn output(
    outlet: Option<Outlet>,
    from: Option<Box<dyn AsyncRead + Send + Unpin>>,
    ended: watch::Receiver<bool>,
) {
    let Some(mut from) = from else { return };
    let silent = || {
        let mut ended = ended.clone();
        async move {
            if ended.wait_for(|ended| *ended).await.is_ok() {
                tokio::time::sleep(DRAIN_TIMEOUT).await;
            }
        }
        .boxed()
    };
    match outlet {
        Some(outlet) => outlet.send_all(&mut from, silent).await,
        None => {
            // Nobody wants it, but the process must be able to write it.
            let mut sink = tokio::io::sink();
            tokio::select! {
                _ = tokio::io::copy(&mut from, &mut sink) => {}
                () = silent() => {}
            }
        }
    }
}

/// Terminal sizes come as a sequence of `{"Width": 80, "Height": 24}`.
async fn forward_sizes(mut inlet: Inlet, sizes: mpsc::Sender<(u16, u16)>) {
    const PENDING_BYTES_MAX: usize = 4096;
    let mut pending = Vec::new();
    while let Some(bytes) = inlet.recv().await {
        pending.extend_from_slice(&bytes);
        let mut values = serde_json::Deserializer::from_slice(&pending).into_iter::<Value>();
        let mut found = Vec::new();
        while let Some(Ok(value)) = values.next() {
            let side = |name: &str| value[name].as_u64().and_then(|n| u16::try_from(n).ok());
            found.extend(side("Width").zip(side("Height")));
        }
        let used = values.byte_offset();
        pending.drain(..used);
        if pending.len() > PENDING_BYTES_MAX {
            return;
        }
        for size in found {
            if sizes.send(size).await.is_err() {
                return;
            }
        }
    }
}

/// The outcome as `metav1.Status`. No exit code means that the process is lost without a trace.
fn report(outcome: &Result<Option<i32>, String>) -> Value {
    match outcome {
        Ok(Some(0)) => json!({ "metadata": {}, "status": "Success" }),
        Ok(Some(code)) => json!({
            "metadata": {},
            "status": "Failure",
            "message": format!("command terminated with non-zero exit code: exit code {code}"),
            "reason": "NonZeroExitCode",
            "details": { "causes": [{ "reason": "ExitCode", "message": code.to_string() }] },
        }),
        Ok(None) => failure("the process ended without an exit code"),
        Err(why) => failure(why),
    }
}

fn failure(why: &str) -> Value {
    json!({
        "metadata": {},
        "status": "Failure",
        "message": format!("Internal error occurred: {why}"),
        "reason": "InternalError",
        "details": { "causes": [{ "message": why }] },
        "code": 500,
    })
}

/// The outcome as older protocols tell it: nothing when all went well.
fn plain(outcome: &Result<Option<i32>, String>) -> String {
    match outcome {
        Ok(Some(0)) => String::new(),
        Ok(Some(code)) => format!("command terminated with non-zero exit code: exit code {code}"),
        Ok(None) => "the process ended without an exit code".to_owned(),
        Err(why) => why.clone(),
    }
}
