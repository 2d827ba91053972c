//! Makes what containers need before they can start, and releases it afterwards.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use runtime::printable::chain;
use runtime::sandbox::{NamespaceMode, SandboxSpec};
use serde_json::json;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::perform::Outcome;
use super::state::Setup;
use super::{Note, Worker};
use crate::admission::dotted;
use crate::blocking::{self, Deadline};
use crate::container::downward::Surroundings;
use crate::container::{etc_files, resources};
use crate::events::Level;
use crate::machine::{Cause, HostPort, Link, PodSandbox};
use crate::node::Node;
use crate::objects::Key;
use crate::start_up::Step;
use crate::volume::mount;
use crate::volume::prepare::{MountError, Preparation, Prepared};

/// Why a sandbox could not be made.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// A volume failed.
    #[error("{error}")]
    Mount {
        /// Which one, and why.
        #[source]
        error: MountError,
        /// A name that may have been meant.
        hint: Option<String>,
    },
    /// The pod wants users of its own, which the runtime has none of.
    #[error("can't set `spec.hostUsers: false`, runtime does not support user namespaces")]
    UserNamespace,
    /// The network gave no link.
    #[error("failed to setup network for sandbox: {0}")]
    Network(#[source] Cause),
    /// The runtime made no sandbox.
    #[error("failed to start sandbox: {0}")]
    Sandbox(#[source] Cause),
    /// A directory of the pod could not be made.
    #[error("error making pod data directories: {0}")]
    Directory(#[source] std::io::Error),
}

/// Everything containers need. The sandbox is kept where only a volume is missing.
pub struct SandboxMade {
    /// Place in the network; none on the machine's own.
    pub link: Option<Link>,
    /// The sandbox.
    pub sandbox: Arc<dyn PodSandbox>,
    /// The volumes.
    pub volumes: Result<Prepared, PrepareError>,
}

type Placed = (Option<Link>, Arc<dyn PodSandbox>);

/// The work of making it.
pub struct Work {
    node: Arc<Node>,
    pod: Arc<Pod>,
    uid: String,
    sandbox: Option<Arc<dyn PodSandbox>>,
    volumes: Preparation,
    logs: PathBuf,
}

impl Work {
    /// Makes network and sandbox beside directories and volumes.
    pub async fn run(self) -> Result<SandboxMade, PrepareError> {
        if self.sandbox.is_none() {
            let host_users = self.pod.spec.as_ref().and_then(|spec| spec.host_users);
            if host_users == Some(false) {
                return Err(PrepareError::UserNamespace);
            }
            self.node.machine.runtime.warm_up();
        }
        let (tell, told) = oneshot::channel();
        let (placed, prepared) = tokio::join!(self.place(tell), self.mount(told));
        let (link, sandbox) = placed?;
        Ok(SandboxMade { link, sandbox, volumes: prepared })
    }

    /// The sandbox in its place in the network, whose addresses are sent to `tell`.
    async fn place(&self, tell: oneshot::Sender<Vec<IpAddr>>) -> Result<Placed, PrepareError> {
        let link = self.link().await?;
        match &link {
            // Most volumes do not wait for it.
            Some(link) => drop(tell.send(link.addresses.clone())),
            None => drop(tell),
        }
        let sandbox = self.sandbox(link.as_ref()).await?;
        Ok((link, sandbox))
    }

    /// The pod's directories and volumes. Those that show its addresses wait for them.
    async fn mount(&self, told: oneshot::Receiver<Vec<IpAddr>>) -> Result<Prepared, PrepareError> {
        self.directories().await?;
        let mut volumes = self.volumes.clone();
        // Nothing comes for a pod on the machine's own network, and where the network failed, so
        // that nothing starts with these volumes.
        if shows_address(&self.pod)
            && let Ok(addresses) = told.await
        {
            volumes.around.pod_ips = addresses;
        }
        match volumes.run().await {
            Ok(prepared) => {
                self.done(Step::Volumes);
                Ok(prepared)
            }
            Err(error) => {
                let hint = match error.cause.missing() {
                    Some((kind, name)) => {
                        let namespace = self.pod.metadata.namespace.clone().unwrap_or_default();
                        let key = Key { kind, namespace, name: name.to_owned() };
                        self.node.objects.similar(&key).await
                    }
                    None => None,
                };
                Err(PrepareError::Mount { error, hint })
            }
        }
    }

    async fn directories(&self) -> Result<(), PrepareError> {
        let (directory, logs) = (self.node.config.pod_dir(&self.uid), self.logs.clone());
        let make = move || {
            std::fs::create_dir_all(&directory).and_then(|()| std::fs::create_dir_all(&logs))
        };
        blocking::run(&self.uid, "Making the directories of a pod", Deadline::Short, make)
            .await
            .unwrap_or_else(|error| Err(error.into()))
            .map_err(PrepareError::Directory)
    }

    /// The place in the network; `None` for a pod on the machine's own.
    async fn link(&self) -> Result<Option<Link>, PrepareError> {
        if self.pod.spec.as_ref().and_then(|spec| spec.host_network) == Some(true) {
            return Ok(None);
        }
        let ports = host_ports(&self.pod);
        let link = self.node.machine.network.attach(&self.uid, &ports).await;
        let link = link.map_err(PrepareError::Network)?;
        self.done(Step::Network);
        Ok(Some(link))
    }

    async fn sandbox(&self, link: Option<&Link>) -> Result<Arc<dyn PodSandbox>, PrepareError> {
        if let Some(sandbox) = &self.sandbox {
            return Ok(sandbox.clone());
        }
        let wanted = sandbox_spec(&self.pod, &self.uid, link, &self.node);
        let made = self.node.machine.runtime.create_sandbox(wanted).await;
        let made = made.map_err(PrepareError::Sandbox)?;
        self.done(Step::Sandbox);
        Ok(made)
    }

    fn done(&self, step: Step) {
        self.node.start_ups.note(&self.uid, step, Timestamp::now());
    }
}

/// Says whether a volume shows the pod's address, which must be known first then.
fn shows_address(pod: &Pod) -> bool {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let mut items = volumes.flat_map(|volume| {
        let projected = volume.projected.iter().flat_map(|p| p.sources.iter().flatten());
        let projected = projected.flat_map(|source| source.downward_api.iter());
        let projected = projected.flat_map(|api| api.items.iter().flatten());
        let own = volume.downward_api.iter().flat_map(|api| api.items.iter().flatten());
        own.chain(projected)
    });
    items.any(|item| {
        item.field_ref.as_ref().is_some_and(|field| field.field_path.starts_with("status.podIP"))
    })
}

fn host_ports(pod: &Pod) -> Vec<HostPort> {
    let containers = super::state::containers(pod);
    let ports = containers.iter().flat_map(|(_, container)| container.ports.iter().flatten());
    ports
        .filter_map(|port| {
            Some(HostPort {
                protocol: port.protocol.clone().unwrap_or_else(|| "TCP".into()),
                host_port: u16::try_from(port.host_port?).ok().filter(|port| *port > 0)?,
                container_port: u16::try_from(port.container_port).ok()?,
                host_ip: port
                    .host_ip
                    .as_deref()
                    .and_then(|ip| ip.parse::<IpAddr>().ok())
                    .filter(|ip| !ip.is_unspecified()),
            })
        })
        .collect()
}

/// The sandbox of a pod.
pub fn sandbox_spec(pod: &Pod, uid: &str, link: Option<&Link>, node: &Node) -> SandboxSpec {
    let spec = pod.spec.clone().unwrap_or_default();
    let host_network = spec.host_network.unwrap_or(false);
    let (hostname, fqdn) = etc_files::hostname(pod, &node.config.cluster_domain);
    let hostname =
        if spec.set_hostname_as_fqdn == Some(true) { fqdn.unwrap_or(hostname) } else { hostname };
    let mode = |host: Option<bool>, otherwise| {
        if host.unwrap_or(false) { NamespaceMode::Host } else { otherwise }
    };
    let shared = spec.share_process_namespace.unwrap_or(false);
    let pid = if shared { NamespaceMode::Sandbox } else { NamespaceMode::Container };
    let limits = resources::pod_resources(pod, node.config.pod_pids_limit);
    let sysctls = spec.security_context.and_then(|security| security.sysctls);
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    SandboxSpec {
        id: uid.to_owned(),
        hostname: (!host_network).then_some(hostname),
        netns: link.map(|link| link.netns.clone()),
        ipc: mode(spec.host_ipc, NamespaceMode::Sandbox),
        pid: mode(spec.host_pid, pid),
        cgroup: resources::pod_cgroup(&node.config.cgroup_root, pod),
        resources: serde_json::from_value(json!(limits)).ok(),
        sysctls: sysctls.into_iter().flatten().map(|s| (dotted(&s.name), s.value)).collect(),
        labels: BTreeMap::from([
            ("io.kubernetes.pod.name".into(), text(&pod.metadata.name)),
            ("io.kubernetes.pod.namespace".into(), text(&pod.metadata.namespace)),
            ("io.kubernetes.pod.uid".into(), uid.to_owned()),
        ]),
    }
}

impl Worker {
    pub(crate) fn surroundings(&self) -> Surroundings {
        Surroundings {
            pod_ips: match (&self.link, self.host_network()) {
                (_, true) => self.node.config.node_ips.clone(),
                (Some(link), false) => link.addresses.clone(),
                (None, false) => Vec::new(),
            },
            host_ips: self.node.config.node_ips.clone(),
            node_name: self.node.config.node_name.clone(),
            allocatable_milli_cpu: self.node.capacity.milli_cpu,
            allocatable_memory: self.node.capacity.memory_bytes,
        }
    }

    pub(crate) fn host_network(&self) -> bool {
        self.pod.spec.as_ref().and_then(|spec| spec.host_network).unwrap_or(false)
    }

    fn volume_preparation(&self) -> Preparation {
        Preparation {
            pod: self.pod.clone(),
            directory: self.node.config.pod_dir(&self.uid),
            volume_dir: self.node.config.volume_dir(),
            client: self.node.client.clone(),
            around: self.surroundings(),
            objects: self.objects.clone(),
            tokens: self.tokens.clone(),
            ownership: false,
        }
    }

    pub(crate) fn preparation(&self) -> Work {
        Work {
            node: self.node.clone(),
            pod: self.pod.clone(),
            uid: self.uid.clone(),
            sandbox: self.sandbox.clone(),
            volumes: Preparation {
                // No container runs before the volumes are there, except in a pod that is adopted.
                ownership: self.state.containers.iter().all(|record| record.live().is_none()),
                ..self.volume_preparation()
            },
            logs: self.log_directory(),
        }
    }

    pub(crate) fn prepared(
        &mut self,
        objects: u64,
        result: Result<SandboxMade, PrepareError>,
        now: Instant,
    ) {
        let volumes = result.and_then(|made| {
            self.take_sandbox(made.sandbox);
            self.take_link(made.link);
            made.volumes
        });
        match volumes {
            Ok(prepared) => {
                self.volumes = prepared.volumes;
                self.tokens = prepared.tokens;
                self.state.setup_failures = 0;
                self.state.setup = Setup::Ready;
            }
            Err(error) => {
                let recorder = &self.node.recorder;
                match &error {
                    PrepareError::Mount { error, hint } => {
                        let mut message = error.to_string();
                        if let Some(hint) = hint {
                            message.push_str(&format!("; did you mean \"{hint}\"?"));
                        }
                        recorder.pod(&self.pod, Level::Warning, "FailedMount", message);
                        if error.cause.waits_for_object() {
                            // What it lacked may have come while the others were being made.
                            let changed = objects != self.objects_generation;
                            self.state.setup = match changed {
                                true => Setup::Absent { retry_at: None },
                                false => Setup::Blocked,
                            };
                            return;
                        }
                    }
                    _ => {
                        let message = format!("Failed to create pod sandbox: {}", chain(&error));
                        let reason = "FailedCreatePodSandBox";
                        recorder.pod(&self.pod, Level::Warning, reason, message);
                    }
                }
                self.setup_failed(now);
            }
        }
    }

    pub(crate) fn take_link(&mut self, link: Option<Link>) {
        self.state.addresses = link.as_ref().map(|link| link.addresses.clone()).unwrap_or_default();
        self.link = link;
    }

    pub(crate) fn take_sandbox(&mut self, sandbox: Arc<dyn PodSandbox>) {
        if self.sandbox.is_some() {
            return;
        }
        let mut events = sandbox.events();
        let note = self.note.clone();
        self.tasks.spawn(async move {
            while let Some(event) = events.recv().await {
                if note.send(Note::Sandbox(event)).is_err() {
                    return;
                }
            }
        });
        self.sandbox = Some(sandbox);
    }

    /// Brings volumes that show API objects up to date.
    pub(crate) fn refresh_volumes(&mut self) {
        if self.state.setup != Setup::Ready {
            return;
        }
        if self.refreshing {
            self.refresh_wanted = true;
            return;
        }
        self.refreshing = true;
        let preparation = self.volume_preparation();
        self.spawn(async move { Outcome::Refreshed(preparation.run().await) });
    }

    pub(crate) fn refreshed(&mut self, result: Result<Prepared, MountError>) {
        self.refreshing = false;
        match result {
            Ok(prepared) => {
                self.volumes = prepared.volumes;
                self.tokens = prepared.tokens;
            }
            Err(error) => {
                // What is mounted stays as it was; a later change tries again.
                let message = error.to_string();
                self.node.recorder.pod(&self.pod, Level::Warning, "FailedMount", message);
                for token in self.tokens.values_mut() {
                    token.refresh_at =
                        token.refresh_at.max(Instant::now() + Duration::from_secs(30));
                }
            }
        }
        if std::mem::take(&mut self.refresh_wanted) {
            self.refresh_volumes();
        }
    }

    pub(crate) fn release(&mut self, for_good: bool) {
        let work = self.release_work(for_good);
        self.spawn(async move { Outcome::Released(for_good, work.await) });
    }

    pub(crate) fn release_work(
        &self,
        for_good: bool,
    ) -> impl Future<Output = Result<(), String>> + Send + 'static {
        let sandbox = self.sandbox.clone();
        let network = self.node.machine.network.clone();
        let uid = self.uid.clone();
        let directory = self.node.config.pod_dir(&self.uid);
        async move {
            if let Some(sandbox) = sandbox {
                sandbox.remove().await.map_err(|error| chain(&*error))?;
            }
            if !for_good {
                return Ok(());
            }
            let remove = move || mount::remove_tree(&directory);
            let removed = blocking::run(&uid, "Removing a pod's files", Deadline::Long, remove);
            let (detached, removed) = tokio::join!(network.detach(&uid), removed);
            detached.map_err(|error| chain(&*error))?;
            match removed {
                Ok(Ok(())) => Ok(()),
                Ok(Err(error)) => Err(error.to_string()),
                Err(error) => Err(error.to_string()),
            }
        }
    }
}
