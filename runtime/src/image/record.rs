//! The record of an image: the part of its configuration that containers are made from, within bounds.
//!
//! The configuration of an image comes from a tenant's registry. History, labels and whatever else
//! it holds is skipped while it is parsed, so neither the record nor a reader of it grows with them.

use std::collections::HashSet;
use std::fmt;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use oci_spec::image::{ImageConfiguration, RootFs};
use serde::de::{Error as _, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

/// Bytes of the record of an image. The kernel takes no more than 2 MiB of arguments and environment.
pub(super) const MAX_RECORD_BYTES: u64 = 1 << 20;
/// Bytes of a record by an earlier version, which held the whole configuration; it is rewritten once.
const MAX_OLD_RECORD_BYTES: u64 = 16 << 20;
/// Elements of one list of a configuration: arguments, environment variables, layers.
const MAX_LIST_ITEMS: usize = 10_000;
/// Records that a process warns about.
const MAX_WARNED: usize = 256;
/// The format of the records that this version writes. Format 1 had the whole configuration; its
/// readers take the parts that are left, so a downgrade is possible.
const FORMAT: u32 = 2;

/// `images/<image id>.json`.
#[derive(Serialize, Deserialize)]
pub(super) struct ImageRecord {
    #[serde(default = "first_format")]
    format: u32,
    pub(super) id: String,
    pub(super) size_bytes: u64,
    diff_ids: Texts,
    config: Configuration,
}

fn first_format() -> u32 {
    1
}

/// The part of an image's configuration that coracle uses.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Configuration {
    // Readers of the image format require these two.
    #[serde(skip_deserializing, default = "architecture")]
    architecture: &'static str,
    #[serde(skip_deserializing, default = "os")]
    os: &'static str,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    config: Option<Settings>,
    rootfs: Layers,
}

fn architecture() -> &'static str {
    "amd64"
}

fn os() -> &'static str {
    "linux"
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Layers {
    #[serde(skip_deserializing, rename = "type", default = "layers")]
    kind: &'static str,
    #[serde(default)]
    diff_ids: Texts,
}

fn layers() -> &'static str {
    "layers"
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Settings {
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    env: Option<Texts>,
    #[serde(skip_serializing_if = "Option::is_none")]
    entrypoint: Option<Texts>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cmd: Option<Texts>,
    #[serde(skip_serializing_if = "Option::is_none")]
    working_dir: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stop_signal: Option<String>,
}

/// A list of at most [`MAX_LIST_ITEMS`] strings.
#[derive(Clone, Debug, Default, Serialize)]
struct Texts(Vec<String>);

impl<'de> Deserialize<'de> for Texts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct List;
        impl<'de> Visitor<'de> for List {
            type Value = Texts;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "at most {MAX_LIST_ITEMS} strings")
            }

            fn visit_unit<E>(self) -> Result<Texts, E> {
                Ok(Texts::default())
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Texts, A::Error> {
                let mut texts = Vec::new();
                while let Some(text) = items.next_element::<String>()? {
                    if texts.len() == MAX_LIST_ITEMS {
                        return Err(A::Error::invalid_length(MAX_LIST_ITEMS + 1, &self));
                    }
                    texts.push(text);
                }
                Ok(Texts(texts))
            }
        }
        deserializer.deserialize_any(List)
    }
}

impl Configuration {
    /// Parses the configuration of an image.
    pub(super) fn parse(bytes: &[u8]) -> serde_json::Result<Self> {
        serde_json::from_slice(bytes)
    }

    /// Returns the digests of the plain layers, base first.
    pub(super) fn diff_ids(&self) -> &[String] {
        &self.rootfs.diff_ids.0
    }

    /// Returns the form that the rest of the program uses.
    fn into_image_configuration(self) -> ImageConfiguration {
        let mut rootfs = RootFs::default();
        rootfs.set_diff_ids(self.rootfs.diff_ids.0);
        let mut configuration = ImageConfiguration::default();
        configuration.set_rootfs(rootfs);
        configuration.set_config(self.config.map(|settings| {
            let mut config = oci_spec::image::Config::default();
            config
                .set_user(settings.user)
                .set_env(settings.env.map(|texts| texts.0))
                .set_entrypoint(settings.entrypoint.map(|texts| texts.0))
                .set_cmd(settings.cmd.map(|texts| texts.0))
                .set_working_dir(settings.working_dir)
                .set_stop_signal(settings.stop_signal);
            config
        }));
        configuration
    }
}

/// The reason why a record cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unusable {
    /// It cannot be read.
    #[error(transparent)]
    Read(io::Error),
    /// It is longer than any that this program writes.
    #[error("it has {bytes} bytes; at most {most} are read")]
    TooLarge {
        /// Its size.
        bytes: u64,
        /// The bound.
        most: u64,
    },
    /// It is damaged.
    #[error(transparent)]
    Damaged(serde_json::Error),
}

impl ImageRecord {
    /// Makes the record of an image.
    pub(super) fn new(id: &str, size_bytes: u64, config: Configuration) -> Self {
        let diff_ids = config.rootfs.diff_ids.clone();
        Self { format: FORMAT, id: id.to_owned(), size_bytes, diff_ids, config }
    }

    /// Reads a record; `None` if there is none.
    pub(super) fn read(path: &Path) -> Result<Option<Self>, Unusable> {
        Self::read_at_most(path, MAX_RECORD_BYTES)
    }

    /// Reads a record that an earlier version may have written.
    pub(super) fn read_old(path: &Path) -> Result<Option<Self>, Unusable> {
        let record = Self::read_at_most(path, MAX_OLD_RECORD_BYTES)?;
        Ok(record.map(|record| Self { format: FORMAT, ..record }))
    }

    fn read_at_most(path: &Path, most: u64) -> Result<Option<Self>, Unusable> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Unusable::Read(error)),
        };
        let bytes = file.metadata().map_err(Unusable::Read)?.len();
        if bytes > most {
            return Err(Unusable::TooLarge { bytes, most });
        }
        // Parsed as it is read: what is skipped takes no memory.
        let reader = BufReader::with_capacity(64 << 10, file.take(most));
        serde_json::from_reader(reader).map(Some).map_err(|error| match error.io_error_kind() {
            Some(_) => Unusable::Read(error.into()),
            None => Unusable::Damaged(error),
        })
    }

    /// Returns the bytes of the file, or their number if there are too many.
    pub(super) fn encode(&self) -> Result<Vec<u8>, u64> {
        let bytes = serde_json::to_vec(self).expect("plain records always serialize");
        let length = bytes.len() as u64;
        if length > MAX_RECORD_BYTES { Err(length) } else { Ok(bytes) }
    }

    /// Returns the digests of the plain layers, base first.
    pub(super) fn diff_ids(&self) -> &[String] {
        &self.diff_ids.0
    }

    /// Returns the configuration in the form that the rest of the program uses.
    pub(super) fn into_image_configuration(self) -> ImageConfiguration {
        self.config.into_image_configuration()
    }
}

/// Warns of a record that cannot be used, once in the life of this process.
pub(super) fn warn(path: &Path, error: &Unusable) {
    static WARNED: Mutex<Option<HashSet<PathBuf>>> = Mutex::new(None);
    let mut warned = WARNED.lock().unwrap_or_else(PoisonError::into_inner);
    let warned = warned.get_or_insert_default();
    if warned.len() < MAX_WARNED && warned.insert(path.to_owned()) {
        tracing::warn!(path = %path.display(), %error, "image record is unusable; the image has to be pulled again");
    }
}
