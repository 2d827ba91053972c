//! What the agent has observed of a sandbox, from records and events.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::Path;
use std::time::SystemTime;

use tokio::sync::{mpsc, oneshot};

use crate::protocol::{Event, Running, StartedRecord};
use crate::records::{self, Durability};
use crate::sandbox::{ContainerStatus, Exit, SandboxEvent};

/// Events a subscriber may leave unread; beyond that it must ask for the status.
const MAX_UNREAD_EVENTS: usize = 256;

/// The exit code of a container whose end nobody saw; containerd uses the same.
const UNKNOWN_EXIT_CODE: i32 = 255;

#[derive(Default)]
pub(super) struct Observed {
    containers: BTreeMap<String, Known>,
    subscribers: Vec<mpsc::Sender<SandboxEvent>>,
    execs: HashMap<u64, oneshot::Sender<Exit>>,
    attached: HashMap<String, Vec<oneshot::Sender<Exit>>>,
    next_exec: u64,
    lost: bool,
    /// Set when the end of the shim is what we want.
    pub removing: bool,
}

#[derive(Default)]
struct Known {
    labels: BTreeMap<String, String>,
    pid: Option<u32>,
    started_at: Option<SystemTime>,
    exit: Option<Exit>,
}

#[derive(serde::Deserialize)]
struct Labels {
    labels: BTreeMap<String, String>,
}

impl Observed {
    /// Reads the records of a sandbox.
    pub fn load(state: &Path) -> Self {
        let mut observed = Self::default();
        let Ok(entries) = fs::read_dir(state) else { return observed };
        for entry in entries.flatten() {
            let directory = entry.path();
            let Ok(Some(record)) = records::read::<Labels>(&directory.join(records::CONTAINER))
            else {
                continue;
            };
            let Ok(id) = entry.file_name().into_string() else { continue };
            let started: Option<StartedRecord> =
                records::read(&directory.join(records::STARTED)).ok().flatten();
            let known = Known {
                labels: record.labels,
                pid: started.as_ref().map(|s| s.pid),
                started_at: started.map(|s| s.started_at),
                exit: records::read(&directory.join(records::EXIT)).ok().flatten(),
            };
            observed.containers.insert(id, known);
        }
        observed
    }

    pub fn created(&mut self, id: String, labels: BTreeMap<String, String>) {
        self.containers.insert(id, Known { labels, ..Known::default() });
    }

    pub fn started(&mut self, id: &str, pid: u32) {
        if let Some(known) = self.containers.get_mut(id) {
            known.pid = Some(pid);
            known.started_at = Some(SystemTime::now());
        }
    }

    pub fn removed(&mut self, id: &str) {
        self.containers.remove(id);
    }

    pub fn ids(&self) -> Vec<String> {
        self.containers.keys().cloned().collect()
    }

    /// Takes over the shim's list, which precedes the records, and reports the ends that are new.
    pub fn reconcile(&mut self, list: Vec<Running>) {
        for running in list {
            let known = self.containers.entry(running.container.clone()).or_default();
            known.pid = Some(running.pid);
            let unheard = known.exit.is_none();
            known.exit = running.exit.clone().or(known.exit.take());
            if let Some(exit) = running.exit.filter(|_| unheard) {
                self.exited(&running.container, exit);
            }
        }
    }

    /// Forgets the processes that were executed through a connection that is lost: their ends are
    /// not reported.
    pub fn forget_execs(&mut self) {
        self.execs.clear();
    }

    pub fn event(&mut self, event: Event) {
        match event {
            Event::Exited { container, exit } => self.exited(&container, exit),
            Event::ExecExited { exec, exit } => {
                if let Some(sender) = self.execs.remove(&exec) {
                    let _ = sender.send(exit);
                }
            }
        }
    }

    fn exited(&mut self, container: &str, exit: Exit) {
        if let Some(known) = self.containers.get_mut(container) {
            known.exit = Some(exit.clone());
        }
        for sender in self.attached.remove(container).into_iter().flatten() {
            let _ = sender.send(exit.clone());
        }
        self.tell(&SandboxEvent::Exited { container: container.to_owned(), exit });
    }

    /// The shim is gone: whatever ran has ended in a way nobody saw.
    pub fn lose(&mut self, state: &Path) {
        self.lost = true;
        let running: Vec<String> = self
            .containers
            .iter()
            .filter(|(_, known)| known.pid.is_some() && known.exit.is_none())
            .map(|(id, _)| id.clone())
            .collect();
        for id in running {
            let path = state.join(&id).join(records::EXIT);
            // The shim may have recorded the true end and died before it told.
            let exit = records::read(&path).ok().flatten().unwrap_or_else(|| {
                let exit = Exit {
                    code: UNKNOWN_EXIT_CODE,
                    signal: None,
                    oom_killed: false,
                    finished_at: SystemTime::now(),
                };
                if let Err(error) = records::write(&path, &exit, Durability::Synced) {
                    tracing::warn!(?path, %error, "cannot record the end of a container");
                }
                exit
            });
            self.exited(&id, exit);
        }
        self.execs.clear();
        self.tell(&SandboxEvent::ShimLost);
    }

    fn tell(&mut self, event: &SandboxEvent) {
        self.subscribers.retain(|subscriber| {
            !matches!(subscriber.try_send(event.clone()), Err(mpsc::error::TrySendError::Closed(_)))
        });
    }

    pub fn subscribe(&mut self) -> mpsc::Receiver<SandboxEvent> {
        let (sender, receiver) = mpsc::channel(MAX_UNREAD_EVENTS);
        if self.lost {
            let _ = sender.try_send(SandboxEvent::ShimLost);
        }
        self.subscribers.push(sender);
        receiver
    }

    /// Registers an additional process: its name and what resolves at its end.
    pub fn expect_exec(&mut self) -> (u64, oneshot::Receiver<Exit>) {
        let (sender, receiver) = oneshot::channel();
        self.next_exec += 1;
        self.execs.insert(self.next_exec, sender);
        (self.next_exec, receiver)
    }

    /// Resolves at the end of a container, at once when it has ended.
    pub fn expect_exit(&mut self, container: &str) -> oneshot::Receiver<Exit> {
        let (sender, receiver) = oneshot::channel();
        match self.containers.get(container).and_then(|known| known.exit.clone()) {
            Some(exit) => drop(sender.send(exit)),
            None => {
                let waiting = self.attached.entry(container.to_owned()).or_default();
                waiting.retain(|sender| !sender.is_closed());
                waiting.push(sender);
            }
        }
        receiver
    }

    pub fn status(&self) -> Vec<ContainerStatus> {
        self.containers
            .iter()
            .map(|(id, known)| ContainerStatus {
                id: id.clone(),
                labels: known.labels.clone(),
                pid: known.pid,
                started_at: known.started_at,
                exit: known.exit.clone(),
            })
            .collect()
    }
}
