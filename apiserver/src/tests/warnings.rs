//! Every verb that writes answers with warnings about fields that are accepted and not acted on.

use http::Method;
use serde_json::json;

use super::harness::{Answer, Cluster};

const POLICIES: &str = "/apis/networking.k8s.io/v1/namespaces/default/networkpolicies";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";
const PODS: &str = "/api/v1/namespaces/default/pods";

const NOT_ENFORCED: &str = "299 - \"networking.k8s.io/v1 NetworkPolicy: not enforced by coracle: traffic flows as if \
                            this policy did not exist\"";

fn warnings(answer: &Answer) -> Vec<&str> {
    answer.headers.get_all("warning").iter().map(|w| w.to_str().unwrap()).collect()
}

#[tokio::test]
async fn every_write_of_network_policy_warns() {
    let cluster = Cluster::new().await;
    let policy = json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": "p"}, "spec": {"podSelector": {}}});
    let uri = format!("{POLICIES}/p");
    let apply = format!("{POLICIES}/q?fieldManager=t");
    let mut applied = policy.clone();
    applied["metadata"]["name"] = json!("q");
    let body = applied.to_string();
    let strategic = json!({"spec": {"policyTypes": ["Egress"]}});
    let answers = [
        cluster.post(POLICIES, &policy).await,
        cluster.put(&uri, &policy).await,
        cluster.patch(&uri, "strategic-merge-patch", &strategic).await,
        cluster.patch(&uri, "merge-patch", &json!({"spec": {"ingress": [{}]}})).await,
        cluster.send(Method::PATCH, &apply, "application/apply-patch+yaml", body.clone()).await,
        cluster.send(Method::PATCH, &apply, "application/apply-patch+yaml", body).await,
    ];
    for answer in answers {
        assert_eq!(warnings(&answer), [NOT_ENFORCED]);
        answer.ok();
    }
    assert_eq!(warnings(&cluster.get(&uri).await), Vec::<&str>::new());
}

#[tokio::test]
async fn field_of_template_is_named() {
    let cluster = Cluster::new().await;
    let labels = json!({"app": "web"});
    let deployment = json!({"metadata": {"name": "web"}, "spec": {
        "selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": {
            "containers": [{"name": "c", "image": "nginx"}],
            "volumes": [{"name": "data", "nfs": {"server": "s", "path": "/"}}]}}}});
    let expected = "299 - \"spec.template.spec.volumes[0].nfs: not supported by coracle: coracle has no such volume \
                    plugin: the pod does not start\"";
    let made = cluster.post(DEPLOYMENTS, &deployment).await;
    assert_eq!(warnings(&made), [expected]);
    let dry = cluster
        .post(
            &format!("{DEPLOYMENTS}?dryRun=All"),
            &json!({"metadata": {"name": "other"},
        "spec": deployment["spec"]}),
        )
        .await;
    assert_eq!(warnings(&dry), [expected]);
    let status = json!({"status": {"observedGeneration": 1}});
    let uri = format!("{DEPLOYMENTS}/web/status");
    assert_eq!(warnings(&cluster.patch(&uri, "merge-patch", &status).await), Vec::<&str>::new());
}

#[tokio::test]
async fn resize_of_running_pod_is_refused() {
    let cluster = Cluster::new().await;
    let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "nginx",
        "resources": {"limits": {"cpu": "1", "memory": "1Gi"}}}]}});
    let made = cluster.post(PODS, &pod).await.ok();
    let patch = json!({"spec": {"containers": [{"name": "c",
        "resources": {"limits": {"cpu": "2", "memory": "1Gi"}, "requests": {"cpu": "2"}}}]}});
    let refused = cluster
        .patch(&format!("{PODS}/p/resize"), "strategic-merge-patch", &patch)
        .await
        .fails(422);
    assert_eq!(
        refused["message"],
        "Pod \"p\" is invalid: spec: Forbidden: Pod running on node without support for resize"
    );
    assert_eq!(cluster.get(&format!("{PODS}/p")).await.ok()["spec"], made["spec"]);
}
