//! Which pods the node takes in, and what is said of the others.

#![allow(clippy::unwrap_used)]

use super::*;
use serde_json::{Value, json};

fn pod(spec: Value) -> Pod {
    serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec})).unwrap()
}

fn container(requests: Value) -> Value {
    json!({"name": "c", "resources": {"requests": requests}})
}

fn asking(requests: Value) -> Pod {
    pod(json!({"containers": [container(requests)]}))
}

fn port(number: i32, protocol: &str, address: &str) -> Pod {
    let port = json!({"containerPort": 80, "hostPort": number, "protocol": protocol,
        "hostIP": address});
    pod(json!({"containers": [{"name": "c", "ports": [port]}]}))
}

/// A node with two CPUs, one GiB and room for three pods.
fn node() -> Node {
    serde_json::from_value(json!({
        "metadata": {"name": "n", "labels": {"disk": "ssd", "cores": "2"}},
        "status": {"allocatable": {"cpu": "2", "memory": "1Gi", "pods": "3",
            "hugepages-2Mi": "0", "ephemeral-storage": "10Gi", "example.com/gpu": "1"}},
    }))
    .unwrap()
}

fn tainted(effect: &str) -> Node {
    let mut node = node();
    let spec = json!({"taints": [{"key": "gone", "value": "yes", "effect": effect}]});
    node.spec = serde_json::from_value(spec).unwrap();
    node
}

fn refused(pod: &Pod, node: &Node, others: &[Pod]) -> Option<(String, String)> {
    let others: Vec<Arc<Pod>> = others.iter().cloned().map(Arc::new).collect();
    refusal(pod, Some(node), &others).map(|failure| (failure.reason, failure.message))
}

fn reason(pod: &Pod, node: &Node, others: &[Pod]) -> Option<String> {
    refused(pod, node, others).map(|(reason, _)| reason)
}

#[test]
fn what_is_left_has_to_suffice() {
    let busy = [asking(json!({"cpu": "350m", "memory": "300Mi"}))];
    assert_eq!(refused(&asking(json!({"cpu": "1650m", "memory": "724Mi"})), &node(), &busy), None);
    let short = |requests: Value| refused(&asking(requests), &node(), &busy).unwrap();
    let out_of = |resource: &str, amounts: &str| {
        let message = format!("Node didn't have enough resource: {resource}, {amounts}");
        (format!("OutOf{resource}"), message)
    };
    assert_eq!(
        short(json!({"cpu": "4"})),
        out_of("cpu", "requested: 4000, used: 350, capacity: 2000")
    );
    assert_eq!(
        short(json!({"memory": "1Gi"})),
        out_of("memory", "requested: 1073741824, used: 314572800, capacity: 1073741824")
    );
    assert_eq!(
        short(json!({"hugepages-2Mi": "2Mi"})),
        out_of("hugepages-2Mi", "requested: 2097152, used: 0, capacity: 0")
    );
    assert_eq!(
        short(json!({"example.com/gpu": "2"})),
        out_of("example.com/gpu", "requested: 2, used: 0, capacity: 1")
    );
    // The first of several is told; ephemeral storage comes after memory.
    let most = json!({"ephemeral-storage": "1Ti", "memory": "1Ti", "cpu": "1"});
    assert_eq!(short(most).0, "OutOfmemory");
}

#[test]
fn a_pod_counts_with_its_largest_moment() {
    let pod = pod(json!({
        "initContainers": [container(json!({"cpu": "3"}))],
        "containers": [container(json!({"cpu": "1"}))],
    }));
    assert_eq!(reason(&pod, &node(), &[]).as_deref(), Some("OutOfcpu"));
}

#[test]
fn pods_are_counted() {
    let others = [asking(json!({})), asking(json!({})), asking(json!({}))];
    assert_eq!(refused(&asking(json!({})), &node(), &others[..2]), None);
    let message = "Node didn't have enough resource: pods, requested: 1, used: 3, capacity: 3";
    assert_eq!(
        refused(&asking(json!({"cpu": "9"})), &node(), &others),
        Some(("OutOfpods".into(), message.into()))
    );
}

#[test]
fn who_asks_for_nothing_fits_a_node_with_nothing_left() {
    let full = [asking(json!({"cpu": "3", "memory": "2Gi"}))];
    assert_eq!(refused(&asking(json!({"cpu": "0"})), &node(), &full), None);
}

#[test]
fn extended_resources_that_the_node_does_not_know_are_not_its_business() {
    assert_eq!(refused(&asking(json!({"example.com/license": "1"})), &node(), &[]), None);
    let native = asking(json!({"kubernetes.io/batch": "1"}));
    assert_eq!(reason(&native, &node(), &[]).as_deref(), Some("OutOfkubernetes.io/batch"));
}

#[test]
fn labels_have_to_match() {
    let selects =
        |key: &str, value: &str| pod(json!({"containers": [], "nodeSelector": {key: value}}));
    assert_eq!(refused(&selects("disk", "ssd"), &node(), &[]), None);
    let message =
        "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector";
    assert_eq!(
        refused(&selects("disk", "tape"), &node(), &[]),
        Some(("NodeAffinity".into(), message.into()))
    );
}

#[test]
fn ports_of_the_machine_have_one_owner() {
    let message =
        "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports";
    assert_eq!(
        refused(&port(80, "TCP", ""), &node(), &[port(80, "TCP", "")]),
        Some(("NodePorts".into(), message.into()))
    );
    for (other, taken) in [
        (port(80, "TCP", "0.0.0.0"), true),
        (port(80, "TCP", "192.0.2.1"), true),
        (port(80, "TCP", "192.0.2.2"), false),
        (port(80, "UDP", "192.0.2.1"), false),
        (port(81, "TCP", "192.0.2.1"), false),
        (asking(json!({})), false),
    ] {
        let wanted = port(80, "TCP", "192.0.2.1");
        assert_eq!(
            reason(&wanted, &node(), std::slice::from_ref(&other)).is_some(),
            taken,
            "{other:?}"
        );
    }
}

#[test]
fn only_taints_that_drive_out_count() {
    let plain = asking(json!({}));
    assert_eq!(refused(&plain, &tainted("NoSchedule"), &[]), None);
    let message =
        "Predicate TaintToleration failed: node(s) had taints that the pod didn't tolerate";
    assert_eq!(
        refused(&plain, &tainted("NoExecute"), &[]),
        Some(("TaintToleration".into(), message.into()))
    );
    for (toleration, enough) in [
        (json!({"operator": "Exists"}), true),
        (json!({"key": "gone", "operator": "Exists", "effect": "NoExecute"}), true),
        (json!({"key": "gone", "operator": "Exists", "effect": "NoSchedule"}), false),
        (json!({"key": "gone", "value": "yes"}), true),
        (json!({"key": "gone", "value": "no"}), false),
        (json!({"key": "other", "operator": "Exists"}), false),
    ] {
        let pod = pod(json!({"containers": [], "tolerations": [toleration]}));
        assert_eq!(reason(&pod, &tainted("NoExecute"), &[]).is_none(), enough, "{toleration}");
    }
}

#[test]
fn pods_for_another_system_are_told_so() {
    let windows = pod(json!({"containers": [], "os": {"name": "windows"}}));
    assert_eq!(reason(&windows, &node(), &[]).as_deref(), Some("PodOSNotSupported"));
    let linux = pod(json!({"containers": [], "os": {"name": "linux"}}));
    assert_eq!(reason(&linux, &node(), &[]), None);
    let mut labelled = linux;
    labelled.metadata.labels = Some([(OS_LABEL.to_owned(), "windows".to_owned())].into());
    let expected = Some("PodOSSelectorNodeLabelDoesNotMatch");
    assert_eq!(reason(&labelled, &node(), &[]).as_deref(), expected);
}

#[test]
fn settings_of_the_kernel_come_first() {
    let mut greedy = asking(json!({"cpu": "9"}));
    let sysctls = json!({"sysctls": [{"name": "kernel.msgmax", "value": "1"}]});
    greedy.spec.as_mut().unwrap().security_context = serde_json::from_value(sysctls).unwrap();
    assert_eq!(reason(&greedy, &node(), &[]).as_deref(), Some("SysctlForbidden"));
    let refusal = refusal(&greedy, None, &[]);
    assert_eq!(refusal.map(|failure| failure.reason).as_deref(), Some("SysctlForbidden"));
}

#[test]
fn a_profile_counts_after_what_the_node_has_and_without_it_too() {
    let profile = json!({"appArmorProfile": {"type": "RuntimeDefault"}});
    let mut confined = asking(json!({}));
    let spec = confined.spec.as_mut().unwrap();
    spec.security_context = serde_json::from_value(profile).unwrap();
    assert_eq!(reason(&confined, &node(), &[]).as_deref(), Some("AppArmor"));
    let refusal = refusal(&confined, None, &[]);
    assert_eq!(refusal.map(|failure| failure.reason).as_deref(), Some("AppArmor"));
    let tainted = tainted("NoExecute");
    assert_eq!(reason(&confined, &tainted, &[]).as_deref(), Some("TaintToleration"));
}

#[test]
fn only_new_pods_are_tried_and_the_oldest_first() {
    let known =
        |status: Value| -> Pod { serde_json::from_value(json!({"status": status})).unwrap() };
    assert!(is_new(&known(json!({"phase": "Pending"}))));
    assert!(!is_new(&known(json!({"phase": "Pending", "startTime": "2030-01-01T00:00:00Z"}))));
    assert!(!is_new(&known(json!({"phase": "Failed"}))));
    let aged = |created: &str, version: &str| -> Pod {
        serde_json::from_value(
            json!({"metadata": {"creationTimestamp": created, "resourceVersion": version}}),
        )
        .unwrap()
    };
    let mut pods = [
        aged("2030-01-01T00:00:01Z", "1"),
        aged("2030-01-01T00:00:00Z", "10"),
        aged("2030-01-01T00:00:00Z", "9"),
    ];
    pods.sort_by_key(turn);
    let versions: Vec<_> = pods.iter().flat_map(|p| p.metadata.resource_version.clone()).collect();
    assert_eq!(versions, ["9", "10", "1"]);
}
