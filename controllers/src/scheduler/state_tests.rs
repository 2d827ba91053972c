//! Decisions about pods, on one node.
#![allow(clippy::unwrap_used)]

use serde_json::{Value, json};

use super::*;
use crate::fixture::{merge, pod};

fn node(value: Value) -> Arc<Node> {
    let mut node = json!({"metadata": {"name": "vm", "labels": {"kubernetes.io/hostname": "vm"}},
        "status": {"allocatable": {"cpu": "1", "memory": "1Gi", "pods": "5"}}});
    merge(&mut node, value);
    Arc::new(serde_json::from_value(node).unwrap())
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
    match state.decide(pod, Surroundings::default()) {
        Decision::Bind(node) => format!("bound to {node}"),
        Decision::Unschedulable { message, .. } => message,
    }
}

#[test]
fn refusals_use_the_words_people_search_for() {
    const HELPLESS: &str = "0/1 nodes are available: 1 Preemption is not helpful for scheduling.";
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

fn ranked(priority: i32, cpu: &str, more: Value) -> Value {
    let mut value = asks(cpu);
    merge(&mut value, json!({"spec": {"priority": priority}}));
    merge(&mut value, more);
    value
}

fn victims(state: &State, pod: &Arc<Pod>, budgets: Vec<Arc<PodDisruptionBudget>>) -> String {
    let around = Surroundings { budgets, ..Surroundings::default() };
    match state.decide(pod, around) {
        Decision::Unschedulable { nomination: Nomination::Make(eviction), message } => {
            let mut names: Vec<_> = eviction.victims.iter().map(|v| v.name_any()).collect();
            names.sort();
            format!("{}: {message}", names.join(" "))
        }
        other => format!("{other:?}"),
    }
}

const SHORT: &str = "0/1 nodes are available: 1 Insufficient cpu.";

#[test]
fn pods_of_higher_priority_go_first_and_make_room() {
    let vm = node(json!({}));
    let low = pod("low", on_vm(asks("600m")));
    let high = pod("high", ranked(1000, "600m", json!({})));
    let waiting = pod("waiting", asks("100m"));
    let mut state = state(&vm, &[low, waiting, high.clone()]);
    assert_eq!(state.pop().unwrap().name_any(), "high");
    assert_eq!(victims(&state, &high, vec![]), format!("low: {SHORT}"));
}

#[test]
fn preemption_takes_the_least_and_says_why_it_cannot() {
    let vm = node(json!({}));
    let running = |name: &str, priority: i32, cpu: &str, started: &str| {
        let more = json!({"metadata": {"labels": {"app": name}},
            "status": {"startTime": started}});
        pod(name, on_vm(ranked(priority, cpu, more)))
    };
    let pods = [
        running("old", 0, "300m", "2024-01-01T00:00:00Z"),
        running("young", 0, "300m", "2024-01-01T00:00:01Z"),
        running("better", 5, "300m", "2024-01-01T00:00:02Z"),
    ];
    let state = state(&vm, &pods);
    let wants = |cpu: &str| pod("new", ranked(10, cpu, json!({})));
    assert_eq!(victims(&state, &wants("400m"), vec![]), format!("young: {SHORT}"));
    assert_eq!(victims(&state, &wants("500m"), vec![]), format!("old young: {SHORT}"));
    // A budget keeps its pod as long as another can go, and no longer.
    let budget: PodDisruptionBudget = serde_json::from_value(json!({
        "metadata": {"name": "keep", "namespace": "default"},
        "spec": {"selector": {"matchLabels": {"app": "young"}}},
        "status": {"disruptionsAllowed": 0, "currentHealthy": 1, "desiredHealthy": 1,
            "expectedPods": 1}
    }))
    .unwrap();
    let budgets = vec![Arc::new(budget)];
    assert_eq!(victims(&state, &wants("400m"), budgets.clone()), format!("old: {SHORT}"));
    let all = format!("better old young: {SHORT}");
    assert_eq!(victims(&state, &wants("1"), budgets), all);
    // Nobody is less important, or not enough of them are, or the pod does not want it.
    let tried = |reason: &str| format!("{SHORT} preemption: 0/1 nodes are available: 1 {reason}.");
    let none = tried("No preemption victims found for incoming pod");
    assert_eq!(message(&state, &pod("new", ranked(0, "400m", json!({})))), none);
    let not_enough = pod("new", ranked(5, "800m", json!({})));
    assert_eq!(message(&state, &not_enough), tried("Insufficient cpu"));
    let modest = json!({"spec": {"preemptionPolicy": "Never"}});
    assert_eq!(
        message(&state, &pod("new", ranked(10, "400m", modest))),
        format!("{SHORT} preemption: not eligible due to preemptionPolicy=Never.")
    );
}

#[test]
fn the_room_that_others_make_is_kept_for_whom_they_make_it() {
    let vm = node(json!({}));
    let low = pod("low", on_vm(ranked(0, "800m", json!({}))));
    let high = pod("high", ranked(10, "900m", json!({})));
    let mut state = state(&vm, &[low.clone(), high.clone()]);
    let Decision::Unschedulable { nomination, .. } = state.decide(&high, Surroundings::default())
    else {
        panic!("there is no room yet");
    };
    assert!(state.nominate(&high, &nomination).is_empty());
    // It would fit beside the pod that has to go, but not beside the one that comes.
    let late = pod("late", ranked(10, "150m", json!({})));
    assert!(message(&state, &late).starts_with(SHORT), "{}", message(&state, &late));
    let higher = pod("higher", ranked(11, "150m", json!({})));
    assert_eq!(message(&state, &higher), "bound to vm");
    // While the pod is on its way out nobody else has to go.
    let marked = json!({"metadata": {"deletionTimestamp": "2024-01-01T00:00:00Z"},
        "status": {"conditions": [{"type": "DisruptionTarget", "status": "True",
            "reason": "PreemptionByScheduler"}]}});
    let leaving = pod("low", on_vm(ranked(0, "800m", marked)));
    state.pod_changed(&Change::Applied { old: Some(&low), new: &leaving });
    let waits = "preemption: not eligible due to a terminating pod on the nominated node.";
    assert_eq!(message(&state, &high), format!("{SHORT} {waits}"));
    // A more important one that wants the same room gets it.
    let top = pod("top", ranked(20, "900m", json!({})));
    state.pod_changed(&Change::Applied { old: None, new: &top });
    let Decision::Unschedulable { nomination, .. } = state.decide(&top, Surroundings::default())
    else {
        panic!("there is no room yet");
    };
    let displaced = state.nominate(&top, &nomination);
    assert_eq!(displaced.iter().map(|pod| pod.name_any()).collect::<Vec<_>>(), ["high"]);
    assert!(state.pod_changed(&Change::Deleted(&leaving)));
    assert_eq!(state.pop().unwrap().name_any(), "top");
    assert_eq!(message(&state, &top), "bound to vm");
    // Whoever waited for the room behind a pod that is gone is tried again.
    assert!(state.pod_changed(&Change::Deleted(&top)));
    assert_eq!(message(&state, &high), "bound to vm");
}

#[test]
fn affinity_and_spreading_look_at_whole_groups() {
    let vm = node(json!({}));
    let term = |app: &str| {
        json!([{"topologyKey": "kubernetes.io/hostname",
            "labelSelector": {"matchLabels": {"app": app}}}])
    };
    let near = |app: &str, wanted: Value| {
        json!({"metadata": {"labels": {"app": app}}, "spec": {"affinity": {"podAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": wanted}}}})
    };
    let state = state(&vm, &[pod("db", on_vm(json!({"metadata": {"labels": {"app": "db"}}})))]);
    assert_eq!(message(&state, &pod("web", near("web", term("db")))), "bound to vm");
    assert_eq!(message(&state, &pod("web", near("web", term("web")))), "bound to vm");
    let refused = "0/1 nodes are available: 1 node(s) didn't match pod affinity rules. \
                   preemption: 0/1 nodes are available: 1 Preemption is not helpful for \
                   scheduling.";
    assert_eq!(message(&state, &pod("web", near("web", term("cache")))), refused);
    let both = json!([term("db")[0], term("web")[0]]);
    assert_eq!(message(&state, &pod("web", near("web", both))), refused);
    // Who waits for company is tried again when it comes, others are not.
    let cache = pod("cache", json!({"metadata": {"labels": {"app": "cache"}}}));
    let mut state = state;
    for waiting in [pod("web", near("web", term("cache"))), pod("idle", json!({})), cache.clone()] {
        state.pod_changed(&Change::Applied { old: None, new: &waiting });
    }
    while state.pop().is_some() {}
    state.assume(&cache, "vm");
    assert_eq!(state.pop().unwrap().name_any(), "web");
    assert!(state.pop().is_none());

    let spread = |version: &str, more: Value| {
        let mut constraint = json!({"maxSkew": 1, "topologyKey": "kubernetes.io/hostname",
            "whenUnsatisfiable": "DoNotSchedule", "minDomains": 2,
            "labelSelector": {"matchLabels": {"app": "db"}}});
        merge(&mut constraint, more);
        pod(
            "new",
            json!({"metadata": {"labels": {"app": "db", "version": version}},
            "spec": {"topologySpreadConstraints": [constraint]}}),
        )
    };
    let uneven = "0/1 nodes are available: 1 node(s) didn't match pod topology spread \
                  constraints. preemption: 0/1 nodes are available: 1 No preemption victims \
                  found for incoming pod.";
    assert_eq!(message(&state, &spread("2", json!({}))), uneven);
    let any = json!({"whenUnsatisfiable": "ScheduleAnyway"});
    assert_eq!(message(&state, &spread("2", any)), "bound to vm");
    let keys = json!({"matchLabelKeys": ["version"]});
    assert_eq!(message(&state, &spread("2", keys)), "bound to vm");
    let unlabelled = message(&state, &spread("2", json!({"topologyKey": "zone"})));
    assert!(unlabelled.contains("spread constraints (missing required label)"), "{unlabelled}");
}
