//! Manifests and indexes of images; only what a pull needs of them is kept.

use serde::Deserialize;

use crate::image::digest::{Digest, InvalidDigest};

/// The documents that are asked for.
pub(super) const MANIFEST_TYPES: &str = "application/vnd.docker.distribution.manifest.v2+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, \
     application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json";

/// A reference to other contents. Its `urls` are ignored: a registry does not choose which hosts
/// the node speaks to.
#[derive(Clone, Debug, Deserialize)]
pub(in crate::image) struct Descriptor {
    /// As the registry wrote it.
    pub(in crate::image) digest: String,
    /// Bytes, as the registry wrote it.
    pub(in crate::image) size: i64,
    #[serde(default)]
    platform: Option<Platform>,
}

#[derive(Clone, Debug, Deserialize)]
struct Platform {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
}

impl Descriptor {
    /// Returns the digest if it is one.
    pub(in crate::image) fn checked_digest(&self) -> Result<Digest, InvalidDigest> {
        Digest::parse(&self.digest)
    }

    /// Returns the size if there can be such.
    pub(super) fn checked_size(&self) -> Result<u64, String> {
        u64::try_from(self.size)
            .map_err(|_| format!("content descriptor {} has size {}", self.digest, self.size))
    }
}

/// The manifest of an image.
#[derive(Debug)]
pub(in crate::image) struct Manifest {
    /// The configuration.
    pub(in crate::image) config: Descriptor,
    /// The layers, base first.
    pub(in crate::image) layers: Vec<Descriptor>,
}

/// An index of manifests.
#[derive(Debug)]
pub(super) struct Index {
    manifests: Vec<Descriptor>,
}

impl Index {
    /// Returns the manifest for linux/amd64.
    pub(super) fn for_this_machine(&self) -> Option<&Descriptor> {
        self.manifests.iter().find(|entry| {
            let platform = entry.platform.as_ref();
            platform.is_some_and(|p| p.os == "linux" && p.architecture == "amd64")
        })
    }
}

/// A document that a registry has under a tag or digest.
#[derive(Debug)]
pub(super) enum Document {
    /// An image.
    Manifest(Manifest),
    /// Images by platform.
    Index(Index),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Written {
    schema_version: i64,
    #[serde(default)]
    media_type: Option<String>,
    #[serde(default)]
    config: Option<Descriptor>,
    #[serde(default)]
    layers: Option<Vec<Descriptor>>,
    #[serde(default)]
    manifests: Option<Vec<Descriptor>>,
}

impl Document {
    /// Parses a manifest or an index, or says why it is neither.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, String> {
        let written: Written =
            serde_json::from_slice(bytes).map_err(|e| format!("broken manifest: {e}"))?;
        if written.schema_version != 2 {
            return Err(format!("unsupported schema version {}", written.schema_version));
        }
        if let Some(media_type) = &written.media_type
            && !MANIFEST_TYPES.split(", ").any(|known| known == media_type)
        {
            return Err(format!("unsupported media type {media_type:?}"));
        }
        match (written.config, written.layers, written.manifests) {
            (Some(config), layers, None) => {
                let layers = layers.unwrap_or_default();
                for descriptor in layers.iter().chain([&config]) {
                    descriptor.checked_digest().map_err(|e| e.to_string())?;
                }
                Ok(Self::Manifest(Manifest { config, layers }))
            }
            (None, None, Some(manifests)) => Ok(Self::Index(Index { manifests })),
            _ => Err("the manifest is neither of an image nor an index".into()),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::{Value, json};

    use super::*;

    fn parse(document: &Value) -> Result<Document, String> {
        Document::parse(document.to_string().as_bytes())
    }

    #[test]
    fn manifests_and_indexes_are_told_apart() {
        let digest = format!("sha256:{}", "1".repeat(64));
        let descriptor = json!({"digest": digest, "size": 5, "urls": ["http://127.0.0.1/"]});
        let manifest = json!({"schemaVersion": 2, "config": descriptor, "layers": [descriptor]});
        assert!(matches!(parse(&manifest), Ok(Document::Manifest(m)) if m.layers[0].size == 5));
        let entry = |architecture: &str, digest: &str| {
            let platform = json!({"os": "linux", "architecture": architecture});
            json!({"digest": digest, "size": 1, "platform": platform})
        };
        let index = json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": [{"digest": "a", "size": 1}, entry("arm64", "b"), entry("amd64", "c")],
        });
        let Ok(Document::Index(index)) = parse(&index) else { unreachable!() };
        assert_eq!(index.for_this_machine().unwrap().digest, "c");
        for bad in [
            json!({"schemaVersion": 1, "config": descriptor, "layers": []}),
            json!({"schemaVersion": 2}),
            json!({"schemaVersion": 2, "config": descriptor, "manifests": []}),
            json!({"schemaVersion": 2, "mediaType": "text/plain", "config": descriptor}),
            json!({"schemaVersion": 2, "config": {"digest": "sha256:../../x", "size": 1}}),
            json!([]),
        ] {
            parse(&bad).unwrap_err();
        }
    }

    #[test]
    fn negative_sizes_are_refused() {
        let descriptor = |size: i64| Descriptor { digest: "d".into(), size, platform: None };
        assert_eq!(descriptor(5).checked_size(), Ok(5));
        assert!(descriptor(-5).checked_size().is_err());
    }
}
