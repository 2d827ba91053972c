//! The process part of a plan.

use std::str::FromStr;

use oci_spec::runtime::{Capabilities, LinuxSeccomp, PosixRlimitType, Process};
use serde::{Deserialize, Serialize};

use super::refuse;
use crate::LaunchError;

/// How to execute one program.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ProcessPlan {
    /// Arguments, program first; never empty.
    pub args: Vec<String>,
    /// `NAME=value`.
    pub env: Vec<String>,
    /// Working directory in the container.
    pub cwd: String,
    /// Whether it gets a terminal.
    pub terminal: bool,
    /// Its first size: (columns, rows).
    pub size: Option<(u16, u16)>,
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// File mode creation mask.
    pub umask: Option<u32>,
    /// Capability sets as bit masks; `None` leaves what there is.
    pub capabilities: Option<CapabilitySets>,
    /// Resource limits.
    pub limits: Vec<Limit>,
    /// Whether exec may never grant privileges.
    pub no_new_privileges: bool,
    /// The OOM killer's preference.
    pub oom_score_adj: Option<i32>,
    /// AppArmor profile, if that is on.
    pub apparmor: Option<String>,
    /// The seccomp filter: instructions of 8 bytes, packed into integers.
    pub seccomp: Option<Vec<u64>>,
    /// `SECCOMP_FILTER_FLAG_…`.
    pub seccomp_flags: u64,
}

/// Capability sets as bit masks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CapabilitySets {
    /// What exec may ever grant.
    pub bounding: u64,
    /// What is checked.
    pub effective: u64,
    /// What exec keeps for files that inherit.
    pub inheritable: u64,
    /// What may be made effective.
    pub permitted: u64,
    /// What exec keeps for an unprivileged user.
    pub ambient: u64,
}

/// One resource limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limit {
    /// `RLIMIT_…`.
    pub resource: u32,
    /// What applies.
    pub soft: u64,
    /// How far the process may raise it.
    pub hard: u64,
}

/// Compiles the process of a spec.
pub fn process(
    process: Option<&Process>,
    seccomp: Option<&LinuxSeccomp>,
) -> Result<ProcessPlan, LaunchError> {
    let process = process.ok_or_else(|| refuse("the spec has no process".to_owned()))?;
    let args = process.args().clone().unwrap_or_default();
    if args.is_empty() {
        return Err(refuse("no command specified".to_owned()));
    }
    let (seccomp, seccomp_flags) = match seccomp {
        Some(profile) => {
            let filter = crate::seccomp::compile(profile).map_err(|e| refuse(e.to_string()))?;
            (Some(filter.program), filter.flags)
        }
        None => (None, 0),
    };
    let cwd = process.cwd().to_str().unwrap_or("/");
    Ok(ProcessPlan {
        args,
        env: process.env().clone().unwrap_or_default(),
        cwd: if cwd.is_empty() { "/".to_owned() } else { cwd.to_owned() },
        terminal: process.terminal().unwrap_or(false),
        size: process.console_size().map(|size| (size.width() as u16, size.height() as u16)),
        uid: process.user().uid(),
        gid: process.user().gid(),
        groups: process.user().additional_gids().clone().unwrap_or_default(),
        umask: process.user().umask(),
        capabilities: process
            .capabilities()
            .as_ref()
            .map(|sets| {
                Ok(CapabilitySets {
                    bounding: mask(sets.bounding())?,
                    effective: mask(sets.effective())?,
                    inheritable: mask(sets.inheritable())?,
                    permitted: mask(sets.permitted())?,
                    ambient: mask(sets.ambient())?,
                })
            })
            .transpose()?,
        limits: process
            .rlimits()
            .iter()
            .flatten()
            .map(|limit| Limit {
                resource: resource(limit.typ()),
                soft: limit.soft(),
                hard: limit.hard(),
            })
            .collect(),
        no_new_privileges: process.no_new_privileges().unwrap_or(false),
        oom_score_adj: process.oom_score_adj(),
        apparmor: process.apparmor_profile().clone().filter(|p| !p.is_empty() && p != "unconfined"),
        seccomp,
        seccomp_flags,
    })
}

fn mask(set: &Option<Capabilities>) -> Result<u64, LaunchError> {
    set.iter().flatten().try_fold(0, |mask, capability| {
        caps::Capability::from_str(&format!("CAP_{capability}"))
            .map(|known| mask | known.bitmask())
            .map_err(|_| refuse(format!("unknown capability \"CAP_{capability}\"")))
    })
}

#[allow(clippy::unnecessary_cast, reason = "the C libraries disagree on the type")]
fn resource(kind: PosixRlimitType) -> u32 {
    use PosixRlimitType as Type;
    (match kind {
        Type::RlimitCpu => libc::RLIMIT_CPU,
        Type::RlimitFsize => libc::RLIMIT_FSIZE,
        Type::RlimitData => libc::RLIMIT_DATA,
        Type::RlimitStack => libc::RLIMIT_STACK,
        Type::RlimitCore => libc::RLIMIT_CORE,
        Type::RlimitRss => libc::RLIMIT_RSS,
        Type::RlimitNproc => libc::RLIMIT_NPROC,
        Type::RlimitNofile => libc::RLIMIT_NOFILE,
        Type::RlimitMemlock => libc::RLIMIT_MEMLOCK,
        Type::RlimitAs => libc::RLIMIT_AS,
        Type::RlimitLocks => libc::RLIMIT_LOCKS,
        Type::RlimitSigpending => libc::RLIMIT_SIGPENDING,
        Type::RlimitMsgqueue => libc::RLIMIT_MSGQUEUE,
        Type::RlimitNice => libc::RLIMIT_NICE,
        Type::RlimitRtprio => libc::RLIMIT_RTPRIO,
        Type::RlimitRttime => libc::RLIMIT_RTTIME,
    }) as u32
}
