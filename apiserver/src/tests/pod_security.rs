//! What the labels of a namespace ask of the pods in it.

use serde_json::{Value, json};

use super::harness::{Answer, Cluster};

const NAMESPACE: &str = "/api/v1/namespaces/default";
const PODS: &str = "/api/v1/namespaces/default/pods";
const ENFORCE: &str = "pod-security.kubernetes.io/enforce";

fn pod(name: &str, spec: Value) -> Value {
    let mut pod = json!({"metadata": {"name": name}, "spec": spec});
    pod["spec"]["containers"] = json!([{"name": "c", "image": "nginx"}]);
    pod
}

async fn label(cluster: &Cluster, key: &str, value: &str) -> Answer {
    let patch = json!({"metadata": {"labels": {key: value}}});
    cluster.patch(NAMESPACE, "merge-patch", &patch).await
}

fn warnings(answer: &Answer) -> Vec<&str> {
    answer.headers.get_all("warning").iter().map(|w| w.to_str().unwrap()).collect()
}

#[tokio::test]
async fn what_is_enforced_refuses_pods_and_warns_of_what_makes_them() {
    let cluster = Cluster::new().await;
    label(&cluster, ENFORCE, "baseline").await.ok();
    let refused = cluster.post(PODS, &pod("p", json!({"hostPID": true}))).await.fails(403);
    assert_eq!(
        refused["message"],
        "pods \"p\" is forbidden: violates PodSecurity \"baseline:latest\": host namespaces \
         (hostPID=true)"
    );
    cluster.post(PODS, &pod("q", json!({}))).await.ok();
    let deployment = json!({"metadata": {"name": "web"}, "spec": {
        "selector": {"matchLabels": {"app": "web"}}, "template": {
            "metadata": {"labels": {"app": "web"}}, "spec": pod("", json!({"hostPID": true}))["spec"]}}});
    let made = cluster.post("/apis/apps/v1/namespaces/default/deployments", &deployment).await;
    assert_eq!(
        warnings(&made),
        ["299 - \"would violate PodSecurity \\\"baseline:latest\\\": host namespaces \
          (hostPID=true)\""]
    );
    made.ok();
}

#[tokio::test]
async fn a_pod_that_is_there_may_change_but_for_its_images() {
    let cluster = Cluster::new().await;
    cluster.post(PODS, &pod("p", json!({"hostPID": true}))).await.ok();
    let told = label(&cluster, ENFORCE, "baseline").await;
    assert_eq!(
        warnings(&told),
        [
            "299 - \"existing pods in namespace \\\"default\\\" violate the new PodSecurity \
             enforce level \\\"baseline:latest\\\"\"",
            "299 - \"p: host namespaces\"",
        ]
    );
    let labels = json!({"metadata": {"labels": {"a": "b"}}});
    cluster.patch(&format!("{PODS}/p"), "merge-patch", &labels).await.ok();
    let image = json!({"spec": {"containers": [{"name": "c", "image": "httpd"}]}});
    cluster.patch(&format!("{PODS}/p"), "strategic-merge-patch", &image).await.fails(403);
}

#[tokio::test]
async fn labels_that_say_nothing_known_are_refused() {
    let cluster = Cluster::new().await;
    let refused = label(&cluster, ENFORCE, "strict").await.fails(422);
    assert_eq!(
        refused["message"],
        "Namespace \"default\" is invalid: metadata.labels[pod-security.kubernetes.io/enforce]: \
         Invalid value: \"strict\": must be one of privileged, baseline, restricted"
    );
}
