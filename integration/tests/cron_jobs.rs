//! CronJobs: by hand, by the clock, and what is wrong with a schedule.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeSet;

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

#[test]
fn what_still_runs_is_joined_awaited_or_replaced() {
    if !privileged() {
        return;
    }
    let node = Node::start();
    let kubectl = node.any_kubectl();
    for policy in ["Allow", "Forbid", "Replace"] {
        let spec = format!(r#""schedule": "* * * * *", "concurrencyPolicy": "{policy}""#);
        let name = policy.to_lowercase();
        kubectl.apply(&cron_job(&name, &spec).replace(r#"["date"]"#, r#"["sleep", "10000"]"#));
    }
    let jobs = |name: &str| -> BTreeSet<String> {
        let list = kubectl.json(&["jobs", "-l", &format!("app={name}")]);
        let jobs = list["items"].as_array().unwrap().iter();
        let alive = jobs.filter(|job| job["metadata"]["deletionTimestamp"].is_null());
        alive.map(|job| job["metadata"]["name"].as_str().unwrap().to_owned()).collect()
    };
    within(120, "each has a job", || {
        ["allow", "forbid", "replace"].iter().all(|name| jobs(name).len() == 1)
    });
    let first = jobs("replace");
    within(120, "a second job runs beside the first", || jobs("allow").len() >= 2);
    within(60, "another has taken the place of the first", || {
        let now = jobs("replace");
        now.len() == 1 && now != first
    });
    let event = |name: &str, reason: &str, message: &str| {
        within(60, &format!("{name}: {reason}"), || {
            let selector = format!("involvedObject.name={name},reason={reason}");
            let list = kubectl.json(&["events", "--field-selector", &selector]);
            let mut events = list["items"].as_array().unwrap().iter();
            events.any(|event| event["message"].as_str().unwrap().starts_with(message))
        });
    };
    event(
        "forbid",
        "JobAlreadyActive",
        "Not starting job because prior execution is running and concurrency policy is Forbid",
    );
    event("replace", "SuccessfulDelete", "Deleted job replace-");
    assert_eq!(jobs("forbid").len(), 1);
    let active = kubectl.json(&["cronjob", "allow"])["status"]["active"].clone();
    assert!(active.as_array().unwrap().len() >= 2, "{active}");
    kubectl.ok(&["delete", "cronjobs", "--all", "--timeout=60s"]);
    within(60, "the pods go with their jobs", || {
        kubectl.json(&["pods"])["items"].as_array().unwrap().is_empty()
    });
}

#[test]
fn a_missed_time_is_made_up_for_until_its_deadline() {
    if !privileged() {
        return;
    }
    let node = Node::start();
    let kubectl = node.any_kubectl();
    let old = node.kubectl("1.20").unwrap_or_else(|| kubectl.clone());
    let minute = || jiff::Timestamp::now().as_second() / 60;
    let second = || jiff::Timestamp::now().as_second() % 60;
    let paused = r#""schedule": "* * * * *", "suspend": true"#;
    old.apply(&cron_job("patient", paused));
    kubectl.apply(&cron_job("late", &format!(r#"{paused}, "startingDeadlineSeconds": 10"#)));
    // A time passes while both are suspended, and then the deadline of one.
    let created = minute();
    within(120, "the middle of another minute", || {
        minute() > created && (20..40).contains(&second())
    });
    let missed = minute();
    let resume = r#"{"spec": {"suspend": false}}"#;
    old.ok(&["patch", "cronjob", "patient", "--type=merge", "-p", resume]);
    kubectl.ok(&["patch", "cronjob", "late", "--type=merge", "-p", resume]);
    assert_eq!(minute(), missed, "this machine is too slow for a minute");
    let first = |name: &str| -> i64 {
        let jobs = kubectl.json(&["jobs", "-l", &format!("app={name}")]);
        let names = jobs["items"].as_array().unwrap().iter();
        let minutes = names.map(|job| {
            let job = job["metadata"]["name"].as_str().unwrap();
            job.rsplit('-').next().unwrap().parse::<i64>().unwrap()
        });
        minutes.min().unwrap_or(0)
    };
    within(120, "both have started a job", || first("patient") != 0 && first("late") != 0);
    assert_eq!(first("patient"), missed);
    assert!(first("late") > missed);
    let row = old.ok(&["get", "cronjobs"]);
    assert!(row.contains("patient") && row.contains("False"), "{row}");
    kubectl.ok(&["delete", "cronjobs", "--all", "--timeout=60s"]);
}

#[test]
fn minutes_without_a_node_do_not_fire_a_flood() {
    if !privileged() {
        return;
    }
    let mut node = Node::start();
    let kubectl = node.any_kubectl();
    kubectl.apply(&cron_job("tick", r#""schedule": "* * * * *", "successfulJobsHistoryLimit": 9"#));
    let minute = || jiff::Timestamp::now().as_second() / 60;
    let created = minute();
    // To a cron job, a machine that was asleep is a clock that has jumped.
    node.stop_agent();
    within(240, "three times have passed", || minute() > created + 2);
    node.up();
    let minutes = || -> BTreeSet<i64> {
        let jobs = kubectl.json(&["jobs", "-l", "app=tick"]);
        let names = jobs["items"].as_array().unwrap().iter();
        let name = |job: &serde_json::Value| job["metadata"]["name"].as_str().unwrap().to_owned();
        names.map(|job| name(job).rsplit('-').next().unwrap().parse().unwrap()).collect()
    };
    within(60, "the last of them is made up for", || !minutes().is_empty());
    let first = *minutes().first().unwrap();
    assert!(first > created + 2, "{first} after {created}");
    within(120, "the next one follows", || minutes().len() > 1);
    assert_eq!(*minutes().first().unwrap(), first);
    kubectl.ok(&["delete", "cronjob", "tick", "--timeout=60s"]);
}
