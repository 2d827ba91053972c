//! CronJobs: by hand, by the clock, and what is wrong with a schedule.
#![allow(clippy::unwrap_used, clippy::panic)]

use coracle_integration::{Node, privileged, within};

fn cron_job(name: &str, spec: &str) -> String {
    format!(
        r#"{{"apiVersion": "batch/v1", "kind": "CronJob", "metadata": {{"name": "{name}"}},
        "spec": {{{spec}, "jobTemplate": {{"metadata": {{"labels": {{"app": "{name}"}}}},
          "spec": {{"template": {{"spec": {{"restartPolicy": "Never",
            "containers": [{{"name": "c", "image": "busybox", "imagePullPolicy": "IfNotPresent",
              "command": ["date"]}}]}}}}}}}}}}}}"#
    )
}

#[test]
fn cron_jobs_start_jobs() {
    if !privileged() {
        return;
    }
    let node = Node::start();
    let kubectl = node.any_kubectl();
    kubectl.apply(&cron_job("tick", r#""schedule": "* * * * *", "timeZone": "Asia/Kathmandu""#));

    // By hand, with a schedule that never comes.
    kubectl.apply(&cron_job("yearly", r#""schedule": "@yearly", "concurrencyPolicy": "Forbid""#));
    kubectl.ok(&["create", "job", "manual", "--from=cronjob/yearly"]);
    kubectl.ok(&["wait", "--for=condition=complete", "job/manual", "--timeout=120s"]);
    let annotation = r"{.metadata.annotations.cronjob\.kubernetes\.io/instantiate}";
    assert_eq!(kubectl.jsonpath(&["job", "manual"], annotation), "manual");
    if let Some(old) = node.kubectl("1.20") {
        // This client knows only the older version.
        old.ok(&["create", "job", "by-old-client", "--from=cronjob.v1beta1.batch/yearly"]);
        let row = old.ok(&["get", "cronjob", "yearly"]);
        assert!(row.contains("@yearly"), "{row}");
    }

    // What is wrong is told.
    for (spec, expected) in [
        (r#""schedule": "61 * * * *""#, "end of range (61) above maximum (59): 61"),
        (
            r#""schedule": "* * * * *", "timeZone": "Mars/Olympus""#,
            "unknown time zone Mars/Olympus",
        ),
        (
            r#""schedule": "* * * * *", "timeZone": "Local""#,
            "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones",
        ),
        (
            r#""schedule": "TZ=UTC * * * * *""#,
            "cannot use TZ or CRON_TZ in schedule, use timeZone field instead",
        ),
        (
            r#""schedule": "CRON_TZ=UTC * * * * *", "timeZone": "Etc/UTC""#,
            "cannot use both timeZone field and TZ or CRON_TZ in schedule",
        ),
    ] {
        let refused = kubectl.run_with_input(&["apply", "-f", "-"], &cron_job("wrong", spec));
        assert!(refused.code != 0 && refused.stderr.contains(expected), "{}", refused.stderr);
    }

    // By the clock, once per minute at most.
    within(180, "the clock starts a job", || {
        !kubectl.jsonpath(&["cronjob", "tick"], "{.status.lastScheduleTime}").is_empty()
    });
    within(120, "the job succeeds", || {
        !kubectl.jsonpath(&["cronjob", "tick"], "{.status.lastSuccessfulTime}").is_empty()
    });
    let jobs = kubectl.json(&["jobs", "-l", "app=tick"]);
    for job in jobs["items"].as_array().unwrap() {
        let name = job["metadata"]["name"].as_str().unwrap();
        let minute: i64 = name.strip_prefix("tick-").unwrap().parse().unwrap();
        let annotation = "batch.kubernetes.io/cronjob-scheduled-timestamp";
        let text = job["metadata"]["annotations"][annotation].as_str().unwrap();
        assert!(text.ends_with("+05:45"), "{text}");
        let scheduled: jiff::Timestamp = text.parse().unwrap();
        assert_eq!(scheduled.as_second(), minute * 60);
    }

    // A suspended one stays quiet, and its jobs go with it.
    kubectl.ok(&["patch", "cronjob", "tick", "--type=merge", "-p", r#"{"spec":{"suspend":true}}"#]);
    let row = kubectl.ok(&["get", "cronjob", "tick"]);
    assert!(row.contains("True"), "{row}");
    kubectl.ok(&["delete", "cronjob", "tick", "--timeout=60s"]);
    within(60, "the jobs go with their cron job", || {
        kubectl.json(&["jobs", "-l", "app=tick"])["items"].as_array().unwrap().is_empty()
    });
}
