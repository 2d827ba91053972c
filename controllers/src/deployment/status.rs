//! The status of a Deployment and the conditions that explain it.

use std::sync::LazyLock;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::{
    Deployment, DeploymentCondition, DeploymentSpec, DeploymentStatus, ReplicaSetCondition,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::deployment::plan::Stuck;
use crate::deployment::rollout::{self, Set};

/// The condition that says whether the rollout gets on.
pub const PROGRESSING: &str = "Progressing";
/// The condition that says whether enough pods are available.
pub const AVAILABLE: &str = "Available";
/// The condition that says whether pods could not be created.
pub const REPLICA_FAILURE: &str = "ReplicaFailure";
/// The reason once a rollout is complete.
pub const NEW_SET_AVAILABLE: &str = "NewReplicaSetAvailable";
/// The reason once a rollout has taken too long.
pub const TIMED_OUT: &str = "ProgressDeadlineExceeded";
/// The reason while a Deployment is paused.
pub const PAUSED: &str = "DeploymentPaused";
/// The reason after a Deployment was resumed.
pub const RESUMED: &str = "DeploymentResumed";

/// The spec; the server never stores a Deployment without one.
pub fn spec(deployment: &Deployment) -> &DeploymentSpec {
    static NONE: LazyLock<DeploymentSpec> = LazyLock::new(DeploymentSpec::default);
    deployment.spec.as_ref().unwrap_or(&NONE)
}

/// How many replicas the Deployment wants.
pub fn wanted(deployment: &Deployment) -> i32 {
    spec(deployment).replicas.unwrap_or(1)
}

/// How long a rollout may go without progress; `None` for no limit.
pub fn deadline(deployment: &Deployment) -> Option<SignedDuration> {
    let seconds = spec(deployment).progress_deadline_seconds?;
    (seconds != i32::MAX).then(|| SignedDuration::from_secs(i64::from(seconds)))
}

/// The condition of that type.
pub fn condition<'a>(status: &'a DeploymentStatus, kind: &str) -> Option<&'a DeploymentCondition> {
    status.conditions.iter().flatten().find(|condition| condition.type_ == kind)
}

/// A condition as of `now`.
pub fn new_condition(
    kind: &str,
    holds: bool,
    reason: &str,
    message: String,
    now: Timestamp,
) -> DeploymentCondition {
    DeploymentCondition {
        type_: kind.to_owned(),
        status: if holds { "True" } else { "False" }.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message),
        last_update_time: Some(Time(now)),
        last_transition_time: Some(Time(now)),
    }
}

/// Sets a condition, unless it says the same already.
pub fn set_condition(status: &mut DeploymentStatus, mut condition: DeploymentCondition) {
    let conditions = status.conditions.get_or_insert_default();
    if let Some(known) = conditions.iter().find(|known| known.type_ == condition.type_) {
        if known.status == condition.status && known.reason == condition.reason {
            return;
        }
        if known.status == condition.status {
            condition.last_transition_time = known.last_transition_time.clone();
        }
    }
    conditions.retain(|known| known.type_ != condition.type_);
    conditions.push(condition);
}

/// Removes a condition.
pub fn remove_condition(status: &mut DeploymentStatus, kind: &str) {
    if let Some(conditions) = &mut status.conditions {
        conditions.retain(|known| known.type_ != kind);
    }
}

/// The counts, and the condition that follows from them.
pub fn calculate(
    deployment: &Deployment,
    base: &DeploymentStatus,
    new: Option<&Set>,
    old: &[Set],
    now: Timestamp,
) -> DeploymentStatus {
    let all = || old.iter().chain(new);
    let available = rollout::sum(all(), Set::available);
    let wished = rollout::sum(all(), Set::size);
    let some = |count: i64| (count != 0).then(|| i32::try_from(count).unwrap_or(i32::MAX));
    let mut status = DeploymentStatus {
        observed_generation: deployment.metadata.generation,
        replicas: some(rollout::sum(all(), Set::actual)),
        updated_replicas: some(rollout::sum(new, Set::actual)),
        ready_replicas: some(rollout::sum(all(), Set::ready)),
        available_replicas: some(available),
        unavailable_replicas: some((wished - available).max(0)),
        collision_count: base.collision_count,
        conditions: base.conditions.clone(),
        terminating_replicas: None,
    };
    let unavailable = rollout::bounds(deployment).unavailable;
    let minimum = i64::from(wanted(deployment)) - i64::from(unavailable);
    let condition = if available >= minimum {
        new_condition(
            AVAILABLE,
            true,
            "MinimumReplicasAvailable",
            "Deployment has minimum availability.".to_owned(),
            now,
        )
    } else {
        new_condition(
            AVAILABLE,
            false,
            "MinimumReplicasUnavailable",
            "Deployment does not have minimum availability.".to_owned(),
            now,
        )
    };
    set_condition(&mut status, condition);
    status
}

/// Whether every pod is of the new template and available.
pub fn is_complete(deployment: &Deployment, status: &DeploymentStatus) -> bool {
    let replicas = wanted(deployment);
    status.updated_replicas.unwrap_or(0) == replicas
        && status.replicas.unwrap_or(0) == replicas
        && status.available_replicas.unwrap_or(0) == replicas
        && status.observed_generation >= deployment.metadata.generation
}

/// Adds to `status` how the rollout gets on. `begins` says that the Deployment does not carry the
/// revision of the rollout yet, so that whatever its status says is about an earlier one.
pub fn judge_progress(
    deployment: &Deployment,
    status: &mut DeploymentStatus,
    begins: bool,
    new: Option<&Set>,
    old: &[Set],
    now: Timestamp,
) {
    let before = deployment.status.clone().unwrap_or_default();
    let current = condition(status, PROGRESSING).cloned();
    let was_complete = !begins
        && status.replicas == status.updated_replicas
        && current.as_ref().is_some_and(|known| known.reason.as_deref() == Some(NEW_SET_AVAILABLE));
    let Some(deadline) = deadline(deployment) else {
        remove_condition(status, PROGRESSING);
        return report_failures(status, new, old);
    };
    if !was_complete {
        let subject = subject(deployment, new);
        if is_complete(deployment, status) {
            let message = format!("{subject} has successfully progressed.");
            let condition = new_condition(PROGRESSING, true, NEW_SET_AVAILABLE, message, now);
            set_condition(status, condition);
        } else if is_progressing(&before, status) || is_leftover(current.as_ref()) {
            let message = format!("{subject} is progressing.");
            let mut condition = new_condition(PROGRESSING, true, "ReplicaSetUpdated", message, now);
            if let Some(known) = current.filter(|known| known.status == "True") {
                condition.last_transition_time = known.last_transition_time;
            }
            // Replaced even if only the time differs: the deadline counts from the last progress.
            remove_condition(status, PROGRESSING);
            set_condition(status, condition);
        } else if is_timed_out(status, deadline, now) {
            let message = format!("{subject} has timed out progressing.");
            set_condition(status, new_condition(PROGRESSING, false, TIMED_OUT, message, now));
        }
    }
    report_failures(status, new, old);
}

/// What the conditions of a rollout are about.
fn subject(deployment: &Deployment, new: Option<&Set>) -> String {
    let (kind, metadata) = new.map_or_else(
        || ("Deployment", &deployment.metadata),
        |new| ("ReplicaSet", &new.target.metadata),
    );
    format!("{kind} \"{}\"", metadata.name.as_deref().unwrap_or_default())
}

/// Why a rollout cannot go on, and what would help.
pub fn explanation(deployment: &Deployment, stuck: &Stuck) -> String {
    let Stuck { pod, reason, .. } = stuck;
    let unavailable = rollout::bounds(deployment).unavailable;
    format!(
        "pod \"{pod}\" cannot be scheduled: {reason} No old pod may end before it is available \
         (maxUnavailable is {unavailable}), so the rollout waits for room: let maxUnavailable be \
         greater, request less, or scale down."
    )
}

/// Adds to the condition of a rollout why it cannot go on, or takes that away again (upstream
/// leaves it to the pod to say so). True if the explanation is a new one.
pub fn explain_progress(
    deployment: &Deployment,
    status: &mut DeploymentStatus,
    new: Option<&Set>,
    why: Option<&str>,
) -> bool {
    let subject = subject(deployment, new);
    let mut conditions = status.conditions.iter_mut().flatten();
    let Some(condition) = conditions.find(|known| known.type_ == PROGRESSING) else { return false };
    let plain = match condition.reason.as_deref() {
        Some("ReplicaSetUpdated") => format!("{subject} is progressing."),
        Some(TIMED_OUT) => format!("{subject} has timed out progressing."),
        _ => return false,
    };
    let message = match why {
        Some(why) => format!("{plain} However, {why}"),
        None => plain,
    };
    let changed = condition.message.as_ref() != Some(&message);
    condition.message = Some(message);
    changed
}

/// After how long the deadline of a rollout that is under way must be looked at.
pub fn deadline_left(
    deployment: &Deployment,
    status: &DeploymentStatus,
    now: Timestamp,
) -> Option<Duration> {
    let deadline = deadline(deployment)?;
    let current = condition(status, PROGRESSING)?;
    let reason = current.reason.as_deref().unwrap_or_default();
    if is_complete(deployment, status) || [TIMED_OUT, NEW_SET_AVAILABLE, PAUSED].contains(&reason) {
        return None;
    }
    let since = current.last_update_time.as_ref()?.0;
    let left = deadline - now.duration_since(since);
    // A second later than the deadline, which only counts whole seconds.
    Some(Duration::try_from(left).unwrap_or_default() + Duration::from_secs(1))
}

fn is_progressing(before: &DeploymentStatus, now: &DeploymentStatus) -> bool {
    let count = |value: Option<i32>| i64::from(value.unwrap_or(0));
    let outdated =
        |status: &DeploymentStatus| count(status.replicas) - count(status.updated_replicas);
    count(now.updated_replicas) > count(before.updated_replicas)
        || outdated(now) < outdated(before)
        || count(now.ready_replicas) > count(before.ready_replicas)
        || count(now.available_replicas) > count(before.available_replicas)
}

/// Whether a rollout that is not complete still carries the condition of the one before: what told
/// of its beginning was never written. Its deadline counts from now.
fn is_leftover(current: Option<&DeploymentCondition>) -> bool {
    current.is_some_and(|known| known.reason.as_deref() == Some(NEW_SET_AVAILABLE))
}

fn is_timed_out(status: &DeploymentStatus, deadline: SignedDuration, now: Timestamp) -> bool {
    let Some(current) = condition(status, PROGRESSING) else { return false };
    match current.reason.as_deref() {
        Some(NEW_SET_AVAILABLE | PAUSED) => false,
        Some(TIMED_OUT) => true,
        _ => current
            .last_update_time
            .as_ref()
            .is_some_and(|since| now.duration_since(since.0) > deadline),
    }
}

fn report_failures(status: &mut DeploymentStatus, new: Option<&Set>, old: &[Set]) {
    let failure = |set: &Set| -> Option<ReplicaSetCondition> {
        let conditions = set.target.status.as_ref()?.conditions.as_ref()?;
        conditions
            .iter()
            .find(|known| known.type_ == REPLICA_FAILURE && known.status == "True")
            .cloned()
    };
    match new.and_then(failure).or_else(|| old.iter().find_map(failure)) {
        None => remove_condition(status, REPLICA_FAILURE),
        Some(failure) => {
            let condition = DeploymentCondition {
                type_: REPLICA_FAILURE.to_owned(),
                status: failure.status,
                reason: failure.reason,
                message: failure.message,
                last_update_time: failure.last_transition_time.clone(),
                last_transition_time: failure.last_transition_time,
            };
            set_condition(status, condition);
        }
    }
}
