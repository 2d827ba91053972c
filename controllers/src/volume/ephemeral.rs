//! Claims that live and die with their pod: `ephemeral` volumes are made from a template in it.

use std::future::Future;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt;

use crate::cache::{Change, ObjectKey};
use crate::context::Context;
use crate::error::Error;
use crate::event::Notice;
use crate::ownership::{controller_reference, is_controlled_by};
use crate::pod;
use crate::queue::{Queue, Requeue};
use crate::request;

/// The name under which events are reported.
const COMPONENT: &str = "ephemeral_volume";
/// How many pods are served at once.
const WORKERS: usize = 4;

/// The claims that the pod's templates describe.
pub fn claims(pod: &Pod) -> Vec<PersistentVolumeClaim> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    volumes
        .filter_map(|volume| {
            let template = volume.ephemeral.as_ref()?.volume_claim_template.as_ref()?;
            let metadata = template.metadata.clone().unwrap_or_default();
            Some(PersistentVolumeClaim {
                metadata: ObjectMeta {
                    name: Some(format!("{}-{}", pod.name_any(), volume.name)),
                    namespace: pod.metadata.namespace.clone(),
                    labels: metadata.labels,
                    annotations: metadata.annotations,
                    owner_references: Some(vec![controller_reference(pod)]),
                    ..ObjectMeta::default()
                },
                spec: Some(template.spec.clone()),
                status: None,
            })
        })
        .collect()
}

/// Subscribes to what matters and returns the workers, to be run when the caches are filled.
pub fn workers(context: &Arc<Context>) -> impl Future<Output = ()> + Send + use<> {
    let queue: Arc<Queue<ObjectKey>> = Queue::new();
    let wake = queue.clone();
    context.caches.pods.on_change(move |change| {
        if matches!(change, Change::Applied { .. }) && !claims(change.object()).is_empty() {
            wake.add(ObjectKey::of(change.object().as_ref()));
        }
    });
    let wake = queue.clone();
    context.caches.claims.on_change(move |change| {
        if let Change::Deleted(claim) = change {
            let owners = claim.metadata.owner_references.iter().flatten();
            for owner in owners.filter(|owner| owner.kind == "Pod") {
                wake.add(ObjectKey::new(claim.namespace().unwrap_or_default(), &owner.name));
            }
        }
    });
    context.serve(&queue, COMPONENT, WORKERS, reconcile)
}

async fn reconcile(context: Arc<Context>, key: ObjectKey) -> Result<Requeue, Error> {
    let caches = &context.caches;
    let Some(pod) = caches.pods.get(&key).filter(|pod| pod::is_active(pod)) else {
        return Ok(Requeue::Never);
    };
    let recorder = context.recorder.speaking_for(COMPONENT);
    for claim in claims(&pod) {
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        let name = claim.name_any();
        if let Some(known) = caches.claims.get(&ObjectKey::of(&claim)) {
            if !is_controlled_by(&known.metadata, uid) {
                let message = format!(
                    "PVC \"{}/{name}\" was not created for pod \"{key}\" (pod is not the owner)",
                    key.namespace
                );
                recorder.record(pod.as_ref(), Notice::warning("FailedBinding", message));
            }
            continue;
        }
        match request::create(&context.client, &claim).await {
            Ok(created) => caches.claims.observe(created),
            Err(error) if error.is_namespace_terminating() => return Ok(Requeue::Never),
            Err(error) => {
                let message = format!("ephemeral volume claim {name}: {}", error.message());
                recorder.record(pod.as_ref(), Notice::warning("FailedCreate", message));
                return Err(error);
            }
        }
    }
    Ok(Requeue::Never)
}
