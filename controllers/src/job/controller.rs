//! Carrying rounds over Jobs out.

use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};

use futures::future::join_all;
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{Job, JobSpec};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use serde_json::json;

use crate::cache::{Change, ObjectKey};
use crate::context::Context;
use crate::error::Error;
use crate::event::{Notice, Recorder};
use crate::expectation::Expectations;
use crate::job::backoff::Backoff;
use crate::job::condition;
use crate::job::round::{Observed, Round};
use crate::job::tracked::{self, NewPod, TRACKING};
use crate::ownership::{claim, controller_key, controller_of, controller_reference, settle};
use crate::queue::{Queue, Requeue};
use crate::{request, selector};

/// The name under which events are reported.
const COMPONENT: &str = "job-controller";
/// How many Jobs are served at once.
const WORKERS: usize = 8;
/// The value of `spec.managedBy` that means this controller.
const SELF: &str = "kubernetes.io/job-controller";

struct Controller {
    context: Arc<Context>,
    expectations: Expectations,
    backoffs: Mutex<HashMap<ObjectKey, Backoff>>,
    recorder: Recorder,
    queue: Arc<Queue<ObjectKey>>,
}

/// Subscribes to what matters and returns the workers, to be run when the caches are filled.
pub fn workers(context: &Arc<Context>) -> impl Future<Output = ()> + Send + use<> {
    let controller = Arc::new(Controller {
        context: context.clone(),
        expectations: Expectations::default(),
        backoffs: Mutex::new(HashMap::new()),
        recorder: context.recorder.speaking_for(COMPONENT),
        queue: Queue::new(),
    });
    let queue = controller.queue.clone();
    context.caches.jobs.on_change(move |change| queue.add(ObjectKey::of(change.object().as_ref())));
    let watcher = controller.clone();
    context.caches.pods.on_change(move |change| watcher.pod_changed(change));
    controller.queue.serve(COMPONENT, WORKERS, &context.token, &controller, Controller::reconcile)
}

impl Controller {
    fn pod_changed(&self, change: &Change<'_, Pod>) {
        let pod = change.object();
        for state in change.states() {
            if let Some(owner) = controller_key(&state.metadata, "batch", "Job") {
                self.queue.add(owner);
            }
        }
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        if let Some(owner) = controller_key(&pod.metadata, "batch", "Job") {
            match change {
                Change::Applied { old, new } => {
                    if old.is_none() {
                        self.expectations.created(&owner, 1);
                    }
                    if new.metadata.deletion_timestamp.is_some() {
                        self.expectations.deleted(&owner, uid);
                    }
                }
                Change::Deleted(_) => self.expectations.deleted(&owner, uid),
            }
        } else if controller_of(&pod.metadata).is_none() {
            // An orphan: a Job with a selector of its own may adopt it.
            let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
            for job in self.context.caches.jobs.namespaced(namespace) {
                let labels = pod.metadata.labels.as_ref();
                let wanted = job.spec.as_ref().and_then(|spec| spec.selector.as_ref());
                if wanted.is_some_and(|wanted| selector::matches(wanted, labels)) {
                    self.queue.add(ObjectKey::of(job.as_ref()));
                }
            }
        }
    }

    async fn reconcile(self: Arc<Self>, key: ObjectKey) -> Result<Requeue, Error> {
        let Some(job) = self.context.caches.jobs.get(&key) else {
            self.forget(&key);
            return Ok(Requeue::Never);
        };
        let Some(spec) = &job.spec else { return Ok(Requeue::Never) };
        if spec.managed_by.as_deref().is_some_and(|manager| manager != SELF) {
            return Ok(Requeue::Never);
        }
        if condition::ended(&job).is_some() {
            self.forget(&key);
            return Ok(Requeue::Never);
        }
        let Some(wanted) = spec.selector.as_ref().filter(|wanted| !selector::is_empty(wanted))
        else {
            return Ok(Requeue::Never);
        };
        let settled = self.expectations.satisfied(&key);
        let pods = &self.context.caches.pods;
        let claim = claim(&job.metadata, wanted, pods.namespaced(&key.namespace), |_| true);
        let owned = settle(&self.context.client, pods, job.as_ref(), claim).await?;
        let backoff = self.lock_backoffs().get(&key).copied().unwrap_or_default();
        let observed = Observed { job: &job, pods: owned, settled, backoff, now: Timestamp::now() };
        let round = Round::begin(observed, spec);
        self.carry_out(&key, &job, spec, round).await
    }

    async fn carry_out(
        &self,
        key: &ObjectKey,
        job: &Job,
        spec: &JobSpec,
        mut round: Round<'_>,
    ) -> Result<Requeue, Error> {
        let deletions = std::mem::take(&mut round.delete);
        let (deleted, mut outcome) = self.delete(key, job, &deletions).await;
        let creations = std::mem::take(&mut round.create);
        let created = match self.create(key, job, spec, &creations).await {
            (created, Ok(())) => created,
            (created, Err(error)) => {
                outcome = Err(error);
                created
            }
        };
        round.acted(created, &deleted);
        let release = round.count();
        let mut current = self.write_status(job, &round).await?;
        self.lock_backoffs().insert(key.clone(), round.backoff);
        let (released, freed) = self.release(&release).await;
        round.released(&released);
        if freed.is_ok() {
            round.finish();
        }
        current = self.write_status(&current, &round).await?;
        for notice in std::mem::take(&mut round.notices) {
            self.recorder.record(&current, notice);
        }
        freed?;
        outcome?;
        Ok(round.requeue_after.into())
    }

    /// Writes the status of the round, if it is news, and returns the Job as it is then.
    async fn write_status(&self, job: &Job, round: &Round<'_>) -> Result<Job, Error> {
        if job.status.as_ref() == Some(&round.status) {
            return Ok(job.clone());
        }
        let mut updated = job.clone();
        updated.status = Some(round.status.clone());
        let written = request::replace_status(&self.context.client, &updated).await?;
        self.context.caches.jobs.observe(written.clone());
        Ok(written)
    }

    /// Takes the tracking finalizer from pods that have been counted.
    async fn release(&self, pods: &[Arc<Pod>]) -> (HashSet<String>, Result<(), Error>) {
        let outcomes = join_all(pods.iter().map(|pod| release(&self.context, pod))).await;
        let mut released = HashSet::new();
        let mut failures = Vec::new();
        for (pod, outcome) in pods.iter().zip(outcomes) {
            match outcome {
                Ok(()) => released.extend(pod.uid()),
                Err(error) => failures.push(error),
            }
        }
        (released, batch(pods.len(), failures))
    }

    /// Creates pods in batches of 1, 2, 4, …, so that a Job whose pods are refused costs few
    /// requests. Returns how many there are.
    async fn create(
        &self,
        key: &ObjectKey,
        job: &Job,
        spec: &JobSpec,
        new: &[NewPod],
    ) -> (usize, Result<(), Error>) {
        self.expectations.expect_creations(key, new.len());
        let mut created = 0;
        let mut size = 1;
        let mut rest = new;
        while !rest.is_empty() {
            let (now, later) = rest.split_at(size.min(rest.len()));
            let outcomes = join_all(now.iter().map(|new| {
                let pod = tracked::make(job, spec, new, controller_reference(job));
                async move { request::create(&self.context.client, &pod).await }
            }))
            .await;
            let mut failures = Vec::new();
            for outcome in outcomes {
                match outcome {
                    Ok(pod) => {
                        let message = format!("Created pod: {}", pod.name_any());
                        self.recorder.record(job, Notice::normal("SuccessfulCreate", message));
                        self.context.caches.pods.observe(pod);
                        created += 1;
                    }
                    Err(error) => failures.push(error),
                }
            }
            rest = later;
            size *= 2;
            let Some(first) = failures.first() else { continue };
            self.expectations.created(key, failures.len() + rest.len());
            if first.is_namespace_terminating() {
                return (created, Ok(()));
            }
            let message = format!("Error creating: {}", first.message());
            self.recorder.record(job, Notice::warning("FailedCreate", message));
            return (created, batch(now.len(), failures));
        }
        (created, Ok(()))
    }

    /// Deletes pods and returns the uids of those that go.
    async fn delete(
        &self,
        key: &ObjectKey,
        job: &Job,
        pods: &[Arc<Pod>],
    ) -> (HashSet<String>, Result<(), Error>) {
        self.expectations.expect_deletions(key, pods.iter().filter_map(|pod| pod.uid()));
        let outcomes = join_all(pods.iter().map(|pod| {
            let uid = pod.metadata.uid.as_deref();
            let key = ObjectKey::of(pod.as_ref());
            async move { request::delete::<Pod>(&self.context.client, &key, uid).await }
        }))
        .await;
        let mut deleted = HashSet::new();
        let mut failures = Vec::new();
        for (pod, outcome) in pods.iter().zip(outcomes) {
            let uid = pod.uid().unwrap_or_default();
            match outcome {
                Ok(()) => {
                    let message = format!("Deleted pod: {}", pod.name_any());
                    self.recorder.record(job, Notice::normal("SuccessfulDelete", message));
                    if self.context.caches.pods.get(&ObjectKey::of(pod.as_ref())).is_none() {
                        self.expectations.deleted(key, &uid);
                    }
                    deleted.insert(uid);
                }
                Err(error) => {
                    self.expectations.deleted(key, &uid);
                    let message = format!("Error deleting: {}", error.message());
                    self.recorder.record(job, Notice::warning("FailedDelete", message));
                    failures.push(error);
                }
            }
        }
        (deleted, batch(pods.len(), failures))
    }

    fn forget(&self, key: &ObjectKey) {
        self.expectations.forget(key);
        self.lock_backoffs().remove(key);
    }

    fn lock_backoffs(&self) -> std::sync::MutexGuard<'_, HashMap<ObjectKey, Backoff>> {
        self.backoffs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes the tracking finalizer from one pod; a pod that is gone is no error.
pub(super) async fn release(context: &Context, pod: &Pod) -> Result<(), Error> {
    if !tracked::is_tracked(pod) {
        return Ok(());
    }
    let patch = json!({"metadata": {
        "uid": pod.metadata.uid,
        "$deleteFromPrimitiveList/finalizers": [TRACKING],
    }});
    let key = ObjectKey::of(pod);
    match request::merge_strategically::<Pod>(&context.client, &key, &patch).await {
        Ok(written) => context.caches.pods.observe(written),
        // Gone, or replaced by a namesake.
        Err(error) if error.is_not_found() || error.is_conflict() => {}
        Err(error) => return Err(error),
    }
    Ok(())
}

fn batch(total: usize, failures: Vec<Error>) -> Result<(), Error> {
    let failed = failures.len();
    match failures.into_iter().next() {
        None => Ok(()),
        Some(first) => Err(Error::Batch { failed, total, first: Box::new(first) }),
    }
}

/// Whether the controller of a pod counts it: everything else leaves it to the orphan worker.
pub(super) fn counts(job: Option<&Job>, pod: &Pod) -> bool {
    let uid = job.and_then(|job| job.metadata.uid.as_deref());
    let mine = controller_of(&pod.metadata).map(|owner| owner.uid.as_str());
    uid.is_some() && uid == mine && job.is_none_or(|job| condition::ended(job).is_none())
}
