//! Containers that end, hang or lose their shim, and a machine that is started anew.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeSet;
use std::process::Command;

use coracle_integration::{Kubectl, Node, eventually, privileged, within};
use serde_json::Value;

fn pod(name: &str, policy: &str, command: &str, more: &str) -> String {
    format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
  restartPolicy: {policy}
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: busybox
    imagePullPolicy: IfNotPresent
    command: [sh, -c, '{command}']
    {more}
---
"
    )
}

fn status(kubectl: &Kubectl, pod: &str) -> Value {
    kubectl.json(&["pod", pod])["status"].clone()
}

fn container(kubectl: &Kubectl, pod: &str) -> Value {
    status(kubectl, pod)["containerStatuses"][0].clone()
}

#[test]
fn containers_are_restarted_with_back_off() {
    if !privileged() {
        return;
    }
    let node = Node::start();
    let kubectl = node.any_kubectl();
    let probe = "livenessProbe: {exec: {command: [test, '!', -e, /tmp/sick]}, periodSeconds: 1, \
                 failureThreshold: 1}";
    kubectl.apply(
        &[
            pod("crash", "Always", "exit 3", ""),
            pod("sick", "Always", "sleep 2; touch /tmp/sick; sleep 10000", probe),
            pod("once", "OnFailure", "exit 0", ""),
            pod("never", "Never", "exit 7", ""),
            pod("absent", "Never", "x", "").replace("sh, -c, 'x'", "/no/such/program"),
        ]
        .concat(),
    );
    let uid = kubectl.jsonpath(&["pod", "crash"], "{.metadata.uid}");
    let crash = eventually(60, "the back-off is shown", || {
        let status = container(&kubectl, "crash");
        (status["state"]["waiting"]["reason"] == "CrashLoopBackOff").then_some(status)
    });
    let full = format!("crash_default({uid})");
    assert_eq!(
        crash["state"]["waiting"]["message"],
        format!("back-off 10s restarting failed container=main pod={full}")
    );
    assert_eq!(crash["restartCount"], 1, "{crash}");
    let last = &crash["lastState"]["terminated"];
    assert_eq!((&last["exitCode"], &last["reason"]), (&3.into(), &"Error".into()), "{crash}");
    let text = format!("Back-off restarting failed container main in pod {full}");
    kubectl.event("crash", "BackOff", &text);
    let crash = eventually(60, "the second restart, after ten seconds", || {
        let status = container(&kubectl, "crash");
        (status["restartCount"] == 2 && status["state"]["waiting"]["reason"] == "CrashLoopBackOff")
            .then_some(status)
    });
    let message = crash["state"]["waiting"]["message"].as_str().unwrap();
    assert!(message.starts_with("back-off 20s restarting"), "{message}");

    let sick = eventually(60, "the sick container is restarted", || {
        let status = container(&kubectl, "sick");
        (status["restartCount"].as_u64() > Some(0)).then_some(status)
    });
    assert_eq!(sick["lastState"]["terminated"]["exitCode"], 137, "{sick}");
    kubectl.event("sick", "Killing", "Container main failed liveness probe, will be restarted");

    for (pod, phase, code, reason) in [
        ("once", "Succeeded", 0, "Completed"),
        ("never", "Failed", 7, "Error"),
        ("absent", "Failed", 128, "StartError"),
    ] {
        within(60, &format!("{pod} ends"), || status(&kubectl, pod)["phase"] == phase);
        let ended = container(&kubectl, pod)["state"]["terminated"].clone();
        assert_eq!(
            (&ended["exitCode"], &ended["reason"]),
            (&code.into(), &reason.into()),
            "{pod}: {ended}"
        );
        assert_eq!(container(&kubectl, pod)["restartCount"], 0, "{pod}");
    }
    kubectl.ok(&["delete", "pods", "--all", "--timeout=60s"]);
}

/// Processes of the node's pods.
fn processes(node: &Node, what: &str) -> BTreeSet<String> {
    let all = node.census().processes.into_iter().filter(|p| p.contains(what));
    all.map(|line| line.split(' ').next().unwrap().to_owned()).collect()
}

#[test]
fn a_dead_shim_and_a_reboot_are_survived() {
    if !privileged() {
        return;
    }
    let mut node = Node::start();
    let kubectl = node.any_kubectl();
    kubectl.apply(
        &(pod("always", "Always", "sleep 10001", "") + &pod("never", "Never", "sleep 10002", "")),
    );
    kubectl.ok(&["wait", "--for=condition=Ready", "pod/always", "pod/never", "--timeout=60s"]);
    let uid = kubectl.jsonpath(&["pod", "always"], "{.metadata.uid}");

    // The shim of one pod dies: its containers go with it, and are started anew.
    let shim = processes(&node, &format!("shim {uid}"));
    assert_eq!(shim.len(), 1, "{shim:?}");
    assert!(Command::new("kill").arg("-9").args(&shim).status().unwrap().success());
    let restarted = |pod: &str, times: u64| {
        let status = container(&kubectl, pod);
        status["restartCount"] == times && status["state"]["running"].is_object()
    };
    within(60, "the pod is back", || restarted("always", 1));
    kubectl.event(
        "always",
        "SandboxChanged",
        "Pod sandbox changed, it will be killed and re-created.",
    );
    within(20, "one process of the pod", || processes(&node, "sleep 10001").len() == 1);

    node.power_off();
    node.up();
    within(60, "the pod runs again", || restarted("always", 2));
    let lost = container(&kubectl, "always")["lastState"]["terminated"].clone();
    assert_ne!(lost["exitCode"], 0, "{lost}");
    let never = eventually(60, "a pod that is not restarted has failed", || {
        let status = status(&kubectl, "never");
        (status["phase"] == "Failed").then_some(status)
    });
    assert_eq!(never["containerStatuses"][0]["restartCount"], 0, "{never}");
    assert_eq!(processes(&node, "sleep 10002").len(), 0);
    kubectl.ok(&["exec", "always", "--", "true"]);
    kubectl.ok(&["delete", "pods", "--all", "--timeout=60s"]);
}
