//! Pods whose objects and files cost the kubelet more than they should.

use std::os::fd::OwnedFd;
use std::path::Path;

use coracle_integration::{eventually, privileged, within};
use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::{Mode, mkdirat};
use serde_json::json;

use crate::tenant::Ground;

/// Levels of the directory tree in a volume: many more than the node may have open files.
const LEVELS: usize = 10_000;

#[test]
fn pods_of_a_tenant_leave_the_node_alone() {
    if !privileged() {
        return;
    }
    let mut ground = Ground::new();
    variables_that_double_are_bounded(&ground);
    patterns_of_pull_secrets_are_matched_in_time(&ground);
    files_of_the_kubelet_may_grow_in_the_container(&ground);
    output_without_lines_is_bounded(&ground);
    deep_trees_are_removed(&mut ground);
}

fn variables_that_double_are_bounded(ground: &Ground) {
    let mut env = vec![json!({"name": "A0", "value": "x".repeat(64)})];
    for n in 1..30 {
        let before = n - 1;
        env.push(json!({"name": format!("A{n}"), "value": format!("$(A{before})$(A{before})")}));
    }
    let restricted = json!({
        "securityContext": {
            "runAsNonRoot": true, "runAsUser": 1001, "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [{
            "name": "main", "image": "busybox", "imagePullPolicy": "IfNotPresent",
            "command": ["sleep", "1000"], "env": env,
            "securityContext": {
                "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]},
            },
        }],
    });
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "laugh"}, "spec": restricted,
    });
    ground.create(&pod);
    let message = ground.waits("laugh", "CreateContainerConfigError");
    assert!(!message.is_empty());
    ground.is_sound("variables that double");
    ground.delete("laugh");
}

fn patterns_of_pull_secrets_are_matched_in_time(ground: &Ground) {
    let config = json!({"auths": {
        format!("{}b:5000", "*a".repeat(16)): {"username": "u", "password": "p"},
    }});
    ground.create(&json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "pattern"},
        "type": "kubernetes.io/dockerconfigjson",
        "stringData": {".dockerconfigjson": config.to_string()},
    }));
    for n in 0..2 {
        ground.create(&json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": format!("pattern-{n}")},
            "spec": {
                "imagePullSecrets": [{"name": "pattern"}],
                "containers": [{"name": "main", "image": format!("{}:5000/x:{n}", "a".repeat(55))}],
            },
        }));
    }
    for n in 0..2 {
        let name = format!("pattern-{n}");
        within(60, "the pull fails", || {
            let pod = ground.tenant.json(&["pod", &name]);
            let reason = &pod["status"]["containerStatuses"][0]["state"]["waiting"]["reason"];
            reason == "ErrImagePull" || reason == "ImagePullBackOff"
        });
        ground.is_sound("a pattern that takes exponential time");
        ground.delete(&name);
    }
}

/// The files that the kubelet writes for a container or reads back from it.
fn files_of_the_kubelet_may_grow_in_the_container(ground: &Ground) {
    let script = "for f in /etc/hosts /etc/resolv.conf /etc/hostname /dev/termination-log; do \
                  truncate -s 3G $f; done; exit 1";
    ground.pod("grow", script, json!({}));
    // The second start has read them back.
    eventually(90, "the container restarts", || {
        let pod = ground.tenant.json(&["pod", "grow"]);
        let restarts = pod["status"]["containerStatuses"][0]["restartCount"].as_u64()?;
        (restarts >= 2).then_some(())
    });
    ground.is_sound("files of the kubelet that grow");
    ground.delete("grow");
}

fn output_without_lines_is_bounded(ground: &Ground) {
    let never = json!({"restartPolicy": "Never"});
    ground.pod("loud", "head -c 67108864 /dev/zero | tr '\\0' x", never);
    within(120, "the output ends", || {
        ground.tenant.jsonpath(&["pod", "loud"], "{.status.phase}") == "Succeeded"
    });
    let tail = ground.tenant.ok(&["logs", "loud", "--tail=1", "--limit-bytes=1000"]);
    assert_eq!(tail, "x".repeat(tail.len()));
    ground.is_sound("64 MiB without the end of a line");
    ground.delete("loud");
}

/// The tree is made from outside: no shell goes so deep.
fn deep_trees_are_removed(ground: &mut Ground) {
    let volume = json!({
        "containers": [{
            "name": "main", "image": "busybox", "imagePullPolicy": "IfNotPresent",
            "command": ["sh", "-c", "trap 'exit 0' TERM; while :; do sleep 0.1; done"],
            "volumeMounts": [{"name": "v", "mountPath": "/v"}],
        }],
        "volumes": [{"name": "v", "emptyDir": {}}],
    });
    ground.pod("deep", "trap 'exit 0' TERM; while :; do sleep 0.1; done", volume);
    ground.tenant.ready("deep");
    ground.tenant.ok(&["exec", "deep", "--", "touch", "/v/here"]);
    let uid = ground.tenant.jsonpath(&["pod", "deep"], "{.metadata.uid}");
    let pod = ground.node.data().join("pods").join(uid);
    dig(&find(&pod, "here").expect("the volume is in the pod's directory"));
    ground.delete("deep");
    within(60, "the pod's directory is gone", || !pod.exists());
    ground.is_sound("a tree of 10,000 levels");
}

/// The directory below `top` that holds `name`.
fn find(top: &Path, name: &str) -> Option<std::path::PathBuf> {
    if top.join(name).exists() {
        return Some(top.to_owned());
    }
    let entries = std::fs::read_dir(top).ok()?.flatten();
    entries.map(|e| e.path()).filter(|p| p.is_dir()).find_map(|p| find(&p, name))
}

fn dig(top: &Path) {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let mut at: OwnedFd = open(top, flags, Mode::empty()).unwrap();
    for _ in 0..LEVELS {
        mkdirat(&at, c"d", Mode::S_IRWXU).unwrap();
        at = openat(&at, c"d", flags, Mode::empty()).unwrap();
    }
}
