//! Images from local archives: `docker save` tars and OCI layouts in a tar, compressed or not.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};

use oci_spec::image::{ImageIndex, ImageManifest};
use ring::digest::{SHA256, digest};
use serde::Deserialize;
use tar::{Archive, EntryType};

use super::compression::decompressed;
use super::incoming::Incoming;
use super::record::Configuration;
use super::reference::{Reference, ReferenceError};
use super::store::{Image, ImageStore, StoreError, check_config};
use super::unpack::hex;

/// Annotations that carry an image's name in an OCI layout (containerd's, then the standard one).
const NAME_ANNOTATIONS: [&str; 2] =
    ["io.containerd.image.name", "org.opencontainers.image.ref.name"];
/// JSON documents in an archive larger than this are refused.
const MAX_DOCUMENT_BYTES: u64 = 8 << 20;

/// Why an archive could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The archive cannot be read.
    #[error("read archive: {0}")]
    Read(#[source] io::Error),
    /// It is a tar, but of something else.
    #[error(
        "the archive is neither a docker archive (manifest.json) nor an OCI layout (index.json)"
    )]
    NotAnImage,
    /// A file that the archive's own index names is missing.
    #[error("the archive lacks {0}")]
    Missing(String),
    /// A document in it is not what it should be.
    #[error("{name} in the archive is broken: {source}")]
    Document {
        /// The file in the archive.
        name: String,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// A blob's digest is not its name.
    #[error("{name} in the archive has digest {got}")]
    Digest {
        /// The blob.
        name: String,
        /// Its digest.
        got: String,
    },
    /// A name in it is no image reference.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// The index offers no image for this machine.
    #[error("the archive has no image for linux/amd64")]
    Platform,
    /// The store refused.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// One element of docker's `manifest.json`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerManifest {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

impl ImageStore {
    /// Loads every image of an archive; returns them with the names they got. `name` names an
    /// image that the archive leaves without one.
    pub fn load(
        &self,
        input: impl Read,
        name: Option<&Reference>,
    ) -> Result<Vec<Image>, ArchiveError> {
        let spool = Spool::new(self, input)?;
        let mut images = if spool.has("index.json") && !spool.has("manifest.json") {
            self.load_oci(&spool, name)?
        } else if spool.has("manifest.json") {
            self.load_docker(&spool, name)?
        } else {
            return Err(ArchiveError::NotAnImage);
        };
        for image in &mut images {
            *image = self.with_names(image.clone())?;
        }
        Ok(images)
    }

    fn load_docker(
        &self,
        spool: &Spool,
        name: Option<&Reference>,
    ) -> Result<Vec<Image>, ArchiveError> {
        let manifests: Vec<DockerManifest> = spool.document("manifest.json")?;
        let mut images = Vec::new();
        for manifest in manifests {
            let bytes = spool.bytes(&manifest.config)?;
            let names = names(manifest.repo_tags.unwrap_or_default().iter(), name)?;
            images.push(self.load_image(spool, &bytes, &manifest.layers, names)?);
        }
        Ok(images)
    }

    fn load_oci(
        &self,
        spool: &Spool,
        name: Option<&Reference>,
    ) -> Result<Vec<Image>, ArchiveError> {
        let index: ImageIndex = spool.document("index.json")?;
        let mut images = Vec::new();
        for descriptor in index.manifests() {
            let annotated = descriptor
                .annotations()
                .as_ref()
                .and_then(|a| NAME_ANNOTATIONS.iter().find_map(|key| a.get(*key)));
            let names = names(annotated.into_iter(), name)?;
            let mut blob = blob_path(descriptor.digest().as_ref());
            if descriptor.media_type().to_string().contains("index") {
                let nested: ImageIndex = spool.verified_document(&blob)?;
                let fitting = nested.manifests().iter().find(|m| {
                    m.platform().as_ref().is_none_or(|p| {
                        p.architecture().to_string() == "amd64" && p.os().to_string() == "linux"
                    })
                });
                blob = blob_path(fitting.ok_or(ArchiveError::Platform)?.digest().as_ref());
            }
            let manifest: ImageManifest = spool.verified_document(&blob)?;
            let config = spool.verified(&blob_path(manifest.config().digest().as_ref()))?;
            let layers: Vec<String> =
                manifest.layers().iter().map(|l| blob_path(l.digest().as_ref())).collect();
            images.push(self.load_image(spool, &config, &layers, names)?);
        }
        Ok(images)
    }

    fn load_image(
        &self,
        spool: &Spool,
        config_bytes: &[u8],
        layers: &[String],
        names: Vec<String>,
    ) -> Result<Image, ArchiveError> {
        let config = Configuration::parse(config_bytes).map_err(|source| {
            ArchiveError::Document { name: "the configuration".into(), source }
        })?;
        check_config(&config, layers.len())?;
        let _claim = self.claim(config.diff_ids())?;
        for (layer, diff_id) in layers.iter().zip(config.diff_ids()) {
            if self.layer_size(diff_id).is_none() {
                self.add_layer(spool.open(layer)?, diff_id, None)?;
            }
        }
        let id = format!("sha256:{}", hex(digest(&SHA256, config_bytes).as_ref()));
        let mut all = names;
        // A digest of its own, as a registry would give one, so that status can show it.
        all.extend(
            all.first().and_then(|n| n.rsplit_once(':')).map(|(name, _)| format!("{name}@{id}")),
        );
        Ok(self.add_image(&id, config, &all)?)
    }
}

fn names<'a>(
    given: impl Iterator<Item = &'a String>,
    fallback: Option<&Reference>,
) -> Result<Vec<String>, ReferenceError> {
    let mut names = Vec::new();
    for name in given {
        names.extend(name.parse::<Reference>()?.tagged());
    }
    if names.is_empty() {
        names.extend(fallback.and_then(Reference::tagged));
    }
    Ok(names)
}

fn blob_path(digest: &str) -> String {
    format!("blobs/{}", digest.replacen(':', "/", 1))
}

/// The regular files of an archive, spooled to disk because a tar's order is arbitrary.
struct Spool {
    _dir: Incoming,
    files: HashMap<String, PathBuf>,
}

impl Spool {
    fn new(store: &ImageStore, input: impl Read) -> Result<Self, ArchiveError> {
        let dir = store.incoming()?;
        let mut files = HashMap::new();
        let mut links = Vec::new();
        let plain = decompressed(input).map_err(ArchiveError::Read)?;
        let mut archive = Archive::new(plain);
        for (number, entry) in archive.entries().map_err(ArchiveError::Read)?.enumerate() {
            let mut entry = entry.map_err(ArchiveError::Read)?;
            let name = normalize(&entry.path().map_err(ArchiveError::Read)?);
            match entry.header().entry_type() {
                EntryType::Regular | EntryType::Continuous => {
                    // The file's own name never reaches the file system.
                    let path = dir.path().join(number.to_string());
                    let mut file = File::create(&path).map_err(ArchiveError::Read)?;
                    io::copy(&mut entry, &mut file).map_err(ArchiveError::Read)?;
                    files.insert(name, path);
                }
                EntryType::Symlink | EntryType::Link => {
                    // docker save links equal layers to each other.
                    if let Some(target) = entry.link_name().map_err(ArchiveError::Read)? {
                        let base = Path::new(&name).parent().unwrap_or(Path::new(""));
                        links.push((
                            name.clone(),
                            normalize(&base.join(&target)),
                            normalize(&target),
                        ));
                    }
                }
                _ => {}
            }
        }
        for (name, relative, absolute) in links {
            if let Some(path) = files.get(&relative).or_else(|| files.get(&absolute)).cloned() {
                files.insert(name, path);
            }
        }
        Ok(Self { _dir: dir, files })
    }

    fn has(&self, name: &str) -> bool {
        self.files.contains_key(name)
    }

    fn open(&self, name: &str) -> Result<File, ArchiveError> {
        let path = self.files.get(name).ok_or_else(|| ArchiveError::Missing(name.to_owned()))?;
        File::open(path).map_err(ArchiveError::Read)
    }

    fn bytes(&self, name: &str) -> Result<Vec<u8>, ArchiveError> {
        let mut bytes = Vec::new();
        self.open(name)?
            .take(MAX_DOCUMENT_BYTES)
            .read_to_end(&mut bytes)
            .map_err(ArchiveError::Read)?;
        Ok(bytes)
    }

    fn document<T: for<'de> Deserialize<'de>>(&self, name: &str) -> Result<T, ArchiveError> {
        parse(name, &self.bytes(name)?)
    }

    /// A blob whose name is its digest.
    fn verified(&self, name: &str) -> Result<Vec<u8>, ArchiveError> {
        let bytes = self.bytes(name)?;
        let got = hex(digest(&SHA256, &bytes).as_ref());
        if name.rsplit('/').next() == Some(&got) {
            Ok(bytes)
        } else {
            Err(ArchiveError::Digest { name: name.to_owned(), got })
        }
    }

    fn verified_document<T: for<'de> Deserialize<'de>>(
        &self,
        name: &str,
    ) -> Result<T, ArchiveError> {
        parse(name, &self.verified(name)?)
    }
}

fn parse<T: for<'de> Deserialize<'de>>(name: &str, bytes: &[u8]) -> Result<T, ArchiveError> {
    serde_json::from_slice(bytes)
        .map_err(|source| ArchiveError::Document { name: name.to_owned(), source })
}

/// A tar path without `./`, with `..` applied.
fn normalize(path: &Path) -> String {
    let mut parts: Vec<String> = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(part) => parts.push(part.to_string_lossy().into_owned()),
            Component::ParentDir => drop(parts.pop()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    parts.join("/")
}
