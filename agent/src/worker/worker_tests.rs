//! Whole lives of pods, over a machine and an API server that are fakes.
#![allow(clippy::unwrap_used)]

use std::path::PathBuf;

use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

#[path = "../../../integration/src/skip.rs"]
mod skip;

use super::fake_api::FakeApi;
use super::fake_node;
use super::fakes::FakeMachine;
use super::*;

/// Longest that anything here may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

struct Stand {
    api: FakeApi,
    machine: FakeMachine,
    news: watch::Sender<News>,
    task: JoinHandle<()>,
    events: Box<dyn FnMut() -> Vec<String>>,
    told: Vec<String>,
    directory: PathBuf,
    _stop: tokio_util::sync::DropGuard,
}

impl Drop for Stand {
    fn drop(&mut self) {
        self.task.abort();
        // The test's own directory; what is left of it is of no use.
        let _ = crate::volume::mount::remove_tree(&self.directory);
    }
}

impl Stand {
    fn start(name: &str, machine: FakeMachine, spec: Value) -> Self {
        Self::start_refused(name, machine, spec, None)
    }

    fn start_refused(
        name: &str,
        machine: FakeMachine,
        spec: Value,
        refusal: Option<Failure>,
    ) -> Self {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "d", "uid": "u", "resourceVersion": "1"},
            "spec": spec,
        }))
        .unwrap();
        let directory =
            std::env::temp_dir().join(format!("coracle-worker-{}-{name}", std::process::id()));
        let api = FakeApi::new(&pod);
        let stop = CancellationToken::new();
        let (node, events) = fake_node::node(&directory, &api, &machine, &stop);
        let (news, receiver) = watch::channel(News { pod: Arc::new(pod), vanished: false });
        let task = tokio::spawn(Worker::new(Arc::new(node), receiver, None, refusal).run());
        let (events, told) = (Box::new(events), Vec::new());
        Self { api, machine, news, task, events, told, directory, _stop: stop.drop_guard() }
    }

    async fn until(&mut self, what: &str, mut holds: impl FnMut(&mut Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !holds(self) {
            let journal = self.machine.journal.all();
            assert!(
                Instant::now() < deadline,
                "never: {what}\n{journal:?}\n{:?}\n{:?}",
                self.told,
                self.api.status()
            );
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    fn has_told(&mut self, event: &str) -> bool {
        let more = (self.events)();
        self.told.extend(more);
        self.told.iter().any(|told| told == event)
    }

    fn ready(&self) -> bool {
        let conditions = self.api.status().conditions.unwrap_or_default();
        conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
    }

    /// The reason for which a container waits.
    fn waits(&self, container: &str) -> Option<String> {
        let statuses = self.api.status().container_statuses?;
        let status = statuses.into_iter().find(|status| status.name == container)?;
        status.state?.waiting?.reason
    }

    fn phase(&self) -> String {
        self.api.status().phase.unwrap_or_default()
    }

    fn delete(&self, grace_seconds: i64) {
        let pod = self.api.pod(|pod| {
            pod["metadata"]["deletionTimestamp"] = "2030-01-01T00:00:00Z".into();
            pod["metadata"]["deletionGracePeriodSeconds"] = grace_seconds.into();
        });
        self.news.send_modify(|news| news.pod = Arc::new(pod));
    }

    /// The object is gone; the worker has to end.
    async fn finish(&mut self) {
        self.until("the object is deleted", |stand| stand.api.deleted()).await;
        self.news.send_modify(|news| news.vanished = true);
        self.until("the worker ends", |stand| stand.task.is_finished()).await;
    }
}

fn one(container: Value) -> Value {
    let mut whole = json!({"name": "a", "image": "a", "imagePullPolicy": "IfNotPresent"});
    whole.as_object_mut().unwrap().extend(container.as_object().unwrap().clone());
    json!({"containers": [whole]})
}

#[tokio::test]
async fn refused_status_is_retried_ever_more_slowly() {
    let spec = json!({"containers": [{"name": "a", "image": "x"}]});
    let mut stand = Stand::start("refused-status", FakeMachine::default(), spec);
    stand.api.refuse_statuses(true);
    stand.until("a status is written", |stand| stand.api.attempts() > 0).await;
    // After one, three and seven seconds.
    tokio::time::sleep(Duration::from_millis(4500)).await;
    assert!((2..=3).contains(&stand.api.attempts()), "{}", stand.api.attempts());
    stand.api.refuse_statuses(false);
    stand.until("the pod is ready", |stand| stand.ready()).await;
}

#[tokio::test]
async fn a_life() {
    let mut stand = Stand::start("life", FakeMachine::new(), one(json!({})));
    stand.until("it is ready", |stand| stand.ready()).await;
    assert_eq!(stand.api.status().pod_ip.as_deref(), Some("10.44.0.9"));
    stand.delete(30);
    stand.finish().await;
    assert_eq!(
        stand.machine.journal.all(),
        ["make sandbox", "start a", "signal a 15", "remove sandbox", "detach"]
    );
    assert!(!stand.directory.join("pods/u").exists(), "the pod's directory is gone");
}

/// The message is there as soon as the end is shown.
#[tokio::test]
async fn end_is_shown_with_the_termination_message() {
    let mut spec = one(json!({}));
    spec["restartPolicy"] = "Never".into();
    let mut stand = Stand::start("message", FakeMachine::new(), spec);
    stand.until("it is ready", |stand| stand.ready()).await;
    let file = stand.directory.join("pods/u/containers/a/termination-log");
    std::fs::write(file, "no more").unwrap();
    stand.machine.sandbox.end("a", 3);
    let terminated = |stand: &Stand| {
        let statuses = stand.api.status().container_statuses?;
        statuses[0].state.clone()?.terminated
    };
    stand.until("it has ended", |stand| terminated(stand).is_some()).await;
    let terminated = terminated(&stand).unwrap();
    assert_eq!(terminated.exit_code, 3);
    assert_eq!(terminated.message.as_deref(), Some("no more"));
}

#[tokio::test]
async fn lost_host_port_is_told_once() {
    use netproxy::listeners::Listener;
    use netproxy::{HostPort, HostPortConflict, Protocol};
    let mut stand = Stand::start("host-port", FakeMachine::new(), one(json!({})));
    stand.until("it is ready", |stand| stand.ready()).await;
    let conflict = |uid: &str, host_port: u16| HostPortConflict {
        uid: uid.to_owned(),
        port: HostPort { host_ip: None, host_port, container_port: 80, protocol: Protocol::Tcp },
        listener: Listener {
            protocol: Protocol::Tcp,
            address: [0, 0, 0, 0].into(),
            port: host_port,
            inode: 0,
            ipv6_only: false,
        },
    };
    let event = |port: u16| {
        format!(
            "HostPortConflict A process of the node listens on host port {port}/TCP, which does \
             not lead to the pod any more"
        )
    };
    stand.machine.conflicts.send_replace(vec![conflict("u", 8080), conflict("other", 7070)]);
    stand.until("it is told", |stand| stand.has_told(&event(8080))).await;
    // The same one beside another.
    stand.machine.conflicts.send_replace(vec![conflict("u", 8080), conflict("u", 9090)]);
    stand.until("the other is told", |stand| stand.has_told(&event(9090))).await;
    assert_eq!(stand.told.iter().filter(|told| **told == event(8080)).count(), 1);
    assert!(!stand.has_told(&event(7070)));
    // It comes back.
    stand.machine.conflicts.send_replace(Vec::new());
    tokio::time::sleep(Duration::from_millis(50)).await;
    stand.machine.conflicts.send_replace(vec![conflict("u", 8080)]);
    let times = |stand: &Stand| stand.told.iter().filter(|told| **told == event(8080)).count();
    let again = |stand: &mut Stand| stand.has_told(&event(8080)) && times(stand) == 2;
    stand.until("it is told again", again).await;
}

#[tokio::test]
async fn a_container_whose_sandbox_is_lost_before_it_runs_starts_in_another_one() {
    let machine = FakeMachine::new();
    machine.sandbox.lose_shim();
    let mut spec = one(json!({}));
    spec["restartPolicy"] = "Never".into();
    let mut stand = Stand::start("lost", machine, spec);
    stand.until("it is ready", |stand| stand.ready()).await;
    let status = stand.api.status().container_statuses.unwrap()[0].clone();
    assert_eq!(status.restart_count, 0);
    assert!(status.last_state.is_none_or(|state| state.terminated.is_none()), "it has not ended");
    assert_eq!(
        stand.machine.journal.all(),
        ["make sandbox", "start a", "remove sandbox", "make sandbox", "start a"]
    );
}

#[tokio::test]
async fn a_pod_that_the_node_does_not_take_in_fails_with_nothing_made() {
    let refusal = Failure { reason: "OutOfcpu".into(), message: "too much".into() };
    let spec = one(json!({}));
    let mut stand = Stand::start_refused("refused", FakeMachine::new(), spec, Some(refusal));
    stand.until("it has failed", |stand| stand.phase() == "Failed").await;
    stand.until("the reason is told", |stand| stand.has_told("OutOfcpu too much")).await;
    let status = stand.api.status();
    assert_eq!(status.reason.as_deref(), Some("OutOfcpu"));
    assert_eq!(status.message.as_deref(), Some("Pod was rejected: too much"));
    assert!(status.start_time.is_some());
    assert_eq!((status.container_statuses, status.conditions), (None, None));
    stand.delete(30);
    stand.finish().await;
    assert_eq!(stand.machine.journal.all(), ["detach"]);
}

#[tokio::test]
async fn a_pod_that_wants_users_of_its_own_is_not_started_with_those_of_the_machine() {
    let mut spec = one(json!({}));
    spec["hostUsers"] = false.into();
    let mut stand = Stand::start("users", FakeMachine::new(), spec);
    let why = "FailedCreatePodSandBox Failed to create pod sandbox: can't set `spec.hostUsers: \
               false`, runtime does not support user namespaces";
    stand.until("the reason is told", |stand| stand.has_told(why)).await;
    assert_eq!(stand.waits("a").as_deref(), Some("ContainerCreating"));
    assert_eq!(stand.phase(), "Pending");
    stand.delete(30);
    stand.finish().await;
    assert_eq!(stand.machine.journal.all(), ["detach"]);
}

#[tokio::test]
async fn a_pod_starts_the_moment_its_secret_appears() {
    let mut spec = one(json!({"env": [
        {"name": "A", "valueFrom": {"secretKeyRef": {"name": "words", "key": "k"}}}]}));
    // The first waits for a volume, the second for a variable.
    spec["volumes"] = json!([{"name": "v", "projected": {"sources": [{"secret": {"name": "s"}}]}}]);
    let mut stand = Stand::start("secret", FakeMachine::new(), spec);
    let missing = "FailedMount MountVolume.SetUp failed for volume \"v\" : secret \"s\" not found";
    stand.until("the reason is told", |stand| stand.has_told(missing)).await;
    assert_eq!(stand.waits("a").as_deref(), Some("ContainerCreating"));
    stand.api.add_secret("s");
    if !skip::is_root("a volume on tmpfs") {
        return;
    }
    let held =
        |stand: &mut Stand| stand.waits("a").as_deref() == Some("CreateContainerConfigError");
    stand.until("the variable is missed", held).await;
    stand.api.add_secret("words");
    stand.until("it is ready", |stand| stand.ready()).await;
    // One sandbox served every attempt.
    assert_eq!(stand.machine.journal.count("make sandbox"), 1);
    stand.has_told("");
    assert_eq!(stand.told.iter().filter(|told| *told == missing).count(), 1, "{:?}", stand.told);
    stand.delete(0);
    stand.finish().await;
}

#[tokio::test]
async fn a_pod_that_waits_for_a_secret_can_be_deleted() {
    let mut spec = one(json!({}));
    spec["volumes"] = json!([{"name": "v", "secret": {"secretName": "s"}}]);
    let mut stand = Stand::start("waiting", FakeMachine::new(), spec);
    let missing = "FailedMount MountVolume.SetUp failed for volume \"v\" : secret \"s\" not found";
    stand.until("the reason is told", |stand| stand.has_told(missing)).await;
    stand.delete(30);
    stand.finish().await;
    assert_eq!(stand.machine.journal.all(), ["make sandbox", "remove sandbox", "detach"]);
}

#[tokio::test]
async fn a_sub_path_of_a_variable_without_a_value_holds_the_container() {
    let mount = json!({"name": "v", "mountPath": "/v", "subPathExpr": "$(NOSUCH)/a"});
    let mut spec = one(json!({"volumeMounts": [mount]}));
    spec["volumes"] = json!([{"name": "v", "emptyDir": {}}]);
    let mut stand = Stand::start("sub-path", FakeMachine::new(), spec);
    let told = "Failed Error: missing value for NOSUCH";
    stand.until("the reason is told", |stand| stand.has_told(told)).await;
    let held =
        |stand: &mut Stand| stand.waits("a").as_deref() == Some("CreateContainerConfigError");
    stand.until("the container waits", held).await;
    assert_eq!(stand.machine.journal.count("start a"), 0);
    stand.delete(0);
    stand.finish().await;
}

#[tokio::test]
async fn an_image_that_is_present_starts_without_a_registry() {
    let machine = FakeMachine::new();
    machine.cut_registries();
    let mut stand = Stand::start("registry", machine, one(json!({"imagePullPolicy": "Always"})));
    stand.until("it is ready", |stand| stand.ready()).await;
    stand.has_told("");
    let told = stand.told.iter().any(|told| told.starts_with("RegistryUnreachable"));
    assert!(told, "{:?}", stand.told);
}

#[tokio::test]
async fn crashes_back_off_after_the_first_restart() {
    let mut stand = Stand::start("crash", FakeMachine::new(), one(json!({})));
    stand.until("it is ready", |stand| stand.ready()).await;
    stand.machine.sandbox.end("a", 1);
    stand.until("it is started again", |s| s.machine.journal.count("start a") == 2).await;
    stand.until("it is ready again", |stand| stand.ready()).await;
    stand.machine.sandbox.end("a", 1);
    let looping = |stand: &mut Stand| stand.waits("a").as_deref() == Some("CrashLoopBackOff");
    stand.until("it backs off", looping).await;
    let announced = "BackOff Back-off restarting failed container a in pod p_d(u)";
    stand.until("it says so", |stand| stand.has_told(announced)).await;
    let statuses = stand.api.status().container_statuses.unwrap();
    assert_eq!(statuses[0].restart_count, 1);
    assert_eq!(stand.phase(), "Running");
}

#[tokio::test]
async fn a_pod_behind_a_service_is_signalled_once_no_connection_can_come() {
    let mut stand = Stand::start("withdrawal", FakeMachine::new(), one(json!({})));
    stand.until("it is ready", |stand| stand.ready()).await;
    stand.api.pod(|pod| pod["metadata"]["labels"] = json!({"app": "front"}));
    stand.delete(30);
    stand.finish().await;
    assert_eq!(
        stand.machine.journal.all(),
        ["make sandbox", "start a", "withdraw d/front", "signal a 15", "remove sandbox", "detach"]
    );
}

#[tokio::test]
async fn who_has_no_time_to_end_is_not_withdrawn_first() {
    let mut stand = Stand::start("no-withdrawal", FakeMachine::new(), one(json!({})));
    stand.until("it is ready", |stand| stand.ready()).await;
    stand.api.pod(|pod| pod["metadata"]["labels"] = json!({"app": "front"}));
    stand.delete(0);
    stand.finish().await;
    let journal = stand.machine.journal.all();
    assert!(journal.contains(&"signal a 9".to_owned()), "{journal:?}");
    assert!(!journal.iter().any(|line| line.starts_with("withdraw")), "{journal:?}");
}

#[tokio::test]
async fn a_stubborn_container_is_killed_when_its_grace_is_over() {
    let machine = FakeMachine::new();
    machine.sandbox.ignore_signals("a");
    let mut stand = Stand::start("stubborn", machine, one(json!({})));
    stand.until("it is ready", |stand| stand.ready()).await;
    stand.delete(1);
    stand.finish().await;
    let journal = stand.machine.journal.all();
    let signals: Vec<&String> = journal.iter().filter(|line| line.starts_with("signal")).collect();
    assert_eq!(signals, ["signal a 15", "signal a 9"]);
}

#[tokio::test]
async fn stuck_shim_does_not_keep_a_pod() {
    let machine = FakeMachine::new();
    machine.sandbox.wedge("a");
    let mut stand = Stand::start("wedged", machine, one(json!({})));
    stand.until("it is ready", |stand| stand.ready()).await;
    stand.delete(1);
    stand.finish().await;
    assert_eq!(stand.machine.journal.count("kill all a"), 1);
}

#[tokio::test]
async fn init_containers_and_sidecars_come_first_and_sidecars_go_last() {
    let container = |name: &str| json!({"name": name, "image": "a", "imagePullPolicy": "Never"});
    let mut sidecar = container("side");
    sidecar["restartPolicy"] = "Always".into();
    let spec = json!({"restartPolicy": "Never",
        "initContainers": [container("one"), sidecar, container("two")],
        "containers": [container("main")]});
    let mut stand = Stand::start("init", FakeMachine::new(), spec);
    stand.until("one runs", |stand| stand.machine.journal.count("start one") == 1).await;
    assert_eq!(stand.waits("main").as_deref(), Some("PodInitializing"));
    stand.machine.sandbox.end("one", 0);
    stand.until("two runs", |stand| stand.machine.journal.count("start two") == 1).await;
    stand.machine.sandbox.end("two", 0);
    stand.until("main is up", |stand| stand.ready()).await;
    stand.machine.sandbox.end("main", 0);
    stand.until("the pod succeeds", |stand| stand.phase() == "Succeeded").await;
    assert_eq!(
        stand.machine.journal.all(),
        [
            "make sandbox",
            "start one",
            "start side",
            "start two",
            "start main",
            "signal side 15",
            "remove sandbox",
            "detach"
        ]
    );
}

#[tokio::test]
async fn hooks_run_before_the_next_container_and_before_the_signal() {
    let machine = FakeMachine::new();
    machine.sandbox.program("greet", 3);
    let spec = json!({"restartPolicy": "Never", "containers": [
        {"name": "a", "image": "a", "imagePullPolicy": "Never", "lifecycle": {
            "postStart": {"exec": {"command": ["hello"]}},
            "preStop": {"exec": {"command": ["bye"]}}}},
        {"name": "b", "image": "a", "imagePullPolicy": "Never", "lifecycle": {
            "postStart": {"exec": {"command": ["greet"]}}}},
    ]});
    let mut stand = Stand::start("hooks", machine, spec);
    stand.until("b is killed", |stand| stand.machine.journal.count("signal b 15") == 1).await;
    let failed = "FailedPostStartHook PostStartHook failed";
    stand.until("the failure is told", |stand| stand.has_told(failed)).await;
    stand.delete(30);
    stand.finish().await;
    assert_eq!(
        stand.machine.journal.all(),
        [
            "make sandbox",
            "start a",
            "exec hello",
            "start b",
            "exec greet",
            "signal b 15",
            "exec bye",
            "signal a 15",
            "remove sandbox",
            "detach"
        ]
    );
}

#[tokio::test]
async fn readiness_goes_on_while_a_pod_ends() {
    let machine = FakeMachine::new();
    machine.sandbox.ignore_signals("a");
    let probe = json!({"exec": {"command": ["well"]}, "periodSeconds": 1, "failureThreshold": 1});
    let mut stand = Stand::start("readiness", machine, one(json!({"readinessProbe": probe})));
    stand.until("it is ready", |stand| stand.ready()).await;
    stand.delete(60);
    stand.until("it was asked to end", |s| s.machine.journal.count("signal a 15") == 1).await;
    assert!(stand.ready(), "a container that still serves is ready");
    stand.machine.sandbox.program("well", 1);
    stand.until("it is not ready any more", |stand| !stand.ready()).await;
    stand.machine.sandbox.end("a", 0);
    stand.finish().await;
}

#[tokio::test]
async fn a_failed_startup_probe_restarts() {
    let machine = FakeMachine::new();
    machine.sandbox.program("up", 1);
    let probe = json!({"exec": {"command": ["up"]}, "periodSeconds": 1, "failureThreshold": 1});
    let mut stand = Stand::start(
        "startup",
        machine,
        one(json!({"startupProbe": probe, "livenessProbe": {"exec": {"command": ["alive"]}}})),
    );
    let killed = "Killing Container a failed startup probe, will be restarted";
    stand.until("it is killed", |stand| stand.has_told(killed)).await;
    assert_eq!(stand.machine.journal.count("exec alive"), 0, "liveness waits for startup");
    stand.machine.sandbox.program("up", 0);
    stand.until("liveness is asked", |s| s.machine.journal.count("exec alive") > 0).await;
    assert!(stand.machine.journal.count("start a") >= 2);
}
