//! A node whose data directory is recorded.

use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use coracle_integration::{Node, NodeOptions, within};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::WaitStatus;

use crate::faults::Plan;
use crate::ledger::Ledger;
use crate::recording::{Log, Recorded};
use crate::tracer::{Purpose, Traced, spawn};
use crate::workload::Load;

/// Longest time that a start may take.
const START: Duration = Duration::from_secs(60);

/// A node that runs under the tracer, or is stopped.
pub struct RecordedNode {
    node: Node,
    pub plan: Arc<Plan>,
    pub log: Arc<Log>,
    pub ledger: Arc<Ledger>,
    traced: Option<Traced>,
    notify: UnixDatagram,
    seed: u64,
}

impl RecordedNode {
    /// A node that has never run.
    pub fn prepare(seed: u64) -> Self {
        let node = Node::prepare(NodeOptions { without_images: true, ..NodeOptions::default() });
        let notify = UnixDatagram::bind(node.path("notify")).unwrap();
        notify.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        Self {
            node,
            plan: Arc::default(),
            log: Arc::default(),
            ledger: Arc::default(),
            traced: None,
            notify,
            seed,
        }
    }

    pub fn data(&self) -> PathBuf {
        self.node.data()
    }

    /// The directory that holds the recorded one.
    pub fn root(&self) -> PathBuf {
        self.node.dir.path().to_owned()
    }

    /// Starts the node and waits until it is ready. If it ends instead, returns how, and the last
    /// lines that it printed.
    pub fn start(&mut self, phase: &str) -> Result<(), String> {
        self.log.phase(phase);
        let purpose = Purpose {
            directory: self.node.data(),
            log: self.log.clone(),
            plan: self.plan.clone(),
            seed: self.seed,
        };
        let command = self.node.up_command(&self.node.path("notify"));
        let traced = self.traced.insert(spawn(&command, purpose));
        let begin = Instant::now();
        let mut message = [0; 256];
        while begin.elapsed() < START {
            if let Ok(length) = self.notify.recv(&mut message)
                && message[..length].starts_with(b"READY=1")
            {
                return Ok(());
            }
            if let Some(status) = traced.try_wait() {
                self.traced = None;
                return Err(format!("{status:?}: {}", tail(&self.node.log())));
            }
        }
        panic!("the node does not become ready:\n{}", self.node.log());
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        if let Some(traced) = self.traced.take() {
            self.log.phase("killed");
            traced.kill();
        }
    }

    /// Returns a function that kills the node from another thread.
    pub fn killer(&self) -> impl FnOnce() + Send + use<> {
        let pid = self.traced.as_ref().map(|traced| traced.pid);
        move || {
            if let Some(pid) = pid {
                let _ = kill(pid, Signal::SIGKILL);
            }
        }
    }

    /// SIGTERM, and the wait for the end.
    pub fn stop(&mut self) {
        let Some(traced) = self.traced.take() else { return };
        self.log.phase("stop");
        let _ = kill(traced.pid, Signal::SIGTERM);
        let mut end = None;
        within(30, "the node ends on SIGTERM", || {
            end = end.or_else(|| traced.try_wait());
            end.is_some()
        });
        if let Some(WaitStatus::Signaled(_, signal, _)) = end
            && signal != Signal::SIGKILL
        {
            panic!("the node ended by {signal}:\n{}", self.node.log());
        }
        while let Ok(length) = self.notify.recv(&mut [0; 256]) {
            assert!(length > 0);
        }
    }

    pub fn load(&self) -> Load<'_> {
        Load {
            kubeconfig: self.node.kubeconfig(),
            log: &self.log,
            ledger: &self.ledger,
            netns: &self.node.ns,
        }
    }

    /// Stops recording.
    pub fn take(&self) -> Recorded {
        self.log.take()
    }
}

/// The last lines of a text.
fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().rev().take(4).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join(" | ")
}

impl Drop for RecordedNode {
    fn drop(&mut self) {
        self.kill();
    }
}
