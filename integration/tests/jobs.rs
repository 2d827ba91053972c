//! Jobs run to their end, counted exactly, also over crashes of the node's agent.
#![allow(clippy::unwrap_used, clippy::panic)]

use coracle_integration::{Kubectl, Node, privileged, with_old_and_new_kubectl, within};
use serde_json::Value;

fn job(name: &str, spec: &str, script: &str) -> String {
    format!(
        r#"{{"apiVersion": "batch/v1", "kind": "Job", "metadata": {{"name": "{name}"}}, "spec": {{{spec}
        "template": {{"spec": {{"restartPolicy": "Never", "terminationGracePeriodSeconds": 1,
          "containers": [{{"name": "c", "image": "busybox", "imagePullPolicy": "IfNotPresent",
            "command": ["sh", "-c", "{script}"]}}]}}}}}}}}"#
    )
}

fn conditions(kubectl: &Kubectl, name: &str) -> Vec<String> {
    let job = kubectl.json(&["job", name]);
    let conditions = job["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let text = |c: &Value| format!("{}={} {}", c["type"], c["status"], c["reason"]);
    conditions.iter().map(|c| text(c).replace('"', "")).collect()
}

fn ends_as(kubectl: &Kubectl, name: &str, expected: [&str; 2]) {
    within(120, &format!("job {name} ends"), || conditions(kubectl, name).len() == 2);
    assert_eq!(conditions(kubectl, name), expected, "{name}");
}

fn count(job: &Value, field: &str) -> i64 {
    job["status"][field].as_i64().unwrap_or(0)
}

#[test]
fn jobs_run_to_their_end() {
    with_old_and_new_kubectl(|_, kubectl| {
        completions(kubectl);
        failures(kubectl);
        indexes(kubectl);
        policies_of_indexes(kubectl);
        suspension(kubectl);
    });
}

fn completions(kubectl: &Kubectl) {
    kubectl.apply(&job("ok", r#""completions": 3, "parallelism": 2,"#, "echo done"));
    kubectl.ok(&["wait", "--for=condition=complete", "job/ok", "--timeout=120s"]);
    ends_as(
        kubectl,
        "ok",
        ["SuccessCriteriaMet=True CompletionsReached", "Complete=True CompletionsReached"],
    );
    let job = kubectl.json(&["job", "ok"]);
    assert_eq!((count(&job, "succeeded"), count(&job, "failed"), count(&job, "active")), (3, 0, 0));
    assert_eq!(job["status"]["uncountedTerminatedPods"], serde_json::json!({}));
    let pods = kubectl.json(&["pods", "-l", "job-name=ok"]);
    let pods = pods["items"].as_array().unwrap().clone();
    assert_eq!(pods.len(), 3);
    for pod in &pods {
        assert!(pod["metadata"]["finalizers"].is_null(), "{pod}");
        let labels = &pod["metadata"]["labels"];
        assert_eq!(labels["batch.kubernetes.io/job-name"], "ok");
        assert_eq!(labels["controller-uid"], job["metadata"]["uid"]);
    }
    assert_eq!(kubectl.ok(&["logs", "job/ok"]).trim(), "done");
    let described = kubectl.ok(&["describe", "job", "ok"]);
    assert!(described.contains("Job completed"), "{described}");
    assert!(described.contains("3 Succeeded"), "{described}");
    let row = kubectl.ok(&["get", "job", "ok"]);
    assert!(row.contains("3/3"), "{row}");
    kubectl.ok(&["delete", "job", "ok", "--timeout=60s"]);
    within(60, "the pods go with their job", || {
        kubectl.json(&["pods", "-l", "job-name=ok"])["items"].as_array().unwrap().is_empty()
    });
}

fn failures(kubectl: &Kubectl) {
    kubectl.apply(&job("bad", r#""backoffLimit": 0,"#, "exit 3"));
    kubectl.apply(&job("late", r#""activeDeadlineSeconds": 2,"#, "sleep 1000"));
    let policy = r#""backoffLimit": 5, "podFailurePolicy": {"rules": [{"action": "FailJob",
        "onExitCodes": {"operator": "In", "values": [42]}}]},"#;
    kubectl.apply_unvalidated(&job("fatal", policy, "exit 42"));
    ends_as(
        kubectl,
        "bad",
        ["FailureTarget=True BackoffLimitExceeded", "Failed=True BackoffLimitExceeded"],
    );
    ends_as(
        kubectl,
        "late",
        ["FailureTarget=True DeadlineExceeded", "Failed=True DeadlineExceeded"],
    );
    ends_as(
        kubectl,
        "fatal",
        ["FailureTarget=True PodFailurePolicy", "Failed=True PodFailurePolicy"],
    );
    let message = kubectl.jsonpath(&["job", "fatal"], "{.status.conditions[1].message}");
    let expected = "failed with exit code 42 matching FailJob rule at index 0";
    assert!(message.ends_with(expected), "{message}");
    assert_eq!(kubectl.jsonpath(&["job", "bad"], "{.status.failed}"), "1");
}

fn policies_of_indexes(kubectl: &Kubectl) {
    let spec = r#""completions": 3, "parallelism": 3, "completionMode": "Indexed",
        "backoffLimitPerIndex": 1,"#;
    kubectl.apply_unvalidated(&job("each", spec, "exit $((JOB_COMPLETION_INDEX % 2))"));
    ends_as(kubectl, "each", ["FailureTarget=True FailedIndexes", "Failed=True FailedIndexes"]);
    let job_each = kubectl.json(&["job", "each"]);
    let status = &job_each["status"];
    assert_eq!(
        (&status["completedIndexes"], &status["failedIndexes"]),
        (&"0,2".into(), &"1".into())
    );
    // The one that fails was tried twice; the others went on.
    assert_eq!((count(&job_each, "succeeded"), count(&job_each, "failed")), (2, 2));

    let spec = r#""completions": 3, "parallelism": 3, "completionMode": "Indexed",
        "successPolicy": {"rules": [{"succeededIndexes": "1"}]},"#;
    let script = "[ $JOB_COMPLETION_INDEX = 1 ] || sleep 1000";
    kubectl.apply_unvalidated(&job("leader", spec, script));
    ends_as(
        kubectl,
        "leader",
        ["SuccessCriteriaMet=True SuccessPolicy", "Complete=True SuccessPolicy"],
    );
    assert_eq!(kubectl.jsonpath(&["job", "leader"], "{.status.completedIndexes}"), "1");
    within(60, "the others end", || {
        kubectl.jsonpath(&["job", "leader"], "{.status.active}").is_empty()
    });
}

fn suspension(kubectl: &Kubectl) {
    kubectl.apply_unvalidated(&job("paused", r#""suspend": true,"#, "true"));
    within(60, "it says that it is suspended", || {
        conditions(kubectl, "paused") == ["Suspended=True JobSuspended"]
    });
    let pods = || kubectl.json(&["pods", "-l", "job-name=paused"])["items"].clone();
    assert_eq!(pods(), serde_json::json!([]));
    let resume = r#"{"spec": {"suspend": false}}"#;
    kubectl.ok(&["patch", "job", "paused", "--type=merge", "-p", resume]);
    kubectl.ok(&["wait", "--for=condition=complete", "job/paused", "--timeout=120s"]);
    assert_eq!(conditions(kubectl, "paused")[0], "Suspended=False JobResumed");
    assert_eq!(pods().as_array().unwrap().len(), 1);
    let described = kubectl.ok(&["describe", "job", "paused"]);
    assert!(described.contains("Suspended") && described.contains("Resumed"), "{described}");
}

fn indexes(kubectl: &Kubectl) {
    let spec = r#""completions": 3, "parallelism": 3, "completionMode": "Indexed",
        "ttlSecondsAfterFinished": 20,"#;
    kubectl.apply_unvalidated(&job("indexed", spec, "echo $JOB_COMPLETION_INDEX $(hostname)"));
    within(120, "every index succeeds", || {
        kubectl.jsonpath(&["job", "indexed"], "{.status.completedIndexes}") == "0-2"
    });
    let pods = kubectl.json(&["pods", "-l", "job-name=indexed"]);
    for pod in pods["items"].as_array().unwrap() {
        let metadata = &pod["metadata"];
        let index = metadata["annotations"]["batch.kubernetes.io/job-completion-index"].as_str();
        let index = index.unwrap();
        let name = metadata["name"].as_str().unwrap();
        assert!(name.starts_with(&format!("indexed-{index}-")), "{name}");
        assert_eq!(kubectl.ok(&["logs", name]).trim(), format!("{index} indexed-{index}"));
    }
    within(120, "the job goes after its time to live", || {
        kubectl.run(&["get", "job", "indexed"]).code != 0
    });
}

#[test]
fn a_crash_neither_loses_a_pod_nor_counts_it_twice() {
    if !privileged() {
        return;
    }
    let mut node = Node::start();
    let kubectls = node.old_and_new_kubectl();
    for kubectl in &kubectls {
        kubectl.apply(&job("many", r#""completions": 12, "parallelism": 3,"#, "sleep 0.3"));
    }
    for _ in 0..3 {
        for kubectl in &kubectls {
            let before = count(&kubectl.json(&["job", "many"]), "succeeded");
            within(60, "some pods succeed", || {
                let job = kubectl.json(&["job", "many"]);
                count(&job, "succeeded") > before || !job["status"]["completionTime"].is_null()
            });
        }
        node.kill_agent();
        node.up();
    }
    for kubectl in &kubectls {
        kubectl.ok(&["wait", "--for=condition=complete", "job/many", "--timeout=120s"]);
        let job = kubectl.json(&["job", "many"]);
        assert_eq!((count(&job, "succeeded"), count(&job, "failed")), (12, 0));
        let pods = kubectl.json(&["pods", "-l", "job-name=many"]);
        assert_eq!(pods["items"].as_array().unwrap().len(), 12);
    }
}
