//! The mounts of a plan: the spec's option strings turned into attributes and data.

use std::path::PathBuf;

use oci_spec::runtime::Mount;
use serde::{Deserialize, Serialize};

use super::{inside, refuse};
use crate::LaunchError;

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountPlan {
    /// Where, relative to the container's root.
    pub target: String,
    /// What.
    pub source: MountSource,
    /// `MOUNT_ATTR_…` bits to set.
    pub set: u64,
    /// Bits to clear.
    pub clear: u64,
    /// Whether attributes also hold for mounts below (`rro` and the like).
    pub recursive_attributes: bool,
    /// `MS_PRIVATE`, `MS_SLAVE`, `MS_SHARED`, or 0 for the default, recursively private.
    pub propagation: u64,
    /// Whether propagation also holds for mounts below.
    pub recursive_propagation: bool,
}

/// What is mounted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountSource {
    /// A file or directory of the machine.
    Bind {
        /// Its path.
        path: PathBuf,
        /// Whether mounts below it come along.
        recursive: bool,
    },
    /// A filesystem of its own.
    Filesystem(FilesystemMount),
    /// The container's control groups: on v2 one filesystem, on v1 a directory of them.
    Cgroup,
}

/// A filesystem and its options.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilesystemMount {
    /// `tmpfs`, `proc`, …
    pub kind: String,
    /// Shown as the source in `/proc/mounts`.
    pub source: String,
    /// Options with their values; flags have none.
    pub options: Vec<(String, Option<String>)>,
}

pub(super) fn compile(mounts: &[Mount]) -> Result<Vec<MountPlan>, LaunchError> {
    mounts.iter().map(one).collect()
}

fn one(mount: &Mount) -> Result<MountPlan, LaunchError> {
    let target = inside(mount.destination()).ok_or_else(|| {
        refuse(format!("mount destination {:?} is the root", mount.destination()))
    })?;
    let mut plan = MountPlan {
        target,
        source: MountSource::Cgroup,
        set: 0,
        clear: 0,
        recursive_attributes: false,
        propagation: 0,
        recursive_propagation: false,
    };
    check_proc(&plan.target, mount)?;
    let mut bind = None;
    let mut options = Vec::new();
    for option in mount.options().iter().flatten() {
        let option = option.as_str();
        if let Some((bits, recursive)) = propagation(option) {
            plan.propagation = bits;
            plan.recursive_propagation = recursive;
        } else if let Some((set, clear)) = attribute(option) {
            plan.set = (plan.set & !clear) | set;
            plan.clear = (plan.clear & !set) | clear;
        } else if let Some((set, clear)) = option.strip_prefix('r').and_then(attribute) {
            plan.set = (plan.set & !clear) | set;
            plan.clear = (plan.clear & !set) | clear;
            plan.recursive_attributes = true;
        } else {
            match option {
                "bind" => bind = Some(bind.unwrap_or(false)),
                "rbind" => bind = Some(true),
                "defaults" | "tmpcopyup" | "copy-symlink" | "" => {}
                _ => options.push(match option.split_once('=') {
                    Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
                    None => (option.to_owned(), None),
                }),
            }
        }
    }
    let kind = mount.typ().clone().unwrap_or_default();
    let source = mount.source().clone();
    if bind.is_none() && (kind == "bind" || kind == "none" || kind.is_empty()) {
        bind = Some(false);
    }
    plan.source = match (bind, kind.as_str()) {
        (Some(recursive), _) => MountSource::Bind {
            path: source
                .ok_or_else(|| refuse(format!("mount {:?} has no source", mount.destination())))?,
            recursive,
        },
        (None, "cgroup" | "cgroup2") => MountSource::Cgroup,
        (None, _) => MountSource::Filesystem(FilesystemMount {
            source: source
                .and_then(|s| s.to_str().map(str::to_owned))
                .unwrap_or_else(|| kind.clone()),
            kind,
            options,
        }),
    };
    Ok(plan)
}

/// Files below `/proc` that a mount may cover, as in runc.
const PROC_FILES: [&str; 10] = [
    "proc/cpuinfo",
    "proc/diskstats",
    "proc/meminfo",
    "proc/stat",
    "proc/swaps",
    "proc/uptime",
    "proc/loadavg",
    "proc/slabinfo",
    "proc/sys/kernel/ns_last_pid",
    "proc/net/dev",
];

/// Returns whether a mount on this path, relative to the root, may lie in a proc filesystem.
pub(crate) fn may_cover_proc(target: &str) -> bool {
    PROC_FILES.contains(&target)
}

/// Refuses what would take the place of the container's proc filesystem: programs and this runtime
/// rely on what they read and write there (CVE-2019-16884).
fn check_proc(target: &str, mount: &Mount) -> Result<(), LaunchError> {
    if target == "proc" {
        let kind = mount.typ().as_deref().unwrap_or_default();
        let source = mount.source().clone().unwrap_or_default();
        let is_proc = match kind {
            "proc" => true,
            "bind" | "none" | "" => nix::sys::statfs::statfs(&source)
                .is_ok_and(|found| found.filesystem_type() == nix::sys::statfs::PROC_SUPER_MAGIC),
            _ => false,
        };
        if is_proc {
            return Ok(());
        }
        return Err(refuse(format!(
            "{:?} cannot be mounted because it is not of type proc",
            mount.destination()
        )));
    }
    if target.starts_with("proc/") && !may_cover_proc(target) {
        return Err(refuse(format!(
            "{:?} cannot be mounted because it is inside /proc",
            mount.destination()
        )));
    }
    Ok(())
}

/// `MS_…` of a propagation option and whether it is recursive.
pub(super) fn propagation(option: &str) -> Option<(u64, bool)> {
    Some(match option {
        "private" => (libc::MS_PRIVATE, false),
        "rprivate" => (libc::MS_PRIVATE, true),
        "slave" => (libc::MS_SLAVE, false),
        "rslave" => (libc::MS_SLAVE, true),
        "shared" => (libc::MS_SHARED, false),
        "rshared" => (libc::MS_SHARED, true),
        "unbindable" => (libc::MS_UNBINDABLE, false),
        "runbindable" => (libc::MS_UNBINDABLE, true),
        _ => return None,
    })
}

/// Bits to set and to clear for a mount option.
fn attribute(option: &str) -> Option<(u64, u64)> {
    use libc::{
        MOUNT_ATTR__ATIME as ATIME, MOUNT_ATTR_NOATIME as NOATIME, MOUNT_ATTR_NODEV as NODEV,
        MOUNT_ATTR_NODIRATIME as NODIRATIME, MOUNT_ATTR_NOEXEC as NOEXEC,
        MOUNT_ATTR_NOSUID as NOSUID, MOUNT_ATTR_NOSYMFOLLOW as NOSYMFOLLOW,
        MOUNT_ATTR_RDONLY as RDONLY, MOUNT_ATTR_STRICTATIME as STRICTATIME,
    };
    Some(match option {
        "ro" => (RDONLY, 0),
        "rw" => (0, RDONLY),
        "nosuid" => (NOSUID, 0),
        "suid" => (0, NOSUID),
        "nodev" => (NODEV, 0),
        "dev" => (0, NODEV),
        "noexec" => (NOEXEC, 0),
        "exec" => (0, NOEXEC),
        "nosymfollow" => (NOSYMFOLLOW, 0),
        "symfollow" => (0, NOSYMFOLLOW),
        "nodiratime" => (NODIRATIME, 0),
        "diratime" => (0, NODIRATIME),
        // The access time mode is a field, not a bit: clear it all, then set one.
        "noatime" => (NOATIME, ATIME & !NOATIME),
        "strictatime" => (STRICTATIME, ATIME & !STRICTATIME),
        "relatime" | "atime" | "norelatime" | "nostrictatime" => (0, ATIME),
        "sync" | "async" | "dirsync" | "lazytime" | "nolazytime" | "iversion" | "noiversion"
        | "mand" | "nomand" | "acl" | "noacl" => (0, 0),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use oci_spec::runtime::MountBuilder;

    fn plan(kind: &str, source: &str, options: &[&str]) -> MountPlan {
        let mount = MountBuilder::default()
            .destination("/x/y")
            .typ(kind)
            .source(source)
            .options(options.iter().map(|o| (*o).to_owned()).collect::<Vec<_>>())
            .build()
            .unwrap();
        one(&mount).unwrap()
    }

    #[test]
    fn nothing_takes_the_place_of_proc() {
        let compiled = |destination: &str, kind: &str, source: &str| {
            let mount = MountBuilder::default().destination(destination).typ(kind).source(source);
            one(&mount.options(Vec::new()).build().unwrap()).map(|_| ()).map_err(|e| e.message)
        };
        assert_eq!(compiled("/proc", "proc", "proc"), Ok(()));
        assert_eq!(compiled("/proc", "bind", "/proc"), Ok(()));
        assert_eq!(compiled("/proc/uptime", "bind", "/x"), Ok(()));
        assert_eq!(compiled("/procedure", "bind", "/x"), Ok(()));
        for (destination, kind, source) in [
            ("/proc", "bind", "/tmp"),
            ("/proc/", "tmpfs", "tmpfs"),
            ("/x/../proc", "bind", "/tmp"),
        ] {
            let error = compiled(destination, kind, source).unwrap_err();
            assert!(error.contains("is not of type proc"), "{error}");
        }
        for destination in ["/proc/sys", "/proc/self", "/./proc/1/attr"] {
            let error = compiled(destination, "bind", "/tmp").unwrap_err();
            assert!(error.contains("is inside /proc"), "{error}");
        }
    }

    #[test]
    fn a_read_only_bind() {
        let plan = plan("bind", "/src", &["rbind", "ro", "rprivate"]);
        assert_eq!(plan.target, "x/y");
        assert_eq!(plan.set, libc::MOUNT_ATTR_RDONLY);
        assert!(!plan.recursive_attributes);
        assert!(plan.recursive_propagation);
        assert_eq!(plan.propagation, libc::MS_PRIVATE);
        assert_eq!(plan.source, MountSource::Bind { path: "/src".into(), recursive: true });
    }

    #[test]
    fn recursive_read_only() {
        let plan = plan("", "/src", &["rbind", "rro"]);
        assert_eq!(plan.set, libc::MOUNT_ATTR_RDONLY);
        assert!(plan.recursive_attributes);
    }

    #[test]
    fn tmpfs_options_stay_data() {
        let plan = plan("tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]);
        assert_eq!(plan.set, libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_STRICTATIME);
        let MountSource::Filesystem(filesystem) = plan.source else { panic!("not a filesystem") };
        assert_eq!(
            filesystem.options,
            [
                ("mode".to_owned(), Some("755".to_owned())),
                ("size".to_owned(), Some("65536k".to_owned()))
            ]
        );
    }
}
