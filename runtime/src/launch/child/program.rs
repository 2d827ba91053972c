//! The last steps before the program: streams, limits, identity, privileges, filter.

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;

use super::super::process::PreparedProcess;
use super::super::report::{Report, Step};
use super::super::root::{self, Kind};
use super::{Outcome, at};
use crate::sys::process as sys;
use crate::sys::tty;

/// Becomes the program.
pub(super) fn become_program(process: &PreparedProcess) -> Outcome {
    standard_streams(process)?;
    session(process)?;
    settle(process, true)?;
    run(process)
}

/// Makes a sibling that becomes the program, and ends. All that the sibling has when it comes to be
/// seen in the PID namespace is what the program will have.
pub(super) fn become_sibling(process: &PreparedProcess) -> Outcome {
    standard_streams(process)?;
    // A filter that needs a privilege to be installed and lets no process be made comes last.
    let filtered = process.no_new_privileges || process.seccomp_lets_fork;
    settle(process, filtered)?;
    match crate::sys::clone::fork_sibling().map_err(at(Step::JoinNamespace, 0))? {
        crate::sys::clone::Fork::Parent(pid) => {
            Report { step: Step::Pid, index: 0, errno: pid }.send(&process.reports);
            sys::leave(0)
        }
        crate::sys::clone::Fork::Child => {}
    }
    session(process)?;
    if !filtered {
        seccomp(process)?;
        capabilities(process, 0)?;
    }
    run(process)
}

fn session(process: &PreparedProcess) -> Outcome {
    nix::unistd::setsid().map_err(at(Step::Session, 0))?;
    if process.terminal {
        tty::control(sys::standard_stream(0)).map_err(at(Step::Session, 1))?;
    }
    Ok(())
}

fn standard_streams(process: &PreparedProcess) -> Outcome {
    for (number, stream) in process.streams.iter().enumerate() {
        sys::duplicate(stream.as_fd(), number as i32).map_err(at(Step::Streams, number))?;
        if process.uid != 0 {
            own_stream(stream, process.uid);
        }
        if is_null(stream) {
            own_null(number).map_err(at(Step::Streams, number))?;
        }
    }
    Ok(())
}

fn is_null(fd: impl AsFd) -> bool {
    nix::sys::stat::fstat(fd).is_ok_and(|stat| {
        stat.st_mode & libc::S_IFMT == libc::S_IFCHR && stat.st_rdev == libc::makedev(1, 3)
    })
}

/// Replaces the machine's `/dev/null` by the container's: a process with a descriptor of a file may
/// change its mode and owner.
fn own_null(number: usize) -> nix::Result<()> {
    let flags = OFlag::O_RDWR | OFlag::O_NOFOLLOW | OFlag::O_NOCTTY | OFlag::O_NONBLOCK;
    match nix::fcntl::open(c"/dev/null", flags | OFlag::O_CLOEXEC, Mode::empty()) {
        Ok(null) if is_null(&null) => sys::duplicate(null.as_fd(), number as i32),
        _ if number == 0 => {
            // Input that has ended serves as well.
            let (read, _) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
            sys::duplicate(read.as_fd(), 0)
        }
        Ok(_) => Err(Errno::ENODEV),
        Err(errno) => Err(errno),
    }
}

/// Sets all that a program inherits, closes every other descriptor and gives up privileges. Unless
/// `filtered`, the filter that needs a privilege is left for later, with that privilege.
///
/// After the filter come as few calls as can be: a profile is made for the program.
fn settle(process: &PreparedProcess, filtered: bool) -> Outcome {
    const CAP_SYS_ADMIN: u64 = 1 << 21;
    limits(process)?;
    sys::set_umask(process.umask.unwrap_or(0o022));
    let entered = enter_cwd(&process.cwd);
    let reports = process.reports.as_raw_fd();
    let wait = process.gate.as_ref().map_or(reports, AsRawFd::as_raw_fd);
    sys::close_except([reports, wait]).map_err(at(Step::Streams, 3))?;
    identity(process)?;
    if entered.is_err() {
        // A directory that only the user may enter, on a network filesystem for example.
        nix::unistd::chdir(process.cwd.as_c_str()).map_err(at(Step::Cwd, 0))?;
    }
    if !sys::cwd_is_inside() {
        return Err((Step::CwdOutside, 0, Errno::ENOENT));
    }
    sys::reset_signals();
    if process.no_new_privileges {
        sys::control(libc::PR_SET_NO_NEW_PRIVS, 1).map_err(at(Step::NoNewPrivileges, 0))?;
        return capabilities(process, 0);
    }
    if process.seccomp.is_none() {
        return capabilities(process, 0);
    }
    if process.uid != 0 {
        // Changing the user has left them permitted only.
        let own = sys::permitted_capabilities().map_err(at(Step::Capabilities, 0))?;
        sys::set_capabilities(own, own, 0).map_err(at(Step::Capabilities, 0))?;
    }
    if filtered {
        seccomp(process)?;
        capabilities(process, 0)
    } else {
        capabilities(process, CAP_SYS_ADMIN)
    }
}

/// Waits at the gate, if there is one, and executes the program.
fn run(process: &PreparedProcess) -> Outcome {
    if let Some(wait) = &process.gate {
        Report { step: Step::Ready, index: 0, errno: 0 }.send(&process.reports);
        let mut byte = [0_u8; 1];
        if !matches!(nix::unistd::read(wait, &mut byte), Ok(1)) {
            sys::leave(128);
        }
    }
    if process.no_new_privileges {
        seccomp(process)?;
    }
    execute(process)
}

/// The program runs as its user and may want to open `/dev/stdout` again. Only streams made for it
/// change hands: never `/dev/null`, which is the machine's.
fn own_stream(stream: &OwnedFd, uid: u32) {
    let Ok(stat) = nix::sys::stat::fstat(stream) else { return };
    let terminal = stat.st_mode & libc::S_IFMT == libc::S_IFCHR
        && (136..=143).contains(&libc::major(stat.st_rdev));
    if terminal || stat.st_mode & libc::S_IFMT == libc::S_IFIFO {
        let _ = nix::unistd::fchown(stream, Some(uid.into()), None);
    }
}

fn limits(process: &PreparedProcess) -> Outcome {
    for (index, limit) in process.limits.iter().enumerate() {
        match sys::set_limit(limit.resource, limit.soft, limit.hard) {
            // Raising needs CAP_SYS_RESOURCE; without it the program gets what it already has.
            Ok(()) | Err(Errno::EPERM) => {}
            Err(errno) => return Err((Step::Limit, index, errno)),
        }
    }
    Ok(())
}

fn enter_cwd(cwd: &CStr) -> nix::Result<()> {
    match nix::unistd::chdir(cwd) {
        Err(Errno::ENOENT) => {}
        other => return other,
    }
    let slash = nix::fcntl::open(c"/", OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?;
    let relative = cwd.to_bytes_with_nul();
    let start = relative.iter().position(|&b| b != b'/').ok_or(Errno::ENOENT)?;
    let relative = CStr::from_bytes_with_nul(&relative[start..]).map_err(|_| Errno::EINVAL)?;
    let made = root::target(slash.as_fd(), relative, Kind::Directory)?;
    nix::unistd::fchdir(&made)
}

/// Sets user and groups, and what exec may ever grant; keeps the capabilities.
fn identity(process: &PreparedProcess) -> Outcome {
    if let Some(sets) = &process.capabilities {
        for capability in 0..=process.last_capability {
            if sets.bounding & (1 << capability) == 0 {
                sys::control(libc::PR_CAPBSET_DROP, u64::from(capability))
                    .map_err(at(Step::Bounding, capability as usize))?;
            }
        }
    }
    sys::control(libc::PR_SET_KEEPCAPS, 1).map_err(at(Step::Ids, 0))?;
    sys::set_ids(process.uid, process.gid, &process.groups, false).map_err(at(Step::Ids, 1))?;
    sys::control(libc::PR_SET_KEEPCAPS, 0).map_err(at(Step::Ids, 2))
}

/// Sets the capabilities of the program, and `more` for what is still to be done.
fn capabilities(process: &PreparedProcess, more: u64) -> Outcome {
    let Some(sets) = &process.capabilities else { return Ok(()) };
    sys::set_capabilities(sets.effective | more, sets.permitted | more, sets.inheritable)
        .map_err(at(Step::Capabilities, 0))?;
    for capability in 0..=process.last_capability {
        if sets.ambient & (1 << capability) != 0 {
            sys::raise_ambient(capability).map_err(at(Step::Capabilities, capability as usize))?;
        }
    }
    Ok(())
}

fn seccomp(process: &PreparedProcess) -> Outcome {
    match &process.seccomp {
        Some(program) => {
            sys::set_seccomp(program, process.seccomp_flags).map_err(at(Step::Seccomp, 0))
        }
        None => Ok(()),
    }
}

/// Tries each candidate as a shell would: a missing file goes on, a forbidden one is remembered.
fn execute(process: &PreparedProcess) -> Outcome {
    let mut forbidden = false;
    for candidate in &process.candidates {
        match sys::execute(candidate, &process.args, &process.env) {
            Errno::ENOENT | Errno::ENOTDIR if process.searched => {}
            Errno::EACCES if process.searched => forbidden = true,
            errno => return Err((Step::Execute, 0, errno)),
        }
    }
    if forbidden {
        Err((Step::Execute, 0, Errno::EACCES))
    } else {
        Err((Step::NotFound, 0, Errno::ENOENT))
    }
}
