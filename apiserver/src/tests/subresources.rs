//! Scale, binding, eviction, status; what admission adds to pods.

use serde_json::json;

use super::deletion::{bind, pod};
use super::harness::Cluster;

const PODS: &str = "/api/v1/namespaces/default/pods";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";

#[tokio::test]
async fn a_deployment_scales() {
    let cluster = Cluster::new().await;
    let object = json!({"metadata": {"name": "web"}, "spec": {
        "selector": {"matchLabels": {"app": "web"}}, "template": {
            "metadata": {"labels": {"app": "web"}},
            "spec": {"containers": [{"name": "c", "image": "nginx"}]}}}});
    cluster.post(DEPLOYMENTS, &object).await.ok();
    let scale = cluster.get(&format!("{DEPLOYMENTS}/web/scale")).await.ok();
    assert_eq!(scale["spec"]["replicas"], 1);
    assert_eq!(scale["status"]["selector"], "app=web");
    let patch = json!({"spec": {"replicas": 4}});
    let scaled =
        cluster.patch(&format!("{DEPLOYMENTS}/web/scale"), "merge-patch", &patch).await.ok();
    assert_eq!(scaled["spec"]["replicas"], 4);
    let web = cluster.get(&format!("{DEPLOYMENTS}/web")).await.ok();
    assert_eq!(web["spec"]["replicas"], 4);
    assert_eq!(web["metadata"]["generation"], 2);
    // A write to the status leaves the spec alone, and the other way round.
    let mut with_status = web.clone();
    with_status["spec"]["replicas"] = 9.into();
    with_status["status"] = json!({"replicas": 4, "observedGeneration": 2});
    let after = cluster.put(&format!("{DEPLOYMENTS}/web/status"), &with_status).await.ok();
    assert_eq!(after["spec"]["replicas"], 4);
    assert_eq!(after["status"]["replicas"], 4);
    assert_eq!(after["metadata"]["generation"], 2);
}

#[tokio::test]
async fn a_pod_gets_what_admission_adds() {
    let cluster = Cluster::new().await;
    let made = pod(&cluster, "p").await;
    let spec = &made["spec"];
    assert_eq!(spec["serviceAccountName"], "default");
    assert_eq!(spec["priority"], 0);
    assert_eq!(spec["tolerations"].as_array().unwrap().len(), 2);
    assert!(spec["volumes"][0]["name"].as_str().unwrap().starts_with("kube-api-access-"));
    assert_eq!(made["status"]["phase"], "Pending");
    let other = json!({"metadata": {"name": "q"},
        "spec": {"serviceAccountName": "none", "containers": [{"name": "c", "image": "x"}]}});
    let refused = cluster.post(PODS, &other).await.fails(403);
    assert!(refused["message"].as_str().unwrap().contains("serviceaccount \"none\" not found"));
}

#[tokio::test]
async fn a_pod_is_bound_once() {
    let cluster = Cluster::new().await;
    pod(&cluster, "p").await;
    bind(&cluster, "p").await;
    let bound = cluster.get(&format!("{PODS}/p")).await.ok();
    assert_eq!(bound["spec"]["nodeName"], "n1");
    assert_eq!(bound["status"]["conditions"][0]["type"], "PodScheduled");
    let binding = json!({"metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n2"}});
    cluster.post(&format!("{PODS}/p/binding"), &binding).await.fails(409);
}

#[tokio::test]
async fn evictions_keep_the_budget() {
    let cluster = Cluster::new().await;
    pod(&cluster, "p").await;
    bind(&cluster, "p").await;
    let status = json!({"status": {"phase": "Running",
        "conditions": [{"type": "Ready", "status": "True"}]}});
    cluster.patch(&format!("{PODS}/p/status"), "merge-patch", &status).await.ok();
    let budgets = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";
    let budget = json!({"metadata": {"name": "b"}, "spec": {"minAvailable": 1,
        "selector": {"matchLabels": {"app": "p"}}}});
    cluster.post(budgets, &budget).await.ok();
    let status = json!({"status": {"observedGeneration": 1, "disruptionsAllowed": 0,
        "desiredHealthy": 1, "currentHealthy": 1, "expectedPods": 1}});
    cluster.patch(&format!("{budgets}/b/status"), "merge-patch", &status).await.ok();
    let eviction =
        json!({"kind": "Eviction", "apiVersion": "policy/v1", "metadata": {"name": "p"}});
    let refused = cluster.post(&format!("{PODS}/p/eviction"), &eviction).await.fails(429);
    assert_eq!(
        refused["message"],
        "Cannot evict pod as it would violate the pod's disruption budget."
    );
    cluster.delete(&format!("{budgets}/b")).await.ok();
    cluster.post(&format!("{PODS}/p/eviction"), &eviction).await.ok();
    let pod = cluster.get(&format!("{PODS}/p")).await.ok();
    assert!(pod["metadata"]["deletionTimestamp"].is_string());
}

#[tokio::test]
async fn a_pod_cannot_ask_for_a_runtime_class() {
    let cluster = Cluster::new().await;
    let object = json!({"metadata": {"name": "p"},
        "spec": {"runtimeClassName": "gvisor", "containers": [{"name": "c", "image": "x"}]}});
    let refused = cluster.post(PODS, &object).await.fails(403);
    assert_eq!(
        refused["message"],
        "pods \"p\" is forbidden: pod rejected: RuntimeClass \"gvisor\" not found"
    );
}

#[tokio::test]
async fn an_ingress_without_a_class_gets_the_default_one() {
    let cluster = Cluster::new().await;
    let classes = "/apis/networking.k8s.io/v1/ingressclasses";
    let class = |name: &str, default: &str| {
        json!({"metadata": {"name": name,
            "annotations": {"ingressclass.kubernetes.io/is-default-class": default}},
            "spec": {"controller": "example.com/it"}})
    };
    cluster.post(classes, &class("plain", "false")).await.ok();
    cluster.post(classes, &class("usual", "true")).await.ok();
    let ingresses = "/apis/networking.k8s.io/v1/namespaces/default/ingresses";
    let ingress = |name: &str, spec: serde_json::Value| {
        let mut ingress = json!({"metadata": {"name": name}, "spec": spec});
        ingress["spec"]["defaultBackend"] =
            json!({"service": {"name": "web", "port": {"number": 80}}});
        ingress
    };
    let made = cluster.post(ingresses, &ingress("a", json!({}))).await.ok();
    assert_eq!(made["spec"]["ingressClassName"], "usual");
    let own = ingress("b", json!({"ingressClassName": "plain"}));
    assert_eq!(cluster.post(ingresses, &own).await.ok()["spec"]["ingressClassName"], "plain");
    let mut old = ingress("c", json!({}));
    old["metadata"]["annotations"] = json!({"kubernetes.io/ingress.class": "plain"});
    assert!(cluster.post(ingresses, &old).await.ok()["spec"]["ingressClassName"].is_null());
}

#[tokio::test]
async fn one_priority_class_is_the_default() {
    let cluster = Cluster::new().await;
    let classes = "/apis/scheduling.k8s.io/v1/priorityclasses";
    let class = |name: &str| json!({"metadata": {"name": name}, "value": 5, "globalDefault": true});
    let first = cluster.post(classes, &class("first")).await.ok();
    let refused = cluster.post(classes, &class("second")).await.fails(403);
    assert_eq!(
        refused["message"],
        "priorityclasses.scheduling.k8s.io \"second\" is forbidden: PriorityClass first is already \
         marked as default. Only one default can exist"
    );
    cluster.put(&format!("{classes}/first"), &first).await.ok();
}
