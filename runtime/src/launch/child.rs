//! What runs between clone and exec. Nothing here allocates, locks or logs: every string and
//! descriptor was prepared by the parent, failures go out as a few bytes over a pipe.

mod program;

use std::ffi::CStr;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::{Mode, SFlag};

use super::Prepared;
use super::mount::{PreparedMount, PreparedSource};
use super::process::PreparedProcess;
use super::report::{Report, Step};
use super::root::{self, Kind};
use crate::sys::mount::{
    Attributes, CWD, Filesystem, attach, clone_tree, isolate_all, open_in_root, pivot_to_cwd,
    set_attributes,
};
use crate::sys::process as sys;

use program::{become_program, become_sibling};

/// Where it failed, which one of several, and why.
type Outcome<T = ()> = Result<T, (Step, usize, Errno)>;

fn at(step: Step, index: usize) -> impl FnOnce(Errno) -> (Step, usize, Errno) {
    move |errno| (step, index, errno)
}

/// Aborts when a panic unwinds: the frames above are a copy of the shim's, and must not go on
/// twice.
struct NoWayBack;

impl Drop for NoWayBack {
    fn drop(&mut self) {
        std::process::abort()
    }
}

/// The system calls, with their first argument, that a process makes under its filter before its
/// program where it makes a sibling that executes the program.
pub(super) const AFTER_FORK: [(libc::c_long, u64); 7] = [
    (libc::SYS_clone, (libc::CLONE_PARENT | libc::SIGCHLD) as u64),
    (libc::SYS_write, 0),
    (libc::SYS_read, 0),
    (libc::SYS_setsid, 0),
    (libc::SYS_ioctl, 0),
    (libc::SYS_execve, 0),
    (libc::SYS_exit_group, 0),
];

/// Becomes the first process of a container.
pub(super) fn container(prepared: &Prepared) -> ! {
    let _guard = NoWayBack;
    let process = &prepared.process;
    let outcome = enter_cgroup(&prepared.cgroup_procs)
        .and_then(|()| label(process))
        .and_then(|()| namespaces(prepared))
        .and_then(|()| filesystem(prepared))
        .and_then(|()| match &prepared.pids {
            Some(pids) => sys::join_namespaces(pids.as_fd(), libc::CLONE_NEWPID)
                .map_err(at(Step::JoinNamespace, prepared.joins.len()))
                .and_then(|()| become_sibling(process)),
            None => become_program(process),
        });
    fail(process, outcome)
}

/// Becomes an additional process of a container.
pub(super) fn exec(
    process: &PreparedProcess,
    container: BorrowedFd<'_>,
    namespaces: i32,
    cgroup_procs: &[File],
) -> ! {
    let _guard = NoWayBack;
    let outcome = enter_cgroup(cgroup_procs)
        .and_then(|()| label(process))
        .and_then(|()| {
            sys::join_namespaces(container, namespaces).map_err(at(Step::JoinNamespace, 0))
        })
        .and_then(|()| become_sibling(process));
    fail(process, outcome)
}

/// Writes what goes through the machine's own `/proc`, before the container's takes its place: a
/// tenant who controls that one could make these writes go elsewhere (CVE-2025-52881).
fn label(process: &PreparedProcess) -> Outcome {
    adjust_oom_score(process);
    if let Some(profile) = &process.apparmor {
        write_proc(c"/proc/self/attr/apparmor/exec", profile)
            .or_else(|_| write_proc(c"/proc/self/attr/exec", profile))
            .map_err(at(Step::AppArmor, 0))?;
    }
    sys::new_session_keyring().map_err(at(Step::Keyring, 0))
}

fn fail(process: &PreparedProcess, outcome: Outcome) -> ! {
    if let Err((step, index, errno)) = outcome {
        Report { step, index: index as u16, errno: errno as i32 }.send(&process.reports);
    }
    sys::leave(128)
}

fn enter_cgroup(procs: &[File]) -> Outcome {
    for (index, file) in procs.iter().enumerate() {
        nix::unistd::write(file, b"0").map_err(at(Step::Cgroup, index))?;
    }
    Ok(())
}

fn namespaces(prepared: &Prepared) -> Outcome {
    for (index, (namespace, flag)) in prepared.joins.iter().enumerate() {
        sys::join_namespaces(namespace.as_fd(), *flag).map_err(at(Step::JoinNamespace, index))?;
    }
    if prepared.unshare_cgroup {
        sys::unshare(libc::CLONE_NEWCGROUP).map_err(at(Step::CgroupNamespace, 0))?;
    }
    if let Some(name) = &prepared.hostname {
        use std::os::unix::ffi::OsStrExt;
        let name = std::ffi::OsStr::from_bytes(name.to_bytes());
        nix::unistd::sethostname(name).map_err(at(Step::Hostname, 0))?;
    }
    if let Some(name) = &prepared.domainname {
        sys::set_domain_name(name).map_err(at(Step::Hostname, 1))?;
    }
    for (index, (path, value)) in prepared.sysctls.iter().enumerate() {
        write_file(path, value).map_err(at(Step::Sysctl, index))?;
    }
    Ok(())
}

fn filesystem(prepared: &Prepared) -> Outcome {
    isolate_all(libc::MS_SLAVE).map_err(at(Step::Isolate, 0))?;
    let root = prepared.root.attach().map_err(at(Step::RootMount, 0))?;
    for (index, mount) in prepared.mounts.iter().enumerate() {
        let target = mount_target(root.as_fd(), mount).map_err(at(Step::MountTarget, index))?;
        place(&mount.source, &target).map_err(at(Step::Mount, index))?;
    }
    devices(prepared, root.as_fd())?;
    for (index, path) in prepared.masked.iter().enumerate() {
        mask(root.as_fd(), path).map_err(at(Step::Mask, index))?;
    }
    for (index, path) in prepared.readonly.iter().enumerate() {
        let index = prepared.masked.len() + index;
        read_only(root.as_fd(), path).map_err(at(Step::ReadOnlyPath, index))?;
    }
    if prepared.readonly_rootfs {
        let attributes = Attributes { set: libc::MOUNT_ATTR_RDONLY, ..Attributes::default() };
        set_attributes(root.as_fd(), attributes).map_err(at(Step::ReadOnlyRoot, 0))?;
    }
    nix::unistd::fchdir(&root).map_err(at(Step::Pivot, 0))?;
    pivot_to_cwd().map_err(at(Step::Pivot, 1))?;
    if prepared.root_propagation != 0 {
        // A shared mount cannot be pivoted to.
        let slash = open_in_root(CWD, c".", libc::O_PATH, 0).map_err(at(Step::Pivot, 2))?;
        let attributes = Attributes {
            propagation: prepared.root_propagation,
            recursive: true,
            ..Attributes::default()
        };
        set_attributes(slash.as_fd(), attributes).map_err(at(Step::Pivot, 3))?;
    }
    Ok(())
}

/// Opens the place of a mount, and refuses one that the image leads elsewhere: through a symbolic
/// link where that matters, or into the proc filesystem.
fn mount_target(root: BorrowedFd<'_>, mount: &PreparedMount) -> nix::Result<OwnedFd> {
    if mount.ordinary {
        crate::sys::mount::open_beneath(root, &mount.target, libc::O_PATH).map(drop).or_else(
            |errno| match errno {
                Errno::ENOENT => Ok(()),
                errno => Err(errno),
            },
        )?;
    }
    let target = root::target(root, &mount.target, mount.kind)?;
    let kind = nix::sys::statfs::fstatfs(&target)?.filesystem_type();
    if kind == nix::sys::statfs::PROC_SUPER_MAGIC && !mount.in_proc && !mount.is_proc() {
        return Err(Errno::EPERM);
    }
    Ok(target)
}

fn place(source: &PreparedSource, target: &OwnedFd) -> nix::Result<()> {
    match source {
        PreparedSource::Detached(mount) => attach(mount.as_fd(), target.as_fd()),
        PreparedSource::Fresh { filesystem, attributes } => {
            attach(filesystem.mount(*attributes)?.as_fd(), target.as_fd())
        }
        PreparedSource::Legacy { base, hierarchies, attributes } => {
            attach(base.as_fd(), target.as_fd())?;
            for (name, filesystem) in hierarchies {
                let place = root::target(base.as_fd(), name, Kind::Directory)?;
                attach(filesystem.mount(*attributes)?.as_fd(), place.as_fd())?;
            }
            let attributes = Attributes { set: *attributes, ..Attributes::default() };
            // The access time mode cannot be set without clearing it; it has its default.
            let set = attributes.set & !libc::MOUNT_ATTR__ATIME;
            set_attributes(base.as_fd(), Attributes { set, ..attributes })
        }
    }
}

fn devices(prepared: &Prepared, root: BorrowedFd<'_>) -> Outcome {
    const LINKS: [(&CStr, &CStr); 5] = [
        (c"/proc/self/fd", c"dev/fd"),
        (c"/proc/self/fd/0", c"dev/stdin"),
        (c"/proc/self/fd/1", c"dev/stdout"),
        (c"/proc/self/fd/2", c"dev/stderr"),
        (c"pts/ptmx", c"dev/ptmx"),
    ];
    // The mode of a node is what the spec says, not what our mask leaves of it.
    sys::set_umask(0);
    for (index, entry) in prepared.devices.iter().enumerate() {
        device(root, entry).map_err(at(Step::Device, index))?;
    }
    sys::set_umask(0o022);
    if prepared.own_dev {
        for (index, (target, link)) in LINKS.iter().enumerate() {
            let (parent, name) = root::parent(root, link).map_err(at(Step::DeviceLink, index))?;
            let name = name.as_c_str().map_err(at(Step::DeviceLink, index))?;
            match nix::unistd::symlinkat(*target, &parent, name) {
                Ok(()) | Err(Errno::EEXIST) => {}
                Err(errno) => return Err((Step::DeviceLink, index, errno)),
            }
        }
        if prepared.process.terminal {
            let target =
                root::target(root, c"dev/console", Kind::File).map_err(at(Step::Console, 0))?;
            let console = clone_tree(prepared.process.streams[0].as_fd(), c"", false)
                .map_err(at(Step::Console, 1))?;
            attach(console.as_fd(), target.as_fd()).map_err(at(Step::Console, 2))?;
        }
    }
    Ok(())
}

fn device(root: BorrowedFd<'_>, entry: &super::PreparedDevice) -> nix::Result<()> {
    let (parent, name) = root::parent(root, &entry.path)?;
    let name = name.as_c_str()?;
    let device = &entry.device;
    let kind = SFlag::from_bits_truncate(device.mode & libc::S_IFMT);
    let mode = Mode::from_bits_truncate(device.mode & 0o7777);
    let number = libc::makedev(device.major, device.minor);
    match nix::sys::stat::mknodat(&parent, name, kind, mode, number) {
        Ok(()) => {}
        Err(Errno::EEXIST) => return Ok(()),
        // Some machines forbid mknod; the node of the machine itself does as well.
        Err(Errno::EPERM) => return bind_device(root, entry),
        Err(errno) => return Err(errno),
    }
    if device.uid == 0 && device.gid == 0 {
        return Ok(());
    }
    let flags = nix::fcntl::AtFlags::AT_SYMLINK_NOFOLLOW;
    nix::unistd::fchownat(&parent, name, Some(device.uid.into()), Some(device.gid.into()), flags)
}

fn bind_device(root: BorrowedFd<'_>, entry: &super::PreparedDevice) -> nix::Result<()> {
    let slash = open_in_root(CWD, c"/", libc::O_PATH, 0)?;
    let node = open_in_root(slash.as_fd(), &entry.path, libc::O_PATH, 0)?;
    let tree = machine_node(node.as_fd())?;
    let target = root::target(root, &entry.path, Kind::File)?;
    attach(tree.as_fd(), target.as_fd())
}

/// A mount of a device node of the machine. It can be used but not changed: its mode and owner are
/// the machine's too.
fn machine_node(node: BorrowedFd<'_>) -> nix::Result<OwnedFd> {
    let tree = clone_tree(node, c"", false)?;
    let attributes = Attributes { set: libc::MOUNT_ATTR_RDONLY, ..Attributes::default() };
    set_attributes(tree.as_fd(), attributes)?;
    Ok(tree)
}

/// Hides a path: a directory under an empty read-only tmpfs, anything else under `/dev/null`.
fn mask(root: BorrowedFd<'_>, path: &CStr) -> nix::Result<()> {
    let target = match open_in_root(root, path, libc::O_PATH, 0) {
        Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok(()),
        other => other?,
    };
    let stat = nix::sys::stat::fstat(&target)?;
    let cover = if stat.st_mode & libc::S_IFMT == libc::S_IFDIR {
        let filesystem = Filesystem::open(c"tmpfs")?;
        filesystem.set(c"size", Some(c"0"))?;
        filesystem.mount(libc::MOUNT_ATTR_RDONLY)?
    } else {
        // The machine's, not the container's, and only if it is what it should be
        // (CVE-2025-31133).
        let null = nix::fcntl::open(
            c"/dev/null",
            OFlag::O_PATH | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW,
            Mode::empty(),
        )?;
        let stat = nix::sys::stat::fstat(&null)?;
        if stat.st_mode & libc::S_IFMT != libc::S_IFCHR || stat.st_rdev != libc::makedev(1, 3) {
            return Err(Errno::ENODEV);
        }
        machine_node(null.as_fd())?
    };
    attach(cover.as_fd(), target.as_fd())
}

fn read_only(root: BorrowedFd<'_>, path: &CStr) -> nix::Result<()> {
    let target = match open_in_root(root, path, libc::O_PATH, 0) {
        Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok(()),
        other => other?,
    };
    let tree = clone_tree(target.as_fd(), c"", true)?;
    let attributes =
        Attributes { set: libc::MOUNT_ATTR_RDONLY, recursive: true, ..Attributes::default() };
    set_attributes(tree.as_fd(), attributes)?;
    attach(tree.as_fd(), target.as_fd())
}

fn adjust_oom_score(process: &PreparedProcess) {
    if let Some(score) = &process.oom_score_adj {
        // Withheld privileges were reported by the parent; a process runs without.
        let _ = write_proc(c"/proc/self/oom_score_adj", score);
    }
}

fn write_file(path: &CStr, value: &CStr) -> nix::Result<()> {
    let file = openat(CWD, path, OFlag::O_WRONLY | OFlag::O_CLOEXEC, Mode::empty())?;
    nix::unistd::write(&file, value.to_bytes()).map(drop)
}

/// Writes a file of the proc filesystem, and nothing else that may have its path.
fn write_proc(path: &CStr, value: &CStr) -> nix::Result<()> {
    const PROC_SUPER_MAGIC: nix::sys::statfs::FsType = nix::sys::statfs::PROC_SUPER_MAGIC;
    let file = openat(CWD, path, OFlag::O_WRONLY | OFlag::O_CLOEXEC, Mode::empty())?;
    if nix::sys::statfs::fstatfs(&file)?.filesystem_type() != PROC_SUPER_MAGIC {
        return Err(Errno::EXDEV);
    }
    nix::unistd::write(&file, value.to_bytes()).map(drop)
}

/// Starts the first process of a sandbox's PID namespace and returns its process ID.
///
/// It reaps orphans and nothing else: no files, no capabilities, an empty root, a filter. It dies with the
/// shim, and everything in the namespace with it.
pub fn init() -> nix::Result<i32> {
    let filter = crate::seccomp::reaper().map_err(|_| Errno::EINVAL)?;
    let filter = super::process::instructions(&filter.program);
    let flags = (libc::CLONE_NEWPID | libc::CLONE_NEWNS) as u64;
    match crate::sys::clone::clone3(flags, None)? {
        crate::sys::clone::Fork::Parent(pid) => Ok(pid),
        crate::sys::clone::Fork::Child => {
            let _guard = NoWayBack;
            if become_init(&filter).is_err() {
                sys::leave(128);
            }
            sys::reap_forever()
        }
    }
}

fn become_init(filter: &[sys::Instruction]) -> nix::Result<()> {
    const NOBODY: u32 = 65534;
    sys::set_name(c"coracle-init");
    sys::control(libc::PR_SET_PDEATHSIG, libc::SIGKILL as u64)?;
    sys::close_from(0)?;
    isolate_all(libc::MS_SLAVE)?;
    let filesystem = Filesystem::open(c"tmpfs")?;
    filesystem.set(c"size", Some(c"0"))?;
    let root = filesystem.mount(libc::MOUNT_ATTR_RDONLY)?;
    let slash = openat(CWD, c"/", OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?;
    attach(root.as_fd(), slash.as_fd())?;
    nix::unistd::fchdir(&root)?;
    pivot_to_cwd()?;
    drop((root, slash));
    for capability in 0..=sys::last_capability() {
        sys::control(libc::PR_CAPBSET_DROP, u64::from(capability))?;
    }
    sys::set_ids(NOBODY, NOBODY, &[], false)?;
    sys::set_capabilities(0, 0, 0)?;
    // Changing the user has cleared the parent death signal.
    sys::control(libc::PR_SET_PDEATHSIG, libc::SIGKILL as u64)?;
    // Not even a privileged neighbour in the namespace learns anything of the shim from it.
    sys::control(libc::PR_SET_DUMPABLE, 0)?;
    // One with CAP_SYS_PTRACE can still make it run other code: nothing that code calls helps it.
    sys::control(libc::PR_SET_NO_NEW_PRIVS, 1)?;
    sys::set_seccomp(filter, 0)
}
