//! From a state to a status.

#![allow(clippy::unwrap_used)]

use super::*;
use crate::worker::state::{ImageFacts, Live};
use std::time::Duration;

fn pod(spec: Value) -> Pod {
    serde_json::from_value(
        json!({"metadata": {"name": "p", "namespace": "d", "uid": "u"}, "spec": spec}),
    )
    .unwrap()
}

fn finished(code: i32, at: Instant) -> Finished {
    Finished {
        id: "f".repeat(64),
        exit_code: code,
        signal: None,
        reason: if code == 0 { "Completed" } else { "Error" }.into(),
        message: None,
        started_at: Some(Timestamp::UNIX_EPOCH),
        finished_at: Some(Timestamp::UNIX_EPOCH),
        at,
    }
}

fn render(pod: &Pod, state: &PodState, now: Instant) -> PodStatus {
    let host = ["192.0.2.1".parse().unwrap()];
    status(pod, state, &host, now, Timestamp::UNIX_EPOCH)
}

#[test]
fn a_new_pod_is_pending_with_containers_being_created() {
    let pod = pod(json!({"containers": [{"name": "a", "image": "nginx"}]}));
    let now = Instant::now();
    let state = PodState::new(&pod, now, Timestamp::UNIX_EPOCH);
    let status = render(&pod, &state, now);
    assert_eq!(status.phase.as_deref(), Some("Pending"));
    let container = &status.container_statuses.unwrap()[0];
    let waiting = container.state.clone().unwrap().waiting.unwrap();
    assert_eq!(waiting.reason.as_deref(), Some("ContainerCreating"));
    assert_eq!((container.image.as_str(), container.started), ("nginx", Some(false)));
    let ready = status.conditions.unwrap().into_iter().find(|c| c.type_ == "Ready").unwrap();
    assert_eq!(ready.message.as_deref(), Some("containers with unready status: [a]"));
}

#[test]
fn a_running_ready_container_makes_a_ready_pod() {
    let pod = pod(json!({"containers": [{"name": "a"}]}));
    let now = Instant::now();
    let mut state = PodState::new(&pod, now, Timestamp::UNIX_EPOCH);
    state.setup = Setup::Ready;
    state.addresses = vec!["10.44.0.9".parse().unwrap()];
    let record = &mut state.containers[0];
    record.run = Run::Running(Live { id: "c".repeat(64), started_at: Timestamp::UNIX_EPOCH });
    (record.attempted, record.started, record.ready) = (true, true, true);
    record.shown_image = Some(ImageFacts { name: "docker.io/library/a:1".into(), id: "s".into() });
    let status = render(&pod, &state, now);
    assert_eq!(status.phase.as_deref(), Some("Running"));
    assert_eq!(status.pod_ip.as_deref(), Some("10.44.0.9"));
    assert!(status.conditions.unwrap().iter().all(|condition| condition.status == "True"));
    let container = &status.container_statuses.unwrap()[0];
    assert_eq!(container.container_id, Some(format!("coracle://{}", "c".repeat(64))));
    assert!(container.ready);
}

#[test]
fn a_crashing_container_says_how_long_it_waits() {
    let pod = pod(json!({"containers": [{"name": "a"}]}));
    let now = Instant::now();
    let mut state = PodState::new(&pod, now, Timestamp::UNIX_EPOCH);
    state.setup = Setup::Ready;
    let record = &mut state.containers[0];
    record.attempted = true;
    record.attempt = 1;
    record.crash.restarted(now, now);
    record.run = Run::Exited(finished(1, now));
    let status = render(&pod, &state, now);
    assert_eq!(status.phase.as_deref(), Some("Running"));
    let container = &status.container_statuses.unwrap()[0];
    let waiting = container.state.clone().unwrap().waiting.unwrap();
    assert_eq!(waiting.reason.as_deref(), Some("CrashLoopBackOff"));
    assert_eq!(
        waiting.message.as_deref(),
        Some("back-off 10s restarting failed container=a pod=p_d(u)")
    );
    assert_eq!(container.last_state.clone().unwrap().terminated.unwrap().exit_code, 1);
    let later = render(&pod, &state, now + Duration::from_secs(11));
    assert!(later.container_statuses.unwrap()[0].state.clone().unwrap().terminated.is_some());
}

#[test]
fn exit_codes_decide_between_succeeded_and_failed() {
    let pod = pod(json!({"restartPolicy": "Never", "containers": [{"name": "a"}, {"name": "b"}]}));
    let now = Instant::now();
    let mut state = PodState::new(&pod, now, Timestamp::UNIX_EPOCH);
    for record in &mut state.containers {
        record.attempted = true;
        record.run = Run::Exited(finished(0, now));
    }
    assert_eq!(phase(&pod, &state), "Succeeded");
    state.containers[1].run = Run::Exited(finished(2, now));
    assert_eq!(phase(&pod, &state), "Failed");
    let policy =
        json!({"restartPolicy": "OnFailure", "containers": [{"name": "a"}, {"name": "b"}]});
    assert_eq!(phase(&self::pod(policy), &state), "Running");
}

#[test]
fn messages_of_others_are_bounded() {
    let containers: Vec<_> = (0..4).map(|n| json!({"name": format!("c{n}")})).collect();
    let pod = pod(json!({"containers": containers}));
    let now = Instant::now();
    let mut state = PodState::new(&pod, now, Timestamp::UNIX_EPOCH);
    let long = "é".repeat(12 << 20);
    for record in &mut state.containers {
        record.hold = Some(crate::worker::state::Hold {
            reason: "ErrImagePull",
            message: long.clone(),
            retry_at: None,
            soften_at: None,
        });
        record.last = Some(Finished { message: Some(long.clone()), ..finished(1, now) });
    }
    let message = long.clone();
    state.failure = Some(crate::worker::state::Failure { reason: "Evicted".into(), message });
    let status = render(&pod, &state, now);
    assert_eq!(status.message.as_ref().unwrap().len(), MAX_MESSAGE_BYTES - 1);
    for container in status.container_statuses.as_ref().unwrap() {
        let waiting = container.state.as_ref().unwrap().waiting.as_ref().unwrap();
        assert_eq!(waiting.message.as_ref().unwrap().len(), MAX_WAITING_MESSAGE_BYTES - 1);
        let last = container.last_state.as_ref().unwrap().terminated.as_ref().unwrap();
        assert_eq!(last.message.as_ref().unwrap().len(), MAX_TERMINATION_MESSAGES_BYTES / 4 - 1);
    }
    assert!(serde_json::to_string(&status).unwrap().len() < 100 << 10);
}

#[test]
fn the_patch_names_only_what_changed() {
    let base = json!({
        "phase": "Pending",
        "reason": "X",
        "podIPs": [{"ip": "10.0.0.1"}],
        "conditions": [
            {"type": "PodScheduled", "status": "True"},
            {"type": "Ready", "status": "False", "reason": "ContainersNotReady"},
        ],
    });
    let desired = json!({
        "phase": "Running",
        "podIPs": [{"ip": "10.0.0.2"}],
        "conditions": [{"type": "Ready", "status": "True"}],
    });
    assert_eq!(
        patch("u", &base, &desired).unwrap(),
        json!({"metadata": {"uid": "u"}, "status": {
            "phase": "Running",
            "reason": null,
            "podIPs": [{"$patch": "replace"}, {"ip": "10.0.0.2"}],
            "conditions": [{"type": "Ready", "status": "True", "reason": null}],
        }})
    );
    assert_eq!(patch("u", &desired, &desired), None);
}
