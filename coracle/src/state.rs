//! Opens the object store, and says what to do when it cannot be used.

use std::panic;
use std::path::{Path, PathBuf};

use apiserver::{Catalog, Meta};
use store::{DiskError, Options, Store};

/// The store gets one part in so many of the memory, unless its size is set.
const STORE_PART: u64 = 4;

/// Why the store cannot be used, with a way out.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// It is broken.
    #[error("{}", damaged(.path))]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The error of the store.
        source: DiskError,
    },
    /// A newer version wrote it.
    #[error("{}", too_new(.path))]
    TooNew {
        /// The file.
        path: PathBuf,
        /// The error of the store.
        source: DiskError,
    },
    /// The disk has no room for it.
    #[error("the disk with {path} is full; free some space (coracle image prune may help)")]
    Full {
        /// The file.
        path: PathBuf,
        /// What was tried.
        source: DiskError,
    },
    /// Something else is wrong.
    #[error(transparent)]
    Other(DiskError),
}

/// The options of a store of that size. Without one it may have what a store has by default, and on a
/// small machine a part of its `memory`: requests, and what is made of the objects, need the rest.
pub fn options(max_size: Option<u64>, memory: Option<u64>) -> Options {
    let default = Options::default();
    let part = memory.map_or(default.max_bytes, |bytes| default.max_bytes.min(bytes / STORE_PART));
    Options { max_bytes: max_size.unwrap_or(part), ..default }
}

/// Opens the store at `path`. Nothing is changed in one that is broken.
pub fn open(path: &Path, options: Options, catalog: &Catalog) -> Result<Store<Meta>, StateError> {
    // A broken file may make its reader stumble, too: even then there is one clear sentence.
    let before = panic::take_hook();
    let broken = path.to_owned();
    panic::set_hook(Box::new(move |why| {
        eprintln!("coracle: {}\n  because: {why}", damaged(&broken));
        std::process::exit(1);
    }));
    let opened = apiserver::open_store(path, options, catalog);
    panic::set_hook(before);
    let path = path.to_owned();
    opened.map_err(|source| match source {
        source if source.is_full() => StateError::Full { path, source },
        source @ DiskError::TooNew { .. } => StateError::TooNew { path, source },
        source if source.is_damaged() => StateError::Damaged { path, source },
        source => StateError::Other(source),
    })
}

fn too_new(path: &Path) -> String {
    format!(
        "the object store {} was written by a newer version of coracle; start that version, or \
         restore a backup that this one made (nothing was changed)",
        path.display()
    )
}

fn damaged(path: &Path) -> String {
    let path = path.display();
    format!(
        "the object store {path} is damaged; put a backup of it in its place (coracle restore), \
         remove the object that is (coracle state ls, get, rm), \
         or start without it (mv {path} {path}.damaged) and apply your manifests again"
    )
}

#[cfg(test)]
mod tests {
    use super::options;

    #[test]
    fn store_of_a_small_machine_is_small() {
        assert_eq!(options(None, Some(24 << 30)).max_bytes, 512 << 20);
        assert_eq!(options(None, None).max_bytes, 512 << 20);
        assert_eq!(options(None, Some(512 << 20)).max_bytes, 128 << 20);
        assert_eq!(options(Some(6 << 20), Some(512 << 20)).max_bytes, 6 << 20);
    }
}
