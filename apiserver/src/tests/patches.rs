//! Patches.

use http::{Method, Request};
use serde_json::{Value, json};

use super::harness::Cluster;
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

#[tokio::test]
async fn a_bare_set_image_gets_its_change_cause() {
    let cluster = Cluster::new().await;
    deployment(&cluster).await;
    let patch = json!({"spec": {"template": {"spec": {
        "containers": [{"name": "nginx", "image": "nginx:1.9.1"}]}}}});
    let request = Request::builder()
        .method(Method::PATCH)
        .uri(format!("{DEPLOYMENTS}/web"))
        .header("content-type", "application/strategic-merge-patch+json")
        .header("Kubectl-Command", "kubectl set image")
        .body(full(patch.to_string()))
        .unwrap();
    assert!(cluster.raw(request).await.status().is_success());
    let web = cluster.get(&format!("{DEPLOYMENTS}/web")).await.ok();
    assert_eq!(
        web["metadata"]["annotations"]["kubernetes.io/change-cause"],
        "kubectl set image deployment/web nginx=nginx:1.9.1"
    );
}
