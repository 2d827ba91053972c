//! DaemonSets, simulated on a few nodes.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use serde_json::{Value, json};

use super::place::{Place, place, pod_for, target};
use super::plan::{Observed, Plan, plan};
use crate::pod;

struct World {
    owner: DaemonSet,
    nodes: Vec<Arc<Node>>,
    pods: Vec<Arc<Pod>>,
    hash: String,
    now: Timestamp,
    made: usize,
}

impl World {
    fn new(nodes: usize, strategy: Value) -> Self {
        let owner = serde_json::from_value(json!({
            "metadata": {"name": "agent", "namespace": "default", "uid": "d", "generation": 1,
                "annotations": {"deprecated.daemonset.template.generation": "1"}},
            "spec": {"updateStrategy": strategy, "selector": {"matchLabels": {"app": "a"}},
                "template": {"metadata": {"labels": {"app": "a"}},
                    "spec": {"containers": [{"name": "a", "image": "a:1"}]}}}
        }))
        .unwrap();
        let nodes = (0..nodes).map(|number| node(&format!("n{number}"), json!({}))).collect();
        let now = "2024-01-01T00:00:00Z".parse().unwrap();
        Self { owner, nodes, pods: Vec::new(), hash: "one".to_owned(), now, made: 0 }
    }

    fn plan(&self) -> Plan {
        plan(&Observed {
            owner: &self.owner,
            spec: self.owner.spec.as_ref().unwrap(),
            hash: &self.hash,
            nodes: &self.nodes,
            pods: &self.pods,
            settled: true,
            waits: &HashMap::new(),
            now: self.now,
        })
    }

    /// Carries one plan out; deleted pods are gone at once, new ones are not ready.
    fn step(&mut self) -> Plan {
        self.now += SignedDuration::from_secs(1);
        let plan = self.plan();
        for gone in &plan.delete {
            self.pods.retain(|pod| pod.metadata.name != gone.metadata.name);
        }
        for node in &plan.create {
            let spec = self.owner.spec.as_ref().unwrap();
            let mut pod = pod_for(&self.owner, &spec.template, &self.hash, node);
            self.made += 1;
            pod.metadata.name = Some(format!("agent-{}", self.made));
            pod.metadata.uid = pod.metadata.name.clone();
            pod.metadata.creation_timestamp = Some(Time(self.now));
            self.pods.push(Arc::new(pod));
        }
        plan
    }

    fn make_ready(&mut self) {
        for pod in &mut self.pods {
            set_ready(Arc::make_mut(pod), self.now);
        }
    }

    fn available(&self) -> usize {
        self.pods.iter().filter(|pod| pod::is_ready(pod)).count()
    }

    fn updated(&self) -> usize {
        self.pods.iter().filter(|pod| pod.labels()["controller-revision-hash"] == self.hash).count()
    }
}

fn node(name: &str, spec: Value) -> Arc<Node> {
    Arc::new(
        serde_json::from_value(json!({
            "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}}, "spec": spec}))
        .unwrap(),
    )
}

fn set_ready(pod: &mut Pod, since: Timestamp) {
    let node = target(pod).map(ToOwned::to_owned);
    pod.spec.as_mut().unwrap().node_name = node;
    pod.status = serde_json::from_value(json!({"phase": "Running", "conditions": [
        {"type": "Ready", "status": "True", "lastTransitionTime": Time(since)}]}))
    .unwrap();
}

#[test]
fn every_node_gets_one_pod_of_its_own() {
    let mut world = World::new(3, json!({"type": "RollingUpdate"}));
    let first = world.step();
    assert_eq!(first.create, ["n0", "n1", "n2"]);
    assert_eq!(first.status.desired_number_scheduled, 3);
    let mut targets: Vec<&str> = world.pods.iter().filter_map(|pod| target(pod)).collect();
    targets.sort_unstable();
    assert_eq!(targets, ["n0", "n1", "n2"]);
    assert_eq!(world.pods[0].labels()["pod-template-generation"], "1");
    let tolerated = world.pods[0].spec.as_ref().unwrap().tolerations.as_ref().unwrap();
    assert_eq!(tolerated.len(), 6);
    world.make_ready();
    let settled = world.step();
    assert!(settled.create.is_empty() && settled.delete.is_empty());
    let status = settled.status;
    assert_eq!((status.number_ready, status.number_available), (3, Some(3)));
    assert_eq!((status.updated_number_scheduled, status.number_unavailable), (Some(3), None));
    // One pod too many: the younger one goes.
    let mut twin = (*world.pods[0]).clone();
    twin.metadata.name = Some("twin".to_owned());
    twin.metadata.creation_timestamp = Some(Time(world.now));
    world.pods.push(Arc::new(twin));
    assert_eq!(world.plan().delete[0].name_any(), "twin");
}

#[test]
fn selectors_and_taints_decide_where_pods_belong() {
    let world = World::new(0, json!({}));
    let at = |template: Value, spec: Value| {
        let mut whole = serde_json::to_value(&world.owner.spec.as_ref().unwrap().template).unwrap();
        for (key, value) in template.as_object().unwrap() {
            whole["spec"][key] = value.clone();
        }
        let place = place(&serde_json::from_value(whole).unwrap(), &node("vm", spec));
        (place.wanted, place.may_stay)
    };
    let taint = |effect: &str| json!({"taints": [{"key": "k", "value": "v", "effect": effect}]});
    let tolerant = json!({"tolerations": [{"key": "k", "operator": "Exists"}]});
    assert_eq!(at(json!({}), json!({})), (true, true));
    assert_eq!(at(json!({}), json!({"unschedulable": true})), (true, true));
    assert_eq!(at(json!({"nodeSelector": {"disk": "ssd"}}), json!({})), (false, false));
    assert_eq!(at(json!({"nodeName": "other"}), json!({})), (false, false));
    assert_eq!(at(json!({}), taint("NoSchedule")), (false, true));
    assert_eq!(at(json!({}), taint("NoExecute")), (false, false));
    assert_eq!(at(json!({}), taint("PreferNoSchedule")), (true, true));
    assert_eq!(at(tolerant, taint("NoExecute")), (true, true));
    let pressure = json!({"taints": [
        {"key": "node.kubernetes.io/memory-pressure", "effect": "NoSchedule"}]});
    assert_eq!(at(json!({}), pressure), (true, true));
    let affine = json!({"affinity": {"nodeAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
        {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In",
            "values": ["vm"]}]}]}}}});
    assert_eq!(at(affine, json!({})), (true, true));
    let unlabelled: Place = Place { wanted: true, may_stay: true };
    assert_eq!(
        place(&world.owner.spec.as_ref().unwrap().template, &node("x", json!({}))),
        unlabelled
    );
}

#[test]
fn a_rolling_update_keeps_its_bound_of_unavailable_nodes() {
    for (bound, most) in [(json!(1), 1), (json!("50%"), 2), (json!("34%"), 2)] {
        let rolling = json!({"type": "RollingUpdate",
            "rollingUpdate": {"maxUnavailable": bound, "maxSurge": 0}});
        let mut world = World::new(4, rolling);
        world.step();
        world.make_ready();
        world.hash = "two".to_owned();
        for round in 0.. {
            assert!(round < 30, "the update does not end");
            world.step();
            assert!(world.pods.len() <= 4);
            assert!(world.available() >= 4 - most, "{} available", world.available());
            if world.updated() == 4 && world.available() == 4 {
                break;
            }
            if round % 2 == 1 {
                world.make_ready();
            }
        }
    }
}

#[test]
fn a_surging_update_never_leaves_a_node_alone() {
    let rolling = json!({"type": "RollingUpdate",
        "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}});
    let mut world = World::new(3, rolling);
    world.step();
    world.make_ready();
    world.hash = "two".to_owned();
    for round in 0.. {
        assert!(round < 40, "the update does not end");
        world.step();
        assert!(world.pods.len() <= 4, "{} pods", world.pods.len());
        assert!(world.available() >= 3, "{} available", world.available());
        if world.updated() == 3 && world.pods.len() == 3 {
            break;
        }
        if round % 2 == 1 {
            world.make_ready();
        }
    }
}

#[test]
fn a_surging_pod_relieves_the_old_one_when_it_has_been_ready_for_long_enough() {
    let rolling = json!({"type": "RollingUpdate",
        "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}});
    let mut world = World::new(1, rolling);
    world.owner.spec.as_mut().unwrap().min_ready_seconds = Some(10);
    world.step();
    world.make_ready();
    world.now += SignedDuration::from_secs(20);
    world.hash = "two".to_owned();
    world.step();
    set_ready(Arc::make_mut(&mut world.pods[1]), world.now);
    // The pod that counts is available all the time, so nothing else would wake anybody.
    let plan = world.plan();
    assert_eq!(plan.status.number_available, Some(1));
    assert_eq!((plan.delete.len(), plan.requeue_after), (0, Some(Duration::from_secs(10))));
    world.now += SignedDuration::from_secs(10);
    assert_eq!(world.plan().delete[0].metadata.name.as_deref(), Some("agent-1"));
}

#[test]
fn on_delete_waits_for_the_user() {
    let mut world = World::new(2, json!({"type": "OnDelete"}));
    world.step();
    world.make_ready();
    world.hash = "two".to_owned();
    let plan = world.step();
    assert!(plan.delete.is_empty());
    assert_eq!(plan.status.updated_number_scheduled, None);
    world.pods.remove(0);
    world.step();
    assert_eq!(world.updated(), 1);
}

#[test]
fn failed_pods_are_replaced_and_broken_ones_go_first() {
    let mut world = World::new(2, json!({"type": "RollingUpdate"}));
    world.step();
    world.make_ready();
    let failed = Arc::make_mut(&mut world.pods[0]);
    failed.status.as_mut().unwrap().phase = Some("Failed".to_owned());
    let plan = world.step();
    assert_eq!(plan.failed, ["n0"]);
    assert_eq!(
        plan.events[0].message,
        "Found failed daemon pod default/agent-1 on node n0, will try to kill it"
    );
    assert_eq!(world.step().create, ["n0"]);
    // While it is not ready, the update replaces it and leaves the healthy one alone.
    world.hash = "two".to_owned();
    let names: Vec<String> = world.plan().delete.iter().map(|pod| pod.name_any()).collect();
    assert_eq!(names, ["agent-3"]);
}

#[test]
fn a_pod_that_is_being_deleted_keeps_its_node_until_it_is_gone() {
    let mut world = World::new(1, json!({"type": "RollingUpdate"}));
    world.step();
    world.make_ready();
    Arc::make_mut(&mut world.pods[0]).metadata.deletion_timestamp = Some(Time(world.now));
    assert!(world.plan().create.is_empty());
    world.pods.clear();
    assert_eq!(world.plan().create, ["n0"]);
}
