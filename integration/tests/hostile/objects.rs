//! Hostile objects that the owner of one namespace sends to the API.

use coracle_integration::privileged;
use serde_json::{Value, json};

use crate::tenant::{Ground, TENANT};

#[test]
fn objects_of_a_tenant_leave_the_node_alone() {
    if !privileged() {
        return;
    }
    let ground = Ground::new();
    cluster_scoped_objects_stay_out_of_reach(&ground);
    patches_are_bounded(&ground);
    deep_and_huge_bodies_are_refused(&ground);
    large_applies_end(&ground);
    numbers_and_names_at_their_edges_are_refused(&ground);
    apply_needs_the_right_to_create(&ground);
}

fn cluster_scoped_objects_stay_out_of_reach(ground: &Ground) {
    let volume = json!({
        "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "root"},
        "spec": {
            "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"],
            "hostPath": {"path": "/"},
        },
    });
    let file = ground.path("volume.json");
    std::fs::write(&file, volume.to_string()).unwrap();
    let file = file.display().to_string();
    let core = format!("/api/v1/namespaces/{TENANT}");
    let rbac = format!("/apis/rbac.authorization.k8s.io/v1/namespaces/{TENANT}");
    for (verb, path) in [
        ("get", format!("{core}/persistentvolumes")),
        ("get", format!("{core}/nodes")),
        ("get", format!("{core}/nodes/node/proxy/pods")),
        ("get", format!("{core}/namespaces")),
        ("get", format!("{core}/namespaces/kube-system")),
        ("get", format!("{rbac}/clusterroles")),
        ("get", format!("{rbac}/clusterrolebindings")),
        ("create", format!("{core}/persistentvolumes")),
        ("delete", format!("{core}/namespaces/kube-system")),
        ("delete", format!("{rbac}/clusterroles/cluster-admin")),
    ] {
        let output = match verb {
            "create" => ground.tenant.run(&["create", "--raw", &path, "-f", &file]),
            verb => ground.tenant.run(&[verb, "--raw", &path]),
        };
        assert!(output.code != 0, "{verb} {path}: {}", output.stdout);
        let refused = output.stderr.contains("NotFound") || output.stderr.contains("Forbidden");
        assert!(refused, "{verb} {path}: {}", output.stderr);
    }
    assert_eq!(ground.admin.ok(&["get", "persistentvolumes", "--output=name"]), "");
    ground.is_sound("cluster-scoped objects under the URL of a namespace");
}

/// Patches the ConfigMap `target` and returns the error text.
fn refused_patch(ground: &Ground, patch: &Value) -> String {
    let file = ground.path("patch.json");
    std::fs::write(&file, patch.to_string()).unwrap();
    let before = ground.tenant.json(&["configmap", "target"]);
    let file = format!("--patch-file={}", file.display());
    let output = ground.tenant.run(&["patch", "configmap", "target", "--type=json", &file]);
    assert!(output.code != 0, "{}", output.stdout);
    assert_eq!(ground.tenant.json(&["configmap", "target"]), before);
    output.stderr
}

fn patches_are_bounded(ground: &Ground) {
    ground.create(&json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "target"},
        "data": {"a": "x".repeat(60)},
    }));
    // Each copy doubles the size.
    let mut copies: Vec<Value> = (0..40)
        .map(|n| json!({"op": "copy", "from": "/data", "path": format!("/data/k{n}")}))
        .collect();
    copies.push(json!({"op": "replace", "path": "/data", "value": {"a": "small"}}));
    refused_patch(ground, &json!(copies));
    ground.is_sound("a JSON patch that copies without end");

    // Each copy doubles the depth.
    let mut operations = vec![json!({"op": "add", "path": "/x", "value": {"a": {}}})];
    for level in 0..16 {
        let path = format!("/x{}", "/a".repeat(1 << level));
        operations.push(json!({"op": "copy", "from": "/x", "path": path}));
    }
    operations.push(json!({"op": "remove", "path": "/x"}));
    refused_patch(ground, &json!(operations));
    ground.is_sound("a JSON patch that makes a deep object");

    let many: Vec<Value> =
        (0..20_000).map(|_| json!({"op": "test", "path": "/kind", "value": "ConfigMap"})).collect();
    refused_patch(ground, &json!(many));
    ground.is_sound("a JSON patch of many operations");
}

fn deep_and_huge_bodies_are_refused(ground: &Ground) {
    let path = format!("/api/v1/namespaces/{TENANT}/configmaps");
    let nested = |open: &str, close: &str, levels: usize| {
        format!(
            "{{\"apiVersion\":\"v1\",\"kind\":\"ConfigMap\",\"metadata\":{{\"name\":\"deep\"}},\"x\":{}1{}}}",
            open.repeat(levels),
            close.repeat(levels)
        )
    };
    for (what, body) in [
        ("arrays in arrays", nested("[", "]", 100_000)),
        ("objects in objects", nested("{\"a\":", "}", 100_000)),
        ("4 MiB", format!("{{\"kind\":\"ConfigMap\",\"x\":\"{}\"}}", "y".repeat(4 << 20))),
        ("no JSON", "\u{fffd}".repeat(100_000)),
    ] {
        let file = ground.path("body.json");
        std::fs::write(&file, body).unwrap();
        let file = file.display().to_string();
        let output = ground.tenant.run(&["create", "--raw", &path, "-f", &file]);
        assert!(output.code != 0, "{what}: {}", output.stdout);
        ground.is_sound(what);
    }
}

/// Lists of many entries with keys, applied by two managers.
fn large_applies_end(ground: &Ground) {
    let ports: Vec<Value> = (1..=30_000)
        .map(|n| json!({"name": format!("p{n}"), "containerPort": n, "protocol": "TCP"}))
        .collect();
    let pod = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "ports"},
        "spec": {
            "replicas": 0, "selector": {"matchLabels": {"a": "b"}},
            "template": {
                "metadata": {"labels": {"a": "b"}},
                "spec": {"containers": [{"name": "c", "image": "busybox", "ports": ports}]},
            },
        },
    });
    let file = ground.path("apply.json");
    std::fs::write(&file, pod.to_string()).unwrap();
    let file = file.display().to_string();
    for manager in ["one", "two"] {
        let manager = format!("--field-manager={manager}");
        let timeout = "--request-timeout=60s";
        let applied =
            ground.tenant.run(&["apply", "--server-side", &manager, timeout, "-f", &file]);
        // It is too large once it has managers, or stored: both are answers.
        let answered = applied.code == 0 || !applied.stderr.contains("context deadline exceeded");
        assert!(answered, "{}", applied.stderr);
        ground.is_sound("a large server-side apply");
    }
    ground.tenant.run(&["delete", "deployment", "ports", "--ignore-not-found"]);
}

fn numbers_and_names_at_their_edges_are_refused(ground: &Ground) {
    let name = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"generateName": "é-"},
    });
    let output = ground.tenant.run_with_input(&["create", "-f", "-"], &name.to_string());
    assert!(output.stderr.contains("Invalid value"), "{}", output.stderr);
    let path = format!("/api/v1/namespaces/{TENANT}/configmaps");
    for query in [
        "watch=true&timeoutSeconds=9223372036854775807",
        "limit=9223372036854775807",
        "limit=-9223372036854775808",
        "resourceVersion=18446744073709551616",
        "continue=%ff%fe",
        "labelSelector=%00",
    ] {
        let path = format!("{path}?{query}");
        // A watch goes on for as long as it may: only a server error is wrong.
        let output = ground.tenant.run(&["get", "--raw", &path, "--request-timeout=2s"]);
        assert!(!output.stderr.contains("InternalError"), "{query}: {}", output.stderr);
    }
    ground.is_sound("numbers and names at their edges");
}

fn apply_needs_the_right_to_create(ground: &Ground) {
    let role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "patcher"},
        "rules": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["patch", "get"]}],
    });
    ground.create(&role);
    ground.tenant.ok(&["create", "serviceaccount", "patcher"]);
    let subject = format!("--serviceaccount={TENANT}:patcher");
    ground.tenant.ok(&["create", "rolebinding", "patcher", "--role=patcher", &subject]);
    let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "made"}});
    let user = format!("--as=system:serviceaccount:{TENANT}:patcher");
    let arguments = ["--namespace", TENANT, &user, "apply", "--server-side", "-f", "-"];
    let output = ground.admin.run_with_input(&arguments, &object.to_string());
    assert!(output.stderr.contains("Forbidden"), "{}{}", output.stdout, output.stderr);
    ground.is_sound("an apply without the right to create");
}
