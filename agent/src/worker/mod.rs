//! One pod, one task: observe, plan, act, wait for the next thing to happen.

pub mod adopt;
mod binds;
pub mod crash;
#[cfg(test)]
pub(crate) mod fake_api;
#[cfg(test)]
pub(crate) mod fake_node;
#[cfg(test)]
pub(crate) mod fakes;
mod host_ports;
pub mod perform;
pub mod plan;
pub mod prepare;
pub mod start;
pub mod state;
pub mod status;
pub mod stop;
mod termination_message;
pub mod traffic;
#[cfg(test)]
mod worker_tests;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use netproxy::HostPortConflict;
use runtime::sandbox::{Exit, SandboxEvent};
use serde_json::Value;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep_until};

use crate::blocking::{self, Deadline};
use crate::directory::{self, Where};
use crate::machine::{Link, PodSandbox};
use crate::node::Node;
use crate::objects::{Key, Subscription};
use crate::probe::Purpose;
use crate::start_up::Step;
use crate::volume::prepare::Ready;
use crate::volume::references::references;
use crate::volume::token::Token;
use plan::{Action, plan, spec_grace};
use state::{Failure, Finished, Picture, PodState, Run, Setup, Termination};

/// What the pod source says of a pod.
#[derive(Clone)]
pub struct News {
    /// The latest object.
    pub pod: Arc<Pod>,
    /// It is gone from the API.
    pub vanished: bool,
}

/// Things that happened beside the worker.
pub enum Note {
    /// A task that the worker started is done.
    Done(Box<perform::Outcome>),
    /// The sandbox reports.
    Sandbox(SandboxEvent),
    /// A probe changed its mind.
    Probe(crate::probe::Verdict),
    /// The node cannot keep the pod.
    Evict(Failure),
}

/// How long the containers of an evicted pod have to end.
const EVICTION_GRACE: Duration = Duration::from_secs(1);

/// The task of one pod.
pub struct Worker {
    node: Arc<Node>,
    uid: String,
    pod: Arc<Pod>,
    news: watch::Receiver<News>,
    state: PodState,
    sandbox: Option<Arc<dyn PodSandbox>>,
    link: Option<Link>,
    volumes: BTreeMap<String, Ready>,
    tokens: BTreeMap<(String, usize), Token>,
    objects: BTreeMap<Key, Subscription>,
    objects_changed: Arc<Notify>,
    /// Counts changes of referenced objects.
    objects_generation: u64,
    images: HashMap<String, runtime::image::Image>,
    probes: HashMap<String, Vec<(Purpose, AbortHandle)>>,
    stopping_for: HashMap<String, Duration>,
    tasks: JoinSet<()>,
    notes: mpsc::UnboundedReceiver<Note>,
    note: mpsc::UnboundedSender<Note>,
    status_known: Value,
    status_busy: bool,
    status_retry_at: Option<Instant>,
    /// Times in a row that the API server did not take a status.
    status_refusals: u32,
    refreshing: bool,
    refresh_wanted: bool,
    adopted: Option<Arc<dyn PodSandbox>>,
    refusal: Option<Failure>,
    /// Containers that have ended and whose termination messages are not read yet.
    unread: Vec<String>,
    conflicts: watch::Receiver<Vec<HostPortConflict>>,
    /// Those of this pod that an event has reported.
    conflicts_told: Vec<HostPortConflict>,
}

impl Worker {
    /// A worker for a pod; with the sandbox that an earlier process left running, if any, and with
    /// the reason where the node does not take the pod in.
    pub fn new(
        node: Arc<Node>,
        news: watch::Receiver<News>,
        adopted: Option<Arc<dyn PodSandbox>>,
        refusal: Option<Failure>,
    ) -> Self {
        let pod = news.borrow().pod.clone();
        let (note, notes) = mpsc::unbounded_channel();
        let now = Instant::now();
        let status_known = status_value(&pod);
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let mut conflicts = node.machine.network.host_port_conflicts();
        // What was known before is news to this worker.
        conflicts.mark_changed();
        if adopted.is_none() {
            node.start_ups.note(&uid, Step::Seen, Timestamp::now());
        }
        Self {
            uid,
            state: PodState::new(&pod, now, Timestamp::now()),
            node,
            pod,
            news,
            sandbox: None,
            link: None,
            volumes: BTreeMap::new(),
            tokens: BTreeMap::new(),
            objects: BTreeMap::new(),
            objects_changed: Arc::new(Notify::new()),
            objects_generation: 0,
            images: HashMap::new(),
            probes: HashMap::new(),
            stopping_for: HashMap::new(),
            tasks: JoinSet::new(),
            notes,
            note,
            status_known,
            status_busy: false,
            status_retry_at: None,
            status_refusals: 0,
            refreshing: false,
            refresh_wanted: false,
            adopted,
            refusal,
            unread: Vec::new(),
            conflicts,
            conflicts_told: Vec::new(),
        }
    }

    /// Lives as long as the pod has anything on this node.
    pub async fn run(mut self) {
        // Boxed, since the worker lives as long as its pod and this does not.
        Box::pin(self.begin()).await;
        if let Some(refusal) = self.refusal.take() {
            self.reject(refusal);
        }
        loop {
            // Before the end of a container is shown and its files are changed.
            self.read_termination_messages().await;
            self.follow_termination();
            let phase = self.status_known["phase"].as_str();
            self.state.outcome_known = matches!(phase, Some("Succeeded" | "Failed"));
            let mut deadline = None;
            // Acting changes the state, which may allow the next action at once.
            for _ in 0..64 {
                let now = Instant::now();
                let plan = plan(&self.pod, &self.state, now);
                deadline = plan.deadline;
                if plan.actions.is_empty() {
                    break;
                }
                if plan.actions.contains(&Action::Finish) {
                    self.close().await;
                    return;
                }
                for action in plan.actions {
                    self.perform(action);
                }
            }
            self.register();
            self.write_status();
            let token_deadline = self.tokens.values().map(|token| token.refresh_at).min();
            let token_deadline = token_deadline.filter(|_| self.state.setup == Setup::Ready);
            let next = [deadline, token_deadline, self.status_retry_at, self.crash_end()];
            let next = next.into_iter().flatten().min();
            tokio::select! {
                changed = self.news.changed() => {
                    if changed.is_err() {
                        // The agent is going down; pods stay as they are.
                        return;
                    }
                    self.follow_news();
                }
                Some(note) = self.notes.recv() => {
                    self.take(note);
                    while let Ok(note) = self.notes.try_recv() {
                        self.take(note);
                    }
                }
                () = self.objects_changed.notified() => self.follow_objects(),
                Ok(()) = self.conflicts.changed() => self.follow_host_ports(),
                Some(done) = self.tasks.join_next(), if !self.tasks.is_empty() => {
                    // A worker would wait for the outcome of a task that panicked for ever: it shares
                    // the panic, and a new worker takes over.
                    if let Err(error) = done
                        && let Ok(panic) = error.try_into_panic()
                    {
                        std::panic::resume_unwind(panic);
                    }
                }
                () = async {
                    match next {
                        Some(at) => sleep_until(at).await,
                        None => std::future::pending().await,
                    }
                } => {
                    let now = Instant::now();
                    if token_deadline.is_some_and(|at| at <= now) {
                        self.refresh_volumes();
                    }
                    if self.status_retry_at.is_some_and(|at| at <= now) {
                        self.status_retry_at = None;
                    }
                }
            }
        }
    }

    fn subscribe(&mut self) {
        let wanted = references(&self.pod);
        self.objects.retain(|key, _| wanted.contains(key));
        for key in wanted {
            if !self.objects.contains_key(&key) {
                let subscription = self.node.objects.subscribe(&key, &self.objects_changed);
                self.objects.insert(key, subscription);
            }
        }
    }

    fn follow_news(&mut self) {
        let news = self.news.borrow_and_update().clone();
        self.state.vanished |= news.vanished;
        let version = |pod: &Pod| -> u64 {
            let version = pod.metadata.resource_version.as_deref().unwrap_or_default();
            version.parse().unwrap_or(0)
        };
        let fresh = version(&news.pod) >= version(&self.pod);
        if fresh {
            let relabelled = news.pod.metadata.labels != self.pod.metadata.labels
                || news.pod.metadata.annotations != self.pod.metadata.annotations;
            self.pod = news.pod;
            if !self.status_busy {
                self.status_known = status_value(&self.pod);
            }
            self.state.follow_spec(&self.pod);
            if self.state.termination.is_none() && !self.is_over() {
                self.subscribe();
            }
            if relabelled {
                self.refresh_volumes();
            }
        }
    }

    fn follow_objects(&mut self) {
        self.objects_generation += 1;
        if self.state.setup == Setup::Blocked {
            self.state.setup = Setup::Absent { retry_at: None };
        }
        for record in &mut self.state.containers {
            if record.hold.as_ref().is_some_and(|hold| hold.reason == "CreateContainerConfigError")
            {
                record.hold = None;
            }
        }
        self.refresh_volumes();
    }

    /// Notices that the pod has to end, or has to end sooner.
    fn follow_termination(&mut self) {
        let metadata = &self.pod.metadata;
        let deleted = metadata.deletion_timestamp.is_some();
        if !deleted && !self.state.vanished {
            return;
        }
        let seconds = metadata.deletion_grace_period_seconds.filter(|seconds| *seconds >= 0);
        // Gone from the API means killed now; one second lets a process say goodbye.
        let grace = match (seconds, self.state.vanished) {
            (Some(seconds), false) => plan::bounded(seconds),
            (Some(_), true) => Duration::from_secs(1),
            (None, _) => spec_grace(&self.pod),
        };
        let now = Instant::now();
        match &mut self.state.termination {
            Some(termination) => {
                termination.delete = true;
                let left = termination.grace.saturating_sub(now - termination.begun);
                if grace < left {
                    *termination = Termination { begun: now, grace, delete: true };
                }
            }
            None => {
                self.state.termination = Some(Termination { begun: now, grace, delete: true });
                self.stop_restarting_probes();
            }
        }
    }

    /// The moment at which a shown `CrashLoopBackOff` turns into a start.
    fn crash_end(&self) -> Option<Instant> {
        None
    }

    fn is_over(&self) -> bool {
        matches!(self.state.setup, Setup::Removing | Setup::Removed)
    }

    fn take(&mut self, note: Note) {
        match note {
            Note::Done(outcome) => self.conclude(*outcome),
            Note::Sandbox(SandboxEvent::Exited { container, exit }) => {
                self.exited(&container, &exit);
            }
            Note::Sandbox(SandboxEvent::ShimLost) => self.shim_lost(),
            Note::Probe(verdict) => self.judge(verdict),
            Note::Evict(failure) => {
                if self.state.termination.is_none() && !self.is_over() {
                    self.fail(failure, EVICTION_GRACE);
                }
            }
        }
    }

    /// A process has ended.
    pub(crate) fn exited(&mut self, id: &str, exit: &Exit) {
        let Some(index) = self.state.position_of(id) else { return };
        let Some(live) = self.state.containers[index].live().cloned() else { return };
        let name = self.state.containers[index].name.clone();
        for (_, handle) in self.probes.remove(&name).unwrap_or_default() {
            handle.abort();
        }
        self.stopping_for.remove(&name);
        let at = Instant::now();
        self.unread.push(live.id.clone());
        let finished = Finished {
            id: live.id,
            exit_code: exit.code,
            signal: exit.signal,
            reason: reason(exit).into(),
            message: None,
            started_at: Some(live.started_at),
            finished_at: Timestamp::try_from(exit.finished_at).ok(),
            at,
        };
        let record = &mut self.state.containers[index];
        record.run = Run::Exited(finished);
        record.hooking = false;
        record.started = false;
        record.ready = false;
        record.crash_announced = false;
        record.picture = state::Picture::Unknown;
        record.failures = 0;
    }

    fn shim_lost(&mut self) {
        let live: Vec<String> = self
            .state
            .containers
            .iter()
            .filter_map(|record| record.live().map(|live| live.id.clone()))
            .collect();
        for id in live {
            let exit = Exit {
                code: 137,
                signal: Some(9),
                oom_killed: false,
                finished_at: std::time::SystemTime::now(),
            };
            self.exited(&id, &exit);
        }
        if self.state.setup == Setup::Ready {
            self.node.recorder.pod(
                &self.pod,
                crate::events::Level::Normal,
                "SandboxChanged",
                "Pod sandbox changed, it will be killed and re-created.",
            );
            self.perform(Action::Replace);
        }
    }

    /// Tells the kubelet API where this pod's containers are.
    fn register(&self) {
        let containers = self.state.containers.iter().map(|record| {
            let attempt = record.attempted.then_some(record.attempt);
            (record.name.clone(), record.live().map(|live| live.id.clone()), attempt)
        });
        let metadata = &self.pod.metadata;
        let place = Where {
            uid: self.uid.clone(),
            logs: self.log_directory(),
            sandbox: self.sandbox.clone(),
            netns: self.link.as_ref().map(|link| link.netns.clone()),
            containers: containers
                .map(|(name, id, attempt)| directory::Place { name, id, attempt })
                .collect(),
            pod: self.pod.clone(),
            images: self.images_in_use(),
            ending: self.state.termination.is_some() || self.is_over(),
            note: self.note.clone(),
        };
        self.node.directory.put(
            metadata.namespace.as_deref().unwrap_or_default(),
            metadata.name.as_deref().unwrap_or_default(),
            place,
        );
    }

    /// Images that containers of this pod run from, or are about to.
    fn images_in_use(&self) -> Vec<String> {
        if self.is_over() {
            return Vec::new();
        }
        let records = self.state.containers.iter();
        let facts = records.flat_map(|record| {
            let next = match &record.picture {
                Picture::Present(facts) => Some(facts),
                Picture::Unknown | Picture::Ensuring => None,
            };
            record.shown_image.iter().chain(next)
        });
        facts.flat_map(|facts| [facts.name.clone(), facts.id.clone()]).collect()
    }

    fn log_directory(&self) -> std::path::PathBuf {
        let metadata = &self.pod.metadata;
        self.node.config.pod_logs(
            metadata.namespace.as_deref().unwrap_or_default(),
            metadata.name.as_deref().unwrap_or_default(),
            &self.uid,
        )
    }

    /// Removes the logs: nothing else of the pod is left.
    async fn close(&self) {
        let metadata = &self.pod.metadata;
        self.node.directory.remove(
            metadata.namespace.as_deref().unwrap_or_default(),
            metadata.name.as_deref().unwrap_or_default(),
            &self.uid,
        );
        let (logs, live) = (self.log_directory(), self.log_links());
        let links = self.node.config.container_log_dir.clone();
        let pod = start::log_link_prefix(&self.pod);
        let remove = move || {
            if let Err(error) = runtime::tree::remove(&logs) {
                tracing::warn!(%error, path = %logs.display(), "cannot remove the logs of a pod");
            }
            start::remove_log_links(&links, &pod, &logs, &live);
        };
        let removed = blocking::run(&self.uid, "Removing a pod's logs", Deadline::Long, remove);
        if let Err(error) = removed.await {
            tracing::warn!(%error, pod = %self.uid, "cannot remove the logs of a pod");
        }
    }
}

/// Why a container ended, in the words of its status.
pub fn reason(exit: &Exit) -> &'static str {
    match (exit.oom_killed, exit.code) {
        (true, _) => "OOMKilled",
        (false, 0) => "Completed",
        (false, _) => "Error",
    }
}

fn status_value(pod: &Pod) -> Value {
    serde_json::to_value(pod.status.as_ref()).unwrap_or(Value::Null)
}
