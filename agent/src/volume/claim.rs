//! Persistent volume claims: the path on this machine behind a bound claim.

use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::{Api, Client};

use super::{host_path, provisioned};
use crate::blocking::{self, BlockingError, Deadline};

/// Why a claim cannot be mounted.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    /// It does not exist.
    #[error("persistentvolumeclaim \"{0}\" not found")]
    NotFound(String),
    /// It is on its way out.
    #[error("persistentvolumeclaim \"{0}\" is being deleted")]
    Leaving(String),
    /// Its volume belongs to another claim.
    #[error("PVC UID does not match the claim reference of volume {0}")]
    Misbound(String),
    /// No volume is bound to it.
    #[error("PVC is not bound")]
    Unbound,
    /// The volume is of a type that is not local to this machine.
    #[error("volume {0} is neither hostPath nor local")]
    Foreign(String),
    /// The API server did not answer.
    #[error("cannot read: {0}")]
    Api(#[from] kube::Error),
    /// Its directory could not be made.
    #[error(transparent)]
    Provisioned(#[from] provisioned::DirectoryError),
    /// The path is not what the volume says.
    #[error(transparent)]
    HostPath(#[from] host_path::HostPathError),
    /// Its file system did not answer.
    #[error(transparent)]
    Blocking(#[from] BlockingError),
}

/// The directory of a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claimed {
    /// On this machine.
    pub path: PathBuf,
    /// The volume may only be read.
    pub read_only: bool,
    /// `fsGroup` applies to it: the node provisioned it, or it is a `local` volume. A `hostPath`
    /// volume is a part of the machine, whose files no pod gives away (as upstream).
    pub takes_group: bool,
}

/// Returns where the data of a claim is. Directories for provisioned volumes are made below
/// `directory`. `owner` is the pod's uid.
pub async fn path(
    client: &Client,
    directory: &Path,
    owner: &str,
    namespace: &str,
    name: &str,
) -> Result<Claimed, ClaimError> {
    let claims = Api::<PersistentVolumeClaim>::namespaced(client.clone(), namespace);
    let claim = claims.get_opt(name).await?;
    let claim = claim.ok_or_else(|| ClaimError::NotFound(name.to_owned()))?;
    if claim.metadata.deletion_timestamp.is_some() {
        return Err(ClaimError::Leaving(name.to_owned()));
    }
    let bound = claim.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Bound");
    let volume = claim.spec.as_ref().and_then(|spec| spec.volume_name.clone());
    let volume = volume.filter(|name| bound && !name.is_empty()).ok_or(ClaimError::Unbound)?;
    let found = Api::<PersistentVolume>::all(client.clone()).get_opt(&volume).await?;
    let spec = found.and_then(|found| found.spec).ok_or(ClaimError::Unbound)?;
    let bound_to = spec.claim_ref.as_ref().and_then(|reference| reference.uid.as_ref());
    if bound_to != claim.metadata.uid.as_ref() {
        return Err(ClaimError::Misbound(volume));
    }
    let modes = spec.access_modes.unwrap_or_default();
    let read_only = !modes.is_empty() && modes.iter().all(|mode| mode == "ReadOnlyMany");
    if let Some(host) = spec.host_path {
        let own = provisioned::is_below(directory, &host.path);
        let kind = host.type_.unwrap_or_default();
        let path = PathBuf::from(&host.path);
        blocking::run(owner, "Looking at a volume", Deadline::Short, move || {
            if own {
                provisioned::make(&host.path)?;
            }
            host_path::check(&host.path, &kind).map_err(ClaimError::from)
        })
        .await??;
        return Ok(Claimed { path, read_only, takes_group: own });
    }
    if let Some(local) = spec.local {
        let path = PathBuf::from(&local.path);
        let look = move || host_path::check(&local.path, "Directory");
        blocking::run(owner, "Looking at a volume", Deadline::Short, look).await??;
        return Ok(Claimed { path, read_only, takes_group: true });
    }
    Err(ClaimError::Foreign(volume))
}
