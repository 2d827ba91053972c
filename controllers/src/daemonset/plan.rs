//! What to create and delete so that every node has the one pod it shall have.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetSpec, DaemonSetStatus};
use k8s_openapi::api::core::v1::{Node, Pod, PodTemplateSpec};
use kube::ResourceExt;

use crate::burst;
use crate::daemonset::place::{self, Place};
use crate::daemonset::status;
use crate::daemonset::update::{self, Bounds};
use crate::event::Notice;
use crate::history::POD_LABEL;
use crate::pod::{self, Availability};

/// At most this many pods are created or deleted for one DaemonSet at once.
const BURST_PODS: usize = 250;

/// What is known of one DaemonSet.
pub struct Observed<'a> {
    /// The DaemonSet.
    pub owner: &'a DaemonSet,
    /// Its spec.
    pub spec: &'a DaemonSetSpec,
    /// The hash of its template.
    pub hash: &'a str,
    /// Every node.
    pub nodes: &'a [Arc<Node>],
    /// Every pod it controls.
    pub pods: &'a [Arc<Pod>],
    /// Everything asked for earlier has been seen.
    pub settled: bool,
    /// How long a node whose pod failed has to wait for the next one.
    pub waits: &'a HashMap<String, Duration>,
    /// The time.
    pub now: Timestamp,
}

impl Observed<'_> {
    /// Whether the pod was made from the present template.
    pub fn is_updated(&self, pod: &Pod) -> bool {
        pod.labels().get(POD_LABEL).is_some_and(|hash| hash == self.hash)
    }

    /// Whether the pod has been ready for long enough.
    pub fn is_available(&self, pod: &Pod) -> bool {
        let seconds = self.spec.min_ready_seconds.unwrap_or(0);
        pod::availability(pod, seconds, self.now) == Availability::Available
    }

    /// The template of the pods.
    pub fn template(&self) -> &PodTemplateSpec {
        &self.spec.template
    }
}

/// What to do about one DaemonSet.
#[derive(Debug, Default)]
pub struct Plan {
    /// The nodes that get a pod.
    pub create: Vec<String>,
    /// The pods that go.
    pub delete: Vec<Arc<Pod>>,
    /// The nodes whose pod failed and goes now: the next failure waits longer.
    pub failed: Vec<String>,
    /// What to tell people.
    pub events: Vec<Notice>,
    /// The status.
    pub status: DaemonSetStatus,
    /// When to look again.
    pub requeue_after: Option<Duration>,
}

impl Plan {
    fn look_after(&mut self, delay: Duration) {
        if self.requeue_after.is_none_or(|known| delay < known) {
            self.requeue_after = Some(delay);
        }
    }
}

/// The pods by the node they are on or were made for. A finished pod that is being deleted does
/// not occupy its node any more.
pub type PodsByNode = BTreeMap<String, Vec<Arc<Pod>>>;

/// Compares what is wanted with what is there.
pub fn plan(observed: &Observed<'_>) -> Plan {
    let mut by_node = PodsByNode::new();
    for pod in observed.pods {
        let leaving = pod::is_terminal(pod) && pod.metadata.deletion_timestamp.is_some();
        if let Some(node) = place::target(pod).filter(|_| !leaving) {
            by_node.entry(node.to_owned()).or_default().push(pod.clone());
        }
    }
    for pods in by_node.values_mut() {
        sort_oldest_first(pods);
    }
    let places: BTreeMap<String, Place> = observed
        .nodes
        .iter()
        .map(|node| (node.name_any(), place::place(observed.template(), node)))
        .collect();
    let bounds = update::bounds(observed, places.values().filter(|place| place.wanted).count());
    let mut plan = Plan { status: status::status(observed, &places, &by_node), ..Plan::default() };
    for pod in observed.pods {
        let seconds = observed.spec.min_ready_seconds.unwrap_or(0);
        // The status counts the oldest pod of a node only, but a younger one may relieve it.
        if let Availability::After(left) = pod::availability(pod, seconds, observed.now) {
            plan.look_after(left);
        }
    }
    if !observed.settled || observed.owner.metadata.deletion_timestamp.is_some() {
        return plan;
    }
    manage(observed, &places, &by_node, bounds, &mut plan);
    // A template is rolled out only over nodes that have what they shall have, as far as this
    // round knows.
    if plan.create.is_empty() && plan.delete.is_empty() {
        update::roll(observed, &places, &by_node, bounds, &mut plan);
    }
    if !plan.create.is_empty() {
        plan.create.truncate(BURST_PODS.min(burst::pods(observed.template())));
    }
    plan.delete.truncate(BURST_PODS);
    plan
}

/// One pod where one is wanted, none elsewhere.
fn manage(
    observed: &Observed<'_>,
    places: &BTreeMap<String, Place>,
    by_node: &PodsByNode,
    bounds: Bounds,
    plan: &mut Plan,
) {
    for (node, place) in places {
        let pods = by_node.get(node).map(Vec::as_slice).unwrap_or_default();
        match (place.wanted, place.may_stay) {
            (true, _) if pods.is_empty() => plan.create.push(node.clone()),
            (_, true) => prune(observed, node, pods, bounds, plan),
            (_, false) => {
                let staying = pods.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none());
                plan.delete.extend(staying.cloned());
            }
        }
    }
    // Pods for nodes that are gone can never be scheduled.
    for (_, pods) in by_node.iter().filter(|(node, _)| !places.contains_key(*node)) {
        let lost = pods.iter().filter(|pod| {
            pod::node_name(pod).is_none() && pod.metadata.deletion_timestamp.is_none()
        });
        plan.delete.extend(lost.cloned());
    }
}

/// Removes pods that have ended and those that are too many.
fn prune(observed: &Observed<'_>, node: &str, pods: &[Arc<Pod>], bounds: Bounds, plan: &mut Plan) {
    let namespace = observed.owner.metadata.namespace.as_deref().unwrap_or_default();
    let mut running: Vec<&Arc<Pod>> = Vec::new();
    for pod in pods.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()) {
        let name = pod.name_any();
        match pod::phase(pod) {
            "Failed" => {
                if let Some(wait) = observed.waits.get(node) {
                    plan.look_after(*wait);
                    continue;
                }
                let message = format!(
                    "Found failed daemon pod {namespace}/{name} on node {node}, will try to kill it"
                );
                plan.events.push(Notice::warning("FailedDaemonPod", message));
                plan.failed.push(node.to_owned());
                plan.delete.push(pod.clone());
            }
            "Succeeded" => {
                let message = format!(
                    "Found succeeded daemon pod {namespace}/{name} on node {node}, will try to \
                     delete it"
                );
                plan.events.push(Notice::normal("SucceededDaemonPod", message));
                plan.delete.push(pod.clone());
            }
            _ => running.push(pod),
        }
    }
    if bounds.surge == 0 {
        plan.delete.extend(running.into_iter().skip(1).cloned());
        return;
    }
    let (new, old): (Vec<&Arc<Pod>>, Vec<&Arc<Pod>>) =
        running.into_iter().partition(|pod| observed.is_updated(pod));
    plan.delete.extend(new.iter().skip(1).chain(old.iter().skip(1)).copied().cloned());
    if let (Some(new), Some(old)) = (new.first(), old.first())
        && (!pod::is_ready(old) || observed.is_available(new))
    {
        plan.delete.push((*old).clone());
    }
}

fn sort_oldest_first(pods: &mut [Arc<Pod>]) {
    let waiting = |pod: &Pod| pod::node_name(pod).is_none();
    pods.sort_by(|a, b| {
        waiting(a)
            .cmp(&waiting(b))
            .then_with(|| pod::created(a).cmp(&pod::created(b)))
            .then_with(|| a.metadata.name.cmp(&b.metadata.name))
    });
}
