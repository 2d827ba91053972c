//! Carrying plans out: pods in growing batches, events, status.

use std::future::Future;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::ReplicaSetCondition;
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use crate::cache::{Cache, Cached, Change, ObjectKey};
use crate::context::Context;
use crate::error::Error;
use crate::ownership::{claim, controller_key, controller_of, controller_reference, settle};
use crate::pod;
use crate::pod_control::PodControl;
use crate::queue::{Queue, Requeue};
use crate::replicas::plan::{self, Failure, Observed, Status};
use crate::request::{self, Kind};
use crate::selector;

/// How many owners are served at once.
const WORKERS: usize = 8;

/// A kind that keeps a number of equal pods.
pub trait ReplicaOwner: Kind + Cached + PartialEq {
    /// The name under which events are reported.
    const COMPONENT: &'static str;
    /// How many pods are wanted.
    fn replicas(&self) -> i32;
    /// How long a pod must be ready to be available.
    fn min_ready_seconds(&self) -> i32;
    /// Which pods belong to it; `None` selects nothing.
    fn selector(&self) -> Option<LabelSelector>;
    /// The template of its pods.
    fn template(&self) -> Option<&PodTemplateSpec>;
    /// The conditions of its status.
    fn conditions(&self) -> Vec<ReplicaSetCondition>;
    /// The same object with another status, whose observed generation is the current one.
    fn with_status(&self, status: Status, conditions: Vec<ReplicaSetCondition>) -> Self;
}

struct Controller<O> {
    context: Arc<Context>,
    owners: Arc<Cache<O>>,
    pods: PodControl,
    queue: Arc<Queue<ObjectKey>>,
}

/// Subscribes to what matters and returns the workers, to be run when the caches are filled.
pub fn workers<O: ReplicaOwner>(
    context: &Arc<Context>,
    owners: &Arc<Cache<O>>,
) -> impl Future<Output = ()> + Send + use<O> {
    let controller = Arc::new(Controller {
        context: context.clone(),
        owners: owners.clone(),
        pods: PodControl::new(context, O::COMPONENT),
        queue: Queue::new(),
    });
    let queue = controller.queue.clone();
    owners.on_change(move |change| queue.add(ObjectKey::of(change.object().as_ref())));
    let watcher = controller.clone();
    context.caches.pods.on_change(move |change| watcher.pod_changed(change));
    let queue = &controller.queue;
    queue.serve(O::COMPONENT, WORKERS, &context.token, &controller, Controller::reconcile)
}

impl<O: ReplicaOwner> Controller<O> {
    fn pod_changed(&self, change: &Change<'_, Pod>) {
        let pod = change.object();
        let (group, kind) = (O::group(&()), O::kind(&()));
        for state in change.states() {
            if let Some(owner) = controller_key(&state.metadata, &group, &kind) {
                self.queue.add(owner);
            }
        }
        if let Some(owner) = controller_key(&pod.metadata, &group, &kind) {
            self.pods.seen(&owner, change);
        } else if controller_of(&pod.metadata).is_none() {
            // An orphan: whoever selects it may adopt it.
            for owner in self.owners.namespaced(pod.metadata.namespace.as_deref().unwrap_or("")) {
                let matching = owner
                    .selector()
                    .is_some_and(|wanted| selector::matches(&wanted, pod.metadata.labels.as_ref()));
                if matching {
                    self.queue.add(ObjectKey::of(owner.as_ref()));
                }
            }
        }
    }

    async fn reconcile(self: Arc<Self>, key: ObjectKey) -> Result<Requeue, Error> {
        let Some(owner) = self.owners.get(&key) else {
            self.pods.forget(&key);
            return Ok(Requeue::Never);
        };
        let (Some(wanted), Some(template)) = (owner.selector(), owner.template()) else {
            return Ok(Requeue::Never);
        };
        let settled = self.pods.is_settled(&key);
        let pods = &self.context.caches.pods;
        let claim = claim(owner.meta(), &wanted, pods.namespaced(&key.namespace), pod::is_active);
        let owned = settle(&self.context.client, pods, owner.as_ref(), claim).await?;
        let now = Timestamp::now();
        let plan = plan::plan(&Observed {
            replicas: owner.replicas(),
            min_ready_seconds: owner.min_ready_seconds(),
            template,
            deleting: owner.meta().deletion_timestamp.is_some(),
            settled,
            pods: &owned,
            now,
        });
        let outcome = if plan.create > 0 {
            let pod = |_| {
                pod::from_template(
                    template,
                    &key.namespace,
                    format!("{}-", key.name),
                    controller_reference(owner.as_ref()),
                )
            };
            self.pods.create(&key, owner.as_ref(), plan.create, pod).await
        } else {
            self.pods.delete(&key, owner.as_ref(), &plan.delete).await
        };
        let failure = outcome.as_ref().err().map(|error| Failure {
            reason: if plan.create > 0 { "FailedCreate" } else { "FailedDelete" },
            message: error.message(),
        });
        // Without a fresh attempt the last failure still holds.
        let conditions = if settled {
            plan::conditions(&owner.conditions(), failure.as_ref(), now)
        } else {
            owner.conditions()
        };
        let updated = owner.with_status(plan.status, conditions);
        if updated != *owner {
            request::write_status(&self.context.client, &self.owners, &updated).await?;
        }
        outcome?;
        Ok(plan.available_after.into())
    }
}
