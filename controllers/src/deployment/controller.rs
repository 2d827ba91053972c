//! Carrying plans for Deployments out.

use std::collections::HashSet;
use std::future::Future;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentStatus, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;

use crate::cache::{Change, ObjectKey};
use crate::context::Context;
use crate::deployment::plan::{self, Observed, Stuck, Write};
use crate::deployment::revision::REVISION;
use crate::deployment::rollout;
use crate::deployment::status::{self, PROGRESSING, spec};
use crate::error::Error;
use crate::event::{Notice, Recorder};
use crate::ownership::{claim, controller_key, controller_of, is_controlled_by, settle};
use crate::pod;
use crate::queue::{Queue, Requeue};
use crate::{request, selector, template};

/// The name under which events are reported.
const COMPONENT: &str = "deployment-controller";
/// How many Deployments are served at once.
const WORKERS: usize = 8;

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
    let queue = controller.queue.clone();
    context
        .caches
        .deployments
        .on_change(move |change| queue.add(ObjectKey::of(change.object().as_ref())));
    let watcher = controller.clone();
    context.caches.replica_sets.on_change(move |change| watcher.set_changed(change));
    let watcher = controller.clone();
    context.caches.pods.on_change(move |change| watcher.pod_changed(change));
    controller.queue.serve(COMPONENT, WORKERS, &context.token, &controller, Controller::reconcile)
}

impl Controller {
    fn set_changed(&self, change: &Change<'_, ReplicaSet>) {
        for state in change.states() {
            if let Some(owner) = controller_key(&state.metadata, "apps", "Deployment") {
                self.queue.add(owner);
            }
        }
        let set = change.object();
        if controller_of(&set.metadata).is_some() {
            return;
        }
        let namespace = set.metadata.namespace.as_deref().unwrap_or_default();
        for deployment in self.context.caches.deployments.namespaced(namespace) {
            let wanted = &spec(&deployment).selector;
            if !selector::is_empty(wanted)
                && selector::matches(wanted, set.metadata.labels.as_ref())
            {
                self.queue.add(ObjectKey::of(deployment.as_ref()));
            }
        }
    }

    /// `Recreate` waits for the end of the old pods; and a pod that cannot be scheduled is worth
    /// a word.
    fn pod_changed(&self, change: &Change<'_, Pod>) {
        let pod = change.object();
        let ended = matches!(change, Change::Deleted(_)) || pod::is_terminal(pod);
        let told = match change {
            Change::Applied { old, new } => {
                old.and_then(|old| pod::unschedulable(old)) != pod::unschedulable(new)
            }
            Change::Deleted(gone) => gone.metadata.deletion_timestamp.is_some(),
        };
        if !ended && !told {
            return;
        }
        let Some(set) = controller_key(&pod.metadata, "apps", "ReplicaSet") else { return };
        let Some(set) = self.context.caches.replica_sets.get(&set) else { return };
        let Some(owner) = controller_key(&set.metadata, "apps", "Deployment") else { return };
        let waiting = self
            .context
            .caches
            .deployments
            .get(&owner)
            .is_some_and(|deployment| !rollout::is_rolling(&deployment));
        if waiting || told {
            self.queue.add(owner);
        }
    }

    async fn reconcile(self: Arc<Self>, key: ObjectKey) -> Result<Requeue, Error> {
        let Some(deployment) = self.context.caches.deployments.get(&key) else {
            return Ok(Requeue::Never);
        };
        let sets = &self.context.caches.replica_sets;
        let owned = if selector::is_empty(&spec(&deployment).selector) {
            Vec::new()
        } else {
            let claim = claim(
                &deployment.metadata,
                &spec(&deployment).selector,
                sets.namespaced(&key.namespace),
                |_| true,
            );
            settle(&self.context.client, sets, deployment.as_ref(), claim).await?
        };
        let plan = plan::plan(Observed {
            busy: self.busy(&deployment, &owned),
            stuck: self.stuck(&deployment, &owned),
            deployment: &deployment,
            sets: owned,
            now: Timestamp::now(),
        });
        let mut current = deployment;
        for write in plan.writes {
            match self.apply(&mut current, write).await {
                Ok(()) => {}
                Err(error) if error.is_not_found() => {
                    // Something it was about is gone; the watch will tell.
                    return Ok(Requeue::Never);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(plan.requeue_after.into())
    }

    fn busy(&self, deployment: &Deployment, sets: &[Arc<ReplicaSet>]) -> HashSet<String> {
        let mut busy = HashSet::new();
        if rollout::is_rolling(deployment) {
            return busy;
        }
        let uids: HashSet<&str> =
            sets.iter().filter_map(|set| set.metadata.uid.as_deref()).collect();
        let namespace = deployment.metadata.namespace.as_deref().unwrap_or_default();
        for pod in self.context.caches.pods.namespaced(namespace) {
            if let Some(owner) = controller_of(&pod.metadata)
                && uids.contains(owner.uid.as_str())
                && !pod::is_terminal(&pod)
            {
                busy.insert(owner.uid.clone());
            }
        }
        busy
    }

    /// The first pod that no node takes, unless another is leaving and may make room.
    fn stuck(&self, deployment: &Deployment, sets: &[Arc<ReplicaSet>]) -> Option<Stuck> {
        let status = deployment.status.as_ref()?;
        if status::is_complete(deployment, status) {
            return None;
        }
        let namespace = deployment.metadata.namespace.as_deref().unwrap_or_default();
        let uids: HashSet<&str> =
            sets.iter().filter_map(|set| set.metadata.uid.as_deref()).collect();
        let pods = self.context.caches.pods.namespaced(namespace);
        let owned = pods.iter().filter_map(|pod| {
            let owner = controller_of(&pod.metadata)?;
            uids.contains(owner.uid.as_str()).then_some((pod, owner))
        });
        let mut first = None;
        for (pod, owner) in owned {
            if pod.metadata.deletion_timestamp.is_some() {
                return None;
            }
            if first.is_none()
                && let Some(reason) = pod::unschedulable(pod)
            {
                let (pod, set, reason) = (pod.name_any(), owner.uid.clone(), reason.to_owned());
                first = Some(Stuck { pod, set, reason });
            }
        }
        first
    }

    async fn apply(&self, deployment: &mut Arc<Deployment>, write: Write) -> Result<(), Error> {
        let context = &self.context;
        match write {
            Write::Create(set) => return self.create(deployment, *set).await,
            Write::Update { set, event } => {
                let written = request::replace(&context.client, set.as_ref()).await?;
                context.caches.replica_sets.observe(written);
                if let Some(event) = event {
                    self.recorder.record(deployment.as_ref(), event);
                }
            }
            Write::Delete(set) => {
                let uid = set.metadata.uid.as_deref();
                request::delete::<ReplicaSet>(&context.client, &ObjectKey::of(set.as_ref()), uid)
                    .await?;
            }
            Write::Status { status, revision } => {
                self.write_status(deployment, *status, revision).await?;
            }
            Write::Event(notice) => self.recorder.record(deployment.as_ref(), notice),
        }
        Ok(())
    }

    async fn write_status(
        &self,
        deployment: &mut Arc<Deployment>,
        status: DeploymentStatus,
        revision: Option<String>,
    ) -> Result<(), Error> {
        let mut updated = (**deployment).clone();
        updated.status = Some(status);
        if let Some(revision) = revision {
            // The annotation is the one thing beside status that the subresource lets through.
            updated.annotations_mut().insert(REVISION.to_owned(), revision);
        }
        let written = request::replace_status(&self.context.client, &updated).await?;
        *deployment = Arc::new(written.clone());
        self.context.caches.deployments.observe(written);
        Ok(())
    }

    async fn create(&self, deployment: &mut Arc<Deployment>, set: ReplicaSet) -> Result<(), Error> {
        let context = &self.context;
        let name = set.name_any();
        let error = match request::create(&context.client, &set).await {
            Ok(created) => {
                if let Some(event) = plan::scaling(Some(&name), 0, rollout::size(&created)) {
                    self.recorder.record(deployment.as_ref(), event);
                }
                context.caches.replica_sets.observe(created);
                return Ok(());
            }
            Err(error) => error,
        };
        let mut status = deployment.status.clone().unwrap_or_default();
        if error.is_already_exists() {
            let key = ObjectKey::of(&set);
            let Some(existing) = request::get::<ReplicaSet>(&context.client, &key).await? else {
                return Err(error);
            };
            let uid = deployment.metadata.uid.as_deref().unwrap_or_default();
            let templates = |set: &ReplicaSet| set.spec.as_ref().and_then(|s| s.template.clone());
            let same = match (templates(&existing), templates(&set)) {
                (Some(existing), Some(wanted)) => template::same(&existing, &wanted),
                _ => false,
            };
            if same && is_controlled_by(&existing.metadata, uid) {
                context.caches.replica_sets.observe(existing);
                return Ok(());
            }
            // Another template has the same hash: count the collision, which changes the name.
            status.collision_count = Some(status.collision_count.unwrap_or(0).saturating_add(1));
            self.write_status(deployment, status, None).await?;
            return Err(error);
        }
        if error.is_namespace_terminating() {
            return Ok(());
        }
        let message = format!("Failed to create new replica set \"{name}\": {}", error.message());
        self.recorder
            .record(deployment.as_ref(), Notice::warning("ReplicaSetCreateError", message.clone()));
        if status::deadline(deployment).is_some() {
            let reason = "ReplicaSetCreateError";
            let condition =
                status::new_condition(PROGRESSING, false, reason, message, Timestamp::now());
            status::set_condition(&mut status, condition);
            if deployment.status.as_ref() != Some(&status) {
                self.write_status(deployment, status, None).await?;
            }
        }
        Err(error)
    }
}
