//! Starts one container of a pod.

use std::collections::BTreeMap;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod};
use oci_spec::runtime::Spec;
use runtime::image::Image;
use runtime::sandbox::{ContainerSpec, Exit};

use super::Worker;
use super::perform::Outcome;
use super::state::{Run, container};
use crate::blocking::{self, Deadline};
use crate::container::downward::Surroundings;
use crate::container::env::{self, EnvError, Sources};
use crate::container::etc_files;
use crate::container::spec::{self, Ingredients};
use crate::container::variables::{ExcessError, Variables};
use crate::events::Level;
use crate::machine::{Link, PodSandbox};
use crate::node::Node;
use crate::objects::{Key, Payload, Subscription};
use crate::services::ServiceFacts;
use crate::volume::prepare::Ready;
use runtime::printable::chain;

/// Label with the container's name in its pod.
pub const NAME_LABEL: &str = "io.kubernetes.container.name";
/// Label with the number of restarts before this container.
pub const ATTEMPT_LABEL: &str = "io.kubernetes.container.attempt";
/// Label with the image as status shows it.
pub const IMAGE_LABEL: &str = "io.kubernetes.container.image";
/// Label with the image identifier as status shows it.
pub const IMAGE_ID_LABEL: &str = "io.kubernetes.container.image-id";
/// Label with the signal that asks the container to end.
pub const STOP_SIGNAL_LABEL: &str = "io.kubernetes.container.stop-signal";

/// Most bytes kept of a termination message.
pub(super) const MESSAGE_BYTES: u64 = 4096;
/// Most bytes and lines kept of a log as a termination message.
pub(super) const LOG_MESSAGE: (usize, usize) = (2048, 80);

/// A container that runs.
pub struct Started {
    /// Its identifier.
    pub id: String,
    /// When.
    pub started_at: Timestamp,
    /// It has ended already.
    pub exit: Option<Exit>,
}

/// Why a container did not start.
pub enum StartError {
    /// Something has to change or to be tried again.
    Hold {
        /// Reason of the waiting state.
        reason: &'static str,
        /// Message of the waiting state.
        message: String,
        /// Whether time alone may help.
        retry: bool,
    },
    /// Its program could not be executed.
    Launch {
        /// The identifier it had.
        id: String,
        /// What runtimes say of it.
        message: String,
    },
}

pub(super) struct Work {
    pub(super) node: Arc<Node>,
    pub(super) pod: Arc<Pod>,
    pub(super) container: Container,
    pub(super) image: Image,
    pub(super) sandbox: Arc<dyn PodSandbox>,
    pub(super) link: Option<Link>,
    pub(super) around: Surroundings,
    pub(super) volumes: BTreeMap<String, Ready>,
    pub(super) objects: BTreeMap<Key, Subscription>,
    pub(super) attempt: u32,
    pub(super) uid: String,
    pub(super) logs: PathBuf,
    pub(super) previous: Option<String>,
    pub(super) image_label: (String, String),
    /// The container whose processes an ephemeral one wants to see.
    pub(super) target: Option<Target>,
}

/// A container by its name, and by its identifier while it runs.
pub(super) struct Target {
    name: String,
    id: Option<String>,
}

impl Worker {
    pub(crate) fn start(&mut self, index: usize) {
        let record = &mut self.state.containers[index];
        let name = record.name.clone();
        let (Some(container), Some(sandbox)) = (container(&self.pod, &name), self.sandbox.clone())
        else {
            return;
        };
        let Some(image) = self.images.get(&name).cloned() else {
            record.picture = super::state::Picture::Unknown;
            return;
        };
        let previous = record.finished().cloned();
        let image_label = match &record.picture {
            super::state::Picture::Present(facts) => (facts.name.clone(), facts.id.clone()),
            _ => Default::default(),
        };
        record.hold = None;
        let attempt = record.next_attempt();
        let old = previous.as_ref().map(|finished| finished.id.clone());
        record.run = Run::Starting(previous);
        let work = Work {
            node: self.node.clone(),
            pod: self.pod.clone(),
            container,
            image,
            sandbox,
            link: self.link.clone(),
            around: self.surroundings(),
            volumes: self.volumes.clone(),
            objects: self.objects.clone(),
            attempt,
            uid: self.uid.clone(),
            logs: self.log_directory(),
            previous: old.filter(|id| !id.is_empty()),
            image_label,
            target: self.target_of(&name),
        };
        let objects = self.objects_generation;
        self.spawn(async move { Outcome::Started(index, objects, work.run().await) });
    }

    fn target_of(&self, name: &str) -> Option<Target> {
        let spec = self.pod.spec.as_ref()?;
        let all = spec.ephemeral_containers.as_deref().unwrap_or_default();
        let name = all.iter().find(|container| container.name == name)?;
        let name = name.target_container_name.clone().filter(|name| !name.is_empty())?;
        let live = self.state.record(&name).and_then(|record| record.live());
        Some(Target { id: live.map(|live| live.id.clone()), name })
    }

    /// Returns the links to the logs of the containers that run.
    pub(crate) fn log_links(&self) -> Vec<PathBuf> {
        let live = self.state.containers.iter().filter_map(|record| {
            record.live().map(|live| log_link(&self.node, &self.pod, &record.name, &live.id))
        });
        live.collect()
    }
}

/// Removes links to the logs of one pod: these, and all in `directory` that begin with the pod's
/// name and lead there. Another program may have removed some.
pub(crate) fn remove_log_links(directory: &Path, pod: &str, logs: &Path, links: &[PathBuf]) {
    for link in links {
        let _ = std::fs::remove_file(link);
    }
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let leads_there =
            || std::fs::read_link(entry.path()).is_ok_and(|target| target.starts_with(logs));
        if entry.file_name().as_encoded_bytes().starts_with(pod.as_bytes()) && leads_there() {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

/// The log of one attempt of a container.
pub fn log_file(directory: &Path, container: &str, attempt: u32) -> PathBuf {
    directory.join(container).join(format!("{attempt}.log"))
}

pub(super) fn message_file(pod_directory: &Path, container: &str) -> PathBuf {
    pod_directory.join("containers").join(container).join("termination-log")
}

/// The beginning of the names of a pod's links.
pub(crate) fn log_link_prefix(pod: &Pod) -> String {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    format!("{name}_{namespace}_")
}

fn log_link(node: &Node, pod: &Pod, container: &str, id: &str) -> PathBuf {
    node.config.container_log_dir.join(format!("{}{container}-{id}.log", log_link_prefix(pod)))
}

pub(super) fn hold(reason: &'static str, message: String, retry: bool) -> StartError {
    StartError::Hold { reason, message, retry }
}

pub(super) fn config(message: impl ToString) -> StartError {
    hold("CreateContainerConfigError", message.to_string(), false)
}

impl Work {
    async fn run(self) -> Result<Started, StartError> {
        if let Some(previous) = &self.previous {
            // The log stays; record, layer and cgroup of the attempt before are of no use.
            if let Err(error) = self.sandbox.remove_container(previous).await {
                tracing::debug!(%error, "cannot remove an ended container");
            }
        }
        let payloads = self.payloads().await;
        let services = self.services().await;
        let join_pid = self.processes_of_target().await?;
        let id = container_id();
        let work = Arc::new(self);
        let (this, own_id) = (work.clone(), id.clone());
        let make = move || this.specification(&own_id, &services, &payloads, join_pid.as_deref());
        let what = "Preparing a container";
        let made = blocking::run(&work.uid, what, Deadline::Short, make).await;
        let (spec, log_path) =
            made.map_err(|error| hold("CreateContainerError", error.to_string(), true))??;
        work.launch(id, spec, log_path).await
    }

    /// Makes the files, mounts and specification of the container, on a thread that may block.
    fn specification(
        &self,
        id: &str,
        services: &[ServiceFacts],
        payloads: &BTreeMap<Key, Arc<Payload>>,
        join_pid: Option<&Path>,
    ) -> Result<(Spec, PathBuf), StartError> {
        let variables = self.variables(services, payloads)?;
        let binds = self.binds(&variables)?;
        let pod_spec = self.pod.spec.as_ref();
        let host_network = pod_spec.and_then(|spec| spec.host_network).unwrap_or(false);
        let hostname = if host_network {
            self.node.config.node_name.clone()
        } else {
            etc_files::hostname(&self.pod, &self.node.config.cluster_domain).0
        };
        let spec = spec::build(&Ingredients {
            cgroup_root: &self.node.config.cgroup_root,
            pod: &self.pod,
            container: &self.container,
            image: &self.image.config,
            layers: &self.image.layers,
            env: &variables,
            binds: &binds,
            hostname: &hostname,
            id,
            memory_capacity: self.node.capacity.memory_bytes,
            seccomp_dir: &self.node.config.data_dir.join("seccomp"),
            join_pid,
        })
        .map_err(|error| config(chain(&error)))?;
        let log_path = log_file(&self.logs, &self.container.name, self.attempt);
        if let Some(parent) = log_path.parent() {
            std::fs::create_dir_all(parent)
                .map_err(|error| hold("CreateContainerError", error.to_string(), true))?;
        }
        Ok((spec, log_path))
    }

    /// Creates and starts the container.
    async fn launch(
        &self,
        id: String,
        spec: Spec,
        log_path: PathBuf,
    ) -> Result<Started, StartError> {
        let name = &self.container.name;
        let image_config = self.image.config.config().clone().unwrap_or_default();
        let stop_signal = image_config.stop_signal().clone().unwrap_or_default();
        let metadata = &self.pod.metadata;
        let labels = [
            (NAME_LABEL, name.clone()),
            (ATTEMPT_LABEL, self.attempt.to_string()),
            (IMAGE_LABEL, self.image_label.0.clone()),
            (IMAGE_ID_LABEL, self.image_label.1.clone()),
            (STOP_SIGNAL_LABEL, stop_signal),
            ("io.kubernetes.pod.name", metadata.name.clone().unwrap_or_default()),
            ("io.kubernetes.pod.namespace", metadata.namespace.clone().unwrap_or_default()),
            ("io.kubernetes.pod.uid", self.uid.clone()),
        ];
        let container = ContainerSpec {
            id: id.clone(),
            spec,
            layers: self.image.layers.clone(),
            log_path: log_path.clone(),
            log_max_bytes: self.node.config.log_max_bytes,
            log_max_files: self.node.config.log_max_files,
            stdin: self.container.stdin.unwrap_or(false),
            stdin_once: self.container.stdin_once.unwrap_or(false),
            labels: labels.into_iter().map(|(key, value)| (key.to_owned(), value)).collect(),
        };
        self.sandbox
            .create_container(container)
            .await
            .map_err(|error| hold("CreateContainerError", chain(&*error), true))?;
        let event = |reason: &str, text: String| {
            self.node.recorder.container(&self.pod, name, Level::Normal, reason, text);
        };
        event("Created", format!("Created container: {name}"));
        let started_at = Timestamp::now();
        if let Err(error) = self.sandbox.start_container(&id).await {
            let cause = error.downcast_ref::<runtime::Error>();
            let message = match cause.and_then(runtime::Error::launch) {
                Some(launch) => launch.start_message(),
                None => chain(&*error),
            };
            if let Err(error) = self.sandbox.remove_container(&id).await {
                tracing::debug!(%error, "cannot remove a container that did not start");
            }
            // Nothing has run, and the container is not to blame: it has its chance in another
            // sandbox, which the worker makes when it hears of the loss.
            if let Some(runtime::Error::ShimLost(_)) = cause {
                return Err(hold("RunContainerError", message, true));
            }
            return Err(StartError::Launch { id, message });
        }
        let link = log_link(&self.node, &self.pod, name, &id);
        if let Err(error) = symlink(&log_path, &link) {
            tracing::debug!(%error, path = %link.display(), "cannot link a log");
        }
        // A process may be faster than the one who listens for its end.
        let status = self.sandbox.status().await.unwrap_or_default();
        let exit = status.into_iter().find(|status| status.id == id).and_then(|status| status.exit);
        Ok(Started { id, started_at, exit })
    }

    /// The process namespace of the container that is to be looked at.
    async fn processes_of_target(&self) -> Result<Option<PathBuf>, StartError> {
        let Some(target) = &self.target else { return Ok(None) };
        let status = self.sandbox.status().await.unwrap_or_default();
        let running = status
            .into_iter()
            .find(|status| target.id.as_ref() == Some(&status.id) && status.exit.is_none());
        match running.and_then(|status| status.pid) {
            Some(pid) => Ok(Some(format!("/proc/{pid}/ns/pid").into())),
            None => {
                let message = format!("unable to find target container \"{}\"", target.name);
                Err(hold("CreateContainerError", message, true))
            }
        }
    }

    async fn services(&self) -> Vec<ServiceFacts> {
        let namespace = self.pod.metadata.namespace.as_deref().unwrap_or_default();
        let links = self.pod.spec.as_ref().and_then(|spec| spec.enable_service_links);
        self.node.services.visible(namespace, links.unwrap_or(true)).await
    }

    async fn payloads(&self) -> BTreeMap<Key, Arc<Payload>> {
        let mut payloads = BTreeMap::new();
        for (key, subscription) in &self.objects {
            if let Some(payload) = subscription.get().await {
                payloads.insert(key.clone(), payload);
            }
        }
        payloads
    }

    fn variables(
        &self,
        services: &[ServiceFacts],
        payloads: &BTreeMap<Key, Arc<Payload>>,
    ) -> Result<Variables, StartError> {
        let namespace = self.pod.metadata.namespace.clone().unwrap_or_default();
        let object = |kind, name: &str| {
            let key = Key { kind, namespace: namespace.clone(), name: name.to_owned() };
            payloads.get(&key).cloned()
        };
        let sources = Sources { pod: &self.pod, around: &self.around, services, object: &object };
        env::variables(&sources, &self.container).map_err(|error| match error {
            // No referenced object changes when Services go: time alone may help.
            EnvError::Excess(ExcessError::Services(_)) => {
                hold("CreateContainerConfigError", error.to_string(), true)
            }
            error => config(error),
        })
    }
}

/// 64 random hexadecimal digits.
fn container_id() -> String {
    let bytes: [u8; 32] = rand::random();
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
