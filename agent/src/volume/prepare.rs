//! Makes the volumes of a pod and keeps those up to date that are made from API objects.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, Volume};
use kube::Client;
use tokio::time::Instant;

use super::atomic::{self, Owner};
use super::claim::{self, ClaimError};
use super::files::{self, Files, FilesError, Sources};
use super::host_path::{self, HostPathError};
use super::mount;
use super::token::{self, Token};
use crate::container::downward::Surroundings;
use crate::container::resources::units;
use crate::objects::{Key, Kind, Payload, Subscription};

/// Room of a memory file system that holds API objects: two versions, and directories.
const OBJECT_TMPFS_BYTES: u64 = 80 << 20;

/// Why a volume could not be made.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// The content cannot be made from the API objects.
    #[error(transparent)]
    Files(#[from] FilesError),
    /// A path of the machine does not fit.
    #[error(transparent)]
    HostPath(#[from] HostPathError),
    /// A claim cannot be used.
    #[error(transparent)]
    Claim(#[from] ClaimError),
    /// The API server gave no token.
    #[error("failed to fetch token: {0}")]
    Token(#[source] kube::Error),
    /// A type of volume that this node does not have.
    #[error("no volume plugin matched")]
    Unsupported,
    /// The machine refused.
    #[error("{path:?}: {source}")]
    Io {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl VolumeError {
    /// The object whose appearance would help.
    pub fn missing(&self) -> Option<(Kind, &str)> {
        match self {
            Self::Files(FilesError::NoObject { kind, name }) => Some((*kind, name)),
            _ => None,
        }
    }

    /// Whether only a change of a referenced object can help, so that no timer is needed.
    pub fn waits_for_object(&self) -> bool {
        matches!(self, Self::Files(FilesError::NoObject { .. } | FilesError::NoKey { .. }))
    }
}

/// A volume that is ready to be mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ready {
    /// On the machine.
    pub path: PathBuf,
    /// Whether containers may never write to it.
    pub read_only: bool,
}

/// What volumes of one pod need.
#[derive(Clone)]
pub struct Preparation {
    /// The pod.
    pub pod: Arc<Pod>,
    /// Directory of the pod.
    pub directory: PathBuf,
    /// Where directories are provisioned.
    pub volume_dir: PathBuf,
    /// For tokens and claims.
    pub client: Client,
    /// Addresses and allocatable resources.
    pub around: Surroundings,
    /// Watches on all referenced objects.
    pub objects: BTreeMap<Key, Subscription>,
    /// Tokens that are still good, by volume and position.
    pub tokens: BTreeMap<(String, usize), Token>,
}

/// What came of it.
pub struct Prepared {
    /// Volumes by name.
    pub volumes: BTreeMap<String, Ready>,
    /// Tokens in use.
    pub tokens: BTreeMap<(String, usize), Token>,
}

/// The first volume that failed.
#[derive(Debug, thiserror::Error)]
#[error("MountVolume.SetUp failed for volume \"{volume}\" : {cause}")]
pub struct MountError {
    /// Its name.
    pub volume: String,
    /// Why.
    #[source]
    pub cause: VolumeError,
}

impl Preparation {
    /// Referenced objects as they are now; waits until the API server has answered for each.
    pub async fn payloads(&self) -> BTreeMap<Key, Arc<Payload>> {
        let mut payloads = BTreeMap::new();
        for (key, subscription) in &self.objects {
            if let Some(payload) = subscription.get().await {
                payloads.insert(key.clone(), payload);
            }
        }
        payloads
    }

    /// Makes or updates every volume. What is right already is left alone.
    pub async fn run(mut self) -> Result<Prepared, MountError> {
        let payloads = self.payloads().await;
        let volumes = self.pod.spec.as_ref().and_then(|spec| spec.volumes.clone());
        let mut ready = BTreeMap::new();
        for volume in volumes.unwrap_or_default() {
            let made = self.make(&volume, &payloads).await;
            match made {
                Ok(made) => {
                    ready.insert(volume.name, made);
                }
                Err(cause) => return Err(MountError { volume: volume.name, cause }),
            }
        }
        Ok(Prepared { volumes: ready, tokens: self.tokens })
    }

    async fn make(
        &mut self,
        volume: &Volume,
        payloads: &BTreeMap<Key, Arc<Payload>>,
    ) -> Result<Ready, VolumeError> {
        let namespace = self.pod.metadata.namespace.clone().unwrap_or_default();
        let tokens = self.tokens_of(volume).await?;
        let object = |kind: Kind, name: &str| {
            let key = Key { kind, namespace: namespace.clone(), name: name.to_owned() };
            payloads.get(&key).cloned()
        };
        let sources =
            Sources { pod: &self.pod, around: &self.around, object: &object, tokens: &tokens };
        let place = |plugin: &str| {
            self.directory
                .join("volumes")
                .join(format!("kubernetes.io~{plugin}"))
                .join(&volume.name)
        };
        let group = self.fs_group();
        let owner = Owner { group, user: None };
        if let Some(secret) = &volume.secret {
            let files = files::secret(&sources, secret)?;
            return write(place("secret"), files, owner, true).await;
        }
        if let Some(map) = &volume.config_map {
            let files = files::config_map(&sources, map)?;
            return write(place("configmap"), files, owner, false).await;
        }
        if let Some(api) = &volume.downward_api {
            let items = api.items.as_deref().unwrap_or_default();
            let files = files::downward_api(&sources, items, api.default_mode)?;
            return write(place("downward-api"), files, owner, true).await;
        }
        if let Some(projected) = &volume.projected {
            let list = projected.sources.as_deref().unwrap_or_default();
            let files = files::projected(&sources, list, projected.default_mode)?;
            return write(place("projected"), files, owner, true).await;
        }
        if let Some(empty) = &volume.empty_dir {
            let path = place("empty-dir");
            let memory = empty.medium.as_deref() == Some("Memory");
            let limit = empty.size_limit.as_ref().and_then(units).filter(|bytes| *bytes > 0);
            let limit = limit.and_then(|bytes| u64::try_from(bytes).ok());
            let limit = limit.unwrap_or(self.around.allocatable_memory.max(64 << 20));
            return blocking(path.clone(), move || {
                if memory {
                    mount::tmpfs(&path, limit, 0o1777, false)?;
                }
                fs::create_dir_all(&path)?;
                chown(&path, None, group)?;
                let mode = if group.is_some() { 0o2777 } else { 0o777 };
                fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
                Ok(Ready { path, read_only: false })
            })
            .await;
        }
        if let Some(host) = &volume.host_path {
            host_path::check(&host.path, host.type_.as_deref().unwrap_or_default())?;
            return Ok(Ready { path: host.path.clone().into(), read_only: false });
        }
        let claim = volume
            .persistent_volume_claim
            .as_ref()
            .map(|claim| (claim.claim_name.clone(), claim.read_only.unwrap_or(false)));
        let generic = volume.ephemeral.as_ref().map(|_| {
            let pod = self.pod.metadata.name.as_deref().unwrap_or_default();
            (format!("{pod}-{}", volume.name), false)
        });
        if let Some((name, read_only)) = claim.or(generic) {
            let (path, only) =
                claim::path(&self.client, &self.volume_dir, &namespace, &name).await?;
            let path = PathBuf::from(path);
            if let Some(group) = group {
                let root = path.clone();
                blocking(path.clone(), move || give_to_group(&root, group)).await?;
            }
            return Ok(Ready { path, read_only: read_only || only });
        }
        Err(VolumeError::Unsupported)
    }

    /// Asks for the tokens of a projected volume that are missing or due.
    async fn tokens_of(&mut self, volume: &Volume) -> Result<BTreeMap<usize, String>, VolumeError> {
        let mut values = BTreeMap::new();
        let sources =
            volume.projected.iter().flat_map(|projected| projected.sources.iter().flatten());
        for (index, source) in sources.enumerate() {
            let Some(projection) = &source.service_account_token else { continue };
            let key = (volume.name.clone(), index);
            let good = self.tokens.get(&key).filter(|token| token.refresh_at > Instant::now());
            let token = match good {
                Some(token) => token.clone(),
                None => token::request(&self.client, &self.pod, projection)
                    .await
                    .map_err(VolumeError::Token)?,
            };
            values.insert(index, token.value.clone());
            self.tokens.insert(key, token);
        }
        Ok(values)
    }

    fn fs_group(&self) -> Option<u32> {
        let security = self.pod.spec.as_ref()?.security_context.as_ref()?;
        u32::try_from(security.fs_group?).ok()
    }
}

async fn write(
    path: PathBuf,
    files: Files,
    owner: Owner,
    memory: bool,
) -> Result<Ready, VolumeError> {
    blocking(path.clone(), move || {
        if memory {
            mount::tmpfs(&path, OBJECT_TMPFS_BYTES, 0o755, true)?;
        }
        fs::create_dir_all(&path)?;
        chown(&path, None, owner.group)?;
        let stamp = jiff::Timestamp::now().strftime("%Y_%m_%d_%H_%M_%S.%9f").to_string();
        atomic::write(&path, &files, owner, &stamp)?;
        Ok(Ready { path, read_only: true })
    })
    .await
}

async fn blocking<T: Send + 'static>(
    path: PathBuf,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, VolumeError> {
    let done = tokio::task::spawn_blocking(work).await;
    let done = done.unwrap_or_else(|stopped| Err(io::Error::other(stopped)));
    done.map_err(|source| VolumeError::Io { path, source })
}

fn give_to_group(path: &Path, group: u32) -> io::Result<()> {
    let metadata = fs::symlink_metadata(path)?;
    if metadata.file_type().is_symlink() {
        return Ok(());
    }
    chown(path, None, Some(group))?;
    let mode = metadata.permissions().mode();
    let more = if metadata.is_dir() { 0o2770 } else { 0o660 };
    fs::set_permissions(path, fs::Permissions::from_mode(mode | more))?;
    if metadata.is_dir() {
        for entry in fs::read_dir(path)? {
            give_to_group(&entry?.path(), group)?;
        }
    }
    Ok(())
}
