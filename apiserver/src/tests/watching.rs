//! Watches.

use std::time::Duration;

use serde_json::json;

use super::harness::Cluster;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

#[tokio::test]
async fn changes_come_in_order_and_selectors_turn_them() {
    let cluster = Cluster::new().await;
    cluster.post(MAPS, &json!({"metadata": {"name": "first", "labels": {"a": "1"}}})).await.ok();
    let mut all = cluster.watch(&format!("{MAPS}?watch=true")).await;
    let mut some = cluster.watch(&format!("{MAPS}?watch=true&labelSelector=a%3D1")).await;
    assert_eq!(all.brief().await, ("ADDED".into(), "first".into()));
    assert_eq!(some.brief().await, ("ADDED".into(), "first".into()));
    let patch = json!({"metadata": {"labels": {"a": "2"}}});
    let patched = cluster.patch(&format!("{MAPS}/first"), "merge-patch", &patch).await.ok();
    assert_eq!(all.brief().await, ("MODIFIED".into(), "first".into()));
    let left = some.next().await.unwrap();
    assert_eq!(left["type"], "DELETED");
    assert_eq!(left["object"]["metadata"]["labels"]["a"], "1");
    assert_eq!(
        left["object"]["metadata"]["resourceVersion"],
        patched["metadata"]["resourceVersion"]
    );
    let back = json!({"metadata": {"labels": {"a": "1"}}});
    cluster.patch(&format!("{MAPS}/first"), "merge-patch", &back).await.ok();
    assert_eq!(some.brief().await, ("ADDED".into(), "first".into()));
    cluster.delete(&format!("{MAPS}/first")).await.ok();
    assert_eq!(some.brief().await, ("DELETED".into(), "first".into()));
}

#[tokio::test]
async fn a_watch_of_metadata_shows_all_of_it_and_nothing_else() {
    let cluster = Cluster::new().await;
    let accept = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
    let mut events = cluster.watch_as(&format!("{MAPS}?watch=true"), accept).await;
    let object = json!({
        "metadata": {"name": "m", "labels": {"a": "1"},
            "annotations": {"note": "a \"quoted\" {brace}"}},
        "data": {"metadata": "not this"},
    });
    let created = cluster.post(MAPS, &object).await.ok();
    let expected = json!({
        "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1",
        "metadata": created["metadata"],
    });
    let event = events.next().await.unwrap();
    assert_eq!(event, json!({"type": "ADDED", "object": expected}));
    cluster.delete(&format!("{MAPS}/m")).await.ok();
    let event = events.next().await.unwrap();
    assert_eq!(event["type"], "DELETED");
    assert_eq!(event["object"]["metadata"]["uid"], created["metadata"]["uid"]);
    assert!(event["object"].get("data").is_none());
}

#[tokio::test]
async fn a_streaming_list_ends_with_its_bookmark() {
    let cluster = Cluster::new().await;
    cluster.post(MAPS, &json!({"metadata": {"name": "one"}})).await.ok();
    let uri = format!(
        "{MAPS}?watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"
    );
    let mut events = cluster.watch(&uri).await;
    assert_eq!(events.brief().await.0, "ADDED");
    let mark = events.next().await.unwrap();
    assert_eq!(mark["type"], "BOOKMARK");
    assert_eq!(mark["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    assert_eq!(mark["object"]["kind"], "ConfigMap");
}

#[tokio::test]
async fn a_forgotten_revision_is_gone() {
    let cluster = Cluster::new().await.restart().await;
    let mut events = cluster.watch(&format!("{MAPS}?watch=true&resourceVersion=1")).await;
    let error = events.next().await.unwrap();
    assert_eq!(error["type"], "ERROR");
    assert_eq!(error["object"]["code"], 410);
    assert!(events.next().await.is_none());
}

#[tokio::test]
async fn a_watch_goes_on_from_a_list_and_ends_in_time() {
    let cluster = Cluster::new().await;
    let list = cluster.get(MAPS).await.ok();
    let revision = list["metadata"]["resourceVersion"].as_str().unwrap();
    cluster.post(MAPS, &json!({"metadata": {"name": "late"}})).await.ok();
    let uri = format!(
        "{MAPS}?watch=1&resourceVersion={revision}&timeoutSeconds=1&allowWatchBookmarks=true"
    );
    let mut events = cluster.watch(&uri).await;
    assert_eq!(events.brief().await, ("ADDED".into(), "late".into()));
    assert_eq!(events.brief().await.0, "BOOKMARK");
    assert!(events.next().await.is_none());
}

#[tokio::test]
async fn large_numbers_of_clients_do_no_harm() {
    let cluster = Cluster::new().await;
    let maps = "/api/v1/namespaces/default/configmaps";
    for seconds in ["9223372036854775807", "18446744073709551615", "-1", "3601"] {
        let uri = format!("{maps}?watch=true&timeoutSeconds={seconds}");
        let code =
            cluster.raw(http::Request::builder().uri(&uri).body(crate::body::full("")).unwrap());
        let code = code.await.status().as_u16();
        assert_eq!(code, if seconds.len() == 20 { 400 } else { 200 }, "{seconds}");
    }
    for query in [
        "limit=9223372036854775807",
        "limit=-1",
        "resourceVersion=18446744073709551615&timeoutSeconds=0",
    ] {
        let code = cluster.get(&format!("{maps}?{query}")).await.code.as_u16();
        assert!(code < 500 || code == 504, "{query}: {code}");
    }
    let pod = serde_json::json!({"metadata": {"name": "p"}, "spec": {"nodeName": "n",
        "containers": [{"name": "c", "image": "i"}]}});
    let pods = "/api/v1/namespaces/default/pods";
    cluster.post(pods, &pod).await.ok();
    for seconds in ["9223372036854775807", "-9223372036854775808", "30"] {
        let uri = format!("{pods}/p?gracePeriodSeconds={seconds}");
        cluster.delete(&uri).await.ok();
    }
}

#[tokio::test]
async fn large_objects_arrive_whole_in_a_watch() {
    let cluster = Cluster::new().await;
    let uri = "/api/v1/namespaces/default/configmaps";
    let mut watch = cluster.watch(&format!("{uri}?watch=1&fieldSelector=metadata.name!=x")).await;
    let mut stored = Vec::new();
    for (index, characters) in [900_000, 10, 70_000, 16_000, 900_000].into_iter().enumerate() {
        let text: String =
            (0..characters).map(|_| char::from(rand::random_range(b'a'..=b'z'))).collect();
        let map = json!({"metadata": {"name": format!("m-{index}")}, "data": {"text": text}});
        stored.push(cluster.post(uri, &map).await.ok());
    }
    while let Some(expected) = stored.first() {
        let event = watch.next().await.unwrap();
        if event["object"]["data"]["text"].is_string() {
            assert!(event["object"] == *expected && event["type"] == "ADDED");
            stored.remove(0);
        }
    }
}

/// While another request of the user has its turn for heavy work, large objects are not converted
/// and light ones are.
#[tokio::test]
async fn large_objects_are_converted_away_from_the_threads_that_serve() {
    let cluster = Cluster::new().await;
    let map = |name: &str, bytes: usize| json!({"metadata": {"name": name, "labels": {"a": "1"}}, "data": {"k": "x".repeat(bytes)}});
    cluster.post(MAPS, &map("large", 200_000)).await.ok();
    let release = cluster.hold_heavy_work().await;
    let table = "application/json;as=Table;v=v1;g=meta.k8s.io";
    let mut tables = cluster.watch_as(&format!("{MAPS}?watch=true"), table).await;
    let mut copies = cluster.watch(&format!("{MAPS}?watch=true&labelSelector=a%3D1")).await;
    assert_eq!(copies.brief().await, ("ADDED".into(), "large".into()));
    let waits = tokio::time::timeout(Duration::from_millis(300), tables.next()).await;
    assert!(waits.is_err(), "{waits:?} before its turn");
    cluster.post(MAPS, &map("light", 10)).await.ok();
    let mut later = cluster.watch_as(&format!("{MAPS}?watch=1&resourceVersion=0"), table).await;
    assert_eq!(copies.brief().await, ("ADDED".into(), "light".into()));
    release.send(()).unwrap();
    for watch in [&mut tables, &mut later] {
        let mut rows = Vec::new();
        while rows.len() < 2 {
            let event = watch.next().await.unwrap();
            assert_eq!(event["type"], "ADDED");
            rows.extend(event["object"]["rows"].as_array().unwrap().clone());
        }
        let cells: Vec<_> = rows.iter().map(|row| (&row["cells"][0], &row["cells"][1])).collect();
        assert_eq!(cells, [(&json!("large"), &json!(1)), (&json!("light"), &json!(1))]);
    }
    // What leaves a selection is read again.
    let patch = json!({"metadata": {"labels": {"a": "2"}}});
    cluster.patch(&format!("{MAPS}/large"), "merge-patch", &patch).await.ok();
    let left = copies.next().await.unwrap();
    assert_eq!(left["type"], "DELETED");
    assert_eq!(left["object"]["metadata"]["labels"]["a"], "1");
    assert_eq!(left["object"]["data"]["k"].as_str().unwrap().len(), 200_000);
    assert_eq!(tables.next().await.unwrap()["type"], "MODIFIED");
}
