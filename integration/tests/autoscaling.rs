//! Usage of pods and nodes, and workloads that follow it.
#![allow(clippy::unwrap_used, clippy::panic)]

use coracle_integration::{Kubectl, Node, privileged, within};

/// One pod that keeps a core busy as far as its limit lets it.
const BUSY: &str = r#"{"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "busy"},
    "spec": {"replicas": 1, "selector": {"matchLabels": {"app": "busy"}}, "template": {
      "metadata": {"labels": {"app": "busy"}}, "spec": {"containers": [{"name": "loop",
        "image": "busybox", "imagePullPolicy": "IfNotPresent",
        "command": ["sh", "-c", "while true; do :; done"],
        "resources": {"requests": {"cpu": "20m", "memory": "4Mi"}, "limits": {"cpu": "100m"}}}],
        "terminationGracePeriodSeconds": 0}}}}"#;

fn milli(text: &str) -> i64 {
    text.strip_suffix('m')
        .unwrap_or_else(|| panic!("{text:?} is not in thousandths"))
        .parse()
        .unwrap()
}

#[test]
fn workloads_follow_their_load() {
    if !privileged() {
        return;
    }
    let node = Node::start();
    let kubectl = node.any_kubectl();
    kubectl.apply(BUSY);
    kubectl.ok(&["rollout", "status", "deployment/busy", "--timeout=120s"]);
    for version in ["1.20", "1.33"] {
        if let Some(kubectl) = node.kubectl(version) {
            top(&kubectl);
        }
    }
    let raw = kubectl.ok(&["get", "--raw", "/apis/metrics.k8s.io/v1beta1/nodes/node"]);
    let metrics: serde_json::Value = serde_json::from_str(&raw).unwrap();
    assert_eq!(metrics["kind"], "NodeMetrics");
    assert!(metrics["usage"]["cpu"].as_str().unwrap().ends_with('n'), "{raw}");

    // The load is far above half of the request, so the workload grows as far as it may.
    kubectl.ok(&["autoscale", "deployment/busy", "--min=1", "--max=3", "--cpu-percent=50"]);
    within(180, "the workload grows", || {
        kubectl.jsonpath(&["deployment", "busy"], "{.spec.replicas}") == "3"
    });
    let condition = |kind: &str| {
        let path = format!("{{.status.conditions[?(@.type==\"{kind}\")].reason}}");
        kubectl.jsonpath(&["hpa.v2.autoscaling", "busy"], &path)
    };
    within(60, "the conditions tell", || {
        condition("ScalingActive") == "ValidMetricFound" && !condition("AbleToScale").is_empty()
    });
    let described = kubectl.ok(&["describe", "hpa", "busy"]);
    let event = "reason: cpu resource utilization (percentage of request) above target";
    assert!(described.contains(event), "{described}");
    let row = kubectl.ok(&["get", "hpa", "busy"]);
    assert!(row.contains("Deployment/busy") && row.contains("/50%"), "{row}");
    if let Some(old) = node.kubectl("1.20") {
        let utilization =
            old.jsonpath(&["hpa.v1.autoscaling", "busy"], "{.spec.targetCPUUtilizationPercentage}");
        assert_eq!(utilization, "50");
    }

    // A target that does not exist is told.
    kubectl.apply(
        r#"{"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "lost"}, "spec": {"maxReplicas": 2, "scaleTargetRef":
          {"apiVersion": "apps/v1", "kind": "Deployment", "name": "nowhere"}}}"#,
    );
    within(60, "a missing target is a condition", || {
        let path = "{.status.conditions[?(@.type==\"AbleToScale\")].reason}";
        kubectl.jsonpath(&["hpa", "lost"], path) == "FailedGetScale"
    });
    kubectl.ok(&["delete", "hpa", "--all"]);
    kubectl.ok(&["delete", "deployment", "busy", "--timeout=60s"]);
}

fn top(kubectl: &Kubectl) {
    within(60, "a busy pod is seen to be busy", || {
        let output = kubectl.run(&["top", "pod", "--no-headers"]);
        let line = output.stdout.lines().next().unwrap_or_default().to_owned();
        let fields: Vec<&str> = line.split_whitespace().collect();
        output.code == 0 && fields.len() == 3 && milli(fields[1]) >= 40 && fields[2].ends_with("Mi")
    });
    let containers = kubectl.ok(&["top", "pod", "--containers"]);
    assert!(containers.contains("loop"), "{containers}");
    let node = kubectl.ok(&["top", "node", "--no-headers"]);
    let fields: Vec<&str> = node.split_whitespace().collect();
    assert_eq!((fields[0], fields.len()), ("node", 5), "{node}");
    assert!(fields[2].ends_with('%') && fields[4].ends_with('%'), "{node}");
}
