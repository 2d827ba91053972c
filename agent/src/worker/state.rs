//! What the worker knows of its pod: the observed state that plans are made from.

use std::net::IpAddr;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod};
use tokio::time::Instant;

use super::crash::CrashBackOff;

/// Which list of the pod spec a container comes from, and what that means for its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Runs to completion before the next one starts.
    Init,
    /// An init container with `restartPolicy: Always`: stays until the main containers end.
    Sidecar,
    /// What the pod is for.
    Main,
    /// Added to a running pod for debugging; never restarted.
    Ephemeral,
}

/// The sandbox of the pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Setup {
    /// Nothing is made; it may be tried from that moment on (at once when `None`).
    Absent {
        /// After a failure: not before.
        retry_at: Option<Instant>,
    },
    /// Waits for an object that a volume needs; leaves when a referenced object changes.
    Blocked,
    /// Network, volumes and sandbox are being made; leaves with the outcome.
    Preparing,
    /// Containers can be started.
    Ready,
    /// The shim is gone or the sandbox has to be made again; leaves when removal is done.
    Replacing,
    /// The pod has ended and its resources are being released.
    Removing,
    /// Everything is released.
    Removed,
}

/// A container process that runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Live {
    /// Identifier of the container.
    pub id: String,
    /// When its process was started.
    pub started_at: Timestamp,
}

/// A container process that has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finished {
    /// Identifier of the container; empty when none was made.
    pub id: String,
    /// Exit code, 128 + signal when killed.
    pub exit_code: i32,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// `Completed`, `Error`, `OOMKilled`, `StartError`, …
    pub reason: String,
    /// The termination message.
    pub message: Option<String>,
    /// When its process was started.
    pub started_at: Option<Timestamp>,
    /// When its process ended.
    pub finished_at: Option<Timestamp>,
    /// The same, on the clock of deadlines.
    pub at: Instant,
}

/// The current attempt of one container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Run {
    /// Never started; its turn has not come or something holds it.
    Waiting,
    /// A start is under way; carries how the attempt before ended.
    Starting(Option<Finished>),
    /// Its process runs.
    Running(Live),
    /// It was asked to end.
    Stopping {
        /// The process.
        live: Live,
        /// `SIGTERM` was sent: `preStop` is over.
        term_sent: bool,
        /// When patience ends.
        kill_at: Instant,
        /// `SIGKILL` was sent.
        killed: bool,
        /// Seconds of grace that it was given, to tell whether a later request is shorter.
        grace: Duration,
    },
    /// Its process has ended.
    Exited(Finished),
}

/// Why a container cannot be started for now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hold {
    /// Reason of the waiting state.
    pub reason: &'static str,
    /// Message of the waiting state.
    pub message: String,
    /// Try again then; `None` waits for a change of a referenced object.
    pub retry_at: Option<Instant>,
    /// For a failed pull: when `ErrImagePull` turns into `ImagePullBackOff`.
    pub soften_at: Option<Instant>,
}

/// The image of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Picture {
    /// Not looked for.
    Unknown,
    /// Being looked for or pulled; leaves with the outcome.
    Ensuring,
    /// Here.
    Present(ImageFacts),
}

/// What status says of an image.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct ImageFacts {
    /// The full reference, shown as `image`.
    pub name: String,
    /// Shown as `imageID`.
    pub id: String,
}

/// One container of the pod.
#[derive(Clone, Debug)]
pub struct Record {
    /// Its name in the pod.
    pub name: String,
    /// What its life is like.
    pub role: Role,
    /// Its image for the next start.
    pub picture: Picture,
    /// Image of the latest attempt, kept while the next one is looked for.
    pub shown_image: Option<ImageFacts>,
    /// The current attempt.
    pub run: Run,
    /// Number of the latest attempt that was made; `restartCount`.
    pub attempt: u32,
    /// Whether any attempt was made.
    pub attempted: bool,
    /// How the attempt before the current one ended.
    pub last: Option<Finished>,
    /// `postStart` runs: until it is over the container does not count as running, and those after
    /// it wait.
    pub hooking: bool,
    /// Whether the startup probe is content.
    pub started: bool,
    /// Whether the readiness probe is content.
    pub ready: bool,
    /// Delay before the next start.
    pub crash: CrashBackOff,
    /// The `BackOff` event of this wait is out.
    pub crash_announced: bool,
    /// What prevents a start.
    pub hold: Option<Hold>,
    /// Consecutive failed pulls or creations.
    pub failures: u32,
}

impl Record {
    /// A container that was never started.
    pub fn new(name: &str, role: Role) -> Self {
        Self {
            name: name.to_owned(),
            role,
            picture: Picture::Unknown,
            shown_image: None,
            run: Run::Waiting,
            attempt: 0,
            attempted: false,
            last: None,
            hooking: false,
            started: false,
            ready: false,
            crash: CrashBackOff::default(),
            crash_announced: false,
            hold: None,
            failures: 0,
        }
    }

    /// The process, whether or not it was asked to end.
    pub fn live(&self) -> Option<&Live> {
        match &self.run {
            Run::Running(live) | Run::Stopping { live, .. } => Some(live),
            _ => None,
        }
    }

    /// Whether a process runs or is about to.
    pub fn is_active(&self) -> bool {
        matches!(self.run, Run::Starting(_) | Run::Running(_) | Run::Stopping { .. })
    }

    /// How the current attempt ended.
    pub fn finished(&self) -> Option<&Finished> {
        match &self.run {
            Run::Exited(finished) => Some(finished),
            _ => None,
        }
    }

    /// The number the next attempt will have.
    pub fn next_attempt(&self) -> u32 {
        if self.attempted { self.attempt + 1 } else { 0 }
    }
}

/// Why all containers have to end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Termination {
    /// When it was noticed.
    pub begun: Instant,
    /// How long the containers have.
    pub grace: Duration,
    /// The object is to be removed afterwards; otherwise the pod stays as failed.
    pub delete: bool,
}

/// A verdict on the whole pod that the agent itself made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// `DeadlineExceeded`, `Evicted`, …
    pub reason: String,
    /// For people.
    pub message: String,
}

/// Everything observed about one pod.
#[derive(Clone, Debug)]
pub struct PodState {
    /// The sandbox.
    pub setup: Setup,
    /// Failed attempts to make it, for the back-off.
    pub setup_failures: u32,
    /// Addresses, once known.
    pub addresses: Vec<IpAddr>,
    /// Init containers and sidecars, main containers, ephemeral ones, in this order.
    pub containers: Vec<Record>,
    /// Set once the pod must end.
    pub termination: Option<Termination>,
    /// Set when the agent failed the pod.
    pub failure: Option<Failure>,
    /// The node did not take the pod in: nothing of it was ever made here.
    pub rejected: bool,
    /// Whether the initialisation was complete once in this sandbox.
    pub initialized: bool,
    /// When the agent first saw the pod.
    pub start_time: Timestamp,
    /// `activeDeadlineSeconds` runs from here.
    pub started_clock: Instant,
    /// The object is gone from the API.
    pub vanished: bool,
    /// The API server knows that the pod is over: it will not be run again, whatever happens.
    pub outcome_known: bool,
    /// The final status is known to the API server.
    pub final_status_written: bool,
    /// The delete request is out.
    pub deleting: bool,
}

impl PodState {
    /// State of a pod of which nothing has been made.
    pub fn new(pod: &Pod, now: Instant, wall: Timestamp) -> Self {
        let start_time = pod.status.as_ref().and_then(|status| status.start_time.as_ref());
        let start_time = start_time.map_or(wall, |time| time.0);
        let age = wall.duration_since(start_time);
        let age = Duration::try_from(age).unwrap_or_default();
        let mut state = Self {
            setup: Setup::Absent { retry_at: None },
            setup_failures: 0,
            addresses: Vec::new(),
            containers: Vec::new(),
            termination: None,
            failure: None,
            rejected: false,
            initialized: false,
            start_time,
            started_clock: now.checked_sub(age).unwrap_or(now),
            vanished: false,
            outcome_known: false,
            final_status_written: false,
            deleting: false,
        };
        state.follow_spec(pod);
        state
    }

    /// Adds records for containers that the spec has gained (ephemeral ones can be added later).
    pub fn follow_spec(&mut self, pod: &Pod) {
        for (role, container) in containers(pod) {
            if !self.containers.iter().any(|record| record.name == container.name) {
                self.containers.push(Record::new(&container.name, role));
            }
        }
    }

    /// The record of a container by its name.
    pub fn record(&self, name: &str) -> Option<&Record> {
        self.containers.iter().find(|record| record.name == name)
    }

    /// Position of the container with that identifier.
    pub fn position_of(&self, id: &str) -> Option<usize> {
        self.containers.iter().position(|record| record.live().is_some_and(|live| live.id == id))
    }
}

/// All containers of a pod in the order they are recorded: init, main, ephemeral.
pub fn containers(pod: &Pod) -> Vec<(Role, Container)> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    let mut all = Vec::new();
    for container in spec.init_containers.iter().flatten() {
        let sidecar = container.restart_policy.as_deref() == Some("Always");
        all.push((if sidecar { Role::Sidecar } else { Role::Init }, container.clone()));
    }
    all.extend(spec.containers.iter().map(|container| (Role::Main, container.clone())));
    for container in spec.ephemeral_containers.iter().flatten() {
        all.push((Role::Ephemeral, plain(container)));
    }
    all
}

/// One container of a pod by its name.
pub fn container(pod: &Pod, name: &str) -> Option<Container> {
    let spec = pod.spec.as_ref()?;
    spec.init_containers
        .iter()
        .flatten()
        .chain(&spec.containers)
        .find(|container| container.name == name)
        .cloned()
        .or_else(|| {
            spec.ephemeral_containers
                .iter()
                .flatten()
                .find(|container| container.name == name)
                .map(plain)
        })
}

fn plain(container: &k8s_openapi::api::core::v1::EphemeralContainer) -> Container {
    let container = container.clone();
    Container {
        args: container.args,
        command: container.command,
        env: container.env,
        env_from: container.env_from,
        image: container.image,
        image_pull_policy: container.image_pull_policy,
        name: container.name,
        resources: container.resources,
        security_context: container.security_context,
        stdin: container.stdin,
        stdin_once: container.stdin_once,
        termination_message_path: container.termination_message_path,
        termination_message_policy: container.termination_message_policy,
        tty: container.tty,
        volume_mounts: container.volume_mounts,
        working_dir: container.working_dir,
        ..Container::default()
    }
}
