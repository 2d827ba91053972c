//! STORY step 16's Persistent Volumes: claims, volumes and classes, with an old and a new kubectl.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::path::PathBuf;

use coracle_integration::{Kubectl, Node, eventually, with_old_and_new_kubectl, within};

fn claim(name: &str, class: &str) -> String {
    format!(
        "apiVersion: v1
kind: PersistentVolumeClaim
metadata: {{name: {name}}}
spec:
  accessModes: [ReadWriteOnce]
  {class}
  resources: {{requests: {{storage: 10Mi}}}}
"
    )
}

fn pod(name: &str, claim: &str, script: &str) -> String {
    format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: busybox
    imagePullPolicy: IfNotPresent
    command: [sh, -c, '{script}']
    volumeMounts: [{{name: data, mountPath: /data}}]
  volumes: [{{name: data, persistentVolumeClaim: {{claimName: {claim}}}}}]
"
    )
}

fn phase(kubectl: &Kubectl, what: &[&str]) -> String {
    kubectl.jsonpath(what, "{.status.phase}")
}

fn ends(kubectl: &Kubectl, name: &str) {
    within(60, "the pod ends well", || {
        let phase = phase(kubectl, &["pod", name]);
        assert_ne!(phase, "Failed", "{}", kubectl.run(&["logs", name]).stdout);
        phase == "Succeeded"
    });
}

fn directories(node: &Node) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(node.path("data/volumes")).into_iter().flatten();
    entries.map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn a_claim_gets_a_directory_where_its_pod_runs() {
    with_old_and_new_kubectl(|node, kubectl| {
        let classes = kubectl.ok(&["get", "storageclasses"]);
        let row: Vec<&str> = classes.lines().nth(1).unwrap().split_whitespace().collect();
        assert_eq!(
            row[..6],
            [
                "local-path",
                "(default)",
                "coracle/local-path",
                "Delete",
                "WaitForFirstConsumer",
                "false"
            ]
        );
        kubectl.apply(&claim("data", ""));
        let waits = "waiting for first consumer to be created before binding";
        kubectl.event("PersistentVolumeClaim/data", "WaitForFirstConsumer", waits);
        assert_eq!(phase(kubectl, &["pvc", "data"]), "Pending");
        assert_eq!(kubectl.jsonpath(&["pvc", "data"], "{.spec.storageClassName}"), "local-path");
        kubectl.apply(&pod("writer", "data", "echo kept > /data/file"));
        ends(kubectl, "writer");
        assert_eq!(phase(kubectl, &["pvc", "data"]), "Bound");
        let volume = kubectl.jsonpath(&["pvc", "data"], "{.spec.volumeName}");
        let succeeded = format!("Successfully provisioned volume {volume}");
        kubectl.event("PersistentVolumeClaim/data", "ProvisioningSucceeded", &succeeded);
        let selected = r"{.metadata.annotations.volume\.kubernetes\.io/selected-node}";
        assert_eq!(kubectl.jsonpath(&["pvc", "data"], selected), "node");
        let table = kubectl.ok(&["get", "pv", &volume]);
        let row: Vec<&str> = table.lines().nth(1).unwrap().split_whitespace().collect();
        assert_eq!(row[1..5], ["10Mi", "RWO", "Delete", "Bound"], "{table}");

        // The data is there for the next pod, also for one that is not root.
        let script = "cat /data/file && touch /data/mine";
        let other = pod("reader", "data", script)
            .replace("spec:\n", "spec:\n  securityContext: {runAsUser: 1000}\n");
        kubectl.apply(&other);
        ends(kubectl, "reader");
        assert_eq!(kubectl.ok(&["logs", "reader"]), "kept\n");

        // It cannot grow, and it stays while a pod uses it.
        let grow = r#"{"spec":{"resources":{"requests":{"storage":"20Mi"}}}}"#;
        let refused = kubectl.fails(&["patch", "pvc", "data", "-p", grow]);
        assert!(
            refused.contains(
                "persistentvolumeclaims \"data\" is forbidden: only dynamically provisioned pvc \
                 can be resized and the storageclass that provisions the pvc must support resize"
            ),
            "{refused}"
        );
        kubectl.ok(&["delete", "pvc", "data", "--wait=false"]);
        let table = kubectl.ok(&["get", "pvc", "data"]);
        assert!(table.contains("Terminating"), "{table}");
        assert_eq!(directories(node).len(), 1);
        kubectl.ok(&["delete", "pod", "writer", "reader"]);
        within(30, "claim, volume and directory are gone", || {
            kubectl.run(&["get", "pvc", "data"]).code != 0
                && kubectl.run(&["get", "pv", &volume]).code != 0
                && directories(node).is_empty()
        });
    });
}

#[test]
fn volumes_made_by_hand_are_matched_released_and_kept() {
    with_old_and_new_kubectl(|node, kubectl| {
        let prefix = format!("hand-{}", kubectl.version.replace('.', "-"));
        let volume = |name: &str, size: &str, labels: &str| {
            let path = node.path(&format!("{prefix}-{name}"));
            std::fs::create_dir_all(&path).unwrap();
            kubectl.apply(&format!(
                "apiVersion: v1
kind: PersistentVolume
metadata: {{name: {prefix}-{name}, labels: {{{labels}}}}}
spec:
  capacity: {{storage: {size}}}
  accessModes: [ReadWriteOnce]
  storageClassName: {prefix}
  hostPath: {{path: {}}}
",
                path.display()
            ));
        };
        let full = |name: &str| format!("{prefix}-{name}");
        volume("small", "5Mi", "");
        volume("large", "50Mi", "");
        volume("right", "20Mi", "");
        volume("ssd", "90Mi", "disk: ssd");
        within(20, "they are available", || phase(kubectl, &["pv", &full("small")]) == "Available");
        let class = format!("storageClassName: {prefix}");
        kubectl.apply(&claim("data", &class));
        within(20, "the claim is bound", || phase(kubectl, &["pvc", "data"]) == "Bound");
        assert_eq!(kubectl.jsonpath(&["pvc", "data"], "{.spec.volumeName}"), full("right"));
        assert_eq!(kubectl.jsonpath(&["pvc", "data"], "{.status.capacity.storage}"), "20Mi");
        let fast = claim("fast", &format!("{class}\n  selector: {{matchLabels: {{disk: ssd}}}}"));
        kubectl.apply(&fast);
        let named = claim("named", &format!("{class}\n  volumeName: {}", full("large")));
        kubectl.apply(&named);
        for (claim, volume) in [("fast", "ssd"), ("named", "large")] {
            within(20, "it is bound too", || phase(kubectl, &["pvc", claim]) == "Bound");
            let bound = kubectl.jsonpath(&["pvc", claim], "{.spec.volumeName}");
            assert_eq!(bound, full(volume));
        }
        kubectl.apply(&pod("writer", "data", "echo kept > /data/file"));
        ends(kubectl, "writer");
        kubectl.ok(&["delete", "pod", "writer"]);

        // Released with its data; free again when the administrator says so.
        kubectl.ok(&["delete", "pvc", "data"]);
        let right = full("right");
        within(20, "it is released", || phase(kubectl, &["pv", &right]) == "Released");
        let path = node.path(&right);
        assert_eq!(std::fs::read_to_string(path.join("file")).unwrap(), "kept\n");
        kubectl.ok(&["patch", "pv", &right, "-p", r#"{"spec":{"claimRef":null}}"#]);
        within(20, "it is available", || phase(kubectl, &["pv", &right]) == "Available");
        // A volume in use stays until its claim is gone.
        kubectl.ok(&["delete", "pv", &full("ssd"), "--wait=false"]);
        let table = kubectl.ok(&["get", "pv", &full("ssd")]);
        assert!(table.contains("Terminating"), "{table}");
        kubectl.ok(&["delete", "pvc", "fast", "named"]);
        within(20, "it goes", || kubectl.run(&["get", "pv", &full("ssd")]).code != 0);
        kubectl.ok(&["delete", "pv", &full("small"), &full("large"), &right]);
        assert!(path.join("file").exists(), "data that nobody asked to remove is gone");
    });
}

#[test]
fn unbound_claims_say_why_and_what_they_keep_waiting() {
    with_old_and_new_kubectl(|node, kubectl| {
        let prefix = format!("now-{}", kubectl.version.replace('.', "-"));
        // No class at all: nothing is made, and the pod says so.
        kubectl.apply(&claim("none", "storageClassName: ''"));
        kubectl.apply(&pod("waiter", "none", "echo done > /data/file"));
        let why = "no persistent volumes available for this claim and no storage class is set";
        kubectl.event("PersistentVolumeClaim/none", "FailedBinding", why);
        let why = "0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims. \
                   preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.";
        kubectl.event("Pod/waiter", "FailedScheduling", why);
        let why = "persistentvolumeclaim \"absent\" not found";
        kubectl.apply(&pod("hopeless", "absent", "true"));
        kubectl.event("Pod/hopeless", "FailedScheduling", why);
        let unknown = claim("unknown", "storageClassName: no-such-class");
        kubectl.apply(&unknown);
        let why = "storageclass.storage.k8s.io \"no-such-class\" not found";
        kubectl.event("PersistentVolumeClaim/unknown", "ProvisioningFailed", why);

        // The volume comes, and everything goes on by itself.
        let path = node.path(&prefix);
        std::fs::create_dir_all(&path).unwrap();
        kubectl.apply(&format!(
            "apiVersion: v1
kind: PersistentVolume
metadata: {{name: {prefix}}}
spec:
  capacity: {{storage: 10Mi}}
  accessModes: [ReadWriteOnce]
  hostPath: {{path: {}}}
",
            path.display()
        ));
        ends(kubectl, "waiter");
        assert!(path.join("file").exists());

        // A class that does not wait, keeps its volumes and lets them grow.
        kubectl.apply(&format!(
            "apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {{name: {prefix}}}
provisioner: coracle/local-path
reclaimPolicy: Retain
allowVolumeExpansion: true
"
        ));
        kubectl.apply(&claim("data", &format!("storageClassName: {prefix}")));
        within(20, "bound without a pod", || phase(kubectl, &["pvc", "data"]) == "Bound");
        let grow = r#"{"spec":{"resources":{"requests":{"storage":"20Mi"}}}}"#;
        kubectl.ok(&["patch", "pvc", "data", "-p", grow]);
        within(20, "it has grown", || {
            kubectl.jsonpath(&["pvc", "data"], "{.status.capacity.storage}") == "20Mi"
        });
        kubectl.apply(&pod("writer", "data", "echo kept > /data/file"));
        ends(kubectl, "writer");
        let volume = kubectl.jsonpath(&["pvc", "data"], "{.spec.volumeName}");
        let path = kubectl.jsonpath(&["pv", &volume], "{.spec.hostPath.path}");
        kubectl.ok(&["delete", "pod", "writer"]);
        kubectl.ok(&["delete", "pvc", "data"]);
        within(20, "it is released", || phase(kubectl, &["pv", &volume]) == "Released");
        kubectl.ok(&["delete", "pv", &volume]);
        let file = PathBuf::from(path).join("file");
        assert_eq!(std::fs::read_to_string(file).unwrap(), "kept\n");
        kubectl.ok(&["delete", "pod", "hopeless", "waiter"]);
        kubectl.ok(&["delete", "pvc", "none", "unknown"]);
        kubectl.ok(&["delete", "pv", &prefix]);
        kubectl.ok(&["delete", "storageclass", &prefix]);
        eventually(20, "nothing is left", || {
            kubectl.json(&["pv"])["items"].as_array().unwrap().is_empty().then_some(())
        });
    });
}
