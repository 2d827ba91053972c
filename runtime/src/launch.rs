//! Starting processes from plans: everything is opened, made and allocated here, in the shim, so
//! that the code between clone and exec ([`child`]) has only system calls left to do.

mod child;
mod mount;
mod process;
mod progress;
mod report;
mod root;

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::fcntl::OFlag;

use crate::plan::{Device, MountSource, Namespace, Plan, ProcessPlan};
use crate::sys::{clone, mount as sys_mount, process as sys_process, tty};
use crate::{LaunchError, LaunchErrorKind};

pub use mount::max_layers;
use mount::{PreparedMount, PreparedRoot};
use process::PreparedProcess;

pub use child::init;
pub(crate) use process::null;
pub use progress::{Launch, Progress};

/// The standard streams of a process.
pub enum Stdio {
    /// As given: input, output, errors.
    Streams([OwnedFd; 3]),
    /// A terminal made by the launch.
    Terminal,
}

/// What error texts need to know of the process.
struct Wording {
    program: String,
    cwd: String,
    mounts: Vec<(String, String)>,
    paths: Vec<String>,
}

/// Everything the child needs.
struct Prepared {
    flags: u64,
    unshare_cgroup: bool,
    joins: Vec<(OwnedFd, i32)>,
    /// The PID namespace of the sandbox, for a process that is to be outside of it until it is set
    /// up.
    pids: Option<OwnedFd>,
    cgroup_procs: Vec<File>,
    hostname: Option<CString>,
    domainname: Option<CString>,
    sysctls: Vec<(CString, CString)>,
    root: PreparedRoot,
    /// `MS_…`, 0 for private.
    root_propagation: u64,
    readonly_rootfs: bool,
    mounts: Vec<PreparedMount>,
    devices: Vec<PreparedDevice>,
    own_dev: bool,
    masked: Vec<CString>,
    readonly: Vec<CString>,
    process: PreparedProcess,
}

struct PreparedDevice {
    path: CString,
    device: Device,
}

/// Starts the first process of a container: it is set up and waits at the gate.
pub fn container(
    plan: &Plan,
    stdio: Stdio,
    sandbox_pid: Option<&OwnedFd>,
) -> Result<Launch, LaunchError> {
    let mut warnings = Vec::new();
    let mut flags = 0;
    let mut unshare_cgroup = false;
    let mut joins = Vec::new();
    let mut join_pid = None;
    for Namespace { flag, path } in &plan.namespaces {
        match path {
            Some(path) => {
                let file = File::open(path)
                    .map_err(|e| other(&format!("opening namespace {}", path.display()), &e))?;
                if *flag == libc::CLONE_NEWPID as u64 {
                    join_pid = Some(OwnedFd::from(file));
                } else {
                    joins.push((OwnedFd::from(file), *flag as i32));
                }
            }
            None if *flag == libc::CLONE_NEWCGROUP as u64 => unshare_cgroup = true,
            None => flags |= flag,
        }
    }
    if flags & libc::CLONE_NEWNS as u64 == 0 {
        return Err(plain("a container needs a mount namespace of its own"));
    }
    if flags & libc::CLONE_NEWUSER as u64 != 0 {
        return Err(plain("user namespaces are not supported"));
    }
    let target = match (join_pid, sandbox_pid) {
        (Some(namespace), _) => Some(namespace),
        (None, Some(namespace)) => {
            Some(namespace.try_clone().map_err(|e| other("duplicating a namespace", &e))?)
        }
        (None, None) => None,
    };
    // A kernel that mounts proc only for the namespace of the caller needs it in there at once.
    let late = target.as_ref().is_some_and(|namespace| mount::mounts_proc_of(namespace.as_fd()));
    let (pids, early) = if late { (target, None) } else { (None, target) };
    let mut prepared_mounts = Vec::with_capacity(plan.mounts.len());
    let mut terminal = None;
    let mut streams = match stdio {
        Stdio::Streams(streams) => Some(streams),
        Stdio::Terminal => None,
    };
    for planned in &plan.mounts {
        let mounted = mount::prepare(planned, &plan.cgroup, pids.as_ref())?;
        if streams.is_none()
            && planned.target == "dev/pts"
            && let Some(devpts) = mounted.detached()
        {
            terminal = Some(terminal_of(devpts.as_fd(), plan.process.size)?);
        }
        prepared_mounts.push(mounted);
    }
    if streams.is_none() && terminal.is_none() {
        let host = File::open("/dev/pts").map_err(|e| other("opening /dev/pts", &e))?;
        terminal = Some(terminal_of(host.as_fd(), plan.process.size)?);
    }
    let master = match terminal {
        Some((master, slave)) => {
            streams = Some(triple(slave)?);
            Some(master)
        }
        None => None,
    };
    let streams = streams.ok_or_else(|| plain("a process without streams"))?;

    let (report_read, report_write) = report_pipe()?;
    let (wait, open) = pipe()?;
    let process = PreparedProcess::new(
        &plan.process,
        streams,
        master.is_some(),
        report_write,
        Some(wait),
        &mut warnings,
    )?;

    let cgroup_directory = match &plan.cgroup.directory {
        Some(path) => Some(File::open(path).map_err(|e| other("opening the cgroup", &e))?),
        None => None,
    };
    let cgroup_procs = plan
        .cgroup
        .procs
        .iter()
        .map(|path| {
            File::options()
                .write(true)
                .open(path)
                .map_err(|e| other(&format!("opening {}", path.display()), &e))
        })
        .collect::<Result<_, _>>()?;
    let prepared = Prepared {
        flags,
        unshare_cgroup,
        joins,
        pids,
        cgroup_procs,
        hostname: plan.hostname.as_deref().map(c_string).transpose()?,
        domainname: plan.domainname.as_deref().map(c_string).transpose()?,
        sysctls: sysctls(&plan.sysctls)?,
        root: mount::prepare_root(&plan.rootfs)?,
        root_propagation: plan.root_propagation,
        readonly_rootfs: plan.readonly_rootfs,
        mounts: prepared_mounts,
        devices: plan
            .devices
            .iter()
            .map(|device| {
                Ok(PreparedDevice { path: c_string(&device.path)?, device: device.clone() })
            })
            .collect::<Result<_, LaunchError>>()?,
        own_dev: plan.own_dev,
        masked: plan.masked_paths.iter().map(c_string).collect::<Result<_, _>>()?,
        readonly: plan.readonly_paths.iter().map(c_string).collect::<Result<_, _>>()?,
        process,
    };
    let wording = Wording {
        program: plan.process.args.first().cloned().unwrap_or_default(),
        cwd: plan.process.cwd.clone(),
        mounts: plan
            .mounts
            .iter()
            .map(|m| {
                let source = match &m.source {
                    MountSource::Bind { path, .. } => path.display().to_string(),
                    MountSource::Filesystem(filesystem) => filesystem.kind.clone(),
                    MountSource::Cgroup => "cgroup".to_owned(),
                };
                (source, m.target.clone())
            })
            .collect(),
        paths: plan.masked_paths.iter().chain(&plan.readonly_paths).cloned().collect(),
    };
    let parent_pid_namespace = join_pid_namespace(early.as_ref())?;
    let forked = clone::clone3(prepared.flags, cgroup_directory.as_ref().map(AsFd::as_fd));
    if let Ok(clone::Fork::Child) = forked {
        child::container(&prepared);
    }
    let _ = leave_pid_namespace(parent_pid_namespace);
    let outside = prepared.pids.is_some();
    // Also closes our copy of the write end of the report pipe.
    drop(prepared);
    let child = parent(forked)?;
    Ok(Launch {
        reports: report_read,
        child: Some(child),
        pid: (!outside).then_some(child),
        gate: Some(open),
        wording,
        terminal: master,
        warnings,
        ended: false,
    })
}

fn parent(forked: nix::Result<clone::Fork>) -> Result<i32, LaunchError> {
    match forked {
        Ok(clone::Fork::Parent(pid)) => Ok(pid),
        Ok(clone::Fork::Child) => sys_process::leave(1),
        Err(errno) => Err(with_errno("clone3", errno)),
    }
}

/// Where an additional process runs.
pub struct Inside<'a> {
    /// The first process of the container.
    pub pid: i32,
    /// The container's plan, for its control group.
    pub plan: &'a Plan,
}

/// Starts an additional process in a running container.
///
/// The child of the shim stays outside of the container's PID namespace: it joins everything else,
/// gives up its descriptors and privileges, and only then makes the process that executes the
/// program, as its sibling. So whatever a container with CAP_SYS_PTRACE looks at before the program
/// runs has the container's own root and privileges (CVE-2016-9962).
pub fn exec(
    inside: &Inside<'_>,
    process: &ProcessPlan,
    stdio: Stdio,
) -> Result<Launch, LaunchError> {
    let mut warnings = Vec::new();
    let pidfd = sys_process::pidfd(inside.pid).map_err(|e| with_errno("pidfd_open", e))?;
    let (streams, master) = match stdio {
        Stdio::Streams(streams) => (streams, None),
        Stdio::Terminal => {
            let (master, slave) = terminal_in(inside.pid, process.size)?;
            (triple(slave)?, Some(master))
        }
    };
    let (report_read, report_write) = report_pipe()?;
    let prepared = PreparedProcess::new(
        process,
        streams,
        master.is_some(),
        report_write,
        None,
        &mut warnings,
    )?;
    let cgroup_directory = match &inside.plan.cgroup.directory {
        Some(path) => Some(File::open(path).map_err(|e| other("opening the cgroup", &e))?),
        None => None,
    };
    let procs: Vec<File> = inside
        .plan
        .cgroup
        .procs
        .iter()
        .map(|path| File::options().write(true).open(path).map_err(|e| other("cgroup.procs", &e)))
        .collect::<Result<_, _>>()?;
    let mut flags = libc::CLONE_NEWNS
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWUTS
        | libc::CLONE_NEWNET
        | libc::CLONE_NEWPID;
    if inside.plan.namespaces.iter().any(|n| n.flag == libc::CLONE_NEWCGROUP as u64) {
        flags |= libc::CLONE_NEWCGROUP;
    }
    let forked = clone::clone3(0, cgroup_directory.as_ref().map(AsFd::as_fd));
    if let Ok(clone::Fork::Child) = forked {
        child::exec(&prepared, pidfd.as_fd(), flags, &procs);
    }
    drop(prepared);
    let child = parent(forked)?;
    Ok(Launch {
        reports: report_read,
        child: Some(child),
        pid: None,
        gate: None,
        wording: Wording {
            program: process.args.first().cloned().unwrap_or_default(),
            cwd: process.cwd.clone(),
            mounts: Vec::new(),
            paths: Vec::new(),
        },
        terminal: master,
        warnings,
        ended: false,
    })
}

/// Makes children of this process start in another PID namespace; returns the way back.
fn join_pid_namespace(target: Option<&OwnedFd>) -> Result<Option<File>, LaunchError> {
    let Some(target) = target else { return Ok(None) };
    let own =
        File::open("/proc/self/ns/pid").map_err(|e| other("opening /proc/self/ns/pid", &e))?;
    sys_process::join_namespaces(target.as_fd(), libc::CLONE_NEWPID)
        .map_err(|e| with_errno("joining the PID namespace", e))?;
    Ok(Some(own))
}

fn leave_pid_namespace(own: Option<File>) -> nix::Result<()> {
    match own {
        Some(own) => sys_process::join_namespaces(own.as_fd(), libc::CLONE_NEWPID),
        None => Ok(()),
    }
}

/// Opens a terminal in a devpts filesystem: (controlling side, process side).
fn terminal_of(
    devpts: std::os::fd::BorrowedFd<'_>,
    size: Option<(u16, u16)>,
) -> Result<(OwnedFd, OwnedFd), LaunchError> {
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let master = nix::fcntl::openat(devpts, c"ptmx", flags, nix::sys::stat::Mode::empty())
        .map_err(|errno| with_errno("opening a terminal", errno))?;
    if let Some((columns, rows)) = size {
        let _ = tty::set_size(master.as_fd(), columns, rows);
    }
    let slave =
        tty::open_peer(master.as_fd()).map_err(|e| with_errno("opening a terminal's peer", e))?;
    Ok((master, slave))
}

/// Opens a terminal in the devpts of a running container, trusting nothing in there.
fn terminal_in(pid: i32, size: Option<(u16, u16)>) -> Result<(OwnedFd, OwnedFd), LaunchError> {
    const DEVPTS_SUPER_MAGIC: nix::sys::statfs::FsType = nix::sys::statfs::FsType(0x1cd1);
    let root =
        File::open(format!("/proc/{pid}/root")).map_err(|e| other("opening the root", &e))?;
    let devpts =
        sys_mount::open_in_root(root.as_fd(), c"dev/pts", libc::O_DIRECTORY | libc::O_RDONLY, 0)
            .map_err(|errno| with_errno("opening the container's /dev/pts", errno))?;
    let kind = nix::sys::statfs::fstatfs(&devpts).map_err(|e| with_errno("statfs", e))?;
    if kind.filesystem_type() != DEVPTS_SUPER_MAGIC {
        return Err(plain("the container's /dev/pts is not a devpts filesystem"));
    }
    terminal_of(devpts.as_fd(), size)
}

fn triple(slave: OwnedFd) -> Result<[OwnedFd; 3], LaunchError> {
    let copy = || slave.try_clone().map_err(|e| other("duplicating a terminal", &e));
    Ok([copy()?, copy()?, slave])
}

fn sysctls(
    sysctls: &std::collections::BTreeMap<String, String>,
) -> Result<Vec<(CString, CString)>, LaunchError> {
    sysctls
        .iter()
        .map(|(name, value)| Ok((c_string(sysctl_path(name))?, c_string(value)?)))
        .collect()
}

/// The file of a sysctl. Names are written with dots; an interface name may contain a slash for
/// a dot of its own, as in `sysctl.d`.
pub fn sysctl_path(name: &str) -> String {
    let swapped: String = name
        .chars()
        .map(|c| match c {
            '.' => '/',
            '/' => '.',
            c => c,
        })
        .collect();
    format!("/proc/sys/{swapped}")
}

/// A pipe whose first end is read without blocking.
fn report_pipe() -> Result<(OwnedFd, OwnedFd), LaunchError> {
    let (read, write) = pipe()?;
    let flags = nix::fcntl::FcntlArg::F_SETFL(OFlag::O_NONBLOCK);
    nix::fcntl::fcntl(&read, flags).map_err(|errno| with_errno("fcntl", errno))?;
    Ok((read, write))
}

fn pipe() -> Result<(OwnedFd, OwnedFd), LaunchError> {
    nix::unistd::pipe2(OFlag::O_CLOEXEC).map_err(|errno| with_errno("pipe", errno))
}

fn c_string(text: impl AsRef<str>) -> Result<CString, LaunchError> {
    CString::new(text.as_ref()).map_err(|_| plain("a string of the spec contains a NUL byte"))
}

fn c_path(path: &Path) -> Result<CString, LaunchError> {
    CString::new(OsStr::as_bytes(path.as_os_str()))
        .map_err(|_| plain("a path of the spec contains a NUL byte"))
}

fn plain(message: &str) -> LaunchError {
    LaunchError {
        kind: LaunchErrorKind::Other,
        message: format!("unable to start container process: {message}"),
        errno: 0,
    }
}

fn with_errno(operation: &str, errno: nix::errno::Errno) -> LaunchError {
    LaunchError {
        kind: LaunchErrorKind::Other,
        message: format!(
            "unable to start container process: {operation}: {}",
            report::errno_text(errno)
        ),
        errno: errno as i32,
    }
}

fn other(operation: &str, error: &std::io::Error) -> LaunchError {
    with_errno(operation, nix::errno::Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)))
}
