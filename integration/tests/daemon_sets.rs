//! STORY step 13: DaemonSets and ReplicationControllers, with an old and a new kubectl.
#![allow(clippy::unwrap_used, clippy::panic)]

use coracle_integration::{Kubectl, with_old_and_new_kubectl, within};
use serde_json::Value;

fn manifest(image: &str, strategy: &str) -> String {
    format!(
        "apiVersion: apps/v1
kind: DaemonSet
metadata: {{name: agent}}
spec:
  selector: {{matchLabels: {{app: agent}}}}
  updateStrategy: {strategy}
  template:
    metadata: {{labels: {{app: agent}}}}
    spec:
      terminationGracePeriodSeconds: 1
      containers: [{{name: main, image: '{image}', imagePullPolicy: IfNotPresent}}]
"
    )
}

fn pods(kubectl: &Kubectl, app: &str) -> Vec<Value> {
    kubectl.json(&["pods", "-l", &format!("app={app}")])["items"].as_array().unwrap().clone()
}

fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
    conditions.into_iter().any(|c| c["type"] == "Ready" && c["status"] == "True")
}

fn image(pod: &Value) -> &str {
    pod["spec"]["containers"][0]["image"].as_str().unwrap()
}

fn rolled_out(kubectl: &Kubectl) {
    let status = kubectl.ok(&["rollout", "status", "daemonset/agent", "--timeout=60s"]);
    assert!(status.ends_with("daemon set \"agent\" successfully rolled out\n"), "{status}");
}

#[test]
fn step_13_a_daemon_set_has_one_pod_per_node_and_rolls() {
    with_old_and_new_kubectl(|_, kubectl| {
        let rolling = "{type: RollingUpdate}";
        kubectl.apply(&manifest("nginx", rolling));
        rolled_out(kubectl);
        let first = pods(kubectl, "agent");
        assert_eq!(first.len(), 1);
        let spec = &first[0]["spec"];
        let terms = "requiredDuringSchedulingIgnoredDuringExecution";
        let fields =
            &spec["affinity"]["nodeAffinity"][terms]["nodeSelectorTerms"][0]["matchFields"];
        assert_eq!(fields[0]["key"], "metadata.name");
        assert_eq!(fields[0]["values"][0], "node");
        for taint in ["not-ready", "unreachable", "disk-pressure", "unschedulable"] {
            let key = format!("node.kubernetes.io/{taint}");
            let tolerations = spec["tolerations"].as_array().unwrap();
            assert!(tolerations.iter().any(|t| t["key"] == *key), "{key}");
        }
        let table = kubectl.ok(&["get", "daemonsets"]);
        let rows: Vec<Vec<&str>> = table.lines().map(|l| l.split_whitespace().collect()).collect();
        assert_eq!(
            rows[0],
            [
                "NAME",
                "DESIRED",
                "CURRENT",
                "READY",
                "UP-TO-DATE",
                "AVAILABLE",
                "NODE",
                "SELECTOR",
                "AGE"
            ]
        );
        assert_eq!(rows[1][..7], ["agent", "1", "1", "1", "1", "1", "<none>"]);
        within(10, "the creation is an event", || {
            kubectl.ok(&["describe", "daemonset", "agent"]).contains("Created pod: agent-")
        });

        // A pod that is deleted comes back; a cordoned node keeps its daemons.
        kubectl.ok(&["cordon", "node"]);
        kubectl.ok(&["delete", "pod", "-l", "app=agent"]);
        rolled_out(kubectl);
        kubectl.ok(&["uncordon", "node"]);

        // A new image, history, and back.
        kubectl.ok(&["set", "image", "daemonset/agent", "main=nginx:1.9.1"]);
        rolled_out(kubectl);
        let now = pods(kubectl, "agent");
        assert_eq!((now.len(), image(&now[0])), (1, "nginx:1.9.1"));
        let history = kubectl.ok(&["rollout", "history", "daemonset/agent"]);
        let numbers: Vec<&str> =
            history.lines().skip(2).filter_map(|l| l.split_whitespace().next()).collect();
        assert_eq!(numbers, ["1", "2"], "{history}");
        assert_eq!(
            kubectl.ok(&["rollout", "undo", "daemonset/agent"]),
            "daemonset.apps/agent rolled back\n"
        );
        rolled_out(kubectl);
        assert_eq!(image(&pods(kubectl, "agent")[0]), "nginx");
        let skipped = kubectl.ok(&["rollout", "undo", "daemonset/agent", "--to-revision=3"]);
        assert!(skipped.contains("skipped rollback"), "{skipped}");

        // With a surge the new pod is ready before the old one goes.
        let surge = "{type: RollingUpdate, rollingUpdate: {maxSurge: 1, maxUnavailable: 0}}";
        kubectl.apply(&manifest("nginx:1.9.1", surge));
        within(60, "the surge replaces the pod", || {
            let now = pods(kubectl, "agent");
            assert!(now.iter().any(is_ready), "nobody serves: {now:?}");
            now.len() == 1 && image(&now[0]) == "nginx:1.9.1"
        });
        rolled_out(kubectl);

        // OnDelete: only what the user deletes is made anew.
        kubectl.apply(&manifest("nginx", "{type: OnDelete}"));
        within(20, "the new template is noticed", || {
            let set = kubectl.json(&["daemonset", "agent"]);
            set["status"]["observedGeneration"] == set["metadata"]["generation"]
                && set["status"]["updatedNumberScheduled"].is_null()
        });
        assert_eq!(image(&pods(kubectl, "agent")[0]), "nginx:1.9.1");
        kubectl.ok(&["delete", "pod", "-l", "app=agent"]);
        within(30, "the next pod is new", || {
            let now = pods(kubectl, "agent");
            now.len() == 1 && image(&now[0]) == "nginx"
        });
        kubectl.ok(&["delete", "daemonset", "agent"]);
        within(30, "its pods and its history go with it", || {
            pods(kubectl, "agent").is_empty()
                && kubectl.json(&["controllerrevisions"])["items"].as_array().unwrap().is_empty()
        });
    });
}

#[test]
fn step_13_labels_of_the_node_decide() {
    with_old_and_new_kubectl(|_, kubectl| {
        kubectl.apply(
            &manifest("nginx", "{type: RollingUpdate}")
                .replace("    spec:\n", "    spec:\n      nodeSelector: {disk: ssd}\n"),
        );
        let counts = || {
            let status = kubectl.json(&["daemonset", "agent"])["status"].clone();
            (status["desiredNumberScheduled"].as_i64(), status["numberReady"].as_i64())
        };
        within(10, "no node is wanted", || counts() == (Some(0), Some(0)));
        assert!(pods(kubectl, "agent").is_empty());
        kubectl.ok(&["label", "node", "node", "disk=ssd"]);
        within(30, "the pod comes with the label", || counts() == (Some(1), Some(1)));
        kubectl.ok(&["label", "node", "node", "disk-"]);
        within(30, "and goes with it", || pods(kubectl, "agent").is_empty());
        // A taint that is not tolerated keeps it away, one that is does not.
        kubectl.ok(&["taint", "node", "node", "only=others:NoExecute"]);
        kubectl.ok(&["label", "node", "node", "disk=ssd"]);
        std::thread::sleep(std::time::Duration::from_millis(500));
        assert!(pods(kubectl, "agent").is_empty());
        let tolerate = r#"{"spec":{"template":{"spec":{"tolerations":[{"key":"only","operator":"Exists"}]}}}}"#;
        kubectl.ok(&["patch", "daemonset", "agent", "-p", tolerate]);
        within(30, "the toleration lets it in", || counts() == (Some(1), Some(1)));
        kubectl.ok(&["taint", "node", "node", "only-"]);
        kubectl.ok(&["label", "node", "node", "disk-"]);
    });
}

/// What a DaemonSet that collects logs needs: both directories of logs where the node has them,
/// names that tell whose they are, lines that say when and from which stream.
#[test]
fn step_13_a_log_collector_reads_what_pods_say() {
    with_old_and_new_kubectl(|node, kubectl| {
        let (logs, links) = (node.path("logs"), node.path("containers"));
        let (logs, links) = (logs.display(), links.display());
        kubectl.apply(&format!(
            "apiVersion: apps/v1
kind: DaemonSet
metadata: {{name: collector}}
spec:
  selector: {{matchLabels: {{app: collector}}}}
  template:
    metadata: {{labels: {{app: collector}}}}
    spec:
      terminationGracePeriodSeconds: 1
      volumes:
      - {{name: logs, hostPath: {{path: {logs}, type: Directory}}}}
      - {{name: links, hostPath: {{path: {links}, type: Directory}}}}
      containers:
      - name: main
        image: busybox
        imagePullPolicy: IfNotPresent
        command: [sh, -c, 'while :; do cat {links}/talker_*.log 2>/dev/null; sleep 0.2; done']
        volumeMounts:
        - {{name: logs, mountPath: {logs}, readOnly: true}}
        - {{name: links, mountPath: {links}, readOnly: true}}
---
apiVersion: v1
kind: Pod
metadata: {{name: talker}}
spec:
  restartPolicy: Never
  containers:
  - name: mouth
    image: busybox
    imagePullPolicy: IfNotPresent
    command: [sh, -c, 'echo said aloud; echo whispered >&2; exit 3']
"
        ));
        within(60, "the collector has read both streams", || {
            let seen = kubectl.run(&["logs", "daemonset/collector", "--tail=20"]).stdout;
            let line = |stream: &str, text: &str| {
                seen.lines().any(|line| {
                    let words: Vec<&str> = line.splitn(4, ' ').collect();
                    words.len() == 4
                        && words[0].parse::<jiff::Timestamp>().is_ok()
                        && words[1..] == [stream, "F", text]
                })
            };
            line("stdout", "said aloud") && line("stderr", "whispered")
        });
        let pod = kubectl.json(&["pod", "talker"]);
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let (uid, namespace) = (text(&pod["metadata"]["uid"]), text(&pod["metadata"]["namespace"]));
        let id = text(&pod["status"]["containerStatuses"][0]["containerID"]);
        let id = id.strip_prefix("coracle://").unwrap();
        let link = node.path(&format!("containers/talker_{namespace}_mouth-{id}.log"));
        let log = node.path(&format!("logs/{namespace}_talker_{uid}/mouth/0.log"));
        assert_eq!(std::fs::read_link(&link).unwrap(), log);
        kubectl.ok(&["delete", "pod", "talker"]);
        within(30, "its logs go with it", || !log.exists() && link.symlink_metadata().is_err());
        kubectl.ok(&["delete", "daemonset", "collector"]);
    });
}

#[test]
fn step_13_a_replication_controller_keeps_its_number() {
    with_old_and_new_kubectl(|_, kubectl| {
        kubectl.apply(
            "apiVersion: v1
kind: ReplicationController
metadata: {name: web}
spec:
  replicas: 2
  selector: {app: web}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      containers: [{name: main, image: nginx, imagePullPolicy: IfNotPresent}]
",
        );
        let ready = |count: i64| {
            within(60, "the pods are ready", || {
                kubectl.json(&["rc", "web"])["status"]["readyReplicas"].as_i64().unwrap_or(0)
                    == count
            });
            assert_eq!(pods(kubectl, "web").len(), usize::try_from(count).unwrap());
        };
        ready(2);
        let owner = &pods(kubectl, "web")[0]["metadata"]["ownerReferences"][0];
        assert_eq!(
            (&owner["kind"], &owner["apiVersion"]),
            (&"ReplicationController".into(), &"v1".into())
        );
        kubectl.ok(&["scale", "rc", "web", "--replicas=3"]);
        ready(3);
        // An orphan is adopted, one that is relabelled is released and replaced.
        let name = pods(kubectl, "web")[0]["metadata"]["name"].as_str().unwrap().to_owned();
        kubectl.ok(&["label", "pod", &name, "app=lost", "--overwrite"]);
        ready(3);
        kubectl.ok(&["label", "pod", &name, "app=web", "--overwrite"]);
        within(30, "one of four goes", || {
            pods(kubectl, "web")
                .iter()
                .filter(|p| p["metadata"]["deletionTimestamp"].is_null())
                .count()
                == 3
        });
        kubectl.ok(&["delete", "rc", "web"]);
        within(30, "its pods go with it", || pods(kubectl, "web").is_empty());
    });
}
