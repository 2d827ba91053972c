//! What goes wrong with pods and namespaces, and what is said about it: hooks, probes, init
//! containers, sidecars, finalizers.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::convert::Infallible;
use std::net::TcpListener;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use bytes::Bytes;
use coracle_integration::node::NODE_IP;
use coracle_integration::{Kubectl, Node, eventually, with_old_and_new_kubectl, within};
use http::{HeaderMap, Request, Response};
use http_body_util::StreamBody;
use hyper::body::{Frame, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::runtime::{Builder, Runtime};

/// A pod of these containers: name, shell command, more of the container's spec.
fn pod(name: &str, spec: &Value, containers: &[(&str, &str, Value)]) -> Value {
    let containers: Vec<Value> = containers.iter().map(container).collect();
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"terminationGracePeriodSeconds": 1, "containers": containers},
    });
    let own = pod["spec"].as_object_mut().unwrap();
    own.extend(spec.as_object().unwrap().clone());
    pod
}

fn container((name, command, more): &(&str, &str, Value)) -> Value {
    let mut container = json!({
        "name": name, "image": "busybox", "imagePullPolicy": "IfNotPresent",
        "command": ["sh", "-c", command],
    });
    container.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    container
}

/// Sleeps until it is told to end.
const SLEEP: &str = "trap 'exit 0' TERM; while :; do sleep 0.1; done";

fn apply(kubectl: &Kubectl, object: &Value) {
    kubectl.apply_unvalidated(&object.to_string());
}

fn status(kubectl: &Kubectl, pod: &str) -> Value {
    kubectl.json(&["pod", pod])["status"].clone()
}

/// The column STATUS.
fn word(kubectl: &Kubectl, pod: &str) -> String {
    let row = kubectl.ok(&["get", "pod", pod, "--no-headers"]);
    row.split_whitespace().nth(2).unwrap().to_owned()
}

#[test]
fn hooks_that_fail_are_told_of() {
    with_old_and_new_kubectl(|_, kubectl| {
        let exec = |command: &str| json!({"exec": {"command": ["sh", "-c", command]}});
        let none = json!({});
        let greets = json!({"lifecycle": {"postStart": exec("exit 3")}});
        apply(kubectl, &pod("greeter", &none, &[("main", SLEEP, greets)]));
        let leaves = json!({"lifecycle": {"preStop": exec("exit 4")}});
        apply(kubectl, &pod("leaver", &none, &[("main", SLEEP, leaves)]));
        let lingers = json!({"lifecycle": {"preStop": exec("sleep 1000")}});
        let patient = json!({"terminationGracePeriodSeconds": 2});
        apply(kubectl, &pod("lingerer", &patient, &[("main", SLEEP, lingers)]));
        let absent = json!({"lifecycle": {"preStop": {"httpGet": {"port": 9}}}});
        apply(kubectl, &pod("caller", &none, &[("main", SLEEP, absent)]));

        kubectl.event("greeter", "FailedPostStartHook", "PostStartHook failed");
        kubectl.event("greeter", "Killing", "FailedPostStartHook");
        let greeter = eventually(60, "it is started again", || {
            let status = status(kubectl, "greeter")["containerStatuses"][0].clone();
            (status["restartCount"].as_u64() > Some(0)).then_some(status)
        });
        assert_eq!(greeter["ready"], false, "{greeter}");
        within(60, "it waits for longer and longer", || {
            word(kubectl, "greeter") == "CrashLoopBackOff"
        });
        for pod in ["leaver", "lingerer", "caller"] {
            kubectl.ready(pod);
            kubectl.ok(&["delete", "pod", pod, "--timeout=60s"]);
            kubectl.event(pod, "FailedPreStopHook", "PreStopHook failed");
        }
        kubectl.ok(&["delete", "pod", "greeter", "--timeout=60s"]);
    });
}

#[test]
fn init_containers_and_sidecars_that_end() {
    with_old_and_new_kubectl(|_, kubectl| {
        let never = |init: Value| json!({"restartPolicy": "Never", "initContainers": init});
        let init = |name: &str, command: &str| container(&(name, command, json!({})));
        let main = [("main", "echo worked", json!({}))];
        apply(
            kubectl,
            &pod(
                "refused",
                &never(json!([init("first", "exit 5"), init("second", "true")])),
                &main,
            ),
        );
        let again = json!({"initContainers": [init("first", "exit 6")]});
        apply(kubectl, &pod("retried", &again, &main));
        let sidecar =
            |command: &str| container(&("side", command, json!({"restartPolicy": "Always"})));
        let last = "trap 'echo side ends; exit 7' TERM; while :; do sleep 0.1; done";
        let task = never(json!([sidecar(last)]));
        apply(kubectl, &pod("task", &task, &[("main", "sleep 2; echo worked", json!({}))]));
        let flaky = never(json!([sidecar("sleep 1; exit 8")]));
        apply(kubectl, &pod("flaky", &flaky, &[("main", SLEEP, json!({}))]));

        within(60, "the pod fails", || word(kubectl, "refused") == "Init:Error");
        let refused = status(kubectl, "refused");
        assert_eq!(refused["phase"], "Failed");
        let first = &refused["initContainerStatuses"][0]["state"]["terminated"];
        assert_eq!((&first["exitCode"], &first["reason"]), (&5.into(), &"Error".into()));
        let waiting = |status: &Value| status["state"]["waiting"]["reason"].clone();
        assert_eq!(waiting(&refused["initContainerStatuses"][1]), "PodInitializing");
        assert_eq!(waiting(&refused["containerStatuses"][0]), "PodInitializing");

        within(60, "it is tried again", || word(kubectl, "retried") == "Init:CrashLoopBackOff");
        let retried = kubectl.json(&["pod", "retried"]);
        assert_eq!(retried["status"]["phase"], "Pending");
        let conditions = retried["status"]["conditions"].as_array().unwrap();
        let initialized = conditions.iter().find(|c| c["type"] == "Initialized").unwrap();
        assert_eq!(
            (&initialized["status"], &initialized["reason"]),
            (&"False".into(), &"ContainersNotInitialized".into())
        );
        assert_eq!(initialized["message"], "containers with incomplete status: [first]");
        let uid = retried["metadata"]["uid"].as_str().unwrap();
        let namespace = retried["metadata"]["namespace"].as_str().unwrap();
        let text =
            format!("Back-off restarting failed container first in pod retried_{namespace}({uid})");
        kubectl.event("retried", "BackOff", &text);

        // A sidecar ends after the work is done, and does not spoil it.
        within(60, "the task is done", || status(kubectl, "task")["phase"] == "Succeeded");
        let task = status(kubectl, "task");
        let side = &task["initContainerStatuses"][0]["state"]["terminated"];
        let main = &task["containerStatuses"][0]["state"]["terminated"];
        assert_eq!((&side["exitCode"], &main["exitCode"]), (&7.into(), &0.into()), "{task}");
        assert!(main["finishedAt"].as_str() <= side["finishedAt"].as_str(), "{task}");
        assert_eq!(kubectl.ok(&["logs", "task", "-c", "side"]), "side ends\n");
        assert_eq!(word(kubectl, "task"), "Completed");

        // One that ends before is started again, whatever the pod's policy.
        let flaky = eventually(60, "the sidecar is started again", || {
            let status = status(kubectl, "flaky");
            let side = &status["initContainerStatuses"][0];
            (side["restartCount"].as_u64() > Some(0)).then_some(status)
        });
        assert_eq!(flaky["initContainerStatuses"][0]["lastState"]["terminated"]["exitCode"], 8);
        assert_eq!(flaky["phase"], "Running");
        assert_eq!(flaky["containerStatuses"][0]["restartCount"], 0);
        kubectl.ok(&["delete", "pods", "--all", "--timeout=60s"]);
    });
}

#[test]
fn probes_of_every_kind_fail_in_upstreams_words() {
    with_old_and_new_kubectl(|node, kubectl| {
        slow_starters(kubectl);
        encrypted(node, kubectl);
        remote_procedures(node, kubectl);
        kubectl.ok(&["delete", "pods", "--all", "--timeout=60s"]);
    });
}

fn slow_starters(kubectl: &Kubectl) {
    let probe = json!({"startupProbe": {"exec": {"command": ["cat", "/never"]},
        "periodSeconds": 1, "failureThreshold": 2, "timeoutSeconds": 20},
        // It does not count before the startup is over.
        "livenessProbe": {"exec": {"command": ["false"]}, "periodSeconds": 1}});
    let none = json!({});
    apply(kubectl, &pod("slow", &none, &[("main", SLEEP, probe)]));
    let hang = json!({"readinessProbe": {"exec": {"command": ["sleep", "1000"]},
        "periodSeconds": 1, "timeoutSeconds": 1}});
    apply(kubectl, &pod("hanging", &none, &[("main", SLEEP, hang)]));
    let closed = json!({"readinessProbe": {"tcpSocket": {"port": 81}, "periodSeconds": 1}});
    apply(kubectl, &pod("closed", &none, &[("main", SLEEP, closed)]));

    kubectl.event("slow", "Unhealthy", "Startup probe failed: cat: ");
    kubectl.event("slow", "Killing", "Container main failed startup probe, will be restarted");
    within(60, "it is restarted", || {
        let status = status(kubectl, "slow")["containerStatuses"][0].clone();
        assert_eq!((&status["started"], &status["ready"]), (&false.into(), &false.into()));
        status["restartCount"].as_u64() > Some(0)
    });
    let timed_out = "Readiness probe failed: command timed out: \"sleep 1000\" timed out after 1s";
    kubectl.event("hanging", "Unhealthy", timed_out);
    let ip = kubectl.jsonpath(&["pod", "closed"], "{.status.podIP}");
    let refused = format!("Readiness probe failed: dial tcp {ip}:81: connect: connection refused");
    kubectl.event("closed", "Unhealthy", &refused);
    assert_eq!(status(kubectl, "hanging")["containerStatuses"][0]["restartCount"], 0);
    // What took too long is not left behind in the container.
    std::thread::sleep(std::time::Duration::from_secs(5));
    let processes = kubectl.ok(&["exec", "hanging", "--", "ps", "-o", "args"]);
    let left = processes.lines().filter(|line| *line == "sleep 1000").count();
    assert!(left <= 1, "{processes}");
    kubectl.ok(&["delete", "pod", "slow", "hanging", "closed", "--timeout=60s"]);
}

/// A certificate that nobody signed is good enough for a probe.
fn encrypted(node: &Node, kubectl: &Kubectl) {
    let dir = node.path(&format!("tls-{}", kubectl.version));
    std::fs::create_dir(&dir).unwrap();
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"])
        .args(["-subj", "/CN=somebody.else", "-keyout", "key", "-out", "certificate"])
        .current_dir(&dir)
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let settings = "user www-data; worker_processes 1; pid /run/nginx.pid; events {}
http {
  access_log /var/log/nginx/access.log;
  server {
    listen 443 ssl;
    ssl_certificate /tls/certificate; ssl_certificate_key /tls/key;
    location /good { return 200 fine; }
    location /bad { return 503 busy; }
  }
  server { listen 80; location / { return 200 fine; } }
}";
    std::fs::write(dir.join("nginx.conf"), settings).unwrap();
    let from = format!("--from-file={}", dir.display());
    kubectl.ok(&["create", "secret", "generic", "tls", &from]);
    let server = |path: &str, port: u16| {
        let volumes = json!({"volumes": [{"name": "tls", "secret": {"secretName": "tls"}}]});
        let name = format!("tls-{path}-{port}");
        let more = json!({
            "image": "nginx", "command": ["nginx", "-c", "/tls/nginx.conf", "-g", "daemon off;"],
            "volumeMounts": [{"name": "tls", "mountPath": "/tls"}],
            "readinessProbe": {"httpGet": {"path": format!("/{path}"), "port": port,
                "scheme": "HTTPS"}, "periodSeconds": 1, "timeoutSeconds": 20},
        });
        apply(kubectl, &pod(&name, &volumes, &[("main", "", more)]));
        name
    };
    let (good, bad, plain) = (server("good", 443), server("bad", 443), server("good", 80));
    kubectl.ready(&good);
    let asked = kubectl.ok(&["logs", &good]);
    assert!(asked.contains("\"GET /good HTTP/1.1\" 200"), "{asked}");
    assert!(asked.contains("kube-probe/1.33"), "{asked}");
    let text = "Readiness probe failed: HTTP probe failed with statuscode: 503";
    kubectl.event(&bad, "Unhealthy", text);
    let ip = kubectl.jsonpath(&["pod", &plain], "{.status.podIP}");
    let text = format!(
        "Readiness probe failed: Get \"https://{ip}:80/good\": http: server gave HTTP response to \
         HTTPS client"
    );
    kubectl.event(&plain, "Unhealthy", &text);
    kubectl.ok(&["delete", "pod", &good, &bad, &plain, "--timeout=60s"]);
}

/// Answers `grpc.health.v1.Health/Check` with the state of `health`, for one service only, until
/// what it returns is dropped.
fn serve_health(listener: TcpListener, health: Arc<AtomicU8>) -> Runtime {
    async fn answer(
        request: Request<Incoming>,
        health: Arc<AtomicU8>,
    ) -> Result<
        Response<StreamBody<impl futures::Stream<Item = Result<Frame<Bytes>, Infallible>>>>,
        Infallible,
    > {
        use http_body_util::BodyExt;
        let known = request.uri().path() == "/grpc.health.v1.Health/Check";
        let asked = request.into_body().collect().await.map(|body| body.to_bytes());
        let known = known && asked.is_ok_and(|body| body[..] == *b"\0\0\0\0\x04\x0a\x02db");
        let mut trailers = HeaderMap::new();
        // 12 is UNIMPLEMENTED.
        trailers.insert("grpc-status", if known { 0 } else { 12 }.into());
        let message = Bytes::from(vec![0, 0, 0, 0, 2, 8, health.load(Ordering::SeqCst)]);
        let frames = [Ok(Frame::data(message)), Ok(Frame::trailers(trailers))];
        let body = StreamBody::new(futures::stream::iter(frames));
        Ok(Response::builder().header("content-type", "application/grpc").body(body).unwrap())
    }
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.spawn(async move {
        listener.set_nonblocking(true).unwrap();
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        while let Ok((stream, _)) = listener.accept().await {
            let health = health.clone();
            tokio::spawn(async move {
                let service = hyper::service::service_fn(|request| answer(request, health.clone()));
                let http = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                // A probe closes its connection as it likes.
                let _ = http.serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    runtime
}

fn remote_procedures(node: &Node, kubectl: &Kubectl) {
    let health = Arc::new(AtomicU8::new(2));
    let listener = node.ns.listen(&format!("{NODE_IP}:50051"));
    let _server = serve_health(listener, health.clone());
    // In the network of the machine a probe asks the machine.
    let host = json!({"hostNetwork": true});
    let asks = |service: &str, port: u16| {
        json!({"readinessProbe": {"grpc": {"port": port, "service": service},
            "periodSeconds": 1, "timeoutSeconds": 20}})
    };
    apply(kubectl, &pod("rpc", &host, &[("main", SLEEP, asks("db", 50051))]));
    apply(kubectl, &pod("rpc-other", &host, &[("main", SLEEP, asks("other", 50051))]));
    apply(kubectl, &pod("rpc-closed", &host, &[("main", SLEEP, asks("db", 50052))]));
    let text = "Readiness probe failed: service unhealthy (responded with \"NOT_SERVING\")";
    kubectl.event("rpc", "Unhealthy", text);
    let text = "Readiness probe failed: error: this server does not implement the grpc health \
                protocol (grpc.health.v1.Health)";
    kubectl.event("rpc-other", "Unhealthy", text);
    let address = format!("{NODE_IP}:50052");
    let text = format!("Readiness probe failed: error: failed to connect service at \"{address}\"");
    kubectl.event("rpc-closed", "Unhealthy", &text);
    health.store(1, Ordering::SeqCst);
    kubectl.ready("rpc");
    health.store(2, Ordering::SeqCst);
    kubectl.ok(&["wait", "--for=condition=Ready=false", "pod/rpc", "--timeout=60s"]);
}

#[test]
fn a_namespace_that_cannot_end_says_what_is_left() {
    with_old_and_new_kubectl(|_, kubectl| {
        let name = format!("stuck-{}", kubectl.version.replace('.', "-"));
        kubectl.ok(&["create", "namespace", &name]);
        let stuck = kubectl.in_namespace(&name);
        for (object, finalizer) in [("a", "example.com/one"), ("b", "example.com/two")] {
            apply(
                &stuck,
                &json!({"apiVersion": "v1", "kind": "ConfigMap",
                "metadata": {"name": object, "finalizers": [finalizer]}}),
            );
        }
        apply(&stuck, &pod("sleeper", &json!({}), &[("main", SLEEP, json!({}))]));
        stuck.ready("sleeper");
        kubectl.ok(&["delete", "namespace", &name, "--wait=false"]);
        let expected = [
            (
                "NamespaceDeletionDiscoveryFailure",
                "False",
                "ResourcesDiscovered",
                "All resources successfully discovered",
            ),
            (
                "NamespaceDeletionGroupVersionParsingFailure",
                "False",
                "ParsedGroupVersions",
                "All legacy kube types successfully parsed",
            ),
            (
                "NamespaceDeletionContentFailure",
                "False",
                "ContentDeleted",
                "All content successfully deleted, may be waiting on finalization",
            ),
            (
                "NamespaceContentRemaining",
                "True",
                "SomeResourcesRemain",
                "Some resources are remaining: configmaps. has 2 resource instances",
            ),
            (
                "NamespaceFinalizersRemaining",
                "True",
                "SomeFinalizersRemain",
                "Some content in the namespace has finalizers remaining: example.com/one in 1 \
              resource instances, example.com/two in 1 resource instances",
            ),
        ];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        within(60, "the conditions say what is left", || {
            let status = kubectl.json(&["namespace", &name])["status"].clone();
            let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
            let found: Vec<[String; 4]> = conditions
                .iter()
                .map(|c| [&c["type"], &c["status"], &c["reason"], &c["message"]].map(text))
                .collect();
            status["phase"] == "Terminating"
                && found == expected.map(|(a, b, c, d)| [a, b, c, d].map(str::to_owned))
        });
        let row = kubectl.ok(&["get", "namespace", &name, "--no-headers"]);
        assert_eq!(row.split_whitespace().nth(1), Some("Terminating"), "{row}");
        let refused = stuck.fails(&["create", "configmap", "late"]);
        let why = format!(
            "configmaps \"late\" is forbidden: unable to create new content in namespace {name} \
             because it is being terminated"
        );
        assert!(refused.contains(&why), "{refused}");
        let free = r#"{"metadata": {"finalizers": null}}"#;
        stuck.ok(&["patch", "configmap", "a", "--type=merge", "-p", free]);
        within(60, "one of them is left", || {
            let status = kubectl.json(&["namespace", &name])["status"].clone();
            status["conditions"][3]["message"]
                == "Some resources are remaining: configmaps. has 1 resource instances"
        });
        stuck.ok(&["patch", "configmap", "b", "--type=merge", "-p", free]);
        within(60, "the namespace ends", || kubectl.run(&["get", "namespace", &name]).code != 0);
    });
}
