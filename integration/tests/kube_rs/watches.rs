//! Watches as kube-runtime does them: by list and watch, by one stream, across a killed server.

use std::pin::Pin;

use coracle_integration::privileged;
use futures::{Stream, StreamExt, TryStreamExt};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{
    DeleteParams, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams,
};
use kube::core::PartialObjectMeta;
use kube::runtime::conditions::{is_deleted, is_deployment_completed};
use kube::runtime::wait::await_condition;
use kube::runtime::watcher::{self, Config, Event, watcher};
use kube::runtime::{WatchStreamExt, reflector};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};

use crate::{NAMESPACE, Session, delete_namespace, object, patient, refusal};

type Events = Pin<Box<dyn Stream<Item = watcher::Result<Event<ConfigMap>>> + Send>>;

fn map(name: &str, value: &str) -> ConfigMap {
    object(
        json!({"metadata": {"name": name, "labels": {"watched": "yes"}}, "data": {"value": value}}),
    )
}

async fn put(maps: &Api<ConfigMap>, name: &str, value: &str) {
    maps.create(&PostParams::default(), &map(name, value)).await.unwrap();
}

async fn change(maps: &Api<ConfigMap>, name: &str, patch: Value) {
    maps.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
}

async fn remove(maps: &Api<ConfigMap>, name: &str) {
    maps.delete(name, &DeleteParams::default()).await.unwrap();
}

/// The next event, in short: what happened to which object with which value.
async fn next(events: &mut Events) -> String {
    let event = patient("an event", events.next()).await.expect("a watcher never ends").unwrap();
    let text = |what: &str, map: &ConfigMap| {
        format!("{what} {}={}", map.name_any(), map.data.as_ref().unwrap()["value"])
    };
    match event {
        Event::Init => "init".into(),
        Event::InitApply(map) => text("initially", &map),
        Event::InitDone => "done".into(),
        Event::Apply(map) => text("applied", &map),
        Event::Delete(map) => text("deleted", &map),
    }
}

#[test]
fn a_watcher_sees_everything_once() {
    if !privileged() {
        return;
    }
    let session = Session::start();
    session.run(async {
        let client = session.client().await;
        let maps: Api<ConfigMap> = Api::namespaced(client.clone(), NAMESPACE);
        for (name, value) in [("a", "1"), ("b", "2"), ("c", "3")] {
            put(&maps, name, value).await;
        }
        let selected = Config::default().labels("watched=yes");
        for (strategy, config) in [
            ("one list", selected.clone()),
            ("pages", selected.clone().page_size(2)),
            ("any version", selected.clone().any_semantic()),
            ("streaming list", selected.clone().streaming_lists()),
        ] {
            let mut events: Events = watcher(maps.clone(), config).boxed();
            let mut first = Vec::new();
            while first.last().is_none_or(|last| last != "done") {
                first.push(next(&mut events).await);
            }
            let expected = ["init", "initially a=1", "initially b=2", "initially c=3", "done"];
            assert_eq!(first, expected, "{strategy}");
            put(&maps, "d", "4").await;
            change(&maps, "d", json!({"data": {"value": "5"}})).await;
            // What a selector no longer matches is deleted for the watcher, and comes back anew.
            change(&maps, "d", json!({"metadata": {"labels": {"watched": null}}})).await;
            change(&maps, "d", json!({"metadata": {"labels": {"watched": "yes"}}})).await;
            remove(&maps, "d").await;
            for expected in
                ["applied d=4", "applied d=5", "deleted d=5", "applied d=5", "deleted d=5"]
            {
                assert_eq!(next(&mut events).await, expected, "{strategy}");
            }
        }

        // Of metadata alone; and without kube-runtime, from a version on.
        let metadata: Api<PartialObjectMeta<ConfigMap>> =
            Api::namespaced(client.clone(), NAMESPACE);
        let mut events = watcher(metadata, selected.clone()).applied_objects().boxed();
        let seen = patient("metadata", events.next()).await.unwrap().unwrap();
        assert_eq!(
            (seen.name_any().as_str(), seen.types.unwrap().kind.as_str()),
            ("a", "PartialObjectMetadata")
        );
        let from =
            maps.list(&ListParams::default()).await.unwrap().metadata.resource_version.unwrap();
        change(&maps, "a", json!({"data": {"value": "6"}})).await;
        remove(&maps, "b").await;
        let raw = maps.watch(&WatchParams::default(), &from).await.unwrap().boxed();
        let two: Vec<WatchEvent<ConfigMap>> =
            patient("two events", raw.take(2).try_collect()).await.unwrap();
        assert!(
            matches!(&two[..], [WatchEvent::Modified(a), WatchEvent::Deleted(b)]
                if a.name_any() == "a" && b.name_any() == "b"),
            "{two:?}"
        );
        // A watch ends by itself when its time is over.
        let short = WatchParams::default().timeout(1);
        let raw = maps.watch(&short, "0").await.unwrap().boxed();
        let all: Vec<_> = patient("the end of the watch", raw.try_collect()).await.unwrap();
        let known = |event: &_| matches!(event, WatchEvent::Added(_) | WatchEvent::Bookmark(_));
        assert!(all.len() >= 2 && all.iter().all(known), "{all:?}");
        // A version that is none is refused.
        let status = match maps.watch(&WatchParams::default(), "nonsense").await {
            Err(kube::Error::Api(status)) => *status,
            _ => panic!("a watch from nonsense"),
        };
        assert_eq!(status.code, 400, "{status:?}");
        let status = refusal(maps.list(&ListParams::default().continue_token("nonsense")).await);
        assert_eq!((status.code, &*status.reason), (400, "BadRequest"), "{status:?}");
        delete_namespace(&client).await;
    });
}

#[test]
fn a_reflector_and_conditions_follow_a_deployment() {
    if !privileged() {
        return;
    }
    let session = Session::start();
    session.run(async {
        let client = session.client().await;
        let deployments: Api<Deployment> = Api::namespaced(client.clone(), NAMESPACE);
        let (store, writer) = reflector::store::<Deployment>();
        let updates = watcher(deployments.clone(), Config::default().streaming_lists())
            .default_backoff()
            .reflect(writer)
            .applied_objects();
        let feeding = tokio::spawn(updates.for_each(|_| std::future::ready(())));
        patient("the store", store.wait_until_ready()).await.unwrap();
        assert!(store.is_empty());
        let web: Deployment = object(json!({
            "metadata": {"name": "web"},
            "spec": {
                "replicas": 2,
                "selector": {"matchLabels": {"app": "web"}},
                "template": {
                    "metadata": {"labels": {"app": "web"}},
                    "spec": {"containers": [
                        {"name": "nginx", "image": "nginx", "imagePullPolicy": "IfNotPresent"},
                    ]},
                },
            },
        }));
        let uid = deployments.create(&PostParams::default(), &web).await.unwrap().uid().unwrap();
        let done = await_condition(deployments.clone(), "web", is_deployment_completed());
        let done = patient("the Deployment", done).await.unwrap().unwrap();
        assert_eq!(done.status.unwrap().available_replicas, Some(2));
        let reference = reflector::ObjectRef::new("web").within(NAMESPACE);
        let shown = async {
            while !store.get(&reference).is_some_and(|web| {
                web.status.as_ref().is_some_and(|s| s.available_replicas == Some(2))
            }) {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        };
        patient("the store shows it", shown).await;

        // In the foreground: what it owns goes first.
        deployments.delete("web", &DeleteParams::foreground()).await.unwrap();
        let gone = await_condition(deployments.clone(), "web", is_deleted(&uid));
        patient("the Deployment goes", gone).await.unwrap();
        let pods: Api<k8s_openapi::api::core::v1::Pod> = Api::namespaced(client.clone(), NAMESPACE);
        assert!(pods.list(&ListParams::default()).await.unwrap().items.is_empty());
        feeding.abort();
        delete_namespace(&client).await;
    });
}

/// Skips what a watcher says while nobody listens.
fn patient_events(maps: &Api<ConfigMap>) -> Events {
    let config = Config::default().labels("watched=yes").streaming_lists();
    let events = watcher(maps.clone(), config).default_backoff();
    events.filter(|event| std::future::ready(event.is_ok())).boxed()
}

#[test]
fn a_watcher_goes_on_where_a_killed_server_left_it() {
    if !privileged() {
        return;
    }
    let mut session = Session::start();
    let (client, maps, mut events) = session.run(async {
        let client: Client = session.client().await;
        let maps: Api<ConfigMap> = Api::namespaced(client.clone(), NAMESPACE);
        put(&maps, "a", "1").await;
        put(&maps, "b", "2").await;
        let mut events = patient_events(&maps);
        while next(&mut events).await != "done" {}
        put(&maps, "c", "3").await;
        assert_eq!(next(&mut events).await, "applied c=3");
        (client, maps, events)
    });
    session.node.kill_agent();
    session.node.up();
    session.run(async {
        change(&maps, "a", json!({"data": {"value": "4"}})).await;
        remove(&maps, "b").await;
        // The history of the events died with the server: either it still answers from where the
        // watcher was, or it says so and the watcher reads all anew.
        let mut state = std::collections::BTreeMap::new();
        for (name, value) in [("a", "1"), ("b", "2"), ("c", "3")] {
            state.insert(name.to_owned(), value.to_owned());
        }
        let wanted = [("a", "4"), ("c", "3")].map(|(a, b)| (a.to_owned(), b.to_owned()));
        let mut listing = None;
        while listing.is_some() || !state.iter().eq(wanted.iter().map(|(a, b)| (a, b))) {
            let event = next(&mut events).await;
            let object = event.split_once(' ').and_then(|(_, object)| object.split_once('='));
            let object = object.map(|(name, value)| (name.to_owned(), value.to_owned()));
            match (event.split(' ').next().unwrap(), object) {
                ("init", _) => listing = Some(std::collections::BTreeMap::new()),
                ("done", _) => state = listing.take().expect("init comes before done"),
                ("initially", Some((name, value))) => {
                    listing.as_mut().expect("init comes first").insert(name, value);
                }
                ("applied", Some((name, value))) => {
                    state.insert(name, value);
                }
                ("deleted", Some((name, _))) => {
                    state.remove(&name);
                }
                _ => unreachable!("{event}"),
            }
        }
        put(&maps, "e", "5").await;
        assert_eq!(next(&mut events).await, "applied e=5");
        delete_namespace(&client).await;
    });
}
