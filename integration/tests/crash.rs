//! `kill -9` of the agent: pods, connections, logs and acknowledged writes survive it.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::Duration;

use coracle_integration::{Kubectl, Node, NodeOptions, eventually, privileged, story, within};

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

/// Whoever waits for the word that the node is ready may stop it in the same moment.
#[test]
fn a_node_that_is_just_ready_ends_well_when_told_to() {
    if !privileged() {
        return;
    }
    let mut node = Node::prepare(NodeOptions { without_images: true, ..NodeOptions::default() });
    for _ in 0..10 {
        node.up();
        node.stop_agent();
    }
}
