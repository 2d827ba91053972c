//! Pulls images from OCI registries: layers in parallel, streamed through the digest check and the
//! decompressor straight into their directories.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::record::Configuration;
use super::reference::Reference;
use super::registry::{Client, Descriptor, RegistryError};
use super::store::{Image, ImageStore, StoreError, check_config};
use crate::printable::line;

/// Layers that one pull fetches at the same time.
const PARALLEL_LAYERS: usize = 3;
/// Chunks that wait between the network and the unpacker.
const CHUNK_QUEUE: usize = 16;
/// So much is read of a layer that cannot be unpacked, to see whether it is the promised one.
const MAX_UNWANTED_BYTES: usize = 64 << 20;
/// Bytes of the reason why a pull failed; it may hold digests, paths and words of a registry.
const MAX_REASON_BYTES: usize = 1 << 10;

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
         authorization: {}",
        shown(.message)
    )]
    Denied {
        /// The image.
        reference: String,
        /// The registry's words.
        message: String,
    },
    /// The registry accepts no connection.
    #[error(
        "failed to pull and unpack image \"{reference}\": failed to do request: {}", shown(.message)
    )]
    Unreachable {
        /// The image.
        reference: String,
        /// What the network said.
        message: String,
    },
    /// The registry sent something else than it promised.
    #[error("failed to pull and unpack image \"{reference}\": {}", shown(.message))]
    Corrupt {
        /// The image.
        reference: String,
        /// What does not fit.
        message: String,
    },
    /// The registry failed otherwise.
    #[error("failed to pull and unpack image \"{reference}\": {}", shown(.message))]
    Registry {
        /// The image.
        reference: String,
        /// The registry's words.
        message: String,
    },
    /// The image cannot be stored.
    #[error("failed to pull and unpack image \"{reference}\": {}", shown(.source))]
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

    fn from_registry(reference: &Reference) -> impl Fn(RegistryError) -> Self {
        let reference = reference.to_string();
        move |error| {
            let (reference, message) = (reference.clone(), error.to_string());
            match error {
                RegistryError::NotFound => Self::NotFound(reference),
                RegistryError::Denied(_) => Self::Denied { reference, message },
                RegistryError::Unreachable(_) => Self::Unreachable { reference, message },
                RegistryError::Corrupt(_) => Self::Corrupt { reference, message },
                RegistryError::Refused(_) | RegistryError::Client(_) => {
                    Self::Registry { reference, message }
                }
            }
        }
    }

    fn store(reference: &Reference) -> impl Fn(StoreError) -> Self {
        let reference = reference.to_string();
        move |source| Self::Store { reference: reference.clone(), source }
    }
}

/// A reason as it is shown: texts of a registry and of an image in it are neither long nor harmful.
fn shown(reason: &impl std::fmt::Display) -> String {
    line(&reason.to_string(), MAX_REASON_BYTES)
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
        let mirrors = options.mirrors.get(reference.registry()).into_iter().flatten();
        let mut logins: Vec<Option<&Credentials>> = options.credentials.iter().map(Some).collect();
        if logins.is_empty() {
            logins.push(None);
        }
        let mut error = None;
        for mirror in mirrors.map(|mirror| Some(mirror.as_str())).chain([None]) {
            for login in &logins {
                match self.pull_from(reference, mirror, *login, options, progress).await {
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
        mirror: Option<&str>,
        login: Option<&Credentials>,
        options: &PullOptions,
        progress: &(dyn Fn(Progress) + Send + Sync),
    ) -> Result<Image, PullError> {
        let failed = PullError::from_registry(reference);
        let client = Client::new(reference, mirror, login, options).map_err(&failed)?;
        let (manifest, digest) = client.manifest(reference).await.map_err(&failed)?;
        let config = client.config(&manifest.config).await.map_err(&failed)?;
        let config = Configuration::parse(&config).map_err(|e| {
            failed(RegistryError::Corrupt(format!("broken image configuration: {e}")))
        })?;
        check_config(&config, manifest.layers.len()).map_err(PullError::store(reference))?;
        let claim = self.claim(config.diff_ids()).map_err(PullError::store(reference))?;
        let missing: Vec<(&Descriptor, &String)> = manifest
            .layers
            .iter()
            .zip(config.diff_ids())
            .filter(|(layer, diff_id)| !self.has_layer(diff_id, &layer.digest))
            .collect();
        let wanted = missing.iter().map(|(l, _)| (l.digest.clone(), l.size.max(0) as u64));
        progress(Progress::Layers(wanted.collect()));
        stream::iter(missing)
            .map(|(layer, diff_id)| self.pull_layer(&client, reference, layer, diff_id, progress))
            .buffer_unordered(PARALLEL_LAYERS)
            .try_collect::<()>()
            .await?;
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
        client: &Client<'_>,
        reference: &Reference,
        layer: &Descriptor,
        diff_id: &str,
        progress: &(dyn Fn(Progress) + Send + Sync),
    ) -> Result<(), PullError> {
        let failed = PullError::from_registry(reference);
        let mut chunks = client.layer(layer).await.map_err(&failed)?;
        let (sender, receiver) = mpsc::channel::<io::Result<Bytes>>(CHUNK_QUEUE);
        let store = self.clone();
        let unpacking = tokio::task::spawn_blocking({
            let (diff_id, blob) = (diff_id.to_owned(), layer.digest.clone());
            let chunks = ChunkReader { receiver, chunk: Bytes::new() };
            move || store.add_layer(chunks, &diff_id, Some(&blob))
        });
        let mut outcome = Ok(());
        let mut unwanted = 0;
        loop {
            let chunk = match chunks.next().await {
                Ok(Some(chunk)) => chunk,
                Ok(None) => break,
                Err(error) => {
                    // The unpacker must not take a cut stream for a whole one.
                    let _ = sender.send(Err(io::Error::other(error.to_string()))).await;
                    outcome = Err(failed(error));
                    break;
                }
            };
            let bytes = chunk.len();
            progress(Progress::Received { digest: layer.digest.clone(), bytes: bytes as u64 });
            if sender.send(Ok(chunk)).await.is_err() {
                // The unpacker stumbled. If the registry lied, that is what has to be said; its
                // lie shows at the end of the stream.
                unwanted += bytes;
                if unwanted > MAX_UNWANTED_BYTES {
                    let text = "the layer goes on behind the end of its contents";
                    outcome = Err(failed(RegistryError::Corrupt(text.into())));
                    break;
                }
            }
        }
        drop(sender);
        let result = unpacking.await.expect("unpacking a layer does not panic");
        match (outcome, result) {
            // A registry that was read no further has not lied about what could not be unpacked.
            (Err(_), Err(error)) if unwanted > MAX_UNWANTED_BYTES => {
                return Err(PullError::store(reference)(error));
            }
            (Err(error), _) => return Err(error),
            (Ok(()), result) => result.map_err(PullError::store(reference))?,
        };
        progress(Progress::Unpacked(layer.digest.clone()));
        Ok(())
    }
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
