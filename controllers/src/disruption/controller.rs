//! Carrying plans for PodDisruptionBudgets out.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

use crate::cache::{Change, ObjectKey};
use crate::context::Context;
use crate::disruption::plan::{self, Observed};
use crate::error::Error;
use crate::event::{Notice, Recorder};
use crate::ownership::controller_of;
use crate::queue::{Queue, Requeue};
use crate::request;
use crate::scale::{self, Target};
use crate::selector::{self, Labels};

/// How many budgets are served at once.
const WORKERS: usize = 4;

struct Controller {
    context: Arc<Context>,
    recorder: Recorder,
    queue: Arc<Queue<ObjectKey>>,
}

/// Subscribes to what matters and returns the workers, to be run when the caches are filled.
pub fn workers(context: &Arc<Context>) -> impl Future<Output = ()> + Send + use<> {
    let controller = Arc::new(Controller {
        context: context.clone(),
        recorder: context.recorder.speaking_for("controllermanager"),
        queue: Queue::new(),
    });
    let caches = &context.caches;
    let queue = controller.queue.clone();
    caches.budgets.on_change(move |change| queue.add(ObjectKey::of(change.object().as_ref())));
    let watcher = controller.clone();
    caches.pods.on_change(move |change| watcher.pod_changed(change));
    // A percentage is one of the size of the workload.
    let watcher = controller.clone();
    caches.deployments.on_change(move |change| {
        watcher.workload_changed(change.object().metadata.namespace.as_deref());
    });
    let watcher = controller.clone();
    caches.replica_sets.on_change(move |change| {
        watcher.workload_changed(change.object().metadata.namespace.as_deref());
    });
    let queue = &controller.queue;
    queue.serve("disruption", WORKERS, &context.token, &controller, Controller::reconcile)
}

fn selects(budget: &PodDisruptionBudget, labels: Option<&Labels>) -> bool {
    let wanted = budget.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    wanted.is_some_and(|wanted| selector::matches(wanted, labels))
}

impl Controller {
    fn pod_changed(&self, change: &Change<'_, Pod>) {
        let namespace = change.object().metadata.namespace.as_deref().unwrap_or_default();
        for budget in self.context.caches.budgets.namespaced(namespace) {
            if change.states().any(|pod| selects(&budget, pod.metadata.labels.as_ref())) {
                self.queue.add(ObjectKey::of(budget.as_ref()));
            }
        }
    }

    fn workload_changed(&self, namespace: Option<&str>) {
        for budget in self.context.caches.budgets.namespaced(namespace.unwrap_or_default()) {
            self.queue.add(ObjectKey::of(budget.as_ref()));
        }
    }

    async fn reconcile(self: Arc<Self>, key: ObjectKey) -> Result<Requeue, Error> {
        let Some(budget) = self.context.caches.budgets.get(&key) else {
            return Ok(Requeue::Never);
        };
        let mut pods = self.context.caches.pods.namespaced(&key.namespace);
        pods.retain(|pod| selects(&budget, pod.metadata.labels.as_ref()));
        if pods.is_empty() {
            let notice = Notice::normal("NoPods", "No matching pods found");
            if budget.status.as_ref().is_none_or(|status| status.observed_generation.is_none()) {
                self.recorder.record(budget.as_ref(), notice);
            }
        }
        let scales = self.scales(&key.namespace, &pods).await?;
        let now = Timestamp::now();
        let plan = plan::plan(&Observed { budget: &budget, pods: &pods, scales: &scales, now });
        if let Some(failure) = &plan.failure {
            let message = format!("Failed to calculate the number of expected pods: {failure}");
            self.recorder.record(
                budget.as_ref(),
                Notice::warning("CalculateExpectedPodCountFailed", message),
            );
        }
        if !plan.unmanaged.is_empty() {
            let message = format!(
                "Pods selected by this PodDisruptionBudget (selector: {}) were found to be \
                 unmanaged. As a result, the status of the PDB cannot be calculated correctly, \
                 which may result in undefined behavior. To account for these pods please set \
                 \".spec.minAvailable\" field of the PDB to an integer value.",
                api::selector::format_json(
                    &serde_json::to_value(budget.spec.as_ref().and_then(|s| s.selector.as_ref()))
                        .unwrap_or_default()
                )
            );
            self.recorder.record(budget.as_ref(), Notice::warning("UnmanagedPods", message));
        }
        for pod in &plan.not_deleted {
            let message = format!(
                "Pod was expected by PDB {}/{} to be deleted but it wasn't",
                key.namespace, key.name
            );
            self.recorder.record(pod.as_ref(), Notice::warning("NotDeleted", message));
        }
        if budget.status.as_ref() != Some(&plan.status) {
            let mut updated = (*budget).clone();
            updated.status = Some(plan.status);
            request::write_status(&self.context.client, &self.context.caches.budgets, &updated)
                .await?;
        }
        Ok(plan.requeue_after.into())
    }

    /// How many pods each of the controllers wants.
    async fn scales(
        &self,
        namespace: &str,
        pods: &[Arc<Pod>],
    ) -> Result<HashMap<String, Option<i32>>, Error> {
        let mut scales = HashMap::new();
        for owner in pods.iter().filter_map(|pod| controller_of(&pod.metadata)) {
            if !scales.contains_key(&owner.uid) {
                let found = self.scale(namespace, owner).await?;
                if let Some(replicas) = found {
                    scales.insert(owner.uid.clone(), replicas);
                }
            }
        }
        Ok(scales)
    }

    /// The outer `None` for a controller that does not exist, the inner for one without a scale.
    async fn scale(
        &self,
        namespace: &str,
        owner: &OwnerReference,
    ) -> Result<Option<Option<i32>>, Error> {
        let caches = &self.context.caches;
        if owner.kind == "ReplicaSet" {
            let key = ObjectKey::new(namespace, &owner.name);
            let set = caches.replica_sets.get(&key);
            let set = set.filter(|set| set.metadata.uid.as_ref() == Some(&owner.uid));
            let Some(set) = set else { return Ok(None) };
            if let Some(parent) = controller_of(&set.metadata).filter(|o| o.kind == "Deployment") {
                let key = ObjectKey::new(namespace, &parent.name);
                let deployment = caches.deployments.get(&key);
                let replicas = deployment.and_then(|d| d.spec.as_ref()?.replicas);
                return Ok(replicas.map(Some));
            }
            return Ok(Some(set.spec.as_ref().and_then(|spec| spec.replicas)));
        }
        let target = Target::new(&owner.api_version, &owner.kind, namespace, &owner.name);
        let Some(target) = target.resolve(self.context.config.resources) else {
            return Ok(Some(None));
        };
        match scale::read(&self.context.client, &target).await {
            Ok(scale) => Ok(Some(Some(scale.replicas))),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }
}
