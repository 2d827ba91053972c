//! A pod's status, computed from what is observed.

use std::net::IpAddr;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting,
    ContainerStatus, HostIP, Pod, PodCondition, PodIP, PodStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use runtime::printable::cut;
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use super::plan::{RestartPolicy, has_ended};
use super::state::{Finished, PodState, Record, Role, Run, Setup, container};
use crate::container::resources::qos_class;

/// Bytes of the messages of all containers that have ended, each an equal part; as upstream.
const MAX_TERMINATION_MESSAGES_BYTES: usize = 12 << 10;
/// Bytes of the message of a container that waits; it has what a registry or an image says.
const MAX_WAITING_MESSAGE_BYTES: usize = 2 << 10;
/// Bytes of these messages of all containers, each an equal part.
const MAX_WAITING_MESSAGES_BYTES: usize = 64 << 10;
/// Bytes of any other message: upstream's bound on the message of a condition.
const MAX_MESSAGE_BYTES: usize = 32 << 10;

/// Status of the pod in that state. Its messages are bounded: a status is never refused because of a
/// text that others have chosen.
pub fn status(
    pod: &Pod,
    state: &PodState,
    host: &[IpAddr],
    now: Instant,
    wall: Timestamp,
) -> PodStatus {
    let mut status = unbounded(pod, state, host, now, wall);
    bound(&mut status);
    status
}

fn bound(status: &mut PodStatus) {
    let shorten = |message: &mut Option<String>, bytes| {
        *message = message.take().map(|message| cut(message, bytes));
    };
    shorten(&mut status.message, MAX_MESSAGE_BYTES);
    for condition in status.conditions.iter_mut().flatten() {
        shorten(&mut condition.message, MAX_MESSAGE_BYTES);
    }
    let lists = [
        &mut status.init_container_statuses,
        &mut status.container_statuses,
        &mut status.ephemeral_container_statuses,
    ];
    let mut containers: Vec<_> = lists.into_iter().flatten().flatten().collect();
    let count = containers.len().max(1);
    let terminated = MAX_TERMINATION_MESSAGES_BYTES / count;
    let waiting = MAX_WAITING_MESSAGE_BYTES.min(MAX_WAITING_MESSAGES_BYTES / count);
    for container in &mut containers {
        let states = [&mut container.state, &mut container.last_state];
        for state in states.into_iter().flatten() {
            if let Some(state) = &mut state.terminated {
                shorten(&mut state.message, terminated);
            }
            if let Some(state) = &mut state.waiting {
                shorten(&mut state.message, waiting);
            }
        }
    }
}

fn unbounded(
    pod: &Pod,
    state: &PodState,
    host: &[IpAddr],
    now: Instant,
    wall: Timestamp,
) -> PodStatus {
    if state.rejected {
        return rejected(pod, state);
    }
    let old = pod.status.clone().unwrap_or_default();
    let phase = phase(pod, state);
    let statuses = |roles: &[Role]| -> Option<Vec<ContainerStatus>> {
        let list: Vec<_> = state
            .containers
            .iter()
            .filter(|record| roles.contains(&record.role))
            .map(|record| container_status(pod, state, record, now))
            .collect();
        (!list.is_empty()).then_some(list)
    };
    let host_network = pod.spec.as_ref().and_then(|spec| spec.host_network).unwrap_or(false);
    let addresses = if host_network { host } else { &state.addresses[..] };
    let addresses = if addresses.is_empty() {
        old.pod_ips.iter().flatten().map(|ip| ip.ip.clone()).collect()
    } else {
        addresses.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let conditions = conditions(pod, state, phase, wall);
    let failure = state.failure.as_ref();
    PodStatus {
        phase: Some(phase.into()),
        conditions: Some(conditions),
        message: failure.map(|failure| failure.message.clone()),
        reason: failure.map(|failure| failure.reason.clone()),
        host_ip: host.first().map(ToString::to_string),
        host_ips: (!host.is_empty())
            .then(|| host.iter().map(|ip| HostIP { ip: ip.to_string() }).collect()),
        pod_ip: addresses.first().cloned(),
        pod_ips: (!addresses.is_empty())
            .then(|| addresses.into_iter().map(|ip| PodIP { ip }).collect()),
        start_time: Some(Time(state.start_time)),
        init_container_statuses: statuses(&[Role::Init, Role::Sidecar]),
        container_statuses: statuses(&[Role::Main]),
        ephemeral_container_statuses: statuses(&[Role::Ephemeral]),
        qos_class: Some(qos_class(pod).to_string()),
        ..PodStatus::default()
    }
}

/// Status of a pod that the node did not take in: there are no containers to tell of, so that the
/// reason is what people see.
fn rejected(pod: &Pod, state: &PodState) -> PodStatus {
    PodStatus {
        phase: Some("Failed".into()),
        reason: state.failure.as_ref().map(|failure| failure.reason.clone()),
        message: state.failure.as_ref().map(|failure| failure.message.clone()),
        start_time: Some(Time(state.start_time)),
        qos_class: Some(qos_class(pod).to_string()),
        ..PodStatus::default()
    }
}

/// The phase of the pod, by the rules of the kubelet.
pub fn phase(pod: &Pod, state: &PodState) -> &'static str {
    if state.failure.is_some() && !any_active(state) {
        return "Failed";
    }
    let policy = RestartPolicy::of(pod);
    let ended = has_ended(pod, state);
    let init_failed = state.containers.iter().any(|record| {
        record.role == Role::Init
            && record.finished().is_some_and(|finished| finished.exit_code != 0)
    });
    if init_failed && policy == RestartPolicy::Never {
        return if releasing(state) || !any_active(state) { "Failed" } else { "Pending" };
    }
    let mains = || state.containers.iter().filter(|record| record.role == Role::Main);
    let never_up = |record: &Record| !record.attempted || (record.hooking && record.last.is_none());
    if mains().any(never_up) {
        // A terminating pod whose containers never ran has nothing to be called running for.
        return if state.termination.is_some() && releasing(state) { "Failed" } else { "Pending" };
    }
    if mains().any(|record| record.live().is_some()) {
        return "Running";
    }
    if ended || (state.termination.is_some() && !any_active(state)) {
        // With sidecars still running the pod is not over.
        if any_active(state) {
            return "Running";
        }
        let all_good =
            mains().all(|record| record.finished().is_some_and(|finished| finished.exit_code == 0));
        return if all_good { "Succeeded" } else { "Failed" };
    }
    "Running"
}

fn any_active(state: &PodState) -> bool {
    state.containers.iter().any(Record::is_active)
}

fn releasing(state: &PodState) -> bool {
    matches!(state.setup, Setup::Removing | Setup::Removed)
}

fn container_status(pod: &Pod, state: &PodState, record: &Record, now: Instant) -> ContainerStatus {
    let spec = container(pod, &record.name).unwrap_or_default();
    let current = container_state(pod, state, record, now);
    let last = match &record.run {
        // While a container waits for its next start, how it ended is its last state.
        Run::Exited(finished) if current.waiting.is_some() => Some(terminated(finished)),
        Run::Starting(Some(finished)) if current.waiting.is_some() => Some(terminated(finished)),
        _ => record.last.as_ref().map(terminated),
    };
    let container_id = match &record.run {
        Run::Running(live) | Run::Stopping { live, .. } => Some(live.id.as_str()),
        Run::Exited(finished) | Run::Starting(Some(finished)) => Some(finished.id.as_str()),
        Run::Waiting | Run::Starting(None) => None,
    };
    let image = record.shown_image.clone().unwrap_or_default();
    let running = current.running.is_some();
    ContainerStatus {
        name: record.name.clone(),
        image: if image.name.is_empty() { spec.image.unwrap_or_default() } else { image.name },
        image_id: image.id,
        container_id: container_id.filter(|id| !id.is_empty()).map(|id| format!("coracle://{id}")),
        ready: match record.role {
            Role::Init => record.finished().is_some_and(|finished| finished.exit_code == 0),
            Role::Sidecar | Role::Main => running && record.started && record.ready,
            Role::Ephemeral => false,
        },
        started: (record.role != Role::Ephemeral).then_some(running && record.started),
        restart_count: i32::try_from(record.attempt).unwrap_or(i32::MAX),
        state: Some(current),
        last_state: Some(last.unwrap_or_default()),
        ..ContainerStatus::default()
    }
}

fn container_state(pod: &Pod, state: &PodState, record: &Record, now: Instant) -> ContainerState {
    let waiting = |reason: &str, message: Option<String>| ContainerState {
        waiting: Some(ContainerStateWaiting { reason: Some(reason.into()), message }),
        ..ContainerState::default()
    };
    let over = releasing(state) || state.termination.is_some() || has_ended(pod, state);
    match &record.run {
        Run::Running(_) if record.hooking => match record.role == Role::Main && has_init(state) {
            true => waiting("PodInitializing", None),
            false => waiting("ContainerCreating", None),
        },
        Run::Running(live) | Run::Stopping { live, .. } => ContainerState {
            running: Some(ContainerStateRunning { started_at: Some(Time(live.started_at)) }),
            ..ContainerState::default()
        },
        Run::Exited(finished) => {
            let policy = RestartPolicy::of(pod);
            if over || !policy.restarts(record.role, finished.exit_code) {
                return terminated(finished);
            }
            if let Some(hold) = &record.hold {
                return waiting(hold.reason, Some(hold.message.clone()));
            }
            match record.crash.until(finished.at) {
                Some((until, delay)) if until > now => waiting(
                    "CrashLoopBackOff",
                    Some(format!(
                        "back-off {} restarting failed container={} pod={}",
                        go_duration(delay.as_secs()),
                        record.name,
                        pod_full_name(pod),
                    )),
                ),
                _ => terminated(finished),
            }
        }
        Run::Starting(Some(finished)) => match &record.hold {
            Some(hold) => waiting(hold.reason, Some(hold.message.clone())),
            None => terminated(finished),
        },
        Run::Waiting | Run::Starting(None) => match &record.hold {
            Some(hold) => waiting(hold.reason, Some(hold.message.clone())),
            None if record.role == Role::Main && has_init(state) && !state.initialized => {
                waiting("PodInitializing", None)
            }
            None if record.role == Role::Init && first_init(state) != Some(&record.name) => {
                waiting("PodInitializing", None)
            }
            None => waiting("ContainerCreating", None),
        },
    }
}

fn has_init(state: &PodState) -> bool {
    first_init(state).is_some()
}

fn first_init(state: &PodState) -> Option<&String> {
    state
        .containers
        .iter()
        .find(|record| matches!(record.role, Role::Init | Role::Sidecar))
        .map(|record| &record.name)
}

fn terminated(finished: &Finished) -> ContainerState {
    ContainerState {
        terminated: Some(ContainerStateTerminated {
            container_id: (!finished.id.is_empty()).then(|| format!("coracle://{}", finished.id)),
            exit_code: finished.exit_code,
            signal: None,
            reason: Some(finished.reason.clone()),
            message: finished.message.clone(),
            started_at: finished.started_at.map(Time),
            finished_at: finished.finished_at.map(Time),
        }),
        ..ContainerState::default()
    }
}

/// `name_namespace(uid)`.
pub fn pod_full_name(pod: &Pod) -> String {
    format!(
        "{}_{}({})",
        pod.metadata.name.as_deref().unwrap_or_default(),
        pod.metadata.namespace.as_deref().unwrap_or_default(),
        pod.metadata.uid.as_deref().unwrap_or_default(),
    )
}

/// Seconds as Go prints a duration: `10s`, `2m40s`, `5m0s`.
pub fn go_duration(seconds: u64) -> String {
    if seconds < 60 { format!("{seconds}s") } else { format!("{}m{}s", seconds / 60, seconds % 60) }
}

fn conditions(pod: &Pod, state: &PodState, phase: &str, wall: Timestamp) -> Vec<PodCondition> {
    let old: Vec<PodCondition> =
        pod.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
    let mut result: Vec<PodCondition> = Vec::new();
    let mut set = |type_: &str, verdict: bool, reason: Option<&str>, message: Option<String>| {
        let status = if verdict { "True" } else { "False" };
        let before = old.iter().find(|condition| condition.type_ == type_);
        let kept = before
            .filter(|condition| condition.status == status)
            .and_then(|condition| condition.last_transition_time.clone());
        result.push(PodCondition {
            type_: type_.into(),
            status: status.into(),
            reason: reason.map(Into::into),
            message,
            last_transition_time: Some(kept.unwrap_or(Time(wall))),
            ..PodCondition::default()
        });
    };

    let sandbox = state.setup == Setup::Ready;
    set("PodReadyToStartContainers", sandbox, None, None);

    let over = matches!(phase, "Succeeded" | "Failed");
    let incomplete: Vec<&str> = state
        .containers
        .iter()
        .filter(|record| match record.role {
            Role::Init => record.finished().is_none_or(|finished| finished.exit_code != 0),
            Role::Sidecar => !(record.live().is_some() && record.started),
            _ => false,
        })
        .map(|record| record.name.as_str())
        .collect();
    let was_initialized = state.initialized || (phase == "Running") || incomplete.is_empty();
    if phase == "Succeeded" {
        set("Initialized", true, Some("PodCompleted"), None);
    } else if was_initialized {
        set("Initialized", true, None, None);
    } else {
        let names = incomplete.join(" ");
        let message = format!("containers with incomplete status: [{names}]");
        set("Initialized", false, Some("ContainersNotInitialized"), Some(message));
    }

    let unready: Vec<&str> = state
        .containers
        .iter()
        .filter(|record| matches!(record.role, Role::Main | Role::Sidecar))
        .filter(|record| !(record.live().is_some() && record.started && record.ready))
        .map(|record| record.name.as_str())
        .collect();
    let (containers_ready, reason, message) = if phase == "Succeeded" {
        (false, Some("PodCompleted"), None)
    } else if phase == "Failed" {
        (false, Some("PodFailed"), None)
    } else if !unready.is_empty() {
        let names = unready.join(" ");
        let message = format!("containers with unready status: [{names}]");
        (false, Some("ContainersNotReady"), Some(message))
    } else {
        (true, None, None)
    };
    set("ContainersReady", containers_ready, reason, message.clone());

    let gates = pod.spec.as_ref().and_then(|spec| spec.readiness_gates.clone()).unwrap_or_default();
    let closed: Vec<&str> = gates
        .iter()
        .map(|gate| gate.condition_type.as_str())
        .filter(|gate| !old.iter().any(|c| c.type_ == *gate && c.status == "True"))
        .collect();
    if containers_ready && !closed.is_empty() {
        let messages: Vec<String> = closed
            .iter()
            .map(|gate| match old.iter().find(|condition| condition.type_ == *gate) {
                Some(_) => format!(
                    "the status of pod readiness gate \"{gate}\" is not \"True\", but False"
                ),
                None => format!(
                    "corresponding condition of pod readiness gate \"{gate}\" does not exist."
                ),
            })
            .collect();
        set("Ready", false, Some("ReadinessGatesNotReady"), Some(messages.join("\n")));
    } else {
        set("Ready", containers_ready && !over, reason, message);
    }
    // Written by the scheduler; a pod that was created with a node name never met it.
    if !old.iter().any(|condition| condition.type_ == "PodScheduled") {
        set("PodScheduled", true, None, None);
    }
    if let Some(failure) = state.failure.as_ref().filter(|failure| failure.reason == "Evicted") {
        let message = Some(failure.message.clone());
        set("DisruptionTarget", true, Some("TerminationByKubelet"), message);
    }
    result
}

/// The strategic merge patch that brings `base` to `desired`, or nothing when they agree.
///
/// Conditions are merged by type, so that those of others stay; lists of addresses are replaced.
pub fn patch(uid: &str, base: &Value, desired: &Value) -> Option<Value> {
    let empty = Map::new();
    let (base, desired) = (base.as_object().unwrap_or(&empty), desired.as_object()?);
    let mut changes = Map::new();
    for (key, value) in desired {
        let old = base.get(key);
        if old == Some(value) {
            continue;
        }
        match key.as_str() {
            "conditions" => {
                if let Some(changed) = changed_conditions(old, value) {
                    changes.insert(key.clone(), changed);
                }
            }
            "podIPs" | "hostIPs" if old.is_some_and(|old| !old.is_null()) => {
                let mut list = vec![json!({"$patch": "replace"})];
                list.extend(value.as_array().cloned().unwrap_or_default());
                changes.insert(key.clone(), Value::Array(list));
            }
            _ => {
                changes.insert(key.clone(), value.clone());
            }
        }
    }
    const OWNED: [&str; 5] =
        ["message", "reason", "podIP", "initContainerStatuses", "ephemeralContainerStatuses"];
    for key in OWNED {
        if base.contains_key(key) && !desired.contains_key(key) {
            changes.insert(key.into(), Value::Null);
        }
    }
    (!changes.is_empty()).then(|| json!({"metadata": {"uid": uid}, "status": changes}))
}

fn changed_conditions(old: Option<&Value>, new: &Value) -> Option<Value> {
    let none = Vec::new();
    let old = old.and_then(Value::as_array).unwrap_or(&none);
    let mut changed = Vec::new();
    for condition in new.as_array()? {
        let before = old.iter().find(|before| before["type"] == condition["type"]);
        let same = before.is_some_and(|before| {
            ["status", "reason", "message", "lastTransitionTime"]
                .iter()
                .all(|field| before.get(field).filter(|v| !v.is_null()) == condition.get(field))
        });
        if same {
            continue;
        }
        let mut condition = condition.clone();
        if let (Some(before), Some(fields)) = (before, condition.as_object_mut()) {
            for field in ["reason", "message"] {
                if before.get(field).is_some() && !fields.contains_key(field) {
                    fields.insert(field.into(), Value::Null);
                }
            }
        }
        changed.push(condition);
    }
    (!changed.is_empty()).then_some(Value::Array(changed))
}

#[cfg(test)]
#[path = "status_tests.rs"]
mod tests;
