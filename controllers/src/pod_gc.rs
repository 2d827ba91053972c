//! Pods that ended are deleted when there are too many of them: evicted ones first, then the oldest
//! (upstream's pod garbage collector).
//!
//! Upstream also deletes pods whose node is gone and pods that are deleted before they have a node.
//! Here nobody but a user removes the node, which comes back with its pods, and the server itself
//! removes pods without a node.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;

use crate::cache::ObjectKey;
use crate::context::Context;
use crate::error::Error;
use crate::pod;
use crate::queue::{Queue, Requeue};
use crate::request;

/// How many pods that ended may stay (upstream `--terminated-pod-gc-threshold`).
const THRESHOLD: usize = 12_500;
/// How long after the end of a pod they are counted: many may end together.
const DELAY: Duration = Duration::from_secs(20);

/// Subscribes to pods and returns the worker, to be run when the caches are filled.
pub fn workers(context: &Arc<Context>) -> impl Future<Output = ()> + Send + use<> {
    let queue: Arc<Queue<()>> = Queue::new();
    let wake = queue.clone();
    context.caches.pods.on_change(move |change| {
        if pod::is_terminal(change.object()) {
            wake.add_after((), DELAY);
        }
    });
    context.serve(&queue, "pod-garbage-collector", 1, |context, ()| reconcile(context))
}

async fn reconcile(context: Arc<Context>) -> Result<Requeue, Error> {
    for pod in surplus(context.caches.pods.all(), THRESHOLD) {
        let uid = pod.metadata.uid.as_deref();
        request::delete::<Pod>(&context.client, &ObjectKey::of(pod.as_ref()), uid).await?;
    }
    Ok(Requeue::Never)
}

/// Which pods have to go so that only `threshold` of those that ended stay.
fn surplus(mut pods: Vec<Arc<Pod>>, threshold: usize) -> Vec<Arc<Pod>> {
    pods.retain(|pod| pod::is_terminal(pod) && pod.metadata.deletion_timestamp.is_none());
    let surplus = pods.len().saturating_sub(threshold);
    if surplus == 0 {
        return Vec::new();
    }
    // Evicted pods tell the least: they have no containers any more.
    pods.sort_by_cached_key(|pod| {
        let status = pod.status.as_ref();
        let evicted = status.and_then(|status| status.reason.as_deref()) == Some("Evicted");
        (!evicted, pod::created(pod), pod.metadata.name.clone())
    });
    pods.truncate(surplus);
    pods
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::fixture;

    #[test]
    fn evicted_pods_go_first_and_then_the_oldest() {
        let made = |name: &str, minute: u32, status: serde_json::Value| {
            let created = format!("2024-01-01T00:{minute:02}:00Z");
            let more = json!({"metadata": {"creationTimestamp": created}, "status": status});
            fixture::pod(name, more)
        };
        let pods = vec![
            made("runs", 1, json!({"phase": "Running"})),
            made("new", 5, json!({"phase": "Succeeded"})),
            made("old", 2, json!({"phase": "Failed"})),
            made("older", 1, json!({"phase": "Succeeded"})),
            made("evicted", 9, json!({"phase": "Failed", "reason": "Evicted"})),
        ];
        let gone = |threshold: usize| -> Vec<String> {
            let surplus = surplus(pods.clone(), threshold).into_iter();
            surplus.filter_map(|pod| pod.metadata.name.clone()).collect()
        };
        assert_eq!(gone(4), [""; 0]);
        assert_eq!(gone(3), ["evicted"]);
        assert_eq!(gone(1), ["evicted", "older", "old"]);
    }
}
