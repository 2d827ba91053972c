//! Reports node ports that processes of the host have, once each, as Events of their Services.

use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::events::{Event, EventType, Recorder};

use crate::listeners::process_of;
use crate::protocol::Protocol;

use super::plan::Frontend;
use super::sync::{PortConflict, ServiceKey};

/// Longest time for writing the Events of one look; those that are left are dropped.
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(30);

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
                publish(&recorder, conflict).await;
            }
        }));
    }
}

async fn publish(recorder: &Recorder, conflict: &PortConflict) {
    let inode = conflict.listener.inode;
    let process = tokio::task::spawn_blocking(move || process_of(inode)).await.ok().flatten();
    let process = process.map_or("a process of the machine".to_owned(), |process| {
        format!("process {} (pid {})", process.name, process.pid)
    });
    let port = conflict.frontend.port();
    let event = Event {
        type_: EventType::Warning,
        reason: "PortConflict".into(),
        note: Some(format!(
            "Node port {port}/{} is taken by {process}; it leads to the Service when the port is \
             free",
            protocol_name(conflict.frontend.protocol()),
        )),
        action: "Proxy".into(),
        secondary: None,
    };
    let service = ObjectReference {
        api_version: Some("v1".into()),
        kind: Some("Service".into()),
        namespace: Some(conflict.service.namespace.clone()),
        name: Some(conflict.service.name.clone()),
        uid: conflict.uid.clone(),
        ..ObjectReference::default()
    };
    let ServiceKey { namespace, name } = &conflict.service;
    tracing::warn!(namespace, name, port, process, "a process of the host has a node port");
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
