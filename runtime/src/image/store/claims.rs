//! Directories in which processes make something in the store, and the layers that they claim.

use std::{fs, io};

use super::{ImageStore, StoreError, digest_name, file, json, owner_prefix, read_dir};
use crate::image::incoming::{Claim, Incoming};
use crate::tree;

/// In a directory of what is being made: the layers that it is made of.
const CLAIM: &str = "layers.json";

impl ImageStore {
    /// Keeps these layers, those that are here and those to come, until the image that they are for
    /// is recorded: a removal meanwhile would take them for layers without an image.
    pub(in crate::image) fn claim(&self, diff_ids: &[String]) -> Result<Claim, StoreError> {
        let _lock = self.lock()?;
        let directory = self.incoming()?;
        let path = directory.path().join(CLAIM);
        let layers: Vec<String> = diff_ids.iter().map(|id| digest_name(id)).collect();
        fs::write(&path, json(&layers)).map_err(file("write", &path))?;
        Ok(Claim::new(directory))
    }

    /// The layers of images that are being made.
    pub(super) fn claimed(&self) -> Result<Vec<String>, StoreError> {
        let mut layers = Vec::new();
        for path in read_dir(&self.dir.join("incoming"))? {
            let path = path.join(CLAIM);
            match fs::read(&path) {
                Ok(bytes) => {
                    layers.extend(serde_json::from_slice::<Vec<String>>(&bytes).unwrap_or_default())
                }
                Err(e)
                    if matches!(
                        e.kind(),
                        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                    ) => {}
                Err(e) => return Err(file("read", &path)(e)),
            }
        }
        Ok(layers)
    }

    /// A directory for what is being made; gone when dropped.
    pub(in crate::image) fn incoming(&self) -> Result<Incoming, StoreError> {
        let dir = self.dir.join("incoming");
        tempfile::Builder::new()
            .prefix(&owner_prefix(std::process::id()))
            .tempdir_in(&dir)
            .map(|directory| Incoming::new(directory.keep()))
            .map_err(file("create a directory in", &dir))
    }

    /// Removes incoming files and directories of processes that are gone. Those of running pulls
    /// stay, so this may be called at any time.
    pub fn remove_abandoned(&self) {
        let Ok(paths) = read_dir(&self.dir.join("incoming")) else { return };
        for path in paths {
            let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
            let owner = name.split('-').next().and_then(|pid| pid.parse().ok());
            let is_owned = owner.is_some_and(|pid| name.starts_with(&owner_prefix(pid)));
            if !is_owned
                && let Err(error) = tree::remove(&path)
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::warn!(path = %path.display(), %error, "abandoned download stays");
            }
        }
    }
}
