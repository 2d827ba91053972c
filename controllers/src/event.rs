//! Events: what controllers tell people about an object.
//!
//! Repeated events raise the count of the first one instead of piling up.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use ::watch::keep_running;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, Time};
use kube::{Client, Resource};
use serde_json::json;
use tokio::sync::{Mutex, mpsc};
use tokio_util::sync::CancellationToken;

use crate::cache::ObjectKey;
use crate::request;

/// How many events may wait to be written; further ones are dropped, as upstream does.
const QUEUE_EVENTS: usize = 1000;
/// How many distinct events are remembered for counting repetitions.
const REMEMBERED_EVENTS: usize = 4096;
/// Repetitions of the same event within this time are counted without a write of their own.
const REPEAT_INTERVAL: Duration = Duration::from_secs(1);

/// `Normal` or `Warning`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Severity {
    /// Something went as it should.
    Normal,
    /// Something deserves attention.
    Warning,
}

impl Severity {
    fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "Normal",
            Self::Warning => "Warning",
        }
    }
}

/// One statement about an object.
#[derive(Clone, Debug, PartialEq)]
pub struct Notice {
    /// `Normal` or `Warning`.
    pub severity: Severity,
    /// One CamelCase word, for example `ScalingReplicaSet`.
    pub reason: &'static str,
    /// The sentence.
    pub message: String,
}

impl Notice {
    /// A `Normal` notice.
    pub fn normal(reason: &'static str, message: impl Into<String>) -> Self {
        Self { severity: Severity::Normal, reason, message: message.into() }
    }

    /// A `Warning` notice.
    pub fn warning(reason: &'static str, message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, reason, message: message.into() }
    }
}

/// A reference to `object`, as events and endpoints carry it.
pub fn reference<K: Resource<DynamicType = ()>>(object: &K) -> ObjectReference {
    let meta = object.meta();
    ObjectReference {
        api_version: Some(K::api_version(&()).into_owned()),
        kind: Some(K::kind(&()).into_owned()),
        namespace: meta.namespace.clone(),
        name: meta.name.clone(),
        uid: meta.uid.clone(),
        resource_version: meta.resource_version.clone(),
        ..ObjectReference::default()
    }
}

/// Hands events over to one writer task; recording never waits.
#[derive(Clone)]
pub struct Recorder {
    component: &'static str,
    sender: mpsc::Sender<Statement>,
}

struct Statement {
    component: &'static str,
    object: ObjectReference,
    notice: Notice,
    at: Timestamp,
}

impl Recorder {
    /// Starts the writer task.
    pub fn start(client: Client, component: &'static str, token: CancellationToken) -> Self {
        let (sender, receiver) = mpsc::channel(QUEUE_EVENTS);
        let receiver = Arc::new(Mutex::new(receiver));
        tokio::spawn(async move {
            let writer = || write_all(client.clone(), receiver.clone());
            tokio::select! {
                () = token.cancelled() => {}
                () = keep_running("events", writer) => {}
            }
        });
        Self { component, sender }
    }

    /// The same writer, speaking for another component.
    pub fn speaking_for(&self, component: &'static str) -> Self {
        Self { component, sender: self.sender.clone() }
    }

    /// Records `notice` about `object`.
    pub fn record<K: Resource<DynamicType = ()>>(&self, object: &K, notice: Notice) {
        self.record_about(reference(object), notice);
    }

    /// Records `notice` about the object behind a reference.
    pub fn record_about(&self, object: ObjectReference, notice: Notice) {
        let statement =
            Statement { component: self.component, object, notice, at: Timestamp::now() };
        if self.sender.try_send(statement).is_err() {
            tracing::debug!("an event was dropped: too many are waiting");
        }
    }
}

#[derive(PartialEq, Eq, Hash)]
struct Identity {
    component: &'static str,
    uid: String,
    name: String,
    reason: &'static str,
    message: String,
}

struct Written {
    key: ObjectKey,
    count: i32,
    at: Timestamp,
}

async fn write_all(client: Client, receiver: Arc<Mutex<mpsc::Receiver<Statement>>>) {
    let mut receiver = receiver.lock().await;
    let mut written: HashMap<Identity, Written> = HashMap::new();
    while let Some(statement) = receiver.recv().await {
        if written.len() >= REMEMBERED_EVENTS {
            let mut times: Vec<Timestamp> = written.values().map(|known| known.at).collect();
            times.sort();
            let middle = times[times.len() / 2];
            written.retain(|_, known| known.at > middle);
        }
        write(&client, &mut written, statement).await;
    }
    // No recorder is left.
    std::future::pending().await
}

async fn write(client: &Client, written: &mut HashMap<Identity, Written>, statement: Statement) {
    let identity = Identity {
        component: statement.component,
        uid: statement.object.uid.clone().unwrap_or_default(),
        name: statement.object.name.clone().unwrap_or_default(),
        reason: statement.notice.reason,
        message: statement.notice.message.clone(),
    };
    if let Some(known) = written.get_mut(&identity) {
        known.count += 1;
        let since = statement.at.duration_since(known.at);
        if since < REPEAT_INTERVAL.try_into().unwrap_or(jiff::SignedDuration::ZERO) {
            return;
        }
        known.at = statement.at;
        let patch = json!({"count": known.count, "lastTimestamp": Time(statement.at)});
        match request::merge::<Event>(client, &known.key, &patch).await {
            Ok(_) => return,
            // It has expired: say it anew.
            Err(error) if error.is_not_found() => {}
            Err(error) => {
                tracing::debug!(%error, "an event was not counted");
                return;
            }
        }
    }
    let event = event(&statement);
    match request::create(client, &event).await {
        Ok(_) => {
            let known = Written { key: ObjectKey::of(&event), count: 1, at: statement.at };
            written.insert(identity, known);
        }
        Err(error) if error.is_namespace_terminating() || error.is_not_found() => {}
        Err(error) => tracing::debug!(%error, "an event was not written"),
    }
}

fn event(statement: &Statement) -> Event {
    let namespace = statement.object.namespace.clone().unwrap_or_else(|| "default".to_owned());
    let name = statement.object.name.as_deref().unwrap_or_default();
    let mut event = Event::default();
    event.metadata.name = Some(format!("{name}.{:x}", statement.at.as_nanosecond()));
    event.metadata.namespace = Some(namespace);
    event.involved_object = statement.object.clone();
    event.reason = Some(statement.notice.reason.to_owned());
    event.message = Some(statement.notice.message.clone());
    event.type_ = Some(statement.notice.severity.as_str().to_owned());
    event.count = Some(1);
    event.first_timestamp = Some(Time(statement.at));
    event.last_timestamp = Some(Time(statement.at));
    event.event_time = None::<MicroTime>;
    event.source =
        Some(EventSource { component: Some(statement.component.to_owned()), host: None });
    event.reporting_component = Some(statement.component.to_owned());
    event.reporting_instance = Some(String::new());
    event
}
