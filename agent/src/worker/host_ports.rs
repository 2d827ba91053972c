//! Events for host ports that a process of the node takes after the pod got them.

use netproxy::listeners::{Listener, process_of};
use netproxy::{HostPortConflict, Protocol};

use super::Worker;
use crate::blocking::{self, Deadline};
use crate::events::Level;

impl Worker {
    /// Records the conflicts of this pod that are new.
    pub(super) fn follow_host_ports(&mut self) {
        let known = self.conflicts.borrow_and_update();
        let own = known.iter().filter(|conflict| conflict.uid == self.uid);
        let own: Vec<HostPortConflict> = own.cloned().collect();
        drop(known);
        let told = std::mem::replace(&mut self.conflicts_told, own.clone());
        for conflict in own.into_iter().filter(|conflict| !told.contains(conflict)) {
            let (node, pod) = (self.node.clone(), self.pod.clone());
            tokio::spawn(async move {
                let listener = conflict.listener.clone();
                let find = move || name(&listener);
                let what = "Finding the process behind a port";
                let name = blocking::run(blocking::NODE, what, Deadline::Short, find).await;
                let name = name.unwrap_or_else(|_| UNKNOWN.to_owned());
                let port = &conflict.port;
                let message = format!(
                    "{name} listens on host port {}/{}, which does not lead to the pod any more",
                    port.host_port,
                    protocol(port.protocol)
                );
                node.recorder.pod(&pod, Level::Warning, "HostPortConflict", message);
            });
        }
    }
}

const UNKNOWN: &str = "A process of the node";

fn name(listener: &Listener) -> String {
    process_of(listener.inode).map_or_else(
        || UNKNOWN.to_owned(),
        |process| format!("Process {} (pid {}) of the node", process.name, process.pid),
    )
}

fn protocol(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "TCP",
        Protocol::Udp => "UDP",
        Protocol::Sctp => "SCTP",
    }
}
