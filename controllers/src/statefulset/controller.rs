//! Carrying plans for StatefulSets out.

use std::collections::HashSet;
use std::future::Future;
use std::sync::Arc;

use futures::future::join_all;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{
    ControllerRevision, StatefulSet, StatefulSetSpec, StatefulSetStatus,
};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::ResourceExt;
use serde_json::json;

use crate::cache::{Change, ObjectKey};
use crate::context::Context;
use crate::error::Error;
use crate::event::{Notice, Recorder};
use crate::history::{self, POD_LABEL, Recorded, Snapshot};
use crate::ownership::{claim, controller_key, owners_patch, settle};
use crate::queue::{Queue, Requeue};
use crate::statefulset::identity;
use crate::statefulset::plan::{self, Observed, Version, Write};
use crate::{request, selector};

/// The name under which events are reported.
const COMPONENT: &str = "statefulset-controller";
/// How many StatefulSets are served at once.
const WORKERS: usize = 8;
/// The label of the hash of a revision.
const HASH_LABEL: &str = "controller.kubernetes.io/hash";

struct Controller {
    context: Arc<Context>,
    recorder: Recorder,
    queue: Arc<Queue<ObjectKey>>,
}

/// Subscribes to what matters and returns the workers, to be run when the caches are filled.
pub fn workers(context: &Arc<Context>) -> impl Future<Output = ()> + Send + use<> {
    let controller = Arc::new(Controller {
        context: context.clone(),
        recorder: context.recorder.speaking_for(COMPONENT),
        queue: Queue::new(),
    });
    let caches = &context.caches;
    let queue = controller.queue.clone();
    caches.stateful_sets.on_change(move |change| {
        queue.add(ObjectKey::of(change.object().as_ref()));
    });
    let queue = controller.queue.clone();
    caches.controller_revisions.on_change(move |change| {
        if let Some(owner) = controller_key(&change.object().metadata, "apps", "StatefulSet") {
            queue.add(owner);
        }
    });
    let watcher = controller.clone();
    caches.pods.on_change(move |change| watcher.pod_changed(change));
    let watcher = controller.clone();
    caches.claims.on_change(move |change| watcher.claim_changed(change));
    controller.queue.serve(COMPONENT, WORKERS, &context.token, &controller, Controller::reconcile)
}

impl Controller {
    fn pod_changed(&self, change: &Change<'_, Pod>) {
        for state in change.states() {
            if let Some(owner) = controller_key(&state.metadata, "apps", "StatefulSet") {
                self.queue.add(owner);
            }
        }
        let pod = change.object();
        // An orphan, or one that occupies the name of a replica.
        if controller_key(&pod.metadata, "apps", "StatefulSet").is_none()
            && let Some((parent, _)) = identity::parent_and_ordinal(&pod.name_any())
        {
            self.wake(&pod.namespace().unwrap_or_default(), parent);
        }
    }

    /// The claim that is gone may be one whose pod waits for a new one.
    fn claim_changed(&self, change: &Change<'_, PersistentVolumeClaim>) {
        let Change::Deleted(claim) = change else { return };
        let name = claim.name_any();
        let Some((rest, _)) = identity::parent_and_ordinal(&name) else { return };
        let namespace = claim.namespace().unwrap_or_default();
        for (dash, _) in rest.match_indices('-') {
            self.wake(&namespace, &rest[dash + 1..]);
        }
    }

    fn wake(&self, namespace: &str, set: &str) {
        let key = ObjectKey::new(namespace, set);
        if self.context.caches.stateful_sets.get(&key).is_some() {
            self.queue.add(key);
        }
    }

    async fn reconcile(self: Arc<Self>, key: ObjectKey) -> Result<Requeue, Error> {
        let context = &self.context;
        let Some(set) = context.caches.stateful_sets.get(&key) else { return Ok(Requeue::Never) };
        let Some(spec) = set.spec.as_ref().filter(|spec| !selector::is_empty(&spec.selector))
        else {
            return Ok(Requeue::Never);
        };
        let history = &context.caches.controller_revisions;
        let revisions =
            history::revisions(&context.client, history, set.as_ref(), &spec.selector).await?;
        let Some(update) = self.update_revision(&set, spec, &revisions).await? else {
            return Ok(Requeue::Never);
        };
        let known = set.status.as_ref().and_then(|status| status.current_revision.as_ref());
        let current = revisions
            .iter()
            .find(|revision| revision.metadata.name.as_ref() == known)
            .unwrap_or(&update);
        let pods = &context.caches.pods;
        let claimed =
            claim(&set.metadata, &spec.selector, pods.namespaced(&key.namespace), |pod: &Pod| {
                identity::ordinal(&set, pod).is_some()
            });
        let owned = settle(&context.client, pods, set.as_ref(), claimed).await?;
        let current_template =
            history::template_of(current).unwrap_or_else(|| spec.template.clone());
        let plan = plan::plan(&Observed {
            set: &set,
            spec,
            current: Version { name: &current.name_any(), template: &current_template },
            update: Version { name: &update.name_any(), template: &spec.template },
            pods: &owned,
            claim: &|name| context.caches.claims.get(&ObjectKey::new(&key.namespace, name)),
            now: Timestamp::now(),
        });
        let outcomes =
            join_all(plan.writes.into_iter().map(|writes| self.apply_all(&set, writes))).await;
        self.write_status(&set, plan.status).await?;
        outcomes.into_iter().collect::<Result<(), Error>>()?;
        self.forget_history(spec, [current, &update], &revisions, &owned).await?;
        Ok(plan.requeue_after.into())
    }

    /// The revision of the present template; `None` if its name is taken, which the next round
    /// overcomes.
    async fn update_revision(
        &self,
        set: &StatefulSet,
        spec: &StatefulSetSpec,
        revisions: &[Arc<ControllerRevision>],
    ) -> Result<Option<Arc<ControllerRevision>>, Error> {
        let status = set.status.clone().unwrap_or_default();
        let current = history::current(&spec.template, revisions);
        // A set that is on its way out needs no history.
        if set.metadata.deletion_timestamp.is_some() && !matches!(current, history::Current::Is(_))
        {
            return Ok(None);
        }
        let recorded = history::record(
            &self.context.client,
            &self.context.caches.controller_revisions,
            current,
            |number| Snapshot {
                owner: set,
                template: &spec.template,
                hash_label: HASH_LABEL,
                collisions: status.collision_count,
                number,
            },
        )
        .await?;
        match recorded {
            Recorded::Revision(revision) => Ok(Some(revision)),
            Recorded::Collision => {
                let collision_count = Some(status.collision_count.unwrap_or(0).saturating_add(1));
                self.write_status(set, StatefulSetStatus { collision_count, ..status }).await?;
                Ok(None)
            }
        }
    }

    async fn apply_all(&self, set: &StatefulSet, writes: Vec<Write>) -> Result<(), Error> {
        for write in writes {
            self.apply(set, write).await?;
        }
        Ok(())
    }

    async fn apply(&self, set: &StatefulSet, write: Write) -> Result<(), Error> {
        let (client, caches) = (&self.context.client, &self.context.caches);
        let owner = set.name_any();
        match write {
            Write::CreateClaim { claim, pod } => {
                let name = claim.name_any();
                let outcome = request::create(client, claim.as_ref()).await;
                let done = format!("create Claim {name} Pod {pod} in StatefulSet {owner} success");
                let failed =
                    format!("create Claim {name} for Pod {pod} in StatefulSet {owner} failed");
                self.report(set, "Create", outcome.as_ref().err(), done, &failed);
                caches.claims.observe(outcome?);
            }
            Write::OwnClaim { claim, owners } => {
                let patch = owners_patch(&claim.metadata, &owners);
                let key = ObjectKey::of(claim.as_ref());
                match request::merge::<PersistentVolumeClaim>(client, &key, &patch).await {
                    Ok(written) => caches.claims.observe(written),
                    Err(error) if error.is_not_found() => {}
                    Err(error) => return Err(error),
                }
            }
            Write::CreatePod(pod) => {
                let outcome = request::create(client, pod.as_ref()).await;
                let quiet = outcome.as_ref().err().is_some_and(Error::is_namespace_terminating);
                if quiet {
                    return Ok(());
                }
                self.report_pod(set, &pod, "Create", outcome.as_ref().err());
                caches.pods.observe(outcome?);
            }
            Write::Identify(pod) => {
                let patch = json!({"metadata": {
                    "uid": pod.metadata.uid, "labels": pod.metadata.labels}});
                let key = ObjectKey::of(pod.as_ref());
                let outcome = request::merge::<Pod>(client, &key, &patch).await;
                self.report_pod(set, &pod, "Update", outcome.as_ref().err());
                caches.pods.observe(outcome?);
            }
            Write::DeletePod { pod, event } => {
                if let Some(event) = event {
                    self.recorder.record(set, event);
                }
                let key = ObjectKey::of(pod.as_ref());
                let outcome =
                    request::delete::<Pod>(client, &key, pod.metadata.uid.as_deref()).await;
                self.report_pod(set, &pod, "Delete", outcome.as_ref().err());
                outcome?;
            }
        }
        Ok(())
    }

    fn report_pod(&self, set: &StatefulSet, pod: &Pod, verb: &'static str, error: Option<&Error>) {
        let (name, owner) = (pod.name_any(), set.name_any());
        let low = verb.to_lowercase();
        let done = format!("{low} Pod {name} in StatefulSet {owner} successful");
        let failed = format!("{low} Pod {name} in StatefulSet {owner} failed");
        self.report(set, verb, error, done, &failed);
    }

    fn report(
        &self,
        set: &StatefulSet,
        verb: &'static str,
        error: Option<&Error>,
        done: String,
        failed: &str,
    ) {
        let (success, failure) = match verb {
            "Create" => ("SuccessfulCreate", "FailedCreate"),
            "Update" => ("SuccessfulUpdate", "FailedUpdate"),
            _ => ("SuccessfulDelete", "FailedDelete"),
        };
        let notice = match error {
            None => Notice::normal(success, done),
            Some(error) => Notice::warning(failure, format!("{failed} error: {}", error.message())),
        };
        self.recorder.record(set, notice);
    }

    async fn write_status(
        &self,
        set: &StatefulSet,
        status: StatefulSetStatus,
    ) -> Result<(), Error> {
        if set.status.as_ref() == Some(&status) {
            return Ok(());
        }
        let updated = StatefulSet { status: Some(status), ..set.clone() };
        request::write_status(&self.context.client, &self.context.caches.stateful_sets, &updated)
            .await
    }

    async fn forget_history(
        &self,
        spec: &StatefulSetSpec,
        kept: [&Arc<ControllerRevision>; 2],
        revisions: &[Arc<ControllerRevision>],
        pods: &[Arc<Pod>],
    ) -> Result<(), Error> {
        let live: HashSet<String> = pods
            .iter()
            .filter_map(|pod| pod.labels().get(POD_LABEL).cloned())
            .chain(kept.into_iter().map(|revision| revision.name_any()))
            .collect();
        let limit = spec.revision_history_limit;
        history::forget(&self.context.client, revisions, &live, limit).await
    }
}
