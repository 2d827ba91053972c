//! Jobs that ended are deleted after `spec.ttlSecondsAfterFinished`.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::Job;
use kube::api::{Api, DeleteParams, Preconditions};

use crate::cache::{Change, ObjectKey};
use crate::context::Context;
use crate::cron_job;
use crate::error::Error;
use crate::job::condition;
use crate::ownership::{controller_key, is_controlled_by};
use crate::queue::{Queue, Requeue};
use crate::request;

/// How many Jobs are deleted at once.
const WORKERS: usize = 2;
/// Pause before looking again at a Job that its CronJob has not noted yet.
const NOTED_PAUSE: Duration = Duration::from_secs(1);

/// How long the Job may still stay; `None` for as long as it likes.
fn time_left(job: &Job, now: Timestamp) -> Option<Duration> {
    if job.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let ttl = job.spec.as_ref()?.ttl_seconds_after_finished?;
    let ended = condition::ended(job)?.last_transition_time.as_ref()?.0;
    let left = SignedDuration::from_secs(i64::from(ttl)) - now.duration_since(ended);
    Some(Duration::try_from(left).unwrap_or(Duration::ZERO))
}

/// Subscribes to Jobs and returns the workers, to be run when the caches are filled.
pub fn workers(context: &Arc<Context>) -> impl Future<Output = ()> + Send + use<> {
    let queue: Arc<Queue<ObjectKey>> = Queue::new();
    let wake = queue.clone();
    context.caches.jobs.on_change(move |change| {
        let Change::Applied { new: job, .. } = change else { return };
        if time_left(job, Timestamp::now()).is_some() {
            wake.add(ObjectKey::of(job.as_ref()));
        }
    });
    context.serve(&queue, "ttl-after-finished-controller", WORKERS, reconcile)
}

/// Says whether the CronJob that the Job belongs to, if there is one, has noted that it was started.
fn is_noted(context: &Context, job: &Job) -> bool {
    let Some(owner) = controller_key(&job.metadata, "batch", "CronJob") else { return true };
    let cron_job = context.caches.cron_jobs.get(&owner);
    cron_job.is_none_or(|cron_job| {
        let uid = cron_job.metadata.uid.as_deref().unwrap_or_default();
        !is_controlled_by(&job.metadata, uid)
            || cron_job::plan::knows(&cron_job, job, Timestamp::now())
    })
}

async fn reconcile(context: Arc<Context>, key: ObjectKey) -> Result<Requeue, Error> {
    let Some(known) = context.caches.jobs.get(&key) else { return Ok(Requeue::Never) };
    match time_left(&known, Timestamp::now()) {
        None => return Ok(Requeue::Never),
        Some(left) if !left.is_zero() => return Ok(Requeue::After(left)),
        Some(_) => {}
    }
    if !is_noted(&context, &known) {
        return Ok(Requeue::After(NOTED_PAUSE));
    }
    // Its time may just have been prolonged: what counts is what the server holds.
    let Some(job) = request::get::<Job>(&context.client, &key).await? else {
        return Ok(Requeue::Never);
    };
    match time_left(&job, Timestamp::now()) {
        None => return Ok(Requeue::Never),
        Some(left) if !left.is_zero() => return Ok(Requeue::After(left)),
        Some(_) => {}
    }
    let preconditions = Preconditions {
        uid: job.metadata.uid.clone(),
        resource_version: job.metadata.resource_version.clone(),
    };
    let parameters =
        DeleteParams { preconditions: Some(preconditions), ..DeleteParams::foreground() };
    let api: Api<Job> = Api::namespaced(context.client.clone(), &key.namespace);
    match api.delete(&key.name, &parameters).await {
        Ok(_) => {}
        Err(kube::Error::Api(status)) if status.is_not_found() => {}
        Err(error) => return Err(request::failed::<Job>("delete", &key)(error)),
    }
    Ok(Requeue::Never)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn time_starts_when_the_job_ends() {
        let now: Timestamp = "2024-01-01T00:01:00Z".parse().unwrap();
        let job = |ttl: serde_json::Value, conditions: serde_json::Value| -> Job {
            serde_json::from_value(json!({"metadata": {"name": "j"},
                "spec": {"template": {}, "ttlSecondsAfterFinished": ttl},
                "status": {"conditions": conditions}}))
            .unwrap()
        };
        let ended = |kind: &str| json!([{"type": kind, "status": "True", "lastTransitionTime": "2024-01-01T00:00:50Z"}]);
        let left = |ttl, conditions| time_left(&job(ttl, conditions), now);
        assert_eq!(left(json!(30), ended("Complete")), Some(Duration::from_secs(20)));
        assert_eq!(left(json!(5), ended("Failed")), Some(Duration::ZERO));
        assert_eq!(left(json!(null), ended("Complete")), None);
        assert_eq!(left(json!(0), ended("Suspended")), None);
    }
}
