//! Evicts pods from a node with a `NoExecute` taint that they do not tolerate, or no longer
//! (upstream's taint eviction controller).

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use api::placement::taint::covers;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Node, Pod, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use serde_json::json;
use tokio::time::Instant;
use watch::Pace;

use crate::cache::{Change, ObjectKey};
use crate::context::Context;
use crate::error::Error;
use crate::event::{Notice, Recorder};
use crate::pod;
use crate::queue::{Queue, Requeue};
use crate::request;

/// How many pods are served at once.
const WORKERS: usize = 8;
/// The effect of the taints that matter here.
const EFFECT: &str = "NoExecute";

struct Controller {
    context: Arc<Context>,
    recorder: Recorder,
    queue: Arc<Queue<ObjectKey>>,
    /// The pods that are to go, and since when that is known. After a restart their time begins
    /// anew, as upstream's does.
    waiting: Mutex<HashMap<ObjectKey, Waiting>>,
    late: Mutex<Late>,
}

/// Pods that come although the node drives them out: their owners would replace them for ever.
#[derive(Default)]
struct Late {
    /// The time of the last change of a node's taints, for nodes that have some.
    tainted: HashMap<String, Timestamp>,
    pace: Pace,
}

impl Late {
    fn note(&mut self, node: &Node, now: Timestamp) {
        match taints(node).next() {
            Some(_) => drop(self.tainted.insert(node.name_any(), now)),
            None => drop(self.tainted.remove(&node.name_any())),
        }
    }

    /// Returns the next attempt for a pod that was made after the taint; `None` to evict it now.
    fn hold(&mut self, pod: &Pod, now: Instant) -> Option<Instant> {
        let tainted = self.tainted.get(pod::node_name(pod)?)?;
        if pod::created(pod)? < *tainted {
            return None;
        }
        self.pace.hold(&pod.metadata, now)
    }
}

/// A pod that is tolerated for a while.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Waiting {
    uid: Option<String>,
    since: Timestamp,
}

/// What to do about a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// Nothing: it tolerates everything for ever.
    Stays,
    /// Evict it at that time.
    GoesAt(Timestamp),
}

/// Subscribes to what matters and returns the workers, to be run when the caches are filled.
pub fn workers(context: &Arc<Context>) -> impl Future<Output = ()> + Send + use<> {
    let controller = Arc::new(Controller {
        context: context.clone(),
        recorder: context.recorder.speaking_for("taint-eviction-controller"),
        queue: Queue::new(),
        waiting: Mutex::default(),
        late: Mutex::default(),
    });
    let watcher = controller.clone();
    context.caches.pods.on_change(move |change| watcher.pod_changed(change));
    let watcher = controller.clone();
    context.caches.nodes.on_change(move |change| watcher.node_changed(change));
    let queue = &controller.queue;
    queue.serve("taint-eviction", WORKERS, &context.token, &controller, Controller::reconcile)
}

fn taints(node: &Node) -> impl Iterator<Item = &Taint> {
    let all = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    all.filter(|taint| taint.effect == EFFECT)
}

/// Whether, and when, a pod has to leave a node with these taints. `since` is when its time began.
fn plan<'a>(pod: &Pod, taints: impl Iterator<Item = &'a Taint>, since: Timestamp) -> Verdict {
    let tolerations = pod.spec.as_ref().and_then(|spec| spec.tolerations.as_deref());
    let tolerations = tolerations.unwrap_or_default();
    let mut least: Option<i64> = None;
    for taint in taints {
        let Some(used) = tolerations.iter().find(|toleration| covers(toleration, taint)) else {
            return Verdict::GoesAt(since);
        };
        if let Some(seconds) = used.toleration_seconds {
            least = Some(least.unwrap_or(i64::MAX).min(seconds.max(0)));
        }
    }
    let Some(seconds) = least else { return Verdict::Stays };
    let end = since.checked_add(SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::MAX);
    Verdict::GoesAt(end)
}

impl Controller {
    fn pod_changed(&self, change: &Change<'_, Pod>) {
        let pod = change.object();
        let relevant = match change {
            Change::Deleted(_) => true,
            Change::Applied { old: None, .. } => pod::node_name(pod).is_some(),
            Change::Applied { old: Some(old), new } => {
                let tolerations = |pod: &Pod| pod.spec.as_ref().and_then(|s| s.tolerations.clone());
                pod::node_name(old) != pod::node_name(new) || tolerations(old) != tolerations(new)
            }
        };
        if relevant {
            self.queue.add(ObjectKey::of(pod.as_ref()));
        }
    }

    fn node_changed(&self, change: &Change<'_, Node>) {
        let node = change.object();
        let same = match change {
            Change::Applied { old, .. } => {
                let old = old.map(|old| taints(old).collect::<Vec<_>>()).unwrap_or_default();
                old == taints(node).collect::<Vec<_>>()
            }
            Change::Deleted(_) => true,
        };
        if same {
            return;
        }
        lock(&self.late).note(node, Timestamp::now());
        let name = node.name_any();
        for pod in self.context.caches.pods.all() {
            if pod::node_name(&pod) == Some(name.as_str()) {
                self.queue.add(ObjectKey::of(pod.as_ref()));
            }
        }
    }

    async fn reconcile(self: Arc<Self>, key: ObjectKey) -> Result<Requeue, Error> {
        let caches = &self.context.caches;
        let pod = caches.pods.get(&key).filter(|pod| pod.metadata.deletion_timestamp.is_none());
        let Some(pod) = pod else {
            lock(&self.waiting).remove(&key);
            return Ok(Requeue::Never);
        };
        let node =
            pod::node_name(&pod).and_then(|name| caches.nodes.get(&ObjectKey::new("", name)));
        let Some(node) = node else { return Ok(Requeue::Never) };
        let now = Timestamp::now();
        let known =
            lock(&self.waiting).get(&key).filter(|known| known.uid == pod.metadata.uid).cloned();
        let since = known.as_ref().map_or(now, |known| known.since);
        let end = match plan(&pod, taints(&node), since) {
            Verdict::Stays => {
                lock(&self.waiting).remove(&key);
                if known.is_some() {
                    let message = format!("Cancelling deletion of Pod {key}");
                    self.say(&pod, message);
                }
                return Ok(Requeue::Never);
            }
            Verdict::GoesAt(end) => end,
        };
        let left = Duration::try_from(end.duration_since(now)).unwrap_or_default();
        if !left.is_zero() {
            lock(&self.waiting).insert(key, Waiting { uid: pod.metadata.uid.clone(), since });
            return Ok(Requeue::After(left));
        }
        let now = Instant::now();
        if let Some(at) = lock(&self.late).hold(&pod, now) {
            return Ok(Requeue::After(at - now));
        }
        self.evict(&key, &pod).await?;
        lock(&self.waiting).remove(&key);
        Ok(Requeue::Never)
    }

    async fn evict(&self, key: &ObjectKey, pod: &Pod) -> Result<(), Error> {
        self.say(pod, format!("Marking for deletion Pod {key}"));
        let client = &self.context.client;
        let patch = json!({
            "metadata": {"uid": pod.metadata.uid},
            "status": {"conditions": [{
                "type": "DisruptionTarget",
                "status": "True",
                "reason": "DeletionByTaintManager",
                "message": "Taint manager: deleting due to NoExecute taint",
                "lastTransitionTime": Time(Timestamp::now()),
            }]},
        });
        match request::merge_status_strategically::<Pod>(client, key, &patch).await {
            Ok(written) => self.context.caches.pods.observe(written),
            Err(error) if error.is_not_found() || error.is_conflict() => return Ok(()),
            Err(error) => return Err(error),
        }
        request::delete::<Pod>(client, key, pod.metadata.uid.as_deref()).await
    }

    fn say(&self, pod: &Pod, message: String) {
        self.recorder.record(pod, Notice::normal("TaintManagerEviction", message));
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::fixture;

    fn verdict(tolerations: Value, taints: Value) -> Verdict {
        let pod = fixture::pod("p", json!({"spec": {"tolerations": tolerations}}));
        let node: Node = serde_json::from_value(json!({"spec": {"taints": taints}})).unwrap();
        plan(&pod, super::taints(&node), Timestamp::UNIX_EPOCH)
    }

    fn after(seconds: i64) -> Verdict {
        Verdict::GoesAt(Timestamp::from_second(seconds).unwrap())
    }

    #[test]
    fn a_pod_goes_when_the_first_of_its_tolerations_ends() {
        let taint = |key: &str| json!({"key": key, "effect": "NoExecute"});
        let for_a_while = |key: &str, seconds: Value| json!({"key": key, "operator": "Exists", "tolerationSeconds": seconds});
        assert_eq!(verdict(json!([]), json!([])), Verdict::Stays);
        let other = json!([{"key": "a", "effect": "NoSchedule"}]);
        assert_eq!(verdict(json!([]), other), Verdict::Stays);
        assert_eq!(verdict(json!([]), json!([taint("a")])), after(0));
        let always = json!([for_a_while("a", json!(null))]);
        assert_eq!(verdict(always, json!([taint("a")])), Verdict::Stays);
        let both = json!([for_a_while("a", json!(30)), for_a_while("b", json!(20))]);
        assert_eq!(verdict(both.clone(), json!([taint("a")])), after(30));
        assert_eq!(verdict(both.clone(), json!([taint("a"), taint("b")])), after(20));
        assert_eq!(verdict(both, json!([taint("a"), taint("c")])), after(0));
        assert_eq!(verdict(json!([for_a_while("a", json!(-5))]), json!([taint("a")])), after(0));
        let first = json!([for_a_while("a", json!(9)), for_a_while("a", json!(1))]);
        assert_eq!(verdict(first, json!([taint("a")])), after(9));
    }

    #[test]
    fn late_pods_of_one_owner_go_ever_more_slowly() {
        let owner = json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "a", "uid": "u", "controller": true});
        let made = |second: u32| {
            let created = format!("2024-01-01T00:00:{second:02}Z");
            let metadata = json!({"creationTimestamp": created, "ownerReferences": [owner]});
            fixture::pod("p", json!({"metadata": metadata, "spec": {"nodeName": "node"}}))
        };
        let node = |taints: Value| {
            let metadata = json!({"name": "node"});
            serde_json::from_value(json!({"metadata": metadata, "spec": {"taints": taints}}))
                .unwrap()
        };
        let mut late = Late::default();
        late.note(
            &node(json!([{"key": "a", "effect": "NoExecute"}])),
            "2024-01-01T00:00:10Z".parse().unwrap(),
        );
        let now = Instant::now();
        // All that are there when the taint comes go at once.
        let held = |late: &mut Late, second| late.hold(&made(second), now).map(|at| at - now);
        assert_eq!([9, 9, 10].map(|second| held(&mut late, second)), [None; 3]);
        assert_eq!(held(&mut late, 11), Some(Duration::from_secs(1)));
        late.note(&node(json!([])), Timestamp::now());
        assert_eq!(held(&mut late, 11), None);
    }
}
