//! What can go wrong in the runtime, by the operation that failed.

use std::path::PathBuf;

/// Longest name of a sandbox or container, in bytes: with a suffix it is a file name.
const MAX_NAME_BYTES: usize = 200;

/// Everything a caller of [`crate::Runtime`] and [`crate::Sandbox`] may meet.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No such container in the sandbox.
    #[error("container {0:?} not found")]
    NotFound(String),
    /// A name that is none for a container or sandbox; the text is runc's.
    #[error("invalid container ID format: {0:?}")]
    Name(String),
    /// A sandbox or container of that name exists already.
    #[error("{0:?} already exists")]
    Exists(String),
    /// The container is not in the state the operation needs.
    #[error("container {container:?} is {state}")]
    State {
        /// The container.
        container: String,
        /// What it is instead.
        state: &'static str,
    },
    /// The process could not be started.
    #[error(transparent)]
    Launch(#[from] LaunchError),
    /// The shim is gone; the containers of the sandbox are dead.
    #[error("the shim of sandbox {0:?} is gone")]
    ShimLost(String),
    /// The shim has not answered in time; its containers may run.
    #[error("the shim of sandbox {0:?} does not answer")]
    ShimSilent(String),
    /// The shim is of a version of this program that has another protocol.
    #[error(
        "the shim of sandbox {sandbox:?} speaks protocol {version}, not {}",
        crate::protocol::VERSION
    )]
    ShimVersion {
        /// The sandbox.
        sandbox: String,
        /// The version of its protocol.
        version: u32,
    },
    /// A process that was killed is still there.
    #[error("the shim of sandbox {sandbox:?} (process {pid}) was killed and does not end")]
    Stays {
        /// The sandbox.
        sandbox: String,
        /// The process.
        pid: i32,
    },
    /// The record of a sandbox cannot be used.
    #[error("the record of sandbox {sandbox:?} cannot be used")]
    Record {
        /// The sandbox.
        sandbox: String,
        /// The fault of the record.
        #[source]
        source: crate::records::Unreadable,
    },
    /// The shim refused a request.
    #[error("shim: {0}")]
    Shim(#[from] crate::protocol::Refusal),
    /// A file of the runtime could not be read or written.
    #[error("{operation} {path:?}")]
    File {
        /// What was done to it.
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
    /// A call of the kernel failed.
    #[error("{operation}")]
    Kernel {
        /// What was asked for.
        operation: &'static str,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
    /// A record on disk or a message is not what it should be.
    #[error("{what} is malformed")]
    Malformed {
        /// The record.
        what: &'static str,
        /// Where the reader stumbled.
        #[source]
        source: serde_json::Error,
    },
}

impl Error {
    /// Checks a name that becomes the name of a directory and of a control group.
    pub(crate) fn check_name(name: &str) -> Result<()> {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '+' | '-' | '.');
        let valid = !name.is_empty()
            && name.len() <= MAX_NAME_BYTES
            && name != "."
            && name != ".."
            && name.chars().all(plain);
        if valid { Ok(()) } else { Err(Self::Name(name.to_owned())) }
    }

    /// Whether the thing asked for does not exist.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound(_))
    }

    /// The launch failure, when it is one.
    pub fn launch(&self) -> Option<&LaunchError> {
        match self {
            Self::Launch(error) => Some(error),
            _ => None,
        }
    }

    pub(crate) fn file(
        operation: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { operation, path, source }
    }

    pub(crate) fn kernel(operation: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Kernel { operation, source }
    }
}

/// Why a process could not be started in a container.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, serde::Serialize, serde::Deserialize)]
#[error("{message}")]
pub struct LaunchError {
    /// The class of failure, for callers that branch on it.
    pub kind: LaunchErrorKind,
    /// The text that runc prints for the same failure, for example
    /// `unable to start container process: exec: "foo": executable file not found in $PATH`.
    pub message: String,
    /// The kernel's error number, 0 when there is none.
    pub errno: i32,
}

/// Classes of launch failures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum LaunchErrorKind {
    /// The program does not exist.
    ExecutableNotFound,
    /// The program exists and may not be executed.
    PermissionDenied,
    /// A mount of the spec could not be made.
    Mount,
    /// The working directory could not be entered.
    Cwd,
    /// The spec asks for something that makes no sense.
    Spec,
    /// Anything else.
    Other,
}

impl LaunchError {
    /// The exit code a shell would give: 127 not found, 126 not executable, 128 otherwise.
    pub fn exit_code(&self) -> i32 {
        match self.kind {
            LaunchErrorKind::ExecutableNotFound => 127,
            LaunchErrorKind::PermissionDenied => 126,
            _ => 128,
        }
    }

    /// The message of a container status with reason `StartError`, as the kubelet over containerd
    /// words it.
    pub fn start_message(&self) -> String {
        format!(
            "failed to create containerd task: failed to create shim task: OCI runtime create \
             failed: runc create failed: {}: unknown",
            self.message
        )
    }

    /// The message of a failed exec, as containerd words it after `failed to exec in container: `.
    pub fn exec_message(&self) -> String {
        format!("OCI runtime exec failed: exec failed: {}: unknown", self.message)
    }
}

/// Results of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_no_paths() {
        for name in ["a", "..a", "pod-1_x+y.z", &"x".repeat(MAX_NAME_BYTES)] {
            assert!(Error::check_name(name).is_ok(), "{name:?}");
        }
        let long = "x".repeat(MAX_NAME_BYTES + 1);
        for name in ["", ".", "..", "a/b", "../x", "/", "a\0", "a b", "\u{e9}", &long] {
            assert!(matches!(Error::check_name(name), Err(Error::Name(_))), "{name:?}");
        }
    }
}
