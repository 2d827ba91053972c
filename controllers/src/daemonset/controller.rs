//! Carrying plans for DaemonSets out.

use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet, DaemonSetSpec, DaemonSetStatus};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::ResourceExt;

use crate::cache::{Change, ObjectKey};
use crate::context::Context;
use crate::daemonset::place;
use crate::daemonset::plan::{self, Observed};
use crate::error::Error;
use crate::event::{Notice, Recorder};
use crate::history::{self, POD_LABEL, Recorded, Snapshot};
use crate::ownership::{claim, controller_key, controller_of, settle};
use crate::pod_control::PodControl;
use crate::queue::{Queue, Requeue};
use crate::{request, selector};

/// The name under which events are reported.
const COMPONENT: &str = "daemonset-controller";
/// How many DaemonSets are served at once.
const WORKERS: usize = 4;
/// How long a node waits after its pod has failed for the first time; it doubles every time.
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// The longest such wait. A node without failures for twice as long starts anew.
const LAST_WAIT: Duration = Duration::from_secs(15 * 60);

/// How often a node's pod has failed.
struct Failures {
    wait: Duration,
    since: Instant,
}

struct Controller {
    context: Arc<Context>,
    pods: PodControl,
    recorder: Recorder,
    queue: Arc<Queue<ObjectKey>>,
    failures: Mutex<HashMap<(ObjectKey, String), Failures>>,
}

/// Subscribes to what matters and returns the workers, to be run when the caches are filled.
pub fn workers(context: &Arc<Context>) -> impl Future<Output = ()> + Send + use<> {
    let controller = Arc::new(Controller {
        context: context.clone(),
        pods: PodControl::new(context, COMPONENT),
        recorder: context.recorder.speaking_for(COMPONENT),
        queue: Queue::new(),
        failures: Mutex::default(),
    });
    let caches = &context.caches;
    let queue = controller.queue.clone();
    caches.daemon_sets.on_change(move |change| queue.add(ObjectKey::of(change.object().as_ref())));
    let queue = controller.queue.clone();
    caches.controller_revisions.on_change(move |change| {
        if let Some(owner) = controller_key(&change.object().metadata, "apps", "DaemonSet") {
            queue.add(owner);
        }
    });
    let watcher = controller.clone();
    caches.pods.on_change(move |change| watcher.pod_changed(change));
    let watcher = controller.clone();
    caches.nodes.on_change(move |change| watcher.node_changed(change));
    controller.queue.serve(COMPONENT, WORKERS, &context.token, &controller, Controller::reconcile)
}

impl Controller {
    fn pod_changed(&self, change: &Change<'_, Pod>) {
        for state in change.states() {
            if let Some(owner) = controller_key(&state.metadata, "apps", "DaemonSet") {
                self.queue.add(owner);
            }
        }
        let pod = change.object();
        if let Some(owner) = controller_key(&pod.metadata, "apps", "DaemonSet") {
            self.pods.seen(&owner, change);
        } else if controller_of(&pod.metadata).is_none() {
            let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
            for owner in self.context.caches.daemon_sets.namespaced(namespace) {
                let matching = owner.spec.as_ref().is_some_and(|spec| {
                    !selector::is_empty(&spec.selector)
                        && selector::matches(&spec.selector, pod.metadata.labels.as_ref())
                });
                if matching {
                    self.queue.add(ObjectKey::of(owner.as_ref()));
                }
            }
        }
    }

    /// Heartbeats change no DaemonSet; labels, taints and the node's being there may.
    fn node_changed(&self, change: &Change<'_, Node>) {
        let same = match change {
            Change::Applied { old: Some(old), new } => {
                old.metadata.labels == new.metadata.labels
                    && old.spec.as_ref().map(|spec| &spec.taints)
                        == new.spec.as_ref().map(|spec| &spec.taints)
            }
            _ => false,
        };
        if !same {
            for owner in self.context.caches.daemon_sets.all() {
                self.queue.add(ObjectKey::of(owner.as_ref()));
            }
        }
    }

    async fn reconcile(self: Arc<Self>, key: ObjectKey) -> Result<Requeue, Error> {
        let context = &self.context;
        let Some(owner) = context.caches.daemon_sets.get(&key) else {
            self.pods.forget(&key);
            self.failures().retain(|(owner, _), _| *owner != key);
            return Ok(Requeue::Never);
        };
        let Some(spec) = &owner.spec else { return Ok(Requeue::Never) };
        if selector::is_empty(&spec.selector) {
            let message =
                "This daemon set is selecting all pods. A non-empty selector is required.";
            self.recorder.record(owner.as_ref(), Notice::warning("SelectingAll", message));
            return Ok(Requeue::Never);
        }
        if owner.metadata.deletion_timestamp.is_some() {
            return Ok(Requeue::Never);
        }
        let settled = self.pods.is_settled(&key);
        let history = &context.caches.controller_revisions;
        let revisions =
            history::revisions(&context.client, history, owner.as_ref(), &spec.selector).await?;
        let Some(current) = self.current(&owner, spec, &revisions).await? else {
            return Ok(Requeue::Never);
        };
        let pods = &context.caches.pods;
        let claimed =
            claim(&owner.metadata, &spec.selector, pods.namespaced(&key.namespace), |_| true);
        let owned = settle(&context.client, pods, owner.as_ref(), claimed).await?;
        let hash = history::hash(&current, POD_LABEL).to_owned();
        let nodes = context.caches.nodes.all();
        let plan = plan::plan(&Observed {
            owner: &owner,
            spec,
            hash: &hash,
            nodes: &nodes,
            pods: &owned,
            settled,
            waits: &self.waits(&key),
            now: Timestamp::now(),
        });
        for notice in plan.events {
            self.recorder.record(owner.as_ref(), notice);
        }
        for node in plan.failed {
            self.note_failure(&key, node);
        }
        let deleted = self.pods.delete(&key, owner.as_ref(), &plan.delete).await;
        let nodes = &plan.create;
        let pod = |number: usize| place::pod_for(&owner, &spec.template, &hash, &nodes[number]);
        let created = self.pods.create(&key, owner.as_ref(), nodes.len(), pod).await;
        self.write_status(&owner, plan.status).await?;
        deleted.and(created)?;
        self.forget_history(spec, &current, &revisions, &owned).await?;
        Ok(plan.requeue_after.into())
    }

    /// The revision of the present template; `None` if its name is taken, which the next round
    /// overcomes.
    async fn current(
        &self,
        owner: &DaemonSet,
        spec: &DaemonSetSpec,
        revisions: &[Arc<ControllerRevision>],
    ) -> Result<Option<Arc<ControllerRevision>>, Error> {
        let status = owner.status.clone().unwrap_or_default();
        let recorded = history::record(
            &self.context.client,
            &self.context.caches.controller_revisions,
            history::current(&spec.template, revisions),
            |number| Snapshot {
                owner,
                template: &spec.template,
                hash_label: POD_LABEL,
                collisions: status.collision_count,
                number,
            },
        )
        .await?;
        match recorded {
            Recorded::Revision(revision) => Ok(Some(revision)),
            Recorded::Collision => {
                let collision_count = Some(status.collision_count.unwrap_or(0) + 1);
                self.write_status(owner, DaemonSetStatus { collision_count, ..status }).await?;
                Ok(None)
            }
        }
    }

    async fn write_status(&self, owner: &DaemonSet, status: DaemonSetStatus) -> Result<(), Error> {
        if owner.status.as_ref() == Some(&status) {
            return Ok(());
        }
        let updated = DaemonSet { status: Some(status), ..owner.clone() };
        request::write_status(&self.context.client, &self.context.caches.daemon_sets, &updated)
            .await
    }

    async fn forget_history(
        &self,
        spec: &DaemonSetSpec,
        current: &ControllerRevision,
        revisions: &[Arc<ControllerRevision>],
        pods: &[Arc<Pod>],
    ) -> Result<(), Error> {
        let used: HashSet<&str> =
            pods.iter().filter_map(|pod| pod.labels().get(POD_LABEL)).map(String::as_str).collect();
        let live: HashSet<String> = revisions
            .iter()
            .filter(|revision| used.contains(history::hash(revision, POD_LABEL)))
            .map(|revision| revision.name_any())
            .chain([current.name_any()])
            .collect();
        let limit = spec.revision_history_limit;
        history::forget(&self.context.client, revisions, &live, limit).await
    }

    fn failures(&self) -> std::sync::MutexGuard<'_, HashMap<(ObjectKey, String), Failures>> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note_failure(&self, owner: &ObjectKey, node: String) {
        let mut failures = self.failures();
        let known = failures
            .entry((owner.clone(), node))
            .or_insert(Failures { wait: FIRST_WAIT / 2, since: Instant::now() });
        let forgotten = known.since.elapsed() > LAST_WAIT * 2;
        known.wait = if forgotten { FIRST_WAIT } else { (known.wait * 2).min(LAST_WAIT) };
        known.since = Instant::now();
    }

    /// The nodes that have to wait, and for how long.
    fn waits(&self, owner: &ObjectKey) -> HashMap<String, Duration> {
        let failures = self.failures();
        let mine = failures.iter().filter(|((key, _), _)| key == owner);
        mine.filter_map(|((_, node), failures)| {
            let left = failures.wait.checked_sub(failures.since.elapsed())?;
            (!left.is_zero()).then(|| (node.clone(), left))
        })
        .collect()
    }
}
