//! Patches.

use http::{Method, Request};
use serde_json::{Value, json};

use super::harness::Cluster;
use crate::Config;
use crate::body::full;

const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";

async fn deployment(cluster: &Cluster) -> Value {
    let object = json!({
        "metadata": {"name": "web", "annotations": {"kubernetes.io/change-cause": "kubectl apply"}},
        "spec": {"selector": {"matchLabels": {"app": "web"}}, "template": {
            "metadata": {"labels": {"app": "web"}},
            "spec": {"containers": [{"name": "nginx", "image": "nginx"}, {"name": "b", "image": "b"}]},
        }},
    });
    cluster.post(DEPLOYMENTS, &object).await.ok()
}

#[tokio::test]
async fn every_kind_of_patch_applies() {
    let cluster = Cluster::new().await;
    deployment(&cluster).await;
    let web = format!("{DEPLOYMENTS}/web");
    let strategic = json!({"spec": {"template": {"spec": {
        "$setElementOrder/containers": [{"name": "nginx"}, {"name": "b"}],
        "containers": [{"name": "nginx", "image": "nginx:1.9.1"}],
    }}}});
    let patched = cluster.patch(&web, "strategic-merge-patch", &strategic).await.ok();
    let containers = &patched["spec"]["template"]["spec"]["containers"];
    assert_eq!(containers[0]["image"], "nginx:1.9.1");
    assert_eq!(containers[1]["image"], "b");
    assert_eq!(patched["metadata"]["generation"], 2);
    let merge = json!({"spec": {"replicas": 5}});
    assert_eq!(cluster.patch(&web, "merge-patch", &merge).await.ok()["spec"]["replicas"], 5);
    let operations = json!([{"op": "replace", "path": "/spec/replicas", "value": 2}]);
    assert_eq!(cluster.patch(&web, "json-patch", &operations).await.ok()["spec"]["replicas"], 2);
    let failing = json!([{"op": "test", "path": "/spec/replicas", "value": 3}]);
    cluster.patch(&web, "json-patch", &failing).await.fails(422);
    cluster.patch(&web, "merge-patch", &json!({"spec": {"replicas": "x"}})).await.fails(422);
    let stale = json!({"metadata": {"resourceVersion": "1"}, "spec": {"replicas": 9}});
    cluster.patch(&web, "merge-patch", &stale).await.fails(409);
    cluster.send(Method::PATCH, &web, "text/plain", "x").await.fails(415);
}

/// The change-cause after a patch of the image by a client that says it runs `command`.
async fn cause_after(cluster: &Cluster, command: &str, recorded: Option<&str>) -> Value {
    let mut patch = json!({"spec": {"template": {"spec": {
        "containers": [{"name": "nginx", "image": "nginx:1.9.1"}]}}}});
    if let Some(cause) = recorded {
        patch["metadata"]["annotations"]["kubernetes.io/change-cause"] = cause.into();
    }
    let request = Request::builder()
        .method(Method::PATCH)
        .uri(format!("{DEPLOYMENTS}/web"))
        .header("content-type", "application/strategic-merge-patch+json")
        .header("Kubectl-Command", command)
        .body(full(patch.to_string()))
        .unwrap();
    assert!(cluster.raw(request).await.status().is_success());
    let web = cluster.get(&format!("{DEPLOYMENTS}/web")).await.ok();
    web["metadata"]["annotations"]["kubernetes.io/change-cause"].clone()
}

#[tokio::test]
async fn a_bare_set_image_gets_its_change_cause() {
    let cluster = Cluster::new().await;
    deployment(&cluster).await;
    let set_image = "kubectl set image";
    assert_eq!(cause_after(&cluster, "kubectl edit", None).await, "kubectl apply");
    assert_eq!(
        cause_after(&cluster, set_image, None).await,
        "kubectl set image deployment/web nginx=nginx:1.9.1"
    );
    assert_eq!(cause_after(&cluster, set_image, Some("mine")).await, "mine");
    // Nothing is invented for somebody who records nothing.
    let forget = json!({"metadata": {"annotations": {"kubernetes.io/change-cause": null}}});
    cluster.patch(&format!("{DEPLOYMENTS}/web"), "merge-patch", &forget).await.ok();
    assert_eq!(cause_after(&cluster, set_image, None).await, Value::Null);
}

#[tokio::test]
async fn the_change_cause_is_left_alone_where_that_is_configured() {
    let config = Config { reconstruct_change_cause: false, ..Config::default() };
    let cluster = Cluster::with_config(config).await;
    deployment(&cluster).await;
    assert_eq!(cause_after(&cluster, "kubectl set image", None).await, "kubectl apply");
}

#[tokio::test]
async fn json_patch_stays_within_upstreams_bounds() {
    let cluster = Cluster::new().await;
    let maps = "/api/v1/namespaces/default/configmaps";
    cluster.post(maps, &json!({"metadata": {"name": "m"}, "data": {"k": "x"}})).await.ok();
    let uri = format!("{maps}/m");
    let many: Vec<Value> =
        (0..10_001).map(|_| json!({"op": "test", "path": "/data/k", "value": "x"})).collect();
    let refused = cluster.patch(&uri, "json-patch", &many.into()).await.fails(413);
    assert_eq!(
        refused["message"],
        "Request entity too large: The allowed maximum operations in a JSON patch is 10000, got \
         10001"
    );
    // Each copy of the data into itself doubles it.
    let doubling: Vec<Value> = (0..24)
        .map(|n| json!({"op": "copy", "from": "/data", "path": format!("/data/k{n}")}))
        .chain([json!({"op": "replace", "path": "/data", "value": {}})])
        .collect();
    let refused = cluster.patch(&uri, "json-patch", &doubling.into()).await.fails(413);
    assert_eq!(refused["reason"], "RequestEntityTooLarge");
    let deep = (0..60).fold(json!(1), |below, _| json!({"a": below}));
    let into_itself = format!("/metadata/x{}", "/a".repeat(59));
    let nested = json!([
        {"op": "add", "path": "/metadata/x", "value": deep},
        {"op": "copy", "from": "/metadata/x", "path": into_itself},
    ]);
    let refused = cluster.patch(&uri, "json-patch", &nested).await.fails(413);
    assert_eq!(
        refused["message"],
        "Request entity too large: the patched object is nested more than 100 levels deep"
    );
    assert_eq!(cluster.get(&uri).await.ok()["data"], json!({"k": "x"}));
}

#[tokio::test]
async fn patches_do_not_grow_an_object_without_end() {
    let cluster = Cluster::new().await;
    let maps = "/api/v1/namespaces/default/configmaps";
    cluster.post(maps, &json!({"metadata": {"name": "m"}})).await.ok();
    let uri = format!("{maps}/m");
    for kind in ["merge-patch", "strategic-merge-patch"] {
        let large = json!({"data": {(kind): "x".repeat(900_000)}});
        let answer = cluster.patch(&uri, kind, &large).await;
        assert!(answer.code.is_success() || answer.code.as_u16() == 422, "{}", answer.json);
    }
    // Annotations and data have bounds of their own; other kinds have this one.
    let template = |n: usize| {
        let containers: Vec<Value> = (0..n)
            .map(|n| json!({"name": format!("c{n}"), "image": "i", "args": ["x".repeat(90_000)]}))
            .collect();
        json!({"metadata": {"name": "t"}, "template": {"metadata": {"labels": {"a": "b"}},
            "spec": {"containers": containers}}})
    };
    let templates = "/api/v1/namespaces/default/podtemplates";
    cluster.post(templates, &template(20)).await.ok();
    let more: Vec<Value> = (20..40)
        .map(|n| json!({"name": format!("c{n}"), "image": "i", "args": ["x".repeat(90_000)]}))
        .collect();
    let patch = json!({"template": {"spec": {"containers": more}}});
    let uri = format!("{templates}/t");
    let refused = cluster.patch(&uri, "strategic-merge-patch", &patch).await.fails(413);
    assert_eq!(refused["message"], "Request entity too large: limit is 3145728");
}
