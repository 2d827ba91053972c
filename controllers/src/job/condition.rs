//! The conditions of a Job.

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{Job, JobCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// Enough has succeeded; what still runs is being ended.
pub const SUCCESS_CRITERIA_MET: &str = "SuccessCriteriaMet";
/// The Job is bound to fail; what still runs is being ended.
pub const FAILURE_TARGET: &str = "FailureTarget";
/// The Job has succeeded.
pub const COMPLETE: &str = "Complete";
/// The Job has failed.
pub const FAILED: &str = "Failed";
/// No pod runs because nobody wants one now.
pub const SUSPENDED: &str = "Suspended";

/// A condition of that type that is true.
pub fn holds(kind: &str, reason: &str, message: &str, now: Timestamp) -> JobCondition {
    JobCondition {
        type_: kind.to_owned(),
        status: "True".to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        last_probe_time: Some(Time(now)),
        last_transition_time: Some(Time(now)),
    }
}

/// What an interim condition leads to: `FailureTarget` to `Failed`, `SuccessCriteriaMet` to
/// `Complete`, for the same reason.
pub fn outcome(interim: &JobCondition, now: Timestamp) -> JobCondition {
    let kind = match interim.type_.as_str() {
        FAILURE_TARGET => FAILED,
        SUCCESS_CRITERIA_MET => COMPLETE,
        other => other,
    };
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    holds(kind, &text(&interim.reason), &text(&interim.message), now)
}

/// The condition of that type, if it is true.
pub fn find<'a>(conditions: Option<&'a Vec<JobCondition>>, kind: &str) -> Option<&'a JobCondition> {
    conditions.into_iter().flatten().find(|c| c.type_ == kind && c.status == "True")
}

/// Sets a condition to what `wanted` says, keeping its times if it says so already. A condition
/// that is false and was never there stays away. Says whether anything changed.
pub fn set(conditions: &mut Option<Vec<JobCondition>>, wanted: JobCondition) -> bool {
    let list = conditions.get_or_insert_default();
    match list.iter_mut().find(|known| known.type_ == wanted.type_) {
        Some(known)
            if known.status == wanted.status
                && known.reason == wanted.reason
                && known.message == wanted.message =>
        {
            false
        }
        Some(known) => {
            *known = wanted;
            true
        }
        None if wanted.status == "False" => false,
        None => {
            list.push(wanted);
            true
        }
    }
}

/// Whether the Job has ended, and how.
pub fn ended(job: &Job) -> Option<&JobCondition> {
    let conditions = job.status.as_ref()?.conditions.as_ref();
    find(conditions, COMPLETE).or_else(|| find(conditions, FAILED))
}
