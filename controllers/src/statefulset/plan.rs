//! The next steps towards the pods that a StatefulSet wants, in the order of upstream's
//! `stateful_set_control.go`: living pods upwards, surplus pods downwards, updates downwards.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetSpec, StatefulSetStatus};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::ResourceExt;

use crate::event::Notice;
use crate::pod::{self, Availability};
use crate::statefulset::{identity, retention, status};

/// A template and the name of the ControllerRevision that holds it.
#[derive(Clone, Copy)]
pub struct Version<'a> {
    /// The name of the revision.
    pub name: &'a str,
    /// The template.
    pub template: &'a PodTemplateSpec,
}

/// What is known of one StatefulSet.
pub struct Observed<'a> {
    /// The StatefulSet.
    pub set: &'a StatefulSet,
    /// Its spec.
    pub spec: &'a StatefulSetSpec,
    /// What the pods were before the rollout.
    pub current: Version<'a>,
    /// What they shall become.
    pub update: Version<'a>,
    /// Every pod it controls.
    pub pods: &'a [Arc<Pod>],
    /// The claim of a name in its namespace.
    pub claim: &'a dyn Fn(&str) -> Option<Arc<PersistentVolumeClaim>>,
    /// The time.
    pub now: Timestamp,
}

impl Observed<'_> {
    /// Whether pods come and go one after the other.
    pub fn is_ordered(&self) -> bool {
        self.spec.pod_management_policy.as_deref() != Some("Parallel")
    }

    /// Whether the strategy is `RollingUpdate`.
    pub fn is_rolling(&self) -> bool {
        let strategy = self.spec.update_strategy.as_ref();
        strategy.and_then(|strategy| strategy.type_.as_deref()) != Some("OnDelete")
    }

    /// Whether the pod has been ready for long enough.
    pub fn availability(&self, pod: &Pod) -> Availability {
        pod::availability(pod, self.spec.min_ready_seconds.unwrap_or(0), self.now)
    }

    /// Whether the pod runs and is ready.
    pub fn is_running_and_ready(&self, pod: &Pod) -> bool {
        pod::phase(pod) == "Running" && pod::is_ready(pod)
    }

    fn is_available(&self, pod: &Pod) -> bool {
        self.is_running_and_ready(pod) && self.availability(pod) == Availability::Available
    }

    fn is_healthy(&self, pod: &Pod) -> bool {
        self.is_running_and_ready(pod) && pod.metadata.deletion_timestamp.is_none()
    }

    /// How many of the lowest pods a rolling update leaves alone.
    fn partition(&self) -> i32 {
        let strategy = self.spec.update_strategy.as_ref();
        let rolling = strategy.and_then(|strategy| strategy.rolling_update.as_ref());
        rolling.and_then(|rolling| rolling.partition).unwrap_or(0)
    }

    /// The pod of an ordinal as it is to be made: below the partition it stays what it was.
    fn pod_for(&self, ordinal: i32) -> Pod {
        let below = ordinal - identity::start(self.spec) < self.partition();
        let version = if self.is_rolling() && below { self.current } else { self.update };
        identity::pod_for(self.set, self.spec, version.template, version.name, ordinal)
    }
}

/// One intended write.
#[derive(Clone, Debug)]
pub enum Write {
    /// Makes the claim of a pod.
    CreateClaim {
        /// The claim.
        claim: Box<PersistentVolumeClaim>,
        /// The name of the pod.
        pod: String,
    },
    /// Changes who owns a claim.
    OwnClaim {
        /// The claim.
        claim: Arc<PersistentVolumeClaim>,
        /// All of its owners.
        owners: Vec<OwnerReference>,
    },
    /// Makes a pod; its claims come before it.
    CreatePod(Box<Pod>),
    /// Gives a pod back the labels of its identity.
    Identify(Box<Pod>),
    /// Deletes a pod.
    DeletePod {
        /// The pod.
        pod: Arc<Pod>,
        /// Why, where it is out of the ordinary.
        event: Option<Notice>,
    },
}

/// What to do about one StatefulSet. Writes for one pod follow each other; a failure ends the work
/// on that pod.
#[derive(Debug, Default)]
pub struct Plan {
    /// The writes, pod by pod.
    pub writes: Vec<Vec<Write>>,
    /// The status.
    pub status: StatefulSetStatus,
    /// When a pod becomes available just by the passing of time.
    pub requeue_after: Option<Duration>,
}

/// A pod that shall exist.
enum Replica {
    /// It does not exist (yet, or any more).
    Missing(Box<Pod>),
    /// It does.
    Present(Arc<Pod>),
}

/// Whether work goes on with the next pod.
#[derive(PartialEq)]
enum Next {
    GoOn,
    Wait,
}

/// Compares what is wanted with what is there.
pub fn plan(observed: &Observed<'_>) -> Plan {
    let mut plan = Plan { status: status::status(observed), ..Plan::default() };
    for pod in observed.pods {
        if let Availability::After(left) = observed.availability(pod)
            && plan.requeue_after.is_none_or(|known| left < known)
        {
            plan.requeue_after = Some(left);
        }
    }
    if observed.set.metadata.deletion_timestamp.is_some() {
        return plan;
    }
    let of = |ordinal: i32| {
        observed.pods.iter().find(|pod| identity::ordinal(observed.set, pod) == Some(ordinal))
    };
    let start = identity::start(observed.spec);
    let end = start.saturating_add(observed.spec.replicas.unwrap_or(1));
    let replicas: Vec<(i32, Replica)> = (start..end)
        .map(|ordinal| match of(ordinal) {
            Some(pod) => (ordinal, Replica::Present(pod.clone())),
            None => (ordinal, Replica::Missing(Box::new(observed.pod_for(ordinal)))),
        })
        .collect();
    let mut condemned: Vec<(i32, &Arc<Pod>)> = observed
        .pods
        .iter()
        .filter_map(|pod| Some((identity::ordinal(observed.set, pod)?, pod)))
        .filter(|(ordinal, _)| !identity::in_range(observed.spec, *ordinal))
        .collect();
    condemned.sort_by_key(|(ordinal, _)| std::cmp::Reverse(*ordinal));
    for (ordinal, replica) in &replicas {
        if live(observed, *ordinal, replica, &mut plan) == Next::Wait && observed.is_ordered() {
            return plan;
        }
    }
    let all_live = replicas.iter().all(|(_, replica)| match replica {
        Replica::Present(pod) => observed.is_healthy(pod),
        Replica::Missing(_) => false,
    });
    // The lowest of the surplus pods may go although it is not ready, when nothing else ails.
    let first_unhealthy = condemned.iter().rev().find(|(_, pod)| !observed.is_healthy(pod));
    let excused = first_unhealthy.filter(|_| all_live).map(|(ordinal, _)| *ordinal);
    for (ordinal, pod) in &condemned {
        own_claims(observed, *ordinal, pod, true, &mut plan);
        let excused = excused == Some(*ordinal);
        if leave(observed, pod, excused, &mut plan) == Next::Wait && observed.is_ordered() {
            return plan;
        }
    }
    if observed.is_rolling() {
        update(observed, &replicas, &mut plan);
    }
    plan
}

/// One pod that shall exist.
fn live(observed: &Observed<'_>, ordinal: i32, replica: &Replica, plan: &mut Plan) -> Next {
    let pod = match replica {
        Replica::Missing(pod) => {
            create(observed, ordinal, pod, plan);
            return Next::Wait;
        }
        Replica::Present(pod) => pod,
    };
    if pod::is_terminal(pod) {
        if pod.metadata.deletion_timestamp.is_none() {
            let (namespace, set) = (
                observed.set.metadata.namespace.as_deref().unwrap_or_default(),
                observed.set.name_any(),
            );
            let name = pod.name_any();
            let event = if pod::phase(pod) == "Failed" {
                let message =
                    format!("StatefulSet {namespace}/{set} is recreating failed Pod {name}");
                Notice::warning("RecreatingFailedPod", message)
            } else {
                let message =
                    format!("StatefulSet {namespace}/{set} is recreating terminated Pod {name}");
                Notice::normal("RecreatingTerminatedPod", message)
            };
            let event = Some(event);
            plan.writes.push(vec![Write::DeletePod { pod: pod.clone(), event }]);
        }
        return Next::Wait;
    }
    if pod::phase(pod) == "Pending" {
        let claims = missing_claims(observed, ordinal, pod);
        if !claims.is_empty() {
            plan.writes.push(claims);
        }
    }
    if observed.is_ordered()
        && (pod.metadata.deletion_timestamp.is_some() || !observed.is_available(pod))
    {
        return Next::Wait;
    }
    if pod.metadata.deletion_timestamp.is_none() && !identity::is_identified(pod, ordinal) {
        let mut identified = (**pod).clone();
        identity::identify(&mut identified, ordinal);
        plan.writes.push(vec![Write::Identify(Box::new(identified))]);
    }
    own_claims(observed, ordinal, pod, false, plan);
    Next::GoOn
}

/// A pod that is missing, after its claims.
fn create(observed: &Observed<'_>, ordinal: i32, pod: &Pod, plan: &mut Plan) {
    let claims = identity::claims(observed.set, observed.spec, ordinal);
    let stale = claims.iter().any(|(_, claim)| {
        (observed.claim)(&claim.name_any()).is_some_and(|known| retention::is_stale(&known, pod))
    });
    // The storage of an earlier pod of that name is about to go: it must not be used again.
    if stale {
        return;
    }
    let mut writes = missing_claims(observed, ordinal, pod);
    writes.push(Write::CreatePod(Box::new(pod.clone())));
    plan.writes.push(writes);
}

fn missing_claims(observed: &Observed<'_>, ordinal: i32, pod: &Pod) -> Vec<Write> {
    identity::claims(observed.set, observed.spec, ordinal)
        .into_iter()
        .filter(|(_, claim)| (observed.claim)(&claim.name_any()).is_none())
        .map(|(_, mut claim)| {
            claim.metadata.owner_references =
                retention::owners(observed.set, observed.spec, &claim, pod, false);
            Write::CreateClaim { claim: Box::new(claim), pod: pod.name_any() }
        })
        .collect()
}

/// Makes the claims of a pod belong to whom the retention policy says.
fn own_claims(observed: &Observed<'_>, ordinal: i32, pod: &Pod, condemned: bool, plan: &mut Plan) {
    for (_, claim) in identity::claims(observed.set, observed.spec, ordinal) {
        let Some(claim) = (observed.claim)(&claim.name_any()) else { continue };
        let owners = retention::owners(observed.set, observed.spec, &claim, pod, condemned);
        if let Some(owners) = owners {
            plan.writes.push(vec![Write::OwnClaim { claim, owners }]);
        }
    }
}

/// One pod that shall go.
fn leave(observed: &Observed<'_>, pod: &Arc<Pod>, excused: bool, plan: &mut Plan) -> Next {
    if pod.metadata.deletion_timestamp.is_some() {
        return Next::Wait;
    }
    if observed.is_ordered() && !excused && !observed.is_available(pod) {
        return Next::Wait;
    }
    plan.writes.push(vec![Write::DeletePod { pod: pod.clone(), event: None }]);
    Next::Wait
}

/// The next pod of a rolling update: the highest one of an older revision, once all above it are
/// well.
fn update(observed: &Observed<'_>, replicas: &[(i32, Replica)], plan: &mut Plan) {
    let partition = usize::try_from(observed.partition()).unwrap_or(0);
    for (_, replica) in replicas.iter().skip(partition).rev() {
        let Replica::Present(pod) = replica else { return };
        let leaving = pod.metadata.deletion_timestamp.is_some();
        if identity::revision(pod) != observed.update.name && !leaving {
            plan.writes.push(vec![Write::DeletePod { pod: pod.clone(), event: None }]);
            return;
        }
        if leaving || !observed.is_available(pod) {
            return;
        }
    }
}
