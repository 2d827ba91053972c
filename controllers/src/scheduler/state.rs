//! What the scheduler remembers: nodes, who uses them, and who waits.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::ResourceExt;

use crate::cache::{Change, ObjectKey};
use crate::pod;
use crate::scheduler::affinity::NamespaceLabels;
use crate::scheduler::explain::{self, Preemption};
use crate::scheduler::filter::{self, Refusal};
use crate::scheduler::node::{self, Nodes, Use};
use crate::scheduler::preempt::{self, Eviction};
use crate::scheduler::volumes::Claims;

/// The scheduler's own name.
pub const NAME: &str = "default-scheduler";

/// Higher priority first, then the older one.
type Order = (Reverse<i32>, Option<Timestamp>, ObjectKey);

/// Everything the scheduler decides on.
#[derive(Default)]
pub struct State {
    /// The nodes with all pods on them, assumed ones included.
    pub nodes: Nodes,
    /// The node of every pod that is counted in `nodes`.
    placed: HashMap<String, String>,
    /// Pods bound a moment ago whose binding the watch has not shown yet.
    assumed: HashMap<String, String>,
    /// Every pod without a node.
    pending: HashMap<ObjectKey, Arc<Pod>>,
    /// Those of them that are worth a try.
    active: BTreeSet<Order>,
    /// The node on which others make room, for each pending pod that waits for that.
    nominated: HashMap<ObjectKey, String>,
}

/// What else a decision depends on.
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    /// The labels of all namespaces, if the pod's affinity may ask for them.
    pub namespaces: NamespaceLabels,
    /// The claims of the pod.
    pub claims: Claims,
    /// Every budget.
    pub budgets: Vec<Arc<PodDisruptionBudget>>,
}

/// What to do about one pod.
#[derive(Debug)]
pub enum Decision {
    /// Bind it to this node.
    Bind(String),
    /// It fits nowhere.
    Unschedulable {
        /// Why.
        message: String,
        /// What becomes of the room that others make for it.
        nomination: Nomination,
    },
}

/// Whether others make room for a pod that fits nowhere.
#[derive(Debug)]
pub enum Nomination {
    /// They do or do not, as before.
    Keep,
    /// Nothing helps.
    Clear,
    /// These are to go.
    Make(Eviction),
}

impl State {
    /// Takes in a change of a pod; true if there is something to schedule now.
    pub fn pod_changed(&mut self, change: &Change<'_, Pod>) -> bool {
        let pod = change.object();
        let uid = pod.uid().unwrap_or_default();
        let key = ObjectKey::of(pod.as_ref());
        let gone = matches!(change, Change::Deleted(_));
        if !gone && node::occupies(pod) {
            self.forget_pending(&key);
            self.assumed.remove(&uid);
            let node = pod::node_name(pod).unwrap_or_default();
            let leaving = pod.metadata.deletion_timestamp.is_some();
            // Others may be waiting for its resources, or for what its labels say.
            let relabelled = change.states().any(|state| state.labels() != pod.labels());
            let wanted = self.place(uid, node, Use::of(pod.clone()));
            let changed = leaving || relabelled;
            return if changed { self.wake_all() } else { wanted };
        }
        if gone || pod::is_terminal(pod) || pod.metadata.deletion_timestamp.is_some() {
            // The room that others made for it is free.
            let vacated = self.forget_pending(&key);
            self.assumed.remove(&uid);
            return (self.unplace(&uid) || vacated) && self.wake_all();
        }
        if !is_ours(pod) || self.assumed.contains_key(&uid) {
            return false;
        }
        let old = match change {
            Change::Applied { old, .. } => *old,
            Change::Deleted(_) => None,
        };
        if nominated_node(pod) != old.and_then(|old| nominated_node(old)) {
            match nominated_node(pod) {
                Some(node) => drop(self.nominated.insert(key.clone(), node.to_owned())),
                None => drop(self.nominated.remove(&key)),
            }
        }
        // A status that only says that the pod is unschedulable is no reason to try again.
        let relevant = old.is_none_or(|old| {
            old.metadata.generation != pod.metadata.generation
                || old.metadata.labels != pod.metadata.labels
                || old.spec != pod.spec
        });
        if let Some(known) = self.pending.insert(key.clone(), pod.clone()) {
            let was_active = self.active.remove(&order(&known));
            if was_active {
                self.active.insert(order(pod));
            }
        }
        if relevant && !is_gated(pod) {
            self.active.insert(order(pod));
        }
        relevant
    }

    /// Takes in a change of a node; true if there is something to schedule now.
    pub fn node_changed(&mut self, change: &Change<'_, Node>) -> bool {
        let node = change.object();
        let name = node.name_any();
        match change {
            Change::Deleted(_) => {
                self.nodes.nodes.remove(&name);
                false
            }
            Change::Applied { old, new } => {
                self.nodes.nodes.insert(name, (*new).clone());
                let resources = |node: &Node| {
                    node.status
                        .as_ref()
                        .map(|status| (status.allocatable.clone(), status.capacity.clone()))
                };
                let same = old.is_some_and(|old| {
                    old.spec == new.spec
                        && old.metadata.labels == new.metadata.labels
                        && resources(old) == resources(new)
                });
                !same && self.wake_all()
            }
        }
    }

    /// Takes the next pod worth a try.
    pub fn pop(&mut self) -> Option<Arc<Pod>> {
        while let Some((_, _, key)) = self.active.pop_first() {
            if let Some(pod) = self.pending.get(&key) {
                return Some(pod.clone());
            }
        }
        None
    }

    /// Tries every pending pod again; true if there is one.
    pub fn wake_all(&mut self) -> bool {
        self.active
            .extend(self.pending.values().filter(|pod| !is_gated(pod)).map(|pod| order(pod)));
        !self.active.is_empty()
    }

    /// Tries one pod again if it still waits.
    pub fn wake(&mut self, key: &ObjectKey) {
        if let Some(pod) = self.pending.get(key) {
            self.active.insert(order(pod));
        }
    }

    /// Counts `pod` on `node` from now on, before the API has confirmed it.
    pub fn assume(&mut self, pod: &Arc<Pod>, node: &str) {
        let uid = pod.uid().unwrap_or_default();
        self.forget_pending(&ObjectKey::of(pod.as_ref()));
        self.assumed.insert(uid.clone(), node.to_owned());
        // Whoever this wakes is tried next: the caller goes on until nobody is left.
        self.place(uid, node, Use::of(pod.clone()));
    }

    /// Takes an assumption back, because the API refused the binding. The pod waits again.
    pub fn forget(&mut self, pod: &Arc<Pod>) {
        let uid = pod.uid().unwrap_or_default();
        if self.assumed.remove(&uid).is_some() {
            self.unplace(&uid);
            let key = ObjectKey::of(pod.as_ref());
            if let Some(node) = nominated_node(pod) {
                self.nominated.insert(key.clone(), node.to_owned());
            }
            self.pending.insert(key, pod.clone());
        }
    }

    /// Decides about one pod.
    pub fn decide(&self, pod: &Arc<Pod>, around: Surroundings) -> Decision {
        let Surroundings { namespaces, claims, budgets } = around;
        if let Some(obstacle) = &claims.obstacle {
            let message = explain::obstacle(self.nodes.nodes.len(), obstacle);
            return Decision::Unschedulable { message, nomination: Nomination::Clear };
        }
        let wanted = Use { claims, ..Use::of(pod.clone()) };
        let to_come = self.with_nominated(pod);
        let mut refusals = Vec::new();
        let mut fitting: Vec<&String> = Vec::new();
        for name in self.nodes.nodes.keys() {
            // It must fit beside those to come, and must not need them to fit.
            let beside = to_come
                .as_ref()
                .map_or(Ok(()), |nodes| filter::check(&wanted, name, nodes, &namespaces));
            match beside.and_then(|()| filter::check(&wanted, name, &self.nodes, &namespaces)) {
                Ok(()) => fitting.push(name),
                Err(refusal) => refusals.push((name, refusal)),
            }
        }
        let pods = |name: &String| self.nodes.usage(name).map_or(0, |usage| usage.pods.len());
        if let Some(best) = fitting.into_iter().min_by_key(|name| pods(name)) {
            return Decision::Bind(best.clone());
        }
        let nodes = to_come.as_ref().unwrap_or(&self.nodes);
        let policy = pod.spec.as_ref().and_then(|spec| spec.preemption_policy.as_deref());
        let (preemption, nomination) = if policy == Some("Never") {
            (Preemption::NotEligible("preemptionPolicy=Never"), Nomination::Keep)
        } else if self.waits_for_room(pod, &refusals) {
            let reason = "a terminating pod on the nominated node";
            (Preemption::NotEligible(reason), Nomination::Keep)
        } else {
            match preempt::plan(&wanted, &refusals, nodes, &namespaces, &budgets) {
                Ok(eviction) => (Preemption::MakesRoom, Nomination::Make(eviction)),
                Err(reasons) => (Preemption::Tried(reasons), Nomination::Clear),
            }
        };
        let refusals = refusals.iter().map(|(_, refusal)| refusal);
        Decision::Unschedulable { message: explain::sentence(refusals, preemption), nomination }
    }

    /// Takes in for whom room is made; returns pods of lower priority for whom it was to be made
    /// on the same node.
    pub fn nominate(&mut self, pod: &Arc<Pod>, nomination: &Nomination) -> Vec<Arc<Pod>> {
        let key = ObjectKey::of(pod.as_ref());
        let node = match nomination {
            Nomination::Keep => return Vec::new(),
            Nomination::Clear => {
                if self.nominated.remove(&key).is_some() {
                    self.wake_all();
                    self.active.remove(&order(pod));
                }
                return Vec::new();
            }
            Nomination::Make(eviction) => &eviction.node,
        };
        let mine = node::priority(pod);
        let displaced = self.nominated.iter().filter(|(_, other)| *other == node);
        let displaced = displaced.filter_map(|(key, _)| self.pending.get(key));
        let displaced: Vec<_> =
            displaced.filter(|other| node::priority(other) < mine).cloned().collect();
        for other in &displaced {
            self.nominated.remove(&ObjectKey::of(other.as_ref()));
        }
        self.nominated.insert(key, node.clone());
        displaced
    }

    /// The nodes with the pods for which others make room there, and which are not less important
    /// than `pod`; `None` if there are none.
    fn with_nominated(&self, pod: &Pod) -> Option<Nodes> {
        let own = ObjectKey::of(pod);
        let mut nodes = None;
        for (key, node) in self.nominated.iter().filter(|(key, _)| **key != own) {
            let Some(other) = self.pending.get(key) else { continue };
            if node::priority(other) >= node::priority(pod) {
                let nodes = nodes.get_or_insert_with(|| self.nodes.clone());
                let usage: &mut node::Usage = nodes.usage.entry(node.clone()).or_default();
                usage.insert(other.uid().unwrap_or_default(), Use::of(other.clone()));
            }
        }
        nodes
    }

    /// Whether others are leaving to make room for the pod, on a node that would do then.
    fn waits_for_room(&self, pod: &Pod, refusals: &[(&String, Refusal)]) -> bool {
        self.nominated.get(&ObjectKey::of(pod)).is_some_and(|node| {
            let hopeless = refusals.iter().any(|(name, why)| *name == node && !why.resolvable);
            !hopeless && preempt::is_under_way(pod, node, &self.nodes)
        })
    }

    /// Counts a pod on its node; true if there is something to schedule now, because it uses less
    /// than before or because it is the company that another waits for.
    fn place(&mut self, uid: String, node: &str, used: Use) -> bool {
        let mut shrunk = false;
        let known = self.placed.get(&uid).cloned();
        let arrived = known.is_none();
        if let Some(known) = known {
            let before = self.nodes.usage.get_mut(&known);
            let before =
                before.and_then(|usage| usage.pods.get(&uid)).map(|used| used.requests.clone());
            shrunk = before.is_some_and(|before| before != used.requests);
            if known != node {
                self.unplace(&uid);
            }
        }
        self.placed.insert(uid.clone(), node.to_owned());
        self.nodes.usage.entry(node.to_owned()).or_default().insert(uid, used);
        if shrunk {
            return self.wake_all();
        }
        if arrived {
            let waiting = self.pending.values().filter(|pod| minds_others(pod) && !is_gated(pod));
            self.active.extend(waiting.map(|pod| order(pod)));
        }
        arrived && !self.active.is_empty()
    }

    fn unplace(&mut self, uid: &str) -> bool {
        let Some(node) = self.placed.remove(uid) else { return false };
        self.nodes.usage.get_mut(&node).is_some_and(|usage| usage.remove(uid))
    }

    /// True if others were making room for it.
    fn forget_pending(&mut self, key: &ObjectKey) -> bool {
        if let Some(pod) = self.pending.remove(key) {
            self.active.remove(&order(&pod));
        }
        self.nominated.remove(key).is_some()
    }
}

fn order(pod: &Pod) -> Order {
    (Reverse(node::priority(pod)), pod::created(pod), ObjectKey::of(pod))
}

fn nominated_node(pod: &Pod) -> Option<&str> {
    let name = pod.status.as_ref()?.nominated_node_name.as_deref()?;
    (!name.is_empty()).then_some(name)
}

fn is_ours(pod: &Pod) -> bool {
    let name = pod.spec.as_ref().and_then(|spec| spec.scheduler_name.as_deref());
    name.unwrap_or(NAME) == NAME
}

/// Whether the arrival of another pod can be what the pod waits for.
fn minds_others(pod: &Pod) -> bool {
    let Some(spec) = &pod.spec else { return false };
    spec.affinity.as_ref().is_some_and(|affinity| affinity.pod_affinity.is_some())
        || spec.topology_spread_constraints.as_ref().is_some_and(|spread| !spread.is_empty())
}

fn is_gated(pod: &Pod) -> bool {
    let gates = pod.spec.as_ref().and_then(|spec| spec.scheduling_gates.as_ref());
    gates.is_some_and(|gates| !gates.is_empty())
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
