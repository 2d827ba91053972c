//! The Services that environments of containers are made from.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use futures::StreamExt;
use k8s_openapi::api::core::v1::Service;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// What an environment says of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceFacts {
    /// Its name.
    pub name: String,
    /// Its cluster address.
    pub cluster_ip: String,
    /// Its ports in order.
    pub ports: Vec<PortFacts>,
}

/// One port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortFacts {
    /// Its name, if it has one.
    pub name: Option<String>,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
    /// On the cluster address.
    pub port: i32,
}

type Known = HashMap<(String, String), ServiceFacts>;

/// A cache of all Services that have a cluster address.
#[derive(Clone)]
pub struct Services {
    known: Arc<Mutex<Known>>,
    synced: watch::Receiver<bool>,
}

impl Services {
    /// Begins to watch.
    pub fn start(client: Client, stop: CancellationToken) -> Self {
        let (sender, synced) = watch::channel(false);
        let services = Self { known: Arc::default(), synced };
        let known = services.known.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = follow(client, known, sender) => {}
            }
        });
        services
    }

    /// The Services a pod of that namespace learns of: those beside it, if it wants them, and
    /// `kubernetes` in `default`. Waits for the first complete list.
    pub async fn visible(&self, namespace: &str, links: bool) -> Vec<ServiceFacts> {
        let mut synced = self.synced.clone();
        // An error means that the watch was stopped: what is known must do.
        let _ = synced.wait_for(|synced| *synced).await;
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        visible(&known, namespace, links)
    }
}

fn visible(known: &Known, namespace: &str, links: bool) -> Vec<ServiceFacts> {
    let mut list: Vec<ServiceFacts> = known
        .iter()
        .filter(|((home, _), _)| links && home == namespace)
        .map(|(_, facts)| facts.clone())
        .collect();
    let master = known.get(&("default".to_owned(), "kubernetes".to_owned()));
    if let Some(master) = master
        && !list.iter().any(|facts| facts.name == "kubernetes")
    {
        list.push(master.clone());
    }
    list.sort_by(|a, b| a.name.cmp(&b.name));
    list
}

async fn follow(client: Client, known: Arc<Mutex<Known>>, synced: watch::Sender<bool>) {
    let lock = || known.lock().unwrap_or_else(PoisonError::into_inner);
    let config = watcher::Config::default();
    let stream = watcher(Api::<Service>::all(client), config).default_backoff();
    let mut stream = std::pin::pin!(stream);
    let mut fresh = Known::new();
    while let Some(event) = stream.next().await {
        match event {
            Ok(watcher::Event::Init) => fresh.clear(),
            Ok(watcher::Event::InitApply(service)) => put(&mut fresh, &service),
            Ok(watcher::Event::InitDone) => {
                *lock() = std::mem::take(&mut fresh);
                let _ = synced.send(true);
            }
            Ok(watcher::Event::Apply(service)) => put(&mut lock(), &service),
            Ok(watcher::Event::Delete(service)) => {
                lock().remove(&key(&service));
            }
            Err(error) => tracing::debug!(%error, "watch of services"),
        }
    }
}

fn key(service: &Service) -> (String, String) {
    let metadata = &service.metadata;
    (metadata.namespace.clone().unwrap_or_default(), metadata.name.clone().unwrap_or_default())
}

fn put(known: &mut Known, service: &Service) {
    match facts(service) {
        Some(facts) => known.insert(key(service), facts),
        None => known.remove(&key(service)),
    };
}

fn facts(service: &Service) -> Option<ServiceFacts> {
    let spec = service.spec.as_ref()?;
    let cluster_ip = spec.cluster_ip.clone().filter(|ip| !ip.is_empty() && ip != "None")?;
    let ports = spec.ports.iter().flatten().map(|port| PortFacts {
        name: port.name.clone().filter(|name| !name.is_empty()),
        protocol: port.protocol.clone().unwrap_or_else(|| "TCP".into()),
        port: port.port,
    });
    Some(ServiceFacts {
        name: service.metadata.name.clone().unwrap_or_default(),
        cluster_ip,
        ports: ports.collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_namespace_and_the_api_server() {
        let entry = |namespace: &str, name: &str| {
            let facts = ServiceFacts {
                name: name.into(),
                cluster_ip: "10.0.0.1".into(),
                ports: Vec::new(),
            };
            ((namespace.to_owned(), name.to_owned()), facts)
        };
        let known: Known =
            [entry("default", "kubernetes"), entry("default", "x"), entry("a", "b")].into();
        let names = |namespace: &str, links: bool| -> Vec<String> {
            visible(&known, namespace, links).into_iter().map(|facts| facts.name).collect()
        };
        assert_eq!(names("a", true), ["b", "kubernetes"]);
        assert_eq!(names("a", false), ["kubernetes"]);
        assert_eq!(names("default", true), ["kubernetes", "x"]);
    }
}
