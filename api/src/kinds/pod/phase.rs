//! What `kubectl get pods` says about a pod in one word, and how often it restarted
//! (upstream `printPod`).

use std::collections::{HashMap, HashSet};

use jiff::Timestamp;
use serde_json::Value;

use crate::defaults::{child, copy_from, items_at};
use crate::duration;

/// The computed cells of a pod.
pub struct Summary {
    /// `1/2`.
    pub ready: String,
    /// `Running`, `CrashLoopBackOff`, `Init:0/1`, `Terminating`, …
    pub status: String,
    /// `0`, or `3 (5m ago)`.
    pub restarts: String,
}

#[derive(Default)]
struct Restarts {
    total: i64,
    /// Those of restartable init containers, which count besides the ordinary ones.
    sidecars: i64,
    last: Option<Timestamp>,
    last_sidecar: Option<Timestamp>,
}

impl Summary {
    /// Summarizes a pod.
    pub fn of(pod: &Value, now: Timestamp) -> Self {
        let (spec, status) = (&pod["spec"], &pod["status"]);
        let mut total = list(&spec["containers"]).len();
        let mut ready = 0;
        let mut restarts = Restarts::default();
        let phase = status["phase"].as_str().unwrap_or_default();
        let mut reason = match status["reason"].as_str() {
            Some(reason) if !reason.is_empty() => reason.to_owned(),
            _ => phase.to_owned(),
        };
        for condition in list(&status["conditions"]) {
            if condition["type"] == "PodScheduled" && condition["reason"] == "SchedulingGated" {
                reason = "SchedulingGated".to_owned();
            }
        }

        let sidecars: HashSet<&str> = list(&spec["initContainers"])
            .iter()
            .filter(|container| container["restartPolicy"] == "Always")
            .filter_map(|container| container["name"].as_str())
            .inspect(|_| total += 1)
            .collect();

        let mut initializing = false;
        for (index, container) in list(&status["initContainerStatuses"]).iter().enumerate() {
            let is_sidecar = container["name"].as_str().is_some_and(|n| sidecars.contains(n));
            let count = container["restartCount"].as_i64().unwrap_or(0);
            let last = last_restart(container);
            restarts.total += count;
            restarts.last = restarts.last.max(last);
            if is_sidecar {
                restarts.sidecars += count;
                restarts.last_sidecar = restarts.last_sidecar.max(last);
            }
            let state = &container["state"];
            let terminated = &state["terminated"];
            let waiting = state["waiting"]["reason"].as_str().unwrap_or_default();
            if terminated.is_object() && terminated["exitCode"].as_i64().unwrap_or(0) == 0 {
                continue;
            }
            if is_sidecar && container["started"] == true {
                ready += usize::from(container["ready"] == true);
                continue;
            }
            reason = if terminated.is_object() {
                format!("Init:{}", ended(terminated))
            } else if !waiting.is_empty() && waiting != "PodInitializing" {
                format!("Init:{waiting}")
            } else {
                format!("Init:{index}/{}", list(&spec["initContainers"]).len())
            };
            initializing = true;
            break;
        }

        if !initializing || is_true(status, "Initialized") {
            restarts.total = restarts.sidecars;
            restarts.last = restarts.last_sidecar;
            let mut has_running = false;
            for container in list(&status["containerStatuses"]).iter().rev() {
                restarts.total += container["restartCount"].as_i64().unwrap_or(0);
                restarts.last = restarts.last.max(last_restart(container));
                let state = &container["state"];
                let waiting = state["waiting"]["reason"].as_str().unwrap_or_default();
                if !waiting.is_empty() {
                    reason = waiting.to_owned();
                } else if state["terminated"].is_object() {
                    reason = ended(&state["terminated"]);
                } else if container["ready"] == true && state["running"].is_object() {
                    has_running = true;
                    ready += 1;
                }
            }
            // A pod with a container that runs is not completed as a whole.
            if reason == "Completed" && has_running {
                let running = is_true(status, "Ready");
                reason = if running { "Running" } else { "NotReady" }.to_owned();
            }
        }

        if pod["metadata"]["deletionTimestamp"].is_string() {
            if status["reason"] == "NodeLost" {
                reason = "Unknown".to_owned();
            } else if phase != "Failed" && phase != "Succeeded" {
                reason = "Terminating".to_owned();
            }
        }

        let restarts = match restarts.last {
            Some(last) if restarts.total != 0 => {
                let ago = duration::human(now.duration_since(last).as_secs());
                format!("{} ({ago} ago)", restarts.total)
            }
            _ => restarts.total.to_string(),
        };
        Self { ready: format!("{ready}/{total}"), status: reason, restarts }
    }
}

/// `2/3` readiness gates that hold, `<none>` without gates.
pub fn readiness_gates(pod: &Value) -> String {
    let gates = list(&pod["spec"]["readinessGates"]);
    if gates.is_empty() {
        return "<none>".to_owned();
    }
    let conditions = list(&pod["status"]["conditions"]).iter();
    let hold: HashSet<&str> = conditions
        .filter(|condition| condition["status"] == "True")
        .filter_map(|condition| condition["type"].as_str())
        .collect();
    let holds = |gate: &&Value| hold.contains(gate["conditionType"].as_str().unwrap_or_default());
    format!("{}/{}", gates.iter().filter(holds).count(), gates.len())
}

/// Takes the resources (and nothing else) of the containers of `wanted`: a write to `/resize`.
pub fn resize(spec: &mut Value, wanted: &Value) {
    for key in ["containers", "initContainers"] {
        let mut by_name: HashMap<&Value, &Value> = HashMap::new();
        for other in list(&wanted[key]) {
            // The first of several with the same name counts.
            by_name.entry(&other["name"]).or_insert(other);
        }
        for container in items_at(spec, key) {
            if let Some(other) = by_name.get(&container["name"]) {
                copy_from(container, other, "resources");
                copy_from(container, other, "resizePolicy");
                child(container, "resources");
            }
        }
    }
}

fn ended(terminated: &Value) -> String {
    match terminated["reason"].as_str() {
        Some(reason) if !reason.is_empty() => reason.to_owned(),
        _ => match terminated["signal"].as_i64() {
            Some(signal) if signal != 0 => format!("Signal:{signal}"),
            _ => format!("ExitCode:{}", terminated["exitCode"].as_i64().unwrap_or(0)),
        },
    }
}

fn last_restart(container: &Value) -> Option<Timestamp> {
    container["lastState"]["terminated"]["finishedAt"].as_str()?.parse().ok()
}

fn is_true(status: &Value, condition: &str) -> bool {
    list(&status["conditions"]).iter().any(|c| c["type"] == condition && c["status"] == "True")
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    fn summary(pod: Value) -> (String, String, String) {
        let summary = Summary::of(&pod, "2024-01-01T00:10:00Z".parse().unwrap());
        (summary.ready, summary.status, summary.restarts)
    }

    fn cells(pod: Value, ready: &str, status: &str, restarts: &str) {
        assert_eq!(summary(pod), (ready.to_owned(), status.to_owned(), restarts.to_owned()));
    }

    #[test]
    fn ordinary_containers() {
        let spec = json!({"containers": [{"name": "a"}, {"name": "b"}]});
        cells(json!({"spec": spec, "status": {"phase": "Pending"}}), "0/2", "Pending", "0");
        cells(
            json!({"spec": spec, "status": {"phase": "Running", "containerStatuses": [
                {"name": "a", "ready": true, "restartCount": 3, "state": {"running": {}},
                 "lastState": {"terminated": {"finishedAt": "2024-01-01T00:05:00Z"}}},
                {"name": "b", "state": {"waiting": {"reason": "CrashLoopBackOff"}}}]}}),
            "1/2",
            "CrashLoopBackOff",
            "3 (5m ago)",
        );
        cells(
            json!({"spec": spec, "metadata": {"deletionTimestamp": "2024-01-01T00:00:00Z"},
                "status": {"phase": "Running"}}),
            "0/2",
            "Terminating",
            "0",
        );
        cells(
            json!({"spec": spec, "status": {"phase": "Running", "containerStatuses": [
                {"name": "a", "ready": true, "state": {"running": {}}},
                {"name": "b", "state": {"terminated": {"reason": "Completed", "exitCode": 0}}}]}}),
            "1/2",
            "NotReady",
            "0",
        );
        cells(
            json!({"spec": spec, "status": {"phase": "Failed", "containerStatuses": [
                {"name": "a", "state": {"terminated": {"exitCode": 2}}}]}}),
            "0/2",
            "ExitCode:2",
            "0",
        );
    }

    #[test]
    fn init_containers() {
        let spec = json!({"containers": [{"name": "a"}],
            "initContainers": [{"name": "i"}, {"name": "s", "restartPolicy": "Always"}]});
        cells(
            json!({"spec": spec, "status": {"phase": "Pending", "initContainerStatuses": [
                {"name": "i", "restartCount": 1, "state": {"running": {}}}]}}),
            "0/2",
            "Init:0/2",
            "1",
        );
        cells(
            json!({"spec": spec, "status": {"phase": "Pending", "initContainerStatuses": [
                {"name": "i", "state": {"terminated": {"reason": "Error", "exitCode": 1}}}]}}),
            "0/2",
            "Init:Error",
            "0",
        );
        cells(
            json!({"spec": spec, "status": {"phase": "Running",
                "initContainerStatuses": [
                    {"name": "i", "state": {"terminated": {"exitCode": 0}}},
                    {"name": "s", "started": true, "ready": true, "restartCount": 2,
                     "state": {"running": {}}}],
                "containerStatuses": [
                    {"name": "a", "ready": true, "restartCount": 1, "state": {"running": {}}}]}}),
            "2/2",
            "Running",
            "3",
        );
    }
    #[test]
    fn each_of_many_containers_is_resized() {
        let with = |cpu: i32| {
            let list: Vec<Value> = (0..2_000)
                .map(
                    |n| json!({"name": format!("c{n}"), "resources": {"limits": {"cpu": cpu + n}}}),
                )
                .collect();
            json!({ "containers": list })
        };
        let (mut spec, wanted) = (with(1), with(2));
        resize(&mut spec, &wanted);
        assert_eq!(spec, wanted);
    }

    #[test]
    fn many_readiness_gates_are_counted() {
        let kinds = || (0..3_000).map(|n| format!("a.b/k{n}"));
        let gates: Vec<Value> = kinds().map(|kind| json!({ "conditionType": kind })).collect();
        let conditions: Vec<Value> = kinds()
            .enumerate()
            .map(|(n, kind)| json!({"type": kind, "status": if n < 1_200 { "True" } else { "False" }}))
            .collect();
        let pod = json!({"spec": {"readinessGates": gates}, "status": {"conditions": conditions}});
        assert_eq!(readiness_gates(&pod), "1200/3000");
    }
}
