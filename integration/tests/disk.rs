//! A disk that is full or broken, and one that fills up.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

use coracle_integration::{
    Api, Node, NodeOptions, Random, Registry, eventually, privileged, within,
};
use serde_json::{Value, json};

const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// Takes all of the disk but `left` bytes, at once.
fn fill(path: &Path, left: u64) {
    let file = File::create(path).unwrap();
    let disk = nix::sys::statvfs::statvfs(path).unwrap();
    let free = disk.blocks_available() * disk.fragment_size();
    let mut wanted = free.saturating_sub(left);
    // Somebody else may have taken some meanwhile.
    while nix::fcntl::posix_fallocate(&file, 0, i64::try_from(wanted).unwrap()).is_err() {
        wanted -= 4096;
    }
}

/// The ConfigMaps of these tests by name, with all that they contain.
fn config_maps(api: &Api) -> BTreeMap<String, Value> {
    let list = api.get(CONFIG_MAPS);
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let all = list.items().iter().map(|o| (text(&o["metadata"]["name"]), o["data"].clone()));
    all.filter(|(name, _)| name != "kube-root-ca.crt").collect()
}

/// Text of which no two places look alike.
fn random_text(random: &mut Random, bytes: usize) -> String {
    (0..bytes).map(|_| char::from(b'!' + random.below(94) as u8)).collect()
}

#[test]
fn a_full_disk_loses_nothing() {
    if !privileged() {
        return;
    }
    let mut node = Node::start_with(NodeOptions {
        arguments: ["--eviction-hard=", "--image-gc-high-threshold=100"].map(Into::into).into(),
        without_images: true,
        disk: Some("48m"),
        ..NodeOptions::default()
    });
    node.load_image("busybox-latest");
    let (kubectl, api) = (node.any_kubectl(), Api::of(&node));
    let registry = Registry::start(&node.ns, 5000);
    registry.push("nginx-latest", "nginx", "v1");
    kubectl.ok(&[
        "run",
        "steady",
        "--image=busybox",
        "--image-pull-policy=IfNotPresent",
        "--command",
        "--",
        "sleep",
        "10000",
    ]);
    kubectl.ok(&["wait", "--for=condition=Ready", "pod/steady", "--timeout=60s"]);

    let mut acknowledged = BTreeMap::new();
    let mut number = 0;
    let mut random = Random::new(Random::seed());
    let mut create = |acknowledged: &mut BTreeMap<String, Value>| {
        number += 1;
        let name = format!("m{number}");
        let data = json!({"v": random_text(&mut random, 200_000)});
        let object = json!({"metadata": {"name": name}, "data": data});
        let reply = api.request("POST", CONFIG_MAPS, Some(&object));
        if reply.ok() {
            acknowledged.insert(name, data);
        }
        reply
    };
    for _ in 0..3 {
        assert!(create(&mut acknowledged).ok());
    }
    let filler = node.path("disk/filler");
    fill(&filler, 0);
    let refused = (0..60).map(|_| create(&mut acknowledged)).find(|reply| !reply.ok());
    let refused = refused.expect("a full disk takes no writes for ever");
    assert_eq!(refused.code, 507, "{refused:?}");
    assert_eq!(refused.body["kind"], "Status");
    assert_eq!(refused.body["reason"], "InsufficientStorage");
    let message = refused.body["message"].as_str().unwrap();
    assert!(message.contains("the disk is full"), "{message}");
    // Reads go on, and so do pods.
    assert_eq!(config_maps(&api), acknowledged);
    kubectl.ok(&["exec", "steady", "--", "true"]);
    // A start needs no room, after a kill and after an orderly end, again and again.
    for _ in 0..3 {
        node.kill_agent();
        node.up();
        assert_eq!(config_maps(&api), acknowledged);
    }
    node.stop_agent();
    node.up();
    assert_eq!(config_maps(&api), acknowledged);
    node.kill_agent();

    // Room for a little: the node works, a pull still fails, and says why.
    fill(&filler, 6 << 20);
    node.up();
    assert_eq!(config_maps(&api), acknowledged);
    kubectl.apply(
        "{apiVersion: v1, kind: Pod, metadata: {name: big}, spec: {containers: [
            {name: main, image: '127.0.0.1:5000/nginx:v1', command: [sleep, '10000']}]}}",
    );
    kubectl.event("big", "Failed", "No space left on device");
    std::fs::remove_file(&filler).unwrap();
    // Space again: writes and pulls work without a restart.
    assert!(create(&mut acknowledged).ok());
    assert_eq!(api.request("GET", "/readyz", None).code, 200);
    kubectl.ok(&["wait", "--for=condition=Ready", "pod/big", "--timeout=180s"]);
    assert_eq!(
        kubectl.jsonpath(&["pod", "steady"], "{.status.containerStatuses[0].restartCount}"),
        "0"
    );
    node.kill_agent();
    node.up();
    assert_eq!(config_maps(&api), acknowledged);
}

#[test]
fn full_store_refuses_growth_and_says_so() {
    if !privileged() {
        return;
    }
    let node = Node::start_with(NodeOptions {
        arguments: vec!["--store-max-size=6Mi".into()],
        without_images: true,
        ..NodeOptions::default()
    });
    let (kubectl, api) = (node.any_kubectl(), Api::of(&node));
    let mut random = Random::new(Random::seed());
    let mut fill = |namespace: &str| {
        let path = format!("/api/v1/namespaces/{namespace}/configmaps");
        (0..60).find_map(|number| {
            let value = random_text(&mut random, 200_000);
            let object = json!({"metadata": {"name": format!("m{number}")}, "data": {"v": value}});
            let reply = api.request("POST", &path, Some(&object));
            (!reply.ok()).then_some(reply)
        })
    };
    for namespace in ["default", "other", "third"] {
        if namespace != "default" {
            // One namespace leaves room for others.
            kubectl.ok(&["create", "namespace", namespace]);
        }
        let refused = fill(namespace).expect("the store takes objects for ever");
        assert_eq!((refused.code, &refused.body["kind"]), (507, &json!("Status")), "{refused:?}");
        assert_eq!(refused.body["reason"], "InsufficientStorage");
        let message = refused.body["message"].as_str().unwrap();
        assert!(message.contains("etcdserver: mvcc: database space exceeded"), "{message}");
        if namespace == "other" {
            kubectl.event("node", "StoreAlmostFull", "80%");
        }
    }
    // What is stored can be changed a little and removed, and then there is room.
    kubectl.ok(&["label", "configmap", "m0", "small=change"]);
    kubectl.ok(&["delete", "configmaps", "--all"]);
    let object = json!({"metadata": {"name": "again"}, "data": {"v": random_text(&mut Random::new(7), 200_000)}});
    assert!(api.request("POST", CONFIG_MAPS, Some(&object)).ok());
    kubectl.ok(&["delete", "namespace", "other", "third"]);
}

#[test]
fn a_first_start_on_a_full_disk_says_so() {
    if !privileged() {
        return;
    }
    let mut node = Node::prepare(NodeOptions {
        without_images: true,
        disk: Some("8m"),
        ..NodeOptions::default()
    });
    let filler = node.path("disk/filler");
    fill(&filler, 0);
    let said = node.up_fails();
    assert!(said.contains("is full"), "{said}");
    std::fs::remove_file(&filler).unwrap();
    node.up();
    assert_eq!(Api::of(&node).get("/readyz").code, 200);
}

#[test]
fn a_broken_state_file_is_refused_with_advice() {
    if !privileged() {
        return;
    }
    let mut node = Node::start_with(NodeOptions { without_images: true, ..NodeOptions::default() });
    let api = Api::of(&node);
    // The damage below looks for a run of one letter.
    let mut random = Random::new(Random::seed());
    for number in 0..20 {
        let value = random_text(&mut random, 50_000) + &"x".repeat(60);
        let object = json!({"metadata": {"name": format!("m{number}")}, "data": {"v": value}});
        assert!(api.request("POST", CONFIG_MAPS, Some(&object)).ok());
    }
    let before = config_maps(&api);
    node.stop_agent();
    let path = node.data().join("state.redb");
    let good = std::fs::read(&path).unwrap();
    type Damage = fn(&mut Vec<u8>);
    let damages: [(&str, Damage); 4] = [
        ("not a database", |bytes| bytes[..4096].fill(b'?')),
        ("cut short", |bytes| bytes.truncate(bytes.len() / 2)),
        ("a hole", |bytes| {
            let third = bytes.len() / 3;
            bytes[third..2 * third].fill(0);
        }),
        ("a few bytes of an object", |bytes| {
            let at = bytes.windows(40).position(|w| w.iter().all(|b| *b == b'x')).unwrap();
            bytes[at - 20..at].fill(b'"');
        }),
    ];
    for (what, damage) in damages {
        let mut bytes = good.clone();
        damage(&mut bytes);
        std::fs::write(&path, bytes).unwrap();
        let said = node.up_fails();
        assert!(said.contains("state.redb is damaged"), "{what}: {said}");
        assert!(said.contains("mv ") && said.contains("backup"), "{what}: {said}");
    }
    std::fs::write(&path, good).unwrap();
    node.up();
    assert_eq!(config_maps(&api), before);
}

#[test]
fn a_disk_that_fills_up_costs_images_then_pods() {
    if !privileged() {
        return;
    }
    let arguments = [
        "--eviction-hard=nodefs.available<35%",
        "--eviction-pressure-transition-period=20",
        "--image-gc-minimum-age=0",
        "--image-gc-high-threshold=100",
    ];
    let node = Node::start_with(NodeOptions {
        arguments: arguments.map(Into::into).into(),
        disk: Some("200m"),
        ..NodeOptions::default()
    });
    let kubectl = node.any_kubectl();
    let pod = |name: &str, command: &str| {
        format!(
            "apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
  terminationGracePeriodSeconds: 1
  volumes: [{{name: scratch, emptyDir: {{}}}}]
  containers:
  - {{name: main, image: busybox, imagePullPolicy: IfNotPresent, command: [sh, -c, '{command}'],
     volumeMounts: [{{name: scratch, mountPath: /scratch}}]}}
---
"
        )
    };
    let hog = "head -c 45000000 /dev/zero > /scratch/file; sleep 10000";
    kubectl.apply(&(pod("hog", hog) + &pod("modest", "sleep 10000")));
    kubectl.ok(&["wait", "--for=condition=Ready", "pod/hog", "pod/modest", "--timeout=60s"]);
    within(30, "the hog has written", || {
        kubectl
            .run(&["exec", "hog", "--", "sh", "-c", "test $(wc -c </scratch/file) = 45000000"])
            .code
            == 0
    });
    let images =
        || String::from_utf8(node.coracle(&["image", "ls"]).output().unwrap().stdout).unwrap();
    assert!(images().contains("nginx"));
    fill(&node.path("disk/filler"), 5 << 20);

    let condition = |kind: &str| {
        kubectl.jsonpath(
            &["node", "node"],
            &format!("{{.status.conditions[?(@.type=='{kind}')].status}}"),
        )
    };
    let taints = || kubectl.jsonpath(&["node", "node"], "{.spec.taints[*].key}");
    within(60, "the node reports its shortage", || condition("DiskPressure") == "True");
    let taint = "node.kubernetes.io/disk-pressure";
    within(30, "the node is tainted", || taints().contains(taint));
    kubectl.apply(&pod("late", "sleep 10000"));
    let status = eventually(90, "the hog is evicted", || {
        let status = kubectl.json(&["pod", "hog"])["status"].clone();
        (status["phase"] == "Failed").then_some(status)
    });
    assert_eq!(status["reason"], "Evicted", "{status}");
    let message = status["message"].as_str().unwrap();
    let low = "The node was low on resource: ephemeral-storage. Threshold quantity: ";
    assert!(message.starts_with(low), "{message}");
    let target =
        status["conditions"].as_array().unwrap().iter().find(|c| c["type"] == "DisruptionTarget");
    assert_eq!(target.unwrap()["reason"], "TerminationByKubelet", "{status}");
    kubectl.event("hog", "Evicted", low);
    kubectl.event("node", "EvictionThresholdMet", "Attempting to reclaim ephemeral-storage");
    kubectl.event("node", "NodeHasDiskPressure", "Node node status is now: NodeHasDiskPressure");
    // Images that nobody used went first; those in use stayed, and so did the modest pod.
    assert!(!images().contains("nginx"), "{}", images());
    assert!(images().contains("busybox"));
    within(120, "the shortage is over", || condition("DiskPressure") == "False");
    within(30, "the taint goes", || !taints().contains(taint));
    kubectl.ok(&["wait", "--for=condition=Ready", "pod/late", "--timeout=60s"]);
    let restarts = "{.status.phase} {.status.containerStatuses[0].restartCount}";
    assert_eq!(kubectl.jsonpath(&["pod", "modest"], restarts), "Running 0");
    kubectl.ok(&["delete", "pods", "--all", "--timeout=60s"]);
}

#[test]
fn abandoned_pulls_go_before_images_and_pods() {
    if !privileged() {
        return;
    }
    let arguments = [
        "--eviction-hard=nodefs.available<35%",
        "--eviction-pressure-transition-period=5",
        "--image-gc-minimum-age=0",
        "--image-gc-high-threshold=100",
    ];
    let node = Node::start_with(NodeOptions {
        arguments: arguments.map(Into::into).into(),
        disk: Some("200m"),
        ..NodeOptions::default()
    });
    let kubectl = node.any_kubectl();
    let run = ["run", "steady", "--image=busybox", "--image-pull-policy=IfNotPresent", "--command"];
    kubectl.ok(&[&run[..], &["--", "sleep", "10000"]].concat());
    kubectl.ok(&["wait", "--for=condition=Ready", "pod/steady", "--timeout=60s"]);
    let images = || node.coracle(&["image", "ls"]).output().unwrap().stdout;
    let before = images();
    // As a pull leaves it that was killed together with its node: no process has this ID and start.
    let abandoned = node.data().join("images/incoming/1-0-abandoned");
    std::fs::create_dir_all(abandoned.join("layer")).unwrap();
    fill(&abandoned.join("layer/file"), 5 << 20);
    within(60, "the abandoned pull is removed", || !abandoned.exists());
    std::thread::sleep(std::time::Duration::from_secs(12));
    assert_eq!(images(), before);
    let restarts = "{.status.phase} {.status.containerStatuses[0].restartCount}";
    assert_eq!(kubectl.jsonpath(&["pod", "steady"], restarts), "Running 0");
    kubectl.ok(&["delete", "pods", "--all", "--timeout=60s"]);
}
