//! Pods whose Job is gone: nobody counts them any more, so nothing may hold them.

use std::future::Future;
use std::sync::Arc;

use k8s_openapi::api::batch::v1::Job;

use crate::cache::{Change, ObjectKey};
use crate::context::Context;
use crate::error::Error;
use crate::job::controller::{counts, release};
use crate::job::tracked;
use crate::ownership::{controller_key, is_controlled_by};
use crate::queue::{Queue, Requeue};
use crate::request;

/// How many pods are released at once.
const WORKERS: usize = 8;

/// Subscribes to what matters and returns the workers, to be run when the caches are filled.
pub fn workers(context: &Arc<Context>) -> impl Future<Output = ()> + Send + use<> {
    let queue: Arc<Queue<ObjectKey>> = Queue::new();
    let (wake, watched) = (queue.clone(), context.clone());
    context.caches.pods.on_change(move |change| {
        let Change::Applied { new: pod, .. } = change else { return };
        if !tracked::is_tracked(pod) {
            return;
        }
        let owner = controller_key(&pod.metadata, "batch", "Job");
        let job = owner.and_then(|owner| watched.caches.jobs.get(&owner));
        if !counts(job.as_deref(), pod) {
            wake.add(ObjectKey::of(pod.as_ref()));
        }
    });
    let (wake, watched) = (queue.clone(), context.clone());
    context.caches.jobs.on_change(move |change| {
        let Change::Deleted(job) = change else { return };
        let uid = job.metadata.uid.as_deref().unwrap_or_default();
        let namespace = job.metadata.namespace.as_deref().unwrap_or_default();
        for pod in watched.caches.pods.namespaced(namespace) {
            if tracked::is_tracked(&pod) && is_controlled_by(&pod.metadata, uid) {
                wake.add(ObjectKey::of(pod.as_ref()));
            }
        }
    });
    context.serve(&queue, "job-orphan-pods", WORKERS, reconcile)
}

async fn reconcile(context: Arc<Context>, key: ObjectKey) -> Result<Requeue, Error> {
    let Some(pod) = context.caches.pods.get(&key).filter(|pod| tracked::is_tracked(pod)) else {
        return Ok(Requeue::Never);
    };
    if let Some(owner) = controller_key(&pod.metadata, "batch", "Job") {
        // The cache of Jobs may lag behind that of pods, so the server is asked.
        let job = request::get::<Job>(&context.client, &owner).await?;
        if counts(job.as_ref(), &pod) {
            return Ok(Requeue::Never);
        }
    }
    release(&context, &pod).await?;
    Ok(Requeue::Never)
}
