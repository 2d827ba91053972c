//! An API server in memory: one pod, secrets with their watches, the headless Service `front`, and
//! whatever else is empty.
#![allow(clippy::unwrap_used)]

use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::{StreamExt, stream};
use http::{Method, Request, Response};
use http_body::Frame;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use kube::Client;
use serde_json::{Value, json};
use tokio::sync::watch;

#[derive(Default)]
struct Held {
    pod: Value,
    /// Every change of a secret, as watches say it.
    /// Secrets in the order in which they appeared.
    history: Vec<Value>,
    deleted: bool,
    revision: u64,
    /// Statuses are too large while this is set.
    refuses: bool,
    /// Attempts to write a status.
    attempts: usize,
}

/// The server. Cheap to clone.
#[derive(Clone)]
pub struct FakeApi {
    held: Arc<Mutex<Held>>,
    changed: watch::Sender<usize>,
}

type Body = BoxBody<Bytes, Infallible>;

impl FakeApi {
    /// A server with this pod.
    pub fn new(pod: &Pod) -> Self {
        let pod = serde_json::to_value(pod).unwrap();
        let held = Held { pod, revision: 10, ..Held::default() };
        Self { held: Arc::new(Mutex::new(held)), changed: watch::Sender::new(0) }
    }

    /// A client of it.
    pub fn client(&self) -> Client {
        let this = self.clone();
        let service = tower::service_fn(move |request: Request<kube::client::Body>| {
            let this = this.clone();
            async move {
                let (parts, body) = request.into_parts();
                let body = body.collect().await.unwrap().to_bytes();
                Ok::<_, Infallible>(this.answer(&parts, &body))
            }
        });
        Client::new(service, "default")
    }

    /// What the worker has written.
    pub fn status(&self) -> PodStatus {
        let status = self.held.lock().unwrap().pod["status"].clone();
        serde_json::from_value::<Option<PodStatus>>(status).unwrap().unwrap_or_default()
    }

    /// Refuses every status as too large from now on, or does so no longer.
    pub fn refuse_statuses(&self, refuses: bool) {
        self.held.lock().unwrap().refuses = refuses;
    }

    /// Returns how often a status was written, refused ones included.
    pub fn attempts(&self) -> usize {
        self.held.lock().unwrap().attempts
    }

    /// The pod object was deleted for good.
    pub fn deleted(&self) -> bool {
        self.held.lock().unwrap().deleted
    }

    /// The pod as it is now, changed.
    pub fn pod(&self, change: impl FnOnce(&mut Value)) -> Pod {
        let mut held = self.held.lock().unwrap();
        held.revision += 1;
        let revision = held.revision.to_string();
        change(&mut held.pod);
        held.pod["metadata"]["resourceVersion"] = revision.into();
        serde_json::from_value(held.pod.clone()).unwrap()
    }

    /// A secret with one key appears.
    pub fn add_secret(&self, name: &str) {
        let mut held = self.held.lock().unwrap();
        let serial = held.history.len() + 1;
        let object = json!({"apiVersion": "v1", "kind": "Secret",
            "metadata": {"name": name, "namespace": "d", "resourceVersion": serial.to_string()},
            "data": {"k": "dg=="}});
        held.history.push(object);
        self.changed.send_replace(serial);
    }

    fn answer(&self, parts: &http::request::Parts, body: &[u8]) -> Response<Body> {
        let path = parts.uri.path();
        let query = parts.uri.query().unwrap_or_default();
        if path.ends_with("/pods/p/status") && parts.method == Method::PATCH {
            let refuses = {
                let mut held = self.held.lock().unwrap();
                held.attempts += 1;
                held.refuses
            };
            if refuses {
                let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure",
                    "message": "Request entity too large", "reason": "RequestEntityTooLarge",
                    "code": 413});
                let mut response = json_response(&status);
                *response.status_mut() = http::StatusCode::PAYLOAD_TOO_LARGE;
                return response;
            }
            let patch: Value = serde_json::from_slice(body).unwrap();
            let pod = self.pod(|pod| {
                for (key, value) in patch["status"].as_object().unwrap() {
                    merge(&mut pod["status"][key], value);
                }
            });
            return json_response(&serde_json::to_value(pod).unwrap());
        }
        if path.ends_with("/pods/p") && parts.method == Method::DELETE {
            let mut held = self.held.lock().unwrap();
            held.deleted = true;
            return json_response(&held.pod);
        }
        if parts.method == Method::POST {
            return json_response(&serde_json::from_slice(body).unwrap());
        }
        if query.contains("watch=true") {
            let wanted = query.split("metadata.name%3D").nth(1).unwrap_or_default();
            let wanted = wanted.split('&').next().unwrap_or_default();
            let secrets = path.ends_with("/secrets");
            return self.watch(secrets.then(|| wanted.to_owned()));
        }
        // Secrets appear after the first list only; the metadata of others is for hints.
        let (kind, items) = match path.rsplit('/').next() {
            Some("secrets") => ("SecretList", json!([])),
            _ => (
                "ServiceList",
                json!([{"metadata": {"namespace": "d", "name": "front"},
                    "spec": {"clusterIP": "None", "selector": {"app": "front"}}}]),
            ),
        };
        json_response(&json!({"apiVersion": "v1", "kind": kind,
            "metadata": {"resourceVersion": "1"}, "items": items}))
    }

    fn watch(&self, secret: Option<String>) -> Response<Body> {
        let held = self.held.clone();
        let changes = stream::unfold((0, self.changed.subscribe()), move |(next, mut changed)| {
            let held = held.clone();
            async move {
                changed.wait_for(|count| *count > next).await.ok()?;
                let object = held.lock().unwrap().history[next].clone();
                Some((object, (next + 1, changed)))
            }
        });
        let wanted = move |object: &Value| {
            secret.as_deref().is_some_and(|name| object["metadata"]["name"] == name)
        };
        // The type comes before the object, as servers write it.
        let event = |object| format!("{{\"type\":\"ADDED\",\"object\":{object}}}\n");
        let lines = changes
            .filter(move |object| std::future::ready(wanted(object)))
            .map(move |object| Ok::<_, Infallible>(Frame::data(Bytes::from(event(object)))));
        Response::new(BodyExt::boxed(StreamBody::new(Box::pin(lines))))
    }
}

/// Strategic merging as far as a status needs it: conditions by type, markers dropped.
fn merge(old: &mut Value, new: &Value) {
    let Some(new) = new.as_array() else {
        *old = new.clone();
        return;
    };
    if !new.iter().any(|item| item.get("type").is_some()) {
        *old = new.iter().filter(|item| item.get("$patch").is_none()).cloned().collect();
        return;
    }
    let mut merged = old.as_array().cloned().unwrap_or_default();
    for item in new {
        match merged.iter_mut().find(|known| known["type"] == item["type"]) {
            Some(known) => *known = item.clone(),
            None => merged.push(item.clone()),
        }
    }
    *old = merged.into();
}

fn json_response(value: &Value) -> Response<Body> {
    let body = Full::new(Bytes::from(value.to_string()));
    Response::builder().header("content-type", "application/json").body(body.boxed()).unwrap()
}
