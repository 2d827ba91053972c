//! Mounts, made detached in the shim where they can be and in the child where they depend on its
//! namespaces.

use std::ffi::CString;
use std::fmt::Write as _;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;

use super::root::Kind;
use super::{c_path, c_string, report};
use crate::plan::{CgroupPlan, FilesystemMount, MountPlan, MountSource, Rootfs};
use crate::sys::mount::{Attributes, CWD, Filesystem, clone_tree, mount_by_path, set_attributes};
use crate::{LaunchError, LaunchErrorKind};

/// A mount ready to be attached in the child.
pub(super) struct PreparedMount {
    pub target: CString,
    pub kind: Kind,
    pub source: PreparedSource,
    /// True if its place must be a directory of the root itself, reached by no symbolic link.
    pub ordinary: bool,
    /// True if its place may be in a proc filesystem.
    pub in_proc: bool,
}

pub(super) enum PreparedSource {
    /// Exists, detached, with its attributes.
    Detached(OwnedFd),
    /// Depends on the child's namespaces.
    Fresh { filesystem: PreparedFilesystem, attributes: u64 },
    /// A tmpfs with one cgroup v1 filesystem in each directory.
    Legacy { base: OwnedFd, hierarchies: Vec<(CString, PreparedFilesystem)>, attributes: u64 },
}

/// A filesystem's type and options as the kernel wants them.
pub(super) struct PreparedFilesystem {
    pub kind: CString,
    pub options: Vec<(CString, Option<CString>)>,
    /// The PID namespace that a proc filesystem shows, where it is not the mounting process's.
    pub pids: Option<OwnedFd>,
}

/// The root of a container.
pub(super) enum PreparedRoot {
    /// Exists, detached.
    Detached(OwnedFd),
    /// To be mounted by path in the child, on kernels whose overlayfs lacks `lowerdir+`.
    /// The options name descriptors, which the child opens anew: overlayfs takes no directories
    /// of another mount namespace.
    ByPath { data: CString, target: CString, directories: Vec<(File, CString)> },
}

impl PreparedMount {
    /// Returns whether this is a proc filesystem.
    pub fn is_proc(&self) -> bool {
        matches!(&self.source, PreparedSource::Fresh { filesystem, .. } if filesystem.kind.as_bytes() == b"proc")
    }

    pub fn detached(&self) -> Option<&OwnedFd> {
        match &self.source {
            PreparedSource::Detached(fd) => Some(fd),
            _ => None,
        }
    }
}

impl PreparedFilesystem {
    /// Makes a detached mount; does not allocate.
    pub fn mount(&self, attributes: u64) -> nix::Result<OwnedFd> {
        let filesystem = Filesystem::open(&self.kind)?;
        for (key, value) in &self.options {
            filesystem.set(key, value.as_deref())?;
        }
        if let Some(pids) = &self.pids {
            filesystem.set_fd(c"pidns", pids.as_fd())?;
        }
        filesystem.mount(attributes)
    }

    fn new(plan: &FilesystemMount) -> Result<Self, LaunchError> {
        let mut options = vec![(c"source".to_owned(), Some(c_string(&plan.source)?))];
        for (key, value) in &plan.options {
            options.push((c_string(key)?, value.as_ref().map(c_string).transpose()?));
        }
        Ok(Self { kind: c_string(&plan.kind)?, options, pids: None })
    }
}

/// Returns whether this kernel mounts the proc filesystem of another PID namespace, from Linux 6.17
/// on.
pub(super) fn mounts_proc_of(pids: BorrowedFd<'_>) -> bool {
    Filesystem::open(c"proc").and_then(|proc| proc.set_fd(c"pidns", pids)).is_ok()
}

pub(super) fn prepare(
    plan: &MountPlan,
    cgroup: &CgroupPlan,
    pids: Option<&OwnedFd>,
) -> Result<PreparedMount, LaunchError> {
    let target = c_string(&plan.target)?;
    let (kind, source) = match &plan.source {
        MountSource::Bind { path, recursive } => {
            let fail = |what: &str, errno: Errno| bind_error(path, plan, what, errno);
            let tree =
                clone_tree(CWD, &c_path(path)?, *recursive).map_err(|errno| match errno {
                    Errno::ENOENT => fail(&format!("stat {}", path.display()), errno),
                    _ => fail("open_tree", errno),
                })?;
            apply(plan, &tree, *recursive).map_err(|errno| fail("mount_setattr", errno))?;
            let stat = nix::sys::stat::fstat(&tree).map_err(|errno| fail("stat", errno))?;
            let kind = match stat.st_mode & libc::S_IFMT {
                libc::S_IFDIR => Kind::Directory,
                _ => Kind::File,
            };
            (kind, PreparedSource::Detached(tree))
        }
        MountSource::Filesystem(filesystem) => {
            let mut prepared = PreparedFilesystem::new(filesystem)?;
            if let (Some(pids), "proc") = (pids, filesystem.kind.as_str()) {
                let copy = pids.try_clone();
                prepared.pids =
                    Some(copy.map_err(|e| super::other("duplicating a namespace", &e))?);
            }
            let depends = matches!(filesystem.kind.as_str(), "proc" | "sysfs" | "mqueue");
            let source = if depends {
                PreparedSource::Fresh { filesystem: prepared, attributes: plan.set }
            } else {
                let mount = prepared
                    .mount(plan.set)
                    .map_err(|errno| filesystem_error(filesystem, plan, errno))?;
                PreparedSource::Detached(mount)
            };
            (Kind::Directory, source)
        }
        MountSource::Cgroup if cgroup.legacy_view.is_empty() => {
            let filesystem =
                PreparedFilesystem { kind: c"cgroup2".to_owned(), options: Vec::new(), pids: None };
            (Kind::Directory, PreparedSource::Fresh { filesystem, attributes: plan.set })
        }
        MountSource::Cgroup => {
            let tmpfs = FilesystemMount {
                kind: "tmpfs".to_owned(),
                source: "tmpfs".to_owned(),
                options: vec![
                    ("mode".to_owned(), Some("755".to_owned())),
                    ("size".to_owned(), Some("64k".to_owned())),
                ],
            };
            let base = PreparedFilesystem::new(&tmpfs)?
                .mount(plan.set & !libc::MOUNT_ATTR_RDONLY)
                .map_err(|errno| filesystem_error(&tmpfs, plan, errno))?;
            let hierarchies = cgroup
                .legacy_view
                .iter()
                .map(|(name, options)| {
                    let filesystem = FilesystemMount {
                        kind: "cgroup".to_owned(),
                        source: "cgroup".to_owned(),
                        options: options.clone(),
                    };
                    Ok((c_string(name)?, PreparedFilesystem::new(&filesystem)?))
                })
                .collect::<Result<_, LaunchError>>()?;
            let source = PreparedSource::Legacy { base, hierarchies, attributes: plan.set };
            (Kind::Directory, source)
        }
    };
    // What the runtime itself and every program rely on (CVE-2019-19921).
    let ordinary = matches!(plan.target.as_str(), "proc" | "sys" | "dev")
        || matches!(&plan.source, MountSource::Filesystem(filesystem)
            if matches!(filesystem.kind.as_str(), "proc" | "sysfs"));
    let in_proc = crate::plan::mount::may_cover_proc(&plan.target);
    Ok(PreparedMount { target, kind, source, ordinary, in_proc })
}

/// Sets attributes and propagation of a bind mount.
fn apply(plan: &MountPlan, tree: &OwnedFd, recursive: bool) -> nix::Result<()> {
    let (propagation, deep) = match plan.propagation {
        0 => (libc::MS_PRIVATE, recursive),
        bits => (bits, plan.recursive_propagation && recursive),
    };
    // A clone of a shared mount is its peer already; asking for shared of a private mount makes
    // it a peer of nobody, which is what the spec says.
    let first = Attributes { set: 0, clear: 0, propagation, recursive: deep };
    if plan.set == 0 && plan.clear == 0 {
        return set_attributes(tree.as_fd(), first);
    }
    set_attributes(tree.as_fd(), first)?;
    let mut clear = plan.clear;
    if (plan.set | plan.clear) & libc::MOUNT_ATTR__ATIME != 0 {
        clear |= libc::MOUNT_ATTR__ATIME;
    }
    let second =
        Attributes { set: plan.set, clear, propagation: 0, recursive: plan.recursive_attributes };
    set_attributes(tree.as_fd(), second)
}

pub(super) fn prepare_root(rootfs: &Rootfs) -> Result<PreparedRoot, LaunchError> {
    let fail = |errno: Errno| LaunchError {
        kind: LaunchErrorKind::Mount,
        message: format!(
            "unable to start container process: error preparing rootfs: {}",
            report::errno_text(errno)
        ),
        errno: errno as i32,
    };
    match rootfs {
        Rootfs::Directory(path) => {
            let tree = clone_tree(CWD, &c_path(path)?, true).map_err(fail)?;
            let attributes = Attributes {
                propagation: libc::MS_PRIVATE,
                recursive: true,
                ..Attributes::default()
            };
            set_attributes(tree.as_fd(), attributes).map_err(fail)?;
            Ok(PreparedRoot::Detached(tree))
        }
        Rootfs::Overlay { layers, upper, work } => {
            let mut options = vec![(c"source".to_owned(), Some(c"overlay".to_owned()))];
            for layer in layers.iter().rev() {
                options.push((c"lowerdir+".to_owned(), Some(c_path(layer)?)));
            }
            options.push((c"upperdir".to_owned(), Some(c_path(upper)?)));
            options.push((c"workdir".to_owned(), Some(c_path(work)?)));
            if !takes_layers_singly() {
                return overlay_by_path(layers, upper, work);
            }
            let filesystem =
                PreparedFilesystem { kind: c"overlay".to_owned(), options, pids: None };
            match filesystem.mount(0) {
                Ok(mount) => Ok(PreparedRoot::Detached(mount)),
                // No value beyond 255 bytes.
                Err(Errno::EINVAL | Errno::ENAMETOOLONG | Errno::ENOSYS) => {
                    overlay_by_path(layers, upper, work)
                }
                Err(errno) => Err(fail(errno)),
            }
        }
    }
}

/// Lower layers of one overlay: the kernel's `OVL_MAX_STACK`.
const MAX_LAYERS: usize = 500;
/// The same with the old mount call, whose options have one page: a layer takes 19 bytes of it, and
/// what else is in it less than 100.
const MAX_LAYERS_BY_PATH: usize = 200;

/// Layers that an image may have on this kernel.
pub fn max_layers() -> usize {
    if takes_layers_singly() { MAX_LAYERS } else { MAX_LAYERS_BY_PATH }
}

/// Whether overlayfs knows `lowerdir+`, from 6.7 on; others log each attempt.
fn takes_layers_singly() -> bool {
    let Ok(name) = nix::sys::utsname::uname() else { return false };
    let release = name.release().to_string_lossy();
    let mut numbers = release.split(['.', '-']).map(|n| n.parse::<u32>().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (6, 7)
}

/// Overlay options for the old mount call. Layers are named through descriptors so that many of
/// them fit into the one page that the options may take.
fn overlay_by_path(
    layers: &[std::path::PathBuf],
    upper: &Path,
    work: &Path,
) -> Result<PreparedRoot, LaunchError> {
    let open = |path: &Path| {
        let file = File::open(path)
            .map_err(|e| super::other(&format!("opening {}", path.display()), &e))?;
        Ok::<_, LaunchError>((file, c_path(path)?))
    };
    let mut directories = Vec::with_capacity(layers.len() + 2);
    let mut data = String::from("lowerdir=");
    for (number, layer) in layers.iter().rev().enumerate() {
        let directory = open(layer)?;
        let separator = if number == 0 { "" } else { ":" };
        let _ = write!(data, "{separator}/proc/self/fd/{}", directory.0.as_raw_fd());
        directories.push(directory);
    }
    for (key, path) in [("upperdir", upper), ("workdir", work)] {
        let directory = open(path)?;
        let _ = write!(data, ",{key}=/proc/self/fd/{}", directory.0.as_raw_fd());
        directories.push(directory);
    }
    let target = upper.parent().unwrap_or(Path::new("/"));
    Ok(PreparedRoot::ByPath { data: c_string(data)?, target: c_path(target)?, directories })
}

impl PreparedRoot {
    /// Brings the root to its place in the child's mount namespace; does not allocate.
    pub fn attach(&self) -> nix::Result<OwnedFd> {
        match self {
            Self::Detached(mount) => {
                let place = open_path(c"/")?;
                crate::sys::mount::attach(mount.as_fd(), place.as_fd())?;
                nix::fcntl::openat(
                    mount,
                    c".",
                    nix::fcntl::OFlag::O_PATH | nix::fcntl::OFlag::O_CLOEXEC,
                    nix::sys::stat::Mode::empty(),
                )
            }
            Self::ByPath { data, target, directories } => {
                for (descriptor, path) in directories {
                    crate::sys::process::replace(open_path(path)?.as_fd(), descriptor.as_fd())?;
                }
                mount_by_path(c"overlay", target, c"overlay", 0, data)?;
                open_path(target)
            }
        }
    }
}

fn open_path(path: &std::ffi::CStr) -> nix::Result<OwnedFd> {
    let flags = nix::fcntl::OFlag::O_PATH | nix::fcntl::OFlag::O_CLOEXEC;
    nix::fcntl::open(path, flags, nix::sys::stat::Mode::empty())
}

fn bind_error(path: &Path, plan: &MountPlan, what: &str, errno: Errno) -> LaunchError {
    error(&path.display().to_string(), plan, what, errno)
}

fn filesystem_error(filesystem: &FilesystemMount, plan: &MountPlan, errno: Errno) -> LaunchError {
    error(&filesystem.source, plan, "mount", errno)
}

fn error(source: &str, plan: &MountPlan, what: &str, errno: Errno) -> LaunchError {
    LaunchError {
        kind: LaunchErrorKind::Mount,
        message: format!(
            "unable to start container process: error during container init: error mounting \
             {source:?} to rootfs at \"/{}\": {what}: {}",
            plan.target,
            report::errno_text(errno)
        ),
        errno: errno as i32,
    }
}
