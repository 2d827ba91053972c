//! Images from registries: good ones, private ones, and those that fail, lie, hang or are not there.
#![allow(clippy::unwrap_used, clippy::panic)]

use coracle_integration::registry::{PASSWORD, USER};
use coracle_integration::{Kubectl, Node, NodeOptions, Registry, eventually, privileged, within};

fn pod(name: &str, image: &str, more: &str) -> String {
    format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
  terminationGracePeriodSeconds: 1
  containers: [{{name: main, image: '{image}', command: [sleep, '10000']}}]
  {more}
---
"
    )
}

/// Messages of the events of a pod with one reason.
fn messages(kubectl: &Kubectl, pod: &str, reason: &str) -> Vec<String> {
    let events = kubectl.events(pod, reason).into_iter();
    events.map(|event| event["message"].as_str().unwrap().to_owned()).collect()
}

fn waiting(kubectl: &Kubectl, pod: &str) -> (String, String) {
    let status = kubectl.json(&["pod", pod])["status"]["containerStatuses"][0].clone();
    let waiting = &status["state"]["waiting"];
    let text = |field: &str| waiting[field].as_str().unwrap_or_default().to_owned();
    (text("reason"), text("message"))
}

fn ready(kubectl: &Kubectl, pods: &[&str]) {
    let names: Vec<String> = pods.iter().map(|pod| format!("pod/{pod}")).collect();
    let mut arguments = vec!["wait", "--for=condition=Ready", "--timeout=120s"];
    arguments.extend(names.iter().map(String::as_str));
    kubectl.ok(&arguments);
}

#[test]
fn images_are_pulled() {
    if !privileged() {
        return;
    }
    let node = Node::start_with(NodeOptions {
        arguments: vec!["--registry-mirror=docker.io=http://127.0.0.1:5000".into()],
        without_images: true,
        // Plain HTTP needs none.
        without_certificates: true,
        ..NodeOptions::default()
    });
    let kubectl = node.any_kubectl();
    let registry = Registry::start(&node.ns, 5000);
    registry.push("busybox-latest", "library/busybox", "latest");
    // Another image: one that has several names is reported by any of them.
    registry.push("nginx-1.9.1", "team/app", "v1");

    // From the mirror of docker.io, and from a registry on loopback without further ado.
    let app = "127.0.0.1:5000/team/app";
    kubectl.apply(&(pod("mirrored", "busybox", "") + &pod("direct", &format!("{app}:v1"), "")));
    ready(&kubectl, &["mirrored", "direct"]);
    assert_eq!(messages(&kubectl, "mirrored", "Pulling"), ["Pulling image \"busybox\""]);
    let pulled = kubectl.event("mirrored", "Pulled", "Successfully");
    let rest = pulled.strip_prefix("Successfully pulled image \"busybox\" in ").expect(&pulled);
    let (took, rest) = rest.split_once(" (").expect(&pulled);
    let (waited, rest) = rest.split_once(" including waiting). Image size: ").expect(&pulled);
    assert!(took.ends_with('s') && waited.ends_with('s'), "{pulled}");
    let size: u64 = rest.strip_suffix(" bytes.").and_then(|n| n.parse().ok()).expect(&pulled);
    assert!(size > 1_000_000, "{pulled}");
    let status = kubectl.json(&["pod", "mirrored"])["status"]["containerStatuses"][0].clone();
    assert_eq!(status["image"], "docker.io/library/busybox:latest");
    assert!(
        status["imageID"].as_str().unwrap().starts_with("docker.io/library/busybox@sha256:"),
        "{status}"
    );

    // A tag with a version is not pulled again.
    kubectl.apply(&pod("again", &format!("{app}:v1"), ""));
    ready(&kubectl, &["again"]);
    let present = format!("Container image \"{app}:v1\" already present on machine");
    assert_eq!(messages(&kubectl, "again", "Pulled"), [present]);

    // A tag that is not there: the words of Kubernetes, and a start once it is.
    let missing = format!("{app}:v2");
    kubectl.apply(&pod("missing", &missing, ""));
    let text = kubectl.event("missing", "Failed", "Failed to pull image");
    assert!(text.starts_with(&format!("Failed to pull image \"{missing}\": ")), "{text}");
    assert!(text.ends_with(&format!("{missing}: not found")), "{text}");
    kubectl.event("missing", "Failed", "Error: ErrImagePull");
    kubectl.event("missing", "Failed", "Error: ImagePullBackOff");
    let back_off = format!("Back-off pulling image \"{missing}\"");
    assert_eq!(messages(&kubectl, "missing", "BackOff"), [back_off.as_str()]);
    let (reason, message) = eventually(30, "the wait is shown", || {
        Some(waiting(&kubectl, "missing")).filter(|(reason, _)| reason == "ImagePullBackOff")
    });
    assert_eq!(reason, "ImagePullBackOff");
    assert!(message.starts_with(&format!("{back_off}: ErrImagePull: ")), "{message}");
    registry.push("busybox-latest", "team/app", "v2");
    ready(&kubectl, &["missing"]);

    // No registry: what is present starts at once, and says why it is not newer.
    drop(registry);
    kubectl.apply(&pod("offline", "busybox", ""));
    ready(&kubectl, &["offline"]);
    kubectl.event("offline", "RegistryUnreachable", "No registry could be reached");
    kubectl.ok(&["delete", "pods", "--all", "--timeout=60s"]);
}

#[test]
fn private_registries_want_secrets() {
    if !privileged() {
        return;
    }
    let node = Node::start_with(NodeOptions { without_images: true, ..NodeOptions::default() });
    let kubectl = node.any_kubectl();
    let registry = Registry::start_private(&node.ns, 5000);
    registry.push("busybox-latest", "team/app", "v1");
    let image = format!("{}/team/app:v1", registry.address);
    let secret = |name: &str, password: &str| {
        let server = format!("--docker-server={}", registry.address);
        let (user, password) =
            (format!("--docker-username={USER}"), format!("--docker-password={password}"));
        kubectl.ok(&["create", "secret", "docker-registry", name, &server, &user, &password]);
    };
    secret("right", PASSWORD);
    secret("wrong", "plum");
    let with = |secret: &str| format!("imagePullSecrets: [{{name: {secret}}}]");
    kubectl.apply(
        &[
            pod("anonymous", &image, ""),
            pod("mistaken", &image, &with("wrong")),
            pod("careless", &image, &with("absent")),
            pod("invited", &image, &with("right")),
        ]
        .concat(),
    );
    ready(&kubectl, &["invited"]);
    for refused in ["anonymous", "mistaken", "careless"] {
        let text = kubectl.event(refused, "Failed", "Failed to pull image");
        assert!(text.contains("may require authorization"), "{text}");
    }
    let text = kubectl.event("careless", "FailedToRetrieveImagePullSecret", "absent");
    assert_eq!(
        text,
        "Unable to retrieve some image pull secrets (absent); attempting to pull the image may not \
         succeed."
    );
    // The secret comes later: the next attempt has it.
    secret("absent", PASSWORD);
    ready(&kubectl, &["careless"]);
    // A ServiceAccount's secrets are its pods'.
    let patch = r#"{"imagePullSecrets": [{"name": "right"}]}"#;
    kubectl.ok(&["patch", "serviceaccount", "default", "-p", patch]);
    kubectl.apply(&pod("served", &image, ""));
    ready(&kubectl, &["served"]);
    kubectl.ok(&["delete", "pods", "--all", "--timeout=60s"]);
}

#[test]
fn bad_registries_are_survived() {
    if !privileged() {
        return;
    }
    // Layers that are here are not asked for.
    let node = Node::start_with(NodeOptions { without_images: true, ..NodeOptions::default() });
    node.load_image("busybox-latest");
    let kubectl = node.any_kubectl();
    let registry = Registry::start(&node.ns, 5000);
    let layer = registry.push("nginx-latest", "lies/layer", "v1").pop().unwrap();
    // As long as it should be, and something else.
    registry.spoil(&layer);
    let silent = node.ns.listen("127.0.0.1:5001");
    let hung = std::thread::spawn(move || {
        // Keeps what it accepts open and says nothing.
        let mut held = Vec::new();
        while let Ok((stream, _)) = silent.accept() {
            held.push(stream);
        }
    });
    let images = node.coracle(&["image", "ls"]).output().unwrap().stdout;
    kubectl.apply(
        &[
            pod("hanging", "127.0.0.1:5001/a:v1", ""),
            pod("lying", "127.0.0.1:5000/lies/layer:v1", ""),
            pod("refusing", "127.0.0.1:5999/a:v1", ""),
            pod("healthy", "busybox", "restartPolicy: Never")
                .replace("name: main,", "name: main, imagePullPolicy: IfNotPresent,"),
        ]
        .concat(),
    );
    // Nobody else waits for a registry that hangs.
    ready(&kubectl, &["healthy"]);
    assert!(kubectl.events("hanging", "Failed").is_empty());
    let text = kubectl.event("refusing", "Failed", "Failed to pull image");
    assert!(text.contains("refused"), "{text}");
    let text = kubectl.event("lying", "Failed", "Failed to pull image");
    assert!(text.contains("digest") && text.contains("sha256:"), "{text}");
    // What hangs is given up after a while, and tried again like any other.
    kubectl.event("hanging", "Failed", "Failed to pull image");
    kubectl.event("hanging", "Failed", "ErrImagePull");
    for pod in ["hanging", "lying", "refusing"] {
        let back_off = || waiting(&kubectl, pod).0 == "ImagePullBackOff";
        within(60, "the back-off is shown", back_off);
    }
    // Nothing of a lie is kept.
    assert_eq!(node.coracle(&["image", "ls"]).output().unwrap().stdout, images);
    kubectl.ok(&["delete", "pods", "--all", "--timeout=60s"]);
    let incoming = node.path("data/images/incoming");
    within(60, "no pull leaves anything behind", || {
        std::fs::read_dir(&incoming).unwrap().next().is_none()
    });
    drop(hung);
}
