//! From what is observed of a pod to what has to be done now: a pure function.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use tokio::time::Instant;

use super::state::{Failure, Picture, PodState, Record, Role, Run, Setup};

/// The least time that a sidecar has to end, where the pod has any.
const LAST_GRACE: Duration = Duration::from_secs(2);

/// One thing to do. The index is the position of the container in the state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Make network, volumes and sandbox.
    Prepare,
    /// Find or pull the image of a container.
    EnsureImage(usize),
    /// Create and start a container.
    Start(usize),
    /// Run `preStop`, then ask the process to end.
    Stop {
        /// Which container.
        index: usize,
        /// How long it has.
        grace: Duration,
    },
    /// Shorten the patience with a container that is already stopping.
    Hasten {
        /// Which container.
        index: usize,
        /// When it is killed.
        kill_at: Instant,
    },
    /// End the process now.
    Kill(usize),
    /// Say that a container waits because it keeps ending.
    AnnounceCrash(usize),
    /// Say that a container waits because its image cannot be pulled.
    AnnounceImageBackOff(usize),
    /// Fail the pod as a whole.
    Fail(Failure),
    /// Release the sandbox in order to make a new one.
    Replace,
    /// Release sandbox, volumes and network: the pod has ended.
    TearDown,
    /// Remove the object: nothing of the pod is left.
    DeleteObject,
    /// The worker has nothing left to do, ever.
    Finish,
}

/// What to do now and when to look again if nothing happens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// In this order.
    pub actions: Vec<Action>,
    /// The next moment at which time alone changes the plan.
    pub deadline: Option<Instant>,
}

impl Plan {
    fn wake_at(&mut self, at: Instant) {
        self.deadline = Some(self.deadline.map_or(at, |deadline| deadline.min(at)));
    }

    fn push(&mut self, action: Action) {
        self.actions.push(action);
    }
}

/// How the pod restarts its main containers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RestartPolicy {
    /// Whatever the exit code.
    Always,
    /// Unless it ended with 0.
    OnFailure,
    /// Not at all.
    Never,
}

impl RestartPolicy {
    /// The policy of a pod.
    pub fn of(pod: &Pod) -> Self {
        match pod.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref()) {
            Some("Never") => Self::Never,
            Some("OnFailure") => Self::OnFailure,
            _ => Self::Always,
        }
    }

    /// Whether a container of that role that ended with that code starts again.
    pub fn restarts(self, role: Role, exit_code: i32) -> bool {
        match (role, self) {
            (Role::Sidecar, _) => true,
            (Role::Ephemeral, _) | (_, Self::Never) => false,
            (Role::Init, _) | (Role::Main, Self::OnFailure) => exit_code != 0,
            (Role::Main, Self::Always) => true,
        }
    }
}

/// What has to be done for a pod in that state.
pub fn plan(pod: &Pod, state: &PodState, now: Instant) -> Plan {
    let mut plan = Plan::default();
    if state.termination.is_none()
        && let Some(failure) = overdue(pod, state, now, &mut plan)
    {
        plan.push(Action::Fail(failure));
        return plan;
    }
    if state.termination.is_some() {
        wind_down(pod, state, now, &mut plan);
        return plan;
    }
    match &state.setup {
        Setup::Absent { retry_at } => {
            match retry_at {
                Some(at) if *at > now => plan.wake_at(*at),
                _ => plan.push(Action::Prepare),
            }
            prefetch(pod, state, now, &mut plan);
        }
        Setup::Preparing => prefetch(pod, state, now, &mut plan),
        Setup::Ready => run(pod, state, now, &mut plan),
        Setup::Blocked | Setup::Replacing | Setup::Removing | Setup::Removed => {}
    }
    kill_overdue(state, now, &mut plan);
    plan
}

fn overdue(pod: &Pod, state: &PodState, now: Instant, plan: &mut Plan) -> Option<Failure> {
    let seconds = pod.spec.as_ref()?.active_deadline_seconds?;
    if has_ended(pod, state) {
        return None;
    }
    let at = state.started_clock + bounded(seconds);
    if at > now {
        plan.wake_at(at);
        return None;
    }
    Some(Failure {
        reason: "DeadlineExceeded".into(),
        message: "Pod was active on the node longer than the specified deadline".into(),
    })
}

/// Looks for the images of the containers that come first while the sandbox is being made.
fn prefetch(pod: &Pod, state: &PodState, now: Instant, plan: &mut Plan) {
    let policy = RestartPolicy::of(pod);
    for index in next_to_start(policy, state) {
        ensure_image(&state.containers[index], index, now, plan);
    }
}

/// The containers whose turn it is, in a sandbox where nothing is missing.
fn next_to_start(policy: RestartPolicy, state: &PodState) -> Vec<usize> {
    for (index, record) in state.containers.iter().enumerate() {
        match record.role {
            Role::Init if !init_done(record) => return vec![index],
            Role::Sidecar if !(record.live().is_some() && record.started) => return vec![index],
            _ => {}
        }
    }
    let wants = |record: &Record| match &record.run {
        Run::Waiting => true,
        Run::Exited(finished) => policy.restarts(record.role, finished.exit_code),
        _ => false,
    };
    let mains = state.containers.iter().enumerate();
    mains
        .filter(|(_, record)| record.role == Role::Main && wants(record))
        .map(|(index, _)| index)
        .collect()
}

fn init_done(record: &Record) -> bool {
    record.finished().is_some_and(|finished| finished.exit_code == 0)
}

/// Returns whether the image is here.
fn ensure_image(record: &Record, index: usize, now: Instant, plan: &mut Plan) -> bool {
    match &record.picture {
        Picture::Present(_) => true,
        Picture::Ensuring => false,
        Picture::Unknown => {
            if !held(record, index, now, plan) {
                plan.push(Action::EnsureImage(index));
            }
            false
        }
    }
}

/// Whether something holds the container; asks to be woken when that ends.
fn held(record: &Record, index: usize, now: Instant, plan: &mut Plan) -> bool {
    let Some(hold) = &record.hold else { return false };
    if let Some(soften_at) = hold.soften_at {
        if soften_at <= now {
            plan.push(Action::AnnounceImageBackOff(index));
        } else {
            plan.wake_at(soften_at);
        }
    }
    match hold.retry_at {
        Some(at) if at <= now => false,
        Some(at) => {
            plan.wake_at(at);
            true
        }
        None => true,
    }
}

fn run(pod: &Pod, state: &PodState, now: Instant, plan: &mut Plan) {
    let policy = RestartPolicy::of(pod);
    if has_ended(pod, state) {
        wind_down(pod, state, now, plan);
        return;
    }
    let mut initialized = true;
    for (index, record) in state.containers.iter().enumerate() {
        if !matches!(record.role, Role::Init | Role::Sidecar) {
            continue;
        }
        if record.role == Role::Init && init_done(record) {
            continue;
        }
        // Once the pod is initialised, init containers are not run again in this sandbox.
        if record.role == Role::Init && state.initialized {
            continue;
        }
        match &record.run {
            Run::Waiting => start(record, index, now, plan),
            Run::Exited(finished) if policy.restarts(record.role, finished.exit_code) => {
                restart(record, index, now, plan);
            }
            Run::Running(_) if record.role == Role::Sidecar && record.started => continue,
            _ => {}
        }
        if record.role == Role::Init || !state.initialized {
            initialized = false;
            break;
        }
    }
    for (index, record) in state.containers.iter().enumerate() {
        match (record.role, &record.run) {
            (Role::Ephemeral, Run::Waiting) => start(record, index, now, plan),
            (Role::Main, Run::Waiting) if initialized => start(record, index, now, plan),
            (Role::Main, Run::Exited(finished))
                if initialized && policy.restarts(Role::Main, finished.exit_code) =>
            {
                restart(record, index, now, plan);
            }
            _ => {}
        }
        // A `postStart` holds up the containers after its own.
        let coming = match &record.run {
            Run::Starting(_) => true,
            Run::Waiting => record.hold.is_none(),
            _ => record.hooking,
        };
        if record.role == Role::Main && coming && has_post_start(pod, &record.name) {
            initialized = false;
        }
    }
}

fn has_post_start(pod: &Pod, name: &str) -> bool {
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    containers
        .filter(|container| container.name == name)
        .filter_map(|container| container.lifecycle.as_ref())
        .any(|lifecycle| lifecycle.post_start.is_some())
}

fn start(record: &Record, index: usize, now: Instant, plan: &mut Plan) {
    if ensure_image(record, index, now, plan) && !held(record, index, now, plan) {
        plan.push(Action::Start(index));
    }
}

fn restart(record: &Record, index: usize, now: Instant, plan: &mut Plan) {
    let Some(finished) = record.finished() else { return };
    if let Some((until, _)) = record.crash.until(finished.at)
        && until > now
    {
        if !record.crash_announced {
            plan.push(Action::AnnounceCrash(index));
        }
        plan.wake_at(until);
        return;
    }
    start(record, index, now, plan);
}

/// Whether the pod has done what it was for: nothing will be started again.
pub fn has_ended(pod: &Pod, state: &PodState) -> bool {
    let policy = RestartPolicy::of(pod);
    let init_failed = state.containers.iter().any(|record| {
        record.role == Role::Init
            && record.finished().is_some_and(|finished| finished.exit_code != 0)
    });
    if init_failed && policy == RestartPolicy::Never {
        return true;
    }
    let mut mains = state.containers.iter().filter(|record| record.role == Role::Main).peekable();
    mains.peek().is_some()
        && mains.all(|record| {
            record
                .finished()
                .is_some_and(|finished| !policy.restarts(Role::Main, finished.exit_code))
        })
}

/// The grace period that the pod asks for.
pub fn spec_grace(pod: &Pod) -> Duration {
    let seconds = pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds);
    bounded(seconds.unwrap_or(30))
}

/// The longest time that a field of a pod asks for, so that clocks can count it: a century.
const TIME_MAX: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// A time that a pod states in seconds, which may be any number.
pub fn bounded(seconds: i64) -> Duration {
    Duration::from_secs(u64::try_from(seconds).unwrap_or(0)).min(TIME_MAX)
}

/// Ends what runs (sidecars after the others, the last one first), then releases everything.
fn wind_down(pod: &Pod, state: &PodState, now: Instant, plan: &mut Plan) {
    let remaining = state.termination.as_ref().map(|termination| {
        termination.grace.saturating_sub(now.saturating_duration_since(termination.begun))
    });
    let grace = remaining.unwrap_or_else(|| spec_grace(pod));
    let others = |record: &&Record| record.role != Role::Sidecar;
    let busy = state.containers.iter().filter(others).any(Record::is_active);
    if busy {
        for (index, record) in state.containers.iter().enumerate() {
            if record.role != Role::Sidecar {
                stop(record, index, grace, now, plan);
            }
        }
    } else {
        let sidecars = state.containers.iter().enumerate().rev();
        if let Some((index, record)) = sidecars
            .filter(|(_, record)| record.role == Role::Sidecar)
            .find(|(_, record)| record.is_active())
        {
            // Even when the others took all the time, a sidecar may say goodbye.
            let whole = state.termination.as_ref().map_or(grace, |termination| termination.grace);
            stop(record, index, grace.max(LAST_GRACE.min(whole)), now, plan);
        }
    }
    kill_overdue(state, now, plan);
    if state.containers.iter().any(Record::is_active) {
        return;
    }
    // What tells how the pod ended goes only when nobody will ask for it.
    let doomed = state.vanished || state.termination.as_ref().is_some_and(|t| t.delete);
    match state.setup {
        Setup::Absent { .. } | Setup::Blocked | Setup::Ready => {
            if doomed || state.outcome_known {
                plan.push(Action::TearDown);
            }
        }
        Setup::Preparing | Setup::Replacing | Setup::Removing => {}
        Setup::Removed => {
            if state.vanished {
                plan.push(Action::Finish);
            } else if state.termination.as_ref().is_some_and(|termination| termination.delete)
                && state.final_status_written
                && !state.deleting
            {
                plan.push(Action::DeleteObject);
            }
        }
    }
}

fn stop(record: &Record, index: usize, grace: Duration, now: Instant, plan: &mut Plan) {
    match &record.run {
        Run::Running(_) => plan.push(Action::Stop { index, grace }),
        Run::Stopping { kill_at, killed: false, .. } if *kill_at > now + grace => {
            plan.push(Action::Hasten { index, kill_at: now + grace });
        }
        _ => {}
    }
}

fn kill_overdue(state: &PodState, now: Instant, plan: &mut Plan) {
    for (index, record) in state.containers.iter().enumerate() {
        if let Run::Stopping { term_sent: true, kill_at, killed: false, .. } = &record.run {
            if *kill_at <= now {
                plan.push(Action::Kill(index));
            } else {
                plan.wake_at(*kill_at);
            }
        }
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
