//! The limits that the node's process asks the kernel for, and those of its children.

use std::fs;
use std::io;
use std::sync::OnceLock;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// The environment variable that hands a shim the soft limit of open files that its containers get.
pub(crate) const OPEN_FILES: &str = "CORACLE_OPEN_FILES";

/// The soft limit of open files of this process.
pub fn open_files() -> nix::Result<u64> {
    Ok(getrlimit(Resource::RLIMIT_NOFILE)?.0)
}

/// The soft limit of open files before it was raised.
static INHERITED: OnceLock<u64> = OnceLock::new();

/// Raises the soft limit of open files to the hard limit; returns the hard limit. Containers get the
/// soft limit that this process was started with.
pub fn raise_open_files() -> nix::Result<u64> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let _ = INHERITED.set(soft);
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    Ok(hard)
}

/// The soft limit of open files for containers, if this process has raised its own.
pub(crate) fn inherited_open_files() -> Option<u64> {
    INHERITED.get().copied()
}

/// Sets the soft limit of open files that a shim was handed, which its containers inherit.
pub(crate) fn restore_open_files() -> nix::Result<()> {
    let handed = std::env::var(OPEN_FILES).ok().and_then(|text| text.parse::<u64>().ok());
    let Some(soft) = handed else { return Ok(()) };
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, soft.min(hard), hard)
}

/// The OOM score of a shim: without it a pod is lost as a whole. Guaranteed pods have -997.
pub(crate) const SHIM_OOM_SCORE: i32 = -998;

/// The OOM score of this process.
pub(crate) fn oom_score() -> i32 {
    fs::read_to_string("/proc/self/oom_score_adj")
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(0)
}

/// Sets how willingly the kernel ends this process when memory runs out: -1000 (never) to 1000.
/// Less than before needs CAP_SYS_RESOURCE.
pub fn set_oom_score(score: i32) -> io::Result<()> {
    fs::write("/proc/self/oom_score_adj", score.to_string())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn raised_limit_is_the_hard_limit() {
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        assert_eq!(raise_open_files(), Ok(hard));
        assert_eq!(getrlimit(Resource::RLIMIT_NOFILE).unwrap(), (hard, hard));
        assert_eq!(inherited_open_files(), Some(soft));
        setrlimit(Resource::RLIMIT_NOFILE, soft, hard).unwrap();
    }
}
