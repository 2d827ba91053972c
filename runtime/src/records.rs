//! Small JSON files that survive crashes.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

/// The record of a sandbox, in its directory.
pub(crate) const SANDBOX: &str = "sandbox.json";
/// The record of a container that was prepared, in its directory.
pub(crate) const CONTAINER: &str = "container.json";
/// The record of its start; it is there before the program is executed.
pub(crate) const STARTED: &str = "started.json";
/// The record of its end.
pub(crate) const EXIT: &str = "exit.json";

/// How sure a write must be before it counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Durability {
    /// Survives the loss of power.
    Synced,
    /// Survives the end of any process; whole or absent after a loss of power.
    Cached,
}

/// Replaces a file at once: readers see the old content or the new, never a part.
pub(crate) fn write(path: &Path, value: &impl Serialize, durability: Durability) -> io::Result<()> {
    let bytes = serde_json::to_vec(value)?;
    let temporary = path.with_extension("new");
    let mut file = File::create(&temporary)?;
    file.write_all(&bytes)?;
    if durability == Durability::Synced {
        file.sync_all()?;
    }
    fs::rename(&temporary, path)?;
    if let (Durability::Synced, Some(directory)) = (durability, path.parent()) {
        File::open(directory)?.sync_all()?;
    }
    Ok(())
}

/// Reads a record; `None` when it does not exist or is not whole.
pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    match fs::read(path) {
        Ok(bytes) => Ok(serde_json::from_slice(&bytes).ok()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The start time of a process in clock ticks since boot, from `/proc/<pid>/stat`.
pub(crate) fn start_ticks(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may contain anything; the start time is the 20th field after it.
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

/// Names this boot of the machine.
pub(crate) fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map(|id| id.trim().to_owned())
        .unwrap_or_default()
}
