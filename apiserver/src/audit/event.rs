//! An Event of `audit.k8s.io/v1`, with upstream's names and order of fields.

use std::collections::BTreeMap;

use bytes::Bytes;
use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Value, json};

use super::policy::Level;

/// Set where an object was too large to be recorded (upstream's name).
const TRUNCATED: &str = "audit.k8s.io/truncated";

/// The record of one stage of one request.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Event {
    pub(super) kind: &'static str,
    pub(super) api_version: &'static str,
    pub(super) level: &'static str,
    #[serde(rename = "auditID")]
    pub(super) audit_id: String,
    pub(super) stage: &'static str,
    #[serde(rename = "requestURI")]
    pub(super) request_uri: String,
    pub(super) verb: &'static str,
    pub(super) user: Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) impersonated_user: Option<Value>,
    #[serde(rename = "sourceIPs", skip_serializing_if = "Vec::is_empty")]
    pub(super) source_ips: Vec<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) user_agent: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) object_ref: Option<ObjectReference>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) response_status: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) request_object: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) response_object: Option<Value>,
    pub(super) request_received_timestamp: String,
    pub(super) stage_timestamp: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) annotations: BTreeMap<&'static str, String>,
}

/// The object that a request is about.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ObjectReference {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) resource: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) namespace: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) uid: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) api_group: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) api_version: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) resource_version: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) subresource: String,
}

/// A body as it was sent, and what it is.
#[derive(Clone, Debug, Default)]
pub(super) struct Raw {
    pub(super) pieces: Vec<Bytes>,
    pub(super) media_type: String,
    /// Bytes that were not kept because there were too many.
    pub(super) is_cut: bool,
}

/// An event with the bodies that the writer decodes.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) event: Event,
    pub(super) level: Level,
    pub(super) omit_managed_fields: bool,
    pub(super) request: Option<Raw>,
    pub(super) response: Option<Raw>,
}

impl Record {
    /// The line that is written, with its end.
    pub(super) fn into_line(self) -> Result<Vec<u8>, serde_json::Error> {
        let Self { mut event, level, omit_managed_fields, request, response } = self;
        if let Some(raw) = request {
            let object = raw.decode();
            if let (Some(object), Some(reference)) = (&object, &mut event.object_ref) {
                reference.complete(object);
            }
            if level >= Level::Request {
                event.note_missing(&raw, object.as_ref());
                event.request_object = object.map(|o| prune(o, omit_managed_fields));
            }
        }
        if let Some(raw) = response {
            let object = raw.decode();
            if let (Some(status), Some(object)) = (&mut event.response_status, &object)
                && object["kind"] == "Status"
            {
                let code = status["code"].take();
                *status = short_status(object, &code);
            }
            if level >= Level::RequestResponse {
                event.note_missing(&raw, object.as_ref());
                event.response_object = object.map(|o| prune(o, omit_managed_fields));
            }
        }
        let mut line = serde_json::to_vec(&event)?;
        line.push(b'\n');
        Ok(line)
    }

    /// Bytes of the bodies.
    pub(super) fn body_bytes(&self) -> usize {
        let bodies = [&self.request, &self.response];
        let pieces = bodies.into_iter().flatten().flat_map(|raw| &raw.pieces);
        pieces.map(Bytes::len).sum()
    }

    /// Leaves the bodies out, which says so.
    pub(super) fn drop_bodies(&mut self) {
        for raw in [&mut self.request, &mut self.response].into_iter().flatten() {
            raw.pieces.clear();
            raw.is_cut = true;
        }
    }
}

impl Event {
    fn note_missing(&mut self, raw: &Raw, object: Option<&Value>) {
        if raw.is_cut && object.is_none() {
            self.annotations.insert(TRUNCATED, "true".into());
        }
    }
}

impl ObjectReference {
    /// Takes from the object what the URL does not say.
    fn complete(&mut self, object: &Value) {
        let metadata = &object["metadata"];
        let fields = [
            (&mut self.namespace, "namespace"),
            (&mut self.name, "name"),
            (&mut self.uid, "uid"),
            (&mut self.resource_version, "resourceVersion"),
        ];
        for (own, key) in fields {
            if own.is_empty() {
                *own = metadata[key].as_str().unwrap_or_default().to_owned();
            }
        }
    }
}

impl Raw {
    /// The object, or `None` where there is none or it cannot be read.
    fn decode(&self) -> Option<Value> {
        if self.is_cut || self.pieces.is_empty() {
            return None;
        }
        let whole;
        let bytes: &[u8] = match self.pieces.as_slice() {
            [piece] => piece,
            pieces => {
                whole = pieces.concat();
                &whole
            }
        };
        match self.media_type.as_str() {
            "application/vnd.kubernetes.protobuf" => api::schema::decode_protobuf(bytes).ok(),
            kind if kind.ends_with("yaml") => match serde_json::from_slice(bytes) {
                Ok(value) => Some(value),
                Err(_) => api::schema::parse_yaml(bytes).ok().map(|parsed| parsed.value),
            },
            _ => serde_json::from_slice(bytes).ok(),
        }
    }
}

/// The response's status without the parts that the event has elsewhere.
fn short_status(object: &Value, code: &Value) -> Value {
    let mut status = json!({ "metadata": {} });
    for key in ["status", "message", "reason", "details"] {
        if !object[key].is_null() {
            status[key] = object[key].clone();
        }
    }
    status["code"] = code.clone();
    status
}

/// Without `metadata.managedFields`, where the policy says so.
fn prune(mut object: Value, omit_managed_fields: bool) -> Value {
    if omit_managed_fields {
        let drop_from = |object: &mut Value| {
            if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
                metadata.remove("managedFields");
            }
        };
        drop_from(&mut object);
        let items = object.get_mut("items").and_then(Value::as_array_mut);
        items.into_iter().flatten().for_each(drop_from);
        let rows = object.get_mut("rows").and_then(Value::as_array_mut);
        rows.into_iter().flatten().filter_map(|row| row.get_mut("object")).for_each(drop_from);
    }
    object
}

/// A moment as events write it, with microseconds.
pub(super) fn micro_time(time: Timestamp) -> String {
    format!("{time:.6}")
}
