//! `kill -9` of the agent at random moments while every controller is at work: no identity is
//! there twice, no Job is counted twice or lost, no CronJob fires twice for one time, every rollout
//! arrives, and nothing leaks.
//!
//! `CORACLE_KILLS` says how often.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use coracle_integration::{Kubectl, Node, Random, privileged, random, within};
use serde_json::{Value, json};

/// How many CronJobs fire at the same time.
const CRON_JOBS: usize = 3;
/// Pods of each Job.
const COMPLETIONS: i64 = 6;
/// Rounds between two Jobs.
const JOB_EVERY: u32 = 3;

/// Says who it is in `/out/$PLACE`, and leaves a trace in `/out/violations` when somebody else
/// says so while it still runs.
const TENANT: &str = "id=$(cat /proc/sys/kernel/random/uuid); echo $id > /out/$PLACE.$id; \
                      mv /out/$PLACE.$id /out/$PLACE; trap 'exit 0' TERM; while true; do \
                      [ $(cat /out/$PLACE) = $id ] || echo $PLACE $id >> /out/violations; \
                      sleep 0.1; done";

fn template(app: &str, out: &Path, place: &Value, command: &str, policy: &str) -> Value {
    json!({
        "metadata": {"labels": {"app": app}},
        "spec": {
            "restartPolicy": policy,
            "terminationGracePeriodSeconds": 2,
            "volumes": [{"name": "out", "hostPath": {"path": out}}],
            "containers": [{
                "name": "main", "image": "busybox", "imagePullPolicy": "IfNotPresent",
                "command": ["sh", "-c", command],
                "env": [place],
                "volumeMounts": [{"name": "out", "mountPath": "/out"}],
            }],
        },
    })
}

fn named(field: &str) -> Value {
    json!({"name": "PLACE", "valueFrom": {"fieldRef": {"fieldPath": field}}})
}

fn apply(kubectl: &Kubectl, object: &Value) {
    kubectl.apply(&object.to_string());
}

fn workload(kind: &str, name: &str, template: &Value, more: Value) -> Value {
    let mut spec = json!({"selector": {"matchLabels": {"app": name}}, "template": template});
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!({"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": name}, "spec": spec})
}

/// The Job leaves a mark for every pod that ran, with the pod's name behind it.
fn job_spec(app: &str, out: &Path, completions: i64) -> Value {
    let command = "sleep 0.3; echo $PLACE $HOSTNAME >> /out/marks";
    let index = "metadata.annotations['batch.kubernetes.io/job-completion-index']";
    let place = if completions > 1 { index } else { "metadata.labels['job-name']" };
    let mut spec = json!({
        "backoffLimit": 0, "completions": completions, "parallelism": 3,
        "template": template(app, out, &named(place), command, "Never"),
    });
    if completions > 1 {
        spec["completionMode"] = "Indexed".into();
    }
    spec
}

fn items(kubectl: &Kubectl, what: &[&str]) -> Vec<Value> {
    kubectl.json(what)["items"].as_array().unwrap().clone()
}

fn lines(path: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

fn name(object: &Value) -> String {
    object["metadata"]["name"].as_str().unwrap().to_owned()
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

struct World {
    node: Node,
    kubectl: Kubectl,
    random: Random,
    version: u64,
    jobs: u32,
    began: u64,
}

impl World {
    fn out(&self, name: &str) -> std::path::PathBuf {
        let path = self.node.path(&format!("out-{name}"));
        std::fs::create_dir_all(&path).unwrap();
        path
    }

    fn populate(&mut self) {
        let pod_name = named("metadata.name");
        let node_name = named("spec.nodeName");
        let db = template("db", &self.out("db"), &pod_name, TENANT, "Always");
        let set = json!({"serviceName": "db", "replicas": 3});
        apply(&self.kubectl, &workload("StatefulSet", "db", &db, set));
        let logs = template("logs", &self.out("logs"), &node_name, TENANT, "Always");
        apply(&self.kubectl, &workload("DaemonSet", "logs", &logs, json!({})));
        let web = template("web", &self.out("web"), &pod_name, TENANT, "Always");
        apply(&self.kubectl, &workload("Deployment", "web", &web, json!({"replicas": 3})));
        for number in 0..CRON_JOBS {
            let name = format!("tick-{number}");
            let spec = job_spec(&name, &self.out(&name), 1);
            apply(
                &self.kubectl,
                &json!({
                    "apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": name},
                    // Jobs that are gone do not keep their names from being used again.
                    "spec": {"schedule": "* * * * *", "successfulJobsHistoryLimit": 0,
                        "jobTemplate": {"spec": spec}},
                }),
            );
        }
    }

    fn job(&mut self) {
        let name = format!("work-{}", self.jobs);
        self.jobs += 1;
        let spec = job_spec(&name, &self.out(&name), COMPLETIONS);
        apply(
            &self.kubectl,
            &json!({"apiVersion": "batch/v1", "kind": "Job",
            "metadata": {"name": name}, "spec": spec}),
        );
    }

    /// What a user does; it may fail, because a pod is not there at that moment.
    fn deed(&mut self) {
        self.version += 1;
        let version = format!("VERSION={}", self.version);
        let replicas = format!("--replicas={}", self.random.below(4) + 1);
        let deeds: [&[&str]; 7] = [
            &["set", "env", "statefulset/db", &version],
            &["scale", "statefulset", "db", &replicas],
            &["delete", "pod", "db-0", "--wait=false"],
            &["set", "env", "daemonset/logs", &version],
            &["delete", "pod", "-l", "app=logs", "--wait=false"],
            &["set", "env", "deployment/web", &version],
            &["scale", "deployment", "web", &replicas],
        ];
        self.kubectl.run(deeds[self.random.below(7) as usize]);
    }

    fn kill(&mut self, within_ms: u64) {
        std::thread::sleep(Duration::from_millis(self.random.below(within_ms)));
        self.node.kill_agent();
        // Some starts are killed, too.
        if self.random.below(4) == 0 {
            self.node.up_for(Duration::from_millis(self.random.below(700)));
        }
        self.node.up();
    }

    fn check_workloads(&self) {
        let kubectl = &self.kubectl;
        for what in ["statefulset/db", "daemonset/logs", "deployment/web"] {
            kubectl.ok(&["rollout", "status", what, "--timeout=180s"]);
        }
        let pods = |app: &str| {
            let pods = items(kubectl, &["pods", "-l", &format!("app={app}")]);
            let alive = |pod: &Value| pod["metadata"]["deletionTimestamp"].is_null();
            pods.into_iter().filter(alive).collect::<Vec<_>>()
        };
        let environment = |template: &Value| template["spec"]["containers"][0]["env"].clone();
        for (kind, app) in [("statefulset", "db"), ("daemonset", "logs"), ("deployment", "web")] {
            let object = kubectl.json(&[kind, app]);
            let wanted = environment(&object["spec"]["template"]);
            let replicas = object["spec"]["replicas"].as_u64().unwrap_or(1) as usize;
            within(120, &format!("{app} has the pods it should have"), || {
                pods(app).len() == replicas
            });
            for pod in pods(app) {
                assert_eq!(environment(&pod), wanted, "{}", name(&pod));
                assert_eq!(pod["status"]["containerStatuses"][0]["restartCount"], 0, "{pod}");
            }
            if kind == "statefulset" {
                let names: BTreeSet<String> = pods(app).iter().map(name).collect();
                let expected = (0..replicas).map(|ordinal| format!("{app}-{ordinal}"));
                assert_eq!(names, expected.collect());
            }
            // Nobody ever was where another still lived.
            let violations = lines(&self.out(app).join("violations"));
            assert!(violations.is_empty(), "{app}: {violations:?}");
        }
        // One ReplicaSet for each template, however often its creation was tried.
        let sets = items(kubectl, &["replicasets", "-l", "app=web"]);
        let templates: BTreeSet<String> =
            sets.iter().map(|set| environment(&set["spec"]["template"]).to_string()).collect();
        assert_eq!(templates.len(), sets.len(), "a template has two ReplicaSets");
    }

    fn check_jobs(&self) {
        let kubectl = &self.kubectl;
        for number in 0..self.jobs {
            let name = format!("work-{number}");
            let job = format!("job/{name}");
            kubectl.ok(&["wait", "--for=condition=complete", &job, "--timeout=180s"]);
            let status = kubectl.json(&["job", &name])["status"].clone();
            let count = |field: &str| status[field].as_i64().unwrap_or(0);
            let counts = (count("succeeded"), count("failed"), count("active"));
            assert_eq!(counts, (COMPLETIONS, 0, 0), "{name}: {status}");
            assert_eq!(status["completedIndexes"], "0-5", "{name}");
            assert_eq!(status["uncountedTerminatedPods"], json!({}), "{name}");
            let pods = items(kubectl, &["pods", "-l", &format!("job-name={name}")]);
            assert_eq!(pods.len() as i64, COMPLETIONS, "{name}");
            for pod in &pods {
                assert!(pod["metadata"]["finalizers"].is_null(), "{pod}");
            }
            let mut lines = lines(&self.out(&name).join("marks"));
            lines.sort();
            let marks: Vec<&str> =
                lines.iter().map(|line| line.split_once(' ').unwrap().0).collect();
            let expected: Vec<String> = (0..COMPLETIONS).map(|index| index.to_string()).collect();
            assert_eq!(marks, expected, "{name}: every index ran once: {lines:?}");
        }
    }

    /// Every minute since the beginning fired once.
    fn check_cron_jobs(&self) {
        for number in 0..CRON_JOBS {
            let cron_job = format!("tick-{number}");
            let patch = r#"{"spec": {"suspend": true}}"#;
            self.kubectl.ok(&["patch", "cronjob", &cron_job, "--type=merge", "-p", patch]);
        }
        within(120, "every Job that was started has ended", || {
            let jobs = items(&self.kubectl, &["jobs"]);
            jobs.iter().all(|job| !name(job).starts_with("tick-"))
        });
        for number in 0..CRON_JOBS {
            let cron_job = format!("tick-{number}");
            let mut fired: BTreeMap<u64, u32> = BTreeMap::new();
            let lines = lines(&self.out(&cron_job).join("marks"));
            for line in &lines {
                let (mark, _) = line.split_once(' ').unwrap();
                let minute = mark.strip_prefix(&format!("{cron_job}-")).unwrap().parse().unwrap();
                *fired.entry(minute).or_default() += 1;
            }
            let (first, last) = (self.began / 60 + 1, *fired.keys().max().expect("it fired"));
            let expected: BTreeMap<u64, u32> = (first..=last).map(|minute| (minute, 1)).collect();
            assert_eq!(fired, expected, "{cron_job}: once for every minute: {lines:?}");
        }
    }
}

#[test]
fn controllers_survive_kills() {
    if !privileged() {
        return;
    }
    let kills = random::kills(14);
    let random = Random::new(Random::seed());
    let node = Node::start();
    let before = node.footprint();
    let kubectl = node.any_kubectl();
    let mut world = World { node, kubectl, random, version: 1, jobs: 0, began: 0 };
    // Not on the edge of a minute: everything is there before the first one comes.
    within(30, "there is time", || now() % 60 < 50);
    world.began = now();
    world.populate();
    assert_eq!(world.began / 60, now() / 60, "the beginning took too long");
    let mut rounds = 0;
    let mut minute = now() / 60;
    // The clock decides when a CronJob fires: on to the next minute at least.
    while rounds < kills || now() / 60 < world.began / 60 + 1 {
        if rounds % JOB_EVERY == 0 && rounds < kills {
            world.job();
        }
        if now() / 60 > minute {
            // Something fires just now.
            minute = now() / 60;
            for _ in 0..3 {
                world.kill(250);
            }
        } else if rounds < kills {
            world.deed();
            world.kill(900);
            rounds += 1;
        } else {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    for _ in 0..3 {
        world.kill(250);
    }
    eprintln!("{rounds} kills and some more, {} jobs", world.jobs);
    world.check_cron_jobs();
    world.check_jobs();
    world.check_workloads();
    assert!(!world.node.log().contains("panicked"), "something panicked");

    let everything = ["delete", "cronjobs,jobs,deployments,daemonsets,statefulsets", "--all"];
    world.kubectl.ok(&[&everything[..], &["--timeout=120s"]].concat());
    within(120, "all pods are gone", || items(&world.kubectl, &["pods"]).is_empty());
    let mut left = world.node.footprint();
    for _ in 0..300 {
        if left == before {
            break;
        }
        std::thread::sleep(Duration::from_millis(200));
        left = world.node.footprint();
    }
    assert_eq!(left, before, "something leaked");
}
