//! A process plan with everything allocated.

use std::ffi::CString;
use std::fs::File;
use std::os::fd::OwnedFd;

use super::{c_string, child};
use crate::LaunchError;
use crate::plan::{CapabilitySets, Limit, ProcessPlan};
use crate::seccomp;
use crate::sys::process::{Instruction, StringArray, last_capability, permitted_capabilities};

/// What a shell and Go assume when `PATH` is not set.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

pub(super) struct PreparedProcess {
    /// Paths to try in order.
    pub candidates: Vec<CString>,
    /// Whether they come from `PATH`.
    pub searched: bool,
    pub args: StringArray,
    pub env: StringArray,
    pub cwd: CString,
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
    pub umask: Option<u32>,
    pub capabilities: Option<CapabilitySets>,
    pub last_capability: u32,
    pub limits: Vec<Limit>,
    pub no_new_privileges: bool,
    pub oom_score_adj: Option<CString>,
    pub apparmor: Option<CString>,
    pub seccomp: Option<Vec<Instruction>>,
    pub seccomp_flags: u64,
    /// True if the filter lets a process make another one and execute its program in there.
    pub seccomp_lets_fork: bool,
    pub streams: [OwnedFd; 3],
    pub terminal: bool,
    pub reports: OwnedFd,
    /// The descriptor that it waits for before its program.
    pub gate: Option<OwnedFd>,
}

impl PreparedProcess {
    pub fn new(
        plan: &ProcessPlan,
        streams: [OwnedFd; 3],
        terminal: bool,
        reports: OwnedFd,
        gate: Option<OwnedFd>,
        warnings: &mut Vec<String>,
    ) -> Result<Self, LaunchError> {
        let program = plan.args.first().map_or("", String::as_str);
        let searched = !program.contains('/');
        let candidates = if searched {
            let path = plan
                .env
                .iter()
                .rev()
                .find_map(|variable| variable.strip_prefix("PATH="))
                .unwrap_or(DEFAULT_PATH);
            path.split(':')
                .filter(|directory| !program.is_empty() && directory.starts_with('/'))
                .map(|directory| c_string(format!("{directory}/{program}")))
                .collect::<Result<_, _>>()?
        } else {
            vec![c_string(program)?]
        };
        let strings = |list: &[String]| {
            Ok::<_, LaunchError>(StringArray::new(
                list.iter().map(c_string).collect::<Result<_, _>>()?,
            ))
        };
        // The shim's own score is not for its containers.
        let oom_score_adj = oom_score(plan.oom_score_adj.unwrap_or(0), warnings);
        Ok(Self {
            candidates,
            searched,
            args: strings(&plan.args)?,
            env: strings(&plan.env)?,
            cwd: c_string(&plan.cwd)?,
            uid: plan.uid,
            gid: plan.gid,
            groups: plan.groups.clone(),
            umask: plan.umask,
            capabilities: plan.capabilities.map(|sets| within_reach(sets, warnings)),
            last_capability: last_capability(),
            limits: plan.limits.clone(),
            no_new_privileges: plan.no_new_privileges,
            oom_score_adj,
            apparmor: match &plan.apparmor {
                Some(profile) if std::path::Path::new("/sys/module/apparmor").exists() => {
                    Some(c_string(format!("exec {}", profile.trim_start_matches("localhost/")))?)
                }
                _ => None,
            },
            seccomp_lets_fork: plan
                .seccomp
                .as_ref()
                .is_none_or(|program| seccomp::allows(program, &child::AFTER_FORK)),
            seccomp: plan.seccomp.as_ref().map(|program| program.iter().map(unpack).collect()),
            seccomp_flags: plan.seccomp_flags,
            streams,
            terminal,
            reports,
            gate,
        })
    }
}

/// Lowering the score needs CAP_SYS_RESOURCE; without it the lowest we may have is our own.
fn oom_score(wanted: i32, warnings: &mut Vec<String>) -> Option<CString> {
    const CAP_SYS_RESOURCE: u64 = 1 << 24;
    let own = crate::own_limits::oom_score();
    let capable = permitted_capabilities().is_ok_and(|set| set & CAP_SYS_RESOURCE != 0);
    let granted = if wanted < own && !capable {
        warnings.push(format!(
            "oom_score_adj {wanted} needs CAP_SYS_RESOURCE, which this machine withholds; {own} is used"
        ));
        own
    } else {
        wanted
    };
    CString::new(granted.to_string()).ok()
}

/// Drops capabilities that this process does not have itself and so cannot grant.
fn within_reach(sets: CapabilitySets, warnings: &mut Vec<String>) -> CapabilitySets {
    let own = permitted_capabilities().unwrap_or(u64::MAX);
    if sets.permitted & !own != 0 {
        warnings.push(format!("capabilities {:#x} cannot be granted", sets.permitted & !own));
    }
    CapabilitySets {
        bounding: sets.bounding,
        effective: sets.effective & sets.permitted & own,
        inheritable: sets.inheritable & own,
        permitted: sets.permitted & own,
        ambient: sets.ambient & sets.permitted & sets.inheritable & own,
    }
}

/// The instructions of a compiled filter, as the kernel takes them.
pub(super) fn instructions(program: &[u64]) -> Vec<Instruction> {
    program.iter().map(unpack).collect()
}

fn unpack(packed: &u64) -> Instruction {
    Instruction {
        code: *packed as u16,
        jt: (*packed >> 16) as u8,
        jf: (*packed >> 24) as u8,
        k: (*packed >> 32) as u32,
    }
}

/// `/dev/null`, checked to be what it should.
pub(crate) fn null() -> std::io::Result<File> {
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    let file = File::options().read(true).write(true).open("/dev/null")?;
    let metadata = file.metadata()?;
    if metadata.file_type().is_char_device() && metadata.rdev() == libc::makedev(1, 3) {
        Ok(file)
    } else {
        Err(std::io::Error::other("/dev/null is not the null device"))
    }
}
