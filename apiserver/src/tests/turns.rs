//! Work whose cost a client chooses waits for the client's turn.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use http::header::ACCEPT_ENCODING;
use http::{Method, Request};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use store::{Action, Durability};

use super::harness::{self, Answer, Cluster};
use crate::body::full;
use crate::heavy::LIGHT_WALK_MAX;
use crate::meta::Meta;
use crate::security::User;
use crate::tls_listener::Origin;

const PODS: &str = "/api/v1/namespaces/default/pods";

/// A pod whose bytes are more than light work.
fn large_pod(name: &str) -> Value {
    json!({"metadata": {"name": name, "annotations": {"note": "x".repeat(200_000)}},
        "spec": {"containers": [{"name": "c", "image": "i"}]}})
}

/// Checks that a request is not answered while another has the client's turn.
async fn waits(what: &str, work: BoxFuture<'_, Answer>) {
    let wait = Duration::from_millis(200);
    assert!(tokio::time::timeout(wait, work).await.is_err(), "{what} did not wait");
}

/// While another request of the client has its turn for heavy work, large objects wait that are to
/// be converted, evictions, and the end of large collections.
#[tokio::test]
async fn costly_requests_wait_for_their_turn() {
    let cluster = Cluster::new().await;
    let spec = json!({"selector": {"matchLabels": {"a": "b"}}, "template": {
        "metadata": {"labels": {"a": "b"}, "annotations": {"note": "x".repeat(200_000)}},
        "spec": {"containers": [{"name": "c", "image": "i"}]}}});
    let large = json!({"metadata": {"name": "large"}, "spec": spec});
    let deployments = "namespaces/default/deployments";
    cluster.post(&format!("/apis/apps/v1/{deployments}"), &large).await.ok();
    let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c",
        "image": "i"}]}});
    cluster.post(PODS, &pod).await.ok();
    let release = cluster.hold_heavy_work().await;
    let (new, old) =
        (format!("/apis/apps/v1/{deployments}"), format!("/apis/apps/v1beta1/{deployments}"));
    cluster.get(&new).await.ok();
    let eviction = json!({"metadata": {"name": "p"}});
    waits("a list", cluster.get(&old).boxed()).await;
    let one = format!("{old}/large");
    waits("an object", cluster.get(&one).boxed()).await;
    // A space in the header changes nothing.
    let spaced = "application/json; as=Table; v=v1; g=meta.k8s.io";
    waits("a table", cluster.get_as(&new, spaced).boxed()).await;
    let one_new = format!("{new}/large");
    let scale = format!("{one_new}/scale");
    waits("a scale", cluster.get(&scale).boxed()).await;
    cluster.get(&one_new).await.ok();
    let compressed = Request::builder().uri(&one_new).header(ACCEPT_ENCODING, "gzip");
    waits(
        "a compressed object",
        async { harness::read(cluster.raw(compressed.body(full("")).unwrap()).await).await }
            .boxed(),
    )
    .await;
    let patch = json!([{"op": "copy", "from": "/metadata", "path": "/data"}]);
    waits(
        "a JSON patch",
        cluster.patch("/api/v1/namespaces/default/configmaps/none", "json-patch", &patch).boxed(),
    )
    .await;
    let yaml = async {
        let uri = "/api/v1/namespaces/default/configmaps";
        cluster.send(Method::POST, uri, "application/yaml", "metadata: {name: y}").await
    };
    waits("YAML", yaml.boxed()).await;
    let apply = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "applied"}});
    let uri = "/api/v1/namespaces/default/configmaps/applied?fieldManager=test";
    let media_type = "application/apply-patch+yaml";
    cluster.send(Method::PATCH, uri, media_type, apply.to_string()).await.ok();
    waits("an eviction", cluster.post(&format!("{PODS}/p/eviction"), &eviction).boxed()).await;
    let labels = json!({"metadata": {"labels": {"a": "b"}}});
    let namespace = "/api/v1/namespaces/default";
    waits("labels of a namespace", cluster.patch(namespace, "merge-patch", &labels).boxed()).await;
    waits("the end of a collection", cluster.delete(&new).boxed()).await;
    release.send(()).unwrap();
    let list = cluster.get(&old).await.ok();
    assert_eq!(list["items"][0]["apiVersion"], "apps/v1beta1");
    assert_eq!(list["items"][0]["spec"], cluster.get(&one).await.ok()["spec"]);
    // Its body is made in turns, too.
    let response = cluster.raw(Request::builder().uri(&old).body(full("")).unwrap()).await;
    let release = cluster.hold_heavy_work().await;
    let mut body = response.into_body();
    let wait = Duration::from_millis(200);
    assert!(tokio::time::timeout(wait, body.frame()).await.is_err(), "a piece did not wait");
    release.send(()).unwrap();
    let rest = harness::read(http::Response::new(body)).await;
    assert_eq!(rest.ok(), list);
    cluster.delete(&new).await.ok();
}

/// Light requests wait, too, when they come to a large object on their way.
#[tokio::test]
async fn large_objects_behind_a_request_wait_for_their_turn() {
    let cluster = Cluster::new().await;
    cluster.post(PODS, &large_pod("large")).await.ok();
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    let account = json!({"metadata": {"name": "large",
        "annotations": {"note": "x".repeat(200_000)}}});
    cluster.post(accounts, &account).await.ok();
    let pod = json!({"metadata": {"name": "small"},
        "spec": {"serviceAccountName": "large", "containers": [{"name": "c", "image": "i"}]}});
    let release = cluster.hold_heavy_work().await;
    let log = format!("{PODS}/large/log");
    waits("a log", cluster.get(&log).boxed()).await;
    waits("a proxied request", cluster.get(&format!("{PODS}/large/proxy")).boxed()).await;
    waits("a pod of a large account", cluster.post(PODS, &pod).boxed()).await;
    release.send(()).unwrap();
    assert_eq!(cluster.get(&log).await.ok(), "");
    cluster.get(&format!("{PODS}/large/proxy")).await.fails(400);
    cluster.post(PODS, &pod).await.ok();
    // A request that has a turn itself does not wait for another.
    let mut huge = large_pod("huge");
    huge["spec"]["serviceAccountName"] = "large".into();
    cluster.post(PODS, &huge).await.ok();
}

/// Lists and watches that look at very many objects wait for their turn; pages of them do not.
#[tokio::test]
async fn long_walks_wait_for_their_turn() {
    let cluster = Cluster::new().await;
    for index in 0..=LIGHT_WALK_MAX {
        let name = format!("m-{index}");
        let (key, object) = (
            format!("core.configmaps/many/{name}"),
            json!({"apiVersion": "v1", "kind": "ConfigMap",
                "metadata": {"name": name, "namespace": "many"}}),
        );
        let put = |_: Option<&_>, _| {
            Ok::<_, ()>(Action::Put { value: object.to_string().into(), meta: Meta::default() })
        };
        cluster.server.store.write(&key, Durability::Volatile, put).await.unwrap();
    }
    let maps = "/api/v1/namespaces/many/configmaps";
    let release = cluster.hold_heavy_work().await;
    let page = cluster.get(&format!("{maps}?limit=2")).await.ok();
    assert_eq!(page["metadata"]["remainingItemCount"], LIGHT_WALK_MAX - 1);
    let next = page["metadata"]["continue"].as_str().unwrap();
    let page = cluster.get(&format!("{maps}?limit=3&continue={next}")).await.ok();
    assert_eq!(page["metadata"]["remainingItemCount"], LIGHT_WALK_MAX - 4);
    cluster.get("/api/v1/namespaces/default/configmaps").await.ok();
    waits("a list", cluster.get(maps).boxed()).await;
    waits("a selection", cluster.get(&format!("{maps}?limit=2&labelSelector=a=b")).boxed()).await;
    let all = "/api/v1/configmaps?limit=2&fieldSelector=metadata.name=m-7";
    waits("a selection in all namespaces", cluster.get(all).boxed()).await;
    let watch = async {
        cluster.watch(maps).await;
        cluster.get(maps).await
    };
    waits("a watch", watch.boxed()).await;
    release.send(()).unwrap();
    assert_eq!(cluster.get(maps).await.ok()["items"].as_array().unwrap().len(), LIGHT_WALK_MAX + 1);
    let began = std::time::Instant::now();
    let ahead = cluster.get(&format!("{maps}?resourceVersion=99999999")).await;
    assert!(began.elapsed() < Duration::from_secs(2));
    ahead.fails(504);
}

/// A client whose light requests have taken long has a turn for each, and its watches wait; requests
/// of others are answered at once.
#[tokio::test]
async fn clients_that_take_long_wait_for_their_turn() {
    let cluster = Cluster::new().await;
    let namespace = "/api/v1/namespaces/default";
    cluster.bind_in_default("joe", "view").await;
    let outside = |uri: &str| {
        let mut request = Request::builder().uri(uri).body(full("")).unwrap();
        request.extensions_mut().insert(Arc::new(Origin::default()));
        request
    };
    let get = |user: User| {
        let request = outside(&format!("{namespace}/configmaps/kube-root-ca.crt"));
        async { harness::read(cluster.raw_as(user, request).await).await }
    };
    let admin = || User::authenticated("admin", &["system:masters"]);
    let watch = format!(
        "{namespace}/configmaps?watch=1&resourceVersion={}",
        cluster.server.store.revision()
    );
    let mut watch = cluster.raw_as(admin(), outside(&watch)).await.into_body();
    let release = cluster.hold_heavy_work().await;
    get(admin()).await;
    let holder = crate::intake::holder(&admin());
    let intake = &cluster.server.intake;
    intake.spending.add(&holder, Duration::from_secs(10));
    intake.watching.add(&holder, Duration::from_secs(10));
    waits("a light request", get(admin()).boxed()).await;
    get(User::authenticated("joe", &[])).await;
    // Other parts of the process do not wait, whoever they say they are.
    cluster
        .post(&format!("{namespace}/configmaps"), &json!({"metadata": {"name": "new"}}))
        .await
        .ok();
    let wait = Duration::from_millis(200);
    assert!(tokio::time::timeout(wait, watch.frame()).await.is_err(), "a watch did not wait");
    release.send(()).unwrap();
    get(admin()).await;
}
