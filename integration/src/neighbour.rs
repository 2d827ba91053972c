//! A client that is served beside a hostile tenant: how long its GETs take, for `make bench`.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Method;
use nix::sched::{CloneFlags, setns};

use crate::Node;
use crate::client::{Connection, Endpoint};

/// The variable that names the file to which neighbours append their times.
pub const COLLECTED_IN: &str = "CORACLE_NEIGHBOUR";
/// The variable with the niceness of the tenant's clients: they would run on machines of their own.
pub const CLIENT_NICENESS: &str = "CORACLE_CLIENT_NICENESS";
/// From the start of one request to that of the next.
const PERIOD: Duration = Duration::from_millis(5);
/// Duration of the first measurement, of the idle node.
const IDLE: Duration = Duration::from_secs(5);
/// The object that is read: one that every cluster has.
const PATH: &str = "/api/v1/namespaces/kube-system/configmaps/kube-root-ca.crt";

/// A client on a thread of its own that asks one request after the other.
pub struct Neighbour {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Vec<Duration>>>,
    file: PathBuf,
}

impl Neighbour {
    /// Measures the idle node, and goes on in the background. `None` unless `CORACLE_NEIGHBOUR` names a
    /// file: tests do not measure.
    pub fn of(node: &Node) -> Option<Self> {
        let file = PathBuf::from(std::env::var_os(COLLECTED_IN)?);
        let idle = Self::start(node, &file);
        std::thread::sleep(IDLE);
        idle.collect("idle");
        Some(Self::start(node, &file))
    }

    fn start(node: &Node, file: &Path) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let endpoint = Endpoint::read(&node.kubeconfig()).expect("the node has a kubeconfig");
        let namespace = File::open(node.ns.path()).expect("the node has a network namespace");
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            setns(&namespace, CloneFlags::CLONE_NEWNET).expect("a namespace of this machine");
            run_beside_the_node();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(ask(&endpoint, &stopped))
        });
        Self { stop, thread: Some(thread), file: file.to_owned() }
    }

    /// Ends the client and appends a line `LABEL MILLISECONDS` for each request to the file.
    fn collect(mut self, label: &str) {
        self.append(label);
    }

    fn append(&mut self, label: &str) {
        self.stop.store(true, Ordering::Relaxed);
        let Some(thread) = self.thread.take() else { return };
        let Ok(times) = thread.join() else {
            assert!(std::thread::panicking(), "the neighbour was not served");
            return;
        };
        let lines: String = times
            .iter()
            .map(|time| format!("{label} {:.4}\n", time.as_secs_f64() * 1000.0))
            .collect();
        let file = OpenOptions::new().create(true).append(true).open(&self.file);
        file.and_then(|mut file| file.write_all(lines.as_bytes()))
            .expect("the file can be written");
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        self.append("attacked");
    }
}

/// Gives the calling thread the processor whenever it wants it: the client stands for one on a
/// machine of its own, and does next to nothing.
fn run_beside_the_node() {
    let thread = nix::unistd::gettid().to_string();
    let renice = Command::new("renice").args(["-n", "-20", "-p", &thread]).output();
    assert!(renice.is_ok_and(|output| output.status.success()), "renice");
}

/// Connects as soon as the node is there, or gives up on `stop`.
async fn reconnect(endpoint: &Endpoint, stop: &AtomicBool) -> Option<Connection> {
    while !stop.load(Ordering::Relaxed) {
        match endpoint.try_connect().await {
            Some(connection) => return Some(connection),
            None => tokio::time::sleep(PERIOD).await,
        }
    }
    None
}

/// Asks until `stop`. A request that is late because of the one before counts from when it was due.
async fn ask(endpoint: &Endpoint, stop: &AtomicBool) -> Vec<Duration> {
    let mut connection = endpoint.connect().await;
    let mut times = Vec::new();
    let mut due = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        let now = Instant::now();
        let start = if now > due + PERIOD { due } else { now };
        match connection.try_raw(Method::GET, PATH, Bytes::new()).await {
            Some((status, _)) => assert!(status.is_success(), "a neighbour's GET: {status}"),
            // A scenario restarts the node: the tenant does not cause the time until it is ready.
            None => {
                let Some(again) = reconnect(endpoint, stop).await else { break };
                connection = again;
                due = Instant::now();
                continue;
            }
        }
        times.push(start.elapsed());
        due = start + PERIOD;
        // The timer of the runtime counts in milliseconds.
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
    }
    times
}
