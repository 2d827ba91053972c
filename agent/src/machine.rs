//! The narrow seams between pods and the machine: containers, images, network.
//!
//! Each has one real implementation (`real`) and one recording fake for tests, so that the pod
//! worker can be driven through every state without privileges.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use runtime::image::{Image, ImageSummary};
use runtime::sandbox::{
    ContainerSpec, ContainerStatus, ExecSpec, SandboxEvent, SandboxSpec, Session,
};
use tokio::sync::{mpsc, watch};

use crate::credential::Credential;

/// Why the machine refused, as the component below said it.
pub type Cause = Box<dyn std::error::Error + Send + Sync>;

/// The sandboxes that an earlier process left running, by their identifiers.
#[derive(Default)]
pub struct Adopted {
    /// Sandboxes that were taken over.
    pub sandboxes: HashMap<String, Arc<dyn PodSandbox>>,
    /// Sandboxes that were ended, and why.
    pub ended: HashMap<String, Cause>,
    /// Sandboxes that may run and could not be taken over.
    pub failed: HashMap<String, Cause>,
}

/// Makes and finds sandboxes.
pub trait ContainerRuntime: Send + Sync {
    /// Gets ready for a sandbox that is made a few milliseconds later.
    fn warm_up(&self) {}

    /// Makes the namespaces, the cgroup and the shim of a pod.
    fn create_sandbox(
        &self,
        spec: SandboxSpec,
    ) -> BoxFuture<'_, Result<Arc<dyn PodSandbox>, Cause>>;

    /// Sandboxes that an earlier process left running.
    fn adopt(&self) -> BoxFuture<'_, Result<Adopted, Cause>>;

    /// The sandbox of that identifier that an earlier process, or a worker that panicked, left
    /// running.
    fn adopt_one<'a>(
        &'a self,
        id: &'a str,
    ) -> BoxFuture<'a, Result<Option<Arc<dyn PodSandbox>>, Cause>>;

    /// Ends and removes a sandbox that cannot be taken over.
    fn end<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<(), Cause>>;

    /// Removes every sandbox whose identifier is not in `keep`.
    fn cleanup(&self, keep: std::collections::HashSet<String>) -> BoxFuture<'_, Result<(), Cause>>;
}

/// Usage of a whole sandbox, and of each container by its identifier.
pub type Usages =
    (runtime::cgroup::Usage, std::collections::BTreeMap<String, runtime::cgroup::Usage>);

/// One sandbox and the containers in it.
pub trait PodSandbox: Send + Sync {
    /// Prepares root file system, log and standard streams.
    fn create_container(&self, spec: ContainerSpec) -> BoxFuture<'_, Result<(), Cause>>;
    /// Runs the process; returns its process id on the machine.
    fn start_container<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<u32, Cause>>;
    /// Kills every process of a container without the help of what watches over it, and returns
    /// when none is left.
    fn kill_all<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<(), Cause>>;
    /// Sends a signal to the first process of a container.
    fn signal<'a>(&'a self, id: &'a str, signal: i32) -> BoxFuture<'a, Result<(), Cause>>;
    /// What is known of every container.
    fn status(&self) -> BoxFuture<'_, Result<Vec<ContainerStatus>, Cause>>;
    /// Runs a further process in a container.
    fn exec(&self, spec: ExecSpec) -> BoxFuture<'_, Result<Session, Cause>>;
    /// Joins the standard streams of a container.
    fn attach<'a>(&'a self, id: &'a str, stdin: bool) -> BoxFuture<'a, Result<Session, Cause>>;
    /// Forgets a container that has ended.
    fn remove_container<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<(), Cause>>;
    /// Kills what still runs and removes everything.
    fn remove(&self) -> BoxFuture<'_, Result<(), Cause>>;
    /// What happens without being asked for; there is one receiver per sandbox.
    fn events(&self) -> mpsc::Receiver<SandboxEvent>;
    /// Where its records and writable layers are.
    fn directory(&self) -> PathBuf;
    /// The network namespace it was made with.
    fn netns(&self) -> Option<PathBuf>;
    /// What it and its containers use.
    fn usage(&self) -> BoxFuture<'_, Result<Usages, Cause>>;
}

/// What went wrong with an image, as far as a pod's status cares.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The reference cannot be parsed.
    #[error("{0}")]
    InvalidName(String),
    /// No registry accepted a connection: whether the image exists is unknown.
    #[error("{0}")]
    Unreachable(String),
    /// A registry answered that it will not give the image.
    #[error("{0}")]
    Refused(String),
}

/// An image that was fetched.
#[derive(Clone, Debug)]
pub struct Pulled {
    /// The image.
    pub image: Image,
    /// How long it took, without the wait for others' pulls.
    pub took: Duration,
}

/// Images on this machine and in registries.
pub trait Images: Send + Sync {
    /// The full form of a reference (`nginx` is `docker.io/library/nginx:latest`).
    fn normalize(&self, reference: &str) -> Result<String, ImageError>;
    /// An image that is already here.
    fn find<'a>(&'a self, reference: &'a str) -> BoxFuture<'a, Option<Image>>;
    /// Fetches an image for a pod of a namespace; with a `patience` the registry has only that long to
    /// accept a connection.
    fn pull<'a>(
        &'a self,
        namespace: &'a str,
        reference: &'a str,
        credentials: &'a [Credential],
        patience: Option<Duration>,
    ) -> BoxFuture<'a, Result<Pulled, ImageError>>;
    /// Removes what pulls that were ended have left unfinished.
    fn remove_abandoned(&self) -> BoxFuture<'_, ()>;
    /// All images here.
    fn list(&self) -> BoxFuture<'_, Vec<ImageSummary>>;
    /// Removes an image by its identifier.
    fn remove<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<(), Cause>>;
}

/// A port of the machine that leads into a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
    /// On the machine.
    pub host_port: u16,
    /// In the pod.
    pub container_port: u16,
    /// Only on this address of the machine.
    pub host_ip: Option<IpAddr>,
}

/// A pod's place in the network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// The pinned network namespace.
    pub netns: PathBuf,
    /// Its addresses, the preferred one first.
    pub addresses: Vec<IpAddr>,
}

/// Gives pods network namespaces and addresses.
pub trait Network: Send + Sync {
    /// The link of a pod; the same one when asked again.
    fn attach<'a>(
        &'a self,
        uid: &'a str,
        ports: &'a [HostPort],
    ) -> BoxFuture<'a, Result<Link, Cause>>;
    /// Gives the link of a pod back.
    fn detach<'a>(&'a self, uid: &'a str) -> BoxFuture<'a, Result<(), Cause>>;
    /// Gives back the links of all pods but these.
    fn retain(&self, uids: std::collections::HashSet<String>) -> BoxFuture<'_, Result<(), Cause>>;
    /// Host ports of pods that processes of the node have at the moment.
    fn host_port_conflicts(&self) -> watch::Receiver<Vec<netproxy::HostPortConflict>>;
    /// Waits until these Services, which select the pod, lead no new connection to it.
    fn withdrawn<'a>(
        &'a self,
        uid: &'a str,
        namespace: &'a str,
        services: Vec<String>,
    ) -> BoxFuture<'a, ()>;
}

/// Everything an agent needs of the machine.
#[derive(Clone)]
pub struct Machine {
    /// Containers.
    pub runtime: Arc<dyn ContainerRuntime>,
    /// Images.
    pub images: Arc<dyn Images>,
    /// Network.
    pub network: Arc<dyn Network>,
}
