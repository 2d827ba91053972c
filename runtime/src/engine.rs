//! The runtime as the agent holds it.

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use crate::cgroup::{self, Hierarchies};
use crate::own_limits;
use crate::protocol::{Operation, Setup, VERSION};
use crate::records::{self, Durability};
use crate::sandbox::{NamespaceMode, RuntimeConfig, SandboxSpec};
use crate::sys::mount::{Attributes, CWD, clone_tree, set_attributes};
use crate::{Error, Result, Sandbox, tree};

mod adopt;
mod remains;
pub(crate) mod shim;

pub use adopt::Adoption;
pub use remains::Remains;

/// The name by which a shim is executed, and its first argument; its sandbox is the second.
const SHIM_NAME: &str = "coracle";
const SHIM_VERB: &str = "shim";
/// The file in the directory of a sandbox that its shim has open as standard error.
const SHIM_LOG: &str = "shim.log";

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

    #[cfg(test)]
    pub(crate) fn inner(&self) -> Arc<Inner> {
        Arc::clone(&self.inner)
    }

    /// Begins what the start of a sandbox waits for longest, and which needs to know nothing of it: for
    /// one that is made a few milliseconds later.
    pub fn warm_up(&self) {
        let inner = Arc::clone(&self.inner);
        drop(tokio::task::spawn_blocking(move || inner.cgroups.warm_up(&inner.config.shim_group)));
    }

    /// Makes a sandbox: its cgroup with limits, and a shim that holds its namespaces.
    pub async fn create_sandbox(&self, spec: SandboxSpec) -> Result<Sandbox> {
        let inner = Arc::clone(&self.inner);
        let id = spec.id.clone();
        // Again, for one that had to wait since. It overlaps with the start of the shim.
        self.warm_up();
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
        let path = state.join(SHIM_LOG);
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
            .arg0(SHIM_NAME)
            .args([SHIM_VERB, id])
            .env_clear()
            .envs(open_files.map(|soft| (own_limits::OPEN_FILES, soft.to_string())))
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .stderr(Stdio::from(log))
            .spawn()
            .map_err(Error::file("executing", program))?;
        Ok((child, ours))
    }

    /// Connects to the shim of a sandbox, without waiting for one that takes no connections.
    pub(crate) fn dial(&self, id: &str) -> std::io::Result<UnixStream> {
        shim::connect(&self.socket(id))
    }

    /// Kills the process that listens on the socket of a sandbox, if there is one: its shim.
    pub(crate) fn kill_shim(&self, id: &str) {
        if let Ok(stream) = shim::connect(&self.socket(id)) {
            shim::kill(&stream);
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
