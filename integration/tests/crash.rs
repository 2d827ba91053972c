//! `kill -9` of the agent: pods, connections, logs and acknowledged writes survive it.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::{Duration, Instant};

use coracle_integration::{Kubectl, Node, eventually, privileged, story, within};

fn container_pids(node: &Node, kubectl: &Kubectl, app: &str) -> BTreeMap<String, (u64, String)> {
    let _ = node;
    let pods = kubectl.json(&["pods", "-l", app]);
    pods["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|pod| {
            let status = &pod["status"]["containerStatuses"][0];
            (
                pod["metadata"]["name"].as_str().unwrap().to_owned(),
                (
                    status["restartCount"].as_u64().unwrap(),
                    status["containerID"].as_str().unwrap().to_owned(),
                ),
            )
        })
        .collect()
}

#[test]
fn pods_outlive_the_agent() {
    if !privileged() {
        return;
    }
    let mut node = Node::start();
    let kubectl = node.any_kubectl();
    kubectl.ok(&["apply", "-f", &story("deployment.yml")]);
    kubectl.ok(&["apply", "-f", &story("service.yml")]);
    kubectl.apply(
        "apiVersion: v1
kind: Pod
metadata: {name: writer, labels: {app: writer}}
spec:
  containers:
  - name: main
    image: busybox
    imagePullPolicy: IfNotPresent
    command: [sh, -c, 'n=0; while true; do n=$((n+1)); echo line $n; sleep 0.01; done']
---
apiVersion: v1
kind: Pod
metadata: {name: mortal}
spec:
  restartPolicy: Never
  containers:
  - name: main
    image: busybox
    imagePullPolicy: IfNotPresent
    command: [sh, -c, 'while [ ! -e /tmp/die ]; do sleep 0.1; done; sleep 1; exit 42']
",
    );
    kubectl.ok(&["rollout", "status", "deployment/nginx-deployment", "--timeout=60s"]);
    kubectl.ok(&["wait", "--for=condition=Ready", "pod/writer", "pod/mortal", "--timeout=30s"]);
    let cluster_ip = kubectl.jsonpath(&["service", "nginx-service"], "{.spec.clusterIP}");
    let url = format!("http://{cluster_ip}");
    let answers = |node: &Node| {
        node.ns
            .command("curl")
            .args(["--silent", "--fail", "--max-time", "5", "--output", "/dev/null", &url])
            .status()
            .unwrap()
            .success()
    };
    within(10, "the Service answers", || answers(&node));
    let before = container_pids(&node, &kubectl, "app in (nginx, writer)");
    let follow = kubectl
        .command(&["logs", "-f", "writer"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    std::thread::sleep(Duration::from_millis(500));

    // An established connection through the Service stays open across the death.
    let established = node
        .ns
        .command("bash")
        .args([
            "-c",
            &format!(
                "exec 3<>/dev/tcp/{cluster_ip}/80; sleep 4; printf 'GET / HTTP/1.0\\r\\n\\r\\n' >&3; cat <&3"
            ),
        ])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    kubectl.ok(&["exec", "mortal", "--", "touch", "/tmp/die"]);
    node.kill_agent();
    for _ in 0..20 {
        assert!(answers(&node), "a new connection failed while the agent was dead");
        std::thread::sleep(Duration::from_millis(100));
    }
    node.up();
    let output = established.wait_with_output();
    let page = String::from_utf8_lossy(&output.unwrap().stdout).into_owned();
    assert!(page.contains("Welcome to nginx!"), "the established connection broke: {page}");
    let _ = follow.wait_with_output();

    assert_eq!(container_pids(&node, &kubectl, "app in (nginx, writer)"), before);
    let exit = eventually(20, "the death of a container is noticed", || {
        let state = kubectl.json(&["pod", "mortal"])["status"]["containerStatuses"][0]["state"]
            ["terminated"]
            .clone();
        state.is_object().then_some(state)
    });
    assert_eq!(exit["exitCode"], 42, "{exit}");
    // No log line is lost.
    let log = kubectl.ok(&["logs", "writer"]);
    for (number, line) in (1u64..).zip(log.lines()) {
        assert_eq!(line, format!("line {number}"));
    }
    assert!(log.lines().count() > 100);
}

/// Kills at random moments of a churn; `CORACLE_KILLS` sets how many (200 in the long run).
#[test]
fn acknowledged_writes_survive_kills() {
    if !privileged() {
        return;
    }
    let kills: u32 = std::env::var("CORACLE_KILLS").ok().and_then(|k| k.parse().ok()).unwrap_or(20);
    let mut node = Node::start();
    let kubectl = node.any_kubectl();
    let mut expected: BTreeMap<String, String> = BTreeMap::new();
    let mut newest_revision = 0u64;
    let mut seed = 0x9e37_79b9_7f4a_7c15u64;
    let mut random = move |below: u64| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed % below
    };
    for round in 0..kills {
        let kill_at = Instant::now() + Duration::from_millis(random(1500));
        let mut sequence = 0;
        while Instant::now() < kill_at {
            let name = format!("c{}", random(20));
            let value = format!("{round}-{sequence}");
            sequence += 1;
            let output = if expected.contains_key(&name) && random(3) == 0 {
                let output = kubectl.run(&["delete", "configmap", &name, "--wait=false"]);
                if output.code == 0 {
                    expected.remove(&name);
                }
                output
            } else {
                let manifest = format!(
                    "{{apiVersion: v1, kind: ConfigMap, metadata: {{name: {name}}}, data: {{v: '{value}'}}}}"
                );
                let output = kubectl.run_with_input(&["apply", "-f", "-", "-o", "json"], &manifest);
                if output.code == 0 {
                    expected.insert(name.clone(), value);
                    let object: serde_json::Value = serde_json::from_str(&output.stdout).unwrap();
                    let revision: u64 =
                        object["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
                    newest_revision = newest_revision.max(revision);
                }
                output
            };
            assert_eq!(output.code, 0, "{}", output.stderr);
            if random(4) == 0 {
                let pod = format!("p{}", random(6));
                let _ = kubectl.run(&["delete", "pod", &pod, "--wait=false", "--grace-period=1"]);
                let _ = kubectl.run(&[
                    "run",
                    &pod,
                    "--image=busybox",
                    "--image-pull-policy=IfNotPresent",
                    "--command",
                    "--",
                    "sleep",
                    "1000",
                ]);
            }
        }
        node.kill_agent();
        node.up();
        let list = kubectl.json(&["configmaps", "-l", "!x"]);
        let revision: u64 = list["metadata"]["resourceVersion"]
            .as_str()
            .and_then(|r| r.parse().ok())
            .unwrap_or(u64::MAX);
        assert!(revision >= newest_revision, "{revision} after {newest_revision}");
        let found: BTreeMap<String, String> = list["items"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|c| c["metadata"]["name"] != "kube-root-ca.crt")
            .map(|c| {
                (
                    c["metadata"]["name"].as_str().unwrap().to_owned(),
                    c["data"]["v"].as_str().unwrap().to_owned(),
                )
            })
            .collect();
        assert_eq!(found, expected, "after kill {round}");
    }
    // No pod is stuck: those that exist run, and can be deleted.
    eventually(60, "every pod runs", || {
        let pods = kubectl.json(&["pods"]);
        pods["items"]
            .as_array()
            .unwrap()
            .iter()
            .all(|p| {
                p["status"]["phase"] == "Running" && p["metadata"]["deletionTimestamp"].is_null()
            })
            .then_some(())
    });
    kubectl.ok(&["delete", "pods", "--all", "--grace-period=1", "--timeout=60s"]);
}
