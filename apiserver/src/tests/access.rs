//! Roles and bindings, from the request that writes them to the decisions that follow.

use http::Method;
use serde_json::{Value, json};

use super::harness::{Cluster, read};
use crate::body::full;
use crate::security::User;

const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";

fn binding(subjects: usize) -> Value {
    let group = "rbac.authorization.k8s.io";
    let subject = |at: usize| json!({"kind": "User", "apiGroup": group, "name": format!("u{at}")});
    json!({"metadata": {"name": "b"},
        "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": "view"},
        "subjects": (0..subjects).map(subject).collect::<Vec<_>>()})
}

#[tokio::test]
async fn bindings_have_a_bounded_number_of_subjects() {
    let cluster = Cluster::new().await;
    let refused = "subjects: Too many: 2049: must have at most 2048 items";
    for place in ["", "/namespaces/default"] {
        let kind = if place.is_empty() { "clusterrolebindings" } else { "rolebindings" };
        let bindings = format!("{RBAC}{place}/{kind}");
        let message = cluster.post(&bindings, &binding(2049)).await.fails(422)["message"].clone();
        assert!(message.as_str().unwrap().ends_with(refused), "{message}");
        cluster.post(&bindings, &binding(2048)).await.ok();
        let update = cluster.put(&format!("{bindings}/b"), &binding(2049)).await.fails(422);
        assert!(update["message"].as_str().unwrap().ends_with(refused));
    }
    let pods = "/api/v1/namespaces/default/pods";
    cluster.send_as("u2047", Method::GET, pods, "", "").await.ok();
    cluster.send_as("u2048", Method::GET, pods, "", "").await.fails(403);
}

/// A role is read by the request that writes it, and again at the start; not by later requests.
#[tokio::test]
async fn roles_are_read_when_they_are_stored() {
    let mut cluster = Cluster::new().await;
    let role = json!({"metadata": {"name": "r"},
        "rules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}]});
    cluster.post(&format!("{RBAC}/namespaces/default/roles"), &role).await.ok();
    cluster.post(&format!("{RBAC}/namespaces/default/rolebindings"), &binding(1)).await.ok();
    for _ in 0..2 {
        for (key, is_read) in [
            ("rbac.authorization.k8s.io.roles/default/r", true),
            ("rbac.authorization.k8s.io.rolebindings/default/b", true),
            ("rbac.authorization.k8s.io.clusterroles//admin", true),
            ("core.namespaces//default", false),
        ] {
            let record = cluster.server.store().get(key).unwrap();
            assert_eq!(record.meta.policy.is_some(), is_read, "{key}");
        }
        cluster = cluster.restart().await;
    }
    let pods = "/api/v1/namespaces/default/pods";
    cluster.send_as("u0", Method::GET, pods, "", "").await.ok();
}

#[tokio::test]
async fn review_of_too_many_rules_says_incomplete() {
    let cluster = Cluster::new().await;
    let mut basic = binding(1);
    basic["roleRef"]["name"] = "system:basic-user".into();
    cluster.post(&format!("{RBAC}/clusterrolebindings"), &basic).await.ok();
    for (groups, incomplete) in [(3, false), (11_000, true)] {
        let groups = (0..groups).map(|group| group.to_string()).collect();
        let user = User { name: "u0".into(), groups, ..User::default() };
        let review = json!({"spec": {"namespace": "default"}}).to_string();
        let request = http::Request::post("/apis/authorization.k8s.io/v1/selfsubjectrulesreviews")
            .header("content-type", "application/json")
            .body(full(review))
            .unwrap();
        let status = read(cluster.raw_as(user, request).await).await.ok()["status"].clone();
        assert_eq!(status["incomplete"], incomplete);
        assert_eq!(status["evaluationError"].is_string(), incomplete, "{status}");
        assert!(!status["resourceRules"].as_array().unwrap().is_empty());
    }
}
