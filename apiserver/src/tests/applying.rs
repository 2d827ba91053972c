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
async fn unprintable_field_managers_are_refused_everywhere() {
    let cluster = Cluster::new().await;
    cluster.post(MAPS, &map(json!({}))).await;
    let uri = format!("{MAPS}/m?fieldManager=a%01");
    let text = map(json!({})).to_string();
    let pod = "/api/v1/namespaces/default/pods/p";
    let account = "/api/v1/namespaces/default/serviceaccounts/default";
    let (json, merge) = ("application/json", "application/merge-patch+json");
    for (method, uri, media_type, kind) in [
        (Method::POST, format!("{MAPS}?fieldManager=a%01"), json, "CreateOptions"),
        (Method::PUT, uri.clone(), json, "UpdateOptions"),
        (Method::PATCH, uri.clone(), merge, "PatchOptions"),
        (Method::PATCH, uri.clone(), "application/apply-patch+yaml", "PatchOptions"),
        (Method::POST, format!("{pod}/eviction?fieldManager=a%01"), json, "CreateOptions"),
        (Method::POST, format!("{pod}/binding?fieldManager=a%01"), json, "CreateOptions"),
        (Method::POST, format!("{account}/token?fieldManager=a%01"), json, "CreateOptions"),
    ] {
        let status = cluster.send(method.clone(), &uri, media_type, text.clone()).await.fails(422);
        assert_eq!(
            status["message"],
            format!(
                "{kind}.meta.k8s.io \"\" is invalid: fieldManager: Invalid value: \"a\\x01\": \
                 invalid character U+0001 (at position 1)"
            ),
            "{method} {uri}"
        );
        assert_eq!(status["details"]["causes"][0]["field"], "fieldManager");
    }
    let long = format!("{MAPS}/m?fieldManager={}", "x".repeat(129));
    cluster.send(Method::PATCH, &long, merge, "{}").await.fails(422);
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

#[tokio::test]
async fn apply_that_creates_needs_the_right_to_create() {
    let cluster = Cluster::new().await;
    let role = json!({"metadata": {"name": "patcher"}, "rules": [
        {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "patch"]}]});
    cluster.post("/apis/rbac.authorization.k8s.io/v1/clusterroles", &role).await.ok();
    cluster.bind_in_default("bob", "patcher").await;
    let uri = format!("{MAPS}/m?fieldManager=bob");
    let media_type = "application/apply-patch+yaml";
    let body = map(json!({"a": "1"})).to_string();
    for dry in ["", "&dryRun=All"] {
        let uri = format!("{uri}{dry}");
        let refused = cluster.send_as("bob", Method::PATCH, &uri, media_type, body.clone()).await;
        assert_eq!(
            refused.fails(403)["message"],
            "configmaps \"m\" is forbidden: User \"bob\" cannot create resource \"configmaps\" in \
             API group \"\" in the namespace \"default\""
        );
    }
    cluster.post(MAPS, &map(json!({"b": "1"}))).await.ok();
    let changed = cluster.send_as("bob", Method::PATCH, &uri, media_type, body).await.ok();
    assert_eq!(changed["data"], json!({"a": "1", "b": "1"}));
}

#[tokio::test]
async fn apply_of_many_elements_takes_linear_time() {
    let cluster = Cluster::new().await;
    let template = |n: usize, name: &str| {
        let ports: Vec<Value> =
            (0..n).map(|n| json!({"containerPort": n + 1, "name": format!("{name}{n}")})).collect();
        json!({"kind": "PodTemplate", "apiVersion": "v1", "metadata": {"name": "t"},
            "template": {"metadata": {"labels": {"a": "b"}}, "spec": {
                "containers": [{"name": "c", "image": "i", "ports": ports}]}}})
    };
    let uri = "/api/v1/namespaces/default/podtemplates/t";
    // A quadratic walk compares some 25 million pairs here, each by parsing.
    let began = std::time::Instant::now();
    for (n, manager) in [(5000, "one"), (5000, "two&force=true"), (2500, "one")] {
        let answer = apply(&cluster, uri, manager, &template(n, "p")).await;
        assert!(answer.code.is_success() || answer.code.as_u16() == 422, "{}", answer.code);
    }
    assert!(began.elapsed().as_secs() < 60, "{:?}", began.elapsed());
}

#[tokio::test]
async fn fields_of_a_record_are_bounded() {
    let cluster = Cluster::new().await;
    let uri = format!("{MAPS}/m");
    apply(&cluster, &uri, "one", &map(json!({"a": "1"}))).await.ok();
    // A prefix that is written once stands before each of the fields.
    let leaves: serde_json::Map<String, Value> =
        (0..20_000).map(|n| (format!("f:{n}"), json!({}))).collect();
    let deep = (0..50).fold(Value::Object(leaves), |below, _| json!({"f:x": below}));
    let record = json!([{"manager": "one", "operation": "Apply", "apiVersion": "v1",
        "fieldsType": "FieldsV1", "fieldsV1": deep}]);
    let patch = json!({"metadata": {"managedFields": record}});
    let refused = cluster.patch(&uri, "merge-patch", &patch).await.fails(413);
    assert_eq!(
        refused["message"],
        "Request entity too large: metadata.managedFields: the object has too many fields to \
         record who manages them"
    );
    apply(&cluster, &uri, "one", &map(json!({"a": "2"}))).await.ok();
}

#[tokio::test]
async fn element_without_its_key_is_refused() {
    let cluster = Cluster::new().await;
    let config = |pod: Value| {
        json!({"kind": "Deployment", "apiVersion": "apps/v1",
            "metadata": {"name": "web", "namespace": "default"},
            "spec": {"selector": {"matchLabels": {"app": "web"}}, "template": {
                "metadata": {"labels": {"app": "web"}}, "spec": pod}}})
    };
    let good = config(json!({"containers": [{"name": "a", "image": "a",
        "ports": [{"containerPort": 80}]}]}));
    let prefix = "failed to create typed patch object (default/web; apps/v1, Kind=Deployment): ";
    let spec = ".spec.template.spec";
    for (pod, fault) in [
        (
            json!({"containers": [{"name": "a", "image": "a"}, {"image": "b"}]}),
            format!(
                "{spec}.containers: element 1: associative list with keys has an element that \
                 omits key field \"name\" (and doesn't have default value)"
            ),
        ),
        (
            json!({"containers": [{"name": "a", "image": "a", "ports": [{"hostPort": 80}]}]}),
            format!(
                "{spec}.containers[name=\"a\"].ports: element 0: associative list with keys has \
                 an element that omits key field \"containerPort\" (and doesn't have default value)"
            ),
        ),
        (
            json!({"containers": [{"name": "a", "image": "a", "env": [
                {"name": "X", "value": "1"}, {"name": "X", "value": "2"}]}]}),
            format!("{spec}.containers[name=\"a\"].env: duplicate entries for key [name=\"X\"]"),
        ),
        (
            json!({"containers": [{"name": "a", "image": "a"}],
                "volumes": [{"emptyDir": {}}], "initContainers": [{"image": "i"}]}),
            format!(
                "errors:\n  {spec}.initContainers: element 0: associative list with keys has an \
                 element that omits key field \"name\" (and doesn't have default value)\n  \
                 {spec}.volumes: element 0: associative list with keys has an element that omits \
                 key field \"name\" (and doesn't have default value)"
            ),
        ),
    ] {
        let refused = apply(&cluster, WEB, "one", &config(pod)).await.fails(500);
        assert_eq!(refused["message"], format!("{prefix}{fault}"));
        assert!(refused.get("reason").is_none(), "{refused}");
    }
    cluster.get(WEB).await.fails(404);
    apply(&cluster, WEB, "one", &good).await.ok();
}
