//! Answers at the `healthCheckNodePort` of Services: external load balancers ask there whether
//! this node has endpoints of its own (upstream's `ServiceHealthServer`).

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use super::keys::ServiceKey;
use super::plan::HealthCheck;

/// Services that are answered for at the same time, each with a listener.
const LISTENERS_MAX: usize = 512;
/// Of the process' descriptors, one in so many is for these.
const LISTENERS_PART: usize = 16;
/// A namespace has at most the half of what others leave.
const NAMESPACE_PART: usize = 2;
/// Askers that are served at once for one Service.
const MAX_CONNECTIONS: usize = 16;
/// Askers of all Services; of the process' descriptors, one in so many is for these.
const ALL_CONNECTIONS_MAX: usize = 256;
const CONNECTIONS_PART: usize = 32;
/// Bytes of a request; what follows its head is not read.
const MAX_HEAD_BYTES: usize = 8 << 10;
/// How long an asker may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Wait before connections are taken again after the kernel refused one.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// The listeners, by Service.
pub(super) struct HealthServer {
    max: usize,
    /// Places for the askers of all Services.
    connections: Arc<Semaphore>,
    listeners: BTreeMap<ServiceKey, Listener>,
    /// Services whose port could not be had, so that each is reported once.
    refused: BTreeMap<ServiceKey, u16>,
    /// Services for which there are too many others, also reported once.
    without_room: BTreeSet<ServiceKey>,
}

/// The outcome for the Services that are to be answered for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Followed {
    /// True if a port cannot be had now.
    pub(super) refused: bool,
    /// Those that have come to have no room.
    pub(super) shortages: Vec<ServiceKey>,
}

struct Listener {
    port: u16,
    local: Arc<AtomicUsize>,
    _task: AbortOnDropHandle<()>,
}

impl HealthServer {
    /// A server in a process that may have so many descriptors.
    pub(super) fn new(descriptors: u64) -> Self {
        let part = |of: usize, max: usize| {
            usize::try_from(descriptors).unwrap_or(usize::MAX).div_ceil(of).min(max)
        };
        Self {
            max: part(LISTENERS_PART, LISTENERS_MAX),
            connections: Arc::new(Semaphore::new(part(CONNECTIONS_PART, ALL_CONNECTIONS_MAX))),
            listeners: BTreeMap::new(),
            refused: BTreeMap::new(),
            without_room: BTreeSet::new(),
        }
    }

    /// Answers for these Services and no others. Those that are answered for stay so.
    pub(super) async fn follow(&mut self, wanted: &BTreeMap<ServiceKey, HealthCheck>) -> Followed {
        self.listeners.retain(|key, listener| {
            wanted.get(key).is_some_and(|check| check.port == listener.port)
        });
        self.refused.retain(|key, port| wanted.get(key).is_some_and(|check| check.port == *port));
        self.without_room.retain(|key| wanted.contains_key(key));
        let mut shortages = Vec::new();
        // One that is full stays so here: listeners are only added.
        let mut full = BTreeSet::new();
        for (key, check) in wanted {
            if let Some(listener) = self.listeners.get(key) {
                listener.local.store(check.local, Ordering::Relaxed);
                continue;
            }
            let namespace = key.namespace.as_str();
            if full.contains(namespace) || !self.has_room(namespace) {
                full.insert(namespace);
                if self.without_room.insert(key.clone()) {
                    shortages.push(key.clone());
                }
                continue;
            }
            self.without_room.remove(key);
            match TcpListener::bind((Ipv4Addr::UNSPECIFIED, check.port)).await {
                Ok(socket) => {
                    self.refused.remove(key);
                    let local = Arc::new(AtomicUsize::new(check.local));
                    let all = Arc::clone(&self.connections);
                    let task = tokio::spawn(serve(socket, key.clone(), Arc::clone(&local), all));
                    let task = AbortOnDropHandle::new(task);
                    let listener = Listener { port: check.port, local, _task: task };
                    self.listeners.insert(key.clone(), listener);
                }
                Err(error) => {
                    if self.refused.insert(key.clone(), check.port).is_none() {
                        let ServiceKey { namespace, name } = key;
                        tracing::warn!(
                            namespace, name, port = check.port, %error,
                            "cannot listen at the health check node port of a Service"
                        );
                    }
                }
            }
        }
        Followed { refused: !self.refused.is_empty(), shortages }
    }

    fn has_room(&self, namespace: &str) -> bool {
        let mine = self.listeners.keys().filter(|key| key.namespace == namespace).count();
        let others = self.listeners.len() - mine;
        mine < self.max.saturating_sub(others).div_ceil(NAMESPACE_PART)
    }
}

async fn serve(socket: TcpListener, key: ServiceKey, local: Arc<AtomicUsize>, all: Arc<Semaphore>) {
    let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let own = Arc::clone(&connections).acquire_owned();
        let Ok(permit) = futures::future::try_join(own, Arc::clone(&all).acquire_owned()).await
        else {
            return;
        };
        let Ok((stream, _)) = socket.accept().await else {
            tokio::time::sleep(ACCEPT_RETRY).await;
            continue;
        };
        let reply = response(&key, local.load(Ordering::Relaxed));
        tokio::spawn(async move {
            let _permit = permit;
            // Whoever breaks off or takes too long is not worth a word.
            let _ = timeout(PATIENCE, answer(stream, &reply)).await;
        });
    }
}

async fn answer(mut stream: TcpStream, reply: &str) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        if head.len() >= MAX_HEAD_BYTES || stream.read_buf(&mut head).await? == 0 {
            return Ok(());
        }
    }
    stream.write_all(reply.as_bytes()).await?;
    stream.shutdown().await
}

/// Upstream's answer: 503 tells the load balancer to send nothing here.
fn response(key: &ServiceKey, local: usize) -> String {
    let ServiceKey { namespace, name } = key;
    let status = if local > 0 { "200 OK" } else { "503 Service Unavailable" };
    let body = format!(
        "{{\n\t\"service\": {{\n\t\t\"namespace\": \"{namespace}\",\n\t\t\"name\": \"{name}\"\n\t}},\n\
         \t\"localEndpoints\": {local},\n\t\"serviceProxyHealthy\": true\n}}"
    );
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\n\
         X-Content-Type-Options: nosniff\r\nX-Load-Balancing-Endpoint-Weight: {local}\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn key() -> ServiceKey {
        ServiceKey { namespace: "shop".into(), name: "web".into() }
    }

    async fn ask(port: u16) -> std::io::Result<String> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
        stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: n\r\n\r\n").await?;
        let mut reply = String::new();
        stream.read_to_string(&mut reply).await?;
        Ok(reply)
    }

    #[tokio::test]
    async fn a_load_balancer_is_told_whether_there_are_endpoints_here() {
        let taken = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).await.unwrap();
        let port = taken.local_addr().unwrap().port();
        let mut server = HealthServer::new(1024);
        let wanted = |local: usize| BTreeMap::from([(key(), HealthCheck { port, local })]);
        assert!(server.follow(&wanted(2)).await.refused, "somebody else has the port");
        drop(taken);
        assert_eq!(server.follow(&wanted(2)).await, Followed::default());
        let reply = ask(port).await.unwrap();
        assert!(reply.starts_with("HTTP/1.1 200 OK\r\n"), "{reply}");
        assert!(reply.contains("X-Load-Balancing-Endpoint-Weight: 2\r\n"), "{reply}");
        let body: serde_json::Value =
            serde_json::from_str(reply.split("\r\n\r\n").nth(1).unwrap()).unwrap();
        let service = serde_json::json!({"namespace": "shop", "name": "web"});
        assert_eq!((&body["service"], &body["localEndpoints"]), (&service, &2.into()));

        assert_eq!(server.follow(&wanted(0)).await, Followed::default());
        assert!(ask(port).await.unwrap().starts_with("HTTP/1.1 503 "));
        assert_eq!(server.follow(&BTreeMap::new()).await, Followed::default());
        tokio::task::yield_now().await;
        assert!(ask(port).await.is_err(), "the Service is gone");
    }

    #[tokio::test]
    async fn namespace_leaves_listeners_and_descriptors_to_others() {
        let mut server = HealthServer::new(1024);
        let mut free = Vec::new();
        for _ in 0..200 {
            free.push(TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).await.unwrap());
        }
        let mut ports: Vec<u16> = free.iter().map(|s| s.local_addr().unwrap().port()).collect();
        drop(free);
        let mut wanted = BTreeMap::new();
        let mut add = |wanted: &mut BTreeMap<_, _>, namespace: &str, count: usize| {
            for port in ports.split_off(ports.len() - count) {
                let key = ServiceKey { namespace: namespace.into(), name: format!("s{port}") };
                wanted.insert(key, HealthCheck { port, local: 1 });
            }
        };
        add(&mut wanted, "greedy", 150);
        let followed = server.follow(&wanted).await;
        assert_eq!((server.listeners.len(), followed.shortages.len()), (32, 118));
        assert!(server.follow(&wanted).await.shortages.is_empty(), "told once");
        add(&mut wanted, "modest", 4);
        assert!(server.follow(&wanted).await.shortages.is_empty());
        assert_eq!(server.listeners.len(), 36);
        wanted.retain(|key, _| key.namespace == "modest");
        server.follow(&wanted).await;
        assert_eq!((server.listeners.len(), server.without_room.len()), (4, 0));
    }
}
