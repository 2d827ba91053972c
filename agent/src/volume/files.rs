//! From volume sources to files: pure, so that updates can be compared before anything is written.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{
    ConfigMapVolumeSource, DownwardAPIVolumeFile, KeyToPath, Pod, SecretVolumeSource,
    VolumeProjection,
};

use crate::container::downward::{self, Surroundings};
use crate::objects::{Kind, Payload};

/// One file of a volume.
#[derive(Clone, PartialEq, Eq)]
pub struct File {
    /// Its content.
    pub data: Vec<u8>,
    /// Its permission bits.
    pub mode: u32,
}

/// Most bytes of the files of one volume: a few dozen objects of 1 MiB, which API servers allow.
pub const MAX_VOLUME_BYTES: usize = 32 << 20;
/// Most files of one volume.
const MAX_VOLUME_FILES: usize = 1 << 14;
/// Longest path of a file in a volume; with the directory of the pod before it, it is below `PATH_MAX`.
const MAX_FILE_PATH_BYTES: usize = 2048;

/// Files by their path relative to the volume, within the bounds of one volume.
#[derive(Default)]
pub struct Files {
    map: BTreeMap<String, File>,
    bytes: usize,
}

impl Files {
    /// Adds a file; one of the same path is replaced.
    pub fn insert(&mut self, path: String, file: File) -> Result<(), FilesError> {
        if path.len() > MAX_FILE_PATH_BYTES {
            return Err(FilesError::LongPath);
        }
        self.bytes += file.data.len();
        if let Some(replaced) = self.map.insert(path, file) {
            self.bytes -= replaced.data.len();
        }
        if self.bytes > MAX_VOLUME_BYTES {
            return Err(FilesError::Bytes);
        }
        if self.map.len() > MAX_VOLUME_FILES {
            return Err(FilesError::Count);
        }
        Ok(())
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    fn extend(&mut self, more: Self) -> Result<(), FilesError> {
        more.map.into_iter().try_for_each(|(path, file)| self.insert(path, file))
    }
}

impl Deref for Files {
    type Target = BTreeMap<String, File>;

    fn deref(&self) -> &Self::Target {
        &self.map
    }
}

/// Why the files of a volume cannot be made; the texts are those of the kubelet.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// A referenced object does not exist.
    #[error("{} \"{name}\" not found", .kind.word())]
    NoObject {
        /// Secret or ConfigMap.
        kind: Kind,
        /// Its name.
        name: String,
    },
    /// `items` names a key that the object does not have.
    #[error("references non-existent {} key: {key}", .kind.word())]
    NoKey {
        /// Secret or ConfigMap.
        kind: Kind,
        /// The key.
        key: String,
    },
    /// A path leaves the volume.
    #[error("invalid path {0:?}")]
    Path(String),
    /// A downward API item makes no sense.
    #[error("unsupported downward API item for path {0:?}")]
    Downward(String),
    /// The files are too large together.
    #[error("the files of the volume have more than {MAX_VOLUME_BYTES} bytes")]
    Bytes,
    /// There are too many files.
    #[error("the volume has more than {MAX_VOLUME_FILES} files")]
    Count,
    /// A path is too long.
    #[error("a path of the volume is longer than {MAX_FILE_PATH_BYTES} bytes")]
    LongPath,
}

/// Gives access to what files are made from.
pub struct Sources<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// Addresses and allocatable resources.
    pub around: &'a Surroundings,
    /// Secrets and config maps that were fetched before.
    pub object: &'a (dyn Fn(Kind, &str) -> Option<Arc<Payload>> + Sync),
    /// Service account tokens that were requested before, by their position in the sources.
    pub tokens: &'a BTreeMap<usize, String>,
}

const DEFAULT_MODE: u32 = 0o644;

fn bits(mode: Option<i32>, default: u32) -> u32 {
    mode.and_then(|mode| u32::try_from(mode).ok()).unwrap_or(default) & 0o777
}

/// Files of a `secret` volume.
pub fn secret(sources: &Sources<'_>, secret: &SecretVolumeSource) -> Result<Files, FilesError> {
    let name = secret.secret_name.as_deref().unwrap_or_default();
    let mode = bits(secret.default_mode, DEFAULT_MODE);
    keyed(sources, Kind::Secret, name, secret.items.as_deref(), mode, secret.optional)
}

/// Files of a `configMap` volume.
pub fn config_map(sources: &Sources<'_>, map: &ConfigMapVolumeSource) -> Result<Files, FilesError> {
    let mode = bits(map.default_mode, DEFAULT_MODE);
    keyed(sources, Kind::ConfigMap, &map.name, map.items.as_deref(), mode, map.optional)
}

/// Files of a `downwardAPI` volume.
pub fn downward_api(
    sources: &Sources<'_>,
    items: &[DownwardAPIVolumeFile],
    mode: Option<i32>,
) -> Result<Files, FilesError> {
    let mode = bits(mode, DEFAULT_MODE);
    let mut files = Files::default();
    for item in items {
        let wrong = || FilesError::Downward(item.path.clone());
        let value = if let Some(field) = &item.field_ref {
            downward::field(sources.pod, sources.around, &field.field_path).ok_or_else(wrong)?
        } else if let Some(selector) = &item.resource_field_ref {
            let name = selector.container_name.as_deref().unwrap_or_default();
            let container = crate::worker::state::container(sources.pod, name).ok_or_else(wrong)?;
            downward::resource(&container, sources.around, selector).ok_or_else(wrong)?
        } else {
            return Err(wrong());
        };
        let mode = bits(item.mode, mode);
        put(&mut files, &item.path, File { data: value.into_bytes(), mode })?;
    }
    Ok(files)
}

/// Files of a `projected` volume: all sources in one directory.
pub fn projected(
    sources: &Sources<'_>,
    projections: &[VolumeProjection],
    default_mode: Option<i32>,
) -> Result<Files, FilesError> {
    let mode = bits(default_mode, DEFAULT_MODE);
    let mut files = Files::default();
    for (index, projection) in projections.iter().enumerate() {
        let more = if let Some(secret) = &projection.secret {
            let items = secret.items.as_deref();
            keyed(sources, Kind::Secret, &secret.name, items, mode, secret.optional)?
        } else if let Some(map) = &projection.config_map {
            let items = map.items.as_deref();
            keyed(sources, Kind::ConfigMap, &map.name, items, mode, map.optional)?
        } else if let Some(api) = &projection.downward_api {
            downward_api(sources, api.items.as_deref().unwrap_or_default(), default_mode)?
        } else if let Some(token) = &projection.service_account_token {
            let mut files = Files::default();
            if let Some(value) = sources.tokens.get(&index) {
                put(&mut files, &token.path, File { data: value.clone().into_bytes(), mode })?;
            }
            files
        } else {
            Files::default()
        };
        files.extend(more)?;
    }
    Ok(files)
}

fn keyed(
    sources: &Sources<'_>,
    kind: Kind,
    name: &str,
    items: Option<&[KeyToPath]>,
    mode: u32,
    optional: Option<bool>,
) -> Result<Files, FilesError> {
    let optional = optional == Some(true);
    let Some(payload) = (sources.object)(kind, name) else {
        if optional {
            return Ok(Files::default());
        }
        return Err(FilesError::NoObject { kind, name: name.to_owned() });
    };
    let mut files = Files::default();
    match items.filter(|items| !items.is_empty()) {
        None => {
            for (key, data) in &payload.data {
                put(&mut files, key, File { data: data.clone(), mode })?;
            }
        }
        Some(items) => {
            for item in items {
                match payload.data.get(&item.key) {
                    Some(data) => {
                        let mode = bits(item.mode, mode);
                        put(&mut files, &item.path, File { data: data.clone(), mode })?;
                    }
                    None if optional => {}
                    None => return Err(FilesError::NoKey { kind, key: item.key.clone() }),
                }
            }
        }
    }
    Ok(files)
}

/// Adds a file under its path, cleaned as upstream does it: `./a` is `a`, and `a//b` is `a/b`.
fn put(files: &mut Files, path: &str, file: File) -> Result<(), FilesError> {
    let parts = path.split('/').filter(|part| !part.is_empty() && *part != ".");
    let bad = path.starts_with('/')
        || path.starts_with("..")
        || path.split('/').any(|part| part == "..")
        || parts.clone().next().is_none_or(|first| first.starts_with(".."));
    if bad {
        return Err(FilesError::Path(path.to_owned()));
    }
    files.insert(parts.collect::<Vec<_>>().join("/"), file)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    fn with<T>(run: impl FnOnce(&Sources<'_>) -> T) -> T {
        let pod: Pod =
            serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": {"containers": []}}))
                .unwrap();
        let around = Surroundings::default();
        let object = |_: Kind, name: &str| {
            let data = match name {
                "there" => vec![("a".to_owned(), b"1".to_vec()), ("b".to_owned(), b"2".to_vec())],
                "large" => vec![("a".to_owned(), vec![b'x'; 1 << 20])],
                "many" => (0..=MAX_VOLUME_FILES).map(|n| (n.to_string(), Vec::new())).collect(),
                _ => return None,
            };
            Some(Arc::new(Payload { data: data.into_iter().collect() }))
        };
        let tokens = [(1, "jwt".to_owned())].into();
        run(&Sources { pod: &pod, around: &around, object: &object, tokens: &tokens })
    }

    #[test]
    fn all_keys_or_the_chosen_ones() {
        let source = |value| serde_json::from_value::<SecretVolumeSource>(value).unwrap();
        with(|sources| {
            let all = secret(sources, &source(json!({"secretName": "there"}))).unwrap();
            assert_eq!(all.keys().collect::<Vec<_>>(), ["a", "b"]);
            assert_eq!(all["a"].mode, 0o644);
            let some = source(json!({"secretName": "there", "defaultMode": 0o400,
                "items": [{"key": "b", "path": "x/y"}]}));
            let some = secret(sources, &some).unwrap();
            assert_eq!((some["x/y"].data.as_slice(), some["x/y"].mode), (&b"2"[..], 0o400));
            let text = |value| secret(sources, &source(value)).err().unwrap().to_string();
            assert_eq!(text(json!({"secretName": "gone"})), "secret \"gone\" not found");
            assert_eq!(
                text(json!({"secretName": "there", "items": [{"key": "z", "path": "z"}]})),
                "references non-existent secret key: z"
            );
            let escape = json!({"secretName": "there", "items": [{"key": "a", "path": "../z"}]});
            assert_eq!(text(escape), "invalid path \"../z\"");
            let optional = source(json!({"secretName": "gone", "optional": true}));
            assert!(secret(sources, &optional).unwrap().is_empty());
        });
    }

    #[test]
    fn paths_are_cleaned_before_use() {
        with(|sources| {
            let made = |path: &str| {
                let source = json!({"secretName": "there", "items": [{"key": "a", "path": path}]});
                let files = secret(sources, &serde_json::from_value(source).unwrap());
                files.map(|files| files.keys().next().cloned().unwrap()).ok()
            };
            for (path, expected) in [
                ("./a", Some("a")),
                ("a//b", Some("a/b")),
                ("./a/./b/", Some("a/b")),
                ("a/..b", Some("a/..b")),
                ("", None),
                (".", None),
                ("./", None),
                ("/a", None),
                ("a/../b", None),
                ("..", None),
                ("..data", None),
                ("./..data", None),
                ("./../a", None),
            ] {
                assert_eq!(made(path).as_deref(), expected, "{path:?}");
            }
        });
    }

    #[test]
    fn one_key_in_many_files_is_bounded() {
        let items: Vec<_> = (0..50).map(|n| json!({"key": "a", "path": format!("{n}")})).collect();
        let source = |name: &str, items: serde_json::Value| {
            let source = json!({"secretName": name, "items": items});
            serde_json::from_value::<SecretVolumeSource>(source).unwrap()
        };
        with(|sources| {
            let text = |source| secret(sources, &source).err().unwrap().to_string();
            assert_eq!(
                text(source("large", json!(items))),
                "the files of the volume have more than 33554432 bytes"
            );
            assert!(secret(sources, &source("large", json!(items[..32]))).is_ok());
            assert_eq!(text(source("many", json!([]))), "the volume has more than 16384 files");
            let deep = json!([{"key": "a", "path": "d/".repeat(2000) + "f"}]);
            assert_eq!(
                text(source("there", deep)),
                "a path of the volume is longer than 2048 bytes"
            );
        });
    }

    #[test]
    fn projections_share_one_directory() {
        let sources_of = json!([
            {"configMap": {"name": "there", "items": [{"key": "a", "path": "ca.crt"}]}},
            {"serviceAccountToken": {"path": "token"}},
            {"downwardAPI": {"items": [{"path": "n", "fieldRef": {"fieldPath": "metadata.name"}}]}},
        ]);
        let projections: Vec<VolumeProjection> = serde_json::from_value(sources_of).unwrap();
        with(|sources| {
            let files = projected(sources, &projections, None).unwrap();
            assert_eq!(files.keys().collect::<Vec<_>>(), ["ca.crt", "n", "token"]);
            assert_eq!(files["token"].data, b"jwt");
        });
    }
}
