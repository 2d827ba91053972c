//! Node pressure: when memory or disk run low, unused images go first, then pods, one at a time.
//!
//! Signals, thresholds, order and words are those of the kubelet's eviction manager.

pub mod disk_usage;
mod manager;
mod rank;
pub mod signal;
mod stall;
pub mod threshold;

use api::placement::taint::tolerates;
use k8s_openapi::api::core::v1::{Pod, Taint};
use tokio::sync::watch;

use crate::container::resources::{Qos, qos_class};
use crate::worker::state::Failure;

pub use manager::run;

/// The taint of a node that is low on memory, which a pod may tolerate.
const MEMORY_TAINT: &str = "node.kubernetes.io/memory-pressure";
/// Pods with this priority or a higher one are what the node itself needs.
const CRITICAL_PRIORITY: i32 = 2_000_000_000;

/// What the node is short of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pressure {
    /// Memory.
    pub memory: bool,
    /// Space or inodes of a file system.
    pub disk: bool,
    /// Process identifiers.
    pub pids: bool,
}

impl Pressure {
    /// Whether there is none.
    pub fn is_none(self) -> bool {
        self == Self::default()
    }

    /// The names of the node conditions.
    fn conditions(self) -> Vec<&'static str> {
        [(self.memory, "MemoryPressure"), (self.disk, "DiskPressure"), (self.pids, "PIDPressure")]
            .into_iter()
            .filter_map(|(is, name)| is.then_some(name))
            .collect()
    }
}

/// The present pressure, for those who report it and those who admit pods.
pub struct Gauge(watch::Sender<Pressure>);

impl Default for Gauge {
    fn default() -> Self {
        Self(watch::Sender::new(Pressure::default()))
    }
}

impl Gauge {
    /// What it is now.
    pub fn read(&self) -> Pressure {
        *self.0.borrow()
    }

    /// Wakes up when it changes.
    pub fn subscribe(&self) -> watch::Receiver<Pressure> {
        self.0.subscribe()
    }

    fn set(&self, pressure: Pressure) {
        self.0.send_if_modified(|known| std::mem::replace(known, pressure) != pressure);
    }

    /// Why a pod that is new here cannot be run now.
    pub fn refusal(&self, pod: &Pod) -> Option<Failure> {
        let pressure = self.read();
        if pressure.is_none() || is_critical(pod) {
            return None;
        }
        if pressure == (Pressure { memory: true, ..Pressure::default() })
            && (qos_class(pod) != Qos::BestEffort || tolerates_memory_pressure(pod))
        {
            return None;
        }
        let conditions = pressure.conditions().join(" ");
        Some(Failure {
            reason: "Evicted".into(),
            message: format!("The node had condition: [{conditions}]. "),
        })
    }
}

/// Whether the node needs the pod more than its memory.
fn is_critical(pod: &Pod) -> bool {
    let priority = pod.spec.as_ref().and_then(|spec| spec.priority);
    priority.is_some_and(|priority| priority >= CRITICAL_PRIORITY)
}

fn tolerates_memory_pressure(pod: &Pod) -> bool {
    let (key, effect) = (MEMORY_TAINT.to_owned(), "NoSchedule".to_owned());
    tolerates(pod, &Taint { key, effect, ..Taint::default() })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    fn pod(spec: serde_json::Value) -> Pod {
        let mut spec = spec;
        if spec["containers"].is_null() {
            spec["containers"] = json!([{"name": "c"}]);
        }
        serde_json::from_value(json!({"spec": spec})).unwrap()
    }

    #[test]
    fn who_is_admitted_under_pressure() {
        let gauge = Gauge::default();
        let plain = pod(json!({}));
        assert!(gauge.refusal(&plain).is_none());
        gauge.set(Pressure { memory: true, ..Pressure::default() });
        let refusal = gauge.refusal(&plain).unwrap();
        assert_eq!(refusal.message, "The node had condition: [MemoryPressure]. ");
        let asking = pod(json!({
            "containers": [{"name": "c", "resources": {"requests": {"memory": "1Mi"}}}],
        }));
        assert!(gauge.refusal(&asking).is_none());
        let tolerant = pod(json!({"tolerations": [{"key": MEMORY_TAINT, "operator": "Exists"}]}));
        assert!(gauge.refusal(&tolerant).is_none());
        let critical = pod(json!({"priority": CRITICAL_PRIORITY}));
        assert!(gauge.refusal(&critical).is_none());
        gauge.set(Pressure { memory: true, disk: true, pids: false });
        let refusal = gauge.refusal(&asking).unwrap();
        assert_eq!(refusal.message, "The node had condition: [MemoryPressure DiskPressure]. ");
        assert!(gauge.refusal(&critical).is_none());
    }
}
