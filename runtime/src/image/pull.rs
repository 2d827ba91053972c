//! Pulls images from OCI registries: layers in parallel, streamed through the digest check and the
//! decompressor straight into their directories.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use oci_client::client::{ClientConfig, ClientProtocol, linux_amd64_resolver};
use oci_client::errors::{OciDistributionError, OciErrorCode};
use oci_client::manifest::OciDescriptor;
use oci_client::secrets::RegistryAuth;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::record::Configuration;
use super::reference::Reference;
use super::store::{Image, ImageStore, StoreError, check_config};

/// Layers that one pull fetches at the same time.
const PARALLEL_LAYERS: usize = 3;
/// Chunks that wait between the network and the unpacker.
const CHUNK_QUEUE: usize = 16;
/// A registry that does not accept a connection within this time is unreachable.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A registry that sends nothing for this long hangs.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
/// So much is read of a layer that cannot be unpacked, to see whether it is the promised one.
const MAX_UNWANTED_BYTES: usize = 64 << 20;
/// Image configurations larger than this are refused.
const MAX_CONFIG_BYTES: i64 = 8 << 20;

/// What to log in to a registry with.
#[derive(Clone, Serialize, Deserialize)]
pub struct Credentials {
    /// User name.
    pub username: String,
    /// Password or token.
    pub password: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").field("username", &self.username).finish_non_exhaustive()
    }
}

/// How to pull.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct PullOptions {
    /// Tried in order; anonymous when empty.
    pub credentials: Vec<Credentials>,
    /// Registry → mirrors (`host[:port]`) to ask first.
    pub mirrors: BTreeMap<String, Vec<String>>,
    /// Registries besides loopback ones that speak plain HTTP.
    pub plain_http: Vec<String>,
    /// How long a registry may take to accept a connection, where that is less than usual.
    #[serde(default)]
    pub connect_timeout: Option<Duration>,
}

/// How far a pull is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Progress {
    /// The layers to fetch: (digest, compressed bytes); those present already are left out.
    Layers(Vec<(String, u64)>),
    /// Compressed bytes of one layer that have arrived since the last report.
    Received {
        /// The layer.
        digest: String,
        /// Bytes.
        bytes: u64,
    },
    /// A layer is unpacked.
    Unpacked(String),
}

/// Why an image could not be pulled. The texts are those that users of containerd know.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// The registry has no such image.
    #[error(
        "failed to pull and unpack image \"{0}\": failed to resolve reference \"{0}\": {0}: not found"
    )]
    NotFound(String),
    /// The registry wants other credentials.
    #[error(
        "failed to pull and unpack image \"{reference}\": failed to resolve reference \
         \"{reference}\": pull access denied, repository does not exist or may require \
         authorization: {message}"
    )]
    Denied {
        /// The image.
        reference: String,
        /// The registry's words.
        message: String,
    },
    /// The registry cannot be reached or hangs.
    #[error("failed to pull and unpack image \"{reference}\": failed to do request: {message}")]
    Unreachable {
        /// The image.
        reference: String,
        /// What the network said.
        message: String,
    },
    /// The registry sent something else than it promised.
    #[error("failed to pull and unpack image \"{reference}\": {message}")]
    Corrupt {
        /// The image.
        reference: String,
        /// What does not fit.
        message: String,
    },
    /// The registry failed otherwise.
    #[error("failed to pull and unpack image \"{reference}\": {message}")]
    Registry {
        /// The image.
        reference: String,
        /// The registry's words.
        message: String,
    },
    /// The image cannot be stored.
    #[error("failed to pull and unpack image \"{reference}\": {source}")]
    Store {
        /// The image.
        reference: String,
        /// Why.
        source: StoreError,
    },
    /// The process that was to pull failed (its own words).
    #[error("{message}")]
    Worker {
        /// What it said, already naming the image.
        message: String,
        /// Whether the registry could not be reached at all.
        unreachable: bool,
    },
}

impl PullError {
    /// Whether the registry could not be reached at all, so that a local copy may stand in.
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Worker { unreachable: true, .. })
    }

    fn from_registry(reference: &Reference, error: OciDistributionError) -> Self {
        let name = reference.to_string();
        let message = chain(&error);
        match error {
            OciDistributionError::ImageManifestNotFoundError(_) => Self::NotFound(name),
            OciDistributionError::RegistryError { envelope, .. } => {
                let is = |codes: &[OciErrorCode]| {
                    envelope.errors.iter().any(|e| codes.contains(&e.code))
                };
                if is(&[
                    OciErrorCode::ManifestUnknown,
                    OciErrorCode::NameUnknown,
                    OciErrorCode::NotFound,
                ]) {
                    Self::NotFound(name)
                } else if is(&[OciErrorCode::Unauthorized, OciErrorCode::Denied]) {
                    Self::Denied { reference: name, message }
                } else {
                    Self::Registry { reference: name, message }
                }
            }
            OciDistributionError::AuthenticationFailure(_)
            | OciDistributionError::UnauthorizedError { .. } => {
                Self::Denied { reference: name, message }
            }
            OciDistributionError::ServerError { code: 404, .. } => Self::NotFound(name),
            OciDistributionError::RequestError(_) => Self::Unreachable { reference: name, message },
            OciDistributionError::DigestError(_)
            | OciDistributionError::JsonError(_)
            | OciDistributionError::ManifestParsingError(_)
            | OciDistributionError::ManifestEncodingError(_)
            | OciDistributionError::VersionedParsingError(_) => {
                Self::Corrupt { reference: name, message }
            }
            _ => Self::Registry { reference: name, message },
        }
    }

    fn store(reference: &Reference) -> impl Fn(StoreError) -> Self {
        let reference = reference.to_string();
        move |source| Self::Store { reference: reference.clone(), source }
    }
}

/// An error with its causes, each said once.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

impl ImageStore {
    /// Pulls `reference` from its registry or a mirror of it; layers that are here already are not
    /// fetched again.
    pub async fn pull(
        &self,
        reference: &Reference,
        options: &PullOptions,
        progress: &(dyn Fn(Progress) + Send + Sync),
    ) -> Result<Image, PullError> {
        let mirrors = options.mirrors.get(reference.registry());
        let sources = mirrors.into_iter().flatten().map(|mirror| reference.via(mirror));
        let mut error = None;
        for source in sources.chain([reference.inner().clone()]) {
            for auth in logins(&options.credentials) {
                match self.pull_from(reference, &source, &auth, options, progress).await {
                    Ok(image) => return Ok(image),
                    Err(e @ PullError::Store { .. }) => return Err(e),
                    Err(e) => {
                        // The first word of a mirror is less telling than that of the registry,
                        // except where the registry cannot be reached.
                        if !(e.is_unreachable() && error.is_some()) {
                            error = Some(e);
                        }
                    }
                }
            }
        }
        Err(error.expect("at least one source was tried"))
    }

    async fn pull_from(
        &self,
        reference: &Reference,
        source: &oci_client::Reference,
        auth: &RegistryAuth,
        options: &PullOptions,
        progress: &(dyn Fn(Progress) + Send + Sync),
    ) -> Result<Image, PullError> {
        let failed = |e| PullError::from_registry(reference, e);
        let client = client(source.resolve_registry(), options).map_err(failed)?;
        let (manifest, digest, list_digest) =
            client.pull_image_manifest_and_list_digest(source, auth).await.map_err(failed)?;
        if manifest.config.size > MAX_CONFIG_BYTES {
            return Err(PullError::Corrupt {
                reference: reference.to_string(),
                message: format!("the image configuration has {} bytes", manifest.config.size),
            });
        }
        let mut config_bytes = Vec::new();
        client.pull_blob(source, &manifest.config, &mut config_bytes).await.map_err(failed)?;
        let config = Configuration::parse(&config_bytes).map_err(|e| PullError::Corrupt {
            reference: reference.to_string(),
            message: format!("broken image configuration: {e}"),
        })?;
        check_config(&config, manifest.layers.len()).map_err(PullError::store(reference))?;
        let claim = self.claim(config.diff_ids()).map_err(PullError::store(reference))?;
        let missing: Vec<(OciDescriptor, String)> = manifest
            .layers
            .iter()
            .cloned()
            .zip(config.diff_ids().iter().cloned())
            .filter(|(_, diff_id)| self.layer_size(diff_id).is_none())
            .collect();
        progress(Progress::Layers(
            missing.iter().map(|(l, _)| (l.digest.clone(), l.size.max(0) as u64)).collect(),
        ));
        stream::iter(missing)
            .map(|(layer, diff_id)| {
                self.pull_layer(&client, reference, source, layer, diff_id, progress)
            })
            .buffer_unordered(PARALLEL_LAYERS)
            .try_collect::<()>()
            .await?;
        let digest = list_digest.unwrap_or(digest);
        let mut names = vec![format!("{}@{digest}", reference.name())];
        names.extend(reference.digested());
        if reference.digested().is_none() {
            names.extend(reference.tagged());
        }
        let added = self.add_image(&manifest.config.digest, config, &names);
        drop(claim);
        added.and_then(|image| self.with_names(image)).map_err(PullError::store(reference))
    }

    async fn pull_layer(
        &self,
        client: &oci_client::Client,
        reference: &Reference,
        source: &oci_client::Reference,
        layer: OciDescriptor,
        diff_id: String,
        progress: &(dyn Fn(Progress) + Send + Sync),
    ) -> Result<(), PullError> {
        let mut chunks = client
            .pull_blob_stream(source, &layer)
            .await
            .map_err(|e| PullError::from_registry(reference, e))?;
        let (sender, receiver) = mpsc::channel::<io::Result<Bytes>>(CHUNK_QUEUE);
        let store = self.clone();
        let unpacking = tokio::task::spawn_blocking({
            let diff_id = diff_id.clone();
            move || store.add_layer(ChunkReader { receiver, chunk: Bytes::new() }, &diff_id)
        });
        let mut network_error = None;
        let mut unwanted = 0;
        while let Some(chunk) = chunks.next().await {
            let chunk = match chunk {
                Ok(chunk) => chunk,
                Err(error) => {
                    network_error = Some(chain(&error));
                    // The unpacker must not take a cut stream for a whole one.
                    let _ = sender.send(Err(error)).await;
                    break;
                }
            };
            progress(Progress::Received {
                digest: layer.digest.clone(),
                bytes: chunk.len() as u64,
            });
            let bytes = chunk.len();
            if sender.send(Ok(chunk)).await.is_err() {
                // The unpacker stumbled. If the registry lied, that is what has to be said; its
                // lie shows at the end of the stream.
                unwanted += bytes;
                if unwanted > MAX_UNWANTED_BYTES {
                    break;
                }
            }
        }
        drop(sender);
        let result = unpacking.await.expect("unpacking a layer does not panic");
        if let Some(message) = network_error {
            return Err(PullError::Corrupt { reference: reference.to_string(), message });
        }
        result.map_err(PullError::store(reference))?;
        progress(Progress::Unpacked(layer.digest));
        Ok(())
    }
}

fn logins(credentials: &[Credentials]) -> Vec<RegistryAuth> {
    if credentials.is_empty() {
        return vec![RegistryAuth::Anonymous];
    }
    credentials
        .iter()
        .map(|c| RegistryAuth::Basic(c.username.clone(), c.password.clone()))
        .collect()
}

/// A client, or why none can be made: a machine without CA certificates has none to verify with.
fn client(
    registry: &str,
    options: &PullOptions,
) -> Result<oci_client::Client, OciDistributionError> {
    let mut plain = options.plain_http.clone();
    if is_loopback(registry) {
        plain.push(registry.to_owned());
    }
    oci_client::Client::try_from(ClientConfig {
        protocol: ClientProtocol::HttpsExcept(plain),
        platform_resolver: Some(Box::new(linux_amd64_resolver)),
        connect_timeout: Some(options.connect_timeout.unwrap_or(CONNECT_TIMEOUT)),
        read_timeout: Some(READ_TIMEOUT),
        user_agent: concat!("coracle/", env!("CARGO_PKG_VERSION")),
        ..ClientConfig::default()
    })
}

/// Whether `host[:port]` is this machine, where plain HTTP is no risk.
fn is_loopback(registry: &str) -> bool {
    let host = match registry.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or(v6),
        None => registry.rsplit_once(':').map_or(registry, |(host, _)| host),
    };
    host == "localhost"
        || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// The blocking end of a channel of chunks.
struct ChunkReader {
    receiver: mpsc::Receiver<io::Result<Bytes>>,
    chunk: Bytes,
}

impl Read for ChunkReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while self.chunk.is_empty() {
            match self.receiver.blocking_recv() {
                Some(chunk) => self.chunk = chunk?,
                None => return Ok(0),
            }
        }
        let n = self.chunk.len().min(buf.len());
        buf[..n].copy_from_slice(&self.chunk.split_to(n));
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::is_loopback;

    #[test]
    fn loopback_registries_are_recognised() {
        for yes in ["localhost", "localhost:5000", "127.0.0.1:5000", "127.3.2.1", "[::1]:5000"] {
            assert!(is_loopback(yes), "{yes}");
        }
        for no in ["docker.io", "localhost.example:5000", "10.0.0.1:5000", "127.example"] {
            assert!(!is_loopback(no), "{no}");
        }
    }
}
