//! Reports node ports that processes of the host have, and Services without room, once each, as Events
//! of the Services.

use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::events::{Event, EventType, Recorder};

use crate::listeners::process_of;
use crate::protocol::Protocol;

use super::keys::ServiceKey;
use super::plan::Frontend;
use super::room::{Bounded, Shortage};
use super::sync::PortConflict;

/// Longest time for writing the Events of one look; those that are left are dropped.
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(30);

/// Services without room that are reported at a time.
const SHORTAGES_MAX: usize = 64;

/// The conflicts that were reported.
pub(super) struct Conflicts {
    recorder: Recorder,
    known: Vec<PortConflict>,
}

impl Conflicts {
    pub(super) fn new(recorder: Recorder) -> Self {
        Self { recorder, known: Vec::new() }
    }

    /// Reports those that are new, in the background: rules must not wait for the API.
    pub(super) fn report(&mut self, found: &[PortConflict]) {
        // Addresses of load balancers are the Service controller's to report: it takes them back.
        let is_node_port =
            |conflict: &&PortConflict| matches!(conflict.frontend, Frontend::NodePort { .. });
        let new: Vec<PortConflict> = found
            .iter()
            .filter(|conflict| !self.known.contains(conflict))
            .filter(is_node_port)
            .cloned()
            .collect();
        self.known = found.to_vec();
        if new.is_empty() {
            return;
        }
        let recorder = self.recorder.clone();
        tokio::spawn(tokio::time::timeout(PUBLISH_TIMEOUT, async move {
            for conflict in &new {
                report_port(&recorder, conflict).await;
            }
        }));
    }

    /// Reports Services that have too few rules, in the background.
    pub(super) fn report_shortages(&self, shortages: Vec<Shortage>) {
        if shortages.is_empty() {
            return;
        }
        let recorder = self.recorder.clone();
        tokio::spawn(tokio::time::timeout(PUBLISH_TIMEOUT, async move {
            for Shortage { service, uid, of } in shortages.into_iter().take(SHORTAGES_MAX) {
                let ServiceKey { namespace, name } = &service;
                tracing::warn!(namespace, name, ?of, "there is no room for all of a Service");
                let note = match of {
                    Bounded::Service => {
                        "The Service has more ports, addresses, endpoints or source ranges than one \
                         may have; some of them lead nowhere"
                    }
                    Bounded::Namespace => {
                        "There is no room for more ports, addresses, endpoints or source ranges of \
                         this namespace; what is missing leads nowhere until there is"
                    }
                    Bounded::HealthChecks => {
                        "There is no room for more health check node ports of this namespace; load \
                         balancers get no answer there until there is"
                    }
                };
                let reason = match of {
                    Bounded::HealthChecks => "TooManyHealthChecks",
                    Bounded::Service | Bounded::Namespace => "TooManyEndpoints",
                };
                publish(&recorder, &service, uid, reason, note.into()).await;
            }
        }));
    }
}

async fn report_port(recorder: &Recorder, conflict: &PortConflict) {
    let inode = conflict.listener.inode;
    let process = tokio::task::spawn_blocking(move || process_of(inode)).await.ok().flatten();
    let process = process.map_or("a process of the machine".to_owned(), |process| {
        format!("process {} (pid {})", process.name, process.pid)
    });
    let port = conflict.frontend.port();
    let note = format!(
        "Node port {port}/{} is taken by {process}; it leads to the Service when the port is free",
        protocol_name(conflict.frontend.protocol()),
    );
    let ServiceKey { namespace, name } = &conflict.service;
    tracing::warn!(namespace, name, port, process, "a process of the host has a node port");
    publish(recorder, &conflict.service, conflict.uid.clone(), "PortConflict", note).await;
}

async fn publish(
    recorder: &Recorder,
    service: &ServiceKey,
    uid: Option<String>,
    reason: &str,
    note: String,
) {
    let event = Event {
        type_: EventType::Warning,
        reason: reason.into(),
        note: Some(note),
        action: "Proxy".into(),
        secondary: None,
    };
    let service = ObjectReference {
        api_version: Some("v1".into()),
        kind: Some("Service".into()),
        namespace: Some(service.namespace.clone()),
        name: Some(service.name.clone()),
        uid,
        ..ObjectReference::default()
    };
    if let Err(error) = recorder.publish(&event, &service).await {
        tracing::debug!(%error, "cannot write an Event");
    }
}

fn protocol_name(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "TCP",
        Protocol::Udp => "UDP",
        Protocol::Sctp => "SCTP",
    }
}
