//! What the agent and a shim say to each other over their unix socket.
//!
//! A message is a header of two little-endian 32-bit numbers (length of the body, number of file
//! descriptors), then a JSON body. Descriptors travel as ancillary data of the header. Requests
//! carry a number that the reply repeats; events come on their own.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::LaunchError;
use crate::plan::{Plan, ProcessPlan};
use crate::sandbox::Exit;

/// Changes when either side would misunderstand the other.
pub const VERSION: u32 = 1;

/// Milliseconds that a process may take from its creation to its program: what the kubelet gives a
/// runtime for a request.
pub const LAUNCH_TIMEOUT_MS: u64 = 120_000;

/// Longest body, in bytes: a plan with the largest environment that exec takes fits.
pub const MAX_BODY_BYTES: usize = 16 << 20;

/// Most descriptors in one message.
pub const MAX_DESCRIPTORS: usize = 3;

/// Length of a header, in bytes.
pub const HEADER_BYTES: usize = 8;

/// From the agent.
#[derive(Debug, Serialize, Deserialize)]
pub struct Request {
    /// Repeated by the reply.
    pub id: u64,
    /// What to do.
    pub operation: Operation,
}

/// What a shim can be asked for.
#[derive(Debug, Serialize, Deserialize)]
pub enum Operation {
    /// The first request to a new shim.
    Setup(Setup),
    /// The first request of a later connection.
    Hello,
    /// Start a container.
    Start(Box<Start>),
    /// Let a container that was started with `gated` execute its program.
    Release {
        /// The container.
        container: String,
    },
    /// Signal the first process of a container.
    Signal {
        /// The container.
        container: String,
        /// Number of the signal.
        signal: i32,
    },
    /// Tell what is known of all containers.
    Status,
    /// Run one more process. Descriptors: input, output, errors; none with a terminal.
    Exec {
        /// The container.
        container: String,
        /// Names the process in [`Event::ExecExited`].
        exec: u64,
        /// The process.
        process: Box<ProcessPlan>,
    },
    /// Signal a process that was started by [`Operation::Exec`] on this connection.
    SignalExec {
        /// Its name.
        exec: u64,
        /// Number of the signal.
        signal: i32,
    },
    /// Attach. Descriptors: input if `stdin`, output, errors unless the container has a terminal.
    Attach {
        /// The container.
        container: String,
        /// Whether a descriptor for input comes along.
        stdin: bool,
    },
    /// Set the size of a container's terminal.
    Resize {
        /// The container.
        container: String,
        /// Columns.
        columns: u16,
        /// Rows.
        rows: u16,
    },
    /// Kill what is left of a container and forget it.
    Remove {
        /// The container.
        container: String,
    },
    /// Kill everything and end.
    Shutdown,
}

/// What a shim is for.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Setup {
    /// [`VERSION`] of the agent.
    pub version: u32,
    /// Where to listen for later connections.
    pub socket: PathBuf,
    /// `cgroup.procs` files of the shim's own control group.
    pub cgroup_procs: Vec<PathBuf>,
    /// `cgroup.procs` files of the group of the sandbox's first process, below the sandbox's.
    #[serde(default)]
    pub init_procs: Vec<PathBuf>,
    /// The network namespace to enter.
    pub netns: Option<PathBuf>,
    /// The host name of a new UTS namespace.
    pub hostname: Option<String>,
    /// Whether to make a new IPC namespace.
    pub own_ipc: bool,
    /// Whether to make a PID namespace for all containers.
    pub shared_pid: bool,
    /// Sysctls to set in these namespaces.
    pub sysctls: BTreeMap<String, String>,
}

/// How to start a container.
#[derive(Debug, Serialize, Deserialize)]
pub struct Start {
    /// Its identifier.
    pub container: String,
    /// How.
    pub plan: Plan,
    /// Where its output goes; nowhere for `None`.
    pub log: Option<LogPlan>,
    /// Keep standard input open.
    pub stdin: bool,
    /// Close standard input after the first attach ends.
    pub stdin_once: bool,
    /// The directory for `started.json` and `exit.json`.
    pub records: PathBuf,
    /// Whether to wait for [`Operation::Release`] before the program.
    pub gated: bool,
    /// Use the descriptors of the message as standard streams, for the OCI command line.
    pub inherit_streams: bool,
}

/// Where a log goes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LogPlan {
    /// The file.
    pub path: PathBuf,
    /// Rotate beyond this size; 0 for never.
    pub max_bytes: u64,
    /// Files to keep, the current one included.
    pub max_files: u32,
}

/// From the shim.
#[derive(Debug, Serialize, Deserialize)]
pub enum Message {
    /// The answer to a request.
    Reply {
        /// The request's.
        id: u64,
        /// What came of it.
        result: Result<Answer, Failure>,
    },
    /// Something happened.
    Event(Event),
}

/// What came of a request.
#[derive(Debug, Serialize, Deserialize)]
pub enum Answer {
    /// It was done.
    Done,
    /// To [`Operation::Setup`] and [`Operation::Hello`].
    Ready {
        /// [`VERSION`] of the shim.
        version: u32,
        /// Its process ID.
        pid: u32,
    },
    /// To [`Operation::Start`] and [`Operation::Exec`]; with a terminal, the controlling side of
    /// an exec comes along as a descriptor.
    Started {
        /// The process ID on the machine.
        pid: u32,
        /// What could not be granted and was left out.
        warnings: Vec<String>,
    },
    /// To [`Operation::Attach`].
    Attached {
        /// Whether the container has a terminal, and so no separate errors.
        terminal: bool,
    },
    /// To [`Operation::Status`].
    Status(Vec<Running>),
}

/// A container that the shim knows.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Running {
    /// Its identifier.
    pub container: String,
    /// Its first process.
    pub pid: u32,
    /// How it ended, once it has.
    pub exit: Option<Exit>,
}

/// Something that happened in a shim without being asked for.
#[derive(Debug, Serialize, Deserialize)]
pub enum Event {
    /// A container ended; its `exit.json` is on disk.
    Exited {
        /// The container.
        container: String,
        /// How.
        exit: Exit,
    },
    /// A process of [`Operation::Exec`] ended.
    ExecExited {
        /// Its name.
        exec: u64,
        /// How.
        exit: Exit,
    },
}

/// Why a request failed.
#[derive(Debug, Serialize, Deserialize)]
pub enum Failure {
    /// The process could not be started.
    Launch(LaunchError),
    /// No such container.
    NotFound(String),
    /// The container is not in the state the operation needs.
    State(String),
    /// Anything else.
    Refused(Refusal),
}

impl Failure {
    pub(crate) fn refused(operation: &str, error: &std::io::Error) -> Self {
        Self::Refused(Refusal {
            message: format!("{operation}: {error}"),
            errno: error.raw_os_error().unwrap_or(0),
        })
    }
}

/// A request the shim understood and refused.
#[derive(Clone, Debug, thiserror::Error, Serialize, Deserialize)]
#[error("{message}")]
pub struct Refusal {
    /// Why.
    pub message: String,
    /// The kernel's error number, 0 when there is none.
    pub errno: i32,
}

/// The record of a start, `started.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StartedRecord {
    /// The first process.
    pub pid: u32,
    /// Its start time in clock ticks since boot: with the PID it names one process.
    pub start_ticks: u64,
    /// When it was started.
    pub started_at: std::time::SystemTime,
    /// The boot it was started in.
    pub boot_id: String,
}

/// Encodes the header and body of a message.
pub fn encode<T: Serialize>(message: &T, descriptors: usize) -> serde_json::Result<Vec<u8>> {
    let mut bytes = vec![0; HEADER_BYTES];
    serde_json::to_writer(&mut bytes, message)?;
    let length = (bytes.len() - HEADER_BYTES) as u32;
    bytes[..4].copy_from_slice(&length.to_le_bytes());
    bytes[4..8].copy_from_slice(&(descriptors as u32).to_le_bytes());
    Ok(bytes)
}

/// Where the next message in `buffer` ends and how many descriptors it has; `None` when its header
/// is not complete, an error when it claims too much.
pub fn frame(buffer: &[u8]) -> Result<Option<(usize, usize)>, Refusal> {
    let Some(header) = buffer.get(..HEADER_BYTES) else { return Ok(None) };
    let number = |at: usize| {
        u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]) as usize
    };
    let (length, descriptors) = (number(0), number(4));
    if length > MAX_BODY_BYTES || descriptors > MAX_DESCRIPTORS {
        return Err(Refusal { message: "message too large".to_owned(), errno: libc::EMSGSIZE });
    }
    Ok(Some((HEADER_BYTES + length, descriptors)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_frame_is_found_again() {
        let bytes = encode(&Request { id: 7, operation: Operation::Status }, 2).unwrap();
        assert_eq!(frame(&bytes[..5]).unwrap(), None);
        assert_eq!(frame(&bytes).unwrap(), Some((bytes.len(), 2)));
        let request: Request = serde_json::from_slice(&bytes[HEADER_BYTES..]).unwrap();
        assert_eq!(request.id, 7);
    }

    #[test]
    fn a_frame_that_claims_too_much_is_refused() {
        let mut bytes = [0_u8; 8];
        bytes[..4].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(frame(&bytes).is_err());
    }
}
