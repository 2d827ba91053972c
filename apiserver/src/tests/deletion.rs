//! Graceful deletion, finalizers, namespaces.

use http::Method;
use serde_json::{Value, json};

use super::harness::Cluster;

const PODS: &str = "/api/v1/namespaces/default/pods";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

pub(super) async fn pod(cluster: &Cluster, name: &str) -> Value {
    let object = json!({"metadata": {"name": name, "labels": {"app": name}},
        "spec": {"containers": [{"name": "c", "image": "nginx"}]}});
    cluster.post(PODS, &object).await.ok()
}

pub(super) async fn bind(cluster: &Cluster, name: &str) {
    let binding = json!({"kind": "Binding", "apiVersion": "v1", "metadata": {"name": name},
        "target": {"kind": "Node", "name": "n1"}});
    cluster.post(&format!("{PODS}/{name}/binding"), &binding).await.ok();
}

#[tokio::test]
async fn a_scheduled_pod_waits_for_its_node() {
    let cluster = Cluster::new().await;
    pod(&cluster, "idle").await;
    cluster.delete(&format!("{PODS}/idle")).await.ok();
    cluster.get(&format!("{PODS}/idle")).await.fails(404);
    pod(&cluster, "busy").await;
    bind(&cluster, "busy").await;
    let marked = cluster.delete(&format!("{PODS}/busy")).await.ok();
    assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], 30);
    assert!(marked["metadata"]["deletionTimestamp"].is_string());
    // The node reports the end.
    let body = json!({"kind": "DeleteOptions", "apiVersion": "v1", "gracePeriodSeconds": 0,
        "preconditions": {"uid": marked["metadata"]["uid"]}});
    let wrong = json!({"preconditions": {"uid": "other"}}).to_string();
    cluster.send(Method::DELETE, &format!("{PODS}/busy"), "", wrong).await.fails(409);
    cluster.send(Method::DELETE, &format!("{PODS}/busy"), "", body.to_string()).await.ok();
    cluster.get(&format!("{PODS}/busy")).await.fails(404);
}

#[tokio::test]
async fn finalizers_hold() {
    let cluster = Cluster::new().await;
    let held = json!({"metadata": {"name": "held", "finalizers": ["example.com/mine"]}});
    cluster.post(MAPS, &held).await.ok();
    let marked = cluster.delete(&format!("{MAPS}/held")).await.ok();
    assert_eq!(marked["kind"], "ConfigMap");
    let more = json!({"metadata": {"finalizers": ["example.com/mine", "example.com/new"]}});
    cluster.patch(&format!("{MAPS}/held"), "merge-patch", &more).await.fails(422);
    let none = json!({"metadata": {"finalizers": null}});
    cluster.patch(&format!("{MAPS}/held"), "merge-patch", &none).await.ok();
    cluster.get(&format!("{MAPS}/held")).await.fails(404);
    cluster.post(MAPS, &json!({"metadata": {"name": "fore"}})).await.ok();
    let uri = format!("{MAPS}/fore?propagationPolicy=Foreground");
    let marked = cluster.delete(&uri).await.ok();
    assert_eq!(marked["metadata"]["finalizers"], json!(["foregroundDeletion"]));
}

#[tokio::test]
async fn a_namespace_goes_when_it_is_finalized() {
    let cluster = Cluster::new().await;
    cluster.delete("/api/v1/namespaces/default").await.fails(403);
    cluster.post("/api/v1/namespaces", &json!({"metadata": {"name": "ns"}})).await.ok();
    let marked = cluster.delete("/api/v1/namespaces/ns").await.ok();
    assert_eq!(marked["status"]["phase"], "Terminating");
    let refused = cluster
        .post("/api/v1/namespaces/ns/configmaps", &json!({"metadata": {"name": "late"}}))
        .await
        .fails(403);
    assert!(refused["message"].as_str().unwrap().ends_with("because it is being terminated"));
    let mut finalized = marked.clone();
    finalized["spec"]["finalizers"] = json!([]);
    cluster.put("/api/v1/namespaces/ns/finalize", &finalized).await.ok();
    cluster.get("/api/v1/namespaces/ns").await.fails(404);
}

#[tokio::test]
async fn a_selected_collection_goes() {
    let cluster = Cluster::new().await;
    for name in ["a", "b"] {
        pod(&cluster, name).await;
    }
    cluster.delete(&format!("{PODS}?labelSelector=app%3Da")).await.ok();
    let left = cluster.get(PODS).await.ok();
    assert_eq!(left["items"].as_array().unwrap().len(), 1);
}
