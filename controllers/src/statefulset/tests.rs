//! StatefulSets, simulated: plans are carried out on a model of the API, and pods get ready when
//! the test says so.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetStatus};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

use super::identity;
use super::plan::{Observed, Plan, Version, Write, plan};
use crate::pod;

pub(super) struct World {
    set: StatefulSet,
    /// Name and template of the revision before and after the rollout.
    versions: [(String, PodTemplateSpec); 2],
    pods: Vec<Arc<Pod>>,
    claims: Vec<Arc<PersistentVolumeClaim>>,
    now: Timestamp,
    made: usize,
}

impl World {
    pub(super) fn new(replicas: i32, spec: Value) -> Self {
        let mut whole = json!({
            "metadata": {"name": "mysql", "namespace": "default", "uid": "set", "generation": 1},
            "spec": {"replicas": replicas, "serviceName": "mysql",
                "selector": {"matchLabels": {"app": "mysql"}},
                "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}},
                "template": {"metadata": {"labels": {"app": "mysql"}},
                    "spec": {"containers": [{"name": "c", "image": "mysql:1"}]}}}
        });
        for (key, value) in spec.as_object().unwrap() {
            whole["spec"][key] = value.clone();
        }
        let set: StatefulSet = serde_json::from_value(whole).unwrap();
        let template = set.spec.as_ref().unwrap().template.clone();
        let versions = [("mysql-1".to_owned(), template.clone()), ("mysql-1".to_owned(), template)];
        let now = "2024-01-01T00:00:00Z".parse().unwrap();
        Self { set, versions, pods: Vec::new(), claims: Vec::new(), now, made: 0 }
    }

    /// A new template, as its second revision.
    pub(super) fn roll(&mut self) {
        self.versions[1].0 = "mysql-2".to_owned();
    }

    pub(super) fn edit(&mut self, change: impl FnOnce(&mut Value)) {
        let mut value = serde_json::to_value(&self.set).unwrap();
        change(&mut value["spec"]);
        self.set = serde_json::from_value(value).unwrap();
    }

    pub(super) fn plan(&self) -> Plan {
        let version = |index: usize| {
            let (name, template) = &self.versions[index];
            Version { name, template }
        };
        plan(&Observed {
            set: &self.set,
            spec: self.set.spec.as_ref().unwrap(),
            current: version(0),
            update: version(1),
            pods: &self.pods,
            claim: &|name| self.claims.iter().find(|claim| claim.name_any() == name).cloned(),
            now: self.now,
        })
    }

    /// Carries one plan out; returns what it did. A deleted pod is being deleted, not gone.
    pub(super) fn step(&mut self) -> Vec<String> {
        self.now += SignedDuration::from_secs(1);
        let plan = self.plan();
        let mut done = Vec::new();
        for write in plan.writes.into_iter().flatten() {
            match write {
                Write::CreateClaim { claim, .. } => {
                    done.push(format!("+{}", claim.name_any()));
                    let mut claim = *claim;
                    claim.metadata.uid = claim.metadata.name.clone();
                    self.claims.push(Arc::new(claim));
                }
                Write::OwnClaim { claim, owners } => {
                    done.push(format!("own {}", claim.name_any()));
                    let known =
                        self.claims.iter_mut().find(|known| known.name_any() == claim.name_any());
                    Arc::make_mut(known.unwrap()).metadata.owner_references = Some(owners);
                }
                Write::CreatePod(pod) => {
                    let mut pod = *pod;
                    assert!(!self.pods.iter().any(|known| known.name_any() == pod.name_any()));
                    done.push(format!("+{}", pod.name_any()));
                    self.made += 1;
                    pod.metadata.uid = Some(format!("uid-{}", self.made));
                    pod.status = serde_json::from_value(json!({"phase": "Pending"})).unwrap();
                    self.pods.push(Arc::new(pod));
                }
                Write::Identify(pod) => {
                    done.push(format!("identify {}", pod.name_any()));
                    let known =
                        self.pods.iter_mut().find(|known| known.name_any() == pod.name_any());
                    *known.unwrap() = Arc::new(*pod);
                }
                Write::DeletePod { pod, .. } => {
                    done.push(format!("-{}", pod.name_any()));
                    let known =
                        self.pods.iter_mut().find(|known| known.name_any() == pod.name_any());
                    let known = Arc::make_mut(known.unwrap());
                    known.metadata.deletion_timestamp = Some(Time(self.now));
                }
            }
        }
        self.set.status = Some(plan.status);
        let status = self.status();
        if status.current_revision == status.update_revision {
            self.versions[0] = self.versions[1].clone();
        }
        done
    }

    fn status(&self) -> StatefulSetStatus {
        self.set.status.clone().unwrap()
    }

    fn ready(&mut self, name: &str) {
        let now = self.now;
        let known = self.pods.iter_mut().find(|known| known.name_any() == name).unwrap();
        let conditions = json!({"phase": "Running", "conditions": [
            {"type": "Ready", "status": "True", "lastTransitionTime": Time(now)}]});
        Arc::make_mut(known).status = serde_json::from_value(conditions).unwrap();
    }

    fn gone(&mut self, name: &str) {
        self.pods.retain(|pod| pod.name_any() != name);
    }

    fn settle(&mut self) {
        for _ in 0..100 {
            let done = self.step();
            let names: Vec<String> = self.pods.iter().map(|pod| pod.name_any()).collect();
            for name in names {
                let pod = self.pods.iter().find(|pod| pod.name_any() == name).unwrap();
                if pod.metadata.deletion_timestamp.is_some() {
                    self.gone(&name);
                } else if !pod::is_ready(pod) {
                    self.ready(&name);
                } else {
                    continue;
                }
            }
            if done.is_empty() && self.step().is_empty() {
                return;
            }
        }
        panic!("it does not settle");
    }

    fn revisions(&self) -> Vec<(String, String)> {
        let mut found: Vec<_> = self
            .pods
            .iter()
            .map(|pod| (pod.name_any(), identity::revision(pod).to_owned()))
            .collect();
        found.sort();
        found
    }
}

fn with_claims(more: Value) -> Value {
    let mut spec = json!({"volumeClaimTemplates": [{"metadata": {"name": "data"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}]});
    for (key, value) in more.as_object().unwrap() {
        spec[key] = value.clone();
    }
    spec
}

#[test]
fn pods_come_one_after_the_other_with_their_identity() {
    let mut world = World::new(3, with_claims(json!({})));
    assert_eq!(world.step(), ["+data-mysql-0", "+mysql-0"]);
    assert!(world.step().is_empty(), "mysql-0 is not ready");
    world.ready("mysql-0");
    assert_eq!(world.step(), ["+data-mysql-1", "+mysql-1"]);
    world.ready("mysql-1");
    assert_eq!(world.step(), ["+data-mysql-2", "+mysql-2"]);
    world.ready("mysql-2");
    assert!(world.step().is_empty());
    let pod = &world.pods[1];
    let labels = pod.labels();
    assert_eq!(labels["statefulset.kubernetes.io/pod-name"], "mysql-1");
    assert_eq!(labels["apps.kubernetes.io/pod-index"], "1");
    assert_eq!(labels["controller-revision-hash"], "mysql-1");
    let spec = pod.spec.as_ref().unwrap();
    assert_eq!(
        (spec.hostname.as_deref(), spec.subdomain.as_deref()),
        (Some("mysql-1"), Some("mysql"))
    );
    let volume = &spec.volumes.as_ref().unwrap()[0];
    assert_eq!(volume.persistent_volume_claim.as_ref().unwrap().claim_name, "data-mysql-1");
    assert_eq!(world.claims[1].labels()["app"], "mysql");
    assert_eq!(world.claims[1].metadata.owner_references, None);
    let status = world.status();
    assert_eq!(
        (status.replicas, status.ready_replicas, status.available_replicas),
        (3, Some(3), Some(3))
    );
    assert_eq!((status.current_replicas, status.updated_replicas), (Some(3), Some(3)));
}

#[test]
fn pods_go_from_the_highest_and_wait_for_each_other() {
    let mut world = World::new(3, json!({}));
    world.settle();
    world.edit(|spec| spec["replicas"] = json!(1));
    assert_eq!(world.step(), ["-mysql-2"]);
    assert!(world.step().is_empty(), "mysql-2 is not gone yet");
    world.gone("mysql-2");
    assert_eq!(world.step(), ["-mysql-1"]);
    world.gone("mysql-1");
    assert!(world.step().is_empty());
    // A pod that is missing below is made before any goes above.
    let mut world = World::new(3, json!({}));
    world.settle();
    world.gone("mysql-0");
    world.edit(|spec| spec["replicas"] = json!(2));
    assert_eq!(world.step(), ["+mysql-0"]);
    assert!(world.step().is_empty());
    world.ready("mysql-0");
    assert_eq!(world.step(), ["-mysql-2"]);
}

#[test]
fn parallel_pods_do_not_wait() {
    let mut world =
        World::new(3, json!({"podManagementPolicy": "Parallel", "ordinals": {"start": 5}}));
    assert_eq!(world.step(), ["+mysql-5", "+mysql-6", "+mysql-7"]);
    world.settle();
    world.edit(|spec| spec["replicas"] = json!(0));
    assert_eq!(world.step(), ["-mysql-7", "-mysql-6", "-mysql-5"]);
    // Another start makes other pods.
    let mut world = World::new(2, json!({"ordinals": {"start": 1}}));
    world.settle();
    world.edit(|spec| spec["ordinals"]["start"] = json!(2));
    assert_eq!(world.step(), ["+mysql-3"]);
    world.ready("mysql-3");
    assert_eq!(world.step(), ["-mysql-1"]);
}

#[test]
fn a_rolling_update_goes_downwards_one_by_one() {
    let mut world = World::new(3, json!({}));
    world.settle();
    world.roll();
    assert_eq!(world.step(), ["-mysql-2"]);
    assert_eq!(world.status().updated_replicas, None);
    assert!(world.step().is_empty());
    world.gone("mysql-2");
    assert_eq!(world.step(), ["+mysql-2"]);
    assert!(world.step().is_empty(), "the new mysql-2 is not ready");
    assert_eq!(world.status().current_revision.as_deref(), Some("mysql-1"));
    assert_eq!(world.status().update_revision.as_deref(), Some("mysql-2"));
    world.ready("mysql-2");
    assert_eq!(world.step(), ["-mysql-1"]);
    world.settle();
    assert!(world.revisions().iter().all(|(_, revision)| revision == "mysql-2"));
    assert_eq!(world.status().current_revision.as_deref(), Some("mysql-2"));
}

#[test]
fn a_partition_keeps_the_lower_pods_even_when_they_are_remade() {
    let mut world = World::new(
        3,
        json!({"updateStrategy":
        {"type": "RollingUpdate", "rollingUpdate": {"partition": 2}}}),
    );
    world.settle();
    world.roll();
    world.settle();
    let of = |world: &World, index: usize| world.revisions()[index].1.clone();
    assert_eq!((of(&world, 1), of(&world, 2)), ("mysql-1".to_owned(), "mysql-2".to_owned()));
    world.gone("mysql-1");
    world.settle();
    assert_eq!(of(&world, 1), "mysql-1");
    assert_eq!(
        (world.status().current_replicas, world.status().updated_replicas),
        (Some(2), Some(1))
    );
    world.edit(|spec| spec["updateStrategy"]["rollingUpdate"]["partition"] = json!(0));
    world.settle();
    assert_eq!(of(&world, 0), "mysql-2");
}

#[test]
fn on_delete_waits_for_the_user() {
    let mut world = World::new(2, json!({"updateStrategy": {"type": "OnDelete"}}));
    world.settle();
    world.roll();
    assert!(world.step().is_empty());
    world.gone("mysql-0");
    world.settle();
    assert_eq!(world.revisions()[0].1, "mysql-2");
    assert_eq!(world.revisions()[1].1, "mysql-1");
    assert_eq!(world.status().current_revision.as_deref(), Some("mysql-1"));
}

#[test]
fn an_ordered_rollout_of_a_broken_template_waits_as_upstream_does() {
    let mut world = World::new(2, json!({}));
    world.settle();
    world.roll();
    assert_eq!(world.step(), ["-mysql-1"]);
    world.gone("mysql-1");
    assert_eq!(world.step(), ["+mysql-1"]);
    // It never gets ready, and the template goes back: the pod has to be deleted by hand.
    world.versions[1] = world.versions[0].clone();
    assert!(world.step().is_empty());
    world.gone("mysql-1");
    world.settle();
    assert_eq!(world.revisions()[1].1, "mysql-1");
    // In parallel the rollback goes by itself.
    let mut world = World::new(2, json!({"podManagementPolicy": "Parallel"}));
    world.settle();
    world.roll();
    world.step();
    world.gone("mysql-1");
    world.step();
    world.versions[1] = world.versions[0].clone();
    assert_eq!(world.step(), ["-mysql-1"]);
}

#[test]
fn pods_that_ended_are_made_again_under_their_name() {
    let mut world = World::new(2, json!({}));
    world.settle();
    let failed = Arc::make_mut(&mut world.pods[0]);
    failed.status.as_mut().unwrap().phase = Some("Failed".to_owned());
    let plan = world.plan();
    let Write::DeletePod { event: Some(event), .. } = &plan.writes[0][0] else {
        panic!("{plan:?}")
    };
    assert_eq!(event.message, "StatefulSet default/mysql is recreating failed Pod mysql-0");
    assert_eq!(world.step(), ["-mysql-0"]);
    assert!(world.step().is_empty());
    world.gone("mysql-0");
    assert_eq!(world.step(), ["+mysql-0"]);
}

#[test]
fn a_pod_counts_once_it_was_ready_for_long_enough() {
    let mut world = World::new(2, json!({"minReadySeconds": 10}));
    world.step();
    world.ready("mysql-0");
    assert!(world.step().is_empty());
    assert_eq!(
        (world.status().ready_replicas, world.status().available_replicas),
        (Some(1), Some(0))
    );
    assert_eq!(world.plan().requeue_after.unwrap().as_secs(), 9);
    world.now += SignedDuration::from_secs(9);
    assert_eq!(world.step(), ["+mysql-1"]);
}

#[test]
fn the_retention_policy_says_who_owns_the_claims() {
    let policy = |deleted: &str, scaled: &str| {
        with_claims(json!({"persistentVolumeClaimRetentionPolicy":
            {"whenDeleted": deleted, "whenScaled": scaled}}))
    };
    let owners = |world: &World, index: usize| -> Vec<String> {
        let owners = world.claims[index].metadata.owner_references.clone().unwrap_or_default();
        owners.into_iter().map(|owner| owner.kind).collect()
    };
    let mut world = World::new(2, policy("Delete", "Delete"));
    world.settle();
    assert_eq!(owners(&world, 1), ["StatefulSet"]);
    world.edit(|spec| spec["replicas"] = json!(1));
    world.step();
    assert_eq!(owners(&world, 1), ["Pod"]);
    // The claim goes with the pod; until it is gone, no new pod may take it.
    world.gone("mysql-1");
    world.edit(|spec| spec["replicas"] = json!(2));
    assert!(world.step().is_empty());
    world.claims.pop();
    assert_eq!(world.step(), ["+data-mysql-1", "+mysql-1"]);
    // Retained claims belong to nobody, also when the policy changes.
    world.settle();
    world.edit(|spec| {
        spec["persistentVolumeClaimRetentionPolicy"] =
            json!({"whenDeleted": "Retain", "whenScaled": "Retain"});
    });
    world.settle();
    assert!(owners(&world, 0).is_empty() && owners(&world, 1).is_empty());
}

#[test]
fn pods_without_their_labels_are_identified_again() {
    let mut world = World::new(1, json!({}));
    world.settle();
    Arc::make_mut(&mut world.pods[0]).labels_mut().remove("apps.kubernetes.io/pod-index");
    assert_eq!(world.step(), ["identify mysql-0"]);
    assert!(world.step().is_empty());
}

#[test]
fn names_are_read_back() {
    use identity::parent_and_ordinal;
    assert_eq!(parent_and_ordinal("mysql-0"), Some(("mysql", 0)));
    assert_eq!(parent_and_ordinal("a-b-12"), Some(("a-b", 12)));
    for name in ["mysql", "mysql-", "mysql-x", "mysql-+1", "mysql-99999999999"] {
        assert_eq!(parent_and_ordinal(name), None, "{name}");
    }
}

/// Whatever happens to the pods and whatever is asked for: no name is made while it is taken
/// (`World::step` asserts it), an ordered set never misses a pod below one it makes, and a
/// settled set is what was asked for last.
#[test]
fn identities_stay_unique_in_any_order_of_events() {
    for seed in 0..200 {
        let mut random = StdRng::seed_from_u64(seed);
        let policy = if seed % 2 == 0 { "OrderedReady" } else { "Parallel" };
        let mut world = World::new(3, with_claims(json!({"podManagementPolicy": policy})));
        for _ in 0..60 {
            let done = world.step();
            let made: Vec<i64> =
                done.iter().filter_map(|what| what.strip_prefix("+mysql-")?.parse().ok()).collect();
            if policy == "OrderedReady"
                && let Some(made) = made.first()
            {
                for below in 0..*made {
                    let name = format!("mysql-{below}");
                    let pod = world.pods.iter().find(|pod| pod.name_any() == name);
                    assert!(pod.is_some_and(|pod| pod::is_ready(pod)), "seed {seed}: {name}");
                }
            }
            let names: Vec<String> = world.pods.iter().map(|pod| pod.name_any()).collect();
            if names.is_empty() {
                continue;
            }
            let name = &names[random.random_range(0..names.len())];
            match random.random_range(0..6) {
                0 => world.gone(name),
                1 if random.random_bool(0.3) => world.roll(),
                2 if random.random_bool(0.3) => {
                    let replicas = random.random_range(0..5);
                    world.edit(|spec| spec["replicas"] = json!(replicas));
                }
                _ => world.ready(name),
            }
        }
        world.settle();
        let wanted = world.set.spec.as_ref().unwrap().replicas.unwrap();
        let names: Vec<String> = world.revisions().into_iter().map(|(name, _)| name).collect();
        let expected: Vec<String> = (0..wanted).map(|ordinal| format!("mysql-{ordinal}")).collect();
        assert_eq!(names, expected, "seed {seed}");
    }
}
