//! From a state to a plan.

#![allow(clippy::unwrap_used)]

use super::*;
use crate::worker::state::{Finished, Hold, ImageFacts, Live, Termination};
use jiff::Timestamp;
use serde_json::json;

fn pod(spec: serde_json::Value) -> Pod {
    serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "d"}, "spec": spec}))
        .unwrap()
}

fn ready(pod: &Pod, now: Instant) -> PodState {
    let mut state = PodState::new(pod, now, Timestamp::UNIX_EPOCH);
    state.setup = Setup::Ready;
    for record in &mut state.containers {
        record.picture = Picture::Present(ImageFacts::default());
    }
    state
}

fn running(id: &str) -> Run {
    Run::Running(Live { id: id.into(), started_at: Timestamp::UNIX_EPOCH })
}

fn exited(code: i32, at: Instant) -> Run {
    Run::Exited(Finished {
        id: "x".into(),
        exit_code: code,
        signal: None,
        reason: "Error".into(),
        message: None,
        started_at: None,
        finished_at: None,
        at,
    })
}

#[test]
fn a_new_pod_prepares_and_looks_for_its_images_at_the_same_time() {
    let pod = pod(json!({"containers": [{"name": "a"}, {"name": "b"}]}));
    let now = Instant::now();
    let state = PodState::new(&pod, now, Timestamp::UNIX_EPOCH);
    let plan = plan(&pod, &state, now);
    assert_eq!(plan.actions, [Action::Prepare, Action::EnsureImage(0), Action::EnsureImage(1)]);
}

#[test]
fn init_containers_run_one_after_the_other_before_the_main_ones() {
    let pod = pod(json!({
        "initContainers": [{"name": "i"}, {"name": "s", "restartPolicy": "Always"}],
        "containers": [{"name": "a"}],
    }));
    let now = Instant::now();
    let mut state = ready(&pod, now);
    assert_eq!(plan(&pod, &state, now).actions, [Action::Start(0)]);
    state.containers[0].run = running("1");
    assert_eq!(plan(&pod, &state, now).actions, []);
    state.containers[0].run = exited(0, now);
    assert_eq!(plan(&pod, &state, now).actions, [Action::Start(1)]);
    state.containers[1].run = running("2");
    assert_eq!(plan(&pod, &state, now).actions, [], "the sidecar has not started up yet");
    state.containers[1].started = true;
    assert_eq!(plan(&pod, &state, now).actions, [Action::Start(2)]);
}

#[test]
fn a_container_that_keeps_ending_waits() {
    let pod = pod(json!({"containers": [{"name": "a"}]}));
    let now = Instant::now();
    let mut state = ready(&pod, now);
    state.containers[0].run = exited(1, now);
    assert_eq!(
        plan(&pod, &state, now).actions,
        [Action::Start(0)],
        "the first restart is immediate"
    );
    state.containers[0].crash.restarted(now, now);
    let wait = plan(&pod, &state, now);
    assert_eq!(wait.actions, [Action::AnnounceCrash(0)]);
    assert_eq!(wait.deadline, Some(now + Duration::from_secs(10)));
    let later = now + Duration::from_secs(10);
    assert_eq!(plan(&pod, &state, later).actions, [Action::Start(0)]);
}

#[test]
fn a_pod_that_never_restarts_is_torn_down_when_its_containers_ended() {
    let pod = pod(json!({"restartPolicy": "Never", "containers": [{"name": "a"}]}));
    let now = Instant::now();
    let mut state = ready(&pod, now);
    state.containers[0].run = exited(3, now);
    // Not before the API server knows how it ended: after a crash nobody else could tell.
    assert_eq!(plan(&pod, &state, now).actions, []);
    state.outcome_known = true;
    assert_eq!(plan(&pod, &state, now).actions, [Action::TearDown]);
    state.setup = Setup::Removed;
    assert_eq!(plan(&pod, &state, now).actions, []);
}

#[test]
fn a_failed_init_container_ends_a_pod_that_never_restarts() {
    let pod = pod(json!({
        "restartPolicy": "Never", "initContainers": [{"name": "i"}], "containers": [{"name": "a"}],
    }));
    let now = Instant::now();
    let mut state = ready(&pod, now);
    state.containers[0].run = exited(1, now);
    state.outcome_known = true;
    assert_eq!(plan(&pod, &state, now).actions, [Action::TearDown]);
}

#[test]
fn deletion_stops_main_containers_then_sidecars_then_releases_and_deletes() {
    let pod = pod(json!({
        "initContainers": [{"name": "s", "restartPolicy": "Always"}],
        "containers": [{"name": "a"}],
    }));
    let now = Instant::now();
    let mut state = ready(&pod, now);
    state.initialized = true;
    state.containers[0].run = running("1");
    state.containers[0].started = true;
    state.containers[1].run = running("2");
    let grace = Duration::from_secs(30);
    state.termination = Some(Termination { begun: now, grace, delete: true });
    assert_eq!(plan(&pod, &state, now).actions, [Action::Stop { index: 1, grace }]);
    state.containers[1].run = Run::Stopping {
        live: Live { id: "2".into(), started_at: Timestamp::UNIX_EPOCH },
        term_sent: true,
        kill_at: now + grace,
        killed: false,
        grace,
    };
    let wait = plan(&pod, &state, now);
    assert_eq!((wait.actions, wait.deadline), (vec![], Some(now + grace)));
    assert_eq!(plan(&pod, &state, now + grace).actions, [Action::Kill(1)]);
    state.containers[1].run = exited(137, now);
    assert_eq!(plan(&pod, &state, now).actions, [Action::Stop { index: 0, grace }]);
    state.containers[0].run = exited(0, now);
    assert_eq!(plan(&pod, &state, now).actions, [Action::TearDown]);
    state.setup = Setup::Removed;
    assert_eq!(plan(&pod, &state, now).actions, [], "the final status comes first");
    state.final_status_written = true;
    assert_eq!(plan(&pod, &state, now).actions, [Action::DeleteObject]);
}

#[test]
fn a_shorter_grace_period_hastens() {
    let pod = pod(json!({"containers": [{"name": "a"}]}));
    let now = Instant::now();
    let mut state = ready(&pod, now);
    state.containers[0].run = Run::Stopping {
        live: Live { id: "2".into(), started_at: Timestamp::UNIX_EPOCH },
        term_sent: true,
        kill_at: now + Duration::from_secs(30),
        killed: false,
        grace: Duration::from_secs(30),
    };
    state.termination =
        Some(Termination { begun: now, grace: Duration::from_secs(1), delete: true });
    let kill_at = now + Duration::from_secs(1);
    assert_eq!(plan(&pod, &state, now).actions, [Action::Hasten { index: 0, kill_at }]);
}

#[test]
fn the_active_deadline_fails_the_pod() {
    let pod = pod(json!({"activeDeadlineSeconds": 5, "containers": [{"name": "a"}]}));
    let now = Instant::now();
    let mut state = ready(&pod, now);
    state.started_clock = now;
    state.containers[0].run = running("1");
    assert_eq!(plan(&pod, &state, now).deadline, Some(now + Duration::from_secs(5)));
    let plan = plan(&pod, &state, now + Duration::from_secs(5));
    assert!(
        matches!(&plan.actions[..], [Action::Fail(failure)] if failure.reason == "DeadlineExceeded")
    );
}

#[test]
fn a_held_container_waits_and_a_failed_pull_is_softened() {
    let pod = pod(json!({"containers": [{"name": "a"}]}));
    let now = Instant::now();
    let mut state = ready(&pod, now);
    state.containers[0].picture = Picture::Unknown;
    state.containers[0].hold = Some(Hold {
        reason: "ErrImagePull",
        message: String::new(),
        retry_at: Some(now + Duration::from_secs(10)),
        soften_at: Some(now + Duration::from_secs(1)),
    });
    assert_eq!(plan(&pod, &state, now).deadline, Some(now + Duration::from_secs(1)));
    let second = now + Duration::from_secs(1);
    assert_eq!(plan(&pod, &state, second).actions, [Action::AnnounceImageBackOff(0)]);
}

#[test]
fn a_vanished_pod_finishes_without_the_api() {
    let pod = pod(json!({"containers": [{"name": "a"}]}));
    let now = Instant::now();
    let mut state = ready(&pod, now);
    state.vanished = true;
    state.termination = Some(Termination { begun: now, grace: Duration::ZERO, delete: true });
    state.setup = Setup::Removed;
    assert_eq!(plan(&pod, &state, now).actions, [Action::Finish]);
}

#[test]
fn times_of_any_length_can_be_counted() {
    for seconds in [i64::MIN, -1, 0, 30, i64::MAX] {
        let (now, then) = (Instant::now(), bounded(seconds));
        assert!(now + then >= now && now + 2 * then >= now, "{seconds}");
    }
    assert_eq!(bounded(30), Duration::from_secs(30));
    assert_eq!(bounded(-1), Duration::ZERO);
}
