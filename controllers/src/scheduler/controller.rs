//! Carrying the scheduler's decisions out: bindings in parallel, conditions, events.

use std::collections::BTreeMap;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ::watch::restart::panic_text;
use futures::FutureExt;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Binding, ObjectReference, PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::{Api, PostParams};
use kube::{Resource, ResourceExt};
use serde_json::{Value, json};
use tokio::sync::{Notify, Semaphore, watch};

use crate::cache::{Cache, Cached, Change, ObjectKey};
use crate::context::Context;
use crate::error::Error;
use crate::event::{Notice, Recorder};
use crate::pod;
use crate::request;
use crate::scheduler::affinity::NamespaceLabels;
use crate::scheduler::preempt::PREEMPTED;
use crate::scheduler::state::{Decision, NAME, Nomination, State, Surroundings};
use crate::scheduler::volumes::{self, Claims};
use crate::volume::annotation::SELECTED_NODE;
use crate::volume::matching::selected_node;

/// How many bindings may be under way at once.
const BINDINGS: usize = 64;
/// How long a pod may wait for its volumes before its node is chosen anew.
const VOLUME_PATIENCE: Duration = Duration::from_secs(600);
/// The delay before a pod whose binding failed is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// The delay before a pod over which the scheduler panicked is tried again.
const PANIC_RETRY: Duration = Duration::from_secs(30);

struct Scheduler {
    context: Arc<Context>,
    recorder: Recorder,
    state: Mutex<State>,
    wake: Notify,
    bindings: Arc<Semaphore>,
    /// Counts what may end the wait for a volume.
    progress: watch::Sender<u64>,
}

/// Subscribes to what matters and returns the scheduler, to be run when the caches are filled.
pub fn workers(context: &Arc<Context>) -> impl Future<Output = ()> + Send + use<> {
    let scheduler = Arc::new(Scheduler {
        context: context.clone(),
        recorder: context.recorder.speaking_for(NAME),
        state: Mutex::default(),
        wake: Notify::new(),
        bindings: Arc::new(Semaphore::new(BINDINGS)),
        progress: watch::Sender::new(0),
    });
    let watcher = scheduler.clone();
    context.caches.pods.on_change(move |change| {
        if watcher.lock().pod_changed(change) {
            watcher.wake.notify_one();
        }
        if matches!(change, Change::Deleted(_)) {
            watcher.progress.send_modify(|count| *count += 1);
        }
    });
    scheduler.follow(&context.caches.claims);
    scheduler.follow(&context.caches.volumes);
    scheduler.follow(&context.caches.storage_classes);
    let watcher = scheduler.clone();
    context.caches.nodes.on_change(move |change| {
        if watcher.lock().node_changed(change) {
            watcher.wake.notify_one();
        }
    });
    async move {
        let token = scheduler.context.token.clone();
        tokio::select! {
            () = token.cancelled() => {}
            () = scheduler.run() => {}
        }
    }
}

impl Scheduler {
    /// A change of anything of that kind may let a pod go on.
    fn follow<K: Cached>(self: &Arc<Self>, cache: &Cache<K>) {
        let scheduler = self.clone();
        cache.on_change(move |_| {
            scheduler.progress.send_modify(|count| *count += 1);
            if scheduler.lock().wake_all() {
                scheduler.wake.notify_one();
            }
        });
    }

    async fn run(self: Arc<Self>) {
        loop {
            let next = self.lock().pop();
            match next {
                Some(pod) => {
                    let decided = AssertUnwindSafe(|| self.schedule(pod.clone()));
                    if let Err(panic) = catch_unwind(decided) {
                        self.clone().recover(pod, panic_text(&*panic));
                    }
                }
                None => self.wake.notified().await,
            }
        }
    }

    /// Decides about one pod and starts what follows from it.
    fn schedule(self: &Arc<Self>, pod: Arc<Pod>) {
        let caches = &self.context.caches;
        let claims = Claims::of(&pod, caches);
        let unbound: Vec<_> = claims.unbound.iter().map(|known| known.claim.clone()).collect();
        let namespaces = self.namespaces(&pod);
        let around = Surroundings { namespaces, claims, budgets: caches.budgets.all() };
        let mut displaced = Vec::new();
        let decision = {
            let mut state = self.lock();
            let decision = state.decide(&pod, around);
            match &decision {
                Decision::Bind(node) => state.assume(&pod, node),
                Decision::Unschedulable { nomination, .. } => {
                    displaced = state.nominate(&pod, nomination);
                }
            }
            decision
        };
        let (scheduler, subject) = (self.clone(), pod.clone());
        let work = async move {
            match decision {
                Decision::Bind(node) => scheduler.bind(pod, node, unbound).await,
                Decision::Unschedulable { message, nomination } => {
                    for other in displaced {
                        scheduler.displace(&other).await;
                    }
                    scheduler.explain(pod, message, nomination).await;
                }
            }
        };
        let scheduler = self.clone();
        tokio::spawn(async move {
            if let Err(panic) = AssertUnwindSafe(work).catch_unwind().await {
                scheduler.recover(subject, panic_text(&*panic));
            }
        });
    }

    /// Frees the place of a pod over which the scheduler panicked, and tries the pod again later.
    fn recover(self: Arc<Self>, pod: Arc<Pod>, reason: &str) {
        let key = ObjectKey::of(pod.as_ref());
        tracing::error!(pod = %key, reason, delay = ?PANIC_RETRY, "scheduling panicked; trying again");
        self.lock().forget(&pod);
        tokio::spawn(async move {
            tokio::time::sleep(PANIC_RETRY).await;
            self.lock().wake(&key);
            self.wake.notify_one();
        });
    }

    async fn bind(&self, pod: Arc<Pod>, node: String, unbound: Vec<Arc<PersistentVolumeClaim>>) {
        let key = ObjectKey::of(pod.as_ref());
        let volumes = self.bind_volumes(&pod, &key, &node, &unbound).await;
        let Ok(_permit) = self.bindings.acquire().await else { return };
        let outcome = match volumes {
            Ok(()) => self.post_binding(&pod, &key, &node).await,
            Err(error) => Err(error),
        };
        match outcome {
            Ok(()) => {
                let message = format!("Successfully assigned {key} to {node}");
                self.recorder.record(pod.as_ref(), Notice::normal("Scheduled", message));
            }
            Err(error) => {
                self.lock().forget(&pod);
                let current = self.context.caches.pods.get(&key);
                let waits = current.is_some_and(|current| {
                    current.metadata.uid == pod.metadata.uid && pod::node_name(&current).is_none()
                });
                if error.is_not_found() || !waits {
                    return;
                }
                tracing::warn!(pod = %key, %error, "binding failed");
                let message = format!("binding rejected: {}", error.message());
                self.recorder.record(pod.as_ref(), Notice::warning("FailedScheduling", message));
                tokio::time::sleep(RETRY).await;
                self.lock().wake(&key);
                self.wake.notify_one();
            }
        }
    }

    /// Tells where the volumes of a pod are to be, and waits until they are there.
    async fn bind_volumes(
        &self,
        pod: &Pod,
        key: &ObjectKey,
        node: &str,
        unbound: &[Arc<PersistentVolumeClaim>],
    ) -> Result<(), Error> {
        let caches = &self.context.caches;
        let mut progress = self.progress.subscribe();
        for claim in unbound.iter().filter(|claim| selected_node(claim) != Some(node)) {
            let patch = json!({"metadata": {
                "uid": claim.metadata.uid, "annotations": {SELECTED_NODE: node}}});
            let written = request::merge::<PersistentVolumeClaim>(
                &self.context.client,
                &ObjectKey::of(claim.as_ref()),
                &patch,
            )
            .await?;
            caches.claims.observe(written);
        }
        let deadline = tokio::time::Instant::now() + VOLUME_PATIENCE;
        loop {
            progress.borrow_and_update();
            let waiting = unbound.iter().any(|claim| {
                let claim = caches.claims.get(&ObjectKey::of(claim.as_ref()));
                claim.is_none_or(|claim| !volumes::is_served(&claim, caches))
            });
            let current = caches.pods.get(key);
            let there = current.is_some_and(|current| current.metadata.uid == pod.metadata.uid);
            // A pod that is gone waits for nothing; its binding will be refused.
            if !waiting || !there {
                return Ok(());
            }
            if tokio::time::timeout_at(deadline, progress.changed()).await.is_err() {
                return Err(Error::VolumesLate { pod: key.to_string() });
            }
        }
    }

    async fn post_binding(&self, pod: &Pod, key: &ObjectKey, node: &str) -> Result<(), Error> {
        let binding = Binding {
            metadata: ObjectMeta {
                name: Some(key.name.clone()),
                namespace: Some(key.namespace.clone()),
                uid: pod.metadata.uid.clone(),
                ..ObjectMeta::default()
            },
            target: ObjectReference {
                kind: Some("Node".to_owned()),
                name: Some(node.to_owned()),
                ..ObjectReference::default()
            },
        };
        let api: Api<Pod> = Api::namespaced(self.context.client.clone(), &key.namespace);
        api.create_subresource::<_, Value>("binding", &key.name, &PostParams::default(), &binding)
            .await
            .map_err(request::failed::<Pod>("bind", key))?;
        Ok(())
    }

    /// Says why a pod waits, once for every new reason, and makes room if that is allowed.
    async fn explain(&self, pod: Arc<Pod>, message: String, nomination: Nomination) {
        let known = pod::condition(&pod, "PodScheduled");
        let said = known.is_some_and(|known| {
            known.status == "False"
                && known.reason.as_deref() == Some("Unschedulable")
                && known.message.as_deref() == Some(&message)
        });
        if !said {
            let notice = Notice::warning("FailedScheduling", message.clone());
            self.recorder.record(pod.as_ref(), notice);
        }
        let nominated = pod.status.as_ref().and_then(|status| status.nominated_node_name.as_ref());
        let nominate = match &nomination {
            Nomination::Keep => None,
            Nomination::Clear => nominated.is_some().then_some(Value::Null),
            Nomination::Make(eviction) => Some(Value::from(eviction.node.as_str())),
        };
        if !said || nominate.is_some() {
            let since = known
                .filter(|known| known.status == "False")
                .and_then(|known| known.last_transition_time.clone())
                .unwrap_or(Time(Timestamp::now()));
            let mut patch = json!({
                "metadata": {"uid": pod.metadata.uid},
                "status": {"conditions": [{
                    "type": "PodScheduled",
                    "status": "False",
                    "reason": "Unschedulable",
                    "message": message,
                    "lastProbeTime": null,
                    "lastTransitionTime": since,
                }]},
            });
            if let Some(node) = nominate {
                patch["status"]["nominatedNodeName"] = node;
            }
            self.write_status(&pod, &patch).await;
        }
        let Nomination::Make(eviction) = nomination else { return };
        for victim in eviction.victims {
            self.preempt(&pod, &victim, &eviction.node).await;
        }
    }

    /// Tells a pod that the room it waited for goes to another.
    async fn displace(&self, pod: &Pod) {
        let patch = json!({
            "metadata": {"uid": pod.metadata.uid},
            "status": {"nominatedNodeName": null},
        });
        self.write_status(pod, &patch).await;
    }

    async fn write_status(&self, pod: &Pod, patch: &Value) {
        let key = ObjectKey::of(pod);
        let client = &self.context.client;
        match request::merge_status_strategically::<Pod>(client, &key, patch).await {
            Ok(written) => self.context.caches.pods.observe(written),
            Err(error) => tracing::debug!(pod = %key, %error, "the status was not written"),
        }
    }

    async fn preempt(&self, preemptor: &Pod, victim: &Pod, node: &str) {
        if victim.metadata.deletion_timestamp.is_some() {
            return;
        }
        let key = ObjectKey::of(victim);
        let client = &self.context.client;
        let patch = json!({"status": {"conditions": [{
            "type": "DisruptionTarget",
            "status": "True",
            "reason": PREEMPTED,
            "message": format!("{NAME}: preempting to accommodate a higher priority pod"),
            "lastTransitionTime": Time(Timestamp::now()),
        }]}});
        let marked = request::merge_status_strategically::<Pod>(client, &key, &patch).await;
        let deleted = match marked {
            Ok(_) => request::delete::<Pod>(client, &key, victim.metadata.uid.as_deref()).await,
            Err(error) => Err(error),
        };
        match deleted {
            Ok(()) => {
                let uid = preemptor.meta().uid.as_deref().unwrap_or_default();
                let message = format!("Preempted by pod {uid} on node {node}");
                self.recorder.record(victim, Notice::normal("Preempted", message));
            }
            Err(error) => tracing::warn!(pod = %key, %error, "preemption failed"),
        }
    }

    /// The labels of all namespaces, if the pod's affinity may ask for them.
    fn namespaces(&self, pod: &Pod) -> NamespaceLabels {
        let asked = pod.spec.as_ref().is_some_and(|spec| spec.affinity.is_some());
        if !asked {
            return BTreeMap::new();
        }
        let namespaces = self.context.caches.namespaces.all();
        namespaces.iter().map(|known| (known.name_any(), known.labels().clone())).collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
