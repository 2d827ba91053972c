//! [`PodNetwork`]: attaches pods, keeps a small pool of prepared namespaces, adopts what an
//! earlier process left, and keeps the rules as they should be.

use std::collections::HashSet;
use std::net::Ipv4Addr;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Weak};
use std::time::Duration;

use ::watch::restart::{Backoff, panic_text};
use futures::FutureExt;
use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::nft::{Foreign, Monitor};

use super::config::{
    AttachRequest, HostPortConflict, NetworkConfig, NetworkError, PodLink, Result,
};
use super::files::Pin;
use super::node::Node;

/// After this long without a new pod the prepared namespaces are given back.
const POOL_IDLE: Duration = Duration::from_secs(600);
/// Time between two looks at the host's listeners, while a pod has a host port.
const LISTENERS_INTERVAL: Duration = Duration::from_secs(2);
/// Wait before rules that could not be written are tried again.
const RETRY: Duration = Duration::from_secs(1);

/// The pod network of this node; clones share it.
#[derive(Debug, Clone)]
pub struct PodNetwork {
    node: Arc<Node>,
}

impl PodNetwork {
    /// Sets up the node's side in the network namespace of the process (of the calling thread, on
    /// a runtime of one thread) and adopts the pods that an earlier process attached. Must be
    /// called within a Tokio runtime.
    pub async fn start(config: NetworkConfig) -> Result<Self> {
        let opened = tokio::task::spawn_blocking(move || Node::open(config)).await;
        let node = opened.map_err(|_| NetworkError::ShutDown)??;
        let network = Self { node: Arc::new(node) };
        network.refill();
        Ok(network)
    }

    /// Gives a pod its network. Asking again for the same uid returns the same link, with the
    /// host ports of the latest request.
    ///
    /// A caller that is cancelled leaves nothing behind that a later [`PodNetwork::detach`] would
    /// not remove.
    pub async fn attach(&self, request: &AttachRequest) -> Result<PodLink> {
        let (reply, answer) = oneshot::channel();
        let (network, request) = (self.clone(), request.clone());
        tokio::spawn(async move {
            let (reply, result) = network.attach_for(request, reply).await;
            network.refill();
            let _ = reply.send(result);
        });
        answer.await.map_err(|_| NetworkError::ShutDown)?
    }

    /// Attaches for a caller that waits at the other end of `reply`, if it still does.
    async fn attach_for(
        &self,
        request: AttachRequest,
        reply: oneshot::Sender<Result<PodLink>>,
    ) -> (oneshot::Sender<Result<PodLink>>, Result<PodLink>) {
        let (node, asked) = (Arc::clone(&self.node), request.clone());
        let attached = tokio::task::spawn_blocking(move || {
            let result = node.attach_at_once(&asked, || !reply.is_closed());
            (reply, result)
        });
        let (reply, pin) = match attached.await {
            Ok((reply, Ok(Some(link)))) => return (reply, Ok(link)),
            Ok((reply, Ok(None))) => (reply, prepare(&self.node).await),
            Ok((reply, Err(error))) => (reply, Err(error)),
            Err(_) => return (oneshot::channel().0, Err(NetworkError::ShutDown)),
        };
        let pin = match pin {
            Ok(pin) => pin,
            Err(error) => return (reply, Err(error)),
        };
        let node = Arc::clone(&self.node);
        let claimed = tokio::task::spawn_blocking(move || {
            let result = node.claim(&request, pin, || !reply.is_closed());
            (reply, result)
        });
        match claimed.await {
            Ok(claimed) => claimed,
            Err(_) => (oneshot::channel().0, Err(NetworkError::ShutDown)),
        }
    }

    /// Takes a pod's network away: its host ports close at once, the namespace is dismantled by
    /// the kernel in the background once no process uses it. Succeeds for an unknown uid.
    pub async fn detach(&self, uid: &str) -> Result<()> {
        let uid = uid.to_owned();
        self.blocking(move |node| node.detach(&uid)).await
    }

    /// Detaches every pod that is not in the set.
    pub async fn retain(&self, uids: &HashSet<String>) -> Result<()> {
        let uids = uids.clone();
        self.blocking(move |node| {
            let gone: Vec<String> =
                node.state().attached.keys().filter(|uid| !uids.contains(*uid)).cloned().collect();
            gone.iter().try_for_each(|uid| node.detach(uid))
        })
        .await
    }

    /// Keeps the rules in the kernel as they should be until cancelled: they are written again
    /// when another program removes or changes them, foreign firewalls are opened again when they
    /// change, and host ports give way to processes of the host. Ends with an error when the
    /// kernel's notifications cannot be had; may be called again then.
    pub async fn run(&self, token: CancellationToken) -> Result<()> {
        let mut monitor = self.monitor()?;
        // Changes before the subscription were not seen.
        let mut due = Some(Foreign { lost: true, ..Foreign::default() });
        let mut next_scan = tokio::time::Instant::now() + LISTENERS_INTERVAL;
        let mut failed = false;
        loop {
            if let Some(foreign) = due.take() {
                let result = self.blocking(move |node| node.restore(foreign)).await;
                if let Err(error) = result {
                    if !std::mem::replace(&mut failed, true) {
                        tracing::error!(error = %Chain(&error), "cannot write rules of pods; trying again");
                    }
                    due = Some(Foreign { ours: true, ..foreign });
                } else {
                    failed = false;
                }
            }
            tokio::select! {
                () = token.cancelled() => {
                    return self.blocking(|node| node.close_input()).await;
                }
                foreign = monitor.changed() => {
                    due = Some(foreign.map_err(NetworkError::kernel("watch rules"))?);
                }
                () = tokio::time::sleep(RETRY), if due.is_some() => {}
                () = self.node.host_ports_changed() => {}
                () = tokio::time::sleep_until(next_scan), if self.node.has_host_ports() => {
                    next_scan = tokio::time::Instant::now() + LISTENERS_INTERVAL;
                    if let Err(error) = self.blocking(|node| node.follow_listeners()).await {
                        tracing::warn!(error = %Chain(&error), "cannot follow the host's listeners");
                    }
                }
            }
        }
    }

    fn monitor(&self) -> Result<Monitor> {
        self.node.monitor().map_err(NetworkError::kernel("watch rules"))
    }

    /// The host ports that processes of the host have at the moment, as of the last look.
    pub fn host_port_conflicts(&self) -> watch::Receiver<Vec<HostPortConflict>> {
        self.node.conflicts.subscribe()
    }

    /// Removes every trace of the pod network, running pods' links included.
    pub async fn teardown(&self) -> Result<()> {
        self.blocking(|node| {
            let mut state = node.state();
            state.attached.clear();
            state.ready.clear();
            state.torn_down = true;
            drop(state);
            crate::teardown::teardown(&node.config.run_dir)
        })
        .await
    }

    /// The node's own address in the pod range, which pods have as gateway.
    pub fn gateway(&self) -> Ipv4Addr {
        self.node.gateway
    }

    /// Addresses that this network bound on the node besides its own: the cluster DNS address.
    pub fn local_addresses(&self) -> Vec<Ipv4Addr> {
        std::iter::once(self.node.gateway).chain(self.node.config.dns_ip).collect()
    }

    /// Largest packet of pods in bytes.
    pub fn mtu(&self) -> u32 {
        self.node.mtu
    }

    /// Runs work that waits for the kernel on a thread that may wait.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Node) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        on_a_waiting_thread(&self.node, work).await
    }

    /// Fills the pool in the background and gives it back when no pod comes for long. A panic ends
    /// neither: it is tried again after a delay.
    fn refill(&self) {
        let node = Arc::clone(&self.node);
        tokio::spawn(async move {
            let starts = |node: &Node| Ok(!std::mem::replace(&mut node.state().refilling, true));
            if !matches!(on_a_waiting_thread(&node, starts).await, Ok(true)) {
                return;
            }
            again_after_panic(|| fill(Arc::clone(&node)), tokio::time::sleep).await;
            let ended = on_a_waiting_thread(&node, |node| {
                let mut state = node.state();
                state.refilling = false;
                Ok(state.attachments)
            });
            let Ok(attachments) = ended.await else { return };
            tokio::spawn(release_when_idle(Arc::downgrade(&node), attachments));
        });
    }
}

/// Runs work until it ends without a panic, with growing delays in between.
async fn again_after_panic<F: Future<Output = ()>, W: Future<Output = ()>>(
    mut work: impl FnMut() -> F,
    wait: impl Fn(Duration) -> W,
) {
    let mut backoff = Backoff::default();
    while let Err(panic) = AssertUnwindSafe(async { work().await }).catch_unwind().await {
        let reason = panic_text(&*panic);
        let delay = backoff.delay(Duration::ZERO);
        tracing::error!(reason, ?delay, "preparing pod namespaces panicked; trying again");
        wait(delay).await;
    }
}

/// Prepares namespaces until the pool is full or one fails.
async fn fill(node: Arc<Node>) {
    let lacks = |node: &Node| Ok(node.state().ready.len() < node.config.pool);
    while let Ok(true) = on_a_waiting_thread(&node, lacks).await {
        let added = match prepare(&node).await {
            Ok(pin) => on_a_waiting_thread(&node, |node| node.add_ready(pin)).await,
            Err(error) => Err(error),
        };
        if let Err(error) = added {
            // An attach that needs a namespace meets and reports the same error.
            tracing::debug!(error = %Chain(&error), "prepare pod namespace");
            return;
        }
    }
}

async fn on_a_waiting_thread<T: Send + 'static>(
    node: &Arc<Node>,
    work: impl FnOnce(&Node) -> Result<T> + Send + 'static,
) -> Result<T> {
    let node = Arc::clone(node);
    let done = tokio::task::spawn_blocking(move || work(&node)).await;
    done.unwrap_or(Err(NetworkError::ShutDown))
}

/// Makes a namespace with a link and an address that no pod has yet. Must not be cancelled.
async fn prepare(node: &Arc<Node>) -> Result<Pin> {
    let blueprint = on_a_waiting_thread(node, Node::blueprint).await?;
    let pin = blueprint.pin.clone();
    let made = node.maker.make(blueprint).await;
    on_a_waiting_thread(node, move |node| node.prepared(pin, made)).await
}

async fn release_when_idle(node: Weak<Node>, attachments: u64) {
    tokio::time::sleep(POOL_IDLE).await;
    let Some(node) = node.upgrade() else { return };
    let discard = move |node: &Node| {
        let pins: Vec<Pin> = {
            let mut state = node.state();
            if state.attachments != attachments {
                return Ok(());
            }
            state.ready.drain(..).collect()
        };
        pins.iter().try_for_each(|pin| node.discard(pin))
    };
    if let Err(error) = on_a_waiting_thread(&node, discard).await {
        tracing::warn!(error = %Chain(&error), "give back an unused pod namespace");
    }
}

/// An error with its causes, for logs.
pub(crate) struct Chain<'a>(pub &'a (dyn std::error::Error + 'static));

impl std::fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut source = self.0.source();
        while let Some(error) = source {
            write!(f, ": {error}")?;
            source = error.source();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use super::*;

    #[tokio::test]
    async fn work_that_panics_is_done_again() {
        let runs = Cell::new(0);
        let delays = RefCell::new(Vec::new());
        let work = || {
            runs.set(runs.get() + 1);
            let run = runs.get();
            async move { assert!(run == 3, "by the test") }
        };
        let wait = |delay| {
            delays.borrow_mut().push(delay);
            std::future::ready(())
        };
        again_after_panic(work, wait).await;
        assert_eq!(runs.get(), 3);
        assert_eq!(delays.into_inner(), [1, 2].map(Duration::from_secs));
    }
}
