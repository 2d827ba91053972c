//! The runtime as the agent holds it: sandboxes made, adopted and cleaned up.

use std::collections::{BTreeSet, HashSet};
use std::fs;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::cgroup::{self, Hierarchies};
use crate::link::Link;
use crate::own_limits;
use crate::protocol::{Operation, Setup, VERSION};
use crate::records::{self, Durability, Unreadable};
use crate::sandbox::{NamespaceMode, RuntimeConfig, SandboxSpec};
use crate::sys::mount::{Attributes, CWD, clone_tree, set_attributes};
use crate::{Error, Result, Sandbox, tree};

mod shim;

/// Levels of empty groups above a sandbox's that a cleanup removes.
const MAX_GROUP_DEPTH: usize = 8;

/// How long a shim may take to answer when it is adopted.
const ADOPT_TIMEOUT: Duration = Duration::from_secs(5);

/// How often a shim is tried to be adopted, and the pause in between.
const ADOPT_ATTEMPTS: u32 = 3;
const ADOPT_PAUSE: Duration = Duration::from_millis(500);

/// The container runtime of one machine. Cheap to clone.
#[derive(Clone)]
pub struct Runtime {
    inner: Arc<Inner>,
}

pub(crate) struct Inner {
    config: RuntimeConfig,
    pub(crate) cgroups: Hierarchies,
    shim: ShimBinary,
    known_parents: Mutex<BTreeSet<String>>,
}

/// What is executed as a shim.
enum ShimBinary {
    /// A read-only mount of the binary that belongs to no mount namespace: a container that gets
    /// hold of `/proc/<shim>/exe` can neither write to it nor remount it (CVE-2019-5736).
    Sealed(OwnedFd),
    /// The binary itself, where the kernel has no detached mounts.
    Path(PathBuf),
}

impl Runtime {
    /// Prepares the directories and finds out what the kernel offers.
    pub fn open(config: RuntimeConfig) -> Result<Self> {
        let cgroups = Hierarchies::detect().map_err(Error::kernel("finding the control groups"))?;
        let known_parents = Mutex::default();
        let inner = Inner { shim: seal(&config.shim_binary), config, cgroups, known_parents };
        for directory in [inner.states(), inner.runs()] {
            make_private(&directory)?;
        }
        inner
            .cgroups
            .create(&inner.config.shim_group)
            .map_err(Error::kernel("making the control group of the shims"))?;
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Makes a sandbox: its cgroup with limits, and a shim that holds its namespaces.
    pub async fn create_sandbox(&self, spec: SandboxSpec) -> Result<Sandbox> {
        let inner = Arc::clone(&self.inner);
        let id = spec.id.clone();
        let warm = Arc::clone(&inner);
        // Overlaps with the start of the shim, and is over when the first process needs it.
        drop(tokio::task::spawn_blocking(move || warm.cgroups.warm_up(&warm.config.shim_group)));
        let prepared = {
            let inner = Arc::clone(&inner);
            let spec = spec.clone();
            tokio::task::spawn_blocking(move || inner.prepare(&spec))
        };
        let (child, stream) = match prepared.await {
            Ok(result) => result?,
            Err(_) => return Err(Error::ShimLost(id)),
        };
        let setup = Setup {
            version: VERSION,
            socket: inner.socket(&id),
            cgroup_procs: inner.cgroups.procs(&inner.config.shim_group),
            init_procs: init_group(&spec).map(|g| inner.cgroups.procs(&g)).unwrap_or_default(),
            netns: spec.netns.clone(),
            hostname: spec.hostname.clone(),
            own_ipc: spec.ipc == NamespaceMode::Sandbox,
            shared_pid: spec.pid == NamespaceMode::Sandbox,
            sysctls: spec.sysctls.clone(),
        };
        let sandbox = Sandbox::connected(spec, Arc::clone(&inner), Some(child), stream)?;
        match sandbox.request(Operation::Setup(setup), Vec::new()).await {
            Ok(_) => Ok(sandbox),
            Err(error) => {
                let _ = sandbox.remove().await;
                Err(error)
            }
        }
    }

    /// Finds the sandboxes of an earlier process of the agent and connects to their shims.
    ///
    /// A sandbox whose shim is gone (reboot, or somebody killed it) is returned too: its
    /// [`Sandbox::events`] say [`crate::sandbox::SandboxEvent::ShimLost`] at once and its status
    /// is what was recorded.
    ///
    /// A sandbox whose record cannot be read is not adopted. If the record is of a newer version of
    /// this program, everything is left as it is; otherwise the sandbox's containers are killed and
    /// the record is kept in `unreadable` for inspection.
    pub async fn adopt(&self) -> Result<Vec<(SandboxSpec, Sandbox)>> {
        let mut adopted = Vec::new();
        for id in self.census().await? {
            let record = self.inner.state(&id).join(records::SANDBOX);
            let spec: SandboxSpec = match records::load(&record) {
                Ok(spec) => spec,
                // It was never created for anybody; `cleanup` removes it.
                Err(Unreadable::Missing) => continue,
                Err(Unreadable::TooNew(format)) => {
                    tracing::error!(
                        sandbox = id,
                        format,
                        "the sandbox was made by a newer version; leaving it alone"
                    );
                    continue;
                }
                Err(error) => {
                    tracing::error!(sandbox = id, %error, "sandbox record is unreadable; killing its containers");
                    self.inner.set_aside(&id, &record);
                    self.end_unknown(&id).await;
                    continue;
                }
            };
            let sandbox = self.connect(spec.clone()).await?;
            adopted.push((spec, sandbox));
        }
        Ok(adopted)
    }

    /// Ends a sandbox of which nothing but the name is known: its shim kills the containers.
    async fn end_unknown(&self, id: &str) {
        let Ok(stream) = shim::connect(&self.inner.socket(id)) else { return };
        let link = Link::new(id.to_owned(), stream, |_| {});
        if let Ok(link) = link {
            let request = link.request(Operation::Shutdown, Vec::new());
            let _ = tokio::time::timeout(ADOPT_TIMEOUT, request).await;
        }
        self.inner.kill_shim(id);
    }

    /// Connects to the shim of a sandbox. The sandbox counts as lost, and what runs in it is
    /// killed, only when no shim listens, or when it speaks another protocol or gives no answer in
    /// [`ADOPT_ATTEMPTS`]; a failure on this side is returned.
    async fn connect(&self, spec: SandboxSpec) -> Result<Sandbox> {
        let inner = Arc::clone(&self.inner);
        let mut failure = None;
        for attempt in 0..ADOPT_ATTEMPTS {
            if attempt > 0 {
                tokio::time::sleep(ADOPT_PAUSE).await;
            }
            let stream = match shim::connect(&inner.socket(&spec.id)) {
                Ok(stream) => stream,
                Err(error) if shim::proves_absence(&error) => {
                    return Sandbox::lost(spec, inner);
                }
                Err(error) => {
                    failure = Some(error);
                    continue;
                }
            };
            let sandbox = Sandbox::connected(spec.clone(), Arc::clone(&inner), None, stream)?;
            match tokio::time::timeout(ADOPT_TIMEOUT, sandbox.reconcile()).await {
                Ok(Ok(())) => return Ok(sandbox),
                Ok(Err(error @ Error::ShimVersion { .. })) => {
                    tracing::warn!(%error, "restarting its containers under a new shim");
                    sandbox.abandon();
                    return Sandbox::lost(spec, inner);
                }
                Ok(Err(_)) | Err(_) => sandbox.abandon(),
            }
            failure = None;
        }
        match failure {
            Some(error) => Err(Error::kernel("connecting to a shim")(error)),
            None => {
                tracing::error!(sandbox = spec.id, "its shim gives no answer; killing it");
                Sandbox::lost(spec, inner)
            }
        }
    }

    /// The identifiers of all sandboxes that left anything on this machine.
    pub async fn census(&self) -> Result<Vec<String>> {
        let mut found = BTreeSet::new();
        for directory in [self.inner.states(), self.inner.runs()] {
            let entries = fs::read_dir(&directory).map_err(Error::file("reading", &directory))?;
            found.extend(entries.flatten().filter_map(|e| e.file_name().into_string().ok()));
        }
        Ok(found.into_iter().collect())
    }

    /// Removes every sandbox that is not in `keep`: processes, cgroups, mounts, records.
    pub async fn cleanup(&self, keep: &HashSet<String>) -> Result<()> {
        for id in self.census().await?.into_iter().filter(|id| !keep.contains(id)) {
            let record = self.inner.state(&id).join(records::SANDBOX);
            match records::load::<SandboxSpec>(&record) {
                Ok(spec) => {
                    self.connect(spec.clone()).await?.remove().await?;
                    self.inner.cgroups.prune(&spec.cgroup, 2);
                }
                Err(Unreadable::TooNew(_)) if !keep.is_empty() => {}
                Err(_) => {
                    self.end_unknown(&id).await;
                    self.inner.forget(&id)?;
                }
            }
        }
        if keep.is_empty() {
            for group in self.inner.parents() {
                self.inner.cgroups.prune(&format!("{group}/sandbox"), MAX_GROUP_DEPTH);
            }
            let _ = fs::remove_file(self.inner.parents_file());
            // Fails while a shim is still leaving; the next cleanup takes it.
            let shims = &self.inner.config.shim_group;
            let _ = self.inner.cgroups.try_remove(shims);
            self.inner.cgroups.prune(shims, MAX_GROUP_DEPTH);
        }
        Ok(())
    }
}

impl Inner {
    /// The groups that sandboxes were made in; a later `cleanup` removes those left empty.
    fn parents(&self) -> BTreeSet<String> {
        records::read(&self.parents_file()).ok().flatten().unwrap_or_default()
    }

    fn parents_file(&self) -> PathBuf {
        self.config.state_dir.join("cgroup-parents.json")
    }

    fn remember_parent(&self, group: &str) -> Result<()> {
        let Some(parent) = Path::new(group).parent().and_then(Path::to_str) else { return Ok(()) };
        let mut known = self.known_parents.lock().unwrap_or_else(PoisonError::into_inner);
        if parent.is_empty() || known.contains(parent) {
            return Ok(());
        }
        known.extend(self.parents());
        known.insert(parent.to_owned());
        let path = self.parents_file();
        records::write(&path, &*known, Durability::Cached).map_err(Error::file("writing", path))
    }

    fn states(&self) -> PathBuf {
        self.config.state_dir.join("sandboxes")
    }

    fn runs(&self) -> PathBuf {
        self.config.run_dir.join("sandboxes")
    }

    pub(crate) fn state(&self, sandbox: &str) -> PathBuf {
        self.states().join(sandbox)
    }

    fn socket(&self, sandbox: &str) -> PathBuf {
        self.runs().join(sandbox).join("shim.sock")
    }

    fn prepare(&self, spec: &SandboxSpec) -> Result<(Child, UnixStream)> {
        Error::check_name(&spec.id)?;
        let state = self.state(&spec.id);
        if state.join(records::SANDBOX).exists() {
            return Err(Error::Exists(spec.id.clone()));
        }
        make_private(&state)?;
        make_private(&self.runs().join(&spec.id))?;
        let record = state.join(records::SANDBOX);
        records::write_formatted(&record, spec, Durability::Cached)
            .map_err(Error::file("writing", record))?;
        self.remember_parent(&spec.cgroup)?;
        self.cgroups.create(&spec.cgroup).map_err(Error::kernel("making the control group"))?;
        if let Some(resources) = &spec.resources {
            cgroup::apply(&self.cgroups, &spec.cgroup, resources)
                .map_err(Error::kernel("limiting the control group"))?;
        }
        if let Some(group) = init_group(spec) {
            self.cgroups.create(&group).map_err(Error::kernel("making the control group"))?;
        }
        // A directory removed by `coracle reset` beside us.
        self.cgroups
            .create(&self.config.shim_group)
            .map_err(Error::kernel("making the control group of the shims"))?;
        self.spawn(&spec.id, &state)
    }

    fn spawn(&self, id: &str, state: &Path) -> Result<(Child, UnixStream)> {
        let (ours, theirs) = UnixStream::pair().map_err(Error::kernel("making a socket pair"))?;
        let path = state.join("shim.log");
        let log = fs::File::options()
            .append(true)
            .create(true)
            .open(&path)
            .map_err(Error::file("opening", path))?;
        let program = match &self.shim {
            ShimBinary::Sealed(fd) => PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd())),
            ShimBinary::Path(path) => path.clone(),
        };
        let open_files = own_limits::inherited_open_files();
        let child = Command::new(&program)
            .arg0("coracle")
            .args(["shim", id])
            .env_clear()
            .envs(open_files.map(|soft| (own_limits::OPEN_FILES, soft.to_string())))
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .stderr(Stdio::from(log))
            .spawn()
            .map_err(Error::file("executing", program))?;
        Ok((child, ours))
    }

    /// Kills the process that listens on the socket of a sandbox, if there is one: its shim.
    pub(crate) fn kill_shim(&self, id: &str) {
        if let Ok(stream) = shim::connect(&self.socket(id)) {
            shim::kill(&stream);
        }
    }

    /// Keeps a record that cannot be read, for inspection.
    fn set_aside(&self, id: &str, record: &Path) {
        let aside = self.config.state_dir.join("unreadable");
        let kept = make_private(&aside).map_err(|error| error.to_string()).and_then(|()| {
            fs::rename(record, aside.join(format!("{id}.json"))).map_err(|e| e.to_string())
        });
        if let Err(error) = kept {
            tracing::error!(sandbox = id, %error, "the record cannot be set aside");
        }
    }

    /// Removes the directories of a sandbox.
    pub(crate) fn forget(&self, id: &str) -> Result<()> {
        for directory in [self.runs().join(id), self.state(id)] {
            tree::remove(&directory).map_err(Error::file("removing", directory))?;
        }
        Ok(())
    }
}

fn seal(binary: &Path) -> ShimBinary {
    use std::os::unix::ffi::OsStrExt;
    let sealed = std::ffi::CString::new(binary.as_os_str().as_bytes())
        .map_err(|_| nix::errno::Errno::EINVAL)
        .and_then(|path| clone_tree(CWD, &path, false))
        .and_then(|tree| {
            let attributes = Attributes {
                set: libc::MOUNT_ATTR_RDONLY,
                propagation: libc::MS_PRIVATE,
                ..Attributes::default()
            };
            set_attributes(tree.as_fd(), attributes).map(|()| tree)
        });
    match sealed {
        Ok(tree) => ShimBinary::Sealed(tree),
        Err(errno) => {
            tracing::warn!(%errno, "shims run from the binary itself, which containers' init processes may reach");
            ShimBinary::Path(binary.to_owned())
        }
    }
}

/// The control group of a sandbox's first process, if it has one: below the sandbox's, which takes
/// no process itself on version 2.
fn init_group(spec: &SandboxSpec) -> Option<String> {
    let shared = spec.pid == NamespaceMode::Sandbox;
    shared.then(|| format!("{}/coracle-init", spec.cgroup))
}

fn make_private(directory: &Path) -> Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(Error::file("making", directory))
}
