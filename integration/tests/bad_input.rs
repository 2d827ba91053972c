//! Bad input gets the error that Kubernetes gives, and everything else keeps working.
#![allow(clippy::unwrap_used, clippy::panic)]

use coracle_integration::{Kubectl, Node, eventually, privileged, within};

fn refused(kubectl: &Kubectl, manifest: &str, expected: &str) {
    let output = kubectl.run_with_input(&["create", "--validate=false", "-f", "-"], manifest);
    assert!(output.code != 0, "accepted:\n{manifest}");
    assert!(output.stderr.contains(expected), "expected {expected:?} in\n{}", output.stderr);
}

#[test]
fn manifests_with_mistakes_are_refused_with_their_field() {
    if !privileged() {
        return;
    }
    let node = Node::start();
    let kubectl = node.any_kubectl();
    for (manifest, expected) in [
        (
            "{\"apiVersion\":\"v1\",\"kind\":\"Pod\",\"metadata\":{\"name\":\"Bad_Name\"},\"spec\":{\"containers\":[{\"name\":\"a\",\"image\":\"b\"}]}}",
            "metadata.name: Invalid value: \"Bad_Name\": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character",
        ),
        (
            "{\"apiVersion\":\"v1\",\"kind\":\"Pod\",\"metadata\":{\"name\":\"a\"},\"spec\":{\"containers\":[]}}",
            "The Pod \"a\" is invalid: spec.containers: Required value",
        ),
        (
            "{\"apiVersion\":\"v1\",\"kind\":\"Pod\",\"metadata\":{\"name\":\"a\"},\"spec\":{\"containers\":[{\"name\":\"a\",\"image\":\"b\",\"resources\":{\"limits\":{\"cpu\":\"1\"},\"requests\":{\"cpu\":\"2\"}}}]}}",
            "spec.containers[0].resources.requests: Invalid value: \"2\": must be less than or equal to cpu limit of 1",
        ),
        (
            "{\"apiVersion\":\"v1\",\"kind\":\"Service\",\"metadata\":{\"name\":\"s\"},\"spec\":{\"ports\":[{\"port\":70000}]}}",
            "spec.ports[0].port: Invalid value: 70000: must be between 1 and 65535, inclusive",
        ),
        (
            "{\"apiVersion\":\"apps/v1\",\"kind\":\"Deployment\",\"metadata\":{\"name\":\"d\"},\"spec\":{\"selector\":{\"matchLabels\":{\"a\":\"b\"}},\"template\":{\"metadata\":{\"labels\":{\"a\":\"c\"}},\"spec\":{\"containers\":[{\"name\":\"a\",\"image\":\"b\"}]}}}}",
            "`selector` does not match template `labels`",
        ),
        (
            "{\"apiVersion\":\"v1\",\"kind\":\"ConfigMap\",\"metadata\":{\"name\":\"c\"},\"data\":{\"a/b\":\"x\"}}",
            "data[a/b]: Invalid value: \"a/b\": a valid config key must consist of alphanumeric characters",
        ),
        (
            "{\"apiVersion\":\"v1\",\"kind\":\"Pod\",\"metadata\":{\"name\":\"a\",\"namespace\":\"missing\"},\"spec\":{\"containers\":[{\"name\":\"a\",\"image\":\"b\"}]}}",
            "namespaces \"missing\" not found",
        ),
        (
            "{\"apiVersion\":\"apps/v1\",\"kind\":\"Deployment\",\"metadata\":{\"name\":\"d\"},\"spec\":{\"replicas\":\"three\"}}",
            "cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32",
        ),
        (
            "{\"apiVersion\":\"v1\",\"kind\":\"NoSuchKind\",\"metadata\":{\"name\":\"a\"}}",
            "no matches for kind \"NoSuchKind\" in version \"v1\"",
        ),
    ] {
        refused(&kubectl, manifest, expected);
    }

    // Unknown and duplicate fields.
    let unknown = "apiVersion: apps/v1
kind: Deployment
metadata: {name: d}
spec:
  replicaz: 3
  selector: {matchLabels: {a: b}}
  template:
    metadata: {labels: {a: b}}
    spec: {containers: [{name: a, image: b}]}
";
    let output = kubectl.run_with_input(&["create", "-f", "-"], unknown);
    assert!(output.stderr.contains("unknown field \"spec.replicaz\""), "{}", output.stderr);

    // Immutable fields, conflicts.
    kubectl
        .apply("{apiVersion: v1, kind: Service, metadata: {name: s}, spec: {ports: [{port: 80}]}}");
    let error = kubectl.fails(&[
        "patch",
        "service",
        "s",
        "-p",
        "{\"spec\":{\"clusterIP\":\"10.47.240.77\"}}",
    ]);
    assert!(
        error.contains(
            "spec.clusterIPs[0]: Invalid value: [\"10.47.240.77\"]: may not change once set"
        ),
        "{error}"
    );
    let mut stale = kubectl.json(&["service", "s"]);
    kubectl.ok(&["label", "service", "s", "x=y"]);
    stale["metadata"]["labels"] = serde_json::json!({"x": "z"});
    let output = kubectl.run_with_input(&["replace", "-f", "-"], &stale.to_string());
    assert!(
        output.stderr.contains("Operation cannot be fulfilled on services \"s\": the object has been modified; please apply your changes to the latest version and try again"),
        "{}",
        output.stderr
    );

    // Not found, unknown resources and verbs.
    assert!(
        kubectl
            .fails(&["get", "pod", "nope"])
            .contains("Error from server (NotFound): pods \"nope\" not found")
    );
    assert!(
        kubectl
            .fails(&["get", "noresource"])
            .contains("the server doesn't have a resource type \"noresource\"")
    );

    // Pods that cannot run say why; others go on.
    kubectl.ok(&["run", "ghost", "--image=no.such.registry.invalid/x", "--restart=Never"]);
    eventually(60, "ErrImagePull or ImagePullBackOff", || {
        let reason = kubectl
            .jsonpath(&["pod", "ghost"], "{.status.containerStatuses[0].state.waiting.reason}");
        (reason == "ErrImagePull" || reason == "ImagePullBackOff").then_some(())
    });
    kubectl.apply(
        "apiVersion: v1
kind: Pod
metadata: {name: wrong-command}
spec:
  restartPolicy: Never
  containers: [{name: a, image: busybox, imagePullPolicy: IfNotPresent, command: [no-such-command]}]
",
    );
    let state = eventually(30, "the start error", || {
        let state = kubectl.json(&["pod", "wrong-command"])["status"]["containerStatuses"][0]["state"]
            ["terminated"]
            .clone();
        state.is_object().then_some(state)
    });
    assert!(
        state["message"].as_str().unwrap().contains("executable file not found in $PATH"),
        "{state}"
    );
    kubectl.apply("apiVersion: v1
kind: Pod
metadata: {name: no-secret}
spec:
  containers:
  - {name: a, image: busybox, imagePullPolicy: IfNotPresent, command: [sleep, '1000'], envFrom: [{secretRef: {name: nope}}]}
");
    within(20, "CreateContainerConfigError", || {
        kubectl
            .jsonpath(&["pod", "no-secret"], "{.status.containerStatuses[0].state.waiting.reason}")
            == "CreateContainerConfigError"
    });
    kubectl.ok(&["run", "fine", "--image=nginx", "--image-pull-policy=IfNotPresent"]);
    kubectl.ok(&["wait", "--for=condition=Ready", "pod/fine", "--timeout=30s"]);
}
