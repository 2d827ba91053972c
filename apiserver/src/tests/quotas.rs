//! ResourceQuotas: what is refused, how it is found out, and which creations wait for each other.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};
use store::{Action, Durability};

use super::harness::Cluster;
use crate::admission::quota;
use crate::meta::{self, Meta};

const CORE: &str = "/api/v1/namespaces/default";

async fn quota(cluster: &Cluster, name: &str, spec: Value) {
    let quota = json!({"metadata": {"name": name}, "spec": spec});
    cluster.post(&format!("{CORE}/resourcequotas"), &quota).await.ok();
}

fn pod(name: &str, cpu: Option<&str>) -> Value {
    let resources = cpu.map_or(json!({}), |cpu| json!({"requests": {"cpu": cpu}}));
    json!({"metadata": {"name": name}, "spec": {
        "containers": [{"name": "c", "image": "i", "resources": resources}]}})
}

#[tokio::test]
async fn pods_are_limited_by_scope() {
    let cluster = Cluster::new().await;
    let pods = format!("{CORE}/pods");
    quota(&cluster, "best", json!({"hard": {"pods": "1"}, "scopes": ["BestEffort"]})).await;
    let hard = json!({"requests.cpu": "300m", "count/pods": "9"});
    quota(&cluster, "other", json!({"hard": hard, "scopes": ["NotBestEffort"]})).await;
    cluster.post(&pods, &pod("a", None)).await.ok();
    cluster.post(&pods, &pod("b", Some("100m"))).await.ok();
    let refused = cluster.post(&pods, &pod("c", None)).await.fails(403);
    assert_eq!(
        refused["message"],
        "pods \"c\" is forbidden: exceeded quota: best, requested: pods=1, used: pods=1, limited: \
         pods=1"
    );
    let refused = cluster.post(&pods, &pod("c", Some("250m"))).await.fails(403);
    assert_eq!(
        refused["message"],
        "pods \"c\" is forbidden: exceeded quota: other, requested: requests.cpu=250m, used: \
         requests.cpu=100m, limited: requests.cpu=300m"
    );
    cluster.post(&pods, &pod("c", Some("200m"))).await.ok();
    // What quotas measure is there after a restart.
    let cluster = cluster.restart().await;
    cluster.post(&pods, &pod("d", Some("1m"))).await.fails(403);
    cluster.post(&pods, &pod("d", None)).await.fails(403);
    let mut ended = cluster.get(&format!("{pods}/a")).await.ok();
    ended["status"]["phase"] = "Succeeded".into();
    cluster.put(&format!("{pods}/a/status"), &ended).await.ok();
    cluster.post(&pods, &pod("d", None)).await.ok();
}

#[tokio::test]
async fn changed_services_are_measured_without_themselves() {
    let cluster = Cluster::new().await;
    let services = format!("{CORE}/services");
    quota(&cluster, "q", json!({"hard": {"services": "2", "services.nodeports": "2"}})).await;
    let service = |name: &str, kind: &str, ports: u16| {
        let ports: Value =
            (1..=ports).map(|port| json!({"name": format!("p{port}"), "port": port})).collect();
        json!({"metadata": {"name": name}, "spec": {"type": kind, "ports": ports}})
    };
    cluster.post(&services, &service("a", "NodePort", 1)).await.ok();
    let mut made = cluster.post(&services, &service("b", "ClusterIP", 2)).await.ok();
    made["spec"]["type"] = "NodePort".into();
    let refused = cluster.put(&format!("{services}/b"), &made).await.fails(403);
    assert_eq!(
        refused["message"],
        "services \"b\" is forbidden: exceeded quota: q, requested: services.nodeports=2, used: \
         services.nodeports=1, limited: services.nodeports=2"
    );
    made["spec"]["ports"].as_array_mut().unwrap().pop();
    cluster.put(&format!("{services}/b"), &made).await.ok();
    cluster.post(&services, &service("c", "ClusterIP", 1)).await.fails(403);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn concurrent_updates_share_no_last_place() {
    let cluster = Cluster::new().await;
    let services = format!("{CORE}/services");
    quota(&cluster, "q", json!({"hard": {"services.nodeports": "2"}})).await;
    for n in 0..12 {
        let spec = json!({"type": "ClusterIP", "ports": [{"port": 1}]});
        let service = json!({"metadata": {"name": format!("s{n}")}, "spec": spec});
        cluster.post(&services, &service).await.ok();
    }
    let patch = json!({"spec": {"type": "NodePort"}});
    let cluster = Arc::new(cluster);
    let turn = quota::turn(&cluster.server, "default").await;
    let patches: Vec<_> = (0..12)
        .map(|n| {
            let (cluster, uri, patch) =
                (cluster.clone(), format!("{services}/s{n}"), patch.clone());
            tokio::spawn(async move { cluster.patch(&uri, "merge-patch", &patch).await })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(patches.iter().all(|patch| !patch.is_finished()), "one did not wait");
    drop(turn);
    let patched = futures::future::try_join_all(patches);
    let answers = tokio::time::timeout(Duration::from_secs(30), patched).await;
    let answers = answers.expect("they wait for each other").unwrap();
    let (done, refused): (Vec<_>, Vec<_>) = answers.into_iter().partition(|a| a.code == 200);
    assert_eq!(done.len(), 2);
    for refused in refused {
        let status = refused.fails(403);
        let message = status["message"].as_str().unwrap();
        let why = "exceeded quota: q, requested: services.nodeports=1, used: services.nodeports=2, \
                   limited: services.nodeports=2";
        assert!(message.ends_with(why), "{message}");
    }
    let list = cluster.get(&services).await.ok();
    let items = list["items"].as_array().unwrap().iter();
    assert_eq!(items.filter(|service| service["spec"]["type"] == "NodePort").count(), 2);
}

#[tokio::test]
async fn update_waits_and_is_retried_without_deadlock() {
    let cluster = Cluster::new().await;
    let uri = format!("{CORE}/services/s");
    quota(&cluster, "q", json!({"hard": {"services.nodeports": "2"}})).await;
    let service = json!({"metadata": {"name": "s"}, "spec": {"ports": [{"port": 1}]}});
    cluster.post(&format!("{CORE}/services"), &service).await.ok();
    let turn = quota::turn(&cluster.server, "default").await;
    let label = json!({"metadata": {"labels": {"a": "b"}}});
    let condition = json!({"type": "Known", "status": "True", "reason": "Test", "message": "",
        "lastTransitionTime": "2024-01-01T00:00:00Z"});
    let status = json!({"status": {"conditions": [condition]}});
    let change = async {
        let waited = tokio::time::timeout(Duration::from_millis(200), async {
            // A status is not measured; the update that waits has to be decided again.
            cluster.patch(&format!("{uri}/status"), "merge-patch", &status).await.ok();
            std::future::pending::<()>().await;
        });
        let _ = waited.await;
        drop(turn);
    };
    let update = cluster.patch(&uri, "merge-patch", &label);
    let both = async { tokio::join!(update, change) };
    let both = tokio::time::timeout(Duration::from_secs(30), both).await;
    let (updated, ()) = both.expect("the update waits for itself");
    assert_eq!(updated.ok()["metadata"]["labels"]["a"], "b");
}

#[tokio::test]
async fn objects_are_not_parsed() {
    let cluster = Cluster::new().await;
    quota(&cluster, "q", json!({"hard": {"requests.cpu": "300m", "count/configmaps": "1"}})).await;
    for (plural, object) in [("pods", pod("p", Some("200m"))), ("configmaps", json!({}))] {
        let resource = cluster.server.builtin("", plural).ok().unwrap();
        let key = meta::key(resource, "default", "unreadable");
        let meta = Meta::of(resource, &object);
        let decide =
            |_: Option<&_>, _| Ok::<_, ()>(Action::Put { value: Bytes::from("no JSON"), meta });
        cluster.server.store.write(&key, Durability::Volatile, decide).await.unwrap();
    }
    let refused =
        cluster.post(&format!("{CORE}/pods"), &pod("next", Some("200m"))).await.fails(403);
    assert_eq!(
        refused["message"],
        "pods \"next\" is forbidden: exceeded quota: q, requested: requests.cpu=200m, used: \
         requests.cpu=200m, limited: requests.cpu=300m"
    );
    cluster.post(&format!("{CORE}/pods"), &pod("next", Some("100m"))).await.ok();
    let map = json!({"metadata": {"name": "next"}});
    let refused = cluster.post(&format!("{CORE}/configmaps"), &map).await.fails(403);
    assert_eq!(
        refused["message"],
        "configmaps \"next\" is forbidden: exceeded quota: q, requested: count/configmaps=1, used: \
         count/configmaps=1, limited: count/configmaps=1"
    );
}

#[tokio::test]
async fn creation_waits_for_others_of_its_namespace_only() {
    let cluster = Cluster::new().await;
    cluster.post("/api/v1/namespaces", &json!({"metadata": {"name": "dev"}})).await.ok();
    let quota = json!({"metadata": {"name": "q"}, "spec": {"hard": {"configmaps": "9"}}});
    let map = json!({"metadata": {"name": "m"}});
    for namespace in ["default", "dev"] {
        let quotas = format!("/api/v1/namespaces/{namespace}/resourcequotas");
        cluster.post(&quotas, &quota).await.ok();
    }
    let maps = |namespace: &str| format!("/api/v1/namespaces/{namespace}/configmaps");
    let turn = quota::turn(&cluster.server, "default").await;
    let (default, dev) = (maps("default"), maps("dev"));
    cluster.post(&dev, &map).await.ok();
    let waited = tokio::time::timeout(Duration::from_millis(200), cluster.post(&default, &map));
    assert!(waited.await.is_err(), "it did not wait");
    drop(turn);
    cluster.post(&default, &map).await.ok();
}
