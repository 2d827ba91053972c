//! Small JSON files that survive crashes.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
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

/// The format of the records that this version writes; one that a reader would misunderstand has a
/// higher number.
const FORMAT: u32 = 1;

/// Longest record that is read, in bytes: one with a container's largest environment fits.
const MAX_RECORD_BYTES: u64 = 32 << 20;

/// The reason why a record cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    /// There is none.
    #[error("it does not exist")]
    Missing,
    /// A newer version of this program has written it, in this format.
    #[error("it has format {0}, which is newer than {FORMAT}")]
    TooNew(u32),
    /// It is not what was written.
    #[error("it is damaged: {0}")]
    Damaged(#[source] serde_json::Error),
    /// Something else than a record has its name.
    #[error("it is not a regular file of at most {MAX_RECORD_BYTES} bytes")]
    Foreign,
    /// The disk does not give it.
    #[error("reading it: {0}")]
    Read(#[source] io::Error),
}

#[derive(Serialize)]
struct Formatted<'a, T> {
    format: u32,
    #[serde(flatten)]
    value: &'a T,
}

#[derive(serde::Deserialize)]
struct FormatOnly {
    /// Records of the first versions have none.
    #[serde(default)]
    format: u32,
}

/// Writes a record with its format.
pub(crate) fn write_formatted(
    path: &Path,
    value: &impl Serialize,
    durability: Durability,
) -> io::Result<()> {
    write(path, &Formatted { format: FORMAT, value }, durability)
}

/// Reads a record that [`write_formatted`] or an earlier version has written.
pub(crate) fn load<T: DeserializeOwned>(path: &Path) -> Result<T, Unreadable> {
    let bytes = contents(path)?;
    let FormatOnly { format } = serde_json::from_slice(&bytes).map_err(Unreadable::Damaged)?;
    if format > FORMAT {
        return Err(Unreadable::TooNew(format));
    }
    serde_json::from_slice(&bytes).map_err(Unreadable::Damaged)
}

/// Reads a record; `None` when it does not exist or is not whole.
pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    match contents(path) {
        Ok(bytes) => Ok(serde_json::from_slice(&bytes).ok()),
        Err(Unreadable::Read(error)) => Err(error),
        Err(_) => Ok(None),
    }
}

/// Reads the bytes of a record. A pipe, a device or a link in its place is not waited for, used or
/// followed.
fn contents(path: &Path) -> Result<Vec<u8>, Unreadable> {
    let flags = libc::O_NONBLOCK | libc::O_NOFOLLOW | libc::O_NOCTTY | libc::O_CLOEXEC;
    let file = match fs::OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Ok(file) => file,
        Err(error) => {
            return Err(match error.raw_os_error() {
                Some(libc::ENOENT) => Unreadable::Missing,
                // A link; a socket.
                Some(libc::ELOOP | libc::ENXIO) => Unreadable::Foreign,
                _ => Unreadable::Read(error),
            });
        }
    };
    if !file.metadata().map_err(Unreadable::Read)?.is_file() {
        return Err(Unreadable::Foreign);
    }
    let mut bytes = Vec::new();
    let mut limited = file.take(MAX_RECORD_BYTES + 1);
    limited.read_to_end(&mut bytes).map_err(Unreadable::Read)?;
    if bytes.len() as u64 > MAX_RECORD_BYTES {
        return Err(Unreadable::Foreign);
    }
    Ok(bytes)
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn pipe_or_link_is_no_record() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("record.json");
        let load = || super::load::<BTreeMap<String, String>>(&path);
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(matches!(load(), Err(Unreadable::Foreign)));
        assert!(read::<String>(&path).unwrap().is_none());
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/dev/zero", &path).unwrap();
        assert!(matches!(load(), Err(Unreadable::Foreign)));
        fs::remove_file(&path).unwrap();
        File::create(&path).unwrap().set_len(MAX_RECORD_BYTES + 1).unwrap();
        assert!(matches!(load(), Err(Unreadable::Foreign)));
    }

    #[test]
    fn too_new_differs_from_damaged() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("record.json");
        let load = || super::load::<BTreeMap<String, serde_json::Value>>(&path);
        assert!(matches!(load(), Err(Unreadable::Missing)));
        let value = BTreeMap::from([("id".to_owned(), "a".to_owned())]);
        write_formatted(&path, &value, Durability::Synced).unwrap();
        assert_eq!(load().unwrap()["id"], "a");
        // As the first versions wrote it.
        write(&path, &value, Durability::Cached).unwrap();
        assert_eq!(load().unwrap()["id"], "a");
        fs::write(&path, r#"{"format": 2, "whatever": []}"#).unwrap();
        assert!(matches!(load(), Err(Unreadable::TooNew(2))));
        for damaged in ["", "{\"id\": \"a", "\0\0\0\0"] {
            fs::write(&path, damaged).unwrap();
            assert!(matches!(load(), Err(Unreadable::Damaged(_))), "{damaged:?}");
        }
    }
}
