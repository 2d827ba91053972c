//! Lists that are larger than a piece.

use std::io::Read;
use std::sync::Arc;

use http::Request;
use http_body::Body as _;
use http_body_util::BodyExt;
use serde_json::{Value, json};

use super::harness::{Cluster, read};
use crate::body::full;
use crate::security::User;
use crate::tls_listener::Origin;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// A cluster with so many ConfigMaps of so many random characters, and the objects.
async fn cluster(count: usize, characters: usize) -> (Cluster, Vec<Value>) {
    let cluster = Cluster::new().await;
    let mut maps = Vec::new();
    for index in 0..count {
        let text: String =
            (0..characters).map(|_| char::from(rand::random_range(b'a'..=b'z'))).collect();
        let map = json!({"metadata": {"name": format!("m-{index:03}")}, "data": {"text": text}});
        maps.push(cluster.post(MAPS, &map).await.ok());
    }
    (cluster, maps)
}

fn request(uri: &str) -> Request<crate::Body> {
    let mut request = Request::builder().uri(uri).body(full("")).unwrap();
    request.extensions_mut().insert(Arc::new(Origin::default()));
    request
}

/// The named items of a list. ConfigMaps of the cluster itself are left out.
fn items(list: &Value) -> Vec<Value> {
    let items = list["items"].as_array().unwrap();
    items.iter().filter(|map| map["data"]["text"].is_string()).cloned().collect()
}

#[tokio::test]
async fn large_list_arrives_whole() {
    let (cluster, maps) = cluster(40, 30_000).await;
    let response = cluster.raw(request(MAPS)).await;
    let announced = response.body().size_hint().exact().expect("the length is known");
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(bytes.len() as u64, announced);
    assert!(bytes.ends_with(b"]}\n"));
    let list: Value = serde_json::from_slice(&bytes).unwrap();
    assert_eq!(list["kind"], "ConfigMapList");
    assert!(items(&list) == maps, "every object is as it was stored");
}

#[tokio::test]
async fn compressed_list_arrives_whole() {
    let (cluster, maps) = cluster(40, 30_000).await;
    let mut request = request(MAPS);
    request.headers_mut().insert("accept-encoding", "gzip".parse().unwrap());
    let response = cluster.raw(request).await;
    assert_eq!(response.headers()["content-encoding"], "gzip");
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    let mut plain = Vec::new();
    flate2::read::GzDecoder::new(&bytes[..]).read_to_end(&mut plain).unwrap();
    assert!(items(&serde_json::from_slice(&plain).unwrap()) == maps);
}

#[tokio::test]
async fn list_as_yaml_arrives_whole() {
    let (cluster, maps) = cluster(3, 30_000).await;
    let mut request = request(MAPS);
    request.headers_mut().insert("accept", "application/yaml".parse().unwrap());
    let bytes = cluster.raw(request).await.into_body().collect().await.unwrap().to_bytes();
    let text = std::str::from_utf8(&bytes).unwrap();
    assert!(items(&serde_saphyr::from_str(text).unwrap()) == maps);
}

#[tokio::test]
async fn unread_lists_of_one_user_are_refused() {
    let (cluster, _) = cluster(60, 200_000).await;
    let user = |name: &str| User::authenticated(name, &["system:masters"]);
    let mut unread = Vec::new();
    for _ in 0..2 {
        let response = cluster.raw_as(user("jane"), request(MAPS)).await;
        assert!(response.status().is_success());
        unread.push(response);
    }
    let refused = cluster.raw_as(user("jane"), request(MAPS)).await;
    assert_eq!(refused.headers()["retry-after"], "1");
    let status = read(refused).await.fails(429);
    assert_eq!((&status["kind"], &status["reason"]), (&"Status".into(), &"TooManyRequests".into()));
    // What a watch sends first counts as well.
    let watch = format!("{MAPS}?watch=1");
    read(cluster.raw_as(user("jane"), request(&watch)).await).await.fails(429);
    let small = format!("{MAPS}?limit=1&fieldSelector=metadata.name%3Dm-001");
    for (name, uri) in [("joe", MAPS), ("jane", "/api/v1/namespaces/default"), ("jane", &small)] {
        let response = cluster.raw_as(user(name), request(uri)).await;
        assert!(response.status().is_success(), "{name} {uri}");
    }
    drop(unread);
    assert!(cluster.raw_as(user("jane"), request(MAPS)).await.status().is_success());
}
