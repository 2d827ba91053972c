//! Which file is where, and the lock that keeps two nodes out of one directory.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use crate::cli::DirOptions;

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

    /// Makes the directories that everything else assumes, for root only.
    pub fn create(&self) -> Result<(), PathError> {
        for dir in [&self.data_dir, &self.run_dir, &self.network()] {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(dir)
                .map_err(PathError::create(dir))?;
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
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(mut lock) => {
                lock.set_len(0).map_err(&create)?;
                writeln!(lock, "{}", std::process::id()).map_err(&create)?;
                Ok(lock)
            }
            Err((mut file, Errno::EWOULDBLOCK)) => {
                let mut pid = String::new();
                let _ = file.read_to_string(&mut pid);
                Err(PathError::Busy { pid: pid.trim().into(), data_dir: self.data_dir.clone() })
            }
            Err((_, errno)) => Err(create(errno.into())),
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
}

/// Removes a file or a tree; that it is gone already is fine.
pub fn remove(path: &Path) -> io::Result<()> {
    let result = match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(e) => Err(e),
    };
    match result {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
