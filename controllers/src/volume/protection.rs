//! Claims stay while pods use them, volumes while claims do: finalizers that are taken away when
//! the last user is gone.

use std::future::Future;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Value, json};

use crate::cache::{Change, ObjectKey};
use crate::context::Context;
use crate::error::Error;
use crate::pod;
use crate::queue::{Queue, Requeue};
use crate::request;
use crate::volume::matching::phase;

/// What holds a claim.
pub const CLAIM_FINALIZER: &str = "kubernetes.io/pvc-protection";
/// What holds a volume.
pub const VOLUME_FINALIZER: &str = "kubernetes.io/pv-protection";
/// How many objects are served at once.
const WORKERS: usize = 4;

/// What is served.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Key {
    Claim(ObjectKey),
    Volume(ObjectKey),
}

/// The claims that a pod uses, those of its ephemeral volumes included.
pub fn claims_of(pod: &Pod) -> Vec<String> {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    volumes
        .filter_map(|volume| match &volume.persistent_volume_claim {
            Some(source) => Some(source.claim_name.clone()),
            None => volume.ephemeral.as_ref().map(|_| format!("{name}-{}", volume.name)),
        })
        .collect()
}

/// The finalizers without `finalizer`, if it is among them.
pub fn without(meta: &ObjectMeta, finalizer: &str) -> Option<Vec<String>> {
    let known = meta.finalizers.as_ref()?;
    let left: Vec<String> = known.iter().filter(|name| *name != finalizer).cloned().collect();
    (left.len() < known.len()).then_some(left)
}

/// Whether a pod uses the claim. One that has no node yet does not: no node would start it any
/// more. One that has ended for good lets go of its ephemeral volumes: in a foreground deletion it
/// waits for those claims, so that they must not wait for it.
pub fn is_used<'a>(claim: &str, mut pods: impl Iterator<Item = &'a Arc<Pod>>) -> bool {
    pods.any(|pod| {
        pod::node_name(pod).is_some()
            && claims_of(pod).iter().any(|name| name == claim)
            && !(is_shut_down(pod) && is_ephemeral(pod, claim))
    })
}

/// Whether the node is done with the pod, or it was deleted by force.
fn is_shut_down(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
        && pod.metadata.deletion_grace_period_seconds == Some(0)
}

/// Whether the pod knows the claim by an ephemeral volume alone.
fn is_ephemeral(pod: &Pod, claim: &str) -> bool {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let mut named = volumes.filter_map(|volume| volume.persistent_volume_claim.as_ref());
    !named.any(|source| source.claim_name == claim)
}

/// Subscribes to what matters and returns the workers, to be run when the caches are filled.
pub fn workers(context: &Arc<Context>) -> impl Future<Output = ()> + Send + use<> {
    let queue: Arc<Queue<Key>> = Queue::new();
    let wake = queue.clone();
    context.caches.claims.on_change(move |change| {
        if change.object().metadata.deletion_timestamp.is_some() {
            wake.add(Key::Claim(ObjectKey::of(change.object().as_ref())));
        }
    });
    let wake = queue.clone();
    context.caches.volumes.on_change(move |change| {
        if change.object().metadata.deletion_timestamp.is_some() {
            wake.add(Key::Volume(ObjectKey::of(change.object().as_ref())));
        }
    });
    let wake = queue.clone();
    context.caches.pods.on_change(move |change| {
        let pod = change.object();
        if matches!(change, Change::Deleted(_)) || is_shut_down(pod) {
            let namespace = pod.metadata.namespace.clone().unwrap_or_default();
            for claim in claims_of(pod) {
                wake.add(Key::Claim(ObjectKey::new(namespace.clone(), claim)));
            }
        }
    });
    context.serve(&queue, "storage-protection", WORKERS, reconcile)
}

async fn reconcile(context: Arc<Context>, key: Key) -> Result<Requeue, Error> {
    let caches = &context.caches;
    let outcome = match key {
        Key::Claim(key) => {
            let Some(claim) = caches.claims.get(&key) else { return Ok(Requeue::Never) };
            let pods = caches.pods.namespaced(&key.namespace);
            if claim.metadata.deletion_timestamp.is_none() || is_used(&key.name, pods.iter()) {
                return Ok(Requeue::Never);
            }
            let Some(left) = without(&claim.metadata, CLAIM_FINALIZER) else {
                return Ok(Requeue::Never);
            };
            let patch = finalizers_patch(&claim.metadata, &left);
            request::merge::<PersistentVolumeClaim>(&context.client, &key, &patch).await.map(drop)
        }
        Key::Volume(key) => {
            let Some(volume) = caches.volumes.get(&key) else {
                return Ok(Requeue::Never);
            };
            let bound = phase(&volume) == "Bound";
            if volume.metadata.deletion_timestamp.is_none() || bound {
                return Ok(Requeue::Never);
            }
            let Some(left) = without(&volume.metadata, VOLUME_FINALIZER) else {
                return Ok(Requeue::Never);
            };
            let patch = finalizers_patch(&volume.metadata, &left);
            request::merge::<PersistentVolume>(&context.client, &key, &patch).await.map(drop)
        }
    };
    match outcome {
        Err(error) if error.is_not_found() => Ok(Requeue::Never),
        other => other.map(|()| Requeue::Never),
    }
}

fn finalizers_patch(meta: &ObjectMeta, left: &[String]) -> Value {
    json!({"metadata": {
        "uid": meta.uid,
        "resourceVersion": meta.resource_version,
        "finalizers": left,
    }})
}
