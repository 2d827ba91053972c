//! A sandbox as the agent holds it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::mpsc;

use crate::cgroup::Usage;
use crate::sandbox::{
    ContainerSpec, ContainerStatus, ExecSpec, SandboxEvent, SandboxSpec, Session,
};
use crate::{Error, Result};

/// A sandbox with its containers. Cheap to clone; dropping it changes nothing.
#[derive(Clone)]
pub struct Sandbox {
    spec: Arc<SandboxSpec>,
}

impl Sandbox {
    /// What it was made from.
    pub fn spec(&self) -> &SandboxSpec {
        &self.spec
    }

    /// Whether its shim is there.
    pub fn is_alive(&self) -> bool {
        false
    }

    /// Prepares a container: record, writable layer, cgroup with limits. Nothing runs yet.
    pub async fn create_container(&self, container: ContainerSpec) -> Result<()> {
        Err(self.lost(container))
    }

    /// Starts a prepared container and returns the process ID of its first process.
    ///
    /// Fails with [`Error::Launch`] when the process could not be executed; the container then
    /// counts as never started and may be removed.
    pub async fn start_container(&self, id: &str) -> Result<u32> {
        Err(self.lost(id))
    }

    /// Sends a signal to the first process of a container. A container that has ended is no error.
    pub async fn signal(&self, id: &str, signal: i32) -> Result<()> {
        let _ = signal;
        Err(self.lost(id))
    }

    /// All containers that were created and not removed.
    pub async fn status(&self) -> Result<Vec<ContainerStatus>> {
        Err(self.lost(()))
    }

    /// Runs one more process in a running container.
    pub async fn exec(&self, exec: ExecSpec) -> Result<Session> {
        Err(self.lost(exec))
    }

    /// Attaches to the streams of a container's first process. Output from before the first
    /// attach is replayed, within a bound.
    pub async fn attach(&self, id: &str, stdin: bool) -> Result<Session> {
        let _ = stdin;
        Err(self.lost(id))
    }

    /// Makes the shim open the log file anew, after somebody else has rotated it.
    pub async fn reopen_log(&self, id: &str) -> Result<()> {
        Err(self.lost(id))
    }

    /// Kills what still runs of a container and removes its cgroup, writable layer and records.
    /// The log stays. Removing what does not exist is no error.
    pub async fn remove_container(&self, id: &str) -> Result<()> {
        Err(self.lost(id))
    }

    /// Removes the sandbox with everything in it. Idempotent.
    pub async fn remove(&self) -> Result<()> {
        Err(self.lost(()))
    }

    /// Events from now on; each subscriber gets all of them.
    pub fn events(&self) -> mpsc::Receiver<SandboxEvent> {
        mpsc::channel(1).1
    }

    /// Usage of the whole sandbox and of each container by its identifier.
    pub async fn stats(&self) -> Result<(Usage, BTreeMap<String, Usage>)> {
        Err(self.lost(()))
    }

    /// The directory with the files that a container has written, for disk accounting.
    pub fn writable_layer(&self, id: &str) -> PathBuf {
        PathBuf::from(id)
    }

    fn lost<T>(&self, _: T) -> Error {
        Error::ShimLost(self.spec.id.clone())
    }
}
