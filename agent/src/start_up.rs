//! When each step of a pod's start was done, to the microsecond: what the whole seconds of an
//! object's times cannot tell. Kept in memory for the latest pods only; the dashboard draws it.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use jiff::Timestamp;
use serde_json::{Value, json};

/// Pods that are remembered; the one that was seen first makes room.
const PODS_MAX: usize = 512;

/// A step of a pod's start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The agent knows of the pod.
    Seen,
    /// It has its place in the network.
    Network,
    /// Its sandbox is there.
    Sandbox,
    /// Its volumes are there.
    Volumes,
    /// The first of its containers runs.
    Started,
    /// It is ready.
    Ready,
}

impl Step {
    const fn name(self) -> &'static str {
        match self {
            Self::Seen => "Seen",
            Self::Network => "Network",
            Self::Sandbox => "Sandbox",
            Self::Volumes => "Volumes",
            Self::Started => "Started",
            Self::Ready => "Ready",
        }
    }
}

struct StartUp {
    uid: String,
    steps: Vec<(Step, Timestamp)>,
}

/// The starts of the latest pods.
#[derive(Default)]
pub struct StartUps(Mutex<VecDeque<StartUp>>);

impl StartUps {
    /// Notes a step, the first time that it is done.
    pub fn note(&self, uid: &str, step: Step, at: Timestamp) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // The latest pods are the ones that are starting.
        if let Some(start) = known.iter_mut().rev().find(|start| start.uid == uid) {
            if start.steps.iter().all(|(done, _)| *done != step) {
                start.steps.push((step, at));
            }
        } else if step == Step::Seen {
            if known.len() >= PODS_MAX {
                known.pop_front();
            }
            known.push_back(StartUp { uid: uid.to_owned(), steps: vec![(step, at)] });
        }
    }

    /// The steps of a pod in their order, or nothing where its start was not seen.
    pub fn of(&self, uid: &str) -> Option<Value> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let start = known.iter().rev().find(|start| start.uid == uid)?;
        let mut steps = start.steps.clone();
        steps.sort_by_key(|(_, at)| *at);
        let steps: Vec<Value> = steps
            .iter()
            .map(|(step, at)| json!({ "step": step.name(), "microseconds": at.as_microsecond() }))
            .collect();
        Some(json!({ "uid": uid, "steps": steps }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(microsecond: i64) -> Timestamp {
        Timestamp::from_microsecond(microsecond).expect("a test time is valid")
    }

    #[test]
    fn each_step_is_noted_once_in_order() {
        let starts = StartUps::default();
        starts.note("a", Step::Ready, at(1));
        assert_eq!(starts.of("a"), None, "its beginning was not seen");
        starts.note("a", Step::Seen, at(10));
        starts.note("a", Step::Volumes, at(30));
        starts.note("a", Step::Network, at(20));
        starts.note("a", Step::Network, at(99));
        let steps = starts.of("a").expect("it was seen")["steps"].clone();
        let brief: Vec<(&str, i64)> = steps
            .as_array()
            .into_iter()
            .flatten()
            .map(|s| (s["step"].as_str().unwrap_or(""), s["microseconds"].as_i64().unwrap_or(0)))
            .collect();
        assert_eq!(brief, [("Seen", 10), ("Network", 20), ("Volumes", 30)]);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let starts = StartUps::default();
        for n in 0..=PODS_MAX {
            starts.note(&n.to_string(), Step::Seen, at(1));
        }
        assert!(starts.of("0").is_none() && starts.of("1").is_some());
        assert!(starts.of(&PODS_MAX.to_string()).is_some());
    }
}
