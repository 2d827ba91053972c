//! Deciding which Job to start and which old ones to delete, and what the status says.

use std::sync::Arc;
use std::time::Duration;

use api::schedule::{Schedule, time_zone};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::{CronJob, CronJobSpec, CronJobStatus, Job};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};

use crate::cron_job::due::Timetable;
use crate::event::Notice;
use crate::job::condition::{self, COMPLETE};
use crate::ownership::controller_reference;

/// The annotation with the time that a Job was started for.
const SCHEDULED: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";

/// What is known of one CronJob.
pub struct Observed<'a> {
    /// The CronJob.
    pub cron_job: &'a CronJob,
    /// Every Job that it controls.
    pub jobs: &'a [Arc<Job>],
    /// The time.
    pub now: Timestamp,
}

/// What to do about one CronJob.
#[derive(Debug, Default)]
pub struct Plan {
    /// The status before anything is started.
    pub status: CronJobStatus,
    /// What to tell people.
    pub notices: Vec<Notice>,
    /// Jobs that ended long enough ago.
    pub expired: Vec<Arc<Job>>,
    /// Running Jobs to delete before another is started.
    pub replace: Vec<Arc<Job>>,
    /// The Job to start, and for which time.
    pub start: Option<(Box<Job>, Timestamp)>,
    /// When the next time comes.
    pub requeue_after: Option<Duration>,
}

/// Compares the schedule with the Jobs that are there.
pub fn plan(observed: &Observed<'_>) -> Plan {
    let mut plan =
        Plan { status: observed.cron_job.status.clone().unwrap_or_default(), ..Plan::default() };
    follow(observed, &mut plan);
    let Some(spec) = &observed.cron_job.spec else { return plan };
    expire(spec, observed.jobs, observed.now, &mut plan);
    if observed.cron_job.metadata.deletion_timestamp.is_none() {
        schedule(observed, spec, &mut plan);
    }
    plan
}

/// Brings the list of active Jobs and the time of the last one up to date.
fn follow(observed: &Observed<'_>, plan: &mut Plan) {
    let mut active = plan.status.active.take().unwrap_or_default();
    let noted = plan.status.last_schedule_time.as_ref().map(|time| time.0);
    for job in observed.jobs {
        let name = job.metadata.name.as_deref().unwrap_or_default();
        let mut listed = active.iter().position(|reference| reference.uid == job.metadata.uid);
        if let Some(at) = scheduled_for(job).filter(|at| *at <= observed.now)
            && noted.is_none_or(|noted| at > noted)
        {
            // Created before a crash that kept the status from being written.
            plan.status.last_schedule_time =
                plan.status.last_schedule_time.take().max(Some(Time(at)));
            if listed.is_none() {
                listed = Some(active.len());
                active.push(reference_to(job));
            }
        }
        match (listed, condition::ended(job)) {
            (None, None) => plan.notices.push(Notice::warning(
                "UnexpectedJob",
                format!("Saw a job that the controller did not create or forgot: {name}"),
            )),
            (Some(index), Some(ended)) => {
                active.remove(index);
                let message = format!("Saw completed job: {name}, condition: {}", ended.type_);
                plan.notices.push(Notice::normal("SawCompletedJob", message));
            }
            _ => {}
        }
        if condition::ended(job).is_some_and(|ended| ended.type_ == COMPLETE) {
            let completed = job.status.as_ref().and_then(|s| s.completion_time.clone());
            if completed > plan.status.last_successful_time {
                plan.status.last_successful_time = completed;
            }
        }
    }
    active.retain(|reference| {
        let there = observed.jobs.iter().any(|job| job.metadata.uid == reference.uid);
        if !there {
            let name = reference.name.as_deref().unwrap_or_default();
            let message = format!("Active job went missing: {name}");
            plan.notices.push(Notice::normal("MissingJob", message));
        }
        there
    });
    plan.status.active = (!active.is_empty()).then_some(active);
}

/// Of the Jobs that ended only the newest are kept.
fn expire(spec: &CronJobSpec, jobs: &[Arc<Job>], now: Timestamp, plan: &mut Plan) {
    for (complete, limit) in
        [(true, spec.successful_jobs_history_limit), (false, spec.failed_jobs_history_limit)]
    {
        let Some(limit) = limit.and_then(|limit| usize::try_from(limit).ok()) else { continue };
        let ended_so = |job: &&Arc<Job>| {
            job.metadata.deletion_timestamp.is_none()
                && condition::ended(job).is_some_and(|end| (end.type_ == COMPLETE) == complete)
                // One of a time that comes again, as the clock was set back, would be started again.
                && scheduled_for(job).is_none_or(|at| at <= now)
        };
        let mut ended: Vec<Arc<Job>> = jobs.iter().filter(ended_so).cloned().collect();
        let started = |job: &Job| job.status.as_ref().and_then(|s| s.start_time.clone());
        ended.sort_by(|a, b| (started(a), &a.metadata.name).cmp(&(started(b), &b.metadata.name)));
        let surplus = ended.len().saturating_sub(limit);
        plan.expired.extend(ended.into_iter().take(surplus));
    }
}

fn schedule(observed: &Observed<'_>, spec: &CronJobSpec, plan: &mut Plan) {
    let mut warn = |reason, message| plan.notices.push(Notice::warning(reason, message));
    let zone = match spec.time_zone.as_deref() {
        None => TimeZone::system(),
        Some(name) => match time_zone(name) {
            Some(zone) => zone,
            None => {
                let message = format!("invalid timeZone: {name:?}: unknown time zone {name}");
                return warn("UnknownTimeZone", message);
            }
        },
    };
    if spec.suspend == Some(true) {
        return;
    }
    let schedule = match Schedule::parse(&spec.schedule) {
        Ok(schedule) => schedule,
        Err(error) => {
            let message = format!("unparseable schedule: {:?} : {error}", spec.schedule);
            return warn("UnparseableSchedule", message);
        }
    };
    let cron_job = observed.cron_job;
    let last = plan.status.last_schedule_time.as_ref().map(|time| time.0);
    let created = cron_job.metadata.creation_timestamp.as_ref().map(|time| time.0);
    let mut table = Timetable {
        schedule: &schedule,
        zone: &zone,
        since: last.or(created).unwrap_or(observed.now),
        deadline: spec.starting_deadline_seconds.map(SignedDuration::from_secs),
        now: observed.now,
    };
    let due = table.due();
    if due.many_missed {
        let message = "too many missed start times. Set or decrease \
                       .spec.startingDeadlineSeconds or check clock skew";
        warn("TooManyMissedTimes", message.to_owned());
    }
    plan.requeue_after = table.wait();
    let Some(at) = due.at.filter(|at| Some(*at) != last) else { return };
    let active = plan.status.active.as_deref().unwrap_or_default();
    let name = job_name(cron_job, at);
    if active.iter().any(|reference| reference.name.as_deref() == Some(name.as_str())) {
        return;
    }
    match spec.concurrency_policy.as_deref() {
        Some("Forbid") if !active.is_empty() => {
            let message = "Not starting job because prior execution is running and concurrency \
                           policy is Forbid";
            plan.notices.push(Notice::normal("JobAlreadyActive", message));
            return;
        }
        Some("Replace") => {
            let is_active =
                |job: &&Arc<Job>| active.iter().any(|reference| reference.uid == job.metadata.uid);
            plan.replace = observed.jobs.iter().filter(is_active).cloned().collect();
        }
        _ => {}
    }
    plan.start = Some((Box::new(job(cron_job, spec, name, at, &zone)), at));
    table.since = at;
    plan.requeue_after = table.wait();
}

/// The same time always leads to the same name, so that no time leads to two Jobs.
fn job_name(cron_job: &CronJob, at: Timestamp) -> String {
    let name = cron_job.metadata.name.as_deref().unwrap_or_default();
    format!("{name}-{}", at.as_second() / 60)
}

fn job(
    cron_job: &CronJob,
    spec: &CronJobSpec,
    name: String,
    at: Timestamp,
    zone: &TimeZone,
) -> Job {
    let template = spec.job_template.metadata.clone().unwrap_or_default();
    let mut annotations = template.annotations.unwrap_or_default();
    let local = at.to_zoned(zone.clone());
    let text = if local.offset().is_zero() {
        local.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
    } else {
        local.strftime("%Y-%m-%dT%H:%M:%S%:z").to_string()
    };
    annotations.insert(SCHEDULED.to_owned(), text);
    Job {
        metadata: ObjectMeta {
            name: Some(name),
            namespace: cron_job.metadata.namespace.clone(),
            labels: template.labels,
            annotations: Some(annotations),
            owner_references: Some(vec![controller_reference(cron_job)]),
            ..ObjectMeta::default()
        },
        spec: spec.job_template.spec.clone(),
        status: None,
    }
}

/// The time that a CronJob started the Job for, as its annotation says.
fn scheduled_for(job: &Job) -> Option<Timestamp> {
    job.metadata.annotations.as_ref()?.get(SCHEDULED)?.parse().ok()
}

/// Says whether the CronJob's status tells that the Job was started. One that is deleted before
/// would be started a second time for the same minute.
pub fn knows(cron_job: &CronJob, job: &Job, now: Timestamp) -> bool {
    let last = cron_job.status.as_ref().and_then(|status| status.last_schedule_time.as_ref());
    // The controller notes none of a time that has not come.
    scheduled_for(job).is_none_or(|at| at > now || last.is_some_and(|last| last.0 >= at))
}

fn reference_to(job: &Job) -> ObjectReference {
    ObjectReference {
        api_version: Some("batch/v1".to_owned()),
        kind: Some("Job".to_owned()),
        namespace: job.metadata.namespace.clone(),
        name: job.metadata.name.clone(),
        uid: job.metadata.uid.clone(),
        resource_version: job.metadata.resource_version.clone(),
        ..ObjectReference::default()
    }
}

/// Notes in the status that `job` was started for that time.
pub fn started(status: &mut CronJobStatus, job: &Job, at: Timestamp) {
    let reference = reference_to(job);
    let active = status.active.get_or_insert_default();
    if !active.iter().any(|known| known.uid == reference.uid) {
        active.push(reference);
    }
    status.last_schedule_time = Some(Time(at));
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn cron_job(spec: Value, status: Value) -> CronJob {
        let mut all = json!({"schedule": "*/5 * * * *", "timeZone": "Etc/UTC",
            "successfulJobsHistoryLimit": 1, "failedJobsHistoryLimit": 1,
            "jobTemplate": {"metadata": {"labels": {"app": "a"}},
                "spec": {"template": {"spec": {"containers": [{"name": "c"}]}}}}});
        all.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        serde_json::from_value(json!({
            "metadata": {"name": "tick", "namespace": "default", "uid": "cj",
                "creationTimestamp": "2024-01-01T00:01:00Z"},
            "spec": all, "status": status
        }))
        .unwrap()
    }

    fn job(name: &str, ended: Option<&str>, started: &str) -> Arc<Job> {
        let conditions = ended.map(|kind| json!([{"type": kind, "status": "True"}]));
        Arc::new(
            serde_json::from_value(json!({"metadata": {"name": name, "uid": name},
                "status": {"startTime": started, "conditions": conditions,
                    "completionTime": ended.filter(|e| *e == "Complete").map(|_| started)}}))
            .unwrap(),
        )
    }

    fn at(cron_job: &CronJob, jobs: &[Arc<Job>], now: &str) -> Plan {
        plan(&Observed { cron_job, jobs, now: now.parse().unwrap() })
    }

    fn reasons(plan: &Plan) -> Vec<&'static str> {
        plan.notices.iter().map(|notice| notice.reason).collect()
    }

    #[test]
    fn a_time_leads_to_one_job_with_a_name_of_its_own() {
        let waiting = cron_job(json!({}), json!({}));
        let early = at(&waiting, &[], "2024-01-01T00:04:00Z");
        assert!(early.start.is_none());
        assert_eq!(early.requeue_after, Some(Duration::from_millis(60_100)));
        let due = at(&waiting, &[], "2024-01-01T00:05:00.1Z");
        let (started_job, time) = due.start.unwrap();
        assert_eq!(started_job.metadata.name.as_deref(), Some("tick-28401125"));
        let annotations = started_job.metadata.annotations.clone().unwrap();
        assert_eq!(annotations[SCHEDULED], "2024-01-01T00:05:00Z");
        assert_eq!(due.requeue_after, Some(Duration::from_secs(300)));
        let mut status = due.status;
        started(&mut status, &started_job, time);
        let mut ran = waiting;
        ran.status = Some(status);
        let again = at(&ran, &[Arc::new(*started_job)], "2024-01-01T00:05:01Z");
        assert!(again.start.is_none() && again.notices.is_empty());
    }

    #[test]
    fn policies_decide_about_a_job_that_still_runs() {
        let status = json!({"lastScheduleTime": "2024-01-01T00:05:00Z",
            "active": [{"name": "old", "uid": "old"}]});
        let running = [job("old", None, "2024-01-01T00:05:00Z")];
        for (policy, start, replaced, told) in [
            ("Allow", true, 0, vec![]),
            ("Forbid", false, 0, vec!["JobAlreadyActive"]),
            ("Replace", true, 1, vec![]),
        ] {
            let known = cron_job(json!({"concurrencyPolicy": policy}), status.clone());
            let plan = at(&known, &running, "2024-01-01T00:10:00.1Z");
            assert_eq!((plan.start.is_some(), plan.replace.len()), (start, replaced), "{policy}");
            assert_eq!(reasons(&plan), told);
        }
    }

    #[test]
    fn jobs_of_before_a_crash_are_noted_and_not_started_twice() {
        let unaware = cron_job(json!({"successfulJobsHistoryLimit": 0}), json!({}));
        for (end, active, told) in
            [(Some("Complete"), 0, vec!["SawCompletedJob"]), (None, 1, vec![])]
        {
            let mut created = job("tick-28401125", end, "2024-01-01T00:05:00Z");
            let annotation = (SCHEDULED.to_owned(), "2024-01-01T01:05:00+01:00".to_owned());
            Arc::make_mut(&mut created).metadata.annotations = Some([annotation].into());
            let now = "2024-01-01T00:05:02Z".parse().unwrap();
            assert!(!knows(&unaware, &created, now));
            assert!(knows(&unaware, &created, "2024-01-01T00:04:00Z".parse().unwrap()));
            let plan = at(&unaware, &[created.clone()], "2024-01-01T00:05:02Z");
            assert!(plan.start.is_none(), "a second Job for one time");
            assert_eq!(reasons(&plan), told);
            assert_eq!(plan.expired.len(), 1 - active);
            assert_eq!(plan.status.active.clone().unwrap_or_default().len(), active);
            let noted = cron_job(json!({}), serde_json::to_value(&plan.status).unwrap());
            assert!(knows(&noted, &created, now));
            // One that says it is from the future changes nothing.
            let early = at(&unaware, &[created], "2024-01-01T00:04:00Z");
            assert_eq!(early.status.last_schedule_time, None);
        }
    }

    #[test]
    fn several_jobs_of_before_a_crash_are_noted() {
        let unaware = cron_job(json!({"concurrencyPolicy": "Replace"}), json!({}));
        let created = |name: &str, at: &str| {
            let mut job = job(name, None, at);
            let annotation = (SCHEDULED.to_owned(), at.to_owned());
            Arc::make_mut(&mut job).metadata.annotations = Some([annotation].into());
            job
        };
        let (newer, older) =
            (created("a", "2024-01-01T00:10:00Z"), created("b", "2024-01-01T00:05:00Z"));
        let plan = at(&unaware, &[newer, older], "2024-01-01T00:15:00.1Z");
        assert!(plan.notices.is_empty());
        assert_eq!(plan.replace.len(), 2);
        let last = plan.status.last_schedule_time.unwrap().0;
        assert_eq!(last.to_string(), "2024-01-01T00:10:00Z");
    }

    #[test]
    fn jobs_of_a_time_that_comes_again_stay() {
        let known = cron_job(json!({"successfulJobsHistoryLimit": 0}), json!({}));
        let mut early = job("tick", Some("Complete"), "2024-01-01T00:05:00Z");
        let annotation = (SCHEDULED.to_owned(), "2024-01-01T00:05:00Z".to_owned());
        Arc::make_mut(&mut early).metadata.annotations = Some([annotation].into());
        assert!(at(&known, &[early.clone()], "2024-01-01T00:04:00Z").expired.is_empty());
        assert_eq!(at(&known, &[early], "2024-01-01T00:06:00Z").expired.len(), 1);
    }

    #[test]
    fn old_jobs_go_and_the_status_follows() {
        let known = cron_job(
            json!({"suspend": true}),
            json!({"active": [{"name": "b", "uid": "b"}, {"name": "gone", "uid": "gone"}]}),
        );
        let jobs = [
            job("a", Some("Complete"), "2024-01-01T00:05:00Z"),
            job("b", Some("Complete"), "2024-01-01T00:10:00Z"),
            job("c", Some("Failed"), "2024-01-01T00:15:00Z"),
            job("d", None, "2024-01-01T00:20:00Z"),
        ];
        let plan = at(&known, &jobs, "2024-01-01T01:00:00Z");
        assert_eq!(reasons(&plan), ["SawCompletedJob", "UnexpectedJob", "MissingJob"]);
        assert_eq!(plan.notices[0].message, "Saw completed job: b, condition: Complete");
        assert_eq!(plan.status.active, None);
        let last = plan.status.last_successful_time.unwrap().0;
        assert_eq!(last.to_string(), "2024-01-01T00:10:00Z");
        let expired: Vec<_> = plan.expired.iter().map(|job| job.metadata.name.clone()).collect();
        assert_eq!(expired, [Some("a".to_owned())]);
        assert!(plan.start.is_none() && plan.requeue_after.is_none());
    }

    #[test]
    fn what_cannot_be_scheduled_says_so() {
        let lost = cron_job(json!({"timeZone": "Mars/Olympus"}), json!({}));
        let told = at(&lost, &[], "2024-01-01T01:00:00Z");
        assert_eq!(reasons(&told), ["UnknownTimeZone"]);
        let odd = cron_job(json!({"schedule": "often"}), json!({}));
        assert_eq!(reasons(&at(&odd, &[], "2024-01-01T01:00:00Z")), ["UnparseableSchedule"]);
        let asleep = at(&cron_job(json!({}), json!({})), &[], "2024-02-01T00:05:01Z");
        assert_eq!(reasons(&asleep), ["TooManyMissedTimes"]);
        assert!(asleep.start.is_some());
    }
}
