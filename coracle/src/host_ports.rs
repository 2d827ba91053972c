//! The ports that processes of this machine listen on, for the parts that give ports of the node
//! away and do not link the code that reads sockets.

use std::collections::{BTreeSet, HashSet};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use controllers::load_balancer::{Holders, HostPorts, NodePort};
use netproxy::Protocol;
use netproxy::listeners::{self, Listener};

/// Time that a list of busy ports serves for choosing node ports.
const BUSY_PORTS_AGE: Duration = Duration::from_secs(1);

/// The ports with a listener at any address, as of a moment ago. None when they cannot be read:
/// the proxy leaves ports of the host alone in any case.
pub(crate) fn busy() -> Arc<HashSet<u16>> {
    static KNOWN: Mutex<Option<(Instant, Arc<HashSet<u16>>)>> = Mutex::new(None);
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    match &*known {
        Some((since, ports)) if since.elapsed() < BUSY_PORTS_AGE => ports.clone(),
        _ => {
            let ports = listeners::scan().unwrap_or_default();
            let ports = Arc::new(ports.into_iter().map(|listener| listener.port).collect());
            *known = Some((Instant::now(), Arc::clone(&ports)));
            ports
        }
    }
}

/// The listeners of this machine's own network namespace.
pub(crate) struct Machine;

impl HostPorts for Machine {
    fn holders(&self, address: IpAddr, ports: &BTreeSet<NodePort>) -> Option<Holders> {
        // Asked for each Service again and again: said once.
        static FAILS: AtomicBool = AtomicBool::new(false);
        let found = listeners::scan();
        let failed = FAILS.swap(found.is_err(), Ordering::Relaxed);
        let found = found
            .inspect_err(|error| {
                if !failed {
                    tracing::warn!(%error, "cannot list the machine's listeners");
                }
            })
            .ok()?;
        let conflict = |(protocol, number): &NodePort| -> Option<&Listener> {
            let protocol = Protocol::parse(Some(protocol))?;
            let number = u16::try_from(*number).ok()?;
            listeners::conflict(&found, protocol, Some(address), number)
        };
        Some(ports.iter().filter_map(|port| Some((port.clone(), name(conflict(port)?)))).collect())
    }
}

fn name(listener: &Listener) -> String {
    match listeners::process_of(listener.inode) {
        Some(process) => format!("process {} (pid {})", process.name, process.pid),
        None => "a process of the machine".to_owned(),
    }
}
