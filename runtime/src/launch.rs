//! Starting processes from plans: everything is opened, made and allocated here, in the shim, so
//! that the code between clone and exec ([`child`]) has only system calls left to do.

mod child;
mod mount;
mod process;
mod report;
mod root;

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::fcntl::OFlag;

use crate::plan::{Device, MountSource, Namespace, Plan, ProcessPlan};
use crate::sys::{clone, mount as sys_mount, process as sys_process, tty};
use crate::{LaunchError, LaunchErrorKind};

use mount::{PreparedMount, PreparedRoot};
use process::{PreparedGate, PreparedProcess};
use report::{Report, Step};

pub use child::init;
pub(crate) use process::null;

/// The standard streams of a process.
pub enum Stdio {
    /// As given: input, output, errors.
    Streams([OwnedFd; 3]),
    /// A terminal made by the launch.
    Terminal,
}

/// A process that was started.
pub struct Started {
    /// Its process ID on the machine.
    pub pid: i32,
    /// The controlling side of its terminal.
    pub terminal: Option<OwnedFd>,
    /// What could not be granted and was left out.
    pub warnings: Vec<String>,
}

/// A process that is set up and waits before its program.
pub struct Gate {
    open: OwnedFd,
    reports: OwnedFd,
    wording: Wording,
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
    cgroup_procs: Vec<File>,
    hostname: Option<CString>,
    domainname: Option<CString>,
    sysctls: Vec<(CString, CString)>,
    root: PreparedRoot,
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
) -> Result<(Started, Gate), LaunchError> {
    let mut warnings = Vec::new();
    let mut prepared_mounts = Vec::with_capacity(plan.mounts.len());
    let mut terminal = None;
    let mut streams = match stdio {
        Stdio::Streams(streams) => Some(streams),
        Stdio::Terminal => None,
    };
    for planned in &plan.mounts {
        let mounted = mount::prepare(planned, &plan.cgroup)?;
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

    let (report_read, report_write) = pipe()?;
    let (wait, open) = pipe()?;
    let process = PreparedProcess::new(
        &plan.process,
        streams,
        master.is_some(),
        report_write,
        Some(PreparedGate { wait, open: open.as_raw_fd() }),
        &mut warnings,
    )?;

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
        cgroup_procs,
        hostname: plan.hostname.as_deref().map(c_string).transpose()?,
        domainname: plan.domainname.as_deref().map(c_string).transpose()?,
        sysctls: sysctls(&plan.sysctls)?,
        root: mount::prepare_root(&plan.rootfs, plan.root_propagation)?,
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
    let parent_pid_namespace = join_pid_namespace(join_pid.as_ref().or(sandbox_pid))?;
    let forked = clone::clone3(prepared.flags, cgroup_directory.as_ref().map(AsFd::as_fd));
    if let Ok(clone::Fork::Child) = forked {
        child::container(&prepared);
    }
    let _ = leave_pid_namespace(parent_pid_namespace);
    // Also closes our copy of the write end of the report pipe.
    drop(prepared);
    let pid = match forked {
        Ok(clone::Fork::Parent(pid)) => pid,
        Ok(clone::Fork::Child) => sys_process::leave(1),
        Err(errno) => return Err(with_errno("clone3", errno)),
    };
    match Report::read(&report_read) {
        Some(report) if report.step == Step::Ready => {
            let gate = Gate { open, reports: report_read, wording };
            Ok((Started { pid, terminal: master, warnings }, gate))
        }
        report => {
            let _ = clone::wait(pid);
            Err(match report {
                Some(report) => report.explain(&wording),
                None => plain("the process ended before its program was executed"),
            })
        }
    }
}

impl Gate {
    /// Lets the process go on to its program.
    pub fn open(self) -> Result<(), LaunchError> {
        nix::unistd::write(&self.open, b"!")
            .map_err(|errno| with_errno("opening the gate", errno))?;
        match Report::read(&self.reports) {
            None => Ok(()),
            Some(report) => Err(report.explain(&self.wording)),
        }
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
pub fn exec(
    inside: &Inside<'_>,
    process: &ProcessPlan,
    stdio: Stdio,
) -> Result<Started, LaunchError> {
    let mut warnings = Vec::new();
    let pidfd = sys_process::pidfd(inside.pid).map_err(|e| with_errno("pidfd_open", e))?;
    let (streams, master) = match stdio {
        Stdio::Streams(streams) => (streams, None),
        Stdio::Terminal => {
            let (master, slave) = terminal_in(inside.pid, process.size)?;
            (triple(slave)?, Some(master))
        }
    };
    let (report_read, report_write) = pipe()?;
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
    let mut flags =
        libc::CLONE_NEWNS | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS | libc::CLONE_NEWNET;
    if inside.plan.namespaces.iter().any(|n| n.flag == libc::CLONE_NEWCGROUP as u64) {
        flags |= libc::CLONE_NEWCGROUP;
    }
    let own =
        File::open("/proc/self/ns/pid").map_err(|e| other("opening /proc/self/ns/pid", &e))?;
    sys_process::join_namespaces(pidfd.as_fd(), libc::CLONE_NEWPID)
        .map_err(|e| with_errno("joining the PID namespace", e))?;
    let forked = clone::clone3(0, cgroup_directory.as_ref().map(AsFd::as_fd));
    if let Ok(clone::Fork::Child) = forked {
        child::exec(&prepared, pidfd.as_fd(), flags, &procs);
    }
    let _ = leave_pid_namespace(Some(own));
    drop(prepared);
    let pid = match forked {
        Ok(clone::Fork::Parent(pid)) => pid,
        Ok(clone::Fork::Child) => sys_process::leave(1),
        Err(errno) => return Err(with_errno("clone3", errno)),
    };
    match Report::read(&report_read) {
        None => Ok(Started { pid, terminal: master, warnings }),
        Some(report) => {
            let _ = clone::wait(pid);
            Err(report.explain(&Wording {
                program: process.args.first().cloned().unwrap_or_default(),
                cwd: process.cwd.clone(),
                mounts: Vec::new(),
                paths: Vec::new(),
            }))
        }
    }
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
