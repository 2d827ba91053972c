//! Which file is where, and the lock that keeps two nodes out of one directory.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use agent::container::resources::pods_cgroup;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use runtime::sandbox::{RuntimeConfig, shim_group};

use crate::cli::DirOptions;

/// How long the lock may outlive the process that took it: a child that it had just made when it was
/// killed has the lock until it executes its program.
const AFTERLIFE: Duration = Duration::from_secs(5);

/// Mode of directories that only root may enter.
const PRIVATE: u32 = 0o700;
/// Bytes of the lock file: it is written in place, which needs no room on a full disk.
const LOCK_BYTES: usize = 16;

/// Why the directories cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PathError {
    /// A directory or file cannot be made.
    #[error("create {path}: {source}")]
    Create {
        /// The path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The disk has no room for it.
    #[error("the disk with {path} is full; free some space (coracle image prune may help)")]
    Full {
        /// The path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another node runs on the same directory.
    #[error("another coracle (pid {pid}) runs with {data_dir}")]
    Busy {
        /// Its process.
        pid: String,
        /// The directory.
        data_dir: PathBuf,
    },
}

impl PathError {
    fn create(path: &Path) -> impl Fn(io::Error) -> Self {
        move |source| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Self::Full { path: path.to_owned(), source }
            }
            _ => Self::Create { path: path.to_owned(), source },
        }
    }
}

/// The files of one node.
#[derive(Clone, Debug)]
pub struct Paths {
    pub data_dir: PathBuf,
    pub run_dir: PathBuf,
}

impl Paths {
    pub fn new(options: &DirOptions) -> Self {
        Self { data_dir: options.data_dir.clone(), run_dir: options.run_dir.clone() }
    }

    /// The object store.
    pub fn store(&self) -> PathBuf {
        self.data_dir.join("state.redb")
    }

    /// Certificates and keys.
    pub fn pki(&self) -> PathBuf {
        self.data_dir.join("pki")
    }

    /// Images.
    pub fn images(&self) -> PathBuf {
        self.data_dir.join("images")
    }

    /// Provisioned volumes.
    pub fn volumes(&self) -> PathBuf {
        self.data_dir.join("volumes")
    }

    /// Container records and writable layers.
    pub fn containers(&self) -> PathBuf {
        self.data_dir.join("containers")
    }

    /// Address records of the pod network.
    pub fn network(&self) -> PathBuf {
        self.data_dir.join("network")
    }

    fn lock(&self) -> PathBuf {
        self.data_dir.join("lock")
    }

    /// Makes the directories that everything else assumes, durably. They and those with Secrets and
    /// images in them become root's alone, whatever they were before: image layers hold setuid files.
    pub fn create(&self) -> Result<(), PathError> {
        for dir in [&self.data_dir, &self.run_dir, &self.network()] {
            let create = PathError::create(dir);
            DirBuilder::new().recursive(true).mode(PRIVATE).create(dir).map_err(&create)?;
            let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty());
            let parent = File::open(parent.unwrap_or(Path::new(".")));
            parent.and_then(|parent| parent.sync_all()).map_err(&create)?;
        }
        let made_later = [self.pki(), self.images(), self.containers()];
        let private = [self.data_dir.clone(), self.run_dir.clone(), self.network()];
        for dir in private.iter().chain(made_later.iter().filter(|dir| dir.is_dir())) {
            let mode = Permissions::from_mode(PRIVATE);
            fs::set_permissions(dir, mode).map_err(PathError::create(dir))?;
        }
        Ok(())
    }

    /// Takes the lock of this node for the life of the process.
    pub fn take_lock(&self) -> Result<Flock<File>, PathError> {
        let path = self.lock();
        let create = PathError::create(&path);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(&create)?;
        let deadline = Instant::now() + AFTERLIFE;
        let mut file = file;
        loop {
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(lock) => {
                    let pid = format!("{:<1$}\n", std::process::id(), LOCK_BYTES - 1);
                    lock.write_all_at(pid.as_bytes(), 0).map_err(&create)?;
                    return Ok(lock);
                }
                Err((held, Errno::EWOULDBLOCK)) => file = held,
                Err((_, errno)) => return Err(create(errno.into())),
            }
            let pid = fs::read_to_string(&path).unwrap_or_default().trim().to_owned();
            let alive = !pid.is_empty() && Path::new("/proc").join(&pid).exists();
            if alive || Instant::now() > deadline {
                return Err(PathError::Busy { pid, data_dir: self.data_dir.clone() });
            }
            std::thread::sleep(AFTERLIFE / 100);
        }
    }

    /// The process of the node that runs on these directories, if one does.
    pub fn running(&self) -> Option<u32> {
        let file = File::open(self.lock()).ok()?;
        match Flock::lock(file, FlockArg::LockSharedNonblock) {
            Err((_, Errno::EWOULDBLOCK)) => {
                fs::read_to_string(self.lock()).ok()?.trim().parse().ok()
            }
            _ => None,
        }
    }

    /// The places of the node's sandboxes, below this control group: the same for the node and reset.
    pub fn runtime(&self, cgroup_root: &str) -> RuntimeConfig {
        RuntimeConfig {
            state_dir: self.containers(),
            run_dir: self.run_dir.clone(),
            shim_binary: "/proc/self/exe".into(),
            shim_group: shim_group(cgroup_root),
            sandbox_group: pods_cgroup(cgroup_root),
        }
    }
}

/// Removes a file or a tree; that it is gone already is fine.
pub fn remove(path: &Path) -> io::Result<()> {
    runtime::tree::remove(path)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn directories_are_tightened_at_every_start() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths { data_dir: dir.path().join("data"), run_dir: dir.path().join("run") };
        for open in [paths.data_dir.clone(), paths.run_dir.clone(), paths.images()] {
            fs::create_dir_all(&open).unwrap();
            fs::set_permissions(&open, Permissions::from_mode(0o755)).unwrap();
        }
        paths.create().unwrap();
        for private in [&paths.data_dir, &paths.run_dir, &paths.images(), &paths.network()] {
            let mode = fs::metadata(private).unwrap().permissions().mode() & 0o7777;
            assert_eq!(mode, 0o700, "{}", private.display());
        }
    }

    #[test]
    fn a_lock_is_waited_for_when_who_took_it_is_dead() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths { data_dir: dir.path().to_owned(), run_dir: dir.path().to_owned() };
        let lock = paths.take_lock().unwrap();
        // This process lives.
        assert!(matches!(paths.take_lock(), Err(PathError::Busy { pid, .. })
            if pid == std::process::id().to_string()));
        // Its maker is dead, and what has the lock still lets go of it.
        let mut child = std::process::Command::new("true").spawn().unwrap();
        child.wait().unwrap();
        fs::write(paths.lock(), child.id().to_string()).unwrap();
        let late = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(200));
            drop(lock);
        });
        drop(paths.take_lock().unwrap());
        late.join().unwrap();
    }
}
