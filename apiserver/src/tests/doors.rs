//! The bounds on what requests from the network hold and reach.

use http::{Method, Request};
use serde_json::json;
use std::sync::Arc;

use super::harness::Cluster;
use crate::Config;
use crate::body::{full, stream};
use crate::security::User;
use crate::tls_listener::Origin;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn from_network(method: Method, uri: &str, body: crate::Body) -> Request<crate::Body> {
    let mut request = Request::builder().method(method).uri(uri).body(body).unwrap();
    request.extensions_mut().insert(Arc::new(Origin::default()));
    request
}

#[tokio::test]
async fn slow_body_holds_no_place() {
    let config = Config { max_requests_in_flight: 1, ..Config::default() };
    let cluster = Cluster::with_config(config).await;
    let admin = || User::authenticated("admin", &["system:masters"]);
    let mut slow = from_network(Method::POST, MAPS, stream(futures::stream::pending()));
    Arc::new(admin()).send(slow.extensions_mut());
    let slow = tokio::spawn(cluster.server.handle(slow));
    tokio::task::yield_now().await;
    let get = from_network(Method::GET, MAPS, full(""));
    assert_eq!(cluster.raw_as(admin(), get).await.status().as_u16(), 200);
    assert!(!slow.is_finished());
    slow.abort();
}

#[tokio::test]
async fn service_is_proxied_to_pods_only() {
    let cluster = Cluster::new().await;
    let role = json!({"metadata": {"name": "proxy"}, "rules": [
        {"apiGroups": [""], "resources": ["services/proxy"], "verbs": ["*"]}]});
    cluster.post("/apis/rbac.authorization.k8s.io/v1/clusterroles", &role).await.ok();
    cluster.bind_in_default("bob", "proxy").await;
    let service = json!({"metadata": {"name": "s"}, "spec": {"ports": [{"port": 80}]}});
    cluster.post("/api/v1/namespaces/default/services", &service).await.ok();
    let slice = json!({"metadata": {"name": "s-1", "labels": {"kubernetes.io/service-name": "s"}},
        "addressType": "IPv4", "ports": [{"port": 80, "protocol": "TCP"}],
        "endpoints": [{"addresses": ["192.0.2.1"], "conditions": {"ready": true},
            "targetRef": {"kind": "Pod", "name": "p", "namespace": "default"}}]});
    cluster.post("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices", &slice).await.ok();
    let uri = "/api/v1/namespaces/default/services/s:80/proxy/";
    let refused = cluster.send_as("bob", Method::GET, uri, "", "").await.fails(403);
    assert_eq!(
        refused["message"],
        "services \"s:80\" is forbidden: endpoint 192.0.2.1 is not a pod, which only users with \
         access to \"nodes/proxy\" may reach"
    );
}
