//! Objects of little text that take much memory in every part of the node that decodes them.

use coracle_integration::{Output, privileged, wait};
use serde_json::{Value, json};

use crate::tenant::{Ground, TENANT};

/// Objects of each shape that the tenant sends.
const TRIES: usize = 40;

#[test]
fn memory_of_decoded_objects_is_bounded() {
    if !privileged() {
        return;
    }
    let ground = Ground::new();
    huge_objects_are_refused(&ground);
    refusals_are_short(&ground);
    for (shape, kind, object) in shapes() {
        many_large_objects_are_refused(&ground, shape, kind, &object);
    }
    full_store_is_read_again(ground);
}

/// One of them would take hundreds of megabytes in some parts of the node.
fn huge_objects_are_refused(ground: &Ground) {
    let volumes = list(40_000, |n| json!({"name": format!("v{n}"), "emptyDir": {}}));
    for (shape, tries, pod) in [
        ("empty terms", TRIES, pod(json!({"affinity": terms(400_000)}))),
        ("volumes", 4, pod(json!({"volumes": volumes}))),
    ] {
        for number in 0..tries {
            let refused = create(ground, Kind::Pods, &named(&pod, number));
            let text = "Request entity too large: ";
            let is_told = refused.stderr.contains(text) || took_too_long(&refused);
            assert!(refused.code != 0 && is_told, "{}", refused.stderr);
        }
        ground.is_sound(shape);
    }
}

/// Checks that a refusal takes little memory, however much is wrong with a small object.
fn refusals_are_short(ground: &Ground) {
    let controllers = list(850, |n| {
        json!({"apiVersion": "v1", "kind": "C", "name": format!("n{n}"), "uid": format!("u{n}"),
            "controller": true})
    });
    let labels: serde_json::Map<String, Value> =
        (0..4500).map(|n| (format!("-{n}"), json!("-"))).collect();
    for (what, metadata, text) in [
        ("ownerReferences", controllers, "Only one reference can have"),
        ("labels", labels.into(), "a valid label must"),
    ] {
        let mut map = named(&json!({"metadata": {}}), 0);
        map["metadata"][what] = metadata;
        let refused = create(ground, Kind::ConfigMaps, &map);
        assert!(refused.code != 0 && refused.stderr.contains(text), "{what}: {}", refused.stderr);
        assert!(refused.stderr.len() < 128 << 10, "{what}: {} bytes", refused.stderr.len());
        ground.is_sound(what);
    }
}

/// Returns whether the work took longer than a request may, as it can on an emulated machine.
fn took_too_long(refused: &Output) -> bool {
    let text = "Timeout: request did not complete within the allotted timeout";
    wait::factor() > 1 && refused.stderr.contains(text)
}

/// Each is within its own bound; all of them together are not.
fn many_large_objects_are_refused(ground: &Ground, shape: &str, kind: Kind, object: &Value) {
    let attempt = |number| create(ground, kind, &named(object, number));
    let refused = (0..TRIES)
        .find_map(|number| Some(attempt(number)).filter(|o| o.code != 0 && !took_too_long(o)));
    ground.is_sound(shape);
    if let Some(refused) = refused {
        let text = "etcdserver: mvcc: database space exceeded: tenant has reached its share";
        assert!(refused.stderr.contains(text), "{shape}: {}", refused.stderr);
    }
    // Others go on, and what the tenant deletes makes room for it.
    ground.admin.ok(&["create", "configmap", "other", "--from-literal=a=b"]);
    ground.admin.ok(&["delete", "configmap", "other"]);
    let (resource, _) = kind.names();
    let all = ["delete", resource, "-l", "hostile=yes", "--grace-period=0", "--force"];
    ground.tenant.ok(&[&all[..], &["--timeout=120s"]].concat());
    ground.tenant.ok(&["create", "configmap", "again", "--from-literal=a=b"]);
    ground.tenant.ok(&["delete", "configmap", "again"]);
    ground.is_sound(shape);
}

/// At its start the node reads what two namespaces have filled the store with.
fn full_store_is_read_again(mut ground: Ground) {
    let map = json!({"metadata": {}, "data": {"k": "x".repeat(1 << 20)}});
    let second = "second";
    ground.admin.ok(&["create", "namespace", second]);
    for (client, namespace) in [(&ground.tenant, TENANT), (&ground.admin, second)] {
        let file = ground.path("map.json");
        let path = format!("/api/v1/namespaces/{namespace}/configmaps");
        let refused = (0..500).find_map(|number| {
            std::fs::write(&file, named(&map, number).to_string()).unwrap();
            let made = client.run(&["create", "--raw", &path, "-f", &file.display().to_string()]);
            (made.code != 0).then_some(made)
        });
        let refused = refused.expect("the store takes objects for ever");
        assert!(refused.stderr.contains("database space exceeded"), "{}", refused.stderr);
    }
    ground.is_sound("a full store");
    ground.node.stop_agent();
    ground.node.up();
    let answer = ground.admin.run(&["get", "--raw", "/readyz", "--request-timeout=10s"]);
    assert_eq!(answer.stdout, "ok", "{}", answer.stderr);
    ground.tenant.ok(&["delete", "configmap", "large-0"]);
    ground.tenant.ok(&["create", "configmap", "again", "--from-literal=a=b"]);
}

#[derive(Clone, Copy)]
enum Kind {
    Pods,
    Deployments,
    Endpoints,
    Roles,
    NetworkPolicies,
    ConfigMaps,
}

impl Kind {
    /// The resource, and the path of its group and version.
    fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::Pods => ("pods", "api/v1"),
            Self::Deployments => ("deployments", "apis/apps/v1"),
            Self::Endpoints => ("endpoints", "api/v1"),
            Self::Roles => ("roles", "apis/rbac.authorization.k8s.io/v1"),
            Self::NetworkPolicies => ("networkpolicies", "apis/networking.k8s.io/v1"),
            Self::ConfigMaps => ("configmaps", "api/v1"),
        }
    }
}

/// Objects just below the bounds of a single one. The pods are bound, so that the kubelet has them too.
fn shapes() -> Vec<(&'static str, Kind, Value)> {
    let volume = |n: usize| json!({"name": format!("v{n}"), "emptyDir": {}});
    let variable = |n: usize| json!({"name": format!("e{n}")});
    let bound = |mut spec: Value| {
        spec["nodeName"] = "node".into();
        // The kubelet refuses them: no node has this label.
        spec["nodeSelector"] = json!({"hostile": "none"});
        pod(spec)
    };
    let deployment = json!({"metadata": {}, "spec": {
        "replicas": 0, "selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": pod(json!({
            "volumes": list(2000, volume),
        }))["spec"]},
    }});
    let owner =
        |n: usize| json!({"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": n.to_string()});
    let address = |n: usize| json!({"ip": format!("10.9.{}.{}", n / 250 % 250, n % 250 + 1)});
    let endpoints = json!({"metadata": {}, "subsets": [{"addresses": list(15_000, address)}]});
    let rule = |_| json!({"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]});
    let tolerant = json!({"tolerations": list(30_000, |_| json!({"operator": "Exists"}))});
    let environment = json!([{"name": "main", "image": "busybox", "env": list(25_000, variable)}]);
    let ingress = list(200_000, |_| json!({}));
    let policy = json!({"metadata": {}, "spec": {"podSelector": {}, "ingress": ingress}});
    vec![
        ("bound pods of empty terms", Kind::Pods, bound(json!({"affinity": terms(130_000)}))),
        ("bound pods of tolerations", Kind::Pods, bound(tolerant)),
        ("bound pods of volumes", Kind::Pods, bound(json!({"volumes": list(2000, volume)}))),
        ("bound pods of variables", Kind::Pods, bound(json!({"containers": environment}))),
        ("deployments of volumes", Kind::Deployments, deployment),
        ("endpoints", Kind::Endpoints, endpoints),
        ("rules", Kind::Roles, json!({"metadata": {}, "rules": list(8000, rule)})),
        ("network policies", Kind::NetworkPolicies, policy),
        ("owners", Kind::ConfigMaps, json!({"metadata": {"ownerReferences": list(20_000, owner)}})),
    ]
}

fn terms(count: usize) -> Value {
    json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
        {"nodeSelectorTerms": list(count, |_| json!({}))}}})
}

fn list(count: usize, element: impl Fn(usize) -> Value) -> Value {
    (0..count).map(element).collect()
}

/// A pod that no node takes in, with `spec` laid over its own.
fn pod(spec: Value) -> Value {
    let mut pod = json!({"metadata": {}, "spec": {
        "containers": [{"name": "main", "image": "busybox", "command": ["sleep", "1000"]}],
    }});
    for (member, value) in spec.as_object().unwrap() {
        pod["spec"][member] = value.clone();
    }
    pod
}

fn named(object: &Value, number: usize) -> Value {
    let mut object = object.clone();
    object["metadata"]["name"] = format!("large-{number}").into();
    object["metadata"]["labels"] = json!({"hostile": "yes"});
    object
}

/// Sends an object as it is: `kubectl` itself would take long to check it.
fn create(ground: &Ground, kind: Kind, object: &Value) -> Output {
    let (resource, version) = kind.names();
    let file = ground.path("large.json");
    std::fs::write(&file, object.to_string()).unwrap();
    let path = format!("/{version}/namespaces/{TENANT}/{resource}");
    ground.tenant.run(&["create", "--raw", &path, "-f", &file.display().to_string()])
}
