//! Looks at the machine, reclaims what is nobody's, and ends pods when that is not enough.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::rank::{self, Candidate};
use super::signal::Observation;
use super::threshold::{self, Signal, Threshold};
use super::{Pressure, disk_usage, stall};
use crate::directory::Where;
use crate::events::Level;
use crate::node::Node;
use crate::worker::Note;
use crate::worker::state::Failure;
use crate::{image_gc, registration};

/// Between looks, as upstream; a memory stall comes sooner.
const INTERVAL: Duration = Duration::from_secs(10);
/// How long a pod that was told to go may take before the machine is looked at again.
const PATIENCE: Duration = Duration::from_secs(30);
/// A failed collection of images is reported at most this often.
const COMPLAINT: Duration = Duration::from_secs(300);

struct Manager {
    node: Arc<Node>,
    /// When each kind of pressure was last seen.
    seen: HashMap<&'static str, Instant>,
    known: Pressure,
    complained: Option<Instant>,
}

/// Guards the node until dropped.
pub async fn run(node: Arc<Node>) {
    let mut stalls = stall::memory_stalls()
        .inspect_err(|error| tracing::debug!(%error, "no pressure stall information"))
        .ok();
    image_gc::notice(&node).await;
    let mut manager =
        Manager { node, seen: HashMap::new(), known: Pressure::default(), complained: None };
    loop {
        while manager.step().await {}
        let stalled = async {
            let stall = match &mut stalls {
                Some(stalls) => stalls.recv().await,
                None => None,
            };
            if stall.is_none() {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = sleep(INTERVAL) => {}
            () = stalled => {}
        }
    }
}

impl Manager {
    fn observe(&self) -> Observation {
        image_gc::observe(&self.node.config.data_dir)
    }

    /// One round; true when something was reclaimed and another look is due at once.
    async fn step(&mut self) -> bool {
        let node = self.node.clone();
        let mut seen = self.observe();
        let low_on_disk = |seen: &Observation| {
            let met = threshold::met(&node.config.eviction_hard, seen);
            image_gc::is_due(&node.config, seen) || met.iter().any(|met| met.signal.is_disk())
        };
        if low_on_disk(&seen) {
            // What belongs to no pull any more goes before what may be wanted.
            node.machine.images.remove_abandoned().await;
            seen = self.observe();
        }
        if image_gc::is_due(&node.config, &seen) {
            self.collect_images().await;
            seen = self.observe();
        }
        let mut met = threshold::met(&node.config.eviction_hard, &seen);
        self.publish(threshold::pressure(&met));
        let Some(worst) = met.first().copied() else { return false };
        let resource = worst.signal.resource();
        let message = format!("Attempting to reclaim {resource}");
        let object = registration::reference(&node);
        node.recorder.record(object, Level::Warning, "EvictionThresholdMet", message);
        if worst.signal.is_disk() && image_gc::remove_unused(&node, &node.recorder).await > 0 {
            seen = self.observe();
            met = threshold::met(&node.config.eviction_hard, &seen);
        }
        let Some(worst) = met.first().copied() else { return false };
        self.evict_one(&worst, &seen).await
    }

    async fn collect_images(&mut self) {
        let node = self.node.clone();
        image_gc::collect(&node, &node.recorder).await;
        let now = Instant::now();
        let seen = self.observe();
        let quiet = self.complained.is_some_and(|at| now.duration_since(at) < COMPLAINT);
        if image_gc::is_due(&node.config, &seen) && !quiet {
            self.complained = Some(now);
            let used = image_gc::percent_used(&seen);
            let message = format!(
                "Failed to garbage collect required amount of images: {used}% of the disk with \
                 images are used, and no image is left that could go"
            );
            let object = registration::reference(&node);
            node.recorder.record(object, Level::Warning, "FreeDiskSpaceFailed", message);
        }
    }

    /// Makes the pressure known; it stays for a while after it was last seen.
    fn publish(&mut self, now_seen: Pressure) {
        let now = Instant::now();
        let lasting = self.node.config.eviction_transition;
        let mut hold = |name: &'static str, is: bool| {
            if is {
                self.seen.insert(name, now);
            }
            self.seen.get(name).is_some_and(|at| is || now.duration_since(*at) < lasting)
        };
        let pressure = Pressure {
            memory: hold("memory", now_seen.memory),
            disk: hold("disk", now_seen.disk),
            pids: hold("pids", now_seen.pids),
        };
        for (was, is, low, well) in [
            (self.known.memory, pressure.memory, "InsufficientMemory", "SufficientMemory"),
            (self.known.disk, pressure.disk, "DiskPressure", "NoDiskPressure"),
            (self.known.pids, pressure.pids, "InsufficientPID", "SufficientPID"),
        ] {
            if was != is {
                let reason = format!("NodeHas{}", if is { low } else { well });
                let name = &self.node.config.node_name;
                let message = format!("Node {name} status is now: {reason}");
                let object = registration::reference(&self.node);
                self.node.recorder.record(object, Level::Normal, &reason, message);
            }
        }
        self.known = pressure;
        self.node.pressure.set(pressure);
    }

    /// Ends the pod that has to go first; true when it has gone.
    async fn evict_one(&self, threshold: &Threshold, seen: &Observation) -> bool {
        let candidates = self.candidates(threshold.signal).await;
        let ranked = rank::rank(threshold.signal, candidates);
        let Some(victim) = ranked.first() else {
            tracing::warn!(
                resource = threshold.signal.resource(),
                "the node is short of a resource and no pod is left that could go"
            );
            return false;
        };
        let metadata = &victim.pod.metadata;
        let namespace = metadata.namespace.clone().unwrap_or_default();
        let name = metadata.name.clone().unwrap_or_default();
        let uid = metadata.uid.clone().unwrap_or_default();
        let where_it_is = || self.node.directory.find(&namespace, &name, &uid);
        let Some(place) = where_it_is() else { return false };
        let message = rank::message(victim, threshold, seen);
        tracing::warn!(namespace, name, message, "evicting a pod");
        let failure = Failure { reason: "Evicted".into(), message };
        if place.note.send(Note::Evict(failure)).is_err() {
            return false;
        }
        let gone = async {
            while where_it_is().is_some_and(|now| now.sandbox.is_some()) {
                sleep(Duration::from_millis(250)).await;
            }
        };
        tokio::time::timeout(PATIENCE, gone).await.is_ok()
    }

    async fn candidates(&self, signal: Signal) -> Vec<Candidate> {
        let mut found = Vec::new();
        for (_, place) in self.node.directory.all() {
            if place.sandbox.is_none() || place.ending {
                continue;
            }
            let (usage, containers) = match signal {
                Signal::Memory => memory(&place).await,
                Signal::Pids => (processes(&place).await, Vec::new()),
                _ => (self.disk(&place).await, Vec::new()),
            };
            found.push(Candidate { pod: place.pod.clone(), usage, containers });
        }
        found
    }

    /// Logs, writable layers and volumes of a pod.
    async fn disk(&self, place: &Where) -> u64 {
        let own = self.node.config.pod_dir(&place.uid);
        let layers = place.sandbox.as_ref().map(|sandbox| sandbox.directory());
        let directories = [Some(own), Some(place.logs.clone()), layers].into_iter().flatten();
        disk_usage::bytes_below(&place.uid, directories.collect()).await
    }
}

async fn memory(place: &Where) -> (u64, Vec<(String, u64)>) {
    let Some(sandbox) = &place.sandbox else { return Default::default() };
    let Ok((whole, parts)) = sandbox.usage().await else { return Default::default() };
    let containers = place.containers.iter().filter_map(|container| {
        let usage = parts.get(container.id.as_ref()?)?;
        Some((container.name.clone(), usage.working_set_bytes))
    });
    (whole.working_set_bytes, containers.collect())
}

async fn processes(place: &Where) -> u64 {
    match &place.sandbox {
        Some(sandbox) => sandbox.usage().await.map_or(0, |(whole, _)| whole.pids),
        None => 0,
    }
}
