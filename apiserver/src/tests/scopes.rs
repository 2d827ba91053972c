//! Resources are found at their own scope only.

use api::Served;
use http::Method;
use serde_json::json;

use super::harness::{Answer, Cluster};

/// Every verb, by its method and what follows the name of the collection.
const VERBS: [(Method, &str); 9] = [
    (Method::GET, ""),
    (Method::GET, "?watch=true&timeoutSeconds=1"),
    (Method::POST, ""),
    (Method::DELETE, ""),
    (Method::GET, "/x"),
    (Method::PUT, "/x"),
    (Method::PATCH, "/x"),
    (Method::DELETE, "/x"),
    (Method::GET, "?fieldSelector=metadata.name%3Dx"),
];
const SUBRESOURCES: [&str; 12] = [
    "status",
    "scale",
    "finalize",
    "approval",
    "proxy",
    "proxy/pods",
    "token",
    "log",
    "exec",
    "binding",
    "eviction",
    "ephemeralcontainers",
];

fn root(served: &Served) -> String {
    match served.group {
        "" => format!("/api/{}", served.version),
        group => format!("/apis/{group}/{}", served.version),
    }
}

fn is_page_not_found(answer: &Answer) -> bool {
    answer.code.as_u16() == 404 && answer.json == json!("404 page not found\n")
}

/// Sends every verb to a collection at this path and to an object in it, and returns those that
/// were not answered with 404.
async fn found(cluster: &Cluster, user: &str, collection: &str, named_only: bool) -> Vec<String> {
    let mut requests: Vec<(Method, String)> = VERBS
        .into_iter()
        .filter(|(_, rest)| !named_only || rest.starts_with('/'))
        .map(|(method, rest)| (method, format!("{collection}{rest}")))
        .collect();
    for subresource in SUBRESOURCES {
        for method in [Method::GET, Method::POST, Method::PUT, Method::PATCH] {
            requests.push((method, format!("{collection}/x/{subresource}")));
        }
    }
    let mut found = Vec::new();
    for (method, uri) in requests {
        let media_type = if method == Method::PATCH { "application/merge-patch+json" } else { "" };
        let answer = cluster.send_as(user, method.clone(), &uri, media_type, "{}").await;
        if !is_page_not_found(&answer) {
            found.push(format!("{method} {uri}: {} {}", answer.code, answer.json));
        }
    }
    found
}

#[tokio::test]
async fn cluster_scoped_resources_have_no_namespaced_url() {
    let cluster = Cluster::new().await;
    cluster.bind_in_default("owner", "cluster-admin").await;
    for resource in api::registry::resources().iter().filter(|resource| !resource.namespaced) {
        for served in resource.served {
            let collection = format!("{}/namespaces/default/{}", root(served), served.plural);
            for user in ["owner", "stranger"] {
                let found = found(&cluster, user, &collection, false).await;
                assert_eq!(found, Vec::<String>::new(), "{} by {user}", served.plural);
            }
            let watch = format!("{}/watch/namespaces/default/{}", root(served), served.plural);
            let answer = cluster.get(&watch).await;
            assert!(is_page_not_found(&answer), "{watch}: {}", answer.code);
        }
    }
}

#[tokio::test]
async fn namespaced_objects_have_no_cluster_url() {
    let cluster = Cluster::new().await;
    cluster.bind_in_default("owner", "cluster-admin").await;
    for resource in api::registry::resources().iter().filter(|resource| resource.namespaced) {
        for served in resource.served {
            let collection = format!("{}/{}", root(served), served.plural);
            let found = found(&cluster, "owner", &collection, true).await;
            assert_eq!(found, Vec::<String>::new(), "{}", served.plural);
        }
    }
}

#[tokio::test]
async fn owner_of_a_namespace_stays_in_it() {
    let cluster = Cluster::new().await;
    cluster.bind_in_default("owner", "cluster-admin").await;
    let volume = json!({"metadata": {"name": "root"}, "spec": {
        "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"],
        "hostPath": {"path": "/"}}});
    let json_type = "application/json";
    let here = "/api/v1/namespaces/default";
    let volumes = format!("{here}/persistentvolumes");
    let post = cluster.send_as("owner", Method::POST, &volumes, json_type, volume.to_string());
    assert!(is_page_not_found(&post.await));
    cluster.get("/api/v1/persistentvolumes/root").await.fails(404);
    let labels = json!({"metadata": {"labels": {"pod-security.kubernetes.io/enforce": null}}});
    let other = format!("{here}/namespaces/kube-system");
    let merge = "application/merge-patch+json";
    let patch = cluster.send_as("owner", Method::PATCH, &other, merge, labels.to_string());
    assert!(is_page_not_found(&patch.await));
    // The namespace itself belongs to its owner, as upstream has it.
    cluster.send_as("owner", Method::GET, here, "", "").await.ok();
    cluster
        .send_as("owner", Method::GET, "/api/v1/namespaces/kube-system", "", "")
        .await
        .fails(403);
    cluster.send_as("owner", Method::GET, "/api/v1/persistentvolumes", "", "").await.fails(403);
}
