//! Persistent volume claims: the path on this machine behind a bound claim.

use std::path::Path;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::{Api, Client};

use super::{host_path, provisioned};

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
}

/// Where the data of a claim is, and whether it may only be read. Directories for provisioned
/// volumes are made below `directory`.
pub async fn path(
    client: &Client,
    directory: &Path,
    namespace: &str,
    name: &str,
) -> Result<(String, bool), ClaimError> {
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
    let owner = spec.claim_ref.as_ref().and_then(|reference| reference.uid.as_ref());
    if owner != claim.metadata.uid.as_ref() {
        return Err(ClaimError::Misbound(volume));
    }
    let modes = spec.access_modes.unwrap_or_default();
    let read_only = !modes.is_empty() && modes.iter().all(|mode| mode == "ReadOnlyMany");
    if let Some(host) = spec.host_path {
        if provisioned::is_below(directory, &host.path) {
            provisioned::make(&host.path)?;
        }
        host_path::check(&host.path, host.type_.as_deref().unwrap_or_default())?;
        return Ok((host.path, read_only));
    }
    if let Some(local) = spec.local {
        host_path::check(&local.path, "Directory")?;
        return Ok((local.path, read_only));
    }
    Err(ClaimError::Foreign(volume))
}
