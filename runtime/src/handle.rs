//! A sandbox as the agent holds it.

mod observed;
mod reconnect;
mod session;

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Child;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;

use crate::cgroup::{self, Usage};
use crate::engine;
use crate::link::Link;
use crate::plan::{self, NamespaceChoice, Rootfs};
use crate::protocol::{Answer, LAUNCH_TIMEOUT_MS, LogPlan, Operation, Refusal, Start, VERSION};
use crate::records::{self, Durability};
use crate::sandbox::{ContainerSpec, ContainerStatus, SandboxEvent, SandboxSpec};
use crate::{Error, Result, tree};
use observed::Observed;

/// How long a shim may take to end after it was told to, before it is killed.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(3);

/// Longest time that a shim may take to answer: it waits for no container, only for the machine.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// The same for what starts a process, which the shim gives up by itself before.
const LAUNCH_TIMEOUT: Duration =
    Duration::from_millis(LAUNCH_TIMEOUT_MS).saturating_add(REQUEST_TIMEOUT);

/// A sandbox with its containers. Cheap to clone; dropping it changes nothing.
#[derive(Clone)]
pub struct Sandbox {
    inner: Arc<Inner>,
}

/// How a container is started.
pub(crate) struct Manner {
    /// Who decides on its namespaces.
    pub namespaces: NamespaceChoice,
    /// Whether it waits for [`Operation::Release`] before its program.
    pub gated: bool,
    /// Streams of the caller's instead of the shim's.
    pub streams: Option<[OwnedFd; 3]>,
}

struct Inner {
    spec: SandboxSpec,
    engine: Arc<engine::Inner>,
    /// The connection to the shim; `None` for a sandbox whose shim is gone.
    link: Mutex<Option<Arc<Link>>>,
    /// The shim, when this process has started it and must reap it.
    child: Mutex<Option<Child>>,
    observed: Arc<Mutex<Observed>>,
}

impl Sandbox {
    pub(crate) fn connected(
        spec: SandboxSpec,
        engine: Arc<engine::Inner>,
        child: Option<Child>,
        stream: UnixStream,
    ) -> Result<Self> {
        let observed = Observed::load(&engine.state(&spec.id));
        let observed = Arc::new(Mutex::new(observed));
        let (link, child) = (Mutex::new(None), Mutex::new(child));
        let this = Self { inner: Arc::new(Inner { spec, engine, link, child, observed }) };
        this.join(stream)?;
        Ok(this)
    }

    pub(crate) fn lost(spec: SandboxSpec, engine: Arc<engine::Inner>) -> Result<Self> {
        let state = engine.state(&spec.id);
        let mut observed = Observed::load(&state);
        engine.kill_shim(&spec.id);
        engine.cgroups.kill(&spec.cgroup);
        observed.lose(&state);
        let observed = Arc::new(Mutex::new(observed));
        let child = Mutex::new(None);
        let link = Mutex::new(None);
        Ok(Self { inner: Arc::new(Inner { spec, engine, link, child, observed }) })
    }

    /// Lets go of the connection to the shim; what runs goes on.
    pub(crate) fn abandon(&self) {
        self.observed().removing = true;
        if let Some(link) = self.link() {
            link.abandon();
        }
    }

    /// What it was made from.
    pub fn spec(&self) -> &SandboxSpec {
        &self.inner.spec
    }

    /// Whether its shim is there.
    pub fn is_alive(&self) -> bool {
        self.link().is_some_and(|link| link.is_open())
    }

    pub(crate) async fn request(
        &self,
        operation: Operation,
        descriptors: Vec<OwnedFd>,
    ) -> Result<(Answer, Vec<OwnedFd>)> {
        let id = &self.inner.spec.id;
        let Some(link) = self.link() else { return Err(Error::ShimLost(id.clone())) };
        let limit = match &operation {
            Operation::Setup(_)
            | Operation::Start(_)
            | Operation::Exec { .. }
            | Operation::Release { .. } => LAUNCH_TIMEOUT,
            _ => REQUEST_TIMEOUT,
        };
        match tokio::time::timeout(limit, link.request(operation, descriptors)).await {
            Ok(answered) => answered,
            Err(_) => Err(Error::ShimSilent(id.clone())),
        }
    }

    /// Learns from the shim what happened while nobody listened.
    pub(crate) async fn reconcile(&self) -> Result<()> {
        match self.request(Operation::Hello, Vec::new()).await? {
            (Answer::Ready { version: VERSION, .. }, _) => {}
            (Answer::Ready { version, .. }, _) => {
                return Err(Error::ShimVersion { sandbox: self.inner.spec.id.clone(), version });
            }
            _ => return Err(Error::ShimLost(self.inner.spec.id.clone())),
        }
        if let (Answer::Status(list), _) = self.request(Operation::Status, Vec::new()).await? {
            self.observed().reconcile(list);
        }
        Ok(())
    }

    fn link(&self) -> Option<Arc<Link>> {
        self.inner.link.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn observed(&self) -> std::sync::MutexGuard<'_, Observed> {
        self.inner.observed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn state(&self, container: &str) -> PathBuf {
        self.inner.engine.state(&self.inner.spec.id).join(container)
    }

    fn group(&self, container: &str) -> String {
        format!("{}/{container}", self.inner.spec.cgroup)
    }

    /// Prepares a container: record, writable layer, cgroup with limits. Nothing runs yet.
    pub async fn create_container(&self, container: ContainerSpec) -> Result<()> {
        let this = self.clone();
        let id = container.id.clone();
        blocking(&id, move || this.prepare(container)).await
    }

    fn prepare(&self, container: ContainerSpec) -> Result<()> {
        let id = container.id.clone();
        Error::check_name(&id)?;
        let state = self.state(&id);
        if state.join(records::CONTAINER).exists() {
            return Err(Error::Exists(id));
        }
        for part in ["upper", "work"] {
            let directory = state.join(part);
            fs::create_dir_all(&directory).map_err(Error::file("making", directory))?;
        }
        // The root directory of the container shows the mode of the topmost layer.
        if let Some(mode) = container.layers.last().and_then(|l| fs::metadata(l).ok()) {
            let upper = state.join("upper");
            fs::set_permissions(&upper, mode.permissions())
                .map_err(Error::file("setting the mode of", upper))?;
        }
        let record = state.join(records::CONTAINER);
        records::write(&record, &container, Durability::Cached)
            .map_err(Error::file("writing", record))?;
        let group = self.group(&id);
        let cgroups = &self.inner.engine.cgroups;
        cgroups.create(&group).map_err(Error::kernel("making the control group"))?;
        let linux = container.spec.linux().as_ref();
        if let Some(resources) = linux.and_then(|l| l.resources().as_ref()) {
            cgroup::apply(cgroups, &group, resources)
                .map_err(Error::kernel("limiting the control group"))?;
        }
        self.observed().created(container.id, container.labels);
        Ok(())
    }

    /// Starts a prepared container and returns the process ID of its first process.
    ///
    /// Fails with [`Error::Launch`] when the process could not be executed; the container then
    /// counts as never started and may be removed.
    pub async fn start_container(&self, id: &str) -> Result<u32> {
        let manner = Manner { namespaces: NamespaceChoice::Sandbox, gated: false, streams: None };
        self.launch(id, manner).await.map(|(pid, _)| pid)
    }

    /// Starts a container in another manner; a terminal is handed back when it has one and
    /// streams were given.
    pub(crate) async fn launch(&self, id: &str, manner: Manner) -> Result<(u32, Option<OwnedFd>)> {
        let container = self.record(id)?;
        let state = self.state(id);
        let rootfs = if container.layers.is_empty() {
            let root = container.spec.root().as_ref().map(|r| r.path().clone());
            Rootfs::Directory(root.unwrap_or_default())
        } else {
            Rootfs::Overlay {
                layers: container.layers.clone(),
                upper: state.join("upper"),
                work: state.join("work"),
            }
        };
        let cgroup = self.inner.engine.cgroups.plan(&self.group(id));
        let plan = plan::compile(&self.inner.spec, &container, rootfs, cgroup, manner.namespaces)?;
        let log = (!container.log_path.as_os_str().is_empty()).then(|| LogPlan {
            path: container.log_path.clone(),
            max_bytes: container.log_max_bytes,
            max_files: container.log_max_files,
        });
        let start = Start {
            container: id.to_owned(),
            plan,
            log,
            stdin: container.stdin,
            stdin_once: container.stdin_once,
            records: state.clone(),
            gated: manner.gated,
            inherit_streams: manner.streams.is_some(),
        };
        let descriptors = manner.streams.map(Vec::from).unwrap_or_default();
        let answered = self.request(Operation::Start(Box::new(start)), descriptors).await;
        let (answer, received) = answered.map_err(|error| match error {
            // It ran: whoever takes the loss for a reason to try again would run it twice.
            Error::ShimLost(_) if state.join(records::STARTED).exists() => {
                let message = "starting: the shim ended at the same time".to_owned();
                Error::Shim(Refusal { message, errno: 0 })
            }
            error => error,
        })?;
        let Answer::Started { pid, warnings } = answer else { return Ok((0, None)) };
        warn_once(warnings);
        self.observed().started(id, pid);
        Ok((pid, received.into_iter().next()))
    }

    fn record(&self, id: &str) -> Result<ContainerSpec> {
        let path = self.state(id).join(records::CONTAINER);
        records::read(&path)
            .map_err(Error::file("reading", path))?
            .ok_or_else(|| Error::NotFound(id.to_owned()))
    }

    /// Sends a signal to the first process of a container. A container that has ended is no error.
    pub async fn signal(&self, id: &str, signal: i32) -> Result<()> {
        let container = id.to_owned();
        match self.request(Operation::Signal { container, signal }, Vec::new()).await {
            Ok(_) | Err(Error::NotFound(_)) => Ok(()),
            Err(Error::ShimSilent(_)) if signal == libc::SIGKILL => self.kill_container(id).await,
            Err(error) => Err(error),
        }
    }

    /// Kills every process of a container through its control group, without the help of the shim,
    /// and returns when none is left. The shim reports the end as usual if it can. A container
    /// that has ended or does not exist is no error.
    pub async fn kill_container(&self, id: &str) -> Result<()> {
        let group = self.group(id);
        let cgroups = &self.inner.engine.cgroups;
        cgroups.end(&group).await.map_err(Error::kernel("killing the processes of a container"))
    }

    /// All containers that were created and not removed.
    pub async fn status(&self) -> Result<Vec<ContainerStatus>> {
        Ok(self.observed().status())
    }

    /// Kills what still runs of a container and removes its cgroup, writable layer and records.
    /// The log stays. Removing what does not exist is no error.
    pub async fn remove_container(&self, id: &str) -> Result<()> {
        if self.is_alive() {
            match self.request(Operation::Remove { container: id.to_owned() }, Vec::new()).await {
                // A shim that dies under this has left the rest to us.
                Ok(_) | Err(Error::ShimLost(_) | Error::ShimSilent(_)) => {}
                Err(error) => return Err(error),
            }
        }
        let group = self.group(id);
        self.inner
            .engine
            .cgroups
            .remove(&group)
            .await
            .map_err(Error::kernel("removing the control group"))?;
        let state = self.state(id);
        blocking(id, move || remove_directory(state)).await?;
        self.observed().removed(id);
        Ok(())
    }

    /// Removes the sandbox with everything in it. Idempotent.
    pub async fn remove(&self) -> Result<()> {
        self.observed().removing = true;
        let shutdown = self.request(Operation::Shutdown, Vec::new());
        let answered = tokio::time::timeout(SHUTDOWN_TIMEOUT, shutdown).await;
        if !matches!(answered, Ok(Ok(_))) {
            self.inner.engine.kill_shim(&self.inner.spec.id);
        }
        let child = self.inner.child.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(child) = child {
            // Off the critical path: nothing below needs the shim to be reaped.
            tokio::spawn(reap(child));
        }
        let (engine, spec) = (&self.inner.engine, &self.inner.spec);
        engine
            .cgroups
            .remove(&spec.cgroup)
            .await
            .map_err(Error::kernel("removing the control group"))?;
        let (engine, id) = (Arc::clone(engine), spec.id.clone());
        blocking(&spec.id, move || engine.forget(&id)).await
    }

    /// Events from now on; each subscriber gets all of them.
    pub fn events(&self) -> mpsc::Receiver<SandboxEvent> {
        self.observed().subscribe()
    }

    /// Usage of the whole sandbox and of each container by its identifier.
    pub async fn stats(&self) -> Result<(Usage, BTreeMap<String, Usage>)> {
        let this = self.clone();
        blocking(&self.inner.spec.id, move || {
            let cgroups = &this.inner.engine.cgroups;
            let ids = this.observed().ids();
            let containers =
                ids.into_iter().map(|id| (id.clone(), cgroups.usage(&this.group(&id)))).collect();
            Ok((cgroups.usage(&this.inner.spec.cgroup), containers))
        })
        .await
    }

    /// The directory with its records and all that its containers have written, for disk
    /// accounting.
    pub fn directory(&self) -> PathBuf {
        self.inner.engine.state(&self.inner.spec.id)
    }
}

async fn reap(mut child: Child) {
    let deadline = tokio::time::Instant::now() + SHUTDOWN_TIMEOUT;
    while matches!(child.try_wait(), Ok(None)) {
        if tokio::time::Instant::now() > deadline {
            let _ = child.kill();
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn blocking<T: Send + 'static>(
    id: &str,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        // The process is ending.
        Err(_) => Err(Error::ShimLost(id.to_owned())),
    }
}

fn remove_directory(directory: PathBuf) -> Result<()> {
    tree::remove(&directory).map_err(Error::file("removing", directory))
}

/// What a machine withholds is the same for every container: it is said once.
fn warn_once(warnings: Vec<String>) {
    static SAID: Mutex<Vec<String>> = Mutex::new(Vec::new());
    const MAX_SAID: usize = 32;
    let mut said = SAID.lock().unwrap_or_else(PoisonError::into_inner);
    for warning in warnings {
        if said.len() < MAX_SAID && !said.contains(&warning) {
            tracing::warn!("{warning}");
            said.push(warning);
        }
    }
}
