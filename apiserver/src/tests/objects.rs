//! Create, get, list, update, discovery.

use std::sync::Arc;
use std::time::Duration;

use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING};
use http::{Method, Request};
use serde_json::json;

use super::harness::{self, Cluster};
use crate::Config;
use crate::admission::quota;
use crate::body::full;
use crate::security::User;
use crate::tls_listener::Origin;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn map(name: &str) -> serde_json::Value {
    json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": name}, "data": {"a": "1"}})
}

#[tokio::test]
async fn an_object_lives() {
    let cluster = Cluster::new().await;
    let made = cluster.post(MAPS, &map("one")).await;
    assert_eq!(made.code.as_u16(), 201);
    assert_eq!(made.json["metadata"]["namespace"], "default");
    assert!(made.json["metadata"]["uid"].is_string());
    let got = cluster.get(&format!("{MAPS}/one")).await.ok();
    assert_eq!(got, made.json);
    let again = cluster.post(MAPS, &map("one")).await.fails(409);
    assert_eq!(again["message"], "configmaps \"one\" already exists");
    assert_eq!(again["reason"], "AlreadyExists");
    let missing = cluster.get(&format!("{MAPS}/two")).await.fails(404);
    assert_eq!(missing["message"], "configmaps \"two\" not found");
    let mut wanted = got.clone();
    wanted["data"]["a"] = "2".into();
    let updated = cluster.put(&format!("{MAPS}/one"), &wanted).await.ok();
    assert_ne!(updated["metadata"]["resourceVersion"], got["metadata"]["resourceVersion"]);
    let stale = cluster.put(&format!("{MAPS}/one"), &wanted).await.fails(409);
    assert!(stale["message"].as_str().unwrap().ends_with(
        "the object has been modified; please apply your changes to the latest version and try again"
    ));
    // Nothing changes, so nothing is written.
    let same = cluster.put(&format!("{MAPS}/one"), &updated).await.ok();
    assert_eq!(same, updated);
    let gone = cluster.delete(&format!("{MAPS}/one")).await.ok();
    assert_eq!(gone["status"], "Success");
    assert_eq!(gone["details"]["kind"], "configmaps");
    cluster.get(&format!("{MAPS}/one")).await.fails(404);
}

#[tokio::test]
async fn bad_bodies_are_refused_and_nothing_is_stored() {
    let cluster = Cluster::new().await;
    let mut unknown = map("x");
    unknown["spex"] = json!({});
    let strict = cluster.post(&format!("{MAPS}?fieldValidation=Strict"), &unknown).await.fails(400);
    assert!(strict["message"].as_str().unwrap().contains("unknown field \"spex\""), "{strict}");
    let warned = cluster.post(MAPS, &unknown).await;
    assert!(warned.headers["warning"].to_str().unwrap().contains("unknown field"));
    assert!(warned.ok()["spex"].is_null());
    cluster.post(MAPS, &map("Not_A_Name")).await.fails(422);
    let other = json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "x"}});
    cluster.post(MAPS, &other).await.fails(400);
    cluster.post("/api/v1/namespaces/nowhere/configmaps", &map("x")).await.fails(404);
    let imagined = cluster.post(&format!("{MAPS}?dryRun=All"), &map("dry")).await;
    assert_eq!(imagined.code.as_u16(), 201);
    cluster.get(&format!("{MAPS}/dry")).await.fails(404);
    let named = cluster.post(MAPS, &json!({"metadata": {"generateName": "gen-"}})).await.ok();
    assert!(named["metadata"]["name"].as_str().unwrap().starts_with("gen-"));
    let big = format!("{{\"data\":{{\"a\":\"{}\"}}}}", "x".repeat(4 << 20));
    cluster.send(http::Method::POST, MAPS, "", big).await.fails(413);
}

#[tokio::test]
async fn lists_come_in_pages_with_selectors() {
    let cluster = Cluster::new().await;
    for i in 0..5 {
        let mut object = map(&format!("m{i}"));
        object["metadata"]["labels"] = json!({"odd": (i % 2 == 1).to_string()});
        cluster.post(MAPS, &object).await.ok();
    }
    let odd = cluster.get(&format!("{MAPS}?labelSelector=odd%3Dtrue")).await.ok();
    assert_eq!(odd["kind"], "ConfigMapList");
    assert_eq!(odd["items"].as_array().unwrap().len(), 2);
    let one = cluster.get(&format!("{MAPS}?fieldSelector=metadata.name%3Dm3")).await.ok();
    assert_eq!(one["items"][0]["metadata"]["name"], "m3");
    cluster.get(&format!("{MAPS}?fieldSelector=spec.x%3D1")).await.fails(400);
    let mut names = Vec::new();
    let mut token = String::new();
    loop {
        let page = cluster.get(&format!("{MAPS}?limit=2&continue={token}")).await.ok();
        for item in page["items"].as_array().unwrap() {
            names.push(item["metadata"]["name"].as_str().unwrap().to_owned());
        }
        match page["metadata"]["continue"].as_str() {
            Some(next) => token = next.to_owned(),
            None => break,
        }
    }
    assert_eq!(names, ["m0", "m1", "m2", "m3", "m4"]);
}

#[tokio::test]
async fn tables_and_metadata_and_yaml() {
    let cluster = Cluster::new().await;
    cluster.post(MAPS, &map("one")).await.ok();
    let accept = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
    let table = cluster.get_as(MAPS, accept).await.ok();
    assert_eq!(table["kind"], "Table");
    assert_eq!(table["rows"][0]["cells"][0], "one");
    assert_eq!(table["rows"][0]["object"]["kind"], "PartialObjectMetadata");
    let partial = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io";
    let list = cluster.get_as(MAPS, partial).await.ok();
    assert_eq!(list["kind"], "PartialObjectMetadataList");
    let yaml = cluster.get_as(&format!("{MAPS}/one"), "application/yaml").await.ok();
    assert!(yaml.as_str().unwrap().contains("kind: ConfigMap"), "{yaml}");
    cluster.get_as(MAPS, "text/html").await.fails(406);
}

#[tokio::test]
async fn old_versions_have_their_own_defaults() {
    let cluster = Cluster::new().await;
    let old = json!({
        "kind": "Deployment", "apiVersion": "apps/v1beta1", "metadata": {"name": "web"},
        "spec": {"template": {"metadata": {"labels": {"app": "web"}},
            "spec": {"containers": [{"name": "c", "image": "nginx"}]}}},
    });
    let made = cluster.post("/apis/apps/v1beta1/namespaces/default/deployments", &old).await.ok();
    assert_eq!(made["apiVersion"], "apps/v1beta1");
    let new = cluster.get("/apis/apps/v1/namespaces/default/deployments/web").await.ok();
    assert_eq!(new["apiVersion"], "apps/v1");
    assert_eq!(new["spec"]["revisionHistoryLimit"], 2);
    assert_eq!(new["spec"]["selector"]["matchLabels"]["app"], "web");
    assert_eq!(new["metadata"]["generation"], 1);
    let list = cluster.get("/apis/apps/v1beta1/namespaces/default/deployments").await.ok();
    assert_eq!(list["items"][0]["apiVersion"], "apps/v1beta1");
}

#[tokio::test]
async fn discovery_lists_what_is_served() {
    let cluster = Cluster::new().await;
    let core = cluster.get("/api/v1").await.ok();
    let names: Vec<&str> =
        core["resources"].as_array().unwrap().iter().filter_map(|r| r["name"].as_str()).collect();
    assert!(
        names.contains(&"pods") && names.contains(&"pods/log") && names.contains(&"pods/status")
    );
    let accept =
        "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";
    let aggregated = cluster.get_as("/apis", accept).await;
    assert!(aggregated.headers["content-type"].to_str().unwrap().contains("v=v2"));
    assert!(aggregated.headers.contains_key("etag"));
    assert_eq!(aggregated.json["items"][0]["metadata"]["name"], "apps");
    let plain = cluster.get("/apis").await.ok();
    assert_eq!(plain["kind"], "APIGroupList");
    cluster.get("/apis/nothing/v1").await.fails(404);
    assert_eq!(cluster.get("/version").await.ok()["gitVersion"], "v1.33.0");
    assert_eq!(cluster.get("/healthz").await.ok(), "ok");
    assert_eq!(cluster.get("/readyz/etcd").await.ok(), "ok");
    assert_eq!(
        cluster.get("/readyz?verbose").await.ok(),
        "[+]ping ok\n[+]log ok\n[+]etcd ok\nreadyz check passed\n"
    );
    assert_eq!(
        cluster.get("/livez?verbose&exclude=etcd&exclude=x").await.ok(),
        "[+]ping ok\n[+]log ok\n[+]etcd excluded: ok\n\
         warn: some health checks cannot be excluded: no matches for \"x\"\nlivez check passed\n"
    );
    assert_eq!(cluster.get("/livez/nothing").await.code, 404);
}

struct DnsIsDown;

impl crate::NodeParts for DnsIsDown {
    fn states(&self) -> Vec<(String, Option<String>)> {
        vec![("dns".into(), Some("the port is taken".into())), ("kubelet-pods".into(), None)]
    }
}

#[tokio::test]
async fn part_that_is_down_fails_readyz_alone() {
    let cluster = Cluster::new().await;
    cluster.server.set_parts(std::sync::Arc::new(DnsIsDown));
    let shown = cluster.get("/readyz").await;
    assert_eq!(
        (shown.code.as_u16(), shown.json.as_str().unwrap()),
        (
            500,
            "[+]ping ok\n[+]log ok\n[+]etcd ok\n[-]dns failed: reason withheld\n\
             [+]kubelet-pods ok\nreadyz check failed\n"
        )
    );
    for path in ["/healthz", "/livez", "/readyz?exclude=dns", "/readyz/kubelet-pods"] {
        assert_eq!(cluster.get(path).await.ok(), "ok", "{path}");
    }
    let reason = "internal server error: the port is taken\n";
    assert_eq!(cluster.get("/readyz/dns").await.fails(500), reason);
    // Only clients with a role learn the reason.
    let anonymous = |path: &str| {
        let mut request = Request::get(path).body(full("")).unwrap();
        Arc::new(User::anonymous()).send(request.extensions_mut());
        cluster.server.handle(request)
    };
    assert_eq!(anonymous("/readyz").await.status(), 500);
    assert_eq!(anonymous("/readyz/dns").await.status(), 403);
}

#[tokio::test]
async fn what_was_answered_is_there_after_a_restart() {
    let cluster = Cluster::new().await;
    let made = cluster.post(MAPS, &map("kept")).await.ok();
    let cluster = cluster.restart().await;
    assert_eq!(cluster.get(&format!("{MAPS}/kept")).await.ok(), made);
}

#[tokio::test]
async fn openapi_is_served_in_every_form() {
    let cluster = Cluster::new().await;
    let index = cluster.get("/openapi/v3").await.ok();
    let whole = cluster.get("/openapi/v2").await.ok();
    assert!(whole["definitions"].as_object().unwrap().len() > 100);
    let many = (0..20).map(|_| cluster.get("/openapi/v2"));
    for other in futures::future::join_all(many).await {
        assert!(other.ok() == whole);
    }
    let url = index["paths"]["apis/apps/v1"]["serverRelativeURL"].as_str().unwrap().to_owned();
    let group = cluster.get(&url).await.ok();
    assert_eq!(group["openapi"], "3.0.0");
    let accept = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
    let v2 = cluster.get_as("/openapi/v2", accept).await;
    assert!(v2.headers["content-type"].to_str().unwrap().contains("protobuf"));
    cluster.get("/openapi/v3/apis/nothing/v1").await.fails(404);
}

#[tokio::test]
async fn only_what_travels_is_compressed() {
    let cluster = Cluster::new().await;
    let large = json!({"metadata": {"name": "large"}, "data": {"a": "x".repeat(200_000)}});
    cluster.post(MAPS, &large).await.ok();
    let request = || Request::get(MAPS).header(ACCEPT_ENCODING, "gzip").body(full("")).unwrap();
    let travels = cluster.raw(request()).await;
    assert_eq!(travels.headers()[CONTENT_ENCODING], "gzip");
    let mut request = request();
    request
        .extensions_mut()
        .insert(Arc::new(Origin { on_this_machine: true, ..Origin::default() }));
    let stays = cluster.raw(request).await;
    assert!(stays.status().is_success() && !stays.headers().contains_key(CONTENT_ENCODING));
}

#[tokio::test]
async fn a_method_that_a_path_does_not_have_is_refused_before_the_body_is_read() {
    let cluster = Cluster::new().await;
    let maps = "/api/v1/namespaces/default/configmaps";
    for (method, path) in [
        (Method::POST, format!("{maps}/c")),
        (Method::PUT, maps.to_owned()),
        (Method::PATCH, maps.to_owned()),
        (Method::DELETE, "/api/v1/namespaces".to_owned()),
    ] {
        let refused = cluster.send(method, &path, "text/plain", "nonsense").await.fails(405);
        assert_eq!(refused["reason"], "MethodNotAllowed", "{path}");
    }
}

#[tokio::test]
async fn there_are_no_custom_resource_definitions() {
    let cluster = Cluster::new().await;
    let path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    let list = cluster.get(path).await.ok();
    assert_eq!(list["kind"], "CustomResourceDefinitionList");
    assert_eq!(list["items"].as_array().map(Vec::len), Some(0));
    cluster.get(&format!("{path}/x")).await.fails(404);
    cluster.post(path, &json!({"metadata": {"name": "x"}})).await.fails(404);
}

#[tokio::test]
async fn a_review_of_no_token_is_refused() {
    let cluster = Cluster::new().await;
    let review = json!({"spec": {}});
    let refused = cluster.post("/apis/authentication.k8s.io/v1/tokenreviews", &review).await;
    assert_eq!(
        refused.fails(400)["message"],
        "token is required for TokenReview in authentication"
    );
}

#[tokio::test]
async fn the_components_are_well() {
    let cluster = Cluster::new().await;
    let list = cluster.get("/api/v1/componentstatuses").await;
    assert_eq!(
        list.headers["warning"].to_str().unwrap(),
        "299 - \"v1 ComponentStatus is deprecated in v1.19+\""
    );
    let list = list.ok();
    assert_eq!(list["kind"], "ComponentStatusList");
    let names: Vec<_> =
        list["items"].as_array().unwrap().iter().map(|i| &i["metadata"]["name"]).collect();
    assert_eq!(names, ["scheduler", "controller-manager", "etcd-0"]);
    let one = cluster.get("/api/v1/componentstatuses/etcd-0").await.ok();
    assert_eq!(one["conditions"][0]["status"], "True");
    let none = cluster.get("/api/v1/componentstatuses/x").await.fails(404);
    assert_eq!(none["message"], "componentstatuses \"x\" not found");
    cluster.post("/api/v1/componentstatuses", &json!({})).await.fails(405);
}

#[tokio::test]
async fn a_refusal_says_what_it_is_about() {
    let cluster = Cluster::new().await;
    let bob = |method: Method, uri: &str, body: String| {
        let request = Request::builder().method(method).uri(uri).header("impersonate-user", "bob");
        let request = request.header("content-type", "application/json");
        cluster.raw(request.body(full(body)).unwrap())
    };
    let refused = bob(Method::GET, &format!("{MAPS}/x"), String::new()).await;
    let refused = harness::read(refused).await.fails(403);
    assert_eq!(refused["details"], json!({"kind": "configmaps", "name": "x"}));
    let roles = "/apis/rbac.authorization.k8s.io/v1/namespaces/default/roles";
    let bindings = "/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings";
    let role = |verbs: &str| {
        json!({"metadata": {"name": verbs}, "rules": [{"verbs": [verbs], "resources": ["roles"],
            "apiGroups": ["rbac.authorization.k8s.io"]}]})
    };
    cluster.post(roles, &role("create")).await.ok();
    let binding = json!({"metadata": {"name": "b"}, "subjects": [{"kind": "User", "name": "bob"}],
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "create"}});
    cluster.post(bindings, &binding).await.ok();
    let refused = bob(Method::POST, roles, role("delete").to_string()).await;
    let refused = harness::read(refused).await.fails(403);
    assert_eq!(
        refused["details"],
        json!({"group": "rbac.authorization.k8s.io", "kind": "roles", "name": "delete"})
    );
}

#[tokio::test]
async fn generated_name_may_begin_with_any_letter() {
    let cluster = Cluster::new().await;
    for prefix in ["é-", "日本-", "-", "😀-"] {
        let made = cluster.post(MAPS, &json!({"metadata": {"generateName": prefix}})).await;
        made.fails(422);
    }
}

#[tokio::test]
async fn request_that_timed_out_is_not_stored_later() {
    let config = Config { request_timeout: Duration::from_millis(300), ..Config::default() };
    let cluster = Cluster::with_config(config).await;
    let quota = json!({"metadata": {"name": "q"}, "spec": {"hard": {"configmaps": "9"}}});
    cluster.post("/api/v1/namespaces/default/resourcequotas", &quota).await.ok();
    let maps = "/api/v1/namespaces/default/configmaps";
    for characters in [10, 200_000] {
        let turn = quota::turn(&cluster.server, "default").await;
        let text = "x".repeat(characters);
        let map = json!({"metadata": {"name": "late"}, "data": {"text": text}});
        let status = cluster.post(maps, &map).await.fails(504);
        assert_eq!(status["reason"], "Timeout");
        drop(turn);
        tokio::time::sleep(Duration::from_millis(300)).await;
        cluster.get(&format!("{maps}/late")).await.fails(404);
    }
    cluster.post(maps, &json!({"metadata": {"name": "late"}})).await.ok();
}
