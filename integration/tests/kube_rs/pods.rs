//! Pods: their subresources, logs, streams and forwarded ports.

use coracle_integration::privileged;
use futures::{AsyncBufReadExt, SinkExt, TryStreamExt};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use kube::api::{
    AttachParams, DeleteParams, EvictParams, ListParams, LogParams, Patch, PatchParams, PostParams,
    TerminalSize,
};
use kube::runtime::conditions::is_deleted;
use kube::runtime::wait::await_condition;
use kube::{Api, ResourceExt};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{NAMESPACE, Session, delete_namespace, object, patient, refusal, running};

fn pod(name: &str, script: &str, more: Value) -> Value {
    let mut container = json!({
        "name": "main",
        "image": "busybox",
        "imagePullPolicy": "IfNotPresent",
        "command": ["sh", "-c", script],
    });
    for (key, value) in more.as_object().unwrap() {
        container[key] = value.clone();
    }
    json!({
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {
            "terminationGracePeriodSeconds": 1,
            "restartPolicy": "Never",
            "containers": [container],
        },
    })
}

/// The status of one of a pod's conditions.
fn condition(pod: &Pod, kind: &str) -> Option<String> {
    let conditions = pod.status.as_ref().unwrap().conditions.clone().unwrap_or_default();
    conditions.into_iter().find(|c| c.type_ == kind).map(|c| c.status)
}

fn is_ready(pod: Option<&Pod>) -> bool {
    pod.is_some_and(|pod| condition(pod, "Ready").as_deref() == Some("True"))
}

/// Runs a command to its end: what it printed on both streams, and how it ended.
async fn exec(
    pods: &Api<Pod>,
    name: &str,
    command: &[&str],
    input: Option<&[u8]>,
) -> (String, String, Status) {
    let parameters = AttachParams::default().stdin(input.is_some()).stdout(true).stderr(true);
    let mut process = pods.exec(name, command.to_vec(), &parameters).await.unwrap();
    let status = process.take_status().unwrap();
    let writing = process.stdin().zip(input).map(|(mut stdin, input)| {
        let input = input.to_vec();
        tokio::spawn(async move {
            stdin.write_all(&input).await.unwrap();
            stdin.shutdown().await.unwrap();
        })
    });
    let (mut out, mut errors) = (String::new(), String::new());
    let (mut stdout, mut stderr) = (process.stdout().unwrap(), process.stderr().unwrap());
    let both =
        futures::future::join(stdout.read_to_string(&mut out), stderr.read_to_string(&mut errors));
    let (read, error) = patient("the output ends", both).await;
    read.unwrap();
    error.unwrap();
    if let Some(writing) = writing {
        patient("the input is written", writing).await.unwrap();
    }
    let status = patient("the status", status).await.expect("a status comes");
    patient("the stream closes", process.join()).await.unwrap();
    (out, errors, status)
}

#[test]
fn exec_attach_logs_and_forwarded_ports() {
    if !privileged() {
        return;
    }
    let session = Session::start();
    session.run(async {
        let client = session.client().await;
        let pods: Api<Pod> = Api::namespaced(client.clone(), NAMESPACE);
        let script = "echo one; echo two; echo three; exec sleep 10000";
        running(&pods, pod("talker", script, json!({}))).await;

        // exec: streams apart, input to its end, exit codes as upstream's Status.
        let (out, errors, status) =
            exec(&pods, "talker", &["sh", "-c", "echo out; echo err >&2"], None).await;
        assert_eq!(
            (&*out, &*errors, status.status.as_deref()),
            ("out\n", "err\n", Some("Success"))
        );
        let input = vec![b'x'; 1 << 20];
        let (out, _, status) = exec(&pods, "talker", &["wc", "-c"], Some(&input)).await;
        assert_eq!((out.trim(), status.status.as_deref()), ("1048576", Some("Success")));
        let (out, _, _) =
            exec(&pods, "talker", &["head", "-c", "3000000", "/dev/zero"], None).await;
        assert_eq!(out.len(), 3_000_000);
        let (_, _, status) = exec(&pods, "talker", &["sh", "-c", "exit 7"], None).await;
        assert_eq!(status.status.as_deref(), Some("Failure"));
        assert_eq!(status.reason.as_deref(), Some("NonZeroExitCode"));
        assert!(status.message.unwrap().starts_with("command terminated with non-zero exit code"));
        let cause = &status.details.unwrap().causes.unwrap()[0];
        assert_eq!(
            (cause.reason.as_deref(), cause.message.as_deref()),
            (Some("ExitCode"), Some("7"))
        );
        let parameters = AttachParams::default().container("other");
        let refused = pods.exec("talker", ["true"], &parameters).await.map(drop);
        let status = refusal(refused);
        assert_eq!((status.code, &*status.reason), (400, "BadRequest"), "{status:?}");
        assert_eq!(status.message, "container other is not valid for pod talker");

        // A terminal of a size that changes.
        let parameters = AttachParams::interactive_tty();
        let mut process = pods.exec("talker", ["sh"], &parameters).await.unwrap();
        let status = process.take_status().unwrap();
        let mut size = process.terminal_size().unwrap();
        size.send(TerminalSize { height: 33, width: 111 }).await.unwrap();
        let mut stdin = process.stdin().unwrap();
        let mut stdout = process.stdout().unwrap();
        let mut screen = String::new();
        let sized = async {
            // The size travels on a channel of its own: it may come after the first answer.
            while !screen.contains("33 111") {
                stdin.write_all(b"stty size\n").await.unwrap();
                let mut buffer = [0; 1024];
                let read = stdout.read(&mut buffer).await.unwrap();
                screen.push_str(&String::from_utf8_lossy(&buffer[..read]));
            }
            stdin.write_all(b"exit 5\n").await.unwrap();
            stdout.read_to_string(&mut screen).await.unwrap();
        };
        patient("the terminal", sized).await;
        let status = patient("the status", status).await.unwrap();
        let cause = &status.details.unwrap().causes.unwrap()[0];
        assert_eq!(cause.message.as_deref(), Some("5"), "{screen}");
        drop(process);

        // Logs: all, the last, with times, and following to the end.
        let logs = |parameters: LogParams| {
            let pods = pods.clone();
            async move { pods.logs("talker", &parameters).await.unwrap() }
        };
        assert_eq!(logs(LogParams::default()).await, "one\ntwo\nthree\n");
        assert_eq!(
            logs(LogParams { tail_lines: Some(1), ..LogParams::default() }).await,
            "three\n"
        );
        assert_eq!(
            logs(LogParams { limit_bytes: Some(5), ..LogParams::default() }).await,
            "one\nt"
        );
        let timed = logs(LogParams { timestamps: true, ..LogParams::default() }).await;
        assert!(
            timed.lines().all(|line| line.as_bytes()[10] == b'T' && line.contains("Z ")),
            "{timed}"
        );
        let status = refusal(
            pods.logs("talker", &LogParams { previous: true, ..LogParams::default() }).await,
        );
        assert_eq!((status.code, &*status.reason), (400, "BadRequest"));
        assert_eq!(
            status.message,
            "previous terminated container \"main\" in pod \"talker\" not found"
        );
        let counting = "echo errors >&2; read go; \
                        for i in 1 2 3 4 5; do echo line $i; sleep 0.2; done; exit 4";
        running(&pods, pod("counter", counting, json!({"stdin": true, "stdinOnce": true}))).await;
        let follow = LogParams { follow: true, ..LogParams::default() };
        let lines = pods.log_stream("counter", &follow).await.unwrap().lines();

        // attach: the container's own input and output.
        let parameters = AttachParams::default().stdin(true).stdout(true).stderr(false);
        let mut process = pods.attach("counter", &parameters).await.unwrap();
        let mut stdin = process.stdin().unwrap();
        stdin.write_all(b"go\n").await.unwrap();
        let mut out = String::new();
        let mut stdout = process.stdout().unwrap();
        patient("the container's output", stdout.read_to_string(&mut out)).await.unwrap();
        let expected: Vec<String> = (1..=5).map(|i| format!("line {i}")).collect();
        assert_eq!(out.lines().collect::<Vec<_>>(), expected);
        // Between two streams there is no order.
        let mut followed: Vec<String> = patient("the log ends", lines.try_collect()).await.unwrap();
        followed.sort();
        assert_eq!(followed[0], "errors");
        assert_eq!(followed[1..], expected);
        let ended = |pod: Option<&Pod>| {
            pod.and_then(|pod| pod.status.as_ref()?.phase.clone()).as_deref() == Some("Failed")
        };
        let counter =
            patient("the pod ends", await_condition(pods.clone(), "counter", ended)).await;
        let states = counter.unwrap().unwrap().status.unwrap().container_statuses.unwrap();
        assert_eq!(states[0].state.as_ref().unwrap().terminated.as_ref().unwrap().exit_code, 4);

        // Two ports at once; a port where nobody listens says so on its own channel.
        let server = json!({
            "image": "nginx",
            "command": ["nginx", "-g", "daemon off;"],
            "readinessProbe": {"tcpSocket": {"port": 80}, "periodSeconds": 1},
        });
        running(&pods, pod("web", "", server)).await;
        patient("nginx listens", await_condition(pods.clone(), "web", is_ready)).await.unwrap();
        let mut forwarder = pods.portforward("web", &[80, 81]).await.unwrap();
        let mut stream = forwarder.take_stream(80).unwrap();
        stream
            .write_all(b"GET / HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n")
            .await
            .unwrap();
        let mut answer = String::new();
        patient("an answer", stream.read_to_string(&mut answer)).await.unwrap();
        assert!(
            answer.starts_with("HTTP/1.1 200 OK") && answer.contains("Welcome to nginx!"),
            "{answer}"
        );
        let error = forwarder.take_error(81).unwrap();
        let mut dead = forwarder.take_stream(81).unwrap();
        dead.write_all(b"x").await.unwrap();
        let error = patient("an error", error).await.expect("port 81 is refused");
        assert!(
            error.contains("Connection refused") || error.contains("connection refused"),
            "{error}"
        );
        drop((stream, dead, forwarder));
        delete_namespace(&client).await;
    });
}

#[test]
fn scale_status_and_eviction() {
    if !privileged() {
        return;
    }
    let session = Session::start();
    session.run(async {
        let client = session.client().await;
        let pods: Api<Pod> = Api::namespaced(client.clone(), NAMESPACE);
        let deployments: Api<Deployment> = Api::namespaced(client.clone(), NAMESPACE);
        let create = PostParams::default();

        // scale: the number alone, under the object's name and version.
        let mut template = pod("web", "exec sleep 10000", json!({}));
        template["spec"]["restartPolicy"] = "Always".into();
        template["metadata"].as_object_mut().unwrap().remove("name");
        let web: Deployment = object(json!({
            "metadata": {"name": "web"},
            "spec": {
                "replicas": 1,
                "selector": {"matchLabels": {"app": "web"}},
                "template": template,
            },
        }));
        deployments.create(&create, &web).await.unwrap();
        let scale = deployments.get_scale("web").await.unwrap();
        assert_eq!(scale.spec.as_ref().unwrap().replicas, Some(1));
        assert_eq!(scale.status.unwrap().selector.as_deref(), Some("app=web"));
        let patch = Patch::Merge(json!({"spec": {"replicas": 3}}));
        let mut patched =
            deployments.patch_scale("web", &PatchParams::default(), &patch).await.unwrap();
        assert_eq!(patched.spec.as_ref().unwrap().replicas, Some(3));
        // The controller writes its status meanwhile: who replaces reads what is newest.
        patched.spec.as_mut().unwrap().replicas = Some(2);
        let replacing = async {
            let mut scale = patched.clone();
            while let Err(error) = deployments.replace_scale("web", &create, &scale).await {
                assert!(matches!(&error, kube::Error::Api(s) if s.is_conflict()), "{error:?}");
                scale = deployments.get_scale("web").await.unwrap();
                scale.spec.as_mut().unwrap().replicas = Some(2);
            }
        };
        patient("the replacement", replacing).await;
        let status = refusal(deployments.replace_scale("web", &create, &patched).await);
        assert!(status.is_conflict(), "{status:?}");
        assert_eq!(deployments.get("web").await.unwrap().spec.unwrap().replicas, Some(2));
        let available = |web: Option<&Deployment>| {
            web.and_then(|web| web.status.as_ref()?.available_replicas) == Some(2)
        };
        patient("two pods", await_condition(deployments.clone(), "web", available)).await.unwrap();

        // status: what is written there reaches neither spec nor labels, and the other way round.
        let gate = "example.com/warm";
        let mut gated = pod("gated", "exec sleep 10000", json!({}));
        gated["spec"]["readinessGates"] = json!([{"conditionType": gate}]);
        running(&pods, gated).await;
        assert_eq!(
            condition(&pods.get_status("gated").await.unwrap(), "Ready").as_deref(),
            Some("False")
        );
        let patch = Patch::Strategic(json!({
            "metadata": {"labels": {"app": "other"}},
            "spec": {"activeDeadlineSeconds": 1},
            "status": {"conditions": [{"type": gate, "status": "True"}]},
        }));
        let patched = pods.patch_status("gated", &PatchParams::default(), &patch).await.unwrap();
        assert_eq!(condition(&patched, gate).as_deref(), Some("True"));
        assert_eq!(patched.spec.as_ref().unwrap().active_deadline_seconds, None);
        patient("the gate opens", await_condition(pods.clone(), "gated", is_ready)).await.unwrap();
        let patch = Patch::Merge(json!({"status": {"phase": "Failed"}}));
        let same = pods.patch("gated", &PatchParams::default(), &patch).await.unwrap();
        assert_eq!(same.status.unwrap().phase.as_deref(), Some("Running"));

        // eviction: a budget that allows none, and one that allows one.
        let budgets: Api<PodDisruptionBudget> = Api::namespaced(client.clone(), NAMESPACE);
        let budget: PodDisruptionBudget = object(json!({
            "metadata": {"name": "web"},
            "spec": {"minAvailable": 2, "selector": {"matchLabels": {"app": "web"}}},
        }));
        budgets.create(&create, &budget).await.unwrap();
        let allowed = |number: i32| {
            move |budget: Option<&PodDisruptionBudget>| {
                let status = budget.and_then(|budget| budget.status.as_ref());
                status.is_some_and(|s| s.current_healthy == 2 && s.disruptions_allowed == number)
            }
        };
        patient("the budget", await_condition(budgets.clone(), "web", allowed(0))).await.unwrap();
        let listed = pods.list(&ListParams::default().labels("app=web")).await.unwrap();
        // The third may still be on its way out, and budgets are not asked about that one.
        let staying =
            |pod: &&Pod| is_ready(Some(*pod)) && pod.metadata.deletion_timestamp.is_none();
        let victim = listed.items.iter().find(staying).unwrap();
        let (name, uid) = (victim.name_any(), victim.uid().unwrap());
        let status = refusal(pods.evict(&name, &EvictParams::default()).await);
        assert_eq!((status.code, &*status.reason), (429, "TooManyRequests"));
        assert_eq!(
            status.message,
            "Cannot evict pod as it would violate the pod's disruption budget."
        );
        let details = status.details.unwrap();
        assert_eq!(details.causes[0].reason, "DisruptionBudget");
        assert_eq!(
            details.causes[0].message,
            "The disruption budget web needs 2 healthy pods and has 2 currently"
        );
        let patch = Patch::Merge(json!({"spec": {"minAvailable": 1}}));
        budgets.patch("web", &PatchParams::default(), &patch).await.unwrap();
        patient("the budget", await_condition(budgets.clone(), "web", allowed(1))).await.unwrap();
        let dry = PostParams { dry_run: true, ..PostParams::default() };
        let dry = EvictParams { post_options: dry, ..EvictParams::default() };
        assert!(pods.evict(&name, &dry).await.unwrap().is_success());
        assert!(pods.get(&name).await.unwrap().metadata.deletion_timestamp.is_none());
        let status = pods.evict(&name, &EvictParams::default()).await.unwrap();
        assert!(status.is_success() && status.code == 201, "{status:?}");
        patient("the pod goes", await_condition(pods.clone(), &name, is_deleted(&uid)))
            .await
            .unwrap();
        let status = refusal(pods.evict("absent", &EvictParams::default()).await);
        assert!(status.is_not_found(), "{status:?}");

        // A pod is deleted with grace: the answer is the pod, on its way.
        let deleted = pods.delete("gated", &DeleteParams::default()).await.unwrap();
        let leaving = deleted.left().expect("a running pod leaves in its time");
        assert_eq!(leaving.metadata.deletion_grace_period_seconds, Some(1));
        delete_namespace(&client).await;
    });
}
