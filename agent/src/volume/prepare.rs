//! Makes the volumes of a pod and keeps those up to date that are made from API objects.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::PathBuf;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{EmptyDirVolumeSource, Pod, Volume};
use kube::Client;
use tokio::time::Instant;

use super::atomic::{self, Owner};
use super::claim::{self, ClaimError};
use super::files::{self, Files, FilesError, MAX_VOLUME_BYTES, Sources};
use super::host_path::{self, HostPathError};
use super::mount;
use super::ownership::{self, OwnershipError, Policy};
use super::token::{self, Token};
use crate::blocking::{self, BlockingError, Deadline};
use crate::container::downward::Surroundings;
use crate::container::resources::units;
use crate::objects::{Key, Kind, Payload, Subscription};

/// Room of a memory file system that holds API objects: two versions, and directories.
const OBJECT_TMPFS_BYTES: u64 = 80 << 20;

/// Most bytes of files that are made from API objects, of all volumes of one pod.
const MAX_POD_BYTES: usize = 2 * MAX_VOLUME_BYTES;

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
    /// The files of all volumes of the pod are too large together.
    #[error("the volumes of the pod that show API objects have more than {MAX_POD_BYTES} bytes")]
    Bytes,
    /// Its files could not be given to the pod's group.
    #[error(transparent)]
    Ownership(#[from] OwnershipError),
    /// A file system did not answer.
    #[error(transparent)]
    Blocking(#[from] BlockingError),
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
    /// True if volumes are given to the pod's `fsGroup`: before its containers run, not when a
    /// volume is brought up to date or taken over.
    pub ownership: bool,
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
        let payloads = Arc::new(self.payloads().await);
        let volumes = self.pod.spec.as_ref().and_then(|spec| spec.volumes.clone());
        let mut ready = BTreeMap::new();
        let mut bytes = 0;
        for volume in volumes.unwrap_or_default() {
            let name = volume.name.clone();
            let wrong = |cause| MountError { volume: name.clone(), cause };
            let made = Box::pin(self.make(volume, &payloads)).await.map_err(wrong)?;
            bytes += made.object_bytes;
            if bytes > MAX_POD_BYTES {
                return Err(wrong(VolumeError::Bytes));
            }
            ready.insert(name, made.ready);
        }
        Ok(Prepared { volumes: ready, tokens: self.tokens })
    }

    async fn make(
        &mut self,
        volume: Volume,
        payloads: &Arc<BTreeMap<Key, Arc<Payload>>>,
    ) -> Result<Made, VolumeError> {
        let uid = self.pod.metadata.uid.clone().unwrap_or_default();
        let tokens = self.tokens_of(&volume).await?;
        let claim = volume
            .persistent_volume_claim
            .as_ref()
            .map(|claim| (claim.claim_name.clone(), claim.read_only.unwrap_or(false)));
        let generic = volume.ephemeral.as_ref().map(|_| {
            let pod = self.pod.metadata.name.as_deref().unwrap_or_default();
            (format!("{pod}-{}", volume.name), false)
        });
        if let Some((name, read_only)) = claim.or(generic) {
            return self.claimed(&uid, &name, read_only).await;
        }
        let place = Place {
            pod: self.pod.clone(),
            around: self.around.clone(),
            directory: self.directory.clone(),
            payloads: payloads.clone(),
            tokens,
            group: self.fs_group(),
        };
        blocking::run(&uid, "Making a volume", Deadline::Short, move || place.make(&volume)).await?
    }

    /// The volume of a claim, given to the pod's group where that applies.
    async fn claimed(&self, uid: &str, name: &str, read_only: bool) -> Result<Made, VolumeError> {
        let namespace = self.pod.metadata.namespace.as_deref().unwrap_or_default();
        let found = claim::path(&self.client, &self.volume_dir, uid, namespace, name).await?;
        let read_only = read_only || found.read_only;
        let group = self.fs_group().filter(|_| self.ownership && found.takes_group && !read_only);
        if let Some(group) = group {
            let (path, policy) = (found.path.clone(), self.ownership_policy());
            let deadline = Deadline::Long;
            let until = std::time::Instant::now() + deadline.duration();
            let set = move || {
                // The last part of the path of a `local` volume may be a link of the machine.
                let path = fs::canonicalize(path)?;
                ownership::set(&path, group, policy, until)
            };
            blocking::run(uid, "Setting the group of a volume", deadline, set).await??;
        }
        Ok(Made { ready: Ready { path: found.path, read_only }, object_bytes: 0 })
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

    fn ownership_policy(&self) -> Policy {
        let security = self.pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref());
        match security.and_then(|security| security.fs_group_change_policy.as_deref()) {
            Some("OnRootMismatch") => Policy::OnRootMismatch,
            _ => Policy::Always,
        }
    }
}

/// A volume that was made.
struct Made {
    ready: Ready,
    /// Bytes of its files that were made from API objects.
    object_bytes: usize,
}

/// The source and the place of a volume, for a thread that may block.
struct Place {
    pod: Arc<Pod>,
    around: Surroundings,
    directory: PathBuf,
    payloads: Arc<BTreeMap<Key, Arc<Payload>>>,
    tokens: BTreeMap<usize, String>,
    group: Option<u32>,
}

impl Place {
    fn of(&self, plugin: &str, volume: &Volume) -> PathBuf {
        let plugin = format!("kubernetes.io~{plugin}");
        self.directory.join("volumes").join(plugin).join(&volume.name)
    }

    fn make(&self, volume: &Volume) -> Result<Made, VolumeError> {
        let namespace = self.pod.metadata.namespace.clone().unwrap_or_default();
        let object = |kind: Kind, name: &str| {
            let key = Key { kind, namespace: namespace.clone(), name: name.to_owned() };
            self.payloads.get(&key).cloned()
        };
        let sources =
            Sources { pod: &self.pod, around: &self.around, object: &object, tokens: &self.tokens };
        if let Some(secret) = &volume.secret {
            let files = files::secret(&sources, secret)?;
            return self.write(self.of("secret", volume), &files, true);
        }
        if let Some(map) = &volume.config_map {
            let files = files::config_map(&sources, map)?;
            return self.write(self.of("configmap", volume), &files, false);
        }
        if let Some(api) = &volume.downward_api {
            let items = api.items.as_deref().unwrap_or_default();
            let files = files::downward_api(&sources, items, api.default_mode)?;
            return self.write(self.of("downward-api", volume), &files, true);
        }
        if let Some(projected) = &volume.projected {
            let list = projected.sources.as_deref().unwrap_or_default();
            let files = files::projected(&sources, list, projected.default_mode)?;
            return self.write(self.of("projected", volume), &files, true);
        }
        if let Some(empty) = &volume.empty_dir {
            return self.empty(self.of("empty-dir", volume), empty);
        }
        if let Some(host) = &volume.host_path {
            host_path::check(&host.path, host.type_.as_deref().unwrap_or_default())?;
            let ready = Ready { path: host.path.clone().into(), read_only: false };
            return Ok(Made { ready, object_bytes: 0 });
        }
        Err(VolumeError::Unsupported)
    }

    fn write(&self, path: PathBuf, files: &Files, memory: bool) -> Result<Made, VolumeError> {
        let owner = Owner { group: self.group, user: None };
        let written = (|| {
            if memory {
                mount::tmpfs(&path, OBJECT_TMPFS_BYTES, 0o755, true)?;
            }
            fs::create_dir_all(&path)?;
            chown(&path, None, owner.group)?;
            let stamp = jiff::Timestamp::now().strftime("%Y_%m_%d_%H_%M_%S.%9f").to_string();
            atomic::write(&path, files, owner, &stamp)
        })();
        if let Err(source) = written {
            return Err(VolumeError::Io { path, source });
        }
        Ok(Made { ready: Ready { path, read_only: true }, object_bytes: files.bytes() })
    }

    fn empty(&self, path: PathBuf, empty: &EmptyDirVolumeSource) -> Result<Made, VolumeError> {
        let memory = empty.medium.as_deref() == Some("Memory");
        let limit = empty.size_limit.as_ref().and_then(units).filter(|bytes| *bytes > 0);
        let limit = limit.and_then(|bytes| u64::try_from(bytes).ok());
        let limit = limit.unwrap_or(self.around.allocatable_memory.max(64 << 20));
        let made = (|| {
            if memory {
                mount::tmpfs(&path, limit, 0o1777, false)?;
            }
            fs::create_dir_all(&path)?;
            chown(&path, None, self.group)?;
            let mode = if self.group.is_some() { 0o2777 } else { 0o777 };
            fs::set_permissions(&path, fs::Permissions::from_mode(mode))
        })();
        if let Err(source) = made {
            return Err(VolumeError::Io { path, source });
        }
        Ok(Made { ready: Ready { path, read_only: false }, object_bytes: 0 })
    }
}
