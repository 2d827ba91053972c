//! The run directory: namespace pins, attachment records, saved kernel settings.
//!
//! A pin's name says all that there is to know of it: `<address>_<host interface>`. A record
//! ties a pod's uid to a pin. Whatever a crash leaves is derived from these at the next start.

use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, umount2};
use nix::sys::statfs::{NSFS_MAGIC, statfs};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::config::{HostPort, NetworkError, Result};

/// Names a prepared namespace.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Pin {
    /// The pod's address.
    pub address: Ipv4Addr,
    /// The interface on the node's side.
    pub host_link: String,
}

impl Pin {
    /// Its file name.
    pub fn file_name(&self) -> String {
        format!("{}_{}", self.address, self.host_link)
    }

    /// Reads a file name.
    pub fn parse(name: &str) -> Option<Self> {
        let (address, host_link) = name.split_once('_')?;
        Some(Self { address: address.parse().ok()?, host_link: host_link.to_owned() })
    }
}

/// What is remembered of one attached pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The file name of its pin.
    pub pin: String,
    /// Its host ports.
    pub host_ports: Vec<HostPort>,
    /// Largest packet in bytes.
    pub mtu: u32,
    /// The next hop that the pod was given.
    pub gateway: Ipv4Addr,
}

/// Paths below the run directory.
#[derive(Debug, Clone)]
pub(crate) struct Directories {
    root: PathBuf,
}

impl Directories {
    pub fn new(run_dir: &Path) -> Self {
        Self { root: run_dir.to_owned() }
    }

    pub fn create(&self) -> Result<()> {
        for path in [self.root.clone(), self.pins(), self.records()] {
            std::fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&path)
                .map_err(|source| NetworkError::file("create", &path, source))?;
        }
        Ok(())
    }

    /// Where namespaces are pinned.
    pub fn pins(&self) -> PathBuf {
        self.root.join("netns")
    }

    /// Where attachments are recorded.
    pub fn records(&self) -> PathBuf {
        self.root.join("attachments")
    }

    /// Kernel settings as they were found.
    pub fn saved_sysctls(&self) -> PathBuf {
        self.root.join("network-sysctls.json")
    }

    fn last_address(&self) -> PathBuf {
        self.root.join("last-pod-address")
    }

    pub fn pin(&self, name: &str) -> PathBuf {
        self.pins().join(name)
    }

    pub fn read_last_address(&self) -> Option<Ipv4Addr> {
        std::fs::read_to_string(self.last_address()).ok()?.trim().parse().ok()
    }

    /// Best effort: losing it only means that an address comes back sooner.
    pub fn write_last_address(&self, address: Ipv4Addr) {
        let _ = std::fs::write(self.last_address(), address.to_string());
    }

    /// Every pin that still holds a namespace; files that hold none are removed.
    pub fn live_pins(&self) -> Result<Vec<Pin>> {
        let mut pins = Vec::new();
        for name in file_names(&self.pins())? {
            let holds = holds_namespace(&self.pin(&name));
            match Pin::parse(&name) {
                Some(pin) if holds => pins.push(pin),
                _ => self.unpin(&name)?,
            }
        }
        Ok(pins)
    }

    /// Lets go of a namespace; the kernel dismantles it in the background. Succeeds when there is
    /// nothing to let go of.
    pub fn unpin(&self, name: &str) -> Result<()> {
        let path = self.pin(name);
        // A pin may have been mounted over more than once by a crash between two starts.
        while umount2(&path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW).is_ok() {}
        remove_file(&path)
    }

    pub fn record_path(&self, uid: &str) -> Result<PathBuf> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        let good = !uid.is_empty() && uid.len() <= 200 && !uid.starts_with('.');
        if good && uid.chars().all(allowed) {
            Ok(self.records().join(uid))
        } else {
            Err(NetworkError::BadUid(uid.to_owned()))
        }
    }

    /// Every readable record by uid; unreadable ones are removed.
    pub fn read_records(&self) -> Result<Vec<(String, Record)>> {
        let mut records = Vec::new();
        for uid in file_names(&self.records())? {
            let path = self.records().join(&uid);
            let complete = !uid.starts_with('.');
            match read_json(&path).filter(|_| complete) {
                Some(record) => records.push((uid, record)),
                None => remove_file(&path)?,
            }
        }
        Ok(records)
    }

    pub fn write_record(&self, uid: &str, record: &Record) -> Result<()> {
        write_json(&self.record_path(uid)?, record)
    }

    pub fn remove_record(&self, uid: &str) -> Result<()> {
        remove_file(&self.record_path(uid)?)
    }

    /// Removes every pin, record and file of ours; other files in the run directory stay.
    pub fn remove(&self) -> Result<()> {
        if self.pins().exists() {
            for name in file_names(&self.pins())? {
                self.unpin(&name)?;
            }
        }
        for path in [self.pins(), self.records()] {
            match std::fs::remove_dir_all(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(NetworkError::file("remove", &path, error));
                }
                _ => {}
            }
        }
        remove_file(&self.saved_sysctls())?;
        remove_file(&self.last_address())
    }
}

/// Whether a namespace is mounted on the file.
pub fn holds_namespace(path: &Path) -> bool {
    statfs(path).is_ok_and(|status| status.filesystem_type() == NSFS_MAGIC)
}

pub fn read_json<T: DeserializeOwned>(path: &Path) -> Option<T> {
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}

/// Replaces a file as a whole.
pub fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let fail = |source| NetworkError::file("write", path, source);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = path.with_file_name(format!(".{name}.new"));
    let bytes = serde_json::to_vec(value).map_err(|error| fail(error.into()))?;
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)
        .map_err(fail)?;
    file.write_all(&bytes).map_err(fail)?;
    std::fs::rename(&temporary, path).map_err(fail)
}

fn remove_file(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(NetworkError::file("remove", path, error))
        }
        _ => Ok(()),
    }
}

fn file_names(directory: &Path) -> Result<Vec<String>> {
    let fail = |source| NetworkError::file("list", directory, source);
    let mut names = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(fail)? {
        names.push(entry.map_err(fail)?.file_name().to_string_lossy().into_owned());
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pin_names_round_trip() {
        let pin = Pin { address: Ipv4Addr::new(10, 44, 0, 7), host_link: "cor0ab_c".into() };
        assert_eq!(Pin::parse(&pin.file_name()), Some(pin));
        assert_eq!(Pin::parse("x"), None);
        assert_eq!(Pin::parse("10.1_x"), None);
    }

    #[test]
    fn uids_cannot_leave_the_directory() {
        let directories = Directories::new(Path::new("/nowhere"));
        for uid in ["", "..", ".", "a/b", "a\0b", ".hidden"] {
            assert!(directories.record_path(uid).is_err(), "{uid:?}");
        }
        assert!(directories.record_path("0a-1b.c_d").is_ok());
    }
}
