//! CronJobs: by hand, by the clock, and what is wrong with a schedule.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeSet;

use coracle_integration::{Kubectl, Node, privileged, within};
use serde_json::Value;

fn cron_job(name: &str, spec: &str) -> String {
    format!(
        r#"{{"apiVersion": "batch/v1", "kind": "CronJob", "metadata": {{"name": "{name}"}},
        "spec": {{{spec}, "jobTemplate": {{"metadata": {{"labels": {{"app": "{name}"}}}},
          "spec": {{"template": {{"spec": {{"restartPolicy": "Never",
            "containers": [{{"name": "c", "image": "busybox", "imagePullPolicy": "IfNotPresent",
              "command": ["date"]}}]}}}}}}}}}}}}"#
    )
}

/// The names of a cron job's jobs that are not being deleted.
fn jobs(kubectl: &Kubectl, cron_job: &str) -> BTreeSet<String> {
    let list = kubectl.json(&["jobs", "-l", &format!("app={cron_job}")]);
    let jobs = list["items"].as_array().unwrap().iter();
    let alive = jobs.filter(|job| job["metadata"]["deletionTimestamp"].is_null());
    alive.map(|job| job["metadata"]["name"].as_str().unwrap().to_owned()).collect()
}

/// The minutes since the epoch at which its jobs were due, which their names tell.
fn minutes(kubectl: &Kubectl, cron_job: &str) -> BTreeSet<i64> {
    let minute = |job: &String| job.rsplit('-').next().unwrap().parse().unwrap();
    jobs(kubectl, cron_job).iter().map(minute).collect()
}

fn minute() -> i64 {
    jiff::Timestamp::now().as_second() / 60
}

fn suspend(kubectl: &Kubectl, cron_job: &str, suspended: bool) {
    let patch = format!(r#"{{"spec": {{"suspend": {suspended}}}}}"#);
    kubectl.ok(&["patch", "cronjob", cron_job, "--type=merge", "-p", &patch]);
}

#[test]
fn cron_jobs_start_jobs() {
    if !privileged() {
        return;
    }
    let node = Node::start();
    let kubectls = node.old_and_new_kubectl();
    for kubectl in &kubectls {
        let spec = r#""schedule": "* * * * *", "timeZone": "Asia/Kathmandu""#;
        kubectl.apply(&cron_job("tick", spec));
        by_hand(kubectl);
        wrong_schedules(kubectl);
    }
    for kubectl in &kubectls {
        by_the_clock(kubectl);
    }
}

/// Jobs of a schedule that never comes.
fn by_hand(kubectl: &Kubectl) {
    kubectl.apply(&cron_job("yearly", r#""schedule": "@yearly", "concurrencyPolicy": "Forbid""#));
    // An old client knows only the older version.
    let version = if kubectl.older_than(21) { ".v1beta1.batch" } else { "" };
    kubectl.ok(&["create", "job", "manual", &format!("--from=cronjob{version}/yearly")]);
    kubectl.ok(&["wait", "--for=condition=complete", "job/manual", "--timeout=120s"]);
    let annotation = r"{.metadata.annotations.cronjob\.kubernetes\.io/instantiate}";
    assert_eq!(kubectl.jsonpath(&["job", "manual"], annotation), "manual");
    let row = kubectl.ok(&["get", "cronjob", "yearly"]);
    assert!(row.contains("@yearly"), "{row}");
}

fn wrong_schedules(kubectl: &Kubectl) {
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
}

/// Once per minute at most.
fn by_the_clock(kubectl: &Kubectl) {
    let status =
        |field: &str| kubectl.jsonpath(&["cronjob", "tick"], &format!("{{.status.{field}}}"));
    within(180, "the clock starts a job", || !status("lastScheduleTime").is_empty());
    within(120, "the job succeeds", || !status("lastSuccessfulTime").is_empty());
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
    suspend(kubectl, "tick", true);
    let row = kubectl.ok(&["get", "cronjob", "tick"]);
    assert!(row.contains("True"), "{row}");
    kubectl.ok(&["delete", "cronjob", "tick", "--timeout=60s"]);
    within(60, "the jobs go with their cron job", || {
        kubectl.json(&["jobs", "-l", "app=tick"])["items"].as_array().unwrap().is_empty()
    });
}

/// Each of these waits for minutes to pass. They do that together, each on a node of its own.
#[test]
fn the_clock_starts_what_it_should() {
    if !privileged() {
        return;
    }
    let scenarios: [fn(); 4] = [
        what_still_runs_is_joined_awaited_or_replaced,
        a_missed_time_is_made_up_for_until_its_deadline,
        minutes_without_a_node_do_not_fire_a_flood,
        times_that_come_again_do_not_fire_again,
    ];
    std::thread::scope(|scope| {
        for scenario in scenarios {
            scope.spawn(scenario);
        }
    });
}

fn what_still_runs_is_joined_awaited_or_replaced() {
    let node = Node::start();
    let kubectls = node.old_and_new_kubectl();
    let everywhere = |what: &dyn Fn(&Kubectl) -> bool| kubectls.iter().all(what);
    for kubectl in &kubectls {
        for policy in ["Allow", "Forbid", "Replace"] {
            let spec = format!(r#""schedule": "* * * * *", "concurrencyPolicy": "{policy}""#);
            let job = cron_job(&policy.to_lowercase(), &spec);
            kubectl.apply(&job.replace(r#"["date"]"#, r#"["sleep", "10000"]"#));
        }
    }
    within(120, "each has a job", || {
        everywhere(&|kubectl| {
            ["allow", "forbid", "replace"].iter().all(|name| !jobs(kubectl, name).is_empty())
        })
    });
    let first: Vec<_> = kubectls.iter().map(|kubectl| jobs(kubectl, "replace")).collect();
    within(120, "a second job runs beside the first", || {
        everywhere(&|kubectl| jobs(kubectl, "allow").len() >= 2)
    });
    for (kubectl, first) in kubectls.iter().zip(first) {
        within(60, "another has taken the place of the first", || {
            let now = jobs(kubectl, "replace");
            now.len() == 1 && now != first
        });
        kubectl.event(
            "forbid",
            "JobAlreadyActive",
            "Not starting job because prior execution is running and concurrency policy is Forbid",
        );
        kubectl.event("replace", "SuccessfulDelete", "Deleted job replace-");
        assert_eq!(jobs(kubectl, "forbid").len(), 1);
        let active = kubectl.json(&["cronjob", "allow"])["status"]["active"].clone();
        assert!(active.as_array().unwrap().len() >= 2, "{active}");
    }
    for kubectl in &kubectls {
        kubectl.ok(&["delete", "cronjobs", "--all", "--timeout=60s"]);
        within(60, "the pods go with their jobs", || {
            kubectl.json(&["pods"])["items"].as_array().unwrap().is_empty()
        });
    }
}

fn a_missed_time_is_made_up_for_until_its_deadline() {
    let node = Node::start();
    let kubectls = node.old_and_new_kubectl();
    let second = || jiff::Timestamp::now().as_second() % 60;
    let paused = r#""schedule": "* * * * *", "suspend": true"#;
    for kubectl in &kubectls {
        kubectl.apply(&cron_job("patient", paused));
        kubectl.apply(&cron_job("late", &format!(r#"{paused}, "startingDeadlineSeconds": 10"#)));
    }
    // A time passes while both are suspended, and then the deadline of one.
    let created = minute();
    within(120, "the middle of another minute", || {
        minute() > created && (20..40).contains(&second())
    });
    let missed = minute();
    for kubectl in &kubectls {
        suspend(kubectl, "patient", false);
        suspend(kubectl, "late", false);
    }
    assert_eq!(minute(), missed, "this machine is too slow for a minute");
    for kubectl in &kubectls {
        let first = |name: &str| minutes(kubectl, name).first().copied();
        within(120, "both have started a job", || {
            first("patient").is_some() && first("late").is_some()
        });
        assert_eq!(first("patient"), Some(missed));
        assert!(first("late") > Some(missed));
        let row = kubectl.ok(&["get", "cronjobs"]);
        assert!(row.contains("patient") && row.contains("False"), "{row}");
        kubectl.ok(&["delete", "cronjobs", "--all", "--timeout=60s"]);
    }
}

fn minutes_without_a_node_do_not_fire_a_flood() {
    let mut node = Node::start();
    let kubectls = node.old_and_new_kubectl();
    let spec = r#""schedule": "* * * * *", "successfulJobsHistoryLimit": 9"#;
    for kubectl in &kubectls {
        kubectl.apply(&cron_job("tick", spec));
    }
    let created = minute();
    // To a cron job, a machine that was asleep is a clock that has jumped.
    node.stop_agent();
    within(240, "three times have passed", || minute() > created + 2);
    node.up();
    for kubectl in &kubectls {
        within(60, "the last of them is made up for", || !minutes(kubectl, "tick").is_empty());
        let first = *minutes(kubectl, "tick").first().unwrap();
        assert!(first > created + 2, "{first} after {created}");
        within(120, "the next one follows", || minutes(kubectl, "tick").len() > 1);
        assert_eq!(*minutes(kubectl, "tick").first().unwrap(), first);
        kubectl.ok(&["delete", "cronjob", "tick", "--timeout=60s"]);
    }
}

/// What a clock that is set back leaves: the last time that led to a job is still to come. (The
/// machine's own clock is set in `make vm`.)
fn times_that_come_again_do_not_fire_again() {
    let node = Node::start();
    let kubectls = node.old_and_new_kubectl();
    let ahead = minute() + 2;
    for kubectl in &kubectls {
        kubectl.apply(&cron_job("tick", r#""schedule": "* * * * *", "suspend": true"#));
        let mut tick: Value = kubectl.json(&["cronjob", "tick"]);
        let time = jiff::Timestamp::from_second(ahead * 60).unwrap();
        tick["status"]["lastScheduleTime"] = time.to_string().into();
        let namespace = tick["metadata"]["namespace"].as_str().unwrap();
        let path = format!("/apis/batch/v1/namespaces/{namespace}/cronjobs/tick/status");
        let written =
            kubectl.run_with_input(&["replace", "--raw", &path, "-f", "-"], &tick.to_string());
        assert_eq!(written.code, 0, "{}", written.stderr);
        suspend(kubectl, "tick", false);
    }
    assert!(minute() < ahead, "this machine is too slow for a minute");
    for kubectl in &kubectls {
        within(300, "a later time starts a job", || !minutes(kubectl, "tick").is_empty());
        assert_eq!(minutes(kubectl, "tick").first(), Some(&(ahead + 1)));
        kubectl.ok(&["delete", "cronjob", "tick", "--timeout=60s"]);
    }
}
