//! STORY steps 1–5: Deployments and rollouts, with every kubectl.
#![allow(clippy::unwrap_used, clippy::panic)]

use coracle_integration::{
    Kubectl, Node, NodeOptions, eventually, privileged, story, with_every_kubectl, within,
};
use serde_json::Value;

fn replica_sets(kubectl: &Kubectl) -> Vec<Value> {
    let mut sets = kubectl.json(&["replicasets"])["items"].as_array().unwrap().clone();
    sets.sort_by_key(revision);
    sets
}

fn revision(rs: &Value) -> u64 {
    rs["metadata"]["annotations"]["deployment.kubernetes.io/revision"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap()
}

fn counts(rs: &Value) -> (u64, u64) {
    (rs["spec"]["replicas"].as_u64().unwrap(), rs["status"]["readyReplicas"].as_u64().unwrap_or(0))
}

#[test]
fn step_01_to_05_rollouts() {
    with_every_kubectl(|_, kubectl| {
        // 1: an apps/v1beta1 manifest without a selector.
        let output = kubectl.run(&["apply", "-f", &story("deployment.yml"), "--record"]);
        assert_eq!(output.code, 0, "{}", output.stderr);
        assert_eq!(output.stdout, "deployment.apps/nginx-deployment created\n");
        let status =
            kubectl.ok(&["rollout", "status", "deployment/nginx-deployment", "--timeout=60s"]);
        assert!(
            status.ends_with("deployment \"nginx-deployment\" successfully rolled out\n"),
            "{status}"
        );
        let deployment = kubectl.json(&["deployments.v1.apps", "nginx-deployment"]);
        assert_eq!(deployment["spec"]["selector"]["matchLabels"]["app"], "nginx");
        assert_eq!(deployment["metadata"]["labels"]["app"], "nginx");
        assert_eq!(deployment["spec"]["revisionHistoryLimit"], 2);
        for version in ["v1beta1.apps", "v1beta2.apps", "v1beta1.extensions"] {
            let read = kubectl.json(&[&format!("deployments.{version}"), "nginx-deployment"]);
            assert_eq!(read["spec"]["replicas"], 3, "{version}");
        }
        let again = kubectl.ok(&["apply", "-f", &story("deployment.yml")]);
        assert!(again.starts_with("deployment.apps/nginx-deployment "), "{again}");

        // 2: names and the template hash.
        let sets = replica_sets(kubectl);
        assert_eq!(sets.len(), 1);
        let first = sets[0]["metadata"]["name"].as_str().unwrap().to_owned();
        let hash = sets[0]["metadata"]["labels"]["pod-template-hash"].as_str().unwrap();
        assert_eq!(first, format!("nginx-deployment-{hash}"));
        assert_eq!(sets[0]["spec"]["selector"]["matchLabels"]["pod-template-hash"], hash);
        let pods = kubectl.json(&["pods", "-l", &format!("pod-template-hash={hash}")]);
        let pods = pods["items"].as_array().unwrap();
        assert_eq!(pods.len(), 3);
        for pod in pods {
            let name = pod["metadata"]["name"].as_str().unwrap();
            let suffix = name.strip_prefix(&format!("{first}-")).unwrap();
            assert!(
                suffix.len() == 5
                    && suffix.bytes().all(|b| b"bcdfghjklmnpqrstvwxz2456789".contains(&b)),
                "{name}"
            );
        }
        let table = kubectl.ok(&["get", "deployments"]);
        let mut lines = table.lines();
        assert_eq!(
            lines.next().unwrap().split_whitespace().collect::<Vec<_>>(),
            ["NAME", "READY", "UP-TO-DATE", "AVAILABLE", "AGE"]
        );
        let row: Vec<&str> = lines.next().unwrap().split_whitespace().collect();
        assert_eq!(row[..4], ["nginx-deployment", "3/3", "3", "3"]);

        // 3: history.
        let history = kubectl.ok(&["rollout", "history", "deployment/nginx-deployment"]);
        let mut lines = history.lines();
        assert_eq!(lines.next().unwrap(), "deployment.apps/nginx-deployment ");
        assert_eq!(lines.next().unwrap(), "REVISION  CHANGE-CAUSE");
        // The client records its own file name, which here is its version.
        let row = lines.next().unwrap();
        assert!(row.starts_with("1  ") && row.contains(" apply "), "{history}");

        // 4: a new image; the stale change-cause is replaced by what was typed.
        let set = kubectl.ok(&["set", "image", "deployment/nginx-deployment", "nginx=nginx:1.9.1"]);
        assert_eq!(set, "deployment.apps/nginx-deployment image updated\n");
        kubectl.ok(&["rollout", "status", "deployment/nginx-deployment", "--timeout=60s"]);
        let sets = replica_sets(kubectl);
        assert_eq!(sets.len(), 2);
        assert_eq!((counts(&sets[0]), counts(&sets[1])), ((0, 0), (3, 3)));
        let second = sets[1]["metadata"]["name"].as_str().unwrap().to_owned();
        let history = kubectl.ok(&["rollout", "history", "deployment/nginx-deployment"]);
        assert_eq!(history.trim().lines().count(), 4, "{history}");

        // 5: undo brings the same ReplicaSet back under a new revision.
        let undo = kubectl.ok(&["rollout", "undo", "deployment/nginx-deployment"]);
        assert_eq!(undo, "deployment.apps/nginx-deployment rolled back\n");
        kubectl.ok(&["rollout", "status", "deployment/nginx-deployment", "--timeout=60s"]);
        let sets = replica_sets(kubectl);
        assert_eq!(sets.len(), 2);
        assert_eq!(sets[0]["metadata"]["name"], *second);
        assert_eq!(sets[1]["metadata"]["name"], *first);
        assert_eq!((counts(&sets[0]), counts(&sets[1])), ((0, 0), (3, 3)));
        assert_eq!((revision(&sets[0]), revision(&sets[1])), (2, 3));
        kubectl.ok(&["rollout", "undo", "deployment/nginx-deployment", "--to-revision=2"]);
        kubectl.ok(&["rollout", "status", "deployment/nginx-deployment", "--timeout=60s"]);
        assert_eq!(revision(replica_sets(kubectl).last().unwrap()), 4);

        // pause, resume, restart, scale.
        kubectl.ok(&["rollout", "pause", "deployment/nginx-deployment"]);
        kubectl.ok(&["set", "env", "deployment/nginx-deployment", "A=b"]);
        assert_eq!(replica_sets(kubectl).len(), 2);
        kubectl.ok(&["rollout", "resume", "deployment/nginx-deployment"]);
        kubectl.ok(&["rollout", "status", "deployment/nginx-deployment", "--timeout=60s"]);
        kubectl.ok(&["rollout", "restart", "deployment/nginx-deployment"]);
        kubectl.ok(&["rollout", "status", "deployment/nginx-deployment", "--timeout=60s"]);
        kubectl.ok(&["scale", "deployment/nginx-deployment", "--replicas=1"]);
        within(30, "one pod left", || {
            kubectl.json(&["pods"])["items"].as_array().unwrap().len() == 1
        });
        // revisionHistoryLimit 2 of v1beta1: the current one and two old ones stay.
        within(30, "old ReplicaSets are pruned", || replica_sets(kubectl).len() == 3);
    });
}

/// The rows of `kubectl rollout history`, by revision.
fn change_causes(kubectl: &Kubectl) -> Vec<String> {
    let history = kubectl.ok(&["rollout", "history", "deployment/nginx-deployment"]);
    let rows = history.lines().skip(2).map(str::trim).filter(|row| !row.is_empty());
    rows.map(|row| row.split_once(' ').unwrap().1.trim().to_owned()).collect()
}

/// Three revisions: recorded, not recorded, recorded again. Pods have no part in it.
fn record_causes(kubectl: &Kubectl) -> Vec<String> {
    kubectl.ok(&["apply", "--record", "-f", &story("deployment.yml")]);
    kubectl.ok(&["scale", "deployment/nginx-deployment", "--replicas=0"]);
    let rows = |count| within(20, "a revision", || change_causes(kubectl).len() == count);
    rows(1);
    kubectl.ok(&["set", "image", "deployment/nginx-deployment", "nginx=nginx:1.9.1"]);
    rows(2);
    kubectl.ok(&["set", "image", "deployment/nginx-deployment", "nginx=nginx:1.9.2", "--record"]);
    rows(3);
    change_causes(kubectl)
}

#[test]
fn step_04_an_unrecorded_set_image_has_its_own_row() {
    with_every_kubectl(|_, kubectl| {
        let rows = record_causes(kubectl);
        assert!(rows[0].starts_with("kubectl apply "), "{rows:?}");
        // Older clients do not say which of their commands makes a request.
        let says_command = !kubectl.older_than(21);
        let reconstructed = "kubectl set image deployment/nginx-deployment nginx=nginx:1.9.1";
        assert_eq!(rows[1], if says_command { reconstructed } else { &rows[0] });
        let recorded = "kubectl set image deployment/nginx-deployment nginx=nginx:1.9.2 ";
        assert!(rows[2].starts_with(recorded) && rows[2].contains("--record=true"), "{rows:?}");
    });
}

#[test]
fn step_04_a_switch_leaves_the_stale_change_cause_as_upstream_does() {
    if !privileged() {
        return;
    }
    let arguments = vec!["--no-change-cause".to_owned()];
    let node =
        Node::start_with(NodeOptions { arguments, without_images: true, ..NodeOptions::default() });
    let rows = record_causes(&node.any_kubectl());
    assert_eq!(rows[1], rows[0]);
    assert!(rows[2].starts_with("kubectl set image "), "{rows:?}");
}

#[test]
fn step_05_recreate_and_progress_deadline() {
    with_every_kubectl(|_, kubectl| {
        let manifest = |strategy: &str, image: &str| {
            format!(
                "apiVersion: apps/v1
kind: Deployment
metadata: {{name: web}}
spec:
  replicas: 2
  progressDeadlineSeconds: 3
  strategy: {{type: {strategy}}}
  selector: {{matchLabels: {{app: web}}}}
  template:
    metadata: {{labels: {{app: web}}}}
    spec:
      terminationGracePeriodSeconds: 1
      containers: [{{name: nginx, image: '{image}', imagePullPolicy: IfNotPresent}}]
"
            )
        };
        kubectl.apply(&manifest("Recreate", "nginx"));
        kubectl.ok(&["rollout", "status", "deployment/web", "--timeout=60s"]);
        kubectl.apply(&manifest("Recreate", "nginx:1.9.1"));
        kubectl.ok(&["rollout", "status", "deployment/web", "--timeout=60s"]);
        let pods = kubectl.json(&["pods"]);
        for pod in pods["items"].as_array().unwrap() {
            assert_eq!(pod["spec"]["containers"][0]["image"], "nginx:1.9.1");
        }

        // An image that does not exist never becomes available: the deadline says so.
        kubectl.apply(
            &manifest("RollingUpdate", "nginx:no-such-tag").replace("IfNotPresent", "Never"),
        );
        let failed = kubectl.run(&["rollout", "status", "deployment/web", "--timeout=30s"]);
        assert_eq!(failed.code, 1, "{}", failed.stdout);
        assert!(
            failed.stderr.contains("deployment \"web\" exceeded its progress deadline"),
            "{}",
            failed.stderr
        );
        let pod = eventually(20, "the pod says why it waits", || {
            kubectl.json(&["pods"])["items"].as_array().unwrap().iter().find_map(|pod| {
                let waiting = &pod["status"]["containerStatuses"][0]["state"]["waiting"];
                (waiting["reason"] == "ErrImageNeverPull").then(|| waiting.clone())
            })
        });
        assert!(pod["message"].as_str().unwrap().contains("nginx:no-such-tag"), "{pod}");
    });
}
