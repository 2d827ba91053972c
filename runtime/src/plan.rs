//! What a shim is told to do: an OCI spec reduced to plain data, with every decision taken.
//!
//! The agent compiles specs to plans so that the shim, of which there are many, stays small: it
//! links none of the spec's types at run time and parses no seccomp profile.

pub(crate) mod mount;
mod process;

#[cfg(any(test, fuzzing))]
pub mod fuzz_targets;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxDeviceType, LinuxNamespaceType, Spec};
use serde::{Deserialize, Serialize};

use crate::sandbox::{ContainerSpec, NamespaceMode, SandboxSpec};
use crate::{LaunchError, LaunchErrorKind};

pub use mount::{FilesystemMount, MountPlan, MountSource};
pub use process::{CapabilitySets, Limit, ProcessPlan, process};

/// How to start the first process of a container.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Plan {
    /// Where its files come from.
    pub rootfs: Rootfs,
    /// Whether its root is mounted read-only.
    pub readonly_rootfs: bool,
    /// Namespaces that differ from the shim's.
    pub namespaces: Vec<Namespace>,
    /// The host name, for a UTS namespace of its own.
    pub hostname: Option<String>,
    /// The NIS domain name, for a UTS namespace of its own.
    pub domainname: Option<String>,
    /// Sysctls to set in namespaces of its own.
    pub sysctls: BTreeMap<String, String>,
    /// User namespace mappings: (container, host, size).
    pub uid_mappings: Vec<(u32, u32, u32)>,
    /// The same for groups.
    pub gid_mappings: Vec<(u32, u32, u32)>,
    /// Mounts, in order.
    pub mounts: Vec<MountPlan>,
    /// Device nodes; none when `/dev` is the machine's.
    pub devices: Vec<Device>,
    /// Whether `/dev` belongs to the container and gets its usual links.
    pub own_dev: bool,
    /// Paths to hide.
    pub masked_paths: Vec<String>,
    /// Paths to make read-only.
    pub readonly_paths: Vec<String>,
    /// Propagation of the root mount (`MS_*`), 0 for private.
    pub root_propagation: u64,
    /// Its control group.
    pub cgroup: CgroupPlan,
    /// Its process.
    pub process: ProcessPlan,
}

/// Where the files of a container come from.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Rootfs {
    /// Layers with a writable one on top.
    Overlay {
        /// Base first.
        layers: Vec<PathBuf>,
        /// The writable layer.
        upper: PathBuf,
        /// Overlayfs' work directory, on the same filesystem.
        work: PathBuf,
    },
    /// A directory as it is.
    Directory(PathBuf),
}

/// A namespace that is not the shim's.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Namespace {
    /// Its `CLONE_NEW…` flag.
    pub flag: u64,
    /// The namespace to join; a new one when there is none.
    pub path: Option<PathBuf>,
}

/// A device node to make.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Device {
    /// Its path in the container.
    pub path: String,
    /// `S_IFCHR`, `S_IFBLK` or `S_IFIFO` with permissions.
    pub mode: u32,
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// How a process gets into its control group.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct CgroupPlan {
    /// The directory to clone into, on cgroup v2.
    pub directory: Option<PathBuf>,
    /// The `cgroup.procs` files to write to, on v1.
    pub procs: Vec<PathBuf>,
    /// The file that counts OOM kills.
    pub oom_file: Option<PathBuf>,
    /// The file that kills everything in the group, where the kernel has one.
    pub kill_file: Option<PathBuf>,
    /// v1 hierarchies as a container sees them under `/sys/fs/cgroup`: directory name and mount
    /// options; empty on v2.
    pub legacy_view: Vec<(String, MountOptions)>,
}

/// Mount options with their values; flags have none.
pub type MountOptions = Vec<(String, Option<String>)>;

/// Which namespaces a container gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NamespaceChoice {
    /// The sandbox decides; of those of the spec only a process namespace to join counts.
    Sandbox,
    /// The spec decides, as the OCI command line wants it.
    Spec,
}

/// Compiles the spec of a container.
pub fn compile(
    sandbox: &SandboxSpec,
    container: &ContainerSpec,
    rootfs: Rootfs,
    cgroup: CgroupPlan,
    choice: NamespaceChoice,
) -> Result<Plan, LaunchError> {
    let spec = &container.spec;
    let linux = spec.linux().clone().unwrap_or_default();
    let namespaces = match choice {
        NamespaceChoice::Sandbox => of_sandbox(sandbox, spec),
        NamespaceChoice::Spec => of_spec(spec),
    };
    let fresh = |flag: i32| namespaces.iter().any(|n| n.flag == flag as u64 && n.path.is_none());
    let own_uts = fresh(libc::CLONE_NEWUTS);
    if let Some(kind) = spec.hooks().as_ref().and_then(hook) {
        return Err(refuse(format!("hooks are not supported: {kind}")));
    }
    let mounts = mount::compile(spec.mounts().as_deref().unwrap_or_default())?;
    let mut namespaces = namespaces;
    let cgroup_namespace = libc::CLONE_NEWCGROUP as u64;
    if !cgroup.legacy_view.is_empty()
        && mounts.iter().any(|m| matches!(m.source, MountSource::Cgroup))
        && !namespaces.iter().any(|n| n.flag == cgroup_namespace)
    {
        // On version 1 a mount shows the groups of the whole machine without one.
        namespaces.push(Namespace { flag: cgroup_namespace, path: None });
    }
    let own_dev =
        !mounts.iter().any(|m| m.target == "dev" && matches!(m.source, MountSource::Bind { .. }));
    let mappings = |list: &Option<Vec<oci_spec::runtime::LinuxIdMapping>>| {
        list.iter().flatten().map(|m| (m.container_id(), m.host_id(), m.size())).collect::<Vec<_>>()
    };
    Ok(Plan {
        rootfs,
        readonly_rootfs: spec.root().as_ref().and_then(|r| r.readonly()).unwrap_or(false),
        hostname: spec.hostname().clone().filter(|_| own_uts),
        domainname: spec.domainname().clone().filter(|_| own_uts),
        sysctls: match choice {
            NamespaceChoice::Sandbox => BTreeMap::new(),
            NamespaceChoice::Spec => {
                linux.sysctl().clone().unwrap_or_default().into_iter().collect()
            }
        },
        uid_mappings: mappings(linux.uid_mappings()),
        gid_mappings: mappings(linux.gid_mappings()),
        namespaces,
        mounts,
        devices: if own_dev { devices(&linux) } else { Vec::new() },
        own_dev,
        masked_paths: relative(linux.masked_paths()),
        readonly_paths: relative(linux.readonly_paths()),
        root_propagation: linux
            .rootfs_propagation()
            .as_deref()
            .and_then(mount::propagation)
            .map_or(0, |(bits, _)| bits),
        cgroup,
        process: process(spec.process().as_ref(), linux.seccomp().as_ref())?,
    })
}

/// The kind of a hook that the spec has. A caller that relies on one must not get a container
/// without it.
fn hook(hooks: &oci_spec::runtime::Hooks) -> Option<&'static str> {
    let kinds = [
        ("createRuntime", hooks.create_runtime()),
        ("createContainer", hooks.create_container()),
        ("startContainer", hooks.start_container()),
        ("poststart", hooks.poststart()),
        ("poststop", hooks.poststop()),
    ];
    let found = kinds.into_iter().find(|(_, list)| list.as_ref().is_some_and(|l| !l.is_empty()));
    #[allow(deprecated, reason = "specs have them still")]
    let prestart = hooks.prestart();
    match found {
        Some((kind, _)) => Some(kind),
        None => prestart.as_ref().is_some_and(|l| !l.is_empty()).then_some("prestart"),
    }
}

fn of_sandbox(sandbox: &SandboxSpec, spec: &Spec) -> Vec<Namespace> {
    let fresh = |flag: i32| Namespace { flag: flag as u64, path: None };
    let mut namespaces = vec![fresh(libc::CLONE_NEWNS), fresh(libc::CLONE_NEWCGROUP)];
    if sandbox.ipc == NamespaceMode::Container {
        namespaces.push(fresh(libc::CLONE_NEWIPC));
    }
    if sandbox.pid == NamespaceMode::Container {
        let pid = of_spec(spec).into_iter().find(|n| n.flag == libc::CLONE_NEWPID as u64);
        namespaces.push(pid.unwrap_or_else(|| fresh(libc::CLONE_NEWPID)));
    }
    namespaces
}

fn of_spec(spec: &Spec) -> Vec<Namespace> {
    let list = spec.linux().as_ref().and_then(|l| l.namespaces().clone()).unwrap_or_default();
    list.iter()
        .filter_map(|namespace| {
            let flag = match namespace.typ() {
                LinuxNamespaceType::Mount => libc::CLONE_NEWNS,
                LinuxNamespaceType::Cgroup => libc::CLONE_NEWCGROUP,
                LinuxNamespaceType::Uts => libc::CLONE_NEWUTS,
                LinuxNamespaceType::Ipc => libc::CLONE_NEWIPC,
                LinuxNamespaceType::User => libc::CLONE_NEWUSER,
                LinuxNamespaceType::Pid => libc::CLONE_NEWPID,
                LinuxNamespaceType::Network => libc::CLONE_NEWNET,
                LinuxNamespaceType::Time => return None,
            };
            Some(Namespace { flag: flag as u64, path: namespace.path().clone() })
        })
        .collect()
}

fn devices(linux: &oci_spec::runtime::Linux) -> Vec<Device> {
    const DEFAULT: [(&str, u32, u32); 6] = [
        ("dev/null", 1, 3),
        ("dev/zero", 1, 5),
        ("dev/full", 1, 7),
        ("dev/random", 1, 8),
        ("dev/urandom", 1, 9),
        ("dev/tty", 5, 0),
    ];
    let mut devices: Vec<Device> = DEFAULT
        .iter()
        .map(|&(path, major, minor)| Device {
            path: path.to_owned(),
            mode: libc::S_IFCHR | 0o666,
            major,
            minor,
            uid: 0,
            gid: 0,
        })
        .collect();
    for device in linux.devices().iter().flatten() {
        let kind = match device.typ() {
            LinuxDeviceType::B => libc::S_IFBLK,
            LinuxDeviceType::P => libc::S_IFIFO,
            _ => libc::S_IFCHR,
        };
        let Some(path) = inside(device.path()) else { continue };
        devices.retain(|d| d.path != path);
        devices.push(Device {
            path,
            mode: kind | (device.file_mode().unwrap_or(0o666) & 0o7777),
            major: device.major() as u32,
            minor: device.minor() as u32,
            uid: device.uid().unwrap_or(0),
            gid: device.gid().unwrap_or(0),
        });
    }
    devices
}

fn relative(paths: &Option<Vec<String>>) -> Vec<String> {
    paths.iter().flatten().filter_map(|path| inside(Path::new(path))).collect()
}

/// A path in the container without leading slash, `.` and `..`; `None` when nothing remains.
fn inside(path: &Path) -> Option<String> {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.components() {
        match part {
            std::path::Component::Normal(name) => parts.push(name.to_str()?),
            std::path::Component::ParentDir => {
                parts.pop();
            }
            _ => {}
        }
    }
    if parts.is_empty() { None } else { Some(parts.join("/")) }
}

fn refuse(message: String) -> LaunchError {
    LaunchError { kind: LaunchErrorKind::Spec, message, errno: 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_inside() {
        let cases = [
            ("/proc/../../etc", Some("etc")),
            ("dev/./pts/", Some("dev/pts")),
            ("/", None),
            ("/..", None),
        ];
        for (path, expected) in cases {
            assert_eq!(inside(Path::new(path)).as_deref(), expected, "{path}");
        }
    }
}
