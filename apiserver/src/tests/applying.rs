//! Server-side apply.

use http::Method;
use serde_json::{Value, json};

use super::harness::{Answer, Cluster};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const WEB: &str = "/apis/apps/v1/namespaces/default/deployments/web";

async fn apply(cluster: &Cluster, uri: &str, manager: &str, object: &Value) -> Answer {
    let uri = format!("{uri}?fieldManager={manager}");
    cluster.send(Method::PATCH, &uri, "application/apply-patch+yaml", object.to_string()).await
}

fn map(data: Value) -> Value {
    json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "m"}, "data": data})
}

#[tokio::test]
async fn fields_have_owners() {
    let cluster = Cluster::new().await;
    let uri = format!("{MAPS}/m");
    let made = apply(&cluster, &uri, "one", &map(json!({"a": "1", "b": "1"}))).await;
    assert_eq!(made.code.as_u16(), 201);
    assert_eq!(made.json["metadata"]["managedFields"][0]["manager"], "one");
    assert_eq!(made.json["metadata"]["managedFields"][0]["operation"], "Apply");
    let again = apply(&cluster, &uri, "one", &map(json!({"a": "1", "b": "1"}))).await.ok();
    assert_eq!(again, made.json);
    let refused = apply(&cluster, &uri, "two", &map(json!({"a": "2", "c": "2"}))).await.fails(409);
    assert_eq!(refused["message"], "Apply failed with 1 conflict: conflict with \"one\": .data.a");
    apply(&cluster, &uri, "two&force=true", &map(json!({"a": "2", "c": "2"}))).await.ok();
    // The first manager gives up what it has left; what the second one owns stays.
    let left = apply(&cluster, &uri, "one", &map(json!({}))).await.ok();
    assert_eq!(left["data"], json!({"a": "2", "c": "2"}));
    cluster.patch(&uri, "merge-patch", &json!({"data": {"c": "3"}})).await.ok();
    let refused = apply(&cluster, &uri, "two", &map(json!({"a": "2", "c": "2"}))).await.fails(409);
    let message = refused["message"].as_str().unwrap();
    assert!(message.ends_with(" using v1: .data.c"), "{message}");
}

#[tokio::test]
async fn lists_merge_by_key() {
    let cluster = Cluster::new().await;
    let config = |containers: Value| {
        json!({"kind": "Deployment", "apiVersion": "apps/v1", "metadata": {"name": "web"},
            "spec": {"selector": {"matchLabels": {"app": "web"}}, "template": {
                "metadata": {"labels": {"app": "web"}}, "spec": {"containers": containers}}}})
    };
    let port = json!([{"containerPort": 80}]);
    let two =
        config(json!([{"name": "a", "image": "a", "ports": port}, {"name": "b", "image": "b"}]));
    apply(&cluster, WEB, "kubectl", &two).await.ok();
    let scaled = json!({"spec": {"replicas": 3}});
    cluster.patch(WEB, "merge-patch", &scaled).await.ok();
    let one = config(json!([{"name": "a", "image": "a:2", "ports": port}]));
    let after = apply(&cluster, WEB, "kubectl", &one).await.ok();
    let containers = after["spec"]["template"]["spec"]["containers"].as_array().unwrap();
    assert_eq!(containers.len(), 1, "{after}");
    assert_eq!(containers[0]["image"], "a:2");
    assert_eq!(containers[0]["ports"].as_array().unwrap().len(), 1);
    assert_eq!(after["spec"]["replicas"], 3);
}

#[tokio::test]
async fn who_moves_from_apply_on_the_client_owns_what_it_applied() {
    let cluster = Cluster::new().await;
    let template = json!({"metadata": {"labels": {"app": "web"}},
        "spec": {"containers": [{"name": "a", "image": "a"}]}});
    let config = json!({"kind": "Deployment", "apiVersion": "apps/v1", "metadata": {"name": "web"},
        "spec": {"selector": {"matchLabels": {"app": "web"}}, "template": template}});
    let mut made = config.clone();
    let annotation = "kubectl.kubernetes.io/last-applied-configuration";
    made["metadata"]["annotations"] = json!({ annotation: config.to_string() });
    cluster.post("/apis/apps/v1/namespaces/default/deployments", &made).await.ok();
    cluster.patch(WEB, "merge-patch", &json!({"spec": {"replicas": 3}})).await.ok();
    let applied = apply(&cluster, WEB, "kubectl", &config).await.ok();
    let mut fields = applied["metadata"]["managedFields"].as_array().unwrap().clone();
    let client = fields.iter().position(|f| f["manager"] == "kubectl-client-side-apply").unwrap();
    let mut client = fields.remove(client);
    assert_eq!(client["operation"], "Update");
    let owned = &client["fieldsV1"];
    assert!(owned["f:metadata"]["f:annotations"][format!("f:{annotation}")].is_object(), "{owned}");
    assert!(owned["f:spec"]["f:template"].is_object(), "{owned}");
    assert!(owned["f:spec"]["f:replicas"].is_null(), "{owned}");
    // kubectl then writes itself into that entry's place, and applies once more.
    client["manager"] = "kubectl".into();
    client["operation"] = "Apply".into();
    fields.retain(|field| field["manager"] != "kubectl");
    fields.push(client);
    let record = json!({"metadata": {"managedFields": fields}});
    cluster.patch(WEB, "merge-patch", &record).await.ok();
    let after = apply(&cluster, WEB, "kubectl", &config).await.ok();
    assert_eq!(after["spec"]["replicas"], 3);
    assert!(after["metadata"]["annotations"][annotation].is_null(), "{after}");
}
