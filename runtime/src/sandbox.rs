//! Sandboxes and the containers in them, as the agent sees them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::SystemTime;

use oci_spec::runtime::{LinuxResources, Spec};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;

/// Where the runtime keeps its state and how it starts shims.
#[derive(Clone, Debug)]
pub struct RuntimeConfig {
    /// Durable state: exit codes, container records, overlay upper directories.
    pub state_dir: PathBuf,
    /// State of this boot: sockets, namespace mounts.
    pub run_dir: PathBuf,
    /// The binary to re-execute as `coracle shim …`; normally `/proc/self/exe`.
    pub shim_binary: PathBuf,
    /// The control group of all shims: out of the agent's, so that they survive its end.
    pub shim_group: String,
    /// The control group above those of all sandboxes, which have names of `pod` and the sandbox's
    /// identifier there: sandboxes whose records are lost are found in it. Empty for none.
    pub sandbox_group: String,
}

/// The usual [`RuntimeConfig::shim_group`], below a root that is `/` or empty for the top.
pub fn shim_group(root: &str) -> String {
    below(root, "coracle/shims")
}

/// The control group of pulls, beside the shims'.
pub fn pull_group(root: &str) -> String {
    below(root, "coracle/pulls")
}

/// A control group below another, as one relative path.
pub fn below(root: &str, group: &str) -> String {
    match root.trim_matches('/') {
        "" => group.to_owned(),
        root => format!("{root}/{group}"),
    }
}

/// Which namespaces the containers of a sandbox share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum NamespaceMode {
    /// The machine's own.
    Host,
    /// One for the whole sandbox.
    Sandbox,
    /// One per container.
    Container,
}

/// What a sandbox is made of.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct SandboxSpec {
    /// Unique; for a pod its UID.
    pub id: String,
    /// The UTS host name; `None` shares the machine's UTS namespace.
    pub hostname: Option<String>,
    /// A pinned network namespace to join; `None` is the machine's own.
    pub netns: Option<PathBuf>,
    /// IPC namespace.
    pub ipc: NamespaceMode,
    /// PID namespace. `Sandbox` starts a tiny init that reaps.
    pub pid: NamespaceMode,
    /// The cgroup of all containers, relative to the hierarchy root
    /// (`kubepods/burstable/pod<uid>`).
    pub cgroup: String,
    /// Limits on that cgroup.
    pub resources: Option<LinuxResources>,
    /// Namespaced sysctls, set once.
    pub sysctls: BTreeMap<String, String>,
    /// Handed back unchanged by [`Runtime::adopt`].
    pub labels: BTreeMap<String, String>,
}

/// What a container is made of.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct ContainerSpec {
    /// Unique, 64 hexadecimal digits.
    pub id: String,
    /// Process, mounts, capabilities, seccomp, resources. `root.path` is ignored.
    #[serde(deserialize_with = "crate::document::deserialize")]
    pub spec: Spec,
    /// Unpacked image layers, base first; the runtime puts a writable overlay on top.
    pub layers: Vec<PathBuf>,
    /// CRI log file; its directory exists.
    pub log_path: PathBuf,
    /// Rotate the log beyond this size, in bytes.
    pub log_max_bytes: u64,
    /// Rotated logs to keep.
    pub log_max_files: u32,
    /// Keep standard input open.
    pub stdin: bool,
    /// Close standard input after the first attach ends.
    pub stdin_once: bool,
    /// Handed back unchanged by [`Runtime::adopt`].
    pub labels: BTreeMap<String, String>,
}

/// How a container ended.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Exit {
    /// Exit code; 128 + signal when killed.
    pub code: i32,
    /// The signal that killed it.
    pub signal: Option<i32>,
    /// Whether the kernel's OOM killer struck in its cgroup.
    pub oom_killed: bool,
    /// When it ended.
    pub finished_at: SystemTime,
}

/// What is known of a container.
#[derive(Clone, Debug)]
pub struct ContainerStatus {
    /// Its identifier.
    pub id: String,
    /// Labels from its spec.
    pub labels: BTreeMap<String, String>,
    /// Its first process on the machine, once started.
    pub pid: Option<u32>,
    /// When its process was started.
    pub started_at: Option<SystemTime>,
    /// How it ended, once it has.
    pub exit: Option<Exit>,
}

/// Something that happened in a sandbox without being asked for.
#[derive(Clone, Debug)]
pub enum SandboxEvent {
    /// A container ended.
    Exited {
        /// Its identifier.
        container: String,
        /// How.
        exit: Exit,
    },
    /// The shim is gone although the sandbox was not removed (somebody killed it); its containers
    /// are dead.
    ShimLost,
}

/// A process to run inside a container.
#[derive(Clone, Debug)]
pub struct ExecSpec {
    /// The container.
    pub container: String,
    /// Arguments, program first.
    pub args: Vec<String>,
    /// Whether to give it a terminal.
    pub tty: bool,
    /// Whether it reads standard input.
    pub stdin: bool,
    /// Whether it is killed when nobody waits for its end any more.
    pub leashed: bool,
}

/// The streams of an exec or attach session. Dropping a stream closes it.
pub struct Session {
    /// To the process; `None` when not asked for.
    pub stdin: Option<Box<dyn AsyncWrite + Send + Unpin>>,
    /// From the process (with a terminal: everything).
    pub stdout: Box<dyn AsyncRead + Send + Unpin>,
    /// From the process; `None` with a terminal.
    pub stderr: Option<Box<dyn AsyncRead + Send + Unpin>>,
    /// Terminal sizes: (columns, rows).
    pub resize: mpsc::Sender<(u16, u16)>,
    /// Resolves when the process ends (for attach: when the container does).
    pub exit: tokio::sync::oneshot::Receiver<Exit>,
    /// Dropped, it kills the process; sent, it lets go. `None` for a process that lives on.
    pub leash: Option<tokio::sync::oneshot::Sender<()>>,
}
