//! Small bodies that take much memory.

use std::fmt::Write;

use http::Method;
use serde_json::{Value, json};

use super::harness::Cluster;

const PODS: &str = "/api/v1/namespaces/default/pods";

/// A pod with `spec` laid over its own.
fn pod(name: &str, spec: &Value) -> Value {
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"containers": [{"name": "main", "image": "busybox"}]},
    });
    for (member, value) in spec.as_object().unwrap() {
        pod["spec"][member] = value.clone();
    }
    pod
}

fn list(count: usize, element: impl Fn(usize) -> Value) -> Value {
    (0..count).map(element).collect()
}

/// Requirements of no node: two bytes each as text, 48 in memory.
fn terms(count: usize) -> Value {
    json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
        {"nodeSelectorTerms": list(count, |_| json!({}))}}}})
}

fn volumes(count: usize) -> Value {
    json!({"volumes": list(count, |n| json!({"name": format!("v{n}"), "emptyDir": {}}))})
}

#[tokio::test]
async fn objects_that_take_much_memory_are_refused() {
    let cluster = Cluster::new().await;
    let tolerations = list(60_000, |_| json!({"operator": "Exists"}));
    let containers = list(12_000, |n| json!({"name": format!("c{n}"), "image": "i"}));
    let env = list(70_000, |n| json!({"name": format!("e{n}")}));
    let env = json!([{"name": "main", "image": "i", "env": env}]);
    for (shape, spec) in [
        ("terms", terms(400_000)),
        ("volumes", volumes(12_000)),
        ("tolerations", json!({"tolerations": tolerations})),
        ("containers", json!({"containers": containers})),
        ("variables", json!({"containers": env})),
    ] {
        let refused = cluster.post(PODS, &pod(shape, &spec)).await.fails(413);
        assert_eq!(refused["reason"], "RequestEntityTooLarge", "{shape}");
        let message = refused["message"].as_str().unwrap();
        assert!(message.starts_with("Request entity too large: "), "{message}");
        cluster.get(&format!("{PODS}/{shape}")).await.fails(404);
    }
    let references: Value = list(
        60_000,
        |n| json!({"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": n.to_string()}),
    );
    let map = json!({"metadata": {"name": "m", "ownerReferences": references}});
    cluster.post("/api/v1/namespaces/default/configmaps", &map).await.fails(413);
}

#[tokio::test]
async fn larger_objects_than_real_ones_are_taken() {
    let cluster = Cluster::new().await;
    cluster.post(PODS, &pod("volumes", &volumes(2_000))).await.ok();
    let env = |n: usize| {
        json!({"name": format!("e{n}"), "valueFrom":
        {"configMapKeyRef": {"name": "settings", "key": format!("k{n}")}}})
    };
    let containers =
        list(50, |n| json!({"name": format!("c{n}"), "image": "i", "env": list(100, env)}));
    cluster.post(PODS, &pod("env", &json!({"containers": containers}))).await.ok();
    let addresses = list(1000, |n| {
        json!({"ip": format!("10.0.{}.{}", n / 250, n % 250 + 1), "nodeName": "n", "targetRef":
            {"kind": "Pod", "namespace": "default", "name": format!("p{n}"), "uid": "u"}})
    });
    let endpoints = json!({"metadata": {"name": "e"}, "subsets":
        [{"addresses": addresses, "ports": [{"port": 80}]}]});
    cluster.post("/api/v1/namespaces/default/endpoints", &endpoints).await.ok();
    let map = json!({"metadata": {"name": "m"}, "data": {"k": "x".repeat(1 << 20)}});
    cluster.post("/api/v1/namespaces/default/configmaps", &map).await.ok();
}

#[tokio::test]
async fn patches_and_yaml_take_no_more_memory() {
    let cluster = Cluster::new().await;
    let deployments = "/apis/apps/v1/namespaces/default/deployments";
    let mut template = pod("p", &json!({}));
    template["metadata"] = json!({"labels": {"a": "b"}});
    let deployment = json!({"metadata": {"name": "d"}, "spec":
        {"selector": {"matchLabels": {"a": "b"}}, "template": template}});
    cluster.post(deployments, &deployment).await.ok();
    let uri = format!("{deployments}/d");
    let before = cluster.get(&uri).await.ok();
    for kind in ["merge-patch", "strategic-merge-patch"] {
        let patch = json!({"spec": {"template": {"spec": terms(400_000)}}});
        assert_eq!(cluster.patch(&uri, kind, &patch).await.code.as_u16(), 413, "{kind}");
    }
    // Copies of small maps.
    let references = list(1000, |_| json!({"name": "x"}));
    let mut operations = vec![json!({"op": "add", "path": "/spec/x", "value": [references]})];
    operations
        .extend((0..60).map(|_| json!({"op": "copy", "from": "/spec/x/0", "path": "/spec/x/-"})));
    let refused = cluster.patch(&uri, "json-patch", &json!(operations)).await.fails(413);
    assert!(refused["message"].as_str().unwrap().contains("of memory"), "{refused}");
    let mut yaml = String::from("apiVersion: v1\nkind: Pod\nmetadata:\n  name: y\n  labels:\n");
    (0..80_000).for_each(|n| writeln!(yaml, "    l{n}: {{a: b}}").unwrap());
    cluster.send(Method::POST, PODS, "application/yaml", yaml).await.fails(413);
    assert_eq!(cluster.get(&uri).await.ok(), before);
}

/// Lets an annotation grow until the object is full to the byte.
async fn fill(cluster: &Cluster, uri: &str) {
    let (mut fits, mut too_much) = (0, 8 << 10);
    while too_much - fits > 1 {
        let middle = usize::midpoint(fits, too_much);
        let patch = json!({"metadata": {"annotations": {"fill": "x".repeat(middle)}}});
        match cluster.patch(uri, "merge-patch", &patch).await.code.as_u16() {
            200 => fits = middle,
            413 => too_much = middle,
            other => panic!("{other}"),
        }
    }
    assert!(fits > 0);
}

#[tokio::test]
async fn full_objects_are_told_about_and_deleted() {
    let cluster = Cluster::new().await;
    let args = json!(["x".repeat((3 << 20) - (4 << 10))]);
    for name in ["deleted", "evicted"] {
        let containers = json!([{"name": "main", "image": "busybox", "args": args}]);
        cluster.post(PODS, &pod(name, &json!({"containers": containers}))).await.ok();
        let uri = format!("{PODS}/{name}");
        fill(&cluster, &uri).await;
        let binding = json!({"metadata": {"name": name}, "target": {"kind": "Node", "name": "n"}});
        cluster.post(&format!("{uri}/binding"), &binding).await.ok();
        let status = json!({"status": {"phase": "Running", "message": "y".repeat(100 << 10)}});
        cluster.patch(&format!("{uri}/status"), "merge-patch", &status).await.ok();
        let message = "y".repeat(400 << 10);
        let status = json!({"status": {"message": message}});
        cluster.patch(&format!("{uri}/status"), "merge-patch", &status).await.fails(413);
        // Nothing that a client adds to the object itself.
        let more = json!({"metadata": {"labels": {"a": "b"}}});
        cluster.patch(&uri, "merge-patch", &more).await.fails(413);
    }
    let eviction = json!({"metadata": {"name": "evicted"}});
    cluster.post(&format!("{PODS}/evicted/eviction"), &eviction).await.ok();
    cluster.delete(&format!("{PODS}/deleted")).await.ok();
    for name in ["deleted", "evicted"] {
        let pod = cluster.get(&format!("{PODS}/{name}")).await.ok();
        assert!(pod["metadata"]["deletionTimestamp"].is_string(), "{name}");
    }

    let containers = json!([{"name": "main", "image": "busybox", "args": args}]);
    let mut held = pod("held", &json!({"containers": containers}));
    held["metadata"]["finalizers"] = json!(["a/b", "a/c"]);
    cluster.post(PODS, &held).await.ok();
    let uri = format!("{PODS}/held");
    fill(&cluster, &uri).await;
    cluster.delete(&uri).await.ok();
    let first = json!([{"op": "remove", "path": "/metadata/finalizers/0"}]);
    cluster.patch(&uri, "json-patch", &first).await.ok();
    let rest = json!({"metadata": {"finalizers": null}});
    cluster.patch(&uri, "merge-patch", &rest).await.ok();
    cluster.get(&uri).await.fails(404);
}
