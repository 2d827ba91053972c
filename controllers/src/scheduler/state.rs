//! What the scheduler remembers: nodes, who uses them, and who waits.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::ResourceExt;

use crate::cache::{Change, ObjectKey};
use crate::pod;
use crate::scheduler::affinity::NamespaceLabels;
use crate::scheduler::explain::{self, Preemption};
use crate::scheduler::filter;
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
        /// What would make room.
        eviction: Option<Eviction>,
    },
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
            let shrunk = self.place(uid, node, Use::of(pod.clone()));
            return (shrunk || leaving) && self.wake_all();
        }
        if gone || pod::is_terminal(pod) || pod.metadata.deletion_timestamp.is_some() {
            self.forget_pending(&key);
            self.assumed.remove(&uid);
            return self.unplace(&uid) && self.wake_all();
        }
        if !is_ours(pod) || self.assumed.contains_key(&uid) {
            return false;
        }
        // A status that only says that the pod is unschedulable is no reason to try again.
        let relevant = match change {
            Change::Applied { old: Some(old), .. } => {
                old.metadata.generation != pod.metadata.generation
                    || old.metadata.labels != pod.metadata.labels
                    || old.spec != pod.spec
            }
            _ => true,
        };
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
        self.place(uid, node, Use::of(pod.clone()));
    }

    /// Takes an assumption back, because the API refused the binding. The pod waits again.
    pub fn forget(&mut self, pod: &Arc<Pod>) {
        let uid = pod.uid().unwrap_or_default();
        if self.assumed.remove(&uid).is_some() {
            self.unplace(&uid);
            self.pending.insert(ObjectKey::of(pod.as_ref()), pod.clone());
        }
    }

    /// Decides about one pod.
    pub fn decide(&self, pod: &Arc<Pod>, namespaces: &NamespaceLabels, claims: Claims) -> Decision {
        if let Some(obstacle) = &claims.obstacle {
            let message = explain::obstacle(self.nodes.nodes.len(), obstacle);
            return Decision::Unschedulable { message, eviction: None };
        }
        let wanted = Use { claims, ..Use::of(pod.clone()) };
        let mut refusals = Vec::new();
        let mut fitting: Vec<&String> = Vec::new();
        for name in self.nodes.nodes.keys() {
            match filter::check(&wanted, name, &self.nodes, namespaces) {
                Ok(()) => fitting.push(name),
                Err(refusal) => refusals.push(refusal),
            }
        }
        let pods = |name: &String| self.nodes.usage(name).map_or(0, |usage| usage.pods.len());
        if let Some(best) = fitting.into_iter().min_by_key(|name| pods(name)) {
            return Decision::Bind(best.clone());
        }
        let policy = pod.spec.as_ref().and_then(|spec| spec.preemption_policy.as_deref());
        let (preemption, eviction) = if policy == Some("Never") {
            (Preemption::NotEligible("preemptionPolicy=Never"), None)
        } else if preempt::is_under_way(pod, &self.nodes) {
            (Preemption::NotEligible("a terminating pod on the nominated node"), None)
        } else {
            (Preemption::Tried, preempt::plan(&wanted, &self.nodes, namespaces))
        };
        Decision::Unschedulable { message: explain::sentence(&refusals, &preemption), eviction }
    }

    /// True if the pod now uses less than before.
    fn place(&mut self, uid: String, node: &str, used: Use) -> bool {
        let mut shrunk = false;
        if let Some(known) = self.placed.get(&uid).cloned() {
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
        shrunk
    }

    fn unplace(&mut self, uid: &str) -> bool {
        let Some(node) = self.placed.remove(uid) else { return false };
        self.nodes.usage.get_mut(&node).is_some_and(|usage| usage.remove(uid))
    }

    fn forget_pending(&mut self, key: &ObjectKey) {
        if let Some(pod) = self.pending.remove(key) {
            self.active.remove(&order(&pod));
        }
    }
}

fn order(pod: &Pod) -> Order {
    (Reverse(node::priority(pod)), pod::created(pod), ObjectKey::of(pod))
}

fn is_ours(pod: &Pod) -> bool {
    let name = pod.spec.as_ref().and_then(|spec| spec.scheduler_name.as_deref());
    name.unwrap_or(NAME) == NAME
}

fn is_gated(pod: &Pod) -> bool {
    let gates = pod.spec.as_ref().and_then(|spec| spec.scheduling_gates.as_ref());
    gates.is_some_and(|gates| !gates.is_empty())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn node(value: Value) -> Arc<Node> {
        let mut node = json!({"metadata": {"name": "vm", "labels": {"kubernetes.io/hostname": "vm"}},
            "status": {"allocatable": {"cpu": "1", "memory": "1Gi", "pods": "5"}}});
        merge(&mut node, value);
        Arc::new(serde_json::from_value(node).unwrap())
    }

    fn pod(name: &str, value: Value) -> Arc<Pod> {
        let mut pod = json!({"metadata": {"name": name, "namespace": "default", "uid": name,
            "creationTimestamp": "2024-01-01T00:00:00Z"},
            "spec": {"containers": [{"name": "c"}]}});
        merge(&mut pod, value);
        Arc::new(serde_json::from_value(pod).unwrap())
    }

    fn merge(into: &mut Value, from: Value) {
        match (into, from) {
            (Value::Object(into), Value::Object(from)) => {
                for (key, value) in from {
                    merge(into.entry(key).or_insert(Value::Null), value);
                }
            }
            (into, from) => *into = from,
        }
    }

    fn asks(cpu: &str) -> Value {
        json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]}})
    }

    fn on_vm(mut value: Value) -> Value {
        merge(&mut value, json!({"spec": {"nodeName": "vm"}}));
        value
    }

    fn state(node: &Arc<Node>, pods: &[Arc<Pod>]) -> State {
        let mut state = State::default();
        state.node_changed(&Change::Applied { old: None, new: node });
        for pod in pods {
            state.pod_changed(&Change::Applied { old: None, new: pod });
        }
        state
    }

    fn message(state: &State, pod: &Arc<Pod>) -> String {
        match state.decide(pod, &NamespaceLabels::new(), Claims::default()) {
            Decision::Bind(node) => format!("bound to {node}"),
            Decision::Unschedulable { message, .. } => message,
        }
    }

    #[test]
    fn refusals_use_the_words_people_search_for() {
        const HELPLESS: &str =
            "0/1 nodes are available: 1 Preemption is not helpful for scheduling.";
        const NO_VICTIMS: &str =
            "0/1 nodes are available: 1 No preemption victims found for incoming pod.";
        let plain = || json!({});
        let table = [
            (json!({}), asks("256m"), vec![], "bound to vm".to_owned()),
            (
                json!({}),
                asks("256m"),
                vec![on_vm(asks("800m"))],
                format!("0/1 nodes are available: 1 Insufficient cpu. preemption: {NO_VICTIMS}"),
            ),
            (
                json!({}),
                asks("2"),
                vec![],
                format!("0/1 nodes are available: 1 Insufficient cpu. preemption: {HELPLESS}"),
            ),
            (
                json!({"spec": {"unschedulable": true}}),
                plain(),
                vec![],
                format!(
                    "0/1 nodes are available: 1 node(s) were unschedulable. preemption: {HELPLESS}"
                ),
            ),
            (
                json!({"spec": {"taints": [{"key": "a", "value": "b", "effect": "NoSchedule"}]}}),
                plain(),
                vec![],
                format!(
                    "0/1 nodes are available: 1 node(s) had untolerated taint {{a: b}}. \
                     preemption: {HELPLESS}"
                ),
            ),
            (
                json!({"spec": {"taints": [{"key": "a", "value": "b", "effect": "NoSchedule"}]}}),
                json!({"spec": {"tolerations": [{"key": "a", "operator": "Exists"}]}}),
                vec![],
                "bound to vm".to_owned(),
            ),
            (
                json!({}),
                json!({"spec": {"nodeSelector": {"disk": "ssd"}}}),
                vec![],
                format!(
                    "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector. \
                     preemption: {HELPLESS}"
                ),
            ),
            (
                json!({}),
                json!({"spec": {"containers": [{"name": "c", "ports": [{"containerPort": 80, "hostPort": 80}]}]}}),
                vec![on_vm(json!({"spec": {"containers": [{"name": "c",
                    "ports": [{"containerPort": 8080, "hostPort": 80}]}]}}))],
                format!(
                    "0/1 nodes are available: 1 node(s) didn't have free ports for the requested \
                     pod ports. preemption: {NO_VICTIMS}"
                ),
            ),
            (
                json!({}),
                json!({"metadata": {"labels": {"app": "a"}}, "spec": {"affinity": {"podAntiAffinity": {
                    "requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey":
                    "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "a"}}}]}}}}),
                vec![on_vm(json!({"metadata": {"labels": {"app": "a"}}}))],
                format!(
                    "0/1 nodes are available: 1 node(s) didn't match pod anti-affinity rules. \
                     preemption: {NO_VICTIMS}"
                ),
            ),
        ];
        for (node_change, wanted, others, expected) in table {
            let others: Vec<_> = others
                .into_iter()
                .enumerate()
                .map(|(index, value)| pod(&format!("other-{index}"), value))
                .collect();
            let state = state(&node(node_change), &others);
            assert_eq!(message(&state, &pod("new", wanted)), expected);
        }
        assert_eq!(
            message(&State::default(), &pod("new", json!({}))),
            "no nodes available to schedule pods"
        );
    }

    #[test]
    fn assumed_pods_count_until_the_api_has_spoken() {
        let vm = node(json!({}));
        let (a, b) = (pod("a", asks("600m")), pod("b", asks("600m")));
        let mut state = state(&vm, &[a.clone(), b.clone()]);
        assert_eq!(state.pop().unwrap().name_any(), "a");
        state.assume(&a, "vm");
        assert_eq!(state.pop().unwrap().name_any(), "b");
        assert!(message(&state, &b).contains("Insufficient cpu"));
        assert!(state.pop().is_none());
        // The binding failed: its place is free again.
        state.forget(&a);
        assert!(message(&state, &b).contains("bound"));
        state.assume(&b, "vm");
        // The other way round: b is bound and ends, and a is tried again.
        let bound = pod("b", on_vm(asks("600m")));
        state.pod_changed(&Change::Applied { old: Some(&b), new: &bound });
        assert!(state.pop().is_none());
        assert!(state.pod_changed(&Change::Deleted(&bound)));
        assert_eq!(state.pop().unwrap().name_any(), "a");
    }

    #[test]
    fn pods_of_higher_priority_go_first_and_make_room() {
        let vm = node(json!({}));
        let low = pod("low", on_vm(asks("600m")));
        let mut important = asks("600m");
        merge(&mut important, json!({"spec": {"priority": 1000}}));
        let high = pod("high", important);
        let waiting = pod("waiting", asks("100m"));
        let mut state = state(&vm, &[low, waiting, high.clone()]);
        assert_eq!(state.pop().unwrap().name_any(), "high");
        match state.decide(&high, &NamespaceLabels::new(), Claims::default()) {
            Decision::Unschedulable { eviction: Some(eviction), .. } => {
                assert_eq!(eviction.victims.len(), 1);
                assert_eq!(eviction.victims[0].name_any(), "low");
            }
            other => panic!("{other:?}"),
        }
    }
}
