//! Whole Jobs, simulated: rounds are carried out by a model of the server and of pods that end.

use std::collections::HashSet;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::{Job, JobStatus};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use super::backoff::Backoff;
use super::condition;
use super::round::{Observed, Round};
use super::tracked::{self, TRACKING};
use crate::ownership::controller_reference;

struct World {
    job: Job,
    pods: Vec<Pod>,
    now: Timestamp,
    backoff: Backoff,
    events: Vec<String>,
    created: usize,
}

/// Where a crash may hit a round.
#[derive(Clone, Copy, PartialEq)]
enum Crash {
    Never,
    AfterStatus,
    AfterRelease,
}

impl World {
    fn new(spec: Value) -> Self {
        let mut job: Job = serde_json::from_value(json!({
            "metadata": {"name": "pi", "namespace": "default", "uid": "j"},
            "spec": {"parallelism": 1, "backoffLimit": 6, "completionMode": "NonIndexed",
                "template": {"metadata": {"labels": {"job-name": "pi"}},
                    "spec": {"restartPolicy": "Never", "containers": [{"name": "c"}]}}}
        }))
        .unwrap();
        let mut value = serde_json::to_value(&job.spec).unwrap();
        value.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        job.spec = serde_json::from_value(value).unwrap();
        let now = "2024-01-01T00:00:00Z".parse().unwrap();
        Self {
            job,
            pods: Vec::new(),
            now,
            backoff: Backoff::default(),
            events: Vec::new(),
            created: 0,
        }
    }

    fn pass(&mut self, seconds: i64) {
        self.now += SignedDuration::from_secs(seconds);
    }

    fn round(&mut self) {
        self.round_until(Crash::Never);
    }

    fn round_until(&mut self, crash: Crash) {
        let job = self.job.clone();
        if condition::ended(&job).is_some() {
            return;
        }
        let spec = job.spec.clone().unwrap();
        let pods = self.pods.iter().cloned().map(Arc::new).collect();
        let mut round = Round::begin(
            Observed { job: &job, pods, settled: true, backoff: self.backoff, now: self.now },
            &spec,
        );
        let deleted: HashSet<String> =
            round.delete.iter().map(|pod| pod.metadata.uid.clone().unwrap()).collect();
        for pod in &mut self.pods {
            if deleted.contains(pod.metadata.uid.as_ref().unwrap()) {
                pod.metadata.deletion_timestamp =
                    Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(self.now));
            }
        }
        for new in &round.create {
            let mut pod = tracked::make(&job, &spec, new, controller_reference(&job));
            self.created += 1;
            let uid = format!("{}{}", pod.metadata.generate_name.clone().unwrap(), self.created);
            pod.metadata.uid = Some(uid.clone());
            pod.metadata.name = Some(uid);
            pod.metadata.creation_timestamp =
                Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(self.now));
            self.pods.push(pod);
        }
        let created = round.create.len();
        round.acted(created, &deleted);
        let release = round.count();
        self.job.status = Some(round.status.clone());
        if crash == Crash::AfterStatus {
            self.backoff = Backoff::default();
            return;
        }
        self.backoff = round.backoff;
        let released: HashSet<String> =
            release.iter().map(|pod| pod.metadata.uid.clone().unwrap()).collect();
        for pod in &mut self.pods {
            if released.contains(pod.metadata.uid.as_ref().unwrap()) {
                pod.metadata.finalizers.as_mut().unwrap().retain(|name| name != TRACKING);
            }
        }
        if crash == Crash::AfterRelease {
            self.backoff = Backoff::default();
            return;
        }
        round.released(&released);
        round.finish();
        self.job.status = Some(round.status.clone());
        self.events.extend(round.notices.iter().map(|notice| notice.reason.to_owned()));
    }

    /// Lets the active pod with that index (any, without one) end.
    fn end(&mut self, index: Option<i32>, code: i32) {
        let now = self.now;
        let pod = self
            .pods
            .iter_mut()
            .find(|pod| crate::pod::is_active(pod) && tracked::index(pod) == index)
            .unwrap();
        let phase = if code == 0 { "Succeeded" } else { "Failed" };
        pod.status = serde_json::from_value(json!({"phase": phase, "containerStatuses": [
            {"name": "c", "image": "", "imageID": "", "ready": false, "restartCount": 0,
             "state": {"terminated": {"exitCode": code, "finishedAt": now.to_string()}}}]}))
        .unwrap();
    }

    /// Pods that are being deleted end; those that nothing holds go.
    fn bury(&mut self) {
        for pod in &mut self.pods {
            if pod.metadata.deletion_timestamp.is_some() && !crate::pod::is_terminal(pod) {
                pod.status = serde_json::from_value(json!({"phase": "Failed"})).unwrap();
            }
        }
        self.pods
            .retain(|pod| pod.metadata.deletion_timestamp.is_none() || tracked::is_tracked(pod));
    }

    fn status(&self) -> JobStatus {
        self.job.status.clone().unwrap()
    }

    fn counts(&self) -> (i32, i32, i32) {
        let status = self.status();
        let n = |n: Option<i32>| n.unwrap_or(0);
        (n(status.active), n(status.succeeded), n(status.failed))
    }

    fn conditions(&self) -> Vec<String> {
        let conditions = self.status().conditions.unwrap_or_default();
        let text = |c: &k8s_openapi::api::batch::v1::JobCondition| {
            format!("{}={} {}", c.type_, c.status, c.reason.clone().unwrap())
        };
        conditions.iter().map(text).collect()
    }
}

#[test]
fn a_job_counts_its_pods_and_completes() {
    let mut world = World::new(json!({"completions": 3, "parallelism": 2}));
    world.round();
    assert_eq!((world.counts(), world.pods.len()), ((2, 0, 0), 2));
    world.end(None, 0);
    world.round();
    assert_eq!(world.counts(), (2, 1, 0));
    world.end(None, 0);
    world.end(None, 0);
    world.round();
    assert_eq!(world.counts(), (0, 3, 0));
    assert_eq!(
        world.conditions(),
        ["SuccessCriteriaMet=True CompletionsReached", "Complete=True CompletionsReached"]
    );
    assert!(world.status().completion_time.is_some());
    assert_eq!(world.events, ["Completed"]);
    assert_eq!(world.created, 3);
}

#[test]
fn no_crash_loses_a_pod_or_counts_it_twice() {
    for crash in [Crash::AfterStatus, Crash::AfterRelease] {
        let mut world = World::new(json!({"completions": 2, "parallelism": 1}));
        world.round();
        world.end(None, 1);
        world.round_until(crash);
        world.bury();
        // What a user deletes meanwhile has been counted already.
        if crash == Crash::AfterRelease {
            world.pods.retain(tracked::is_tracked);
        }
        world.round();
        assert_eq!((world.counts().1, world.counts().2), (0, 1));
        world.pass(60);
        world.round();
        for _ in 0..2 {
            world.end(None, 0);
            world.round_until(crash);
            world.round();
        }
        world.round();
        assert_eq!(world.counts(), (0, 2, 1));
        assert_eq!(world.created, 3);
        assert_eq!(world.conditions()[1], "Complete=True CompletionsReached");
    }
}

#[test]
fn failures_wait_ever_longer_until_the_limit() {
    let mut world = World::new(json!({"completions": 1, "backoffLimit": 2}));
    world.round();
    world.end(None, 1);
    world.round();
    assert_eq!(world.created, 1);
    world.pass(10);
    world.round();
    assert_eq!(world.created, 2);
    world.end(None, 1);
    world.pass(19);
    world.round();
    assert_eq!(world.created, 2);
    world.pass(1);
    world.round();
    world.end(None, 1);
    world.round();
    assert_eq!(world.counts(), (0, 0, 3));
    assert_eq!(
        world.conditions(),
        ["FailureTarget=True BackoffLimitExceeded", "Failed=True BackoffLimitExceeded"]
    );
    assert_eq!(world.events, ["BackoffLimitExceeded"]);
}

#[test]
fn a_deadline_ends_running_pods_and_only_then_the_job() {
    let mut world = World::new(json!({"completions": 1, "activeDeadlineSeconds": 5}));
    world.round();
    world.pass(5);
    world.round();
    assert_eq!(world.conditions(), ["FailureTarget=True DeadlineExceeded"]);
    assert_eq!(world.status().terminating, Some(1));
    world.bury();
    world.round();
    assert_eq!(world.conditions()[1], "Failed=True DeadlineExceeded");
    assert_eq!(world.counts(), (0, 0, 1));
}

#[test]
fn indexes_are_handed_out_once_each() {
    let mut world =
        World::new(json!({"completions": 4, "parallelism": 2, "completionMode": "Indexed"}));
    world.round();
    let indexes =
        |world: &World| -> Vec<i32> { world.pods.iter().filter_map(tracked::index).collect() };
    assert_eq!(indexes(&world), [0, 1]);
    world.end(Some(1), 0);
    world.round();
    assert_eq!(indexes(&world), [0, 1, 2]);
    world.end(Some(2), 0);
    world.round();
    assert_eq!(world.status().completed_indexes.as_deref(), Some("1,2"));
    world.end(Some(0), 0);
    world.end(Some(3), 0);
    world.round();
    assert_eq!(world.status().completed_indexes.as_deref(), Some("0-3"));
    assert_eq!(world.conditions()[1], "Complete=True CompletionsReached");
    let pod = serde_json::to_value(&world.pods[2]).unwrap();
    assert_eq!(pod["spec"]["hostname"], "pi-2");
    assert_eq!(pod["metadata"]["generateName"], "pi-2-");
    assert_eq!(pod["metadata"]["labels"]["batch.kubernetes.io/job-completion-index"], "2");
    assert_eq!(pod["spec"]["containers"][0]["env"][0]["name"], "JOB_COMPLETION_INDEX");
}

#[test]
fn an_index_fails_for_itself() {
    let mut world = World::new(json!({"completions": 2, "parallelism": 2,
        "completionMode": "Indexed", "backoffLimit": 1000, "backoffLimitPerIndex": 1}));
    world.round();
    world.end(Some(0), 1);
    world.round();
    // The failed pod is held until its successor carries its count on.
    assert_eq!((world.created, world.counts().2), (2, 0));
    world.pass(10);
    world.round();
    world.round();
    assert_eq!((world.created, world.counts().2), (3, 1));
    assert_eq!(tracked::earlier_failures(&world.pods[2]), (1, 0));
    world.end(Some(0), 1);
    world.round();
    assert_eq!(world.status().failed_indexes.as_deref(), Some("0"));
    world.end(Some(1), 0);
    world.round();
    assert_eq!(world.conditions()[1], "Failed=True FailedIndexes");
    assert_eq!(world.status().completed_indexes.as_deref(), Some("1"));
}

#[test]
fn a_pod_failure_policy_ignores_or_ends() {
    let rule = |action: &str, code: i32| json!({"action": action, "onExitCodes": {"operator": "In", "values": [code]}});
    let mut world = World::new(json!({"completions": 1, "backoffLimit": 0,
        "podReplacementPolicy": "Failed",
        "podFailurePolicy": {"rules": [rule("Ignore", 3), rule("FailJob", 4)]}}));
    world.round();
    world.end(None, 3);
    world.round();
    assert_eq!(world.counts(), (0, 0, 0));
    world.pass(10);
    world.round();
    world.end(None, 4);
    world.round();
    assert_eq!(world.conditions()[1], "Failed=True PodFailurePolicy");
    let message = world.status().conditions.unwrap()[1].message.clone().unwrap();
    assert_eq!(
        message,
        "Container c for pod default/pi-2 failed with exit code 4 matching FailJob rule at index 1"
    );
}

#[test]
fn a_success_policy_ends_the_rest() {
    let mut world = World::new(json!({"completions": 3, "parallelism": 3,
        "completionMode": "Indexed", "successPolicy": {"rules": [{"succeededIndexes": "0"}]}}));
    world.round();
    world.end(Some(0), 0);
    world.round();
    assert_eq!(world.conditions(), ["SuccessCriteriaMet=True SuccessPolicy"]);
    assert_eq!(world.status().terminating, Some(2));
    world.bury();
    world.round();
    world.bury();
    world.round();
    assert_eq!(world.conditions()[1], "Complete=True SuccessPolicy");
    assert_eq!(world.counts().1, 1);
}

#[test]
fn suspending_ends_pods_and_resuming_starts_the_clock_again() {
    let mut world = World::new(json!({"completions": 1, "suspend": true}));
    world.round();
    assert_eq!(world.conditions(), ["Suspended=True JobSuspended"]);
    assert!(world.status().start_time.is_none());
    world.job.spec.as_mut().unwrap().suspend = Some(false);
    world.pass(100);
    world.round();
    assert_eq!(world.conditions(), ["Suspended=False JobResumed"]);
    assert_eq!(world.status().start_time.unwrap().0, world.now);
    assert_eq!(world.created, 1);
    world.job.spec.as_mut().unwrap().suspend = Some(true);
    world.round();
    assert_eq!(world.counts().0, 0);
    assert_eq!(world.events, ["Suspended", "Resumed", "Suspended"]);
}

#[test]
fn a_pod_is_replaced_when_it_goes_or_only_when_it_is_gone() {
    for (policy, expected) in [("TerminatingOrFailed", 2), ("Failed", 1)] {
        let mut world = World::new(json!({"completions": 1, "podReplacementPolicy": policy}));
        world.round();
        world.pods[0].metadata.deletion_timestamp =
            Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(world.now));
        world.pass(20);
        world.round();
        assert_eq!(world.created, expected, "{policy}");
        world.bury();
        world.pass(20);
        world.round();
        world.pass(20);
        world.round();
        assert_eq!((world.created, world.counts().2), (2, 1), "{policy}");
    }
}

#[test]
fn a_work_queue_lets_the_others_end_by_themselves() {
    let mut world = World::new(json!({"parallelism": 2}));
    world.round();
    world.end(None, 0);
    world.round();
    assert_eq!((world.counts(), world.created), ((1, 1, 0), 2));
    assert!(world.conditions().is_empty());
    world.end(None, 0);
    world.round();
    assert_eq!(world.conditions()[1], "Complete=True CompletionsReached");
}
