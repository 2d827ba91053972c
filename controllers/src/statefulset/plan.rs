//! The next steps towards the pods that a StatefulSet wants, in the order of upstream's
//! `stateful_set_control.go`: living pods upwards, surplus pods downwards, updates downwards.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetSpec, StatefulSetStatus};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::ResourceExt;

use crate::burst;
use crate::event::Notice;
use crate::pod::{self, Availability};
use crate::statefulset::{identity, retention, status};

/// Time that the rest of a burst waits.
const BURST_PAUSE: Duration = Duration::from_secs(1);

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
    fn pod_for(&self, ordinal: i64) -> Pod {
        let below = ordinal - identity::start(self.spec) < i64::from(self.partition());
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
    let wanted = identity::range(observed.spec);
    // Of several pods that claim one ordinal (`web-1`, `web-01`) the first counts.
    let mut pods: BTreeMap<i64, &Arc<Pod>> = BTreeMap::new();
    let mut condemned: Vec<(i64, &Arc<Pod>)> = Vec::new();
    for pod in observed.pods {
        match identity::ordinal(observed.set, pod) {
            Some(ordinal) if wanted.contains(&ordinal) => drop(pods.entry(ordinal).or_insert(pod)),
            Some(ordinal) => condemned.push((ordinal, pod)),
            None => {}
        }
    }
    condemned.sort_by_key(|(ordinal, _)| std::cmp::Reverse(*ordinal));
    if keep(observed, &wanted, &pods, &mut plan) == Next::Wait {
        return plan;
    }
    let all_live = i64::try_from(pods.len()) == Ok(wanted.end - wanted.start)
        && pods.values().all(|pod| observed.is_healthy(pod));
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
        update(observed, &wanted, &pods, &mut plan);
    }
    plan
}

/// Looks after the wanted pods, upwards. Missing pods are made up to the burst; beyond
/// it only existing pods are visited, so that the work does not depend on the number of replicas.
fn keep(
    observed: &Observed<'_>,
    wanted: &Range<i64>,
    pods: &BTreeMap<i64, &Arc<Pod>>,
    plan: &mut Plan,
) -> Next {
    let mut burst = Burst::new(observed);
    let mut ordinal = wanted.start;
    while ordinal < wanted.end {
        let next = match pods.get(&ordinal) {
            Some(pod) => live(observed, ordinal, pod, &mut burst, plan),
            None if burst.is_spent() => {
                // On to the next pod that exists.
                let Some((known, _)) = pods.range(ordinal..).next() else { break };
                ordinal = *known;
                continue;
            }
            None => {
                create(observed, ordinal, &mut burst, plan);
                Next::Wait
            }
        };
        if next == Next::Wait && observed.is_ordered() {
            return Next::Wait;
        }
        ordinal += 1;
    }
    if burst.is_spent() {
        let sooner = plan.requeue_after.is_none_or(|known| BURST_PAUSE < known);
        plan.requeue_after = if sooner { Some(BURST_PAUSE) } else { plan.requeue_after };
    }
    Next::GoOn
}

/// Pods that the round may still make, with their claims.
struct Burst(usize);

impl Burst {
    fn new(observed: &Observed<'_>) -> Self {
        if observed.is_ordered() {
            return Self(1);
        }
        let claims = &observed.spec.volume_claim_templates;
        Self(burst::pods(&(observed.current.template, observed.update.template, claims)))
    }

    fn is_spent(&self) -> bool {
        self.0 == 0
    }

    fn spend(&mut self) {
        self.0 = self.0.saturating_sub(1);
    }
}

/// One wanted pod that exists.
fn live(
    observed: &Observed<'_>,
    ordinal: i64,
    pod: &Arc<Pod>,
    burst: &mut Burst,
    plan: &mut Plan,
) -> Next {
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
    if pod::phase(pod) == "Pending" && !burst.is_spent() {
        let claims = missing_claims(observed, ordinal, pod);
        if !claims.is_empty() {
            burst.spend();
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
fn create(observed: &Observed<'_>, ordinal: i64, burst: &mut Burst, plan: &mut Plan) {
    let name = identity::pod_name(observed.set, ordinal);
    let templates = observed.spec.volume_claim_templates.iter().flatten();
    let mut known = templates.filter_map(|template| {
        (observed.claim)(&identity::claim_name(observed.set, template, ordinal))
    });
    // The storage of an earlier pod of that name is about to go: it must not be used again.
    if known.any(|claim| retention::is_stale(&claim, &name)) {
        return;
    }
    burst.spend();
    let pod = observed.pod_for(ordinal);
    let mut writes = missing_claims(observed, ordinal, &pod);
    writes.push(Write::CreatePod(Box::new(pod)));
    plan.writes.push(writes);
}

fn missing_claims(observed: &Observed<'_>, ordinal: i64, pod: &Pod) -> Vec<Write> {
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
fn own_claims(observed: &Observed<'_>, ordinal: i64, pod: &Pod, condemned: bool, plan: &mut Plan) {
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
fn update(
    observed: &Observed<'_>,
    wanted: &Range<i64>,
    pods: &BTreeMap<i64, &Arc<Pod>>,
    plan: &mut Plan,
) {
    let lowest = wanted.start + i64::from(observed.partition().max(0));
    // It ends at the first pod that is missing.
    for ordinal in (lowest..wanted.end).rev() {
        let Some(pod) = pods.get(&ordinal) else { return };
        let leaving = pod.metadata.deletion_timestamp.is_some();
        if identity::revision(pod) != observed.update.name && !leaving {
            plan.writes.push(vec![Write::DeletePod { pod: (*pod).clone(), event: None }]);
            return;
        }
        if leaving || !observed.is_available(pod) {
            return;
        }
    }
}
