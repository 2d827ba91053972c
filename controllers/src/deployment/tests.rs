//! Rollouts, simulated: the plan is carried out by a model of the ReplicaSet controller and of
//! pods that become ready in any order.

use std::collections::HashSet;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::{Deployment, DeploymentStatus, ReplicaSet, ReplicaSetStatus};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

use super::plan::{Observed, Plan, Stuck, Write, plan};
use super::revision::{self, DESIRED_REPLICAS, REVISION};
use super::rollout::{bounds, size};
use super::status::{self, wanted};
use crate::template::HASH_LABEL;

/// A Deployment with its ReplicaSets and, for each, how many pods exist and are available.
pub(super) struct World {
    pub(super) deployment: Deployment,
    pub(super) sets: Vec<ReplicaSet>,
    stuck: Option<Stuck>,
    now: Timestamp,
    events: Vec<String>,
}

impl World {
    pub(super) fn new(replicas: i32, strategy: Value) -> Self {
        let deployment = serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "default", "uid": "d", "generation": 1},
            "spec": {"replicas": replicas, "strategy": strategy, "progressDeadlineSeconds": 600,
                "revisionHistoryLimit": 2, "selector": {"matchLabels": {"app": "web"}},
                "template": {"metadata": {"labels": {"app": "web"}},
                    "spec": {"containers": [{"name": "web", "image": "web:1"}]}}}
        }))
        .unwrap();
        let now = "2024-01-01T00:00:00Z".parse().unwrap();
        Self { deployment, sets: Vec::new(), stuck: None, now, events: Vec::new() }
    }

    pub(super) fn edit(&mut self, change: impl FnOnce(&mut Value)) {
        let mut value = serde_json::to_value(&self.deployment).unwrap();
        change(&mut value);
        self.deployment = serde_json::from_value(value).unwrap();
        *self.deployment.metadata.generation.as_mut().unwrap() += 1;
    }

    pub(super) fn set_image(&mut self, image: &str) {
        self.edit(|value| {
            value["spec"]["template"]["spec"]["containers"][0]["image"] = json!(image);
        });
    }

    fn plan(&self) -> Plan {
        let busy: HashSet<String> = self
            .sets
            .iter()
            .filter(|set| pods(set) > 0)
            .map(|set| set.metadata.uid.clone().unwrap())
            .collect();
        plan(Observed {
            deployment: &self.deployment,
            sets: self.sets.iter().cloned().map(Arc::new).collect(),
            busy,
            stuck: self.stuck.clone(),
            now: self.now,
        })
    }

    /// Carries one plan out; true if there was anything to do.
    pub(super) fn step(&mut self) -> bool {
        self.now += SignedDuration::from_secs(1);
        let writes = self.plan().writes;
        self.carry_out(writes)
    }

    /// The writes that got through; true if there were any.
    fn carry_out(&mut self, writes: Vec<Write>) -> bool {
        let any = !writes.is_empty();
        for write in writes {
            match write {
                Write::Create(set) => {
                    let mut set = *set;
                    set.metadata.uid = set.metadata.name.clone();
                    set.metadata.generation = Some(1);
                    set.metadata.creation_timestamp =
                        Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(self.now));
                    self.sets.push(set);
                }
                Write::Update { set, event } => {
                    self.events.extend(event.map(|event| event.message));
                    let known = self
                        .sets
                        .iter_mut()
                        .find(|known| known.metadata.name == set.metadata.name)
                        .unwrap();
                    *known = *set;
                }
                Write::Delete(set) => {
                    self.sets.retain(|known| known.metadata.name != set.metadata.name);
                }
                Write::Status { status, revision } => {
                    let annotations = self.deployment.metadata.annotations.get_or_insert_default();
                    annotations.extend(revision.map(|number| (REVISION.to_owned(), number)));
                    self.deployment.status = Some(*status);
                }
                Write::Event(event) => self.events.push(event.message),
            }
        }
        any
    }

    /// Lets a ReplicaSet catch up with its size, or one pod become available.
    fn nature(&mut self, random: &mut StdRng) {
        let index = random.random_range(0..self.sets.len());
        let set = &mut self.sets[index];
        let (size, known) = (size(set), pods(set));
        let status = set.status.get_or_insert_default();
        let available = status.available_replicas.unwrap_or(0);
        if known == size {
            if available < known && random.random_bool(0.7) {
                status.available_replicas = Some(available + 1);
            } else if available > 0 && random.random_bool(0.1) {
                status.available_replicas = Some(available - 1);
            }
        } else {
            // Those that are not available are deleted first.
            let left = available.min(size);
            status.available_replicas = Some(left);
            status.replicas = size;
        }
        status.ready_replicas = status.available_replicas;
        status.observed_generation = set.metadata.generation;
    }

    pub(super) fn settle(&mut self) {
        let mut random = StdRng::seed_from_u64(7);
        for _ in 0..2000 {
            self.step();
            self.nature(&mut random);
            let complete = status::is_complete(&self.deployment, &self.status());
            if complete && !self.step() {
                return;
            }
        }
        panic!("the rollout does not end: {:?}", self.status());
    }

    fn status(&self) -> DeploymentStatus {
        self.deployment.status.clone().unwrap_or_default()
    }

    /// The available pods that no size tells to go; deletion takes those that are not available
    /// first. A status alone may be older than a size.
    fn staying(&self) -> i32 {
        self.sets.iter().map(|set| available(set).min(size(set))).sum()
    }

    pub(super) fn sizes(&self) -> Vec<i32> {
        self.sets.iter().map(size).collect()
    }

    fn reason(&self, kind: &str) -> String {
        let status = self.status();
        status::condition(&status, kind).and_then(|known| known.reason.clone()).unwrap_or_default()
    }
}

fn pods(set: &ReplicaSet) -> i32 {
    set.status.as_ref().map_or(0, |status| status.replicas)
}

fn available(set: &ReplicaSet) -> i32 {
    set.status.as_ref().map_or(0, available_of)
}

fn available_of(status: &ReplicaSetStatus) -> i32 {
    status.available_replicas.unwrap_or(0)
}

pub(super) fn rolling(surge: Value, unavailable: Value) -> Value {
    json!({"type": "RollingUpdate",
        "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}})
}

#[test]
fn no_step_of_a_rollout_breaks_its_bounds() {
    let strategies = [
        (json!(1), json!(0)),
        (json!(0), json!(1)),
        (json!("25%"), json!("25%")),
        (json!("100%"), json!(0)),
        (json!(0), json!(0)),
        (json!(2), json!("50%")),
    ];
    for seed in 0..180 {
        let mut random = StdRng::seed_from_u64(seed);
        let (surge, unavailable) = strategies[usize::try_from(seed).unwrap() % 6].clone();
        let replicas = random.random_range(1..12);
        let mut world = World::new(replicas, rolling(surge, unavailable));
        world.settle();
        world.set_image("web:2");
        let limits = bounds(&world.deployment);
        let mut done = false;
        for moment in 0..5000 {
            // Somebody changes his mind in the middle.
            if moment == 15 && seed % 3 == 0 {
                world.set_image("web:1");
            }
            let before = world.staying();
            world.step();
            let total: i32 = world.sizes().iter().sum();
            assert!(total <= replicas + limits.surge, "seed {seed}: {total} pods wanted");
            // Pods fail by themselves; a plan must not add to that.
            let left = world.staying();
            let minimum = replicas - limits.unavailable;
            assert!(left >= minimum.min(before), "seed {seed}: {left} of {before} stay available");
            done = status::is_complete(&world.deployment, &world.status()) && !world.step();
            if done {
                break;
            }
            world.nature(&mut random);
        }
        assert!(done, "seed {seed}: the rollout does not end");
        assert_eq!(world.sizes().iter().filter(|size| **size > 0).count(), 1);
        assert_eq!(world.reason(status::PROGRESSING), status::NEW_SET_AVAILABLE);
        assert_eq!(world.reason(status::AVAILABLE), "MinimumReplicasAvailable");
    }
}

#[test]
fn undo_brings_the_old_replica_set_back_as_a_new_revision() {
    let mut world = World::new(3, rolling(json!(1), json!(0)));
    world.settle();
    let first = world.sets[0].metadata.name.clone();
    assert!(world.sets[0].metadata.labels.as_ref().unwrap().contains_key(HASH_LABEL));
    world.set_image("web:2");
    world.settle();
    assert_eq!(world.sizes(), [0, 3]);
    world.set_image("web:1");
    world.settle();
    assert_eq!(world.sizes(), [3, 0]);
    assert_eq!(world.sets[0].metadata.name, first);
    let revisions: Vec<i64> = world.sets.iter().map(revision::revision).collect();
    assert_eq!(revisions, [3, 2]);
    let annotations = world.deployment.metadata.annotations.as_ref().unwrap();
    assert_eq!(annotations[REVISION], "3");
    let name = first.unwrap();
    assert!(world.events.contains(&format!("Scaled up replica set {name} from 0 to 1")));
}

#[test]
fn recreate_waits_until_the_old_pods_are_gone() {
    let mut world = World::new(3, json!({"type": "Recreate"}));
    world.settle();
    world.set_image("web:2");
    world.step();
    assert_eq!(world.sizes(), [0]);
    // The pods still run.
    world.step();
    assert_eq!(world.sizes(), [0]);
    world.sets[0].status = None;
    world.step();
    assert_eq!(world.sizes(), [0, 3]);
}

#[test]
fn scaling_in_the_middle_of_a_rollout_is_proportional() {
    let mut world = World::new(10, rolling(json!(3), json!(2)));
    world.settle();
    world.set_image("web:2");
    for _ in 0..4 {
        world.step();
        for set in &mut world.sets {
            let size = size(set);
            let status = set.status.get_or_insert_default();
            status.replicas = size;
            status.available_replicas = Some(status.available_replicas.unwrap_or(0).min(size));
        }
    }
    assert_eq!(world.sizes(), [8, 5]);
    world.edit(|value| value["spec"]["replicas"] = json!(15));
    world.step();
    // The example of the Kubernetes documentation.
    assert_eq!(world.sizes(), [11, 7]);
    let desired = world.sets.iter().map(|set| revision::number(set, DESIRED_REPLICAS));
    assert!(desired.into_iter().all(|number| number == Some(wanted(&world.deployment))));
}

#[test]
fn history_is_kept_to_its_limit() {
    let mut world = World::new(2, rolling(json!(1), json!(0)));
    for version in 1..6 {
        world.set_image(&format!("web:{version}"));
        world.settle();
    }
    let mut revisions: Vec<i64> = world.sets.iter().map(revision::revision).collect();
    revisions.sort_unstable();
    assert_eq!(revisions, [3, 4, 5]);
}

#[test]
fn a_paused_deployment_scales_but_does_not_roll() {
    let mut world = World::new(2, rolling(json!(1), json!(0)));
    world.settle();
    world.edit(|value| value["spec"]["paused"] = json!(true));
    world.set_image("web:2");
    world.edit(|value| value["spec"]["replicas"] = json!(4));
    for _ in 0..5 {
        world.step();
    }
    assert_eq!(world.sizes(), [4]);
    assert_eq!(world.reason(status::PROGRESSING), status::PAUSED);
    world.edit(|value| value["spec"]["paused"] = json!(false));
    world.settle();
    assert_eq!(world.sizes(), [0, 4]);
}

#[test]
fn a_rollout_without_progress_is_called_so_at_its_deadline() {
    let mut world = World::new(2, rolling(json!(1), json!(0)));
    world.step();
    world.step();
    let wait = world.plan().requeue_after.unwrap();
    assert!(wait.as_secs() > 590 && wait.as_secs() <= 601, "{wait:?}");
    world.now += SignedDuration::from_secs(700);
    world.step();
    assert_eq!(world.reason(status::PROGRESSING), status::TIMED_OUT);
    assert_eq!(world.plan().requeue_after, None);
}

/// What told of the beginning of a rollout was never written: the process ended, or somebody else
/// wrote the Deployment at that moment.
#[test]
fn a_rollout_whose_beginning_was_not_noted_has_a_deadline_all_the_same() {
    for kind in [rolling(json!(1), json!(0)), json!({"type": "Recreate"})] {
        let mut world = World::new(2, kind);
        world.settle();
        world.set_image("web:2");
        for _ in 0..4 {
            world.now += SignedDuration::from_secs(1);
            let lost = |write: &Write| matches!(write, Write::Status { .. });
            let writes = world.plan().writes.into_iter().filter(|write| !lost(write)).collect();
            world.carry_out(writes);
            // The new pods never become available.
            for set in &mut world.sets {
                let size = size(set);
                let status = set.status.get_or_insert_default();
                status.replicas = size;
                status.available_replicas = Some(available_of(status).min(size));
                status.ready_replicas = status.available_replicas;
            }
        }
        assert_eq!(world.reason(status::PROGRESSING), status::NEW_SET_AVAILABLE);
        world.step();
        let wait = world.plan().requeue_after.unwrap();
        world.now += SignedDuration::try_from(wait).unwrap();
        world.step();
        assert_eq!(world.reason(status::PROGRESSING), status::TIMED_OUT);
    }
}

#[test]
fn a_revision_is_written_with_the_status_that_tells_of_it() {
    let mut world = World::new(2, rolling(json!(1), json!(0)));
    world.settle();
    world.set_image("web:2");
    world.now += SignedDuration::from_secs(1);
    let writes = world.plan().writes;
    let [Write::Create(_), Write::Status { status, revision }] = &writes[..] else {
        panic!("{writes:?}");
    };
    assert_eq!(revision.as_deref(), Some("2"));
    let reason = status::condition(status, status::PROGRESSING).unwrap().reason.as_deref();
    assert_eq!(reason, Some("NewReplicaSetCreated"));
}

#[test]
fn a_settled_deployment_is_left_alone() {
    let mut world = World::new(3, rolling(json!(1), json!(0)));
    world.settle();
    assert!(world.plan().writes.is_empty(), "{:?}", world.plan().writes);
    assert_eq!(world.plan().requeue_after, None);
}

#[test]
fn a_rollout_that_cannot_go_on_says_why_on_the_deployment() {
    const SHORT: &str = "0/1 nodes are available: 1 Insufficient cpu.";
    let message = |world: &World| {
        let status = world.status();
        status::condition(&status, status::PROGRESSING).and_then(|c| c.message.clone()).unwrap()
    };
    let mut world = World::new(3, rolling(json!(1), json!(0)));
    world.settle();
    world.set_image("web:2");
    world.step();
    let set = world.sets.last_mut().unwrap();
    set.status.get_or_insert_default().replicas = 1;
    let (name, uid) = (set.metadata.name.clone().unwrap(), set.metadata.uid.clone().unwrap());
    world.stuck = Some(Stuck { pod: format!("{name}-x"), set: uid, reason: SHORT.to_owned() });
    world.events.clear();
    while world.step() {}
    let why = format!(
        "pod \"{name}-x\" cannot be scheduled: {SHORT} No old pod may end before it is available \
         (maxUnavailable is 0), so the rollout waits for room: let maxUnavailable be greater, \
         request less, or scale down."
    );
    // Once, and for as long as it holds, past the deadline too.
    assert_eq!(world.events, [why.as_str()]);
    let progressing = format!("ReplicaSet \"{name}\" is progressing.");
    assert_eq!(message(&world), format!("{progressing} However, {why}"));
    assert_eq!(world.reason(status::PROGRESSING), "ReplicaSetUpdated");
    let stuck = world.stuck.take();
    while world.step() {}
    assert_eq!(message(&world), progressing);
    world.stuck = stuck;
    world.now += SignedDuration::from_secs(601);
    world.step();
    assert_eq!(world.reason(status::PROGRESSING), status::TIMED_OUT);
    let timed_out = format!("ReplicaSet \"{name}\" has timed out progressing.");
    assert_eq!(message(&world), format!("{timed_out} However, {why}"));
}
