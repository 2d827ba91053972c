//! Feeds the proxy from the API.

use std::collections::HashSet;
use std::hash::Hash;
use std::time::Duration;

use futures::{FutureExt, Stream, StreamExt};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::runtime::events::{Recorder, Reporter};
use kube::runtime::watcher::{self, Error, Event};
use kube::{Api, Client};
use nix::sys::resource::{Resource, getrlimit};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::netlink::NetlinkError;
use crate::nft::{Foreign, Monitor};
use crate::pods::Chain;

use super::config::{ProxyConfig, ProxyError, Result};
use super::conflict::Conflicts;
use super::health::HealthServer;
use super::keys::{ServiceKey, SliceId, slice_id};
use super::room::Bounded;
use super::sync::{PortConflict, Proxy};
use super::withdrawal::Questions;

/// Wait before a failed write is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// Time between two looks at the host's listeners, while a Service has a port at the node.
const LISTENERS_INTERVAL: Duration = Duration::from_secs(2);

/// Keeps the kernel's Service rules equal to the API until cancelled. The rules stay afterwards.
/// Ends with an error when the kernel's notifications cannot be had, and may be called again then.
/// Needs a runtime with several threads.
///
/// Every event that is ready is taken before rules are written, and rules are written at once:
/// one change is one small batch, a burst is one bigger batch. Questions are answered in between.
pub async fn run(
    client: Client,
    config: ProxyConfig,
    questions: &mut Questions,
    token: CancellationToken,
) -> Result<()> {
    let reporter =
        Reporter { controller: "kube-proxy".into(), instance: Some(config.node_name.clone()) };
    let mut conflicts = Conflicts::new(Recorder::new(client.clone(), reporter));
    let mut proxy = Proxy::open(config)?;
    let mut monitor = proxy.monitor()?;
    let everything = watcher::Config::default;
    let services = watch::follow::<Service>(Api::all(client.clone()), everything());
    let slices = watch::follow::<EndpointSlice>(Api::all(client), everything());
    let mut services = Feed::new("Services", services.boxed());
    let mut slices = Feed::new("EndpointSlices", slices.boxed());
    let mut health = HealthServer::new(descriptors());
    let (mut failed, mut refused) = (false, false);
    let mut next_scan = Instant::now() + LISTENERS_INTERVAL;
    loop {
        let (mut foreign, mut look) = (None, false);
        tokio::select! {
            () = token.cancelled() => return Ok(()),
            event = services.stream.next() => services.take(event, &mut proxy),
            event = slices.stream.next() => slices.take(event, &mut proxy),
            Some(()) = questions.take() => {}
            () = tokio::time::sleep(RETRY), if failed || refused => {}
            changed = changed(&mut monitor) => {
                let watched = |source| ProxyError::Kernel { step: "watch rules", source };
                foreign = Some(changed.map_err(watched)?);
            }
            () = tokio::time::sleep_until(next_scan), if proxy.claims_host_ports() => {
                next_scan = Instant::now() + LISTENERS_INTERVAL;
                look = true;
            }
        }
        while let Some(event) = services.stream.next().now_or_never() {
            services.take(event, &mut proxy);
        }
        while let Some(event) = slices.stream.next().now_or_never() {
            slices.take(event, &mut proxy);
        }
        if !(services.listed && slices.listed) {
            continue;
        }
        let result = write(&mut proxy, foreign, look);
        if let Ok(Some(found)) = &result {
            conflicts.report(found);
        }
        if let Err(error) = &result
            && !failed
        {
            tracing::error!(error = %Chain(error), "cannot write Service rules; trying again");
        }
        conflicts.report_shortages(proxy.take_shortages());
        failed = result.is_err();
        if !failed {
            questions.settle(&proxy);
            let followed = health.follow(proxy.health_checks()).await;
            refused = followed.refused;
            let shortage = |key: &ServiceKey| proxy.shortage(key, Bounded::HealthChecks);
            conflicts.report_shortages(followed.shortages.iter().map(shortage).collect());
        }
    }
}

/// Writes what is due. What may take the kernel or this process long is done aside: the thread's other
/// tasks go on on another one meanwhile. Returns the conflicts with the host if they were looked for.
fn write(
    proxy: &mut Proxy,
    foreign: Option<Foreign>,
    look: bool,
) -> Result<Option<Vec<PortConflict>>> {
    if foreign.is_some() || look {
        return aside(|| {
            if let Some(foreign) = foreign {
                proxy.note(foreign)?;
            }
            let found = if look { Some(proxy.follow_listeners()?) } else { None };
            proxy.flush()?;
            Ok(found)
        });
    }
    let changes = if proxy.plans_little() { proxy.plan() } else { aside(|| proxy.plan()) };
    if proxy.writes_little(&changes) {
        proxy.write(&changes)?;
    } else {
        aside(|| proxy.write(&changes))?;
    }
    Ok(None)
}

fn aside<T>(work: impl FnOnce() -> T) -> T {
    tokio::task::block_in_place(work)
}

/// The descriptors that this process may have.
fn descriptors() -> u64 {
    getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(soft, _)| soft)
}

async fn changed(monitor: &mut Option<Monitor>) -> Result<Foreign, NetlinkError> {
    match monitor {
        Some(monitor) => monitor.changed().await,
        None => std::future::pending().await,
    }
}

/// An object that the proxy follows.
trait Followed: Sized + 'static {
    type Key: Hash + Eq + Clone;
    fn key(&self) -> Self::Key;
    fn apply(self, proxy: &mut Proxy);
    fn delete(key: &Self::Key, proxy: &mut Proxy);
    /// The keys of all that the proxy has.
    fn known(proxy: &Proxy) -> Vec<Self::Key>;
}

impl Followed for Service {
    type Key = ServiceKey;

    fn key(&self) -> ServiceKey {
        ServiceKey::of(&self.metadata)
    }

    fn apply(self, proxy: &mut Proxy) {
        proxy.set_service(self);
    }

    fn delete(key: &ServiceKey, proxy: &mut Proxy) {
        proxy.remove_service(key);
    }

    fn known(proxy: &Proxy) -> Vec<ServiceKey> {
        proxy.service_keys().cloned().collect()
    }
}

impl Followed for EndpointSlice {
    type Key = SliceId;

    fn key(&self) -> SliceId {
        slice_id(&self.metadata)
    }

    fn apply(self, proxy: &mut Proxy) {
        proxy.set_slice(self);
    }

    fn delete(key: &SliceId, proxy: &mut Proxy) {
        proxy.remove_slice(key);
    }

    fn known(proxy: &Proxy) -> Vec<SliceId> {
        proxy.slice_ids().cloned().collect()
    }
}

/// One watch. What a new list lacks was deleted while the watch was broken.
struct Feed<K: Followed, S> {
    what: &'static str,
    stream: S,
    listing: HashSet<K::Key>,
    listed: bool,
    broken: bool,
}

impl<K: Followed, S: Stream<Item = Result<Event<K>, Error>> + Unpin> Feed<K, S> {
    fn new(what: &'static str, stream: S) -> Self {
        Self { what, stream, listing: HashSet::new(), listed: false, broken: false }
    }

    fn take(&mut self, event: Option<Result<Event<K>, Error>>, proxy: &mut Proxy) {
        let event = match event {
            Some(Ok(event)) => event,
            Some(Err(error)) => {
                if !std::mem::replace(&mut self.broken, true) {
                    tracing::warn!(error = %Chain(&error), "watch of {} broke", self.what);
                }
                return;
            }
            // A watcher never ends by itself.
            None => return,
        };
        self.broken = false;
        match event {
            Event::Init => self.listing.clear(),
            Event::InitApply(object) => {
                self.listing.insert(object.key());
                object.apply(proxy);
            }
            Event::InitDone => {
                let listed = std::mem::take(&mut self.listing);
                for key in K::known(proxy).iter().filter(|key| !listed.contains(*key)) {
                    K::delete(key, proxy);
                }
                self.listed = true;
            }
            Event::Apply(object) => object.apply(proxy),
            Event::Delete(object) => K::delete(&object.key(), proxy),
        }
    }
}
