//! The agent: from the watch of this node's pods to one worker per pod.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use ::api::pod::is_terminal;
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::runtime::watcher;
use kube::{Api, Client};
use netproxy::PodNetwork;
use netproxy::proxy::Withdrawals;
use runtime::Runtime;
use runtime::image::ImageStore;
use tokio::sync::{Mutex, Semaphore, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::admission::{self, host_port};
use crate::attend::{Former, attend};
use crate::blocking::{self, Deadline};
use crate::config::AgentConfig;
use crate::directory::Directory;
use crate::events::{Level, Recorder};
use crate::image_gc::ImageUses;
use crate::leftover;
use crate::machine::{Cause, Machine, PodSandbox};
use crate::node::{Capacity, Node};
use crate::objects::Objects;
use crate::pressure::Gauge;
use crate::pull::Puller;
use crate::services::Services;
use crate::start_up::StartUps;
use crate::volume::provisioned;
use crate::worker::News;
use crate::worker::state::Failure;
use crate::{pressure, real, registration, server};

/// Why an agent cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// A directory could not be made.
    #[error("cannot create {path:?}")]
    Directory {
        /// Which one.
        path: std::path::PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The kernel does not say how many files may be open.
    #[error("cannot read the limit of open files")]
    Limits(#[source] nix::Error),
}

/// The kubelet of one node. Cheap to clone.
#[derive(Clone)]
pub struct Agent {
    node: Arc<Node>,
    stop: CancellationToken,
    /// Held by the loop that follows the pods; a restarted one goes on with it.
    pods: Arc<Mutex<Pods>>,
}

/// A loop of the agent: its name, and how to run it. It may be run again after it ended.
pub type Part = (&'static str, Box<dyn Fn() -> BoxFuture<'static, ()> + Send>);

/// After a start, how long pods that run and are not bound to this node are left alone.
const UNCLAIMED: Duration = Duration::from_secs(60);

/// Attempts to list the sandboxes that run, and the time between two of them.
const ADOPT_ATTEMPTS: u32 = 15;
const ADOPT_RETRY: Duration = Duration::from_secs(2);

struct Running {
    news: watch::Sender<News>,
    task: JoinHandle<()>,
    /// The node did not take the pod in.
    rejected: bool,
}

impl Running {
    /// The pod, while it has a place on the node: as the scheduler counts, until the API knows that
    /// it has ended or is gone.
    fn occupant(&self) -> Option<Arc<Pod>> {
        let news = self.news.borrow();
        let gone = self.rejected || news.vanished || is_terminal(&news.pod);
        (!gone).then(|| news.pod.clone())
    }
}

/// Every pod of the node, by its uid.
#[derive(Default)]
pub(crate) struct Pods {
    /// Success of the search for sandboxes of an earlier process; `None` before it has ended.
    adoption: Option<bool>,
    /// True once the pods were listed.
    listed: bool,
    workers: HashMap<String, Running>,
    /// What an earlier process left running and no worker has taken over yet.
    adopted: HashMap<String, Arc<dyn PodSandbox>>,
    /// Sandboxes that an earlier process left running and that were ended, with the reason.
    ended: HashMap<String, Cause>,
    /// Sandboxes of an earlier process that could not be taken over yet.
    unknown: HashSet<String>,
    /// Pods that do not fit and are tried again before they are told so.
    held: HashMap<String, (Arc<Pod>, Instant)>,
    pace: ::watch::Pace,
}

impl Pods {
    /// When the next of the held pods is tried again.
    fn next_trial(&self) -> Option<Instant> {
        self.held.values().map(|(_, at)| *at).min()
    }

    /// Takes what an earlier process left of a pod.
    pub(crate) fn former(&mut self, uid: &str) -> Former {
        if let Some(sandbox) = self.adopted.remove(uid) {
            return Former::Sandbox(sandbox);
        }
        if let Some(cause) = self.ended.remove(uid) {
            return Former::Ended(cause);
        }
        match self.unknown.remove(uid) || self.adoption == Some(false) {
            true => Former::Unknown,
            false => Former::Nothing,
        }
    }

    /// Returns whether something that an earlier process left running waits for its pod.
    fn unclaimed(&self) -> bool {
        !self.adopted.is_empty() || !self.unknown.is_empty()
    }
}

impl Agent {
    /// Prepares the directories; nothing runs before [`Agent::run`].
    pub async fn start(
        config: AgentConfig,
        client: Client,
        runtime: Runtime,
        images: ImageStore,
        network: PodNetwork,
        withdrawals: Withdrawals,
    ) -> Result<Self, AgentError> {
        let open_files = runtime::own_limits::open_files().map_err(AgentError::Limits)?;
        let puller = Puller::new(images.clone(), &config, open_files);
        let machine = real::machine(runtime, images, (network, withdrawals), puller);
        Self::with_machine(config, client, machine).await
    }

    /// The same over any machine, for tests.
    pub async fn with_machine(
        config: AgentConfig,
        client: Client,
        machine: Machine,
    ) -> Result<Self, AgentError> {
        let pods = config.data_dir.join("pods");
        for path in [&pods, &config.pod_log_dir, &config.container_log_dir] {
            std::fs::create_dir_all(path)
                .map_err(|source| AgentError::Directory { path: path.clone(), source })?;
        }
        let stop = CancellationToken::new();
        let open_files = runtime::own_limits::open_files().map_err(AgentError::Limits)?;
        let node = Node {
            recorder: Recorder::start(client.clone(), config.node_name.clone(), stop.clone()),
            objects: Objects::new(client.clone()),
            services: Services::start(client.clone(), stop.clone()),
            directory: Directory::default(),
            image_uses: ImageUses::default(),
            pressure: Gauge::default(),
            capacity: Capacity::of_this_machine(),
            start_ups: StartUps::default(),
            forwards: Arc::new(Semaphore::new(server::forwards(open_files))),
            config,
            client,
            machine,
        };
        Ok(Self::over(Arc::new(node), stop))
    }

    /// The agent of a node that is prepared.
    pub(crate) fn over(node: Arc<Node>, stop: CancellationToken) -> Self {
        Self { node, stop, pods: Arc::default() }
    }

    /// Returns the loops that register the node and run its pods. Containers stay as they are when
    /// the loops are stopped.
    pub fn parts(&self) -> Vec<Part> {
        let node = &self.node;
        let (status, volumes, memory) = (node.clone(), node.clone(), node.clone());
        let pods = self.clone();
        vec![
            ("kubelet-status", Box::new(move || registration::run(status.clone()).boxed())),
            ("kubelet-volumes", Box::new(move || provisioned::reclaim(volumes.clone()).boxed())),
            ("kubelet-eviction", Box::new(move || pressure::run(memory.clone()).boxed())),
            ("kubelet-pods", Box::new(move || pods.clone().follow_pods().boxed())),
        ]
    }

    /// Ends what the agent does beside its loops.
    pub fn close(&self) {
        self.stop.cancel();
    }

    /// Takes over what runs. What cannot be taken over does not keep the rest; a pod of which that is
    /// unknown would run twice, so its worker tries again before it starts anything.
    pub(crate) async fn adopt(&self, pods: &mut Pods) {
        for _ in 0..ADOPT_ATTEMPTS {
            match self.node.machine.runtime.adopt().await {
                Ok(found) => {
                    pods.adopted = found.sandboxes;
                    pods.ended = found.ended;
                    pods.unknown = found.failed.into_keys().collect();
                    pods.adoption = Some(true);
                    return;
                }
                Err(error) => {
                    let error = runtime::printable::chain(&*error);
                    tracing::error!(error, "cannot list running pods; trying again");
                }
            }
            sleep(ADOPT_RETRY).await;
        }
        pods.adoption = Some(false);
    }

    /// Answers the kubelet API on one connection; `gone` is cancelled when its other end is dropped.
    pub async fn serve<I>(&self, io: I, gone: CancellationToken)
    where
        I: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    {
        server::serve(self.node.clone(), io, gone).await;
    }

    async fn follow_pods(self) {
        let mut pods = self.pods.lock().await;
        let pods = &mut *pods;
        if pods.adoption.is_none() {
            self.adopt(pods).await;
        }
        let config = watcher::Config::default()
            .fields(&format!("spec.nodeName={}", self.node.config.node_name));
        let stream = ::watch::follow::<Pod>(Api::all(self.node.client.clone()), config);
        let mut stream = std::pin::pin!(stream);
        let mut listed: HashMap<String, Arc<Pod>> = HashMap::new();
        loop {
            let event = tokio::select! {
                event = stream.next() => event,
                () = sleep(UNCLAIMED), if pods.listed && pods.unclaimed() => {
                    // Pods that nobody claimed: bound no more, or gone.
                    let known = pods.workers.keys().cloned().collect();
                    self.clean_orphans(known, pods, false).await;
                    continue;
                }
                () = due(pods.next_trial()) => {
                    self.try_again(pods).await;
                    continue;
                }
            };
            let Some(event) = event else { return };
            match event {
                Ok(watcher::Event::Init) => listed.clear(),
                Ok(watcher::Event::InitApply(pod)) => {
                    let pod = slim(pod);
                    listed.insert(pod.metadata.uid.clone().unwrap_or_default(), pod);
                }
                Ok(watcher::Event::InitDone) => {
                    let found = std::mem::take(&mut listed);
                    if !std::mem::replace(&mut pods.listed, true) {
                        let known = found.keys().cloned().collect();
                        let complete = pods.adoption == Some(true);
                        self.clean_orphans(known, pods, complete).await;
                    }
                    for (uid, running) in &pods.workers {
                        if !found.contains_key(uid) {
                            running.news.send_modify(|news| news.vanished = true);
                        }
                    }
                    pods.held.retain(|uid, _| found.contains_key(uid));
                    let mut found: Vec<(String, Arc<Pod>)> = found.into_iter().collect();
                    // Those that have a place come first: new ones are tried against them.
                    found.sort_by_cached_key(|(uid, pod)| {
                        let known = pods.workers.contains_key(uid)
                            || pods.adopted.contains_key(uid)
                            || pods.unknown.contains(uid);
                        (!known && admission::is_new(pod), admission::turn(pod))
                    });
                    for (_, pod) in found {
                        self.tell(pods, pod).await;
                    }
                }
                Ok(watcher::Event::Apply(pod)) => self.tell(pods, slim(pod)).await,
                Ok(watcher::Event::Delete(pod)) => {
                    let uid = pod.metadata.uid.clone().unwrap_or_default();
                    pods.held.remove(&uid);
                    if let Some(running) = pods.workers.get(&uid) {
                        let pod = slim(pod);
                        running.news.send_modify(|news| {
                            news.pod = pod;
                            news.vanished = true;
                        });
                    }
                }
                Err(error) => tracing::debug!(%error, "watch of pods"),
            }
            pods.workers.retain(|_, running| !running.task.is_finished());
        }
    }

    /// Tries those pods again whose time has come.
    async fn try_again(&self, pods: &mut Pods) {
        let now = Instant::now();
        let held = pods.held.values();
        let mut due: Vec<Arc<Pod>> =
            held.filter(|(_, at)| *at <= now).map(|(pod, _)| pod.clone()).collect();
        due.sort_by_cached_key(|pod| admission::turn(pod));
        for pod in due {
            self.tell(pods, pod).await;
        }
    }

    /// Tells the worker of a pod how the object looks now; a pod that the node takes in gets one,
    /// and one that has to fail.
    async fn tell(&self, pods: &mut Pods, pod: Arc<Pod>) {
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        if let Some(running) = pods.workers.get(&uid) {
            running.news.send_modify(|news| news.pod = pod);
            return;
        }
        pods.held.remove(&uid);
        let former = pods.former(&uid);
        let is_new = matches!(former, Former::Nothing) && admission::is_new(&pod);
        let refusal = match is_new {
            true => self.refusal(&pods.workers, &pod).await,
            false => None,
        };
        if let Some(refusal) = &refusal
            && let Some(at) = pods.pace.hold(&pod.metadata, Instant::now())
        {
            let recorder = &self.node.recorder;
            recorder.pod(&pod, Level::Warning, &refusal.reason, refusal.message.clone());
            pods.held.insert(uid, (pod, at));
            return;
        }
        let rejected = refusal.is_some();
        let (news, receiver) = watch::channel(News { pod, vanished: false });
        let task = tokio::spawn(attend(self.node.clone(), receiver, former, refusal));
        pods.workers.insert(uid, Running { news, task, rejected });
    }

    /// Why the node does not take in a pod that is new to it.
    async fn refusal(&self, workers: &HashMap<String, Running>, pod: &Pod) -> Option<Failure> {
        if let Some(failure) = self.node.pressure.refusal(pod) {
            return Some(failure);
        }
        let node = registration::object(&self.node).await.inspect_err(|error| {
            // A refusal is for good, so that doubt speaks for the pod.
            tracing::warn!(%error, "cannot ask what the node has: a pod is not tried against it");
        });
        let others: Vec<_> = workers.values().filter_map(Running::occupant).collect();
        let refusal = admission::refusal(pod, node.as_ref().ok(), &others);
        if refusal.is_some() || !host_port::concerns(pod) {
            return refusal;
        }
        let asking = pod.clone();
        let look = move || host_port::refusal(&asking, &host_port::Host::look());
        let what = "Looking at the ports of the node";
        let seen = blocking::run(blocking::NODE, what, Deadline::Short, look).await;
        seen.unwrap_or_else(|error| {
            tracing::warn!(%error, "a pod is not tried against the ports of the node");
            None
        })
    }

    async fn unbound_pods(&self) -> Result<Vec<String>, kube::Error> {
        let api = Api::<Pod>::all(self.node.client.clone());
        let params = ListParams::default().fields("spec.nodeName=");
        let list = api.list_metadata(&params).await?;
        Ok(list.items.into_iter().filter_map(|pod| pod.metadata.uid).collect())
    }

    /// Removes what is left of pods that are not there any more. A pod that is there but bound to
    /// no node was bound to this one before a crash undid it, and will be again: it keeps running.
    /// `complete` says that every sandbox there is was looked at: no worker has made one yet.
    async fn clean_orphans(&self, mut known: HashSet<String>, pods: &mut Pods, complete: bool) {
        let adopted = &mut pods.adopted;
        if adopted.keys().chain(&pods.unknown).any(|uid| !known.contains(uid)) {
            match self.unbound_pods().await {
                Ok(unbound) => known.extend(unbound),
                Err(error) => {
                    tracing::warn!(%error, "cannot tell which pods are gone");
                    return;
                }
            }
        }
        let orphans: Vec<String> =
            adopted.keys().filter(|uid| !known.contains(*uid)).cloned().collect();
        for uid in orphans {
            if let Some(sandbox) = adopted.remove(&uid)
                && let Err(error) = sandbox.remove().await
            {
                tracing::warn!(uid, %error, "cannot remove an orphaned sandbox");
            }
        }
        let machine = &self.node.machine;
        // The rest are sandboxes that an earlier process had not made or not removed to the end. A pod
        // that is ending makes no other, and no worker would look again.
        pods.unknown.retain(|uid| known.contains(uid));
        let whole = match complete {
            true => adopted.keys().chain(&pods.unknown).cloned().collect(),
            false => known.clone(),
        };
        if let Err(error) = machine.runtime.cleanup(whole).await {
            tracing::warn!(%error, "cannot remove orphaned sandboxes");
        }
        if let Err(error) = machine.network.retain(known.clone()).await {
            tracing::warn!(%error, "cannot give back orphaned links");
        }
        let pods_dir = self.node.config.data_dir.join("pods");
        let log_dir = self.node.config.pod_log_dir.clone();
        let links = self.node.config.container_log_dir.clone();
        // What is to be removed is listed first: pods that come meanwhile have other names, and
        // none of them waits for the removal of a large tree.
        let list = move || leftover::list(&pods_dir, &log_dir, &links, &known);
        let what = "Listing the files of earlier pods";
        match blocking::run(blocking::NODE, what, Deadline::Short, list).await {
            Ok(found) => {
                for leftover in found {
                    tokio::spawn(leftover::remove(leftover));
                }
            }
            Err(error) => tracing::warn!(%error, "files of earlier pods are left"),
        }
    }
}

/// That moment, or never.
async fn due(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Without the bookkeeping of field owners, which is large and of no use here.
fn slim(mut pod: Pod) -> Arc<Pod> {
    pod.metadata.managed_fields = None;
    Arc::new(pod)
}
