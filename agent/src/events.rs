//! Events: what happens to pods and the node, told to people, counted rather than repeated.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use ::watch::restart::panic_text;
use futures::FutureExt;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use runtime::printable::cut;
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Events that may wait to be written; more are dropped.
const QUEUE: usize = 1024;
/// Bytes of the message of an event, upstream's bound on a note.
const MAX_MESSAGE_BYTES: usize = 1024;
/// Series that are remembered for counting.
const SERIES: usize = 512;
/// Events that one object may cause at once, and how long it takes to earn another one.
const BURST: f64 = 25.0;
const REFILL: Duration = Duration::from_secs(300);
/// A series is over when it was quiet for so long.
const SERIES_TTL: Duration = Duration::from_secs(600);

/// How serious an event is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Level {
    /// As it should be.
    Normal,
    /// Somebody should look.
    Warning,
}

impl Level {
    fn text(self) -> &'static str {
        match self {
            Self::Normal => "Normal",
            Self::Warning => "Warning",
        }
    }
}

/// Hands events to the task that writes them. Cheap to clone.
#[derive(Clone)]
pub struct Recorder {
    queue: mpsc::Sender<Occurrence>,
}

struct Occurrence {
    object: ObjectReference,
    level: Level,
    reason: String,
    message: String,
    at: Timestamp,
}

impl Recorder {
    /// Starts the writer.
    pub fn start(client: Client, node_name: String, stop: CancellationToken) -> Self {
        let (queue, receiver) = mpsc::channel(QUEUE);
        let writer = Writer {
            client,
            node_name,
            series: HashMap::new(),
            allowance: HashMap::new(),
            serial: 0,
        };
        tokio::spawn(writer.run(receiver, stop));
        Self { queue }
    }

    /// A recorder whose events can be read by a test.
    #[cfg(test)]
    pub fn for_test() -> (Self, impl FnMut() -> Vec<String>) {
        let (queue, mut receiver) = mpsc::channel::<Occurrence>(QUEUE);
        let read = move || {
            std::iter::from_fn(|| receiver.try_recv().ok())
                .map(|event| format!("{} {}", event.reason, event.message))
                .collect()
        };
        (Self { queue }, read)
    }

    /// Records something about any object.
    pub fn record(
        &self,
        object: ObjectReference,
        level: Level,
        reason: &str,
        message: impl Into<String>,
    ) {
        let occurrence = Occurrence {
            object,
            level,
            reason: reason.into(),
            message: cut(message.into(), MAX_MESSAGE_BYTES),
            at: Timestamp::now(),
        };
        if self.queue.try_send(occurrence).is_err() {
            tracing::debug!(reason, "an event was dropped: too many are waiting");
        }
    }

    /// Records something about a pod.
    pub fn pod(&self, pod: &Pod, level: Level, reason: &str, message: impl Into<String>) {
        self.record(pod_reference(pod, None), level, reason, message);
    }

    /// Records something about a container of a pod.
    pub fn container(
        &self,
        pod: &Pod,
        container: &str,
        level: Level,
        reason: &str,
        message: impl Into<String>,
    ) {
        self.record(pod_reference(pod, Some(container)), level, reason, message);
    }
}

fn pod_reference(pod: &Pod, container: Option<&str>) -> ObjectReference {
    let field_path = container.map(|name| {
        let has = |list: &Option<Vec<k8s_openapi::api::core::v1::Container>>| {
            list.iter().flatten().any(|container| container.name == name)
        };
        let spec = pod.spec.as_ref();
        let field = if spec.is_some_and(|spec| has(&spec.init_containers)) {
            "initContainers"
        } else if spec.is_some_and(|spec| spec.containers.iter().any(|c| c.name == name)) {
            "containers"
        } else {
            "ephemeralContainers"
        };
        format!("spec.{field}{{{name}}}")
    });
    let metadata = &pod.metadata;
    ObjectReference {
        api_version: Some("v1".into()),
        kind: Some("Pod".into()),
        name: metadata.name.clone(),
        namespace: metadata.namespace.clone(),
        uid: metadata.uid.clone(),
        resource_version: metadata.resource_version.clone(),
        field_path,
    }
}

struct Series {
    name: String,
    namespace: String,
    count: i32,
    last: Instant,
}

struct Writer {
    client: Client,
    node_name: String,
    series: HashMap<u64, Series>,
    /// Per object: how many events it may still cause, and when that was worked out.
    allowance: HashMap<u64, (f64, Instant)>,
    serial: u32,
}

impl Writer {
    async fn run(mut self, mut queue: mpsc::Receiver<Occurrence>, stop: CancellationToken) {
        loop {
            let occurrence = tokio::select! {
                () = stop.cancelled() => return,
                occurrence = queue.recv() => occurrence,
            };
            let Some(occurrence) = occurrence else { return };
            if let Err(panic) = AssertUnwindSafe(self.write(occurrence)).catch_unwind().await {
                tracing::error!(reason = panic_text(&*panic), "writing an event panicked");
            }
        }
    }

    async fn write(&mut self, occurrence: Occurrence) {
        let now = Instant::now();
        let object = &occurrence.object;
        let identity = hash(&(&object.kind, &object.uid, &object.namespace, &object.name));
        let key = hash(&(
            identity,
            &object.field_path,
            occurrence.level,
            &occurrence.reason,
            &occurrence.message,
        ));
        if !self.allow(identity, now) {
            return;
        }
        if let Some(series) = self.series.get_mut(&key)
            && now.duration_since(series.last) < SERIES_TTL
        {
            series.count += 1;
            series.last = now;
            let api = Api::<Event>::namespaced(self.client.clone(), &series.namespace);
            let patch = json!({
                "count": series.count,
                "lastTimestamp": Time(occurrence.at),
            });
            let patch = Patch::Merge(patch);
            match api.patch(&series.name, &PatchParams::default(), &patch).await {
                Ok(_) => return,
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                Err(error) => {
                    tracing::debug!(%error, "cannot count an event");
                    return;
                }
            }
        }
        self.serial = self.serial.wrapping_add(1);
        let name = object.name.as_deref().unwrap_or("unknown");
        let nanoseconds = occurrence.at.as_nanosecond();
        let name = format!("{name}.{:x}{:03x}", nanoseconds, self.serial & 0xfff);
        let namespace = object.namespace.clone().unwrap_or_else(|| "default".into());
        let api = Api::<Event>::namespaced(self.client.clone(), &namespace);
        let event = Event {
            metadata: ObjectMeta {
                name: Some(name.clone()),
                namespace: Some(namespace.clone()),
                ..ObjectMeta::default()
            },
            involved_object: occurrence.object,
            type_: Some(occurrence.level.text().into()),
            reason: Some(occurrence.reason),
            message: Some(occurrence.message),
            count: Some(1),
            first_timestamp: Some(Time(occurrence.at)),
            last_timestamp: Some(Time(occurrence.at)),
            source: Some(EventSource {
                component: Some("kubelet".into()),
                host: Some(self.node_name.clone()),
            }),
            reporting_component: Some("kubelet".into()),
            reporting_instance: Some(self.node_name.clone()),
            ..Event::default()
        };
        if let Err(error) = api.create(&PostParams::default(), &event).await {
            tracing::debug!(%error, "cannot write an event");
            return;
        }
        if self.series.len() >= SERIES {
            self.forget_oldest(now);
        }
        self.series.insert(key, Series { name, namespace, count: 1, last: now });
    }

    fn allow(&mut self, object: u64, now: Instant) -> bool {
        if self.allowance.len() >= SERIES {
            self.allowance.retain(|_, (_, at)| now.duration_since(*at) < REFILL);
        }
        let (left, at) = self.allowance.entry(object).or_insert((BURST, now));
        let earned = now.duration_since(*at).as_secs_f64() / REFILL.as_secs_f64();
        *left = (*left + earned).min(BURST);
        *at = now;
        if *left < 1.0 {
            return false;
        }
        *left -= 1.0;
        true
    }

    fn forget_oldest(&mut self, now: Instant) {
        self.series.retain(|_, series| now.duration_since(series.last) < SERIES_TTL);
        if self.series.len() >= SERIES {
            self.series.clear();
        }
    }
}

fn hash(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_bounded() {
        let (recorder, mut events) = Recorder::for_test();
        recorder.pod(&Pod::default(), Level::Warning, "Failed", "x".repeat(25 << 20));
        assert_eq!(events()[0].len(), "Failed ".len() + MAX_MESSAGE_BYTES);
    }
}
