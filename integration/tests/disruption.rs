//! PodDisruptionBudgets hold evictions up; nodes are cordoned and drained.
#![allow(clippy::unwrap_used, clippy::panic)]

use coracle_integration::{with_old_and_new_kubectl, within};

const WEB: &str = r#"{"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
    "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "web"}}, "template": {
      "metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c",
        "image": "busybox", "imagePullPolicy": "IfNotPresent", "command": ["sleep", "1000"]}],
        "terminationGracePeriodSeconds": 0}}}}"#;

#[test]
fn budgets_hold_evictions_up() {
    with_old_and_new_kubectl(|_, kubectl| {
        kubectl.apply(WEB);
        kubectl.ok(&["rollout", "status", "deployment/web", "--timeout=120s"]);
        let least = "--min-available=2";
        kubectl.ok(&["create", "poddisruptionbudget", "keep", "--selector=app=web", least]);
        within(60, "the budget counts its pods", || {
            let status = kubectl.json(&["pdb", "keep"])["status"].clone();
            status["currentHealthy"] == 2 && status["desiredHealthy"] == 2
        });
        let status = kubectl.json(&["pdb", "keep"])["status"].clone();
        assert_eq!(
            (&status["expectedPods"], &status["disruptionsAllowed"]),
            (&2.into(), &0.into())
        );
        assert_eq!(status["conditions"][0]["reason"], "InsufficientPods");

        let row = kubectl.ok(&["get", "pdb", "keep"]);
        assert!(row.contains("2") && row.contains("N/A"), "{row}");
        kubectl.ok(&["cordon", "node"]);
        let row = kubectl.ok(&["get", "node", "node"]);
        assert!(row.contains("Ready,SchedulingDisabled"), "{row}");

        // Draining fails as long as the budget is spent.
        let drain = ["drain", "node", "--pod-selector=app=web", "--force", "--timeout=4s"];
        let refused = kubectl.fails(&drain);
        let expected = "Cannot evict pod as it would violate the pod's disruption budget.";
        assert!(refused.contains(expected), "{refused}");
        let pods = kubectl.json(&["pods", "-l", "app=web"]);
        assert_eq!(pods["items"].as_array().unwrap().len(), 2);

        // One less is wanted: one pod may go at a time, its successor stays pending here.
        let patch = r#"{"spec":{"minAvailable":1}}"#;
        kubectl.ok(&["patch", "pdb", "keep", "--type=merge", "-p", patch]);
        within(60, "one disruption is allowed", || {
            kubectl.jsonpath(&["pdb", "keep"], "{.status.disruptionsAllowed}") == "1"
        });
        let before = kubectl.json(&["pods", "-l", "app=web"]);
        kubectl.fails(&drain);
        within(60, "exactly one pod was evicted", || {
            let after = kubectl.json(&["pods", "-l", "app=web"]);
            let still = |pod: &&serde_json::Value| {
                let uid = &pod["metadata"]["uid"];
                let mut before = before["items"].as_array().unwrap().iter();
                before.any(|old| &old["metadata"]["uid"] == uid)
            };
            after["items"].as_array().unwrap().iter().filter(still).count() == 1
        });
        kubectl.ok(&["uncordon", "node"]);
        within(120, "both run again", || {
            kubectl.jsonpath(&["pdb", "keep"], "{.status.currentHealthy}") == "2"
        });

        // Without a budget draining goes through.
        kubectl.ok(&["delete", "pdb", "keep"]);
        kubectl.ok(&["drain", "node", "--pod-selector=app=web", "--force", "--timeout=60s"]);
        kubectl.ok(&["uncordon", "node"]);
    });
}
