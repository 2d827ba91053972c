//! The kubelet API on one connection: logs, exec, attach, port-forward, stats.

use std::convert::Infallible;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use http::{Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use runtime::sandbox::ExecSpec;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::directory::{Place, Where};
use crate::logs::{self, LogOptions};
use crate::machine::PodSandbox;
use crate::node::Node;
use crate::streaming::{self, PeerGone, Pod, StreamOptions};
use crate::worker::start::log_file;

type Body = BoxBody<Bytes, Infallible>;
/// The answer where there is nothing of that name.
type Missing = Box<Response<Body>>;

/// Pieces of a log that may wait for a slow client.
const LOG_QUEUE: usize = 1;
/// Bytes that are read ahead of a request and written ahead of a slow client on one connection. The
/// head of a request has to fit, with the command of an exec.
const BUFFER_BYTES: usize = 96 << 10;
/// Connections that are forwarded to pods at the same time.
const FORWARDS_MAX: usize = 1024;
/// Of the process' descriptors, one in so many is for forwarded connections.
const FORWARDS_PART: usize = 8;

/// The connections that a process with so many descriptors forwards at the same time.
pub fn forwards(descriptors: u64) -> usize {
    FORWARDS_MAX.min(usize::try_from(descriptors).unwrap_or(usize::MAX) / FORWARDS_PART)
}

/// Serves requests until the connection ends; `gone` says when its other end is dropped.
pub async fn serve<I>(node: Arc<Node>, io: I, gone: CancellationToken)
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |mut request: Request<Incoming>| {
        let node = node.clone();
        request.extensions_mut().insert(PeerGone(gone.clone()));
        async move { Ok::<_, Infallible>(answer(&node, request).await) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .max_buf_size(BUFFER_BYTES)
        .serve_connection(TokioIo::new(io), service)
        .with_upgrades();
    if let Err(error) = connection.await {
        tracing::debug!(%error, "a connection to the kubelet API ended");
    }
}

async fn answer(node: &Arc<Node>, request: Request<Incoming>) -> Response<Body> {
    let path = request.uri().path().to_owned();
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    match parts[..] {
        ["healthz"] => text(StatusCode::OK, "ok"),
        ["pods"] => pods(node),
        ["stats", "summary"] => summary(node).await,
        ["metrics"] => exposition(crate::metrics::kubelet(node)),
        ["metrics", "cadvisor"] => exposition(crate::metrics::cadvisor(node).await),
        ["metrics", "resource"] => {
            let (cpu_ns, available) = machine_usage();
            let working_set = node.capacity.memory_bytes.saturating_sub(available);
            exposition(crate::metrics::resource(node, (cpu_ns, working_set)).await)
        }
        ["startUp", uid] => match node.start_ups.of(uid) {
            Some(steps) => json_response(&steps),
            None => text(StatusCode::NOT_FOUND, "the start of this pod was not seen"),
        },
        ["containerLogs", namespace, pod, container] => {
            container_logs(node, &request, namespace, pod, container)
        }
        // The form with the uid of the pod is accepted too, as upstream does.
        ["exec", namespace, pod, container] | ["exec", namespace, pod, _, container] => {
            exec(node, request, namespace, pod, container)
        }
        ["attach", namespace, pod, container] | ["attach", namespace, pod, _, container] => {
            attach(node, request, namespace, pod, container)
        }
        ["portForward", namespace, pod] | ["portForward", namespace, pod, _] => {
            port_forward(node, request, namespace, pod)
        }
        _ => text(StatusCode::NOT_FOUND, "404 page not found"),
    }
}

fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).boxed()
}

fn text(status: StatusCode, message: impl Into<String>) -> Response<Body> {
    let mut response = Response::new(full(message.into()));
    *response.status_mut() = status;
    response
}

/// Text in the format of Prometheus.
fn exposition(metrics: String) -> Response<Body> {
    let mut response = Response::new(full(metrics));
    let kind = http::HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(http::header::CONTENT_TYPE, kind);
    response
}

fn json_response(value: &Value) -> Response<Body> {
    let mut response = Response::new(full(value.to_string()));
    let kind = http::HeaderValue::from_static("application/json");
    response.headers_mut().insert(http::header::CONTENT_TYPE, kind);
    response
}

fn missing(what: String) -> Missing {
    Box::new(text(StatusCode::NOT_FOUND, what))
}

fn no_container(container: &str) -> Missing {
    missing(format!("container not found (\"{container}\")"))
}

fn find(
    node: &Node,
    namespace: &str,
    pod: &str,
    container: &str,
) -> Result<(Where, Place), Missing> {
    let place = node
        .directory
        .get(namespace, pod)
        .ok_or_else(|| missing(format!("pod \"{pod}_{namespace}\" not found")))?;
    let known = place.containers.iter().find(|known| known.name == container).cloned();
    Ok((place, known.ok_or_else(|| no_container(container))?))
}

/// The sandbox of a container that runs, and its identifier there.
fn find_running(
    node: &Node,
    namespace: &str,
    pod: &str,
    container: &str,
) -> Result<(Arc<dyn PodSandbox>, String), Missing> {
    let (place, known) = find(node, namespace, pod, container)?;
    place.sandbox.zip(known.id).ok_or_else(|| no_container(container))
}

/// A query parameter, percent-decoded.
fn parameters<'a>(query: &'a str, name: &'a str) -> impl Iterator<Item = String> + 'a {
    query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .filter(move |(key, _)| *key == name)
        .map(|(_, value)| decode(value))
}

fn decode(value: &str) -> String {
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        rest = tail;
        match first {
            b'+' => bytes.push(b' '),
            b'%' => {
                let code = tail.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
                match code.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
                    Some(byte) => {
                        bytes.push(byte);
                        rest = &tail[2..];
                    }
                    None => bytes.push(b'%'),
                }
            }
            other => bytes.push(*other),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn container_logs(
    node: &Arc<Node>,
    request: &Request<Incoming>,
    namespace: &str,
    pod: &str,
    container: &str,
) -> Response<Body> {
    let (place, known) = match find(node, namespace, pod, container) {
        Ok(found) => found,
        Err(response) => return *response,
    };
    let query = request.uri().query().unwrap_or_default().to_owned();
    let one = |name: &str| parameters(&query, name).next().filter(|value| !value.is_empty());
    let flag = |name: &str| one(name).is_some_and(|value| value == "true" || value == "1");
    let number = |name: &str| one(name).and_then(|value| value.parse::<usize>().ok());
    let seconds = one("sinceSeconds").and_then(|value| value.parse::<i64>().ok());
    let since = one("sinceTime").and_then(|value| value.parse::<Timestamp>().ok()).or_else(|| {
        seconds.and_then(|seconds| {
            Timestamp::now().checked_sub(jiff::SignedDuration::from_secs(seconds)).ok()
        })
    });
    let previous = flag("previous");
    let options = LogOptions {
        follow: flag("follow") && !previous,
        tail_lines: number("tailLines"),
        since,
        timestamps: flag("timestamps"),
        limit_bytes: number("limitBytes"),
    };
    let Some(attempt) = known.attempt else {
        let message = format!(
            "container \"{container}\" in pod \"{pod}\" is waiting to start: ContainerCreating"
        );
        return text(StatusCode::BAD_REQUEST, message);
    };
    let attempt = match (previous, attempt) {
        (false, attempt) => attempt,
        (true, 0) => {
            let message =
                format!("previous terminated container \"{container}\" in pod \"{pod}\" not found");
            return text(StatusCode::BAD_REQUEST, message);
        }
        (true, attempt) => attempt - 1,
    };
    let log = log_file(&place.logs, container, attempt);
    let directory = node.directory.clone();
    let names = (namespace.to_owned(), pod.to_owned(), container.to_owned());
    let uid = place.uid;
    let running = move || {
        directory.find(&names.0, &names.1, &uid).is_some_and(|place| {
            let mut containers = place.containers.iter();
            containers.any(|known| {
                known.name == names.2 && known.id.is_some() && known.attempt == Some(attempt)
            })
        })
    };
    let (sender, receiver) = mpsc::channel(LOG_QUEUE);
    tokio::spawn(async move {
        if let Err(error) = logs::read(log, options, running, sender).await {
            tracing::debug!(%error, "a log cannot be read");
        }
    });
    let mut response = Response::new(Pieces { receiver }.boxed());
    let kind = http::HeaderValue::from_static("text/plain");
    response.headers_mut().insert(http::header::CONTENT_TYPE, kind);
    response
}

/// A body made of the pieces of a log.
struct Pieces {
    receiver: mpsc::Receiver<Bytes>,
}

impl hyper::body::Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.receiver.poll_recv(context).map(|piece| piece.map(|piece| Ok(Frame::data(piece))))
    }
}

fn exec(
    node: &Arc<Node>,
    request: Request<Incoming>,
    namespace: &str,
    pod: &str,
    container: &str,
) -> Response<Body> {
    let (sandbox, id) = match find_running(node, namespace, pod, container) {
        Ok(found) => found,
        Err(response) => return *response,
    };
    let query = request.uri().query().unwrap_or_default().to_owned();
    let options = StreamOptions::from_query(&query);
    let args: Vec<String> = parameters(&query, "command").collect();
    let spec =
        ExecSpec { container: id, args, tty: options.tty, stdin: options.stdin, leashed: false };
    let start = move || async move { sandbox.exec(spec).await.map_err(message) };
    streaming::exec(request, options, start).map(BodyExt::boxed)
}

fn attach(
    node: &Arc<Node>,
    request: Request<Incoming>,
    namespace: &str,
    pod: &str,
    container: &str,
) -> Response<Body> {
    let (sandbox, id) = match find_running(node, namespace, pod, container) {
        Ok(found) => found,
        Err(response) => return *response,
    };
    let options = StreamOptions::from_query(request.uri().query().unwrap_or_default());
    let stdin = options.stdin;
    let start = move || async move { sandbox.attach(&id, stdin).await.map_err(message) };
    streaming::attach(request, options, start).map(BodyExt::boxed)
}

fn message(error: crate::machine::Cause) -> String {
    match error.downcast_ref::<runtime::Error>().and_then(runtime::Error::launch) {
        Some(launch) => launch.exec_message(),
        None => runtime::printable::chain(&*error),
    }
}

fn port_forward(
    node: &Arc<Node>,
    request: Request<Incoming>,
    namespace: &str,
    pod: &str,
) -> Response<Body> {
    let Some(place) = node.directory.get(namespace, pod) else {
        return text(StatusCode::NOT_FOUND, format!("pod \"{pod}_{namespace}\" not found"));
    };
    let dial = move |port: u16| -> BoxFuture<'static, std::io::Result<TcpStream>> {
        let netns = place.netns.clone();
        async move {
            let Some(netns) = netns else {
                return TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await;
            };
            let (sender, receiver) = tokio::sync::oneshot::channel();
            // A thread of its own: the namespace of a shared one must not change.
            std::thread::Builder::new().name("port-forward".into()).spawn(move || {
                let connected = std::fs::File::open(&netns).and_then(|namespace| {
                    nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNET)?;
                    let address = (Ipv4Addr::LOCALHOST, port).into();
                    std::net::TcpStream::connect_timeout(&address, Duration::from_secs(10))
                });
                // The client may have gone meanwhile.
                let _ = sender.send(connected);
            })?;
            let stream = receiver.await.map_err(std::io::Error::other)??;
            stream.set_nonblocking(true)?;
            TcpStream::from_std(stream)
        }
        .boxed()
    };
    let (name, places) = (pod.to_owned(), node.forwards.clone());
    let pod = Pod { name, dial: Arc::new(dial), places };
    streaming::port_forward(request, pod).map(BodyExt::boxed)
}

fn pods(node: &Node) -> Response<Body> {
    let items: Vec<Value> = node
        .directory
        .all()
        .into_iter()
        .map(|((namespace, name), place)| {
            json!({"metadata": {"namespace": namespace, "name": name, "uid": place.uid}})
        })
        .collect();
    json_response(&json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items}))
}

/// Usage of node and pods in the form of the kubelet's summary.
async fn summary(node: &Node) -> Response<Body> {
    let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let usage = |usage: &runtime::cgroup::Usage| {
        (
            json!({"time": now, "usageCoreNanoSeconds": usage.cpu_ns}),
            json!({
                "time": now,
                "usageBytes": usage.memory_bytes,
                "workingSetBytes": usage.working_set_bytes,
                "rssBytes": usage.rss_bytes,
                "pageFaults": usage.page_faults,
                "majorPageFaults": usage.major_page_faults,
            }),
        )
    };
    let mut pods = Vec::new();
    for ((namespace, name), place) in node.directory.all() {
        let Some(sandbox) = &place.sandbox else { continue };
        let Ok((whole, parts)) = sandbox.usage().await else { continue };
        let containers: Vec<Value> = place
            .containers
            .iter()
            .filter_map(|known| {
                let (cpu, memory) = usage(parts.get(known.id.as_ref()?)?);
                Some(json!({"name": known.name, "startTime": now, "cpu": cpu, "memory": memory}))
            })
            .collect();
        let (cpu, memory) = usage(&whole);
        pods.push(json!({
            "podRef": {"name": name, "namespace": namespace, "uid": place.uid},
            "startTime": now,
            "containers": containers,
            "cpu": cpu,
            "memory": memory,
            "process_stats": {"process_count": whole.pids},
        }));
    }
    let (cpu_ns, available) = machine_usage();
    let working_set = node.capacity.memory_bytes.saturating_sub(available);
    json_response(&json!({
        "node": {
            "nodeName": node.config.node_name,
            "startTime": now,
            "cpu": {"time": now, "usageCoreNanoSeconds": cpu_ns},
            "memory": {
                "time": now,
                "availableBytes": available,
                "usageBytes": working_set,
                "workingSetBytes": working_set,
            },
        },
        "pods": pods,
    }))
}

/// CPU time of the machine in nanoseconds, and its available memory in bytes.
fn machine_usage() -> (u64, u64) {
    const TICK_NS: u64 = 10_000_000;
    let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let fields = stat.lines().next().unwrap_or_default().split_whitespace().skip(1);
    let fields: Vec<u64> = fields.filter_map(|field| field.parse().ok()).collect();
    // user nice system idle iowait irq softirq steal
    let busy = fields.iter().enumerate().filter(|(index, _)| !matches!(index, 3 | 4));
    let busy: u64 = busy.take(6).map(|(_, ticks)| *ticks).sum();
    let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let available = memory.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib = available.and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<u64>().ok());
    (busy * TICK_NS, kib.unwrap_or(0) * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_come_as_repeated_parameters() {
        let query = "command=sh&command=-c&command=echo%20%22a%22+b&tty=true";
        let args: Vec<String> = parameters(query, "command").collect();
        assert_eq!(args, ["sh", "-c", "echo \"a\" b"]);
    }
}
