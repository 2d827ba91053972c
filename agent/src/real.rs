//! The machine as it is: the seams over the runtime, the image store and the pod network.

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use netproxy::proxy::{ServiceKey, Withdrawals};
use netproxy::{AttachRequest, PodNetwork, Protocol};
use runtime::image::{Image, ImageStore, ImageSummary, Reference};
use runtime::sandbox::{
    ContainerSpec, ContainerStatus, ExecSpec, SandboxEvent, SandboxSpec, Session,
};
use runtime::{Runtime, Sandbox};
use tokio::sync::{mpsc, watch};

use crate::blocking::{self, Deadline};
use crate::credential::Credential;
use crate::machine::{
    Adopted, Cause, ContainerRuntime, HostPort, ImageError, Images, Link, Machine, Network,
    PodSandbox, Pulled, Usages,
};
use crate::pull::Puller;

/// The real machine.
pub fn machine(
    runtime: Runtime,
    images: ImageStore,
    (network, withdrawals): (PodNetwork, Withdrawals),
    puller: Puller,
) -> Machine {
    Machine {
        runtime: Arc::new(RealRuntime(runtime)),
        images: Arc::new(RealImages { puller, store: images }),
        network: Arc::new(RealNetwork { pods: network, withdrawals }),
    }
}

struct RealRuntime(Runtime);

impl ContainerRuntime for RealRuntime {
    fn warm_up(&self) {
        self.0.warm_up();
    }

    fn create_sandbox(
        &self,
        spec: SandboxSpec,
    ) -> BoxFuture<'_, Result<Arc<dyn PodSandbox>, Cause>> {
        async move {
            let sandbox = self.0.create_sandbox(spec).await?;
            Ok(real(sandbox))
        }
        .boxed()
    }

    fn adopt(&self) -> BoxFuture<'_, Result<Adopted, Cause>> {
        async move {
            let found = self.0.adopt().await?;
            let causes = |failures: BTreeMap<String, runtime::Error>| {
                failures.into_iter().map(|(id, error)| (id, error.into())).collect()
            };
            Ok(Adopted {
                sandboxes: found.adopted.into_iter().map(|(spec, s)| (spec.id, real(s))).collect(),
                ended: causes(found.ended),
                failed: causes(found.failed),
            })
        }
        .boxed()
    }

    fn adopt_one<'a>(
        &'a self,
        id: &'a str,
    ) -> BoxFuture<'a, Result<Option<Arc<dyn PodSandbox>>, Cause>> {
        async move { Ok(self.0.adopt_one(id).await?.map(|(_, sandbox)| real(sandbox))) }.boxed()
    }

    fn end<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<(), Cause>> {
        async move { Ok(self.0.end(id).await?) }.boxed()
    }

    fn cleanup(&self, keep: HashSet<String>) -> BoxFuture<'_, Result<(), Cause>> {
        async move { Ok(self.0.cleanup(&keep).await?) }.boxed()
    }
}

struct RealSandbox(Sandbox);

fn real(sandbox: Sandbox) -> Arc<dyn PodSandbox> {
    Arc::new(RealSandbox(sandbox))
}

impl PodSandbox for RealSandbox {
    fn create_container(&self, spec: ContainerSpec) -> BoxFuture<'_, Result<(), Cause>> {
        async move { Ok(self.0.create_container(spec).await?) }.boxed()
    }

    fn start_container<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<u32, Cause>> {
        async move { Ok(self.0.start_container(id).await?) }.boxed()
    }

    fn signal<'a>(&'a self, id: &'a str, signal: i32) -> BoxFuture<'a, Result<(), Cause>> {
        async move { Ok(self.0.signal(id, signal).await?) }.boxed()
    }

    fn kill_all<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<(), Cause>> {
        async move { Ok(self.0.kill_container(id).await?) }.boxed()
    }

    fn status(&self) -> BoxFuture<'_, Result<Vec<ContainerStatus>, Cause>> {
        async move { Ok(self.0.status().await?) }.boxed()
    }

    fn exec(&self, spec: ExecSpec) -> BoxFuture<'_, Result<Session, Cause>> {
        async move { Ok(self.0.exec(spec).await?) }.boxed()
    }

    fn attach<'a>(&'a self, id: &'a str, stdin: bool) -> BoxFuture<'a, Result<Session, Cause>> {
        async move { Ok(self.0.attach(id, stdin).await?) }.boxed()
    }

    fn remove_container<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<(), Cause>> {
        async move { Ok(self.0.remove_container(id).await?) }.boxed()
    }

    fn remove(&self) -> BoxFuture<'_, Result<(), Cause>> {
        async move { Ok(self.0.remove().await?) }.boxed()
    }

    fn events(&self) -> mpsc::Receiver<SandboxEvent> {
        self.0.events()
    }

    fn directory(&self) -> PathBuf {
        self.0.directory()
    }

    fn netns(&self) -> Option<PathBuf> {
        self.0.spec().netns.clone()
    }

    fn usage(&self) -> BoxFuture<'_, Result<Usages, Cause>> {
        async move { Ok(self.0.stats().await?) }.boxed()
    }
}

struct RealImages {
    store: ImageStore,
    puller: Puller,
}

fn parse(reference: &str) -> Result<Reference, ImageError> {
    reference.parse::<Reference>().map_err(|error| ImageError::InvalidName(error.to_string()))
}

impl Images for RealImages {
    fn normalize(&self, reference: &str) -> Result<String, ImageError> {
        Ok(parse(reference)?.to_string())
    }

    fn find<'a>(&'a self, reference: &'a str) -> BoxFuture<'a, Option<Image>> {
        async move {
            let (parsed, store) = (parse(reference).ok()?, self.store.clone());
            let find = move || {
                let found = store.find(&parsed)?;
                let named = |image: Image| store.with_names(image.clone()).unwrap_or(image);
                Ok::<_, Cause>(found.map(named))
            };
            let found = blocking::run(reference, "Looking for an image", Deadline::Short, find);
            let found = found.await.unwrap_or_else(|error| Err(error.into()));
            found.unwrap_or_else(|error| {
                tracing::warn!(%error, reference, "cannot look for an image");
                None
            })
        }
        .boxed()
    }

    fn pull<'a>(
        &'a self,
        namespace: &'a str,
        reference: &'a str,
        credentials: &'a [Credential],
        patience: Option<Duration>,
    ) -> BoxFuture<'a, Result<Pulled, ImageError>> {
        async move {
            let reference = parse(reference)?;
            self.puller.pull(namespace, &reference, credentials, patience).await
        }
        .boxed()
    }

    fn remove_abandoned(&self) -> BoxFuture<'_, ()> {
        let store = self.store.clone();
        async move {
            let remove = move || store.remove_abandoned();
            let what = "Removing unfinished pulls";
            if let Err(error) = blocking::run(blocking::NODE, what, Deadline::Long, remove).await {
                tracing::warn!(%error, "unfinished pulls stay");
            }
        }
        .boxed()
    }

    fn list(&self) -> BoxFuture<'_, Vec<ImageSummary>> {
        let store = self.store.clone();
        async move {
            let list = move || {
                store.list().unwrap_or_else(|error| {
                    tracing::warn!(%error, "cannot list images");
                    Vec::new()
                })
            };
            let listed = blocking::run(blocking::NODE, "Listing images", Deadline::Short, list);
            listed.await.unwrap_or_else(|error| {
                tracing::warn!(%error, "cannot list images");
                Vec::new()
            })
        }
        .boxed()
    }

    fn remove<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<(), Cause>> {
        let (store, id) = (self.store.clone(), id.to_owned());
        async move {
            let remove = move || store.remove(&id).map(drop);
            let removed =
                blocking::run(blocking::NODE, "Removing an image", Deadline::Long, remove);
            Ok(removed.await??)
        }
        .boxed()
    }
}

struct RealNetwork {
    pods: PodNetwork,
    withdrawals: Withdrawals,
}

impl Network for RealNetwork {
    fn attach<'a>(
        &'a self,
        uid: &'a str,
        ports: &'a [HostPort],
    ) -> BoxFuture<'a, Result<Link, Cause>> {
        async move {
            let host_ports = ports.iter().map(|port| netproxy::HostPort {
                host_ip: port.host_ip,
                host_port: port.host_port,
                container_port: port.container_port,
                protocol: match port.protocol.as_str() {
                    "UDP" => Protocol::Udp,
                    "SCTP" => Protocol::Sctp,
                    _ => Protocol::Tcp,
                },
            });
            let request = AttachRequest { uid: uid.to_owned(), host_ports: host_ports.collect() };
            let link = self.pods.attach(&request).await?;
            Ok(Link { netns: link.netns, addresses: vec![link.address] })
        }
        .boxed()
    }

    fn detach<'a>(&'a self, uid: &'a str) -> BoxFuture<'a, Result<(), Cause>> {
        async move { Ok(self.pods.detach(uid).await?) }.boxed()
    }

    fn retain(&self, uids: HashSet<String>) -> BoxFuture<'_, Result<(), Cause>> {
        async move { Ok(self.pods.retain(&uids).await?) }.boxed()
    }

    fn host_port_conflicts(&self) -> watch::Receiver<Vec<netproxy::HostPortConflict>> {
        self.pods.host_port_conflicts()
    }

    fn withdrawn<'a>(
        &'a self,
        uid: &'a str,
        namespace: &'a str,
        services: Vec<String>,
    ) -> BoxFuture<'a, ()> {
        let key = |name| ServiceKey { namespace: namespace.to_owned(), name };
        let services = services.into_iter().map(key).collect();
        self.withdrawals.withdrawn(services, uid).boxed()
    }
}
