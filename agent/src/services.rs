//! The Services of the cluster: what environments of containers are made from, and which of them
//! lead to a pod.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use ::watch::keep_running;
use futures::StreamExt;
use k8s_openapi::api::core::v1::Service;
use kube::runtime::watcher;
use kube::{Api, Client};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Room for Services that is not worth giving back.
const SPARE_SERVICES: usize = 1024;

/// What an environment says of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceFacts {
    /// Its name.
    pub name: String,
    /// Its cluster address.
    pub cluster_ip: String,
    /// Its ports in order.
    pub ports: Box<[PortFacts]>,
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

/// Which pods a Service leads to while they are ready.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Selection {
    /// No tree: its nodes have room for eleven, and a selector has one or two.
    labels: Box<[(String, String)]>,
    ipv4: bool,
    ipv6: bool,
}

impl Selection {
    fn matches(&self, labels: Option<&BTreeMap<String, String>>, addresses: &[IpAddr]) -> bool {
        let reachable =
            addresses.iter().any(|address| if address.is_ipv6() { self.ipv6 } else { self.ipv4 });
        let has = |(name, value): &(String, String)| {
            labels.and_then(|labels| labels.get(name)) == Some(value)
        };
        reachable && self.labels.iter().all(has)
    }
}

/// What is kept of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    /// For environments, if it has a cluster address.
    facts: Option<ServiceFacts>,
    /// If its endpoints come and go with the readiness of pods.
    selection: Option<Selection>,
}

type Known = HashMap<(String, String), Entry>;

/// A cache of all Services.
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
                () = keep_running("watch of Services", || follow(&client, &known, &sender)) => {}
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

    /// The names of the Services beside a pod that take it for an endpoint while it is ready.
    pub fn leading_to(
        &self,
        namespace: &str,
        labels: Option<&BTreeMap<String, String>>,
        addresses: &[IpAddr],
    ) -> Vec<String> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let leads = |entry: &Entry| {
            entry.selection.as_ref().is_some_and(|wanted| wanted.matches(labels, addresses))
        };
        known
            .iter()
            .filter(|((home, _), entry)| home == namespace && leads(entry))
            .map(|((_, name), _)| name.clone())
            .collect()
    }
}

fn visible(known: &Known, namespace: &str, links: bool) -> Vec<ServiceFacts> {
    let mut list: Vec<ServiceFacts> = known
        .iter()
        .filter(|((home, _), _)| links && home == namespace)
        .filter_map(|(_, entry)| entry.facts.clone())
        .collect();
    let master = known.get(&("default".to_owned(), "kubernetes".to_owned()));
    if let Some(master) = master.and_then(|entry| entry.facts.as_ref())
        && !list.iter().any(|facts| facts.name == "kubernetes")
    {
        list.push(master.clone());
    }
    list.sort_by(|a, b| a.name.cmp(&b.name));
    list
}

async fn follow(client: &Client, known: &Mutex<Known>, synced: &watch::Sender<bool>) {
    let lock = || known.lock().unwrap_or_else(PoisonError::into_inner);
    let config = watcher::Config::default();
    let stream = ::watch::follow::<Service>(Api::all(client.clone()), config);
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
                let mut known = lock();
                known.remove(&key(&service));
                if known.capacity() > SPARE_SERVICES + 4 * known.len() {
                    known.shrink_to_fit();
                }
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
    let entry = Entry { facts: facts(service), selection: selection(service) };
    known.insert(key(service), entry);
}

fn selection(service: &Service) -> Option<Selection> {
    let spec = service.spec.as_ref()?;
    let published = spec.publish_not_ready_addresses.unwrap_or(false);
    let labels = spec.selector.clone().filter(|labels| !labels.is_empty())?;
    if published || spec.type_.as_deref() == Some("ExternalName") {
        return None;
    }
    let families = spec.ip_families.as_deref().unwrap_or_default();
    let has = |family: &str| families.iter().any(|known| known == family);
    let labels = labels.into_iter().collect();
    Some(Selection { labels, ipv4: families.is_empty() || has("IPv4"), ipv6: has("IPv6") })
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
                ports: Box::default(),
            };
            let entry = Entry { facts: Some(facts), selection: None };
            ((namespace.to_owned(), name.to_owned()), entry)
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

    #[test]
    fn services_that_lead_to_a_pod_while_it_is_ready() {
        let service = |name: &str, spec: serde_json::Value| -> Service {
            serde_json::from_value(serde_json::json!({
                "metadata": {"namespace": "d", "name": name}, "spec": spec}))
            .unwrap()
        };
        let mut known = Known::new();
        for (name, spec) in [
            ("web", serde_json::json!({"selector": {"app": "web"}, "ipFamilies": ["IPv4"]})),
            ("headless", serde_json::json!({"selector": {"app": "web"}, "clusterIP": "None"})),
            ("six", serde_json::json!({"selector": {"app": "web"}, "ipFamilies": ["IPv6"]})),
            ("other", serde_json::json!({"selector": {"app": "web", "tier": "x"}})),
            ("manual", serde_json::json!({"clusterIP": "10.0.0.2"})),
            (
                "peers",
                serde_json::json!({"selector": {"app": "web"}, "publishNotReadyAddresses": true}),
            ),
            ("away", serde_json::json!({"selector": {"app": "web"}, "type": "ExternalName"})),
        ] {
            put(&mut known, &service(name, spec));
        }
        let services =
            Services { known: Arc::new(Mutex::new(known)), synced: watch::channel(true).1 };
        let labels: BTreeMap<String, String> = [("app".to_owned(), "web".to_owned())].into();
        let mut names = services.leading_to("d", Some(&labels), &["10.44.0.2".parse().unwrap()]);
        names.sort();
        assert_eq!(names, ["headless", "web"]);
        assert!(
            services.leading_to("e", Some(&labels), &["10.44.0.2".parse().unwrap()]).is_empty()
        );
        assert!(services.leading_to("d", None, &["10.44.0.2".parse().unwrap()]).is_empty());
        assert!(services.leading_to("d", Some(&labels), &[]).is_empty());
    }
}
