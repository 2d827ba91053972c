//! Pods that were bound without the scheduler: what the node itself does not take in, what it says
//! of that, and that it never turns out who lives there.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::time::Duration;

use coracle_integration::manifest::{merge, sleeper};
use coracle_integration::{Kubectl, Node, privileged, with_old_and_new_kubectl, within};
use serde_json::{Value, json};

/// A pod that is bound to the node from its beginning.
fn pod(name: &str, spec: Value, container: Value) -> Value {
    let mut pod = sleeper(name, spec);
    pod["spec"]["nodeName"] = "node".into();
    merge(&mut pod["spec"]["containers"][0], container);
    pod
}

/// A pod that asks for that much of a resource.
fn asking(name: &str, resource: &str, amount: &str) -> Value {
    pod(name, json!({}), json!({"resources": {"requests": {resource: amount}}}))
}

fn apply(kubectl: &Kubectl, object: &Value) {
    kubectl.apply(&object.to_string());
}

/// The column STATUS.
fn word(kubectl: &Kubectl, pod: &str) -> String {
    let row = kubectl.ok(&["get", "pod", pod, "--no-headers"]);
    row.split_whitespace().nth(2).unwrap().to_owned()
}

/// The pod has failed for this reason, without ever having a container; returns what was said.
fn is_rejected(kubectl: &Kubectl, name: &str, reason: &str) -> String {
    within(60, &format!("{name} shows {reason}"), || word(kubectl, name) == reason);
    let row = kubectl.ok(&["get", "pod", name, "--no-headers"]);
    assert_eq!(row.split_whitespace().nth(1), Some("0/1"), "{row}");
    let status = kubectl.json(&["pod", name])["status"].clone();
    assert_eq!((&status["phase"], &status["reason"]), (&"Failed".into(), &reason.into()));
    assert!(status["startTime"].is_string(), "{status}");
    assert!(status["containerStatuses"].is_null() && status["podIP"].is_null(), "{status}");
    let message = status["message"].as_str().unwrap();
    let message = message.strip_prefix("Pod was rejected: ").unwrap().to_owned();
    within(60, &format!("an event tells of {name}"), || {
        let events = kubectl.events(name, reason);
        events.iter().any(|event| event["message"] == *message && event["type"] == "Warning")
    });
    assert!(kubectl.events(name, "Created").is_empty(), "{name} had a container");
    let described = kubectl.ok(&["describe", "pod", name]);
    let shown = described.lines().find_map(|line| line.strip_prefix("Reason:"));
    assert_eq!(shown.map(str::trim), Some(reason), "{described}");
    message
}

/// What the node has, in thousandths of a CPU.
fn capacity(kubectl: &Kubectl) -> i64 {
    let text = kubectl.jsonpath(&["node", "node"], "{.status.allocatable.cpu}");
    match text.strip_suffix('m') {
        Some(milli) => milli.parse().unwrap(),
        None => text.parse::<i64>().unwrap() * 1000,
    }
}

fn delete(kubectl: &Kubectl, names: &[&str]) {
    kubectl.ok(&[&["delete", "pod", "--timeout=60s"], names].concat());
}

#[test]
fn what_does_not_fit_is_rejected_and_the_rest_goes_on() {
    with_old_and_new_kubectl(|_, kubectl| {
        let capacity = capacity(kubectl);
        apply(kubectl, &asking("resident", "cpu", "350m"));
        kubectl.ready("resident");
        let id = |name: &str| {
            kubectl.jsonpath(&["pod", name], "{.status.containerStatuses[0].containerID}")
        };
        let before = id("resident");

        apply(kubectl, &asking("greedy", "cpu", &format!("{}m", capacity - 349)));
        let message = is_rejected(kubectl, "greedy", "OutOfcpu");
        let requested = capacity - 349;
        assert_eq!(
            message,
            format!(
                "Node didn't have enough resource: cpu, requested: {requested}, used: 350, \
                 capacity: {capacity}"
            )
        );
        // What was rejected takes no place: what is left goes to the last thousandth.
        apply(kubectl, &asking("fitting", "cpu", &format!("{}m", capacity - 350)));
        kubectl.ready("fitting");

        apply(kubectl, &asking("huge", "memory", "100Ti"));
        let message = is_rejected(kubectl, "huge", "OutOfmemory");
        let begins =
            "Node didn't have enough resource: memory, requested: 109951162777600, used: 0, ";
        assert!(message.starts_with(begins), "{message}");
        assert_eq!(id("resident"), before, "the others go on");
    });
}

#[test]
fn a_node_of_another_kind_is_refused_by_the_node() {
    with_old_and_new_kubectl(|_, kubectl| {
        let selects = |name: &str| pod(name, json!({"nodeSelector": {"disk": "ssd"}}), json!({}));
        apply(kubectl, &selects("picky"));
        assert_eq!(
            is_rejected(kubectl, "picky", "NodeAffinity"),
            "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector"
        );
        kubectl.ok(&["label", "node", "node", "disk=ssd"]);
        apply(kubectl, &selects("content"));
        kubectl.ready("content");
        // A verdict stays.
        assert_eq!(word(kubectl, "picky"), "NodeAffinity");
        kubectl.ok(&["label", "node", "node", "disk-"]);

        let port = |number: i32| json!({"ports": [{"containerPort": 80, "hostPort": number}]});
        apply(kubectl, &pod("first", json!({}), port(8080)));
        kubectl.ready("first");
        apply(kubectl, &pod("second", json!({}), port(8080)));
        assert_eq!(
            is_rejected(kubectl, "second", "NodePorts"),
            "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports"
        );
        apply(kubectl, &pod("third", json!({}), port(8081)));
        kubectl.ready("third");
        // The port is free once its owner is gone.
        delete(kubectl, &["first"]);
        apply(kubectl, &pod("fourth", json!({}), port(8080)));
        kubectl.ready("fourth");

        // A taint that keeps the scheduler away is nothing to the node.
        kubectl.ok(&["taint", "node", "node", "quiet=yes:NoSchedule"]);
        apply(kubectl, &pod("bound", json!({}), json!({})));
        kubectl.ready("bound");
        kubectl.ok(&["taint", "node", "node", "quiet-"]);
        apply(kubectl, &pod("foreign", json!({"os": {"name": "windows"}}), json!({})));
        assert_eq!(
            is_rejected(kubectl, "foreign", "PodOSNotSupported"),
            "Failed to admit pod as the OS field doesn't match node OS"
        );
    });
}

#[test]
fn settings_of_the_kernel_that_others_would_feel_are_refused() {
    with_old_and_new_kubectl(|_, kubectl| {
        let sets = |name: &str, sysctl: &str, value: &str| {
            let sysctls = json!([{"name": sysctl, "value": value}]);
            pod(name, json!({"securityContext": {"sysctls": sysctls}}), json!({}))
        };
        apply(kubectl, &sets("large", "kernel.msgmax", "65536"));
        assert_eq!(
            is_rejected(kubectl, "large", "SysctlForbidden"),
            "forbidden sysctl: \"kernel.msgmax\" not allowlisted"
        );
        for (name, sysctl) in
            [("dots", "net.ipv4.tcp_fin_timeout"), ("slashes", "net/ipv4/tcp_fin_timeout")]
        {
            apply(kubectl, &sets(name, sysctl, "17"));
            kubectl.ready(name);
            let path = "/proc/sys/net/ipv4/tcp_fin_timeout";
            assert_eq!(kubectl.ok(&["exec", name, "--", "cat", path]).trim(), "17");
        }
    });
}

#[test]
fn who_cannot_be_confined_as_it_asks_is_refused() {
    with_old_and_new_kubectl(|_, kubectl| {
        let profile = |of: &str| json!({"securityContext": {"appArmorProfile": {"type": of}}});
        apply(kubectl, &pod("confined", profile("RuntimeDefault"), json!({})));
        let message = is_rejected(kubectl, "confined", "AppArmor");
        assert!(message.starts_with("Cannot enforce AppArmor: "), "{message}");
        apply(kubectl, &pod("confined-inside", json!({}), profile("RuntimeDefault")));
        is_rejected(kubectl, "confined-inside", "AppArmor");
        let mut annotated = pod("annotated", json!({}), json!({}));
        let container = annotated["spec"]["containers"][0]["name"].as_str().unwrap();
        let key = format!("container.apparmor.security.beta.kubernetes.io/{container}");
        annotated["metadata"]["annotations"] = json!({key: "localhost/strict"});
        apply(kubectl, &annotated);
        is_rejected(kubectl, "annotated", "AppArmor");
        apply(kubectl, &pod("unconfined", profile("Unconfined"), profile("Unconfined")));
        kubectl.ready("unconfined");
    });
}

#[test]
fn who_wants_users_of_its_own_waits_for_them() {
    with_old_and_new_kubectl(|_, kubectl| {
        apply(kubectl, &pod("own-users", json!({"hostUsers": false}), json!({})));
        let why = "Failed to create pod sandbox: can't set `spec.hostUsers: false`, runtime does \
                   not support user namespaces";
        within(60, "an event tells why", || {
            let events = kubectl.events("own-users", "FailedCreatePodSandBox");
            events.iter().any(|event| event["message"] == why && event["type"] == "Warning")
        });
        assert_eq!(word(kubectl, "own-users"), "ContainerCreating");
        assert!(kubectl.events("own-users", "Created").is_empty(), "it had a container");
        apply(kubectl, &pod("host-users", json!({"hostUsers": true}), json!({})));
        kubectl.ready("host-users");
        delete(kubectl, &["own-users"]);
    });
}

#[test]
fn a_rejected_pod_of_a_replica_set_is_replaced_when_there_is_room() {
    with_old_and_new_kubectl(|_, kubectl| {
        let amount = format!("{}m", capacity(kubectl));
        apply(kubectl, &asking("owner", "cpu", &amount));
        kubectl.ready("owner");
        let template = pod("copy", json!({}), json!({"resources": {"requests": {"cpu": amount}}}));
        let labels = json!({"app": "copy"});
        let set = json!({
            "apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {"name": "copy"},
            "spec": {"replicas": 1, "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": template["spec"]}},
        });
        apply(kubectl, &set);
        let phases = || kubectl.jsonpath(&["pods", "-l", "app=copy"], "{.items[*].status.phase}");
        within(60, "one is rejected and another one made", || {
            phases().split(' ').filter(|phase| *phase == "Failed").count() > 1
        });
        // The next ones take ever longer to be rejected, or they would be without number.
        std::thread::sleep(Duration::from_secs(5));
        let made = phases().split(' ').count();
        assert!(made <= 6, "{made} pods were made within seconds");
        delete(kubectl, &["owner"]);
        within(60, "one runs", || phases().split(' ').any(|phase| phase == "Running"));
        let ready = "{.status.readyReplicas}";
        within(60, "it is ready", || kubectl.jsonpath(&["rs", "copy"], ready) == "1");
        kubectl.ok(&["delete", "rs", "copy", "--timeout=60s"]);
    });
}

#[test]
fn pods_are_counted() {
    if !privileged() {
        return;
    }
    let node = Node::start();
    let kubectl = &node.any_kubectl();
    let free = 2;
    let capacity = living(kubectl) + free;
    let patch = json!({"status": {"allocatable": {"pods": capacity.to_string()}}}).to_string();
    kubectl.ok(&["patch", "node", "node", "--subresource=status", "--type=merge", "-p", &patch]);
    let small = |number: usize| pod(&format!("small-{number}"), json!({}), json!({}));
    let ends = json!({"command": ["true"]});
    apply(kubectl, &pod("ended", json!({"restartPolicy": "Never"}), ends));
    within(60, "it has ended", || word(kubectl, "ended") == "Completed");
    for number in 0..free {
        apply(kubectl, &small(number));
        kubectl.ready(&format!("small-{number}"));
    }
    apply(kubectl, &small(free));
    assert_eq!(
        is_rejected(kubectl, &format!("small-{free}"), "OutOfpods"),
        format!(
            "Node didn't have enough resource: pods, requested: 1, used: {capacity}, \
                 capacity: {capacity}"
        )
    );
}

/// How many pods have not ended.
fn living(kubectl: &Kubectl) -> usize {
    let selector = "--field-selector=status.phase!=Failed,status.phase!=Succeeded";
    let list = kubectl.json(&["pods", "--all-namespaces", selector]);
    list["items"].as_array().unwrap().len()
}

#[test]
fn who_lives_on_the_node_stays_when_the_agent_comes_back() {
    if !privileged() {
        return;
    }
    let mut node = Node::start();
    let kubectl = &node.any_kubectl();
    kubectl.ok(&["label", "node", "node", "disk=ssd"]);
    apply(kubectl, &asking("early", "memory", "100Ti"));
    is_rejected(kubectl, "early", "OutOfmemory");
    let mut full = asking("full", "cpu", &format!("{}m", capacity(kubectl)));
    merge(&mut full["spec"], json!({"nodeSelector": {"disk": "ssd"}}));
    let ports = json!({"ports": [{"containerPort": 80, "hostPort": 8080}]});
    merge(&mut full["spec"]["containers"][0], ports);
    apply(kubectl, &full);
    kubectl.ready("full");
    // The node is not any more what the pod asked for.
    kubectl.ok(&["label", "node", "node", "disk-"]);
    apply(kubectl, &asking("late", "cpu", "1m"));
    let late = is_rejected(kubectl, "late", "OutOfcpu");

    let state = || kubectl.json(&["pod", "full"])["status"]["containerStatuses"][0].clone();
    let before = state();
    for _ in 0..2 {
        node.kill_agent();
        node.up();
        // Once a new pod has its answer, the old ones have theirs.
        apply(kubectl, &asking("later", "cpu", "1m"));
        is_rejected(kubectl, "later", "OutOfcpu");
        delete(kubectl, &["later"]);
        kubectl.ready("full");
        assert_eq!(state(), before);
        assert_eq!(is_rejected(kubectl, "late", "OutOfcpu"), late);
        is_rejected(kubectl, "early", "OutOfmemory");
    }
}
