//! Reports node ports that processes of the host have, once each, as Events of their Services.

use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::events::{Event, EventType, Recorder};

use crate::listeners::process_of;
use crate::protocol::Protocol;

use super::plan::Frontend;
use super::sync::PortConflict;

/// What was reported.
pub(super) struct Conflicts {
    recorder: Recorder,
    known: Vec<PortConflict>,
}

impl Conflicts {
    pub(super) fn new(recorder: Recorder) -> Self {
        Self { recorder, known: Vec::new() }
    }

    /// Reports those that are new.
    pub(super) async fn report(&mut self, found: &[PortConflict]) {
        for conflict in found.iter().filter(|conflict| !self.known.contains(conflict)) {
            // Addresses of load balancers are the Service controller's to report: it takes them
            // back.
            if matches!(conflict.frontend, Frontend::NodePort { .. }) {
                self.publish(conflict).await;
            }
        }
        self.known = found.to_vec();
    }

    async fn publish(&self, conflict: &PortConflict) {
        let inode = conflict.listener.inode;
        let process = tokio::task::spawn_blocking(move || process_of(inode)).await.ok().flatten();
        let process = process.map_or("a process of the host".to_owned(), |process| {
            format!("process {} (pid {})", process.name, process.pid)
        });
        let event = Event {
            type_: EventType::Warning,
            reason: "PortConflict".into(),
            note: Some(format!(
                "Node port {}/{} is taken by {process}; it leads to the Service when the port is free",
                conflict.frontend.port(),
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
        tracing::warn!(
            namespace = conflict.service.namespace,
            name = conflict.service.name,
            port = conflict.frontend.port(),
            process,
            "a process of the host listens at a Service's node port and has it"
        );
        if let Err(error) = self.recorder.publish(&event, &service).await {
            tracing::debug!(%error, "cannot write an Event");
        }
    }
}

fn protocol_name(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "TCP",
        Protocol::Udp => "UDP",
        Protocol::Sctp => "SCTP",
    }
}
