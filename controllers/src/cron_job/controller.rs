//! Carrying plans for CronJobs out.

use std::future::Future;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{CronJob, CronJobStatus, Job};
use kube::ResourceExt;

use crate::cache::ObjectKey;
use crate::clock;
use crate::context::Context;
use crate::cron_job::plan::{self, Observed};
use crate::error::Error;
use crate::event::{Notice, Recorder};
use crate::ownership::{controller_key, is_controlled_by};
use crate::queue::{Queue, Requeue};
use crate::request;

/// The name under which events are reported.
const COMPONENT: &str = "cronjob-controller";
/// How many CronJobs are served at once.
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
        recorder: context.recorder.speaking_for(COMPONENT),
        queue: Queue::new(),
    });
    let queue = controller.queue.clone();
    let cron_jobs = &context.caches.cron_jobs;
    cron_jobs.on_change(move |change| queue.add(ObjectKey::of(change.object().as_ref())));
    let queue = controller.queue.clone();
    context.caches.jobs.on_change(move |change| {
        for state in change.states() {
            if let Some(owner) = controller_key(&state.metadata, "batch", "CronJob") {
                queue.add(owner);
            }
        }
    });
    let watcher = controller.clone();
    let jumps = clock::on_jump(context.token.clone(), move || {
        // What was due by the old clock may not be by the new one, and the reverse.
        for cron_job in watcher.context.caches.cron_jobs.all() {
            watcher.queue.add(ObjectKey::of(cron_job.as_ref()));
        }
    });
    let queue = &controller.queue;
    let work = queue.serve(COMPONENT, WORKERS, &context.token, &controller, Controller::reconcile);
    async move {
        tokio::join!(jumps, work);
    }
}

impl Controller {
    async fn reconcile(self: Arc<Self>, key: ObjectKey) -> Result<Requeue, Error> {
        let Some(cron_job) = self.context.caches.cron_jobs.get(&key) else {
            return Ok(Requeue::Never);
        };
        let uid = cron_job.metadata.uid.as_deref().unwrap_or_default();
        let mut jobs = self.context.caches.jobs.namespaced(&key.namespace);
        jobs.retain(|job| is_controlled_by(&job.metadata, uid));
        let plan =
            plan::plan(&Observed { cron_job: &cron_job, jobs: &jobs, now: Timestamp::now() });
        for notice in plan.notices {
            self.recorder.record(cron_job.as_ref(), notice);
        }
        let mut status = plan.status;
        for job in &plan.replace {
            self.delete(&cron_job, job).await?;
            if let Some(active) = &mut status.active {
                active.retain(|reference| reference.uid != job.metadata.uid);
            }
        }
        let mut outcome = Ok(());
        if let Some((job, at)) = plan.start {
            match self.start(&cron_job, &job).await {
                Ok(Some(job)) => plan::started(&mut status, &job, at),
                Ok(None) => {}
                Err(error) => outcome = Err(error),
            }
        }
        self.write_status(&cron_job, status).await?;
        // Not before the status says that they were started: without them nothing else does.
        for job in &plan.expired {
            self.delete(&cron_job, job).await?;
        }
        outcome?;
        Ok(plan.requeue_after.into())
    }

    /// Creates the Job. One that is there already and is ours was created before a crash; one of
    /// somebody else is left alone.
    async fn start(&self, cron_job: &CronJob, job: &Job) -> Result<Option<Job>, Error> {
        let error = match request::create(&self.context.client, job).await {
            Ok(created) => {
                self.context.caches.jobs.observe(created.clone());
                let message = format!("Created job {}", created.name_any());
                self.recorder.record(cron_job, Notice::normal("SuccessfulCreate", message));
                return Ok(Some(created));
            }
            Err(error) => error,
        };
        if error.is_namespace_terminating() {
            return Ok(None);
        }
        if error.is_already_exists() {
            let known = request::get::<Job>(&self.context.client, &ObjectKey::of(job)).await?;
            let uid = cron_job.metadata.uid.as_deref().unwrap_or_default();
            return Ok(known.filter(|known| is_controlled_by(&known.metadata, uid)));
        }
        let message = format!("Error creating job: {}", error.message());
        self.recorder.record(cron_job, Notice::warning("FailedCreate", message));
        Err(error)
    }

    async fn delete(&self, cron_job: &CronJob, job: &Job) -> Result<(), Error> {
        let uid = job.metadata.uid.as_deref();
        match request::delete::<Job>(&self.context.client, &ObjectKey::of(job), uid).await {
            Ok(()) => {
                let message = format!("Deleted job {}", job.name_any());
                self.recorder.record(cron_job, Notice::normal("SuccessfulDelete", message));
                Ok(())
            }
            Err(error) => {
                let message = format!("Deleted job: {}", error.message());
                self.recorder.record(cron_job, Notice::warning("FailedDelete", message));
                Err(error)
            }
        }
    }

    async fn write_status(&self, cron_job: &CronJob, status: CronJobStatus) -> Result<(), Error> {
        if cron_job.status.clone().unwrap_or_default() == status {
            return Ok(());
        }
        let mut updated = cron_job.clone();
        updated.status = Some(status);
        request::write_status(&self.context.client, &self.context.caches.cron_jobs, &updated).await
    }
}
