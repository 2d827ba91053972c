//! ResourceQuota, LimitRange and PriorityClass: what a namespace may have and what it is given.
#![allow(clippy::unwrap_used, clippy::panic)]

use coracle_integration::{Kubectl, with_old_and_new_kubectl, within};

fn pod(name: &str, resources: &str) -> String {
    format!(
        r#"{{"apiVersion": "v1", "kind": "Pod", "metadata": {{"name": "{name}"}}, "spec": {{
        "terminationGracePeriodSeconds": 0, "containers": [{{"name": "c", "image": "busybox",
          "imagePullPolicy": "IfNotPresent", "command": ["sleep", "1000"],
          "resources": {resources}}}]}}}}"#
    )
}

fn refused(kubectl: &Kubectl, manifest: &str) -> String {
    let output = kubectl.run_with_input(&["create", "-f", "-"], manifest);
    assert!(output.code != 0, "{}", output.stdout);
    output.stderr.trim().to_owned()
}

#[test]
fn namespaces_are_limited() {
    with_old_and_new_kubectl(|_, kubectl| {
        priorities(kubectl);
        quotas(kubectl);
        limit_ranges(kubectl);
    });
}

fn quotas(kubectl: &Kubectl) {
    let hard = "--hard=pods=2,requests.cpu=300m,count/configmaps=3,services=1";
    kubectl.ok(&["create", "quota", "small", hard]);
    kubectl.apply(&pod("a", r#"{"requests": {"cpu": "100m"}}"#));
    let message = refused(kubectl, &pod("silent", "{}"));
    assert!(message.contains("failed quota: small: must specify requests.cpu for: c"), "{message}");
    let message = refused(kubectl, &pod("big", r#"{"requests": {"cpu": "250m"}}"#));
    assert!(
        message.ends_with(
            "pods \"big\" is forbidden: exceeded quota: small, requested: requests.cpu=250m, used: \
             requests.cpu=100m, limited: requests.cpu=300m"
        ),
        "{message}"
    );
    kubectl.apply(&pod("b", r#"{"requests": {"cpu": "100m"}}"#));
    let message = refused(kubectl, &pod("third", r#"{"requests": {"cpu": "50m"}}"#));
    assert!(
        message
            .ends_with("exceeded quota: small, requested: pods=1, used: pods=2, limited: pods=2"),
        "{message}"
    );
    within(60, "the status counts", || {
        let used = kubectl.json(&["quota", "small"])["status"]["used"].clone();
        used["pods"] == "2" && used["requests.cpu"] == "200m" && used["services"] == "0"
    });
    let described = kubectl.ok(&["describe", "quota", "small"]);
    assert!(described.contains("requests.cpu      200m  300m"), "{described}");
    kubectl.ok(&["delete", "pod", "b", "--timeout=60s"]);
    within(60, "what is gone is free again", || {
        kubectl.jsonpath(&["quota", "small"], "{.status.used.pods}") == "1"
    });

    // A workload that is refused says why.
    let deployment = r#"{"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"},
        "spec": {"replicas": 3, "selector": {"matchLabels": {"app": "d"}}, "template": {
          "metadata": {"labels": {"app": "d"}}, "spec": {"containers": [{"name": "c",
            "image": "busybox", "imagePullPolicy": "IfNotPresent", "command": ["sleep", "1000"],
            "resources": {"requests": {"cpu": "10m"}}}], "terminationGracePeriodSeconds": 0}}}}"#;
    kubectl.apply(deployment);
    within(60, "the refusal is a condition", || {
        let deployment = kubectl.json(&["deployment", "d"]);
        let conditions = deployment["status"]["conditions"].as_array().cloned().unwrap_or_default();
        conditions.iter().any(|c| {
            c["type"] == "ReplicaFailure"
                && c["message"].as_str().unwrap().contains("exceeded quota: small")
        })
    });
    let pods = kubectl.json(&["pods"]);
    assert_eq!(pods["items"].as_array().unwrap().len(), 2);
    kubectl.ok(&["delete", "deployment/d", "pod/a", "quota/small", "--timeout=60s"]);
}

fn limit_ranges(kubectl: &Kubectl) {
    kubectl.apply(
        r#"{"apiVersion": "v1", "kind": "LimitRange", "metadata": {"name": "sizes"}, "spec": {
        "limits": [{"type": "Container", "default": {"cpu": "200m", "memory": "64Mi"},
            "defaultRequest": {"cpu": "50m"}, "max": {"cpu": "500m"}, "min": {"cpu": "20m"}},
          {"type": "PersistentVolumeClaim", "max": {"storage": "1Gi"}}]}}"#,
    );
    kubectl.apply(&pod("plain", "{}"));
    let plain = kubectl.json(&["pod", "plain"]);
    let resources = &plain["spec"]["containers"][0]["resources"];
    let expected = serde_json::json!({"limits": {"cpu": "200m", "memory": "64Mi"},
        "requests": {"cpu": "50m", "memory": "64Mi"}});
    assert_eq!(resources, &expected);
    let note = plain["metadata"]["annotations"]["kubernetes.io/limit-ranger"].as_str().unwrap();
    assert_eq!(
        note,
        "LimitRanger plugin set: cpu, memory request for container c; cpu, memory limit for \
         container c"
    );
    let message = refused(kubectl, &pod("big", r#"{"limits": {"cpu": "1"}}"#));
    assert!(
        message.contains("maximum cpu usage per Container is 500m, but limit is 1"),
        "{message}"
    );
    let message =
        refused(kubectl, &pod("tiny", r#"{"requests": {"cpu": "1m"}, "limits": {"cpu": "100m"}}"#));
    assert!(
        message.contains("minimum cpu usage per Container is 20m, but request is 1m"),
        "{message}"
    );
    let claim = r#"{"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "x"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "2Gi"}}}}"#;
    let message = refused(kubectl, claim);
    let expected = "maximum storage usage per PersistentVolumeClaim is 1Gi, but request is 2Gi";
    assert!(message.contains(expected), "{message}");
    let described = kubectl.ok(&["describe", "limitrange", "sizes"]);
    assert!(described.contains("Container"), "{described}");
}

fn priorities(kubectl: &Kubectl) {
    kubectl.ok(&["create", "priorityclass", "high", "--value=1000"]);
    let mut manifest: serde_json::Value = serde_json::from_str(&pod("urgent", "{}")).unwrap();
    manifest["spec"]["priorityClassName"] = "high".into();
    kubectl.apply(&manifest.to_string());
    assert_eq!(kubectl.jsonpath(&["pod", "urgent"], "{.spec.priority}"), "1000");
    manifest["metadata"]["name"] = "unknown".into();
    manifest["spec"]["priorityClassName"] = "none".into();
    let message = refused(kubectl, &manifest.to_string());
    assert!(message.contains("no PriorityClass with name none was found"), "{message}");
    kubectl.ok(&["delete", "pod/urgent", "priorityclass/high", "--timeout=60s"]);
}
