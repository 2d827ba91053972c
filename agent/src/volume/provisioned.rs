//! Directories that were provisioned as persistent volumes: made when they are mounted first,
//! removed when their volume goes (`docs/decisions/0007`).
//!
//! Invariant: only directories directly below the volume directory are ever made or removed,
//! whatever an object of the API says.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::PersistentVolume;
use kube::api::{Patch, PatchParams};
use kube::runtime::watcher;
use kube::{Api, ResourceExt};
use serde_json::json;
use tokio::time::sleep;

use crate::blocking::{self, BlockingError, Deadline};
use crate::node::Node;

/// The finalizer with which this node holds a volume until its directory is settled.
const FINALIZER: &str = "coracle/local-path-directory";
/// Anybody in any pod may write: who that is, the volume does not know.
const MODE: u32 = 0o777;
/// Between attempts while the API server or the disk refuses.
const RETRY: Duration = Duration::from_secs(5);
/// How often a refused volume is tried before the next change of it.
const ATTEMPTS: u32 = 5;

/// Why a directory could not be made or removed.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// It could not be made.
    #[error("cannot create {path:?}: {source}")]
    Make {
        /// The path.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It could not be removed.
    #[error("cannot remove {path:?}: {source}")]
    Remove {
        /// The path.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Its file system did not answer.
    #[error(transparent)]
    Blocking(#[from] BlockingError),
    /// The API server refused to let the volume go.
    #[error("cannot release the volume: {0}")]
    Release(#[source] kube::Error),
}

/// Whether `path` names an entry of `directory` and nothing deeper or elsewhere.
pub fn is_below(directory: &Path, path: &str) -> bool {
    Path::new(path).strip_prefix(directory).is_ok_and(|rest| {
        let mut parts = rest.components();
        matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None))
    })
}

/// Makes the directory of a volume, unless it is there.
pub fn make(path: &str) -> Result<(), DirectoryError> {
    let path = Path::new(path);
    let failed = |source| DirectoryError::Make { path: path.to_owned(), source };
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(failed)?;
    }
    match fs::create_dir(path) {
        Ok(()) => {
            // The mask of the process does not apply here.
            fs::set_permissions(path, fs::Permissions::from_mode(MODE)).map_err(failed)
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(failed(error)),
    }
}

fn remove(path: &Path) -> Result<(), DirectoryError> {
    runtime::tree::remove(path)
        .map_err(|source| DirectoryError::Remove { path: path.to_owned(), source })
}

/// What is to be done about a volume.
#[derive(Debug, PartialEq)]
enum Step {
    /// It stays, or another node holds it.
    Leave,
    /// Nothing of it is to be removed.
    Release,
    /// Its directory goes.
    Remove(PathBuf),
}

fn step(volume: &PersistentVolume, node: &str, directory: &Path) -> Step {
    let held = volume.finalizers().iter().any(|name| name == FINALIZER);
    if volume.metadata.deletion_timestamp.is_none() || !held {
        return Step::Leave;
    }
    // While a claim is bound to it, its data is in use.
    let phase = volume.status.as_ref().and_then(|status| status.phase.as_deref());
    let Some(spec) = volume.spec.as_ref().filter(|_| phase != Some("Bound")) else {
        return Step::Leave;
    };
    let affinity = spec.node_affinity.as_ref().and_then(|affinity| affinity.required.as_ref());
    let mut hosts = affinity
        .iter()
        .flat_map(|required| &required.node_selector_terms)
        .flat_map(|term| term.match_expressions.iter().flatten())
        .filter(|expression| expression.key == "kubernetes.io/hostname")
        .flat_map(|expression| expression.values.iter().flatten());
    if !hosts.any(|host| host == node) {
        return Step::Leave;
    }
    let deletes = spec.persistent_volume_reclaim_policy.as_deref() == Some("Delete");
    match &spec.host_path {
        Some(host) if deletes && is_below(directory, &host.path) => {
            Step::Remove(host.path.clone().into())
        }
        _ => Step::Release,
    }
}

/// Settles the directories of volumes that are being deleted, until dropped.
pub async fn reclaim(node: Arc<Node>) {
    let api = Api::all(node.client.clone());
    let stream = watch::follow::<PersistentVolume>(api, watcher::Config::default());
    let mut stream = std::pin::pin!(stream);
    while let Some(event) = stream.next().await {
        match event {
            Ok(watcher::Event::InitApply(volume) | watcher::Event::Apply(volume)) => {
                let directory = node.config.volume_dir();
                let step = step(&volume, &node.config.node_name, &directory);
                if step != Step::Leave {
                    tokio::spawn(settle(node.clone(), volume, step));
                }
            }
            Ok(_) => {}
            Err(error) => tracing::debug!(%error, "watch of volumes"),
        }
    }
}

async fn settle(node: Arc<Node>, volume: PersistentVolume, step: Step) {
    let name = volume.name_any();
    for _ in 0..ATTEMPTS {
        match try_settle(&node, &volume, &step).await {
            Ok(()) => return,
            // It changed, and the change comes with the watch.
            Err(DirectoryError::Release(kube::Error::Api(status)))
                if matches!(status.code, 404 | 409) =>
            {
                return;
            }
            Err(error) => tracing::warn!(volume = %name, %error, "cannot settle a directory"),
        }
        sleep(RETRY).await;
    }
}

async fn try_settle(
    node: &Node,
    volume: &PersistentVolume,
    step: &Step,
) -> Result<(), DirectoryError> {
    if let Step::Remove(path) = step {
        let path = path.clone();
        let name = volume.name_any();
        blocking::run(&name, "Removing a volume", Deadline::Long, move || remove(&path)).await??;
    }
    let left: Vec<&String> = volume.finalizers().iter().filter(|name| *name != FINALIZER).collect();
    let patch = json!({"metadata": {
        "uid": volume.metadata.uid,
        "resourceVersion": volume.metadata.resource_version,
        "finalizers": left,
    }});
    let api = Api::<PersistentVolume>::all(node.client.clone());
    api.patch(&volume.name_any(), &PatchParams::default(), &Patch::Merge(patch))
        .await
        .map(drop)
        .map_err(DirectoryError::Release)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn volume(change: impl FnOnce(&mut Value)) -> PersistentVolume {
        let mut value = json!({
            "metadata": {"name": "v", "deletionTimestamp": "2024-01-01T00:00:00Z",
                "finalizers": ["kubernetes.io/pv-protection", FINALIZER]},
            "spec": {"persistentVolumeReclaimPolicy": "Delete",
                "hostPath": {"path": "/data/volumes/v"},
                "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [
                    {"key": "kubernetes.io/hostname", "operator": "In", "values": ["vm"]}]}]}}},
            "status": {"phase": "Released"}
        });
        change(&mut value);
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn only_own_directories_of_dying_volumes_are_removed() {
        let directory = Path::new("/data/volumes");
        let of = |change: fn(&mut Value)| step(&volume(change), "vm", directory);
        assert_eq!(of(|_| {}), Step::Remove("/data/volumes/v".into()));
        assert_eq!(of(|v| v["metadata"]["deletionTimestamp"] = Value::Null), Step::Leave);
        assert_eq!(of(|v| v["metadata"]["finalizers"] = json!([])), Step::Leave);
        assert_eq!(of(|v| v["status"]["phase"] = json!("Bound")), Step::Leave);
        assert_eq!(
            of(|v| v["spec"]["persistentVolumeReclaimPolicy"] = json!("Retain")),
            Step::Release
        );
        assert_eq!(step(&volume(|_| {}), "elsewhere", directory), Step::Leave);
        for path in ["/", "/etc", "/data/volumes", "/data/volumes/..", "/data/volumes/v/w"] {
            let path = path.to_owned();
            let other = volume(|v| v["spec"]["hostPath"]["path"] = json!(path));
            assert_eq!(step(&other, "vm", directory), Step::Release, "{path}");
        }
    }

    #[test]
    fn directories_come_and_go() {
        let top = std::env::temp_dir().join(format!("coracle-volumes-{}", std::process::id()));
        let path = top.join("volumes/pvc-1");
        let text = path.display().to_string();
        make(&text).unwrap();
        fs::write(path.join("file"), "data").unwrap();
        make(&text).unwrap();
        assert_eq!(fs::read_to_string(path.join("file")).unwrap(), "data");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, MODE);
        remove(&path).unwrap();
        assert!(!path.exists());
        remove(&path).unwrap();
        fs::remove_dir_all(top).unwrap();
    }
}
