//! Cluster addresses and node ports.

use std::sync::Arc;

use serde_json::{Value, json};

use super::harness::Cluster;
use crate::config::Config;

const SERVICES: &str = "/api/v1/namespaces/default/services";

fn service(name: &str, spec: Value) -> Value {
    let mut object = json!({"metadata": {"name": name},
        "spec": {"selector": {"app": "x"}, "ports": [{"port": 80}]}});
    for (key, value) in spec.as_object().unwrap() {
        object["spec"][key] = value.clone();
    }
    object
}

#[tokio::test]
async fn addresses_and_ports_are_exclusive_and_come_back() {
    let cluster = Cluster::new().await;
    let fixed = service("fixed", json!({"clusterIP": "10.47.240.10"}));
    let made = cluster.post(SERVICES, &fixed).await.ok();
    assert_eq!(made["spec"]["clusterIPs"], json!(["10.47.240.10"]));
    assert_eq!(made["spec"]["ipFamilies"], json!(["IPv4"]));
    let again = service("again", json!({"clusterIP": "10.47.240.10"}));
    let refused = cluster.post(SERVICES, &again).await.fails(422);
    assert!(refused["message"].as_str().unwrap().contains("provided IP is already allocated"));
    let outside = service("again", json!({"clusterIP": "10.1.1.1"}));
    cluster.post(SERVICES, &outside).await.fails(422);
    let port = json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 30080}]});
    let node = cluster.post(SERVICES, &service("np", port.clone())).await.ok();
    assert_eq!(node["spec"]["ports"][0]["nodePort"], 30080);
    let taken = cluster.post(SERVICES, &service("np2", port.clone())).await.fails(422);
    assert!(taken["message"].as_str().unwrap().contains("provided port is already allocated"));
    // A change of type in place keeps the address and gives the port back.
    let address = node["spec"]["clusterIP"].clone();
    let plain = json!({"spec": {"type": "ClusterIP"}});
    let changed =
        cluster.patch(&format!("{SERVICES}/np"), "strategic-merge-patch", &plain).await.ok();
    assert_eq!(changed["spec"]["clusterIP"], address);
    assert!(changed["spec"]["ports"][0]["nodePort"].is_null());
    cluster.post(SERVICES, &service("np2", port)).await.ok();
    cluster.delete(&format!("{SERVICES}/fixed")).await.ok();
    cluster.post(SERVICES, &again).await.ok();
    let cluster = cluster.restart().await;
    let third = service("third", json!({"clusterIP": "10.47.240.10"}));
    cluster.post(SERVICES, &third).await.fails(422);
}

#[tokio::test]
async fn in_place_update_without_address_keeps_it() {
    let cluster = Cluster::new().await;
    let made = cluster.post(SERVICES, &service("s", json!({}))).await.ok();
    let address = made["spec"]["clusterIP"].as_str().unwrap().to_owned();
    assert!(address.starts_with("10.47.24") || address.starts_with("10.47.25"), "{address}");
    let load_balancer = service("s", json!({"type": "LoadBalancer"}));
    let updated = cluster.put(&format!("{SERVICES}/s"), &load_balancer).await.ok();
    assert_eq!(updated["spec"]["clusterIP"], address);
    let port = updated["spec"]["ports"][0]["nodePort"].as_i64().unwrap();
    assert!((30000..=32767).contains(&port));
    let headless = cluster.post(SERVICES, &service("h", json!({"clusterIP": "None"}))).await.ok();
    assert_eq!(headless["spec"]["clusterIPs"], json!(["None"]));
    let external = json!({"metadata": {"name": "e"},
        "spec": {"type": "ExternalName", "externalName": "example.com"}});
    let external = cluster.post(SERVICES, &external).await.ok();
    assert!(external["spec"]["clusterIP"].is_null());
}

#[tokio::test]
async fn chosen_node_ports_avoid_the_hosts() {
    const FREE: i64 = 30_007;
    let cluster = Cluster::with_config(Config {
        node_ports: (30_000, 30_007),
        host_ports: || Arc::new((30_000..30_007).collect()),
        ..Config::default()
    })
    .await;
    let made = cluster.post(SERVICES, &service("np", json!({"type": "NodePort"}))).await.ok();
    assert_eq!(made["spec"]["ports"][0]["nodePort"], FREE);
    // An explicit one is the user's choice: the proxy leaves it to the host and says so.
    let explicit = json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 30_003}]});
    cluster.post(SERVICES, &service("explicit", explicit)).await.ok();
    cluster.post(SERVICES, &service("none", json!({"type": "NodePort"}))).await.fails(500);
}
