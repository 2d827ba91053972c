//! The record of one request, from its arrival to the end of its response.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use http::header::{ACCEPT_ENCODING, CONTENT_TYPE, USER_AGENT};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Request, Response};
use jiff::Timestamp;
use serde_json::json;

use super::Audit;
use super::body::{Side, tee};
use super::event::{Event, ObjectReference, Raw, Record, micro_time};
use super::log::Place;
use super::policy::{Level, Stage};
use crate::body::Body;
use crate::request::RequestInfo;
use crate::security::{Attributes, Refusal, User};
use crate::server::ApiServer;
use crate::tls_listener::Origin;

/// Bytes of the client's name that are recorded, and what follows those that are cut (upstream's).
const MAX_USER_AGENT_BYTES: usize = 1024;
const CUT_USER_AGENT: &str = "...TRUNCATED";
/// Bytes of an identifier that the client chooses.
const MAX_ID_BYTES: usize = 128;
/// Addresses that proxies may name.
const MAX_SOURCE_IPS: usize = 32;
/// The header that names the request in the log.
const ID_HEADER: &str = "audit-id";

/// One request on its way through the server.
#[derive(Debug)]
pub(crate) struct Trail {
    audit: Arc<Audit>,
    id: HeaderValue,
    received: Timestamp,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The parts to record; `None` before the policy has been consulted, where it says nothing, and
    /// after the last event.
    plan: Option<Plan>,
    request: Raw,
    response: Raw,
}

#[derive(Debug)]
struct Plan {
    event: Event,
    level: Level,
    omit_managed_fields: bool,
    /// Stages that are left out.
    omitted: Vec<Stage>,
    is_long_running: bool,
    /// For the last event.
    place: Option<Place>,
}

/// Begins the trail of a request, if there is an audit log.
pub(crate) fn begin(audit: Option<&Arc<Audit>>, request: &mut Request<Body>) -> Option<Arc<Trail>> {
    let audit = audit?.clone();
    let given = request.headers().get(ID_HEADER);
    let id = given.filter(|id| !id.is_empty() && id.len() <= MAX_ID_BYTES).cloned();
    let id = id.or_else(|| HeaderValue::from_str(&uuid::Uuid::new_v4().to_string()).ok())?;
    let trail = Trail { audit, id, received: Timestamp::now(), state: Mutex::default() };
    let trail = Arc::new(trail);
    request.extensions_mut().insert(trail.clone());
    Some(trail)
}

/// Consults the policy and records that the request was received; returns the body to go on with.
///
/// `user` is the result of authentication and impersonation.
pub(crate) async fn admit(
    server: &ApiServer,
    parts: &mut Parts,
    info: &RequestInfo,
    user: &Result<Arc<User>, Refusal>,
    body: Body,
) -> Body {
    let Some(trail) = parts.extensions.remove::<Arc<Trail>>() else { return body };
    let plan = trail.plan(server, parts, info, user);
    let Some(mut plan) = plan else { return body };
    if !plan.is_long_running {
        plan.place = trail.audit.log.place().await;
    }
    if user.is_ok() && !plan.omitted.contains(&Stage::RequestReceived) {
        let place = trail.audit.log.place().await;
        let mut event = plan.event.clone();
        event.annotations.clear();
        trail.send(&plan, event, Stage::RequestReceived, [None, None], place);
    }
    let writes = matches!(info.verb, "create" | "update" | "patch" | "delete" | "deletecollection");
    let records = info.is_resource && writes && !plan.is_long_running;
    if plan.level >= Level::RequestResponse && !plan.is_long_running {
        // The log holds the response as text.
        parts.headers.remove(ACCEPT_ENCODING);
    }
    let mut state = trail.state();
    state.request.media_type = media_type(&parts.headers);
    state.plan = Some(plan);
    drop(state);
    if records { tee(body, trail, Side::Request, true) } else { body }
}

impl Trail {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn plan(
        &self,
        server: &ApiServer,
        parts: &Parts,
        info: &RequestInfo,
        user: &Result<Arc<User>, Refusal>,
    ) -> Option<Plan> {
        // The user that was authenticated, whom impersonation may have changed.
        let own = match (user, parts.headers.contains_key("impersonate-user")) {
            (Ok(user), false) => user.clone(),
            _ => server.security.identify(parts).unwrap_or_default(),
        };
        let verdict = self.audit.policy.verdict(&Attributes::of(&own, info));
        if verdict.level == Level::None {
            return None;
        }
        let mut annotations = BTreeMap::new();
        if let Ok(user) = user {
            let decision = server.decision(user, info);
            let word = if decision.allowed { "allow" } else { "forbid" };
            annotations.insert("authorization.k8s.io/decision", word.to_owned());
            annotations.insert("authorization.k8s.io/reason", decision.reason);
        }
        let impersonated =
            user.as_ref().ok().filter(|user| **user != own).map(|user| user.to_json());
        let stages =
            [Stage::RequestReceived, Stage::ResponseStarted, Stage::ResponseComplete, Stage::Panic];
        let event = Event {
            kind: "Event",
            api_version: "audit.k8s.io/v1",
            level: name_of(verdict.level),
            audit_id: self.id.to_str().unwrap_or_default().to_owned(),
            stage: "",
            request_uri: parts.uri.path_and_query().map_or(String::new(), ToString::to_string),
            verb: info.verb,
            user: if *own == User::default() { json!({}) } else { own.to_json() },
            impersonated_user: impersonated,
            source_ips: source_ips(parts),
            user_agent: user_agent(&parts.headers),
            object_ref: info.is_resource.then(|| reference(info)),
            response_status: None,
            request_object: None,
            response_object: None,
            request_received_timestamp: micro_time(self.received),
            stage_timestamp: String::new(),
            annotations,
        };
        Some(Plan {
            event,
            level: verdict.level,
            omit_managed_fields: verdict.omit_managed_fields,
            omitted: stages.into_iter().filter(|stage| verdict.omits(*stage)).collect(),
            is_long_running: info.is_long_running(),
            place: None,
        })
    }

    /// Records a piece of a body.
    pub(super) fn record(&self, side: Side, piece: Option<Bytes>) {
        let mut state = self.state();
        match side {
            Side::Request => state.request.add(piece),
            Side::Response => state.response.add(piece),
        }
    }

    /// Returns the response with the identifier of the request in the log. Its end ends the trail.
    pub(crate) fn respond(
        self: &Arc<Self>,
        mut response: Response<Body>,
        panicked: bool,
    ) -> Response<Body> {
        response.headers_mut().insert(ID_HEADER, self.id.clone());
        let mut guard = self.state();
        let state = &mut *guard;
        let Some(plan) = &mut state.plan else {
            drop(guard);
            return response;
        };
        let code = response.status().as_u16();
        plan.event.response_status = Some(json!({ "metadata": {}, "code": code }));
        // Upstream records a failed authentication as ResponseStarted only.
        let is_refused = !plan.event.annotations.contains_key("authorization.k8s.io/decision");
        if panicked {
            plan.event.response_status = Some(json!({ "metadata": {}, "status": "Failure",
                "message": "APIServer panic'd", "reason": "InternalError", "code": 500 }));
            let plan = state.plan.take();
            drop(guard);
            self.finish(plan, Stage::Panic, [None, None]);
            return response;
        }
        if is_refused {
            plan.event.response_status = Some(json!({ "metadata": {}, "status": "Failure",
                "message": "Authentication failed, attempted: bearer", "reason": "Unauthorized", "code": code }));
            let plan = state.plan.take();
            drop(guard);
            self.finish(plan, Stage::ResponseStarted, [None, None]);
            return response;
        }
        let failed = code >= 400;
        let is_object = plan.level >= Level::RequestResponse && plan.event.object_ref.is_some();
        let records = failed || (is_object && !plan.is_long_running);
        if plan.is_long_running && !plan.omitted.contains(&Stage::ResponseStarted) {
            self.send(plan, plan.event.clone(), Stage::ResponseStarted, [None, None], None);
        }
        state.response.media_type = media_type(response.headers());
        drop(guard);
        let trail = self.clone();
        response.map(|body| tee(body, trail, Side::Response, records))
    }

    /// Records that the response is complete; once.
    pub(super) fn complete(&self) {
        let mut guard = self.state();
        let state = &mut *guard;
        let plan = state.plan.take();
        let bodies = [&mut state.request, &mut state.response].map(std::mem::take);
        drop(guard);
        self.finish(plan, Stage::ResponseComplete, bodies.map(Some));
    }

    fn finish(&self, plan: Option<Plan>, stage: Stage, bodies: [Option<Raw>; 2]) {
        let Some(mut plan) = plan.filter(|plan| !plan.omitted.contains(&stage)) else { return };
        let (event, place) = (plan.event.clone(), plan.place.take());
        self.send(&plan, event, stage, bodies, place);
    }

    fn send(
        &self,
        plan: &Plan,
        mut event: Event,
        stage: Stage,
        [request, response]: [Option<Raw>; 2],
        place: Option<Place>,
    ) {
        let time = if stage == Stage::RequestReceived { self.received } else { Timestamp::now() };
        event.stage = stage_name(stage);
        event.stage_timestamp = micro_time(time);
        let (level, omit_managed_fields) = (plan.level, plan.omit_managed_fields);
        let record = Record { event, level, omit_managed_fields, request, response };
        self.audit.log.send(Box::new(record), place);
    }
}

impl Drop for Trail {
    /// A client that closes its connection before the answer does not escape the log.
    fn drop(&mut self) {
        let mut plan = self.state().plan.take();
        if let Some(plan) = &mut plan {
            plan.event.response_status.get_or_insert_with(|| {
                json!({ "metadata": {}, "status": "Success", "message": "Connection closed early",
                    "code": 200 })
            });
        }
        let request = std::mem::take(&mut self.state().request);
        self.finish(plan, Stage::ResponseComplete, [Some(request), None]);
    }
}

fn name_of(level: Level) -> &'static str {
    match level {
        Level::None => "None",
        Level::Metadata => "Metadata",
        Level::Request => "Request",
        Level::RequestResponse => "RequestResponse",
    }
}

fn stage_name(stage: Stage) -> &'static str {
    match stage {
        Stage::RequestReceived => "RequestReceived",
        Stage::ResponseStarted => "ResponseStarted",
        Stage::ResponseComplete => "ResponseComplete",
        Stage::Panic => "Panic",
    }
}

fn reference(info: &RequestInfo) -> ObjectReference {
    ObjectReference {
        resource: info.resource.clone(),
        namespace: info.namespace.clone(),
        name: info.name.clone(),
        api_group: info.group.clone(),
        api_version: info.version.clone(),
        subresource: info.subresource.clone(),
        ..ObjectReference::default()
    }
}

/// The addresses that proxies name, then the one that the connection comes from. All but the last
/// are the client's to choose.
fn source_ips(parts: &Parts) -> Vec<String> {
    let texts = ["x-forwarded-for", "x-real-ip"];
    let headers = texts.into_iter().flat_map(|name| parts.headers.get_all(name));
    let named = headers.filter_map(|value| value.to_str().ok()).flat_map(|text| text.split(','));
    let named = named.filter_map(|text| text.trim().parse::<std::net::IpAddr>().ok());
    let mut ips: Vec<String> = named.take(MAX_SOURCE_IPS).map(|ip| ip.to_string()).collect();
    let origin = parts.extensions.get::<Arc<Origin>>();
    let peer = origin.and_then(|origin| origin.peer).map(|peer| peer.ip().to_canonical());
    // Parts of this process have no connection.
    let peer = peer.map_or_else(|| "127.0.0.1".to_owned(), |ip| ip.to_string());
    if ips.last() != Some(&peer) {
        ips.push(peer);
    }
    ips
}

fn user_agent(headers: &HeaderMap) -> String {
    let Some(value) = headers.get(USER_AGENT) else { return String::new() };
    let bytes = value.as_bytes();
    let cut = bytes.len() > MAX_USER_AGENT_BYTES;
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(MAX_USER_AGENT_BYTES)]);
    if cut { format!("{text}{CUT_USER_AGENT}") } else { text.into_owned() }
}

fn media_type(headers: &HeaderMap) -> String {
    let header = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
    header.split(';').next().unwrap_or("").trim().to_owned()
}
