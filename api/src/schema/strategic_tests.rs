//! Tables for strategic merge patch: original, patch, expected.

#![allow(clippy::unwrap_used)]

use serde_json::{Value, json};

use super::{PatchError, strategic_merge};
use crate::schema::fuzz::Random;
use crate::schema::message;

fn merge(kind: (&str, &str, &str), original: &Value, patch: &Value) -> Result<Value, PatchError> {
    strategic_merge(message(kind.0, kind.1, kind.2).unwrap(), original, patch)
}

const POD: (&str, &str, &str) = ("", "v1", "Pod");

fn pod(containers: Value) -> Value {
    json!({"spec": {"containers": containers}})
}

#[test]
fn pods() {
    let ab = json!([{"name": "a", "image": "1"}, {"name": "b", "image": "1"}]);
    let cases: Vec<(&str, Value, Value, Value)> = vec![
        (
            "containers merge by name, new ones come first",
            pod(ab.clone()),
            pod(json!([{"name": "b", "image": "2"}, {"name": "c"}])),
            pod(json!([
                {"name": "a", "image": "1"},
                {"name": "b", "image": "2"},
                {"name": "c"},
            ])),
        ),
        (
            "a new element before what the server alone has",
            pod(ab.clone()),
            pod(json!([{"name": "c"}])),
            pod(json!([{"name": "c"}, {"name": "a", "image": "1"}, {"name": "b", "image": "1"}])),
        ),
        (
            "element order is enforced",
            pod(ab.clone()),
            json!({"spec": {
                "$setElementOrder/containers": [{"name": "b"}, {"name": "a"}],
                "containers": [{"name": "a", "image": "2"}],
            }}),
            pod(json!([{"name": "b", "image": "1"}, {"name": "a", "image": "2"}])),
        ),
        (
            "an element is deleted",
            pod(ab.clone()),
            json!({"spec": {
                "$setElementOrder/containers": [{"name": "b"}],
                "containers": [{"name": "a", "$patch": "delete"}],
            }}),
            pod(json!([{"name": "b", "image": "1"}])),
        ),
        (
            "deleting what is not there is fine",
            pod(ab.clone()),
            pod(json!([{"name": "z", "$patch": "delete"}])),
            pod(ab.clone()),
        ),
        (
            "a list is replaced",
            pod(ab.clone()),
            pod(json!([{"$patch": "replace"}, {"name": "z"}])),
            pod(json!([{"name": "z"}])),
        ),
        (
            "null deletes a field",
            pod(json!([{"name": "a", "image": "1", "tty": true}])),
            pod(json!([{"name": "a", "tty": null}])),
            pod(json!([{"name": "a", "image": "1"}])),
        ),
        (
            "null in something new leaves nothing",
            json!({"spec": {}}),
            json!({"spec": {"securityContext": {"runAsUser": null, "fsGroup": 1}}}),
            json!({"spec": {"securityContext": {"fsGroup": 1}}}),
        ),
        (
            "args have no strategy and are replaced",
            pod(json!([{"name": "a", "args": ["1", "2"]}])),
            pod(json!([{"name": "a", "args": ["3"]}])),
            pod(json!([{"name": "a", "args": ["3"]}])),
        ),
        (
            "ports merge by containerPort",
            pod(json!([{"name": "a", "ports": [{"containerPort": 80, "name": "x"}]}])),
            pod(json!([{"name": "a", "ports": [{"containerPort": 80, "hostPort": 8080},
                {"containerPort": 81}]}])),
            pod(json!([{"name": "a", "ports": [
                {"containerPort": 80, "name": "x", "hostPort": 8080}, {"containerPort": 81}]}])),
        ),
        (
            "env deep inside",
            pod(json!([{"name": "a", "env": [{"name": "X", "value": "1"},
                {"name": "Y", "value": "2"}]}])),
            json!({"spec": {
                "$setElementOrder/containers": [{"name": "a"}],
                "containers": [{
                    "name": "a",
                    "$setElementOrder/env": [{"name": "X"}, {"name": "Z"}],
                    "env": [{"name": "Z", "value": "3"}, {"name": "Y", "$patch": "delete"}],
                }],
            }}),
            pod(json!([{"name": "a", "env": [{"name": "X", "value": "1"},
                {"name": "Z", "value": "3"}]}])),
        ),
        (
            "volumes retain only the keys of the new source",
            json!({"spec": {"volumes": [{"name": "v", "emptyDir": {}}]}}),
            json!({"spec": {
                "$setElementOrder/volumes": [{"name": "v"}],
                "volumes": [{"name": "v", "$retainKeys": ["name", "hostPath"],
                    "hostPath": {"path": "/x"}, "emptyDir": null}],
            }}),
            json!({"spec": {"volumes": [{"name": "v", "hostPath": {"path": "/x"}}]}}),
        ),
        (
            "finalizers merge and are deleted from",
            json!({"metadata": {"finalizers": ["a", "b", "c"]}}),
            json!({"metadata": {
                "$deleteFromPrimitiveList/finalizers": ["b"],
                "$setElementOrder/finalizers": ["c", "d", "a"],
                "finalizers": ["d"],
            }}),
            json!({"metadata": {"finalizers": ["c", "d", "a"]}}),
        ),
        (
            "primitives without an order",
            json!({"metadata": {"finalizers": ["a", "b"]}}),
            json!({"metadata": {"finalizers": ["c", "a"]}}),
            json!({"metadata": {"finalizers": ["c", "a", "b"]}}),
        ),
        (
            "owner references merge by uid",
            json!({"metadata": {"ownerReferences": [{"uid": "1", "name": "x"}]}}),
            json!({"metadata": {"ownerReferences": [{"uid": "1", "controller": true},
                {"uid": "2"}]}}),
            json!({"metadata": {"ownerReferences": [{"uid": "1", "name": "x", "controller": true},
                {"uid": "2"}]}}),
        ),
        (
            "labels merge",
            json!({"metadata": {"labels": {"a": "1", "b": "2"}}}),
            json!({"metadata": {"labels": {"a": null, "c": "3"}}}),
            json!({"metadata": {"labels": {"b": "2", "c": "3"}}}),
        ),
        (
            "a map is replaced",
            json!({"metadata": {"labels": {"a": "1", "b": "2"}}}),
            json!({"metadata": {"labels": {"$patch": "replace", "c": "3"}}}),
            json!({"metadata": {"labels": {"c": "3"}}}),
        ),
        (
            "a map is deleted",
            json!({"spec": {"securityContext": {"runAsUser": 1}}}),
            json!({"spec": {"securityContext": {"$patch": "delete"}}}),
            json!({"spec": {"securityContext": {}}}),
        ),
        (
            "a type change takes the patch",
            json!({"spec": {"containers": [{"name": "a", "livenessProbe":
                {"httpGet": {"port": 80}}}]}}),
            json!({"spec": {"containers": [{"name": "a", "livenessProbe":
                {"httpGet": {"port": "http"}}}]}}),
            json!({"spec": {"containers": [{"name": "a", "livenessProbe":
                {"httpGet": {"port": "http"}}}]}}),
        ),
        (
            "host aliases merge by ip, tolerations are replaced",
            json!({"spec": {"hostAliases": [{"ip": "1"}], "tolerations": [{"key": "a"}]}}),
            json!({"spec": {"hostAliases": [{"ip": "2"}], "tolerations": [{"key": "b"}]}}),
            json!({"spec": {"hostAliases": [{"ip": "2"}, {"ip": "1"}],
                "tolerations": [{"key": "b"}]}}),
        ),
        (
            "status conditions merge by type",
            json!({"status": {"conditions": [{"type": "Ready", "status": "False", "reason": "x"}]}}),
            json!({"status": {"$setElementOrder/conditions": [{"type": "Ready"}, {"type": "New"}],
                "conditions": [{"type": "Ready", "status": "True", "reason": null},
                    {"type": "New", "status": "True"}]}}),
            json!({"status": {"conditions": [{"type": "Ready", "status": "True"},
                {"type": "New", "status": "True"}]}}),
        ),
    ];
    for (what, original, patch, expected) in cases {
        assert_eq!(merge(POD, &original, &patch).unwrap(), expected, "{what}");
    }
}

#[test]
fn deployments_services_and_the_rest() {
    let cases = [
        (
            ("apps", "v1", "Deployment"),
            json!({"spec": {"strategy": {"type": "RollingUpdate",
                "rollingUpdate": {"maxSurge": 1}}}}),
            json!({"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}}),
            json!({"spec": {"strategy": {"type": "Recreate"}}}),
        ),
        (
            ("", "v1", "Service"),
            json!({"spec": {"ports": [{"port": 80, "nodePort": 30000}, {"port": 81}],
                "selector": {"a": "b"}}}),
            json!({"spec": {"$setElementOrder/ports": [{"port": 80}],
                "ports": [{"port": 80, "targetPort": 8080}, {"port": 81, "$patch": "delete"}]}}),
            json!({"spec": {"ports": [{"port": 80, "nodePort": 30000, "targetPort": 8080}],
                "selector": {"a": "b"}}}),
        ),
        (
            ("", "v1", "ServiceAccount"),
            json!({"secrets": [{"name": "a"}], "imagePullSecrets": [{"name": "x"}]}),
            json!({"secrets": [{"name": "b"}], "imagePullSecrets": [{"name": "y"}]}),
            json!({"secrets": [{"name": "b"}, {"name": "a"}],
                "imagePullSecrets": [{"name": "y"}]}),
        ),
        (
            ("extensions", "v1beta1", "Deployment"),
            json!({"spec": {"template": {"spec": {"containers": [{"name": "a", "image": "1"}]}}}}),
            json!({"spec": {"template": {"spec": {"containers": [{"name": "a", "image": "2"}]}}}}),
            json!({"spec": {"template": {"spec": {"containers": [{"name": "a", "image": "2"}]}}}}),
        ),
        (
            ("", "v1", "ConfigMap"),
            json!({"data": {"a": "1"}, "metadata": {"annotations": {"x": "y"}}}),
            json!({"data": {"a": null, "b": "2"}, "metadata": {"annotations": null}}),
            json!({"data": {"b": "2"}, "metadata": {}}),
        ),
        (
            ("", "v1", "Node"),
            json!({"spec": {"taints": [{"key": "a"}]},
                "status": {"addresses": [{"type": "Hostname", "address": "h"}]}}),
            json!({"spec": {"taints": null},
                "status": {"addresses": [{"type": "InternalIP", "address": "1"}]}}),
            json!({"spec": {}, "status": {"addresses": [{"type": "InternalIP", "address": "1"},
                {"type": "Hostname", "address": "h"}]}}),
        ),
    ];
    for (kind, original, patch, expected) in cases {
        assert_eq!(merge(kind, &original, &patch).unwrap(), expected, "{patch}");
    }
}

#[test]
fn errors() {
    let original = pod(json!([{"name": "a"}]));
    let cases = [
        (json!("x"), "json: cannot unmarshal string into Go value of type map[string]interface {}"),
        (
            pod(json!([{"image": "x", "tty": true}])),
            "map: map[image:x tty:true] does not contain declared merge key: name",
        ),
        (pod(json!([{"name": "a"}, "b"])), "list element types are not identical"),
        (
            pod(json!([{"name": "a", "$patch": "merge"}])),
            "merging lists cannot yet be specified in the patch",
        ),
        (json!({"spec": {"$patch": "x"}}), "unknown patch type: x in map: {\"$patch\":\"x\"}"),
        (
            json!({"spec": {"$setElementOrder/containers": [{"name": "b"}],
                "containers": [{"name": "a"}]}}),
            "The order in patch list:\n[{\"name\":\"a\"}]\n doesn't match \
             $setElementOrder/containers list:\n[{\"name\":\"b\"}]\n",
        ),
    ];
    for (patch, expected) in cases {
        assert_eq!(merge(POD, &original, &patch).unwrap_err().to_string(), expected, "{patch}");
    }
}

#[test]
fn an_object_is_its_own_patch() {
    let mut random = Random::new(11);
    for entry in crate::schema::kinds() {
        for _ in 0..5 {
            let object = crate::schema::encode::random(entry.message(), &mut random, 0);
            let value = Value::Object(object);
            assert_eq!(strategic_merge(entry.message(), &value, &json!({})).as_ref(), Ok(&value));
            assert_eq!(strategic_merge(entry.message(), &json!({}), &value).as_ref(), Ok(&value));
        }
    }
}

#[test]
fn huge_lists_merge_in_time() {
    let containers = |image: &str| {
        pod((0..20_000).map(|n| json!({"name": format!("c{n}"), "image": image})).collect())
    };
    let merged = merge(POD, &containers("1"), &containers("2")).unwrap();
    assert_eq!(merged, containers("2"));
}

#[test]
fn random_patches_never_panic() {
    let mut random = Random::new(5);
    let pieces = [
        json!(null),
        json!(1),
        json!("a"),
        json!(["a", 1]),
        json!([{"name": "a"}, {"name": "b", "$patch": "delete"}]),
        json!([{"$patch": "replace"}]),
        json!([[1]]),
        json!({"$patch": "replace", "name": "x"}),
        json!({"$patch": 1}),
        json!({"$retainKeys": ["name"], "name": "x"}),
        json!({"name": "a", "$setElementOrder/env": [{"name": "a"}], "env": [{"name": "a"}]}),
    ];
    let names = [
        "containers",
        "$setElementOrder/containers",
        "$deleteFromPrimitiveList/containers",
        "volumes",
        "$retainKeys",
        "$patch",
        "nodeSelector",
        "$setElementOrder/nodeName",
        "unknown",
    ];
    for _ in 0..20_000 {
        let mut object = || {
            let mut spec = serde_json::Map::new();
            for _ in 0..random.below(5) {
                let name = names[random.below(names.len())];
                spec.insert(name.to_owned(), pieces[random.below(pieces.len())].clone());
            }
            json!({"spec": spec})
        };
        let (original, patch) = (object(), object());
        let _ = merge(POD, &original, &patch);
    }
}
