//! What is on disk: `layers/<diff id>/`, `images/<image id>.json`, `refs/<escaped reference>`.
//!
//! Every file appears by rename, so readers need no lock and several processes (the agent, a
//! `coracle image load` beside it) share one store. Writers that remove things hold `lock`.

mod claims;

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use oci_spec::image::ImageConfiguration;
use serde::{Deserialize, Serialize};

use super::compression::decompressed;
use super::digest::{digest_name, named_digest};
use super::incoming::owner_prefix;
use super::record::{self, Configuration, ImageRecord, MAX_RECORD_BYTES, Unusable};
use super::reference::Reference;
use super::unpack::{Counted, UnpackError, unpack};
use super::usage;
use crate::launch::max_layers;
use crate::tree;

/// The longest image ID: a digest by SHA-512.
const MAX_ID_BYTES: usize = 135;
/// Compressed forms of one layer that are remembered; registries have one or two.
const MAX_LAYER_BLOBS: usize = 8;
/// Fewer digits name no image.
const MIN_ID_LENGTH: usize = 6;

/// An image that is present and unpacked.
#[derive(Clone, Debug)]
pub struct Image {
    /// `sha256:…` of its configuration: the image ID.
    pub id: String,
    /// Full references with a tag, for example `docker.io/library/nginx:latest`.
    pub tags: Vec<String>,
    /// Full references with a manifest digest, for example `docker.io/library/nginx@sha256:…`.
    pub digests: Vec<String>,
    /// Unpacked size in bytes.
    pub size_bytes: u64,
    /// Entrypoint, command, environment, user, working directory, stop signal.
    pub config: ImageConfiguration,
    /// Unpacked layer directories, base first.
    pub layers: Vec<PathBuf>,
}

/// An image as a list shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageSummary {
    /// As in [`Image`].
    pub id: String,
    /// As in [`Image`].
    pub tags: Vec<String>,
    /// As in [`Image`].
    pub digests: Vec<String>,
    /// As in [`Image`].
    pub size_bytes: u64,
}

/// Why the store could not do something.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file of the store cannot be read, written or removed.
    #[error("{operation} {path}: {source}")]
    File {
        /// What was tried.
        operation: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// An image's environment, arguments and layers are more than any honest image has.
    #[error("the settings of the image take {0} bytes; at most {MAX_RECORD_BYTES} are kept")]
    RecordSize(u64),
    /// A layer cannot be unpacked.
    #[error(transparent)]
    Unpack(#[from] UnpackError),
    /// A layer is not what the image's configuration says.
    #[error("layer digest mismatch: want {want}, got {got}")]
    DiffId {
        /// From the configuration.
        want: String,
        /// From the bytes.
        got: String,
    },
    /// The configuration and the manifest disagree on the number of layers.
    #[error("the image has {layers} layers but its configuration names {diff_ids}")]
    LayerCount {
        /// Layers in the manifest.
        layers: usize,
        /// Layers in the configuration.
        diff_ids: usize,
    },
    /// The kernel cannot mount so many.
    #[error("the image has {layers} layers; this kernel mounts {most} at the most")]
    TooManyLayers {
        /// Layers of the image.
        layers: usize,
        /// The kernel's limit.
        most: usize,
    },
    /// No such image.
    #[error("image {0} not found")]
    NotFound(String),
}

impl StoreError {
    /// Whether the file system is full.
    pub fn is_full(&self) -> bool {
        match self {
            Self::File { source, .. } => {
                matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
            }
            Self::Unpack(error) => error.is_full(),
            _ => false,
        }
    }
}

/// The images of this machine. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ImageStore {
    dir: PathBuf,
    /// The runtime's directory of container records.
    state_dir: Option<PathBuf>,
}

/// `layers/<diff id>.json`.
#[derive(Serialize, Deserialize)]
struct LayerRecord {
    size_bytes: u64,
    /// Digests of the blobs that it was fetched as; none if it came from an archive.
    #[serde(default)]
    blobs: Vec<String>,
}

impl ImageStore {
    /// Opens or creates the store in `dir` and removes what a crash left half-made.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        for sub in ["layers", "images", "refs", "incoming"] {
            let path = dir.join(sub);
            fs::create_dir_all(&path).map_err(file("create", &path))?;
        }
        let store = Self { dir: dir.to_owned(), state_dir: None };
        store.remove_abandoned();
        store.shrink_records()?;
        Ok(store)
    }

    /// Rewrites large records of earlier versions, which held the whole configuration of an image.
    fn shrink_records(&self) -> Result<(), StoreError> {
        let is_large = |path: &PathBuf| {
            fs::metadata(path).is_ok_and(|metadata| metadata.len() > MAX_RECORD_BYTES)
        };
        let mut large = read_dir(&self.dir.join("images"))?;
        large.retain(is_large);
        if large.is_empty() {
            return Ok(());
        }
        let _lock = self.lock()?;
        for path in large.iter().filter(|path| is_large(path)) {
            match ImageRecord::read_old(path) {
                Ok(Some(record)) => match record.encode() {
                    Ok(bytes) => self.write(path, &bytes)?,
                    Err(bytes) => {
                        record::warn(path, &Unusable::TooLarge { bytes, most: MAX_RECORD_BYTES });
                    }
                },
                Ok(None) => {}
                Err(error) => record::warn(path, &error),
            }
        }
        Ok(())
    }

    /// Never removes layers that a container runs from; `state_dir` is the runtime's.
    #[must_use]
    pub fn sparing_containers(self, state_dir: &Path) -> Self {
        Self { state_dir: Some(state_dir.to_owned()), ..self }
    }

    /// Where it is.
    pub fn directory(&self) -> &Path {
        &self.dir
    }

    /// The image that `reference` names here; a digest decides over a tag. Costs two small reads.
    pub fn find(&self, reference: &Reference) -> Result<Option<Image>, StoreError> {
        let name = reference.digested().or_else(|| reference.tagged());
        match name {
            Some(name) => self.find_name(&name),
            None => Ok(None),
        }
    }

    fn find_name(&self, name: &str) -> Result<Option<Image>, StoreError> {
        let path = self.reference_path(name);
        match fs::read_to_string(&path) {
            Ok(id) => self.find_id(id.trim()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(file("read", &path)(e)),
        }
    }

    /// The image with this ID (`sha256:…`).
    pub fn find_id(&self, id: &str) -> Result<Option<Image>, StoreError> {
        let Some(record) = self.record(&self.record_path(id))? else { return Ok(None) };
        let layers: Vec<PathBuf> = record.diff_ids().iter().map(|id| self.layer_path(id)).collect();
        Ok(Some(Image {
            id: record.id.clone(),
            tags: Vec::new(),
            digests: Vec::new(),
            size_bytes: record.size_bytes,
            config: record.into_image_configuration(),
            layers,
        }))
    }

    /// The record of an image all of whose layers are here. One that is damaged or too large counts
    /// as missing, so the image is pulled again, and does not hide the others.
    fn record(&self, path: &Path) -> Result<Option<ImageRecord>, StoreError> {
        let record = match ImageRecord::read(path) {
            Ok(record) => record,
            Err(Unusable::Read(error)) => return Err(file("read", path)(error)),
            Err(error) => {
                record::warn(path, &error);
                None
            }
        };
        // A layer lost to a manual clean-up means that the image must be pulled again.
        Ok(record.filter(|record| record.diff_ids().iter().all(|id| self.layer_path(id).is_dir())))
    }

    /// Every image with all its names, in order of ID. One record at a time is in memory.
    pub fn list(&self) -> Result<Vec<ImageSummary>, StoreError> {
        let mut images = Vec::new();
        for path in read_dir(&self.dir.join("images"))? {
            if let Some(record) = self.record(&path)? {
                images.push(ImageSummary {
                    id: record.id,
                    tags: Vec::new(),
                    digests: Vec::new(),
                    size_bytes: record.size_bytes,
                });
            }
        }
        images.sort_by(|a, b| a.id.cmp(&b.id));
        for (name, id) in self.references()? {
            if let Ok(position) = images.binary_search_by(|image| image.id.cmp(&id)) {
                let image = &mut images[position];
                let names = if name.contains('@') { &mut image.digests } else { &mut image.tags };
                names.push(name);
            }
        }
        Ok(images)
    }

    /// Fills in the names of `image`, which `find` leaves out for speed.
    pub fn with_names(&self, mut image: Image) -> Result<Image, StoreError> {
        for (name, id) in self.references()? {
            if id == image.id {
                let names = if name.contains('@') { &mut image.digests } else { &mut image.tags };
                names.push(name);
            }
        }
        Ok(image)
    }

    fn references(&self) -> Result<Vec<(String, String)>, StoreError> {
        let mut references = Vec::new();
        for path in read_dir(&self.dir.join("refs"))? {
            let Some(name) = path.file_name().and_then(|n| n.to_str()) else { continue };
            match fs::read_to_string(&path) {
                Ok(id) => references.push((unescape(name), id.trim().to_owned())),
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(file("read", &path)(e)),
            }
        }
        references.sort();
        Ok(references)
    }

    /// Removes a name; with its last name goes the image, unless a container runs from it: then it
    /// stays without a name until a later removal. `name` may be an image ID too.
    pub fn remove(&self, name: &str) -> Result<Vec<String>, StoreError> {
        let _lock = self.lock()?;
        let references = self.references()?;
        let wanted: Vec<String> = match name.parse::<Reference>() {
            Ok(reference) if references.iter().any(|(n, _)| is_named(&reference, n)) => references
                .iter()
                .filter(|(n, _)| is_named(&reference, n))
                .map(|(n, _)| n.clone())
                .collect(),
            _ => {
                let id = name.strip_prefix("sha256:").unwrap_or(name);
                let full = format!("sha256:{id}");
                let matches = |image: &str| image.starts_with(&full) && id.len() >= MIN_ID_LENGTH;
                references.iter().filter(|(_, i)| matches(i)).map(|(n, _)| n.clone()).collect()
            }
        };
        if wanted.is_empty() && !self.is_nameless(name, &references)? {
            return Err(StoreError::NotFound(name.to_owned()));
        }
        let ids: HashSet<&String> =
            references.iter().filter(|(n, _)| wanted.contains(n)).map(|(_, id)| id).collect();
        let mut removed = wanted.clone();
        // An image that is left with digests only is unnamed for a user: those go with the tag.
        for (other, id) in &references {
            let is_last = ids.contains(id)
                && !references
                    .iter()
                    .any(|(n, i)| i == id && !n.contains('@') && !wanted.contains(n));
            if is_last && !removed.contains(other) {
                removed.push(other.clone());
            }
        }
        for name in &removed {
            let path = self.reference_path(name);
            fs::remove_file(&path).map_err(file("remove", &path))?;
        }
        self.collect()?;
        Ok(removed)
    }

    /// Whether `id` (its beginning will do) is that of an image without a name: it lost its last one
    /// while a container ran from it, or gave it up to a newer image.
    fn is_nameless(&self, id: &str, references: &[(String, String)]) -> Result<bool, StoreError> {
        let id = id.strip_prefix("sha256:").unwrap_or(id);
        let records = read_dir(&self.dir.join("images"))?;
        let mut stems = records.iter().filter_map(|path| path.file_stem()?.to_str());
        Ok(id.len() >= MIN_ID_LENGTH
            && stems.any(|stem| {
                stem.starts_with(id) && !references.iter().any(|(_, id)| digest_name(id) == stem)
            }))
    }

    /// Removes every image that no container runs from; returns the freed bytes.
    pub fn prune(&self) -> Result<u64, StoreError> {
        let _lock = self.lock()?;
        let stacks = self.stacks()?;
        for (name, id) in self.references()? {
            let image = self.find_id(&id)?;
            if !image.is_some_and(|image| stacks.contains(&usage::stack(&image.layers))) {
                let path = self.reference_path(&name);
                fs::remove_file(&path).map_err(file("remove", &path))?;
            }
        }
        self.collect()
    }

    /// The layers of every container that runs.
    fn stacks(&self) -> Result<HashSet<usage::Stack>, StoreError> {
        let Some(state_dir) = &self.state_dir else { return Ok(HashSet::new()) };
        usage::stacks(state_dir).map_err(file("read", state_dir))
    }

    /// Removes images without a name, then layers without an image; neither where a container
    /// runs from them, nor layers of an image that is being made.
    fn collect(&self) -> Result<u64, StoreError> {
        let named: HashSet<String> = self.references()?.into_iter().map(|(_, id)| id).collect();
        let stacks = self.stacks()?;
        let mut freed = 0;
        let mut needed: HashSet<String> = stacks.iter().flatten().cloned().collect();
        needed.extend(self.claimed()?);
        for path in read_dir(&self.dir.join("images"))? {
            let Some(stem) = path.file_stem().and_then(|s| s.to_str()) else { continue };
            let id = named_digest(stem);
            let record = match ImageRecord::read(&path) {
                Ok(record) => record,
                Err(Unusable::Read(error)) => return Err(file("read", &path)(error)),
                // It counts as missing, and what runs from its layers keeps them.
                Err(error) => {
                    record::warn(&path, &error);
                    None
                }
            };
            let layers = record.map(|record| {
                record.diff_ids().iter().map(|id| digest_name(id)).collect::<usage::Stack>()
            });
            match layers {
                Some(layers) if named.contains(&id) || stacks.contains(&layers) => {
                    needed.extend(layers);
                }
                _ => fs::remove_file(&path).map_err(file("remove", &path))?,
            }
        }
        for path in read_dir(&self.dir.join("layers"))? {
            let Some(stem) = path.file_stem().and_then(|s| s.to_str()) else { continue };
            if needed.contains(stem) {
                continue;
            }
            if path.is_dir() {
                tree::remove(&path).map_err(file("remove", &path))?;
            } else {
                let size = fs::read(&path)
                    .ok()
                    .and_then(|b| serde_json::from_slice::<LayerRecord>(&b).ok())
                    .map_or(0, |r| r.size_bytes);
                freed += size;
                fs::remove_file(&path).map_err(file("remove", &path))?;
            }
        }
        Ok(freed)
    }

    /// The size of the layer with this diff ID if it is unpacked already.
    pub(super) fn layer_size(&self, diff_id: &str) -> Option<u64> {
        self.layer_record(diff_id).map(|record| record.size_bytes)
    }

    fn layer_record(&self, diff_id: &str) -> Option<LayerRecord> {
        let bytes = fs::read(self.layer_record_path(diff_id)).ok()?;
        let record: LayerRecord = serde_json::from_slice(&bytes).ok()?;
        self.layer_path(diff_id).is_dir().then_some(record)
    }

    /// Returns whether the layer with this diff ID is here and need not be fetched as `blob`. To know
    /// the digest of a layer's contents is not enough to get at a layer that others have pulled; the
    /// blob that it came as has to be known too, as for containerd. Layers from archives are the
    /// administrator's and serve all pulls.
    pub(super) fn has_layer(&self, diff_id: &str, blob: &str) -> bool {
        self.layer_record(diff_id).is_some_and(|record| {
            record.blobs.is_empty() || record.blobs.iter().any(|known| known == blob)
        })
    }

    /// Unpacks a (compressed) layer and keeps it under its diff ID, which must be `want`. `blob` is
    /// the digest that it was fetched by.
    pub(super) fn add_layer(
        &self,
        input: impl Read,
        want: &str,
        blob: Option<&str>,
    ) -> Result<u64, StoreError> {
        let incoming = self.incoming()?;
        let root = incoming.path().join("layer");
        fs::create_dir(&root).map_err(file("create", &root))?;
        let packed = Counted::default();
        let plain = decompressed(packed.reader(input)).map_err(UnpackError::Read)?;
        let unpacked = unpack(plain, &root, &packed)?;
        if unpacked.diff_id != want {
            return Err(StoreError::DiffId { want: want.to_owned(), got: unpacked.diff_id });
        }
        let path = self.layer_path(want);
        // A record says that the layer is whole, so after a loss of power it must be.
        let directory = File::open(&root).map_err(file("open", &root))?;
        nix::unistd::syncfs(&directory).map_err(|e| file("sync", &root)(e.into()))?;
        match fs::rename(&root, &path) {
            Ok(()) => {}
            // Somebody else unpacked the same layer meanwhile; content-addressed, so it is equal.
            Err(_) if path.is_dir() => {}
            Err(e) => return Err(file("rename", &path)(e)),
        }
        sync_directory(&self.dir.join("layers"))?;
        let _lock = self.lock()?;
        let mut blobs = self.layer_record(want).map(|record| record.blobs).unwrap_or_default();
        blobs.retain(|known| Some(known.as_str()) != blob);
        blobs.truncate(MAX_LAYER_BLOBS - 1);
        blobs.splice(0..0, blob.map(str::to_owned));
        let record = LayerRecord { size_bytes: unpacked.size_bytes, blobs };
        self.write(&self.layer_record_path(want), &json(&record))?;
        Ok(unpacked.size_bytes)
    }

    /// Records an image whose layers are all here, under `names`.
    pub(super) fn add_image(
        &self,
        id: &str,
        config: Configuration,
        names: &[String],
    ) -> Result<Image, StoreError> {
        let _lock = self.lock()?;
        let mut size_bytes = 0;
        for diff_id in config.diff_ids() {
            size_bytes += self
                .layer_size(diff_id)
                .ok_or_else(|| StoreError::NotFound(format!("layer {diff_id}")))?;
        }
        let record = ImageRecord::new(id, size_bytes, config);
        self.write(&self.record_path(id), &record.encode().map_err(StoreError::RecordSize)?)?;
        for name in names {
            self.write(&self.reference_path(name), id.as_bytes())?;
        }
        self.find_id(id)?.ok_or_else(|| StoreError::NotFound(id.to_owned()))
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
        let dir = path.parent().unwrap_or(&self.dir);
        let mut temporary = tempfile::Builder::new()
            .prefix(&owner_prefix(std::process::id()))
            .tempfile_in(self.dir.join("incoming"))
            .map_err(file("create a file in", dir))?;
        temporary.write_all(bytes).map_err(file("write", path))?;
        temporary.as_file().sync_data().map_err(file("sync", path))?;
        temporary.persist(path).map_err(|e| file("rename", path)(e.error))?;
        sync_directory(dir)
    }

    fn lock(&self) -> Result<Flock<File>, StoreError> {
        let path = self.dir.join("lock");
        let lock = File::create(&path).map_err(file("open", &path))?;
        Flock::lock(lock, FlockArg::LockExclusive)
            .map_err(|(_, errno)| file("lock", &path)(errno.into()))
    }

    fn layer_path(&self, diff_id: &str) -> PathBuf {
        self.dir.join("layers").join(digest_name(diff_id))
    }

    fn layer_record_path(&self, diff_id: &str) -> PathBuf {
        self.dir.join("layers").join(format!("{}.json", digest_name(diff_id)))
    }

    fn record_path(&self, id: &str) -> PathBuf {
        self.dir.join("images").join(format!("{}.json", digest_name(id)))
    }

    fn reference_path(&self, name: &str) -> PathBuf {
        self.dir.join("refs").join(escape(name))
    }
}

fn sync_directory(path: &Path) -> Result<(), StoreError> {
    File::open(path).and_then(|directory| directory.sync_all()).map_err(file("sync", path))
}

fn is_named(reference: &Reference, name: &str) -> bool {
    match reference.digested() {
        Some(digested) => digested == name,
        None => reference.tagged().as_deref() == Some(name),
    }
}

/// A reference as a file name: `/` becomes `%`, which references never contain.
fn escape(name: &str) -> String {
    name.replace('/', "%")
}

fn unescape(name: &str) -> String {
    name.replace('%', "/")
}

fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("plain records always serialize")
}

fn read_dir(path: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let entries = fs::read_dir(path).map_err(file("read", path))?;
    Ok(entries.filter_map(Result::ok).map(|entry| entry.path()).collect())
}

fn file<'a>(operation: &'static str, path: &'a Path) -> impl Fn(io::Error) -> StoreError + use<'a> {
    move |source| StoreError::File { operation, path: path.to_owned(), source }
}

/// Checks that a configuration names as many layers as there are, that a container can have them, and
/// that its record can be kept.
pub(super) fn check_config(config: &Configuration, layers: usize) -> Result<(), StoreError> {
    let diff_ids = config.diff_ids().len();
    if diff_ids != layers {
        return Err(StoreError::LayerCount { layers, diff_ids });
    }
    let most = max_layers();
    if layers > most {
        return Err(StoreError::TooManyLayers { layers, most });
    }
    // The ID and the size of the image take no more than these.
    let sample = ImageRecord::new(&"0".repeat(MAX_ID_BYTES), u64::MAX, config.clone());
    sample.encode().map(drop).map_err(StoreError::RecordSize)
}

#[cfg(test)]
mod tests;
