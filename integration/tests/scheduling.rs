//! The scheduler, driven by an old and a new kubectl: where pods may go, who makes room for whom,
//! who has to leave, and what is said about it.
#![allow(clippy::unwrap_used, clippy::panic)]

use coracle_integration::manifest::{merge, sleeper};
use coracle_integration::{Kubectl, Node, eventually, with_old_and_new_kubectl, within};
use serde_json::{Value, json};

/// What is said after the reason when nothing would help.
const HELPLESS: &str = " preemption: 0/1 nodes are available: 1 Preemption is not helpful for \
                        scheduling.";
/// What is said after the reason when nobody is less important.
const NO_VICTIMS: &str = " preemption: 0/1 nodes are available: 1 No preemption victims found for \
                          incoming pod.";

/// The same pod with these labels.
fn labelled(mut pod: Value, labels: Value) -> Value {
    merge(&mut pod["metadata"]["labels"], labels);
    pod
}

/// The same pod, asking for that much of the CPU.
fn asking(mut pod: Value, milli: i64) -> Value {
    let amounts = json!({"requests": {"cpu": format!("{milli}m")}});
    pod["spec"]["containers"][0]["resources"] = amounts;
    pod
}

/// That many per cent of what the node has, in thousandths of a CPU.
fn share(kubectl: &Kubectl, percent: i64) -> i64 {
    let text = kubectl.jsonpath(&["node", "node"], "{.status.allocatable.cpu}");
    let milli = match text.strip_suffix('m') {
        Some(milli) => milli.parse::<i64>().unwrap(),
        None => text.parse::<i64>().unwrap() * 1000,
    };
    milli * percent / 100
}

fn apply(kubectl: &Kubectl, object: &Value) {
    // What an old client does not know it would refuse to send.
    let input = object.to_string();
    let output = kubectl.run_with_input(&["apply", "--validate=false", "-f", "-"], &input);
    assert_eq!(output.code, 0, "{}", output.stderr);
}

fn runs(kubectl: &Kubectl, name: &str) {
    let pod = format!("pod/{name}");
    kubectl.ok(&["wait", "--for=condition=Ready", &pod, "--timeout=60s"]);
}

fn condition(pod: &Value, kind: &str) -> Option<Value> {
    let mut conditions = pod["status"]["conditions"].as_array()?.iter();
    conditions.find(|condition| condition["type"] == kind).cloned()
}

/// The pod waits, and its condition and an event say why.
fn waits(kubectl: &Kubectl, name: &str, why: &str) {
    within(60, &format!("{name} waits: {why}"), || {
        let pod = kubectl.json(&["pod", name]);
        condition(&pod, "PodScheduled").is_some_and(|condition| {
            condition["status"] == "False"
                && condition["reason"] == "Unschedulable"
                && condition["message"] == why
        })
    });
    says(kubectl, name, "FailedScheduling", why);
    assert_eq!(kubectl.jsonpath(&["pod", name], "{.status.phase}"), "Pending");
}

fn says(kubectl: &Kubectl, name: &str, reason: &str, message: &str) {
    within(60, &format!("{name}: {reason} {message}"), || {
        kubectl.events(name, reason).iter().any(|event| event["message"] == message)
    });
}

fn gone(kubectl: &Kubectl, name: &str) {
    within(60, &format!("{name} is gone"), || kubectl.run(&["get", "pod", name]).code != 0);
}

fn delete(kubectl: &Kubectl, names: &[&str]) {
    kubectl.ok(&[&["delete", "pod", "--timeout=60s"], names].concat());
}

fn namespace(kubectl: &Kubectl) -> String {
    format!("v{}", kubectl.version.replace('.', "-"))
}

#[test]
fn pods_go_where_they_ask_to_and_keep_their_distance() {
    with_old_and_new_kubectl(|_, kubectl| {
        node_affinity(kubectl);
        pod_affinity(kubectl);
        spreading(kubectl);
        host_ports(kubectl);
        gates(kubectl);
    });
}

fn node_affinity(kubectl: &Kubectl) {
    let wants = |kind: &str, rule: Value| json!({"affinity": {"nodeAffinity": {kind: rule}}});
    let ssd = json!([{"key": "disk", "operator": "In", "values": ["ssd"]}]);
    let term = json!({"nodeSelectorTerms": [{"matchExpressions": ssd}]});
    let required = "requiredDuringSchedulingIgnoredDuringExecution";
    apply(kubectl, &sleeper("picky", wants(required, term)));
    apply(kubectl, &sleeper("selects", json!({"nodeSelector": {"disk": "ssd"}})));
    let preferred = json!([{"weight": 1, "preference": {"matchExpressions": ssd}}]);
    let kind = "preferredDuringSchedulingIgnoredDuringExecution";
    apply(kubectl, &sleeper("easy", wants(kind, preferred)));
    let why = "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector.";
    for name in ["picky", "selects"] {
        waits(kubectl, name, &format!("{why}{HELPLESS}"));
    }
    runs(kubectl, "easy");
    // The node becomes what they want; once they run, it may change again.
    kubectl.ok(&["label", "node", "node", "disk=ssd"]);
    runs(kubectl, "picky");
    runs(kubectl, "selects");
    kubectl.ok(&["label", "node", "node", "disk-"]);
    let event = &kubectl.events("picky", "Scheduled")[0];
    let text = format!("Successfully assigned {}/picky to node", namespace(kubectl));
    assert_eq!(event["message"], text);
    assert_eq!(event["source"]["component"], "default-scheduler");
    runs(kubectl, "picky");
    delete(kubectl, &["picky", "selects", "easy"]);
}

fn pod_affinity(kubectl: &Kubectl) {
    let wants = |kind: &str, app: &str| {
        json!({"affinity": {kind: {"requiredDuringSchedulingIgnoredDuringExecution": [{
            "topologyKey": "kubernetes.io/hostname",
            "labelSelector": {"matchLabels": {"app": app}}}]}}})
    };
    apply(kubectl, &sleeper("web", wants("podAffinity", "db")));
    let why = "0/1 nodes are available: 1 node(s) didn't match pod affinity rules.";
    waits(kubectl, "web", &format!("{why}{HELPLESS}"));
    apply(kubectl, &sleeper("db", json!({})));
    runs(kubectl, "web");

    apply(kubectl, &sleeper("alone", wants("podAntiAffinity", "alone")));
    runs(kubectl, "alone");
    let twin =
        labelled(sleeper("twin", wants("podAntiAffinity", "alone")), json!({"app": "alone"}));
    apply(kubectl, &twin);
    let why = "0/1 nodes are available: 1 node(s) didn't match pod anti-affinity rules.";
    waits(kubectl, "twin", &format!("{why}{NO_VICTIMS}"));
    apply(kubectl, &labelled(sleeper("guest", json!({})), json!({"app": "alone"})));
    let why =
        "0/1 nodes are available: 1 node(s) didn't satisfy existing pods anti-affinity rules.";
    waits(kubectl, "guest", &format!("{why}{NO_VICTIMS}"));
    // What is only preferred keeps nobody waiting.
    let preferred = json!({"affinity": {"podAntiAffinity": {
        "preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 100, "podAffinityTerm": {
            "topologyKey": "kubernetes.io/hostname",
            "labelSelector": {"matchLabels": {"app": "db"}}}}]}}});
    apply(kubectl, &sleeper("shy", preferred));
    runs(kubectl, "shy");
    delete(kubectl, &["alone"]);
    // One of the two that were kept away runs now.
    within(60, "another takes the place", || {
        let phase = |name: &str| kubectl.jsonpath(&["pod", name], "{.status.phase}");
        [phase("twin"), phase("guest")].contains(&"Running".to_owned())
    });
    delete(kubectl, &["web", "db", "twin", "guest", "shy"]);
}

fn spreading(kubectl: &Kubectl) {
    let spread = |action: &str, key: &str| {
        json!({"topologySpreadConstraints": [{
            "maxSkew": 1, "topologyKey": key, "whenUnsatisfiable": action,
            "labelSelector": {"matchLabels": {"group": "spread"}}}]})
    };
    let group = json!({"group": "spread"});
    let hostname = "kubernetes.io/hostname";
    let strict = |name: &str, domains: Value| {
        let mut spec = spread("DoNotSchedule", hostname);
        merge(&mut spec["topologySpreadConstraints"][0], domains);
        labelled(sleeper(name, spec), group.clone())
    };
    // On one node everything is even, unless more places than that are asked for.
    apply(kubectl, &strict("first", json!({})));
    runs(kubectl, "first");
    apply(kubectl, &strict("second", json!({})));
    runs(kubectl, "second");
    apply(kubectl, &strict("third", json!({"minDomains": 2})));
    let why = "0/1 nodes are available: 1 node(s) didn't match pod topology spread constraints.";
    waits(kubectl, "third", &format!("{why}{NO_VICTIMS}"));
    let nowhere = "example.com/rack";
    apply(kubectl, &labelled(sleeper("fourth", spread("DoNotSchedule", nowhere)), group.clone()));
    let why = "0/1 nodes are available: 1 node(s) didn't match pod topology spread constraints \
               (missing required label).";
    waits(kubectl, "fourth", &format!("{why}{HELPLESS}"));
    apply(kubectl, &labelled(sleeper("fifth", spread("ScheduleAnyway", nowhere)), group.clone()));
    runs(kubectl, "fifth");
    delete(kubectl, &["first", "second"]);
    kubectl.ok(&["label", "pod", "fifth", "group-"]);
    // A change of a pod's labels is one that may help.
    runs(kubectl, "third");
    delete(kubectl, &["third", "fourth", "fifth"]);
}

fn host_ports(kubectl: &Kubectl) {
    let on_port = |name: &str| {
        let mut pod = sleeper(name, json!({}));
        pod["spec"]["containers"][0]["ports"] =
            json!([{"containerPort": 8080, "hostPort": 18080, "protocol": "TCP"}]);
        pod
    };
    apply(kubectl, &on_port("holder"));
    runs(kubectl, "holder");
    apply(kubectl, &on_port("queuer"));
    let why = "0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod \
               ports.";
    waits(kubectl, "queuer", &format!("{why}{NO_VICTIMS}"));
    delete(kubectl, &["holder"]);
    runs(kubectl, "queuer");
    delete(kubectl, &["queuer"]);
}

fn gates(kubectl: &Kubectl) {
    apply(kubectl, &sleeper("gated", json!({"schedulingGates": [{"name": "example.com/wait"}]})));
    let row = kubectl.ok(&["get", "pod", "gated", "--no-headers"]);
    let columns: Vec<&str> = row.split_whitespace().collect();
    assert_eq!(columns[..4], ["gated", "0/1", "SchedulingGated", "0"], "{row}");
    let scheduled = condition(&kubectl.json(&["pod", "gated"]), "PodScheduled").unwrap();
    assert_eq!(scheduled["status"], "False");
    assert_eq!(scheduled["reason"], "SchedulingGated");
    let message = "Scheduling is blocked due to non-empty scheduling gates";
    assert_eq!(scheduled["message"], message);
    // Nobody else may give it a node either.
    let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "gated"},
        "target": {"apiVersion": "v1", "kind": "Node", "name": "node"}});
    let path = format!("/api/v1/namespaces/{}/pods/gated/binding", namespace(kubectl));
    let create = ["create", "--raw", &path, "-f", "-"];
    let refused = kubectl.run_with_input(&create, &binding.to_string());
    assert!(refused.stderr.contains("has non-empty .spec.schedulingGates"), "{refused:?}");
    assert!(kubectl.events("gated", "FailedScheduling").is_empty(), "it was not tried");
    let more = r#"[{"op": "add", "path": "/spec/schedulingGates/-", "value": {"name": "b"}}]"#;
    let refused = kubectl.fails(&["patch", "pod", "gated", "--type=json", "-p", more]);
    assert!(refused.contains("only deletion is allowed"), "{refused}");
    let free = r#"[{"op": "remove", "path": "/spec/schedulingGates"}]"#;
    kubectl.ok(&["patch", "pod", "gated", "--type=json", "-p", free]);
    runs(kubectl, "gated");
    let scheduled = condition(&kubectl.json(&["pod", "gated"]), "PodScheduled").unwrap();
    assert_eq!((&scheduled["status"], &scheduled["reason"]), (&"True".into(), &Value::Null));
    delete(kubectl, &["gated"]);
}

#[test]
fn taints_keep_pods_away_and_send_them_away() {
    with_old_and_new_kubectl(|_, kubectl| {
        let tolerates = |more: Value| {
            let mut toleration = json!({"key": "only", "operator": "Exists"});
            merge(&mut toleration, more);
            json!({"tolerations": [toleration]})
        };
        kubectl.ok(&["taint", "node", "node", "only=few:NoSchedule"]);
        apply(kubectl, &sleeper("plain", json!({})));
        apply(kubectl, &sleeper("tolerant", tolerates(json!({}))));
        let why = "0/1 nodes are available: 1 node(s) had untolerated taint {only: few}.";
        waits(kubectl, "plain", &format!("{why}{HELPLESS}"));
        runs(kubectl, "tolerant");
        kubectl.ok(&["taint", "node", "node", "only:NoSchedule-"]);
        runs(kubectl, "plain");

        let patience =
            |seconds: i64| tolerates(json!({"effect": "NoExecute", "tolerationSeconds": seconds}));
        apply(kubectl, &sleeper("patient", patience(3600)));
        apply(kubectl, &sleeper("hasty", patience(4)));
        runs(kubectl, "patient");
        runs(kubectl, "hasty");
        // A finalizer keeps what is deleted in sight.
        let hold = r#"{"metadata": {"finalizers": ["example.com/hold"]}}"#;
        for name in ["plain", "hasty"] {
            kubectl.ok(&["patch", "pod", name, "-p", hold]);
        }
        kubectl.ok(&["taint", "node", "node", "only=few:NoExecute"]);
        let leaving = |name: &str| {
            let pod = kubectl.json(&["pod", name]);
            pod["metadata"]["deletionTimestamp"].is_string().then_some(pod)
        };
        let plain = eventually(60, "it has to go at once", || leaving("plain"));
        let marked = condition(&plain, "DisruptionTarget").unwrap();
        assert_eq!(
            (&marked["status"], &marked["reason"]),
            (&"True".into(), &"DeletionByTaintManager".into())
        );
        assert_eq!(marked["message"], "Taint manager: deleting due to NoExecute taint");
        let namespace = namespace(kubectl);
        let text = |name: &str| format!("Marking for deletion Pod {namespace}/{name}");
        says(kubectl, "plain", "TaintManagerEviction", &text("plain"));
        eventually(60, "its time is over", || leaving("hasty"));
        says(kubectl, "hasty", "TaintManagerEviction", &text("hasty"));
        let event = &kubectl.events("hasty", "TaintManagerEviction")[0];
        assert_eq!((&event["type"], &event["count"]), (&"Normal".into(), &1.into()));
        assert_eq!(event["source"]["component"], "taint-eviction-controller");
        for name in ["plain", "hasty"] {
            kubectl.ok(&["patch", "pod", name, "-p", r#"{"metadata": {"finalizers": null}}"#]);
            gone(kubectl, name);
        }
        runs(kubectl, "tolerant");
        runs(kubectl, "patient");
        kubectl.ok(&["taint", "node", "node", "only:NoExecute-"]);
        let text = format!("Cancelling deletion of Pod {namespace}/patient");
        says(kubectl, "patient", "TaintManagerEviction", &text);
        assert!(leaving("patient").is_none() && leaving("tolerant").is_none());
        delete(kubectl, &["patient", "tolerant"]);
    });
}

#[test]
fn the_more_important_pod_gets_the_room() {
    with_old_and_new_kubectl(|node, kubectl| {
        for (name, value, policy) in
            [("high", 1000, "PreemptLowerPriority"), ("modest", 500, "Never")]
        {
            let class = json!({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass",
                "metadata": {"name": name}, "value": value, "preemptionPolicy": policy});
            apply(kubectl, &class);
        }
        preemption(node, kubectl);
        budgets(kubectl);
        kubectl.ok(&["delete", "priorityclass", "high", "modest"]);
    });
}

fn preemption(node: &Node, kubectl: &Kubectl) {
    let most = share(kubectl, 60);
    let classed =
        |name: &str, class: &str| asking(sleeper(name, json!({"priorityClassName": class})), most);
    // It says good-bye, and takes its time for that.
    let farewell = node.path(&format!("farewell-{}", kubectl.version));
    std::fs::create_dir(&farewell).unwrap();
    let mut victim = asking(
        sleeper(
            "victim",
            json!({
                "terminationGracePeriodSeconds": 60,
                "volumes": [{"name": "out", "hostPath": {"path": farewell}}],
            }),
        ),
        most,
    );
    let main = &mut victim["spec"]["containers"][0];
    main["volumeMounts"] = json!([{"name": "out", "mountPath": "/out"}]);
    main["command"][2] = json!(
        "trap 'until [ -e /out/leave ]; do sleep 0.1; done; echo bye > /out/said; exit 0' TERM; \
         while :; do sleep 0.1; done"
    );
    victim["metadata"]["finalizers"] = json!(["example.com/hold"]);
    apply(kubectl, &victim);
    runs(kubectl, "victim");

    // Important, but modest.
    let short = "0/1 nodes are available: 1 Insufficient cpu.";
    apply(kubectl, &classed("waiter", "modest"));
    let never = " preemption: not eligible due to preemptionPolicy=Never.";
    waits(kubectl, "waiter", &format!("{short}{never}"));
    // Neither is an equal reason to go.
    apply(kubectl, &asking(sleeper("equal", json!({})), most));
    waits(kubectl, "equal", &format!("{short}{NO_VICTIMS}"));
    apply(kubectl, &asking(sleeper("giant", json!({})), most * 10));
    waits(kubectl, "giant", &format!("{short}{HELPLESS}"));
    assert!(kubectl.json(&["pod", "victim"])["metadata"]["deletionTimestamp"].is_null());

    apply(kubectl, &classed("winner", "high"));
    let leaving = eventually(60, "the victim has to go", || {
        let pod = kubectl.json(&["pod", "victim"]);
        pod["metadata"]["deletionTimestamp"].is_string().then_some(pod)
    });
    let marked = condition(&leaving, "DisruptionTarget").unwrap();
    assert_eq!(
        (&marked["status"], &marked["reason"]),
        (&"True".into(), &"PreemptionByScheduler".into())
    );
    let text = "default-scheduler: preempting to accommodate a higher priority pod";
    assert_eq!(marked["message"], text);
    assert_eq!(leaving["metadata"]["deletionGracePeriodSeconds"], 60);
    let winner = kubectl.json(&["pod", "winner"]);
    let uid = winner["metadata"]["uid"].as_str().unwrap();
    says(kubectl, "victim", "Preempted", &format!("Preempted by pod {uid} on node node"));
    says(kubectl, "winner", "FailedScheduling", short);
    assert_eq!(winner["status"]["nominatedNodeName"], "node");
    let row = kubectl.ok(&["get", "pod", "winner", "-o", "wide", "--no-headers"]);
    let columns: Vec<&str> = row.split_whitespace().collect();
    assert_eq!(columns[7], "node", "the column NOMINATED NODE: {row}");
    let room = " preemption: not eligible due to a terminating pod on the nominated node.";
    waits(kubectl, "winner", &format!("{short}{room}"));
    // The room is kept for it: nobody of less importance slips in meanwhile.
    apply(kubectl, &asking(sleeper("small", json!({})), share(kubectl, 30)));
    waits(kubectl, "small", &format!("{short}{NO_VICTIMS}"));
    assert!(!farewell.join("said").exists());
    std::fs::write(farewell.join("leave"), "").unwrap();
    runs(kubectl, "winner");
    runs(kubectl, "small");
    assert_eq!(std::fs::read_to_string(farewell.join("said")).unwrap(), "bye\n");
    assert_eq!(kubectl.jsonpath(&["pod", "waiter"], "{.status.phase}"), "Pending");
    kubectl.ok(&["patch", "pod", "victim", "-p", r#"{"metadata": {"finalizers": null}}"#]);
    gone(kubectl, "victim");
    delete(kubectl, &["winner", "waiter", "equal", "giant", "small"]);
}

fn budgets(kubectl: &Kubectl) {
    let third = share(kubectl, 30);
    let low = |name: &str, group: &str| {
        asking(labelled(sleeper(name, json!({})), json!({"group": group})), third)
    };
    // The one that started last would be the first to go.
    for (name, group) in [("free", "free"), ("kept", "kept")] {
        apply(kubectl, &low(name, group));
        runs(kubectl, name);
        std::thread::sleep(std::time::Duration::from_millis(1100));
    }
    apply(
        kubectl,
        &json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget",
        "metadata": {"name": "keep"},
        "spec": {"minAvailable": 1, "selector": {"matchLabels": {"group": "kept"}}}}),
    );
    within(60, "the budget knows its pod", || {
        let status = kubectl.json(&["pdb", "keep"])["status"].clone();
        status["currentHealthy"] == 1 && status["disruptionsAllowed"] == 0
    });
    let high = |name: &str, percent: i64| {
        let spec = json!({"priorityClassName": "high"});
        asking(sleeper(name, spec), share(kubectl, percent))
    };
    apply(kubectl, &high("first", 50));
    runs(kubectl, "first");
    gone(kubectl, "free");
    runs(kubectl, "kept");
    // Where nothing else helps, a budget does not either.
    apply(kubectl, &high("second", 40));
    runs(kubectl, "second");
    gone(kubectl, "kept");
    delete(kubectl, &["first", "second"]);
    kubectl.ok(&["delete", "pdb", "keep"]);
}

#[test]
fn a_rollout_without_room_is_explained_on_the_deployment() {
    with_old_and_new_kubectl(|_, kubectl| {
        let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "web"},
        "spec": {
            "selector": {"matchLabels": {"app": "web"}},
            "strategy": {"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": asking(sleeper("web", json!({})), share(kubectl, 60))["spec"],
            },
        }});
        apply(kubectl, &deployment);
        kubectl.ok(&["rollout", "status", "deployment/web", "--timeout=60s"]);
        kubectl.ok(&["set", "env", "deployment/web", "VERSION=2"]);
        let why = format!("0/1 nodes are available: 1 Insufficient cpu.{NO_VICTIMS}");
        let new = eventually(60, "the new pod waits", || {
            let pods = kubectl.json(&["pods", "-l", "app=web"]);
            let mut pods = pods["items"].as_array().unwrap().iter();
            let waits = pods.find(|pod| pod["spec"]["nodeName"].is_null())?;
            Some(waits["metadata"]["name"].as_str().unwrap().to_owned())
        });
        waits(kubectl, &new, &why);
        let text = format!(
            "pod \"{new}\" cannot be scheduled: {why} No old pod may end before it is available \
             (maxUnavailable is 0), so the rollout waits for room: let maxUnavailable be greater, \
             request less, or scale down."
        );
        says(kubectl, "web", "RolloutBlocked", &text);
        let described = kubectl.ok(&["describe", "deployment", "web"]);
        assert!(described.contains(&text), "{described}");
        let set = new.rsplit_once('-').unwrap().0;
        let progressing = || {
            let condition =
                condition(&kubectl.json(&["deployment", "web"]), "Progressing").unwrap();
            (condition["reason"].clone(), condition["message"].as_str().unwrap().to_owned())
        };
        let told = format!("ReplicaSet \"{set}\" is progressing. However, {text}");
        within(60, "the condition says it too", || {
            progressing() == ("ReplicaSetUpdated".into(), told.clone())
        });
        // The old pod serves on, and following the advice helps.
        let patch = r#"{"spec": {"strategy": {"rollingUpdate": {"maxUnavailable": 1}}}}"#;
        assert_eq!(kubectl.jsonpath(&["deployment", "web"], "{.status.availableReplicas}"), "1");
        kubectl.ok(&["patch", "deployment", "web", "-p", patch]);
        kubectl.ok(&["rollout", "status", "deployment/web", "--timeout=60s"]);
        let done = format!("ReplicaSet \"{set}\" has successfully progressed.");
        within(60, "nothing is left of it", || progressing().1 == done);
        let told = kubectl.events("web", "RolloutBlocked");
        assert_eq!(told.len(), 1, "{told:?}");
        kubectl.ok(&["delete", "deployment", "web"]);
        within(60, "its pods are gone", || {
            kubectl.json(&["pods"])["items"].as_array().unwrap().is_empty()
        });
    });
}
