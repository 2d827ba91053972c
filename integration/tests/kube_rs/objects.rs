//! Objects: made, read, listed, patched, applied, refused, deleted.

use coracle_integration::privileged;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::core::v1::{ConfigMap, Node, Secret, ServiceAccount};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions};
use kube::core::response::StatusSummary;
use kube::core::{DynamicObject, GroupVersionKind};
use kube::discovery::{Discovery, Scope, pinned_kind};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};

use crate::{NAMESPACE, Session, delete_namespace, object, refusal};

fn config_map(name: &str, data: Value) -> ConfigMap {
    object(json!({"metadata": {"name": name, "labels": {"app": "x"}}, "data": data}))
}

fn data(map: &ConfigMap) -> Value {
    json!(map.data)
}

#[test]
fn objects_are_made_read_changed_and_deleted() {
    if !privileged() {
        return;
    }
    let session = Session::start();
    session.run(async {
        let client = session.client().await;
        assert_eq!(client.apiserver_version().await.unwrap().major, "1");
        let maps: Api<ConfigMap> = Api::namespaced(client.clone(), NAMESPACE);
        let create = PostParams::default();

        // A dry run leaves nothing; a create answers with what is stored from now on.
        let dry = PostParams { dry_run: true, ..PostParams::default() };
        let sky = json!({"sky": "blue"});
        maps.create(&dry, &config_map("colours", sky.clone())).await.unwrap();
        assert!(maps.get_opt("colours").await.unwrap().is_none());
        let made = maps.create(&create, &config_map("colours", sky.clone())).await.unwrap();
        assert!(made.uid().is_some() && made.creation_timestamp().is_some());
        assert_eq!(maps.get("colours").await.unwrap(), made);
        let metadata = maps.get_metadata("colours").await.unwrap();
        assert_eq!(metadata.metadata, made.metadata);
        assert_eq!(metadata.types.unwrap().kind, "PartialObjectMetadata");

        // Pages, selectors.
        for number in 0..7 {
            maps.create(&create, &config_map(&format!("page-{number}"), json!({}))).await.unwrap();
        }
        let mut parameters = ListParams::default().labels("app=x").limit(3);
        let mut names = Vec::new();
        loop {
            let page = maps.list(&parameters).await.unwrap();
            assert!(page.items.len() <= 3);
            names.extend(page.items.iter().map(ResourceExt::name_any));
            match page.metadata.continue_ {
                Some(token) if !token.is_empty() => parameters = parameters.continue_token(&token),
                _ => break,
            }
        }
        let mut expected = vec!["colours".to_owned()];
        expected.extend((0..7).map(|number| format!("page-{number}")));
        assert_eq!(names, expected);
        let one = ListParams::default().fields("metadata.name=page-3");
        assert_eq!(maps.list_metadata(&one).await.unwrap().items.len(), 1);

        // Replacing wants the version that was read; an entry retries nothing by itself.
        let mut changed = made.clone();
        changed.data.as_mut().unwrap().insert("grass".into(), "green".into());
        let replaced = maps.replace("colours", &create, &changed).await.unwrap();
        assert_ne!(replaced.resource_version(), made.resource_version());
        let status = refusal(maps.replace("colours", &create, &made).await);
        assert!(status.is_conflict() && !status.is_already_exists() && status.code == 409);
        assert_eq!(
            status.message,
            "Operation cannot be fulfilled on configmaps \"colours\": the object has been \
             modified; please apply your changes to the latest version and try again"
        );
        let entry = maps.entry("colours").await.unwrap();
        let mut entry = entry.and_modify(|map| map.data = None).or_insert(|| unreachable!());
        entry.commit(&create).await.unwrap();
        assert_eq!(entry.get().data, None);

        // Deleting: preconditions, the Status of what is gone at once, collections.
        let uid = made.uid().unwrap();
        let other = Preconditions { uid: Some("other".into()), resource_version: None };
        let guarded = DeleteParams { preconditions: Some(other), ..DeleteParams::default() };
        let status = refusal(maps.delete("colours", &guarded).await);
        assert!(status.is_conflict(), "{status:?}");
        assert!(
            status.message.ends_with(&format!(
                "Precondition failed: UID in precondition: other, UID in object meta: {uid}"
            )),
            "{status:?}"
        );
        let deleted = maps.delete("colours", &DeleteParams::default()).await.unwrap();
        let status = deleted.right().expect("a ConfigMap is gone at once");
        let details = status.details.unwrap();
        assert_eq!(status.status, Some(StatusSummary::Success));
        assert_eq!(
            (details.name, details.kind, details.uid),
            ("colours".into(), "configmaps".into(), uid)
        );
        let all = ListParams::default().labels("app=x");
        maps.delete_collection(&DeleteParams::default(), &all).await.unwrap();
        assert!(maps.list(&all).await.unwrap().items.is_empty());
        delete_namespace(&client).await;
    });
}

#[test]
fn refusals_are_what_the_client_takes_them_for() {
    if !privileged() {
        return;
    }
    let session = Session::start();
    session.run(async {
        let client = session.client().await;
        let maps: Api<ConfigMap> = Api::namespaced(client.clone(), NAMESPACE);
        let create = PostParams::default();

        let status = refusal(maps.get("absent").await);
        assert!(status.is_not_found() && status.is_failure() && status.code == 404);
        assert_eq!(status.message, "configmaps \"absent\" not found");
        let details = status.details.unwrap();
        assert_eq!((&*details.name, &*details.kind, &*details.group), ("absent", "configmaps", ""));
        let status =
            refusal(Api::<Deployment>::namespaced(client.clone(), NAMESPACE).get("a").await);
        assert_eq!(status.message, "deployments.apps \"a\" not found");
        assert_eq!(status.details.unwrap().group, "apps");

        maps.create(&create, &config_map("here", json!({"a": "b"}))).await.unwrap();
        let status = refusal(maps.create(&create, &config_map("here", json!({}))).await);
        assert!(status.is_already_exists() && !status.is_conflict() && status.code == 409);
        assert_eq!(status.message, "configmaps \"here\" already exists");

        let status = refusal(maps.create(&create, &config_map("Not_a_name", json!({}))).await);
        assert!(status.is_invalid() && status.code == 422, "{status:?}");
        let message = "ConfigMap \"Not_a_name\" is invalid: metadata.name: Invalid value: ";
        assert!(status.message.starts_with(message), "{status:?}");
        let details = status.details.unwrap();
        assert_eq!((&*details.name, &*details.kind), ("Not_a_name", "ConfigMap"));
        assert_eq!(details.causes.len(), 1, "{details:?}");
        assert_eq!(details.causes[0].field, "metadata.name");
        assert_eq!(details.causes[0].reason, "FieldValueInvalid");

        // Two faults are two causes, in the order of the fields.
        let deployments: Api<Deployment> = Api::namespaced(client.clone(), NAMESPACE);
        let faulty: Deployment = object(json!({
            "metadata": {"name": "faulty"},
            "spec": {
                "replicas": -1,
                "selector": {"matchLabels": {"app": "a"}},
                "template": {
                    "metadata": {"labels": {"app": "b"}},
                    "spec": {"containers": [{"name": "main", "image": "busybox"}]},
                },
            },
        }));
        let status = refusal(deployments.create(&create, &faulty).await);
        assert!(status.is_invalid());
        let details = status.details.unwrap();
        let fields: Vec<&str> = details.causes.iter().map(|cause| &*cause.field).collect();
        assert_eq!(fields, ["spec.replicas", "spec.template.metadata.labels"]);
        assert_eq!((&*details.group, &*details.kind), ("apps", "Deployment"));

        // A JSON patch whose test fails, and one that is none.
        let test = json!([{"op": "test", "path": "/data/a", "value": "c"}]);
        let patch = Patch::Json::<()>(serde_json::from_value(test).unwrap());
        let status = refusal(maps.patch("here", &PatchParams::default(), &patch).await);
        assert!(status.is_invalid() && status.code == 422, "{status:?}");
        let status =
            refusal(maps.patch("here", &PatchParams::default(), &Patch::Merge(json!([1]))).await);
        assert_eq!((status.code, &*status.reason), (400, "BadRequest"), "{status:?}");

        // An account with no roles may nothing; a token that is none is nobody.
        let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), NAMESPACE);
        let request: TokenRequest =
            object(json!({"spec": {"audiences": [], "expirationSeconds": 600}}));
        let token = accounts.create_token_request("default", &create, &request).await.unwrap();
        let mut config = session.config().await;
        config.auth_info = kube::config::AuthInfo {
            token: Some(token.status.unwrap().token.into()),
            ..Default::default()
        };
        let account = Client::try_from(config.clone()).unwrap();
        let secrets: Api<Secret> = Api::namespaced(account, NAMESPACE);
        let status = refusal(secrets.list(&ListParams::default()).await);
        assert!(status.is_forbidden() && status.code == 403, "{status:?}");
        assert_eq!(
            status.message,
            "secrets is forbidden: User \"system:serviceaccount:rust:default\" cannot list \
             resource \"secrets\" in API group \"\" in the namespace \"rust\""
        );
        config.auth_info.token = Some("nonsense".to_owned().into());
        let nobody: Api<Secret> = Api::namespaced(Client::try_from(config).unwrap(), NAMESPACE);
        let status = refusal(nobody.list(&ListParams::default()).await);
        assert_eq!((status.code, &*status.reason), (401, "Unauthorized"), "{status:?}");
        delete_namespace(&client).await;
    });
}

fn web(image: &str) -> Value {
    json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "web", "labels": {"tier": "front"}},
        "spec": {
            "replicas": 0,
            "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [
                    {"name": "nginx", "image": image, "ports": [{"containerPort": 80}]},
                    {"name": "side", "image": "busybox"},
                ]},
            },
        },
    })
}

#[test]
fn every_kind_of_patch() {
    if !privileged() {
        return;
    }
    let session = Session::start();
    session.run(async {
        let client = session.client().await;
        let maps: Api<ConfigMap> = Api::namespaced(client.clone(), NAMESPACE);
        let deployments: Api<Deployment> = Api::namespaced(client.clone(), NAMESPACE);
        let plain = PatchParams::default();
        let create = PostParams::default();

        // JSON: operations in order.
        maps.create(&create, &config_map("map", json!({"a": "1", "b": "2"}))).await.unwrap();
        let operations = json!([
            {"op": "test", "path": "/data/a", "value": "1"},
            {"op": "copy", "from": "/data/a", "path": "/data/c"},
            {"op": "move", "from": "/data/b", "path": "/data/d"},
            {"op": "replace", "path": "/data/a", "value": "3"},
            {"op": "add", "path": "/metadata/labels/e~1f", "value": "g"},
        ]);
        let patch = Patch::Json::<()>(serde_json::from_value(operations).unwrap());
        let patched = maps.patch("map", &plain, &patch).await.unwrap();
        assert_eq!(data(&patched), json!({"a": "3", "c": "1", "d": "2"}));
        assert_eq!(patched.labels()["e/f"], "g");

        // Merge: null takes a member away, a list is replaced as a whole.
        let patch = Patch::Merge(json!({"data": {"a": null, "c": "4"}}));
        assert_eq!(
            data(&maps.patch("map", &plain, &patch).await.unwrap()),
            json!({"c": "4", "d": "2"})
        );
        deployments.create(&create, &object(web("nginx"))).await.unwrap();
        let template =
            |container: Value| json!({"spec": {"template": {"spec": {"containers": [container]}}}});
        let one = template(json!({"name": "side", "image": "busybox:1"}));
        let dry = PatchParams { dry_run: true, ..PatchParams::default() };
        let merged = deployments.patch("web", &dry, &Patch::Merge(&one)).await.unwrap();
        assert_eq!(images(&merged), [("side".into(), "busybox:1".into())]);

        // Strategic: elements of a list are found by their names.
        let merged = deployments.patch("web", &plain, &Patch::Strategic(&one)).await.unwrap();
        let expected =
            [("side", "busybox:1"), ("nginx", "nginx")].map(|(a, b)| (a.into(), b.into()));
        let mut found = images(&merged);
        found.sort_by(|a, b| b.cmp(a));
        assert_eq!(found, expected);
        let removal = template(json!({"name": "side", "$patch": "delete"}));
        let merged = deployments.patch("web", &plain, &Patch::Strategic(removal)).await.unwrap();
        assert_eq!(images(&merged), [("nginx".into(), "nginx".into())]);

        // A restart is a strategic patch of the template.
        let restarted = deployments.restart("web").await.unwrap();
        let template = restarted.spec.unwrap().template.metadata.unwrap();
        assert!(template.annotations.unwrap().keys().any(|key| key.ends_with("restartedAt")));
        let nodes: Api<Node> = Api::all(client.clone());
        assert_eq!(nodes.cordon("node").await.unwrap().spec.unwrap().unschedulable, Some(true));
        let uncordoned = nodes.uncordon("node").await.unwrap().spec.unwrap();
        assert_ne!(uncordoned.unschedulable, Some(true));
        delete_namespace(&client).await;
    });
}

fn images(deployment: &Deployment) -> Vec<(String, String)> {
    let containers = &deployment.spec.as_ref().unwrap().template.spec.as_ref().unwrap().containers;
    containers.iter().map(|c| (c.name.clone(), c.image.clone().unwrap())).collect()
}

#[test]
fn server_side_apply_keeps_owners_apart() {
    if !privileged() {
        return;
    }
    let session = Session::start();
    session.run(async {
        let client = session.client().await;
        let maps: Api<ConfigMap> = Api::namespaced(client.clone(), NAMESPACE);
        let applied = |data: Value| {
            Patch::Apply(json!({
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {"name": "shared"},
                "data": data,
            }))
        };
        let painter = PatchParams::apply("painter");
        let gardener = PatchParams::apply("gardener");

        // Apply makes what is not there; each manager owns what it names.
        let first = json!({"sky": "blue", "sea": "grey"});
        maps.patch("shared", &painter, &applied(first)).await.unwrap();
        let both =
            maps.patch("shared", &gardener, &applied(json!({"grass": "green"}))).await.unwrap();
        assert_eq!(data(&both), json!({"sky": "blue", "sea": "grey", "grass": "green"}));
        let managers: Vec<_> = both
            .managed_fields()
            .iter()
            .map(|m| (m.manager.clone().unwrap(), m.operation.clone().unwrap()))
            .collect();
        assert_eq!(managers.len(), 2, "{managers:?}");
        assert!(managers.iter().all(|(_, operation)| operation == "Apply"));

        // What a manager no longer names goes, if nobody else owns it.
        let less = maps.patch("shared", &painter, &applied(json!({"sky": "blue"}))).await.unwrap();
        assert_eq!(data(&less), json!({"sky": "blue", "grass": "green"}));

        // Another's field is a conflict that says whose; the same value is shared; force takes it.
        let status = refusal(
            maps.patch("shared", &gardener, &applied(json!({"grass": "green", "sky": "red"})))
                .await,
        );
        assert!(status.is_conflict() && status.code == 409, "{status:?}");
        assert_eq!(
            status.message,
            "Apply failed with 1 conflict: conflict with \"painter\": .data.sky"
        );
        let causes = status.details.unwrap().causes;
        assert_eq!(
            (causes.len(), &*causes[0].reason, &*causes[0].message, &*causes[0].field),
            (1, "FieldManagerConflict", "conflict with \"painter\"", ".data.sky")
        );
        let shared = applied(json!({"grass": "green", "sky": "blue"}));
        maps.patch("shared", &gardener, &shared).await.unwrap();
        let left = maps.patch("shared", &painter, &applied(json!({"sea": "black"}))).await.unwrap();
        assert_eq!(data(&left), json!({"sky": "blue", "grass": "green", "sea": "black"}));
        let force = PatchParams::apply("painter").force();
        let forced = maps.patch("shared", &force, &applied(json!({"sky": "red"}))).await.unwrap();
        assert_eq!(data(&forced), json!({"sky": "red", "grass": "green"}));

        // Lists are merged by the keys of their elements.
        let deployments: Api<Deployment> = Api::namespaced(client.clone(), NAMESPACE);
        deployments.patch("web", &painter, &Patch::Apply(web("nginx"))).await.unwrap();
        let container = json!({"name": "side", "env": [{"name": "A", "value": "b"}]});
        let template = json!({"spec": {"containers": [container]}});
        let side = json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
            "spec": {"template": template},
        });
        let applied = deployments.patch("web", &gardener, &Patch::Apply(side)).await.unwrap();
        assert_eq!(images(&applied).len(), 2);
        let containers = applied.spec.unwrap().template.spec.unwrap().containers;
        assert_eq!(containers[1].env.as_ref().unwrap()[0].name, "A");
        delete_namespace(&client).await;
    });
}

#[test]
fn kinds_are_discovered() {
    if !privileged() {
        return;
    }
    let session = Session::start();
    session.run(async {
        let client = session.client().await;
        let plain = Discovery::new(client.clone()).run().await.unwrap();
        let aggregated = Discovery::new(client.clone()).run_aggregated().await.unwrap();
        for discovery in [plain, aggregated] {
            for (group, version, kind, scope) in [
                ("", "v1", "Pod", Scope::Namespaced),
                ("apps", "v1", "StatefulSet", Scope::Namespaced),
                ("autoscaling", "v2", "HorizontalPodAutoscaler", Scope::Namespaced),
                ("storage.k8s.io", "v1", "StorageClass", Scope::Cluster),
            ] {
                let kind = GroupVersionKind::gvk(group, version, kind);
                let (_, capabilities) = discovery.resolve_gvk(&kind).expect("it is served");
                assert_eq!(capabilities.scope, scope, "{kind:?}");
                assert!(capabilities.supports_operation("patch"), "{kind:?}");
            }
            let pods = discovery.resolve_gvk(&GroupVersionKind::gvk("", "v1", "Pod")).unwrap().1;
            let names: Vec<&str> = pods.subresources.iter().map(|(r, _)| &*r.plural).collect();
            for name in ["log", "exec", "attach", "portforward", "eviction", "status"] {
                assert!(names.iter().any(|found| found.ends_with(name)), "{name} of {names:?}");
            }
        }
        let kind = GroupVersionKind::gvk("", "v1", "ConfigMap");
        let (resource, _) = pinned_kind(&client, &kind).await.unwrap();
        let maps: Api<DynamicObject> = Api::namespaced_with(client.clone(), NAMESPACE, &resource);
        let map = DynamicObject::new("free", &resource).data(json!({"data": {"a": "b"}}));
        maps.create(&PostParams::default(), &map).await.unwrap();
        assert_eq!(maps.get("free").await.unwrap().data["data"]["a"], "b");
        delete_namespace(&client).await;
    });
}
