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
    let kubectls = node.old_and_new_kubectl();
    for kubectl in &kubectls {
        kubectl.apply(BUSY);
        kubectl.ok(&["rollout", "status", "deployment/busy", "--timeout=120s"]);
        top(kubectl);
    }
    for kubectl in &kubectls {
        grows(kubectl);
        missing_target(kubectl);
        kubectl.ok(&["delete", "hpa", "--all"]);
        kubectl.ok(&["delete", "deployment", "busy", "--timeout=60s"]);
    }
}

/// The load is far above half of the request, so the workload grows as far as it may.
fn grows(kubectl: &Kubectl) {
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
    let path = "{.spec.targetCPUUtilizationPercentage}";
    assert_eq!(kubectl.jsonpath(&["horizontalpodautoscalers.v1.autoscaling", "busy"], path), "50");
}

fn missing_target(kubectl: &Kubectl) {
    kubectl.apply(
        r#"{"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "lost"}, "spec": {"maxReplicas": 2, "scaleTargetRef":
          {"apiVersion": "apps/v1", "kind": "Deployment", "name": "nowhere"}}}"#,
    );
    within(60, "a missing target is a condition", || {
        let path = "{.status.conditions[?(@.type==\"AbleToScale\")].reason}";
        kubectl.jsonpath(&["hpa.v2.autoscaling", "lost"], path) == "FailedGetScale"
    });
}

fn top(kubectl: &Kubectl) {
    within(60, "a busy pod is seen to be busy", || {
        let output = kubectl.run(&["top", "pod", "--no-headers"]);
        let line = output.stdout.lines().next().unwrap_or_default().to_owned();
        let fields: Vec<&str> = line.split_whitespace().collect();
        output.code == 0 && fields.len() == 3 && milli(fields[1]) >= 40 && fields[2].ends_with("Mi")
    });
    let raw = kubectl.ok(&["get", "--raw", "/apis/metrics.k8s.io/v1beta1/nodes/node"]);
    let metrics: serde_json::Value = serde_json::from_str(&raw).unwrap();
    assert_eq!(metrics["kind"], "NodeMetrics");
    assert!(metrics["usage"]["cpu"].as_str().unwrap().ends_with('n'), "{raw}");
    let containers = kubectl.ok(&["top", "pod", "--containers"]);
    assert!(containers.contains("loop"), "{containers}");
    let node = kubectl.ok(&["top", "node", "--no-headers"]);
    let fields: Vec<&str> = node.split_whitespace().collect();
    assert_eq!((fields[0], fields.len()), ("node", 5), "{node}");
    assert!(fields[2].ends_with('%') && fields[4].ends_with('%'), "{node}");
}

/// Pods that keep a core busy as far as their limit lets them, until somebody makes `/tmp/stop`.
const STOPPABLE: &str = r#"{"metadata": {"labels": {"app": "NAME"}}, "spec": {"containers": [{
    "name": "loop", "image": "busybox", "imagePullPolicy": "IfNotPresent",
    "command": ["sh", "-c", "while [ ! -e /tmp/stop ]; do :; done; sleep 10000"],
    "resources": {"requests": {"cpu": "10m"}, "limits": {"cpu": "30m"}}}],
    "terminationGracePeriodSeconds": 0}}"#;

/// What is scaled: version, kind, name, and the fields of its spec that others do not have.
const TARGETS: [(&str, &str, &str, &str); 4] = [
    ("v1", "ReplicationController", "rc", r#""selector": {"app": "rc"},"#),
    ("apps/v1", "ReplicaSet", "rs", r#""selector": {"matchLabels": {"app": "rs"}},"#),
    ("apps/v1", "Deployment", "deploy", r#""selector": {"matchLabels": {"app": "deploy"}},"#),
    (
        "apps/v1",
        "StatefulSet",
        "sts",
        r#""serviceName": "sts", "selector": {"matchLabels": {"app": "sts"}},"#,
    ),
];

#[test]
fn every_workload_is_scaled_as_its_autoscaler_may() {
    if !privileged() {
        return;
    }
    let node = Node::start();
    let kubectls = node.old_and_new_kubectl();
    for kubectl in &kubectls {
        load(kubectl);
    }
    let replicas = |kubectl: &Kubectl, name: &str| {
        kubectl.jsonpath(&[&format!("{name}/{name}")], "{.spec.replicas}")
    };
    for kubectl in &kubectls {
        for (_, kind, name, _) in TARGETS {
            within(180, &format!("{kind} grows"), || replicas(kubectl, name) == "2");
            within(90, &format!("{kind}: its autoscaler says that it may not do more"), || {
                let path = "{.status.conditions[?(@.type==\"ScalingLimited\")].reason}";
                kubectl.jsonpath(&["hpa.v2.autoscaling", name], path) == "ScaleUpLimit"
            });
            assert_eq!(replicas(kubectl, name), "2", "{kind}");
        }
    }
    for kubectl in &kubectls {
        for pod in kubectl.json(&["pods"])["items"].as_array().unwrap() {
            let name = pod["metadata"]["name"].as_str().unwrap();
            kubectl.ok(&["exec", name, "--", "touch", "/tmp/stop"]);
        }
    }
    for kubectl in &kubectls {
        for (_, kind, name, _) in TARGETS {
            within(240, &format!("{kind} shrinks"), || replicas(kubectl, name) == "1");
        }
        kubectl.ok(&["delete", "hpa,rc,rs,deploy,sts", "--all", "--timeout=60s"]);
    }
}

/// Workloads with more to do than one pod can, and autoscalers for them.
fn load(kubectl: &Kubectl) {
    for (version, kind, name, spec) in TARGETS {
        let template = STOPPABLE.replace("NAME", name);
        kubectl.apply(&format!(
            r#"{{"apiVersion": "{version}", "kind": "{kind}", "metadata": {{"name": "{name}"}},
            "spec": {{"replicas": 1, {spec} "template": {template}}}}}"#
        ));
        // One pod more in ten minutes, and down again at once.
        kubectl.apply(&format!(
            r#"{{"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler",
            "metadata": {{"name": "{name}"}}, "spec": {{"minReplicas": 1, "maxReplicas": 5,
              "scaleTargetRef": {{"apiVersion": "{version}", "kind": "{kind}", "name": "{name}"}},
              "metrics": [{{"type": "Resource", "resource": {{"name": "cpu",
                "target": {{"type": "Utilization", "averageUtilization": 100}}}}}}],
              "behavior": {{
                "scaleUp": {{"policies": [{{"type": "Pods", "value": 1, "periodSeconds": 600}}]}},
                "scaleDown": {{"stabilizationWindowSeconds": 0}}}}}}}}"#
        ));
    }
}
