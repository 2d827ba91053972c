//! The part of the node lifecycle controller that turns a node's conditions into taints, so that
//! the scheduler keeps pods away from a node that is short of something or not ready.

use std::future::Future;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Taint};
use serde_json::json;

use crate::cache::ObjectKey;
use crate::context::Context;
use crate::error::Error;
use crate::queue::{Queue, Requeue};
use crate::request;

/// Condition, status of it, taint.
const TAINTS: [(&str, &str, &str); 6] = [
    ("Ready", "False", "node.kubernetes.io/not-ready"),
    ("Ready", "Unknown", "node.kubernetes.io/unreachable"),
    ("MemoryPressure", "True", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "True", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "True", "node.kubernetes.io/pid-pressure"),
    ("NetworkUnavailable", "True", "node.kubernetes.io/network-unavailable"),
];
/// The taint of a cordoned node.
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";
/// What all of them do.
const EFFECT: &str = "NoSchedule";
/// How many nodes are served at once.
const WORKERS: usize = 1;

/// Subscribes to nodes and returns the workers, to be run when the caches are filled.
pub fn workers(context: &Arc<Context>) -> impl Future<Output = ()> + Send + use<> {
    let queue: Arc<Queue<ObjectKey>> = Queue::new();
    let wake = queue.clone();
    context.caches.nodes.on_change(move |change| wake.add(ObjectKey::of(change.object().as_ref())));
    context.serve(&queue, "node-lifecycle", WORKERS, reconcile)
}

/// The taints that the node should have, `None` if it has them.
fn plan(node: &Node) -> Option<Vec<Taint>> {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    let is = |kind: &str, status: &str| {
        conditions.into_iter().flatten().any(|c| c.type_ == kind && c.status == status)
    };
    let cordoned = node.spec.as_ref().and_then(|spec| spec.unschedulable).unwrap_or(false);
    let wanted = TAINTS
        .iter()
        .filter(|(kind, status, _)| is(kind, status))
        .map(|(_, _, taint)| *taint)
        .chain(cordoned.then_some(UNSCHEDULABLE));
    let wanted: Vec<&str> = wanted.collect();
    let ours = |taint: &Taint| {
        taint.effect == EFFECT
            && (taint.key == UNSCHEDULABLE || TAINTS.iter().any(|(_, _, key)| *key == taint.key))
    };
    let present = node.spec.as_ref().and_then(|spec| spec.taints.clone()).unwrap_or_default();
    let mut taints = present.clone();
    taints.retain(|taint| !ours(taint) || wanted.contains(&taint.key.as_str()));
    for key in wanted {
        if !taints.iter().any(|taint| taint.key == key && taint.effect == EFFECT) {
            let (key, effect) = (key.to_owned(), EFFECT.to_owned());
            taints.push(Taint { key, effect, ..Taint::default() });
        }
    }
    (taints != present).then_some(taints)
}

async fn reconcile(context: Arc<Context>, key: ObjectKey) -> Result<Requeue, Error> {
    let Some(node) = context.caches.nodes.get(&key) else { return Ok(Requeue::Never) };
    let Some(taints) = plan(&node) else { return Ok(Requeue::Never) };
    let taints = if taints.is_empty() { json!(null) } else { json!(taints) };
    // Bound to the revision it was decided upon: somebody else may change taints, too.
    let patch = json!({
        "metadata": {"resourceVersion": node.metadata.resource_version},
        "spec": {"taints": taints},
    });
    let written = request::merge::<Node>(&context.client, &key, &patch).await?;
    context.caches.nodes.observe(written);
    Ok(Requeue::Never)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn node(conditions: serde_json::Value, spec: serde_json::Value) -> Node {
        serde_json::from_value(json!({"spec": spec, "status": {"conditions": conditions}})).unwrap()
    }

    fn keys(node: &Node) -> Option<Vec<String>> {
        Some(plan(node)?.into_iter().map(|taint| taint.key).collect())
    }

    #[test]
    fn conditions_become_taints_and_go_with_them() {
        let well = json!([{"type": "Ready", "status": "True"},
            {"type": "DiskPressure", "status": "False"}]);
        assert_eq!(keys(&node(well.clone(), json!({}))), None);
        let low = json!([{"type": "Ready", "status": "True"},
            {"type": "DiskPressure", "status": "True"}]);
        let own = json!({"taints": [{"key": "mine", "effect": "NoSchedule"}]});
        let wanted = vec!["mine".to_owned(), "node.kubernetes.io/disk-pressure".to_owned()];
        assert_eq!(keys(&node(low.clone(), own)), Some(wanted));
        let tainted = json!({"taints": [
            {"key": "node.kubernetes.io/disk-pressure", "effect": "NoSchedule"},
        ]});
        assert_eq!(keys(&node(low, tainted.clone())), None);
        assert_eq!(keys(&node(well.clone(), tainted)), Some(vec![]));
        let cordoned = node(well, json!({"unschedulable": true}));
        assert_eq!(keys(&cordoned), Some(vec![UNSCHEDULABLE.to_owned()]));
    }
}
