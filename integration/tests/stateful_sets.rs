//! STORY step 13: StatefulSets and PetSets, with an old and a new kubectl.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::path::PathBuf;
use std::time::Duration;

use coracle_integration::{Kubectl, Node, privileged, with_old_and_new_kubectl, within};
use serde_json::Value;

/// A database that keeps what it wrote. It says in its data who owns them: one that still runs
/// when another of the same identity has started notices it and leaves a trace.
const SCRIPT: &str = "id=$(cat /proc/sys/kernel/random/uuid); echo $id > /data/new; \
                      mv /data/new /data/owner; echo $id >> /data/starts; trap 'exit 0' TERM; \
                      while true; do \
                      [ $(cat /data/owner) = $id ] || echo $HOSTNAME $id >> /data/violations; \
                      sleep 0.1; done";

fn manifest(kind: &str, more: &str) -> String {
    format!(
        "apiVersion: v1
kind: Service
metadata: {{name: mysql}}
spec: {{clusterIP: None, selector: {{app: mysql}}, ports: [{{port: 3306, name: sql}}]}}
---
apiVersion: {kind}
metadata: {{name: mysql}}
spec:
  replicas: 3
  serviceName: mysql
{more}
  selector: {{matchLabels: {{app: mysql}}}}
  template:
    metadata: {{labels: {{app: mysql}}}}
    spec:
      terminationGracePeriodSeconds: 5
      containers:
      - name: main
        image: busybox
        imagePullPolicy: IfNotPresent
        command: [sh, -c, \"{SCRIPT}\"]
        volumeMounts: [{{name: data, mountPath: /data}}]
  volumeClaimTemplates:
  - metadata: {{name: data}}
    spec:
      accessModes: [ReadWriteOnce]
      resources: {{requests: {{storage: 1Mi}}}}
"
    )
}

const STATEFUL_SET: &str = "apps/v1\nkind: StatefulSet";

fn pods(kubectl: &Kubectl) -> Vec<Value> {
    kubectl.json(&["pods", "-l", "app=mysql"])["items"].as_array().unwrap().clone()
}

fn names(kubectl: &Kubectl) -> Vec<String> {
    let mut names: Vec<String> = pods(kubectl)
        .iter()
        .map(|pod| pod["metadata"]["name"].as_str().unwrap().to_owned())
        .collect();
    names.sort();
    names
}

fn ready(kubectl: &Kubectl, count: i64) {
    within(90, "the pods are ready", || {
        let set = kubectl.json(&["statefulset", "mysql"]);
        set["status"]["observedGeneration"] == set["metadata"]["generation"]
            && set["status"]["readyReplicas"].as_i64().unwrap_or(0) == count
            && set["status"]["replicas"].as_i64() == Some(count)
    });
}

fn environment(pod: &Value) -> String {
    pod["spec"]["containers"][0]["env"][0]["value"].as_str().unwrap_or_default().to_owned()
}

/// The version of every pod in the order of their names.
fn versions(kubectl: &Kubectl) -> Vec<String> {
    let mut pods = pods(kubectl);
    pods.sort_by_key(|pod| pod["metadata"]["name"].as_str().unwrap().to_owned());
    pods.iter().map(environment).collect()
}

#[test]
fn step_13_names_order_dns_and_storage() {
    with_old_and_new_kubectl(|_, kubectl| {
        kubectl.apply(&manifest(STATEFUL_SET, ""));
        ready(kubectl, 3);
        assert_eq!(names(kubectl), ["mysql-0", "mysql-1", "mysql-2"]);
        let mut pods = pods(kubectl);
        pods.sort_by_key(|pod| pod["metadata"]["name"].as_str().unwrap().to_owned());
        // Each was placed only when the one before it was ready.
        let time = |pod: &Value, kind: &str| -> String {
            let mut conditions = pod["status"]["conditions"].as_array().unwrap().iter();
            let found = conditions.find(|condition| condition["type"] == kind).unwrap();
            found["lastTransitionTime"].as_str().unwrap().to_owned()
        };
        for pair in pods.windows(2) {
            assert!(time(&pair[0], "Ready") <= time(&pair[1], "PodScheduled"));
        }
        for (ordinal, pod) in pods.iter().enumerate() {
            let name = format!("mysql-{ordinal}");
            let labels = &pod["metadata"]["labels"];
            assert_eq!(labels["statefulset.kubernetes.io/pod-name"], name);
            assert_eq!(labels["apps.kubernetes.io/pod-index"], ordinal.to_string());
            assert!(labels["controller-revision-hash"].as_str().unwrap().starts_with("mysql-"));
            assert_eq!(pod["spec"]["hostname"], name);
            assert_eq!(pod["spec"]["subdomain"], "mysql");
            let claim = kubectl.json(&["pvc", &format!("data-{name}")]);
            assert_eq!(claim["status"]["phase"], "Bound");
        }

        // Each is found by its own name, from another pod.
        let address = pods[1]["status"]["podIP"].as_str().unwrap();
        within(20, "the name of a pod resolves", || {
            let ping = ["exec", "mysql-0", "--", "ping", "-c", "1", "-W", "2", "mysql-1.mysql"];
            kubectl.run(&ping).stdout.contains(&format!("({address})"))
        });
        let namespace = kubectl.jsonpath(&["pod", "mysql-0"], "{.metadata.namespace}");
        let full = format!("mysql-1.mysql.{namespace}.svc.cluster.local");
        let answer = kubectl.ok(&["exec", "mysql-0", "--", "nslookup", &full]);
        assert!(answer.contains(&full) && answer.contains(address), "{answer}");

        // Data stays with the name; the names go from the top and come from the bottom.
        kubectl.ok(&["exec", "mysql-1", "--", "sh", "-c", "echo kept > /data/file"]);
        kubectl.ok(&["delete", "pod", "mysql-1"]);
        ready(kubectl, 3);
        assert_eq!(kubectl.ok(&["exec", "mysql-1", "--", "cat", "/data/file"]), "kept\n");
        kubectl.ok(&["scale", "statefulset", "mysql", "--replicas=1"]);
        within(60, "the upper two are gone", || {
            let names = names(kubectl);
            assert!(names != ["mysql-0", "mysql-2"], "the lower one went first");
            names == ["mysql-0"]
        });
        assert_eq!(kubectl.json(&["pvc"])["items"].as_array().unwrap().len(), 3);
        kubectl.ok(&["scale", "statefulset", "mysql", "--replicas=2"]);
        ready(kubectl, 2);
        assert_eq!(kubectl.ok(&["exec", "mysql-1", "--", "cat", "/data/file"]), "kept\n");
        within(10, "the creation is an event", || {
            kubectl
                .ok(&["describe", "statefulset", "mysql"])
                .contains("create Pod mysql-1 in StatefulSet mysql successful")
        });
        let table = kubectl.ok(&["get", "statefulsets"]);
        let row: Vec<&str> = table.lines().nth(1).unwrap().split_whitespace().collect();
        assert_eq!(row[..2], ["mysql", "2/2"]);
        kubectl.ok(&["delete", "statefulset", "mysql"]);
        within(30, "the pods go with the set", || names(kubectl).is_empty());
        // Claims are retained.
        assert_eq!(kubectl.json(&["pvc"])["items"].as_array().unwrap().len(), 3);
    });
}

#[test]
fn step_13_rollouts_partitions_and_the_way_back() {
    with_old_and_new_kubectl(|_, kubectl| {
        let parallel = "  podManagementPolicy: Parallel\n  ordinals: {start: 5}";
        kubectl.apply(&manifest(STATEFUL_SET, parallel));
        ready(kubectl, 3);
        assert_eq!(names(kubectl), ["mysql-5", "mysql-6", "mysql-7"]);
        let set = |change: &str| {
            kubectl.ok(&["patch", "statefulset", "mysql", "-p", change]);
        };
        let version = |value: &str| {
            kubectl.ok(&["set", "env", "statefulset/mysql", &format!("VERSION={value}")]);
        };
        set(r#"{"spec":{"updateStrategy":{"rollingUpdate":{"partition":2}}}}"#);
        version("2");
        let status = kubectl.ok(&["rollout", "status", "statefulset/mysql", "--timeout=60s"]);
        assert!(status.contains("partitioned roll out complete: 1 new pods"), "{status}");
        assert_eq!(versions(kubectl), ["", "", "2"]);
        let status = kubectl.json(&["statefulset", "mysql"])["status"].clone();
        assert_ne!(status["currentRevision"], status["updateRevision"]);
        assert_eq!(
            (&status["currentReplicas"], &status["updatedReplicas"]),
            (&2.into(), &1.into())
        );
        // Below the partition a pod comes back as it was.
        kubectl.ok(&["delete", "pod", "mysql-5"]);
        ready(kubectl, 3);
        assert_eq!(versions(kubectl), ["", "", "2"]);
        set(r#"{"spec":{"updateStrategy":{"rollingUpdate":{"partition":0}}}}"#);
        within(90, "everything is updated", || versions(kubectl) == ["2", "2", "2"]);
        ready(kubectl, 3);
        let status = kubectl.json(&["statefulset", "mysql"])["status"].clone();
        assert_eq!(status["currentRevision"], status["updateRevision"]);

        let history = kubectl.ok(&["rollout", "history", "statefulset/mysql"]);
        let numbers: Vec<&str> =
            history.lines().skip(2).filter_map(|l| l.split_whitespace().next()).collect();
        assert_eq!(numbers, ["1", "2"], "{history}");
        assert_eq!(
            kubectl.ok(&["rollout", "undo", "statefulset/mysql"]),
            "statefulset.apps/mysql rolled back\n"
        );
        within(90, "everything is as it was", || versions(kubectl) == ["", "", ""]);
        ready(kubectl, 3);

        // OnDelete: what the user deletes is made anew.
        set(r#"{"spec":{"updateStrategy":{"type":"OnDelete","rollingUpdate":null}}}"#);
        version("3");
        kubectl.ok(&["delete", "pod", "mysql-6"]);
        ready(kubectl, 3);
        assert_eq!(versions(kubectl), ["", "3", ""]);

        // Claims go with what the policy names.
        set(
            r#"{"spec":{"persistentVolumeClaimRetentionPolicy":{"whenDeleted":"Delete","whenScaled":"Delete"}}}"#,
        );
        kubectl.ok(&["scale", "statefulset", "mysql", "--replicas=2"]);
        let claims = || kubectl.json(&["pvc"])["items"].as_array().unwrap().len();
        within(60, "the claim goes with its pod", || claims() == 2);
        kubectl.ok(&["delete", "statefulset", "mysql"]);
        within(60, "the claims go with the set", || claims() == 0);
    });
}

#[test]
fn step_13_a_pet_set_is_a_stateful_set() {
    with_old_and_new_kubectl(|_, kubectl| {
        let petset = manifest("apps/v1alpha1\nkind: PetSet", "");
        let petset = petset.replace("  selector: {matchLabels: {app: mysql}}\n", "");
        kubectl.apply(&petset.replace("replicas: 3", "replicas: 1"));
        ready(kubectl, 1);
        assert_eq!(names(kubectl), ["mysql-0"]);
        let pet = kubectl.json(&["petset", "mysql"]);
        assert_eq!((&pet["kind"], &pet["apiVersion"]), (&"PetSet".into(), &"apps/v1alpha1".into()));
        let set = kubectl.json(&["statefulset", "mysql"]);
        assert_eq!(pet["metadata"]["uid"], set["metadata"]["uid"]);
        assert_eq!(set["spec"]["selector"]["matchLabels"]["app"], "mysql");
        kubectl.ok(&["scale", "petset", "mysql", "--replicas=2"]);
        ready(kubectl, 2);
        let again = kubectl.apply(&petset.replace("replicas: 3", "replicas: 2"));
        assert!(again.contains("petset.apps/mysql "), "{again}");
        kubectl.ok(&["delete", "petset", "mysql"]);
        within(30, "the pods go with it", || names(kubectl).is_empty());
    });
}

/// `kill -9` at any moment: nobody ever shares an identity, and in the end everything is there.
#[test]
fn identities_stay_unique_across_kills() {
    if !privileged() {
        return;
    }
    let mut node = Node::start();
    let kubectls = node.old_and_new_kubectl();
    for kubectl in &kubectls {
        kubectl.apply(&manifest(STATEFUL_SET, ""));
    }
    // What the user does meanwhile, and how long after it the node dies.
    let deeds: [(&[&str], u64); 6] = [
        (&["get", "statefulsets"], 300),
        (&["delete", "pod", "mysql-0", "--wait=false"], 150),
        (&["set", "env", "statefulset/mysql", "VERSION=2"], 700),
        (&["scale", "statefulset", "mysql", "--replicas=1"], 400),
        (&["scale", "statefulset", "mysql", "--replicas=4"], 900),
        (&["delete", "pod", "mysql-0", "mysql-1", "--wait=false"], 50),
    ];
    for (deed, delay_ms) in deeds {
        for kubectl in &kubectls {
            // A pod of the deed may not be there yet, or any more.
            kubectl.run(deed);
        }
        std::thread::sleep(Duration::from_millis(delay_ms));
        node.kill_agent();
        node.up();
    }
    for kubectl in &kubectls {
        ready(kubectl, 4);
        within(90, "every pod is of the newest version", || {
            versions(kubectl) == ["2", "2", "2", "2"]
        });
        assert_eq!(names(kubectl), ["mysql-0", "mysql-1", "mysql-2", "mysql-3"]);
    }
    let volumes: Vec<PathBuf> = std::fs::read_dir(node.path("data/volumes"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    assert_eq!(volumes.len(), 4 * kubectls.len(), "one volume for each identity: {volumes:?}");
    for volume in volumes {
        assert!(volume.join("starts").exists(), "{volume:?} was never used");
        let violations = std::fs::read_to_string(volume.join("violations")).unwrap_or_default();
        assert_eq!(violations, "", "{volume:?}: two containers of one identity at once");
    }
}
