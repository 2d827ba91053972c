//! Answers at the `healthCheckNodePort` of Services: external load balancers ask there whether
//! this node has endpoints of its own (upstream's `ServiceHealthServer`).

use std::collections::BTreeMap;
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

/// Askers that are served at once for one Service.
const MAX_CONNECTIONS: usize = 16;
/// Bytes of a request; what follows its head is not read.
const MAX_HEAD_BYTES: usize = 8 << 10;
/// How long an asker may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Wait before connections are taken again after the kernel refused one.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// The listeners, by Service.
#[derive(Default)]
pub(super) struct HealthServer {
    listeners: BTreeMap<ServiceKey, Listener>,
    /// Services whose port could not be had, so that each is told of once.
    refused: BTreeMap<ServiceKey, u16>,
}

struct Listener {
    port: u16,
    local: Arc<AtomicUsize>,
    _task: AbortOnDropHandle<()>,
}

impl HealthServer {
    /// Answers for these Services and no others. False if a port cannot be had now.
    pub async fn follow(&mut self, wanted: &BTreeMap<ServiceKey, HealthCheck>) -> bool {
        self.listeners.retain(|key, listener| {
            wanted.get(key).is_some_and(|check| check.port == listener.port)
        });
        self.refused.retain(|key, port| wanted.get(key).is_some_and(|check| check.port == *port));
        for (key, check) in wanted {
            if let Some(listener) = self.listeners.get(key) {
                listener.local.store(check.local, Ordering::Relaxed);
                continue;
            }
            match TcpListener::bind((Ipv4Addr::UNSPECIFIED, check.port)).await {
                Ok(socket) => {
                    self.refused.remove(key);
                    let local = Arc::new(AtomicUsize::new(check.local));
                    let task = tokio::spawn(serve(socket, key.clone(), Arc::clone(&local)));
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
        self.refused.is_empty()
    }
}

async fn serve(socket: TcpListener, key: ServiceKey, local: Arc<AtomicUsize>) {
    let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(permit) = Arc::clone(&connections).acquire_owned().await else { return };
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
        let mut server = HealthServer::default();
        let wanted = |local: usize| BTreeMap::from([(key(), HealthCheck { port, local })]);
        assert!(!server.follow(&wanted(2)).await, "somebody else has the port");
        drop(taken);
        assert!(server.follow(&wanted(2)).await);
        let reply = ask(port).await.unwrap();
        assert!(reply.starts_with("HTTP/1.1 200 OK\r\n"), "{reply}");
        assert!(reply.contains("X-Load-Balancing-Endpoint-Weight: 2\r\n"), "{reply}");
        let body: serde_json::Value =
            serde_json::from_str(reply.split("\r\n\r\n").nth(1).unwrap()).unwrap();
        let service = serde_json::json!({"namespace": "shop", "name": "web"});
        assert_eq!((&body["service"], &body["localEndpoints"]), (&service, &2.into()));

        assert!(server.follow(&wanted(0)).await);
        assert!(ask(port).await.unwrap().starts_with("HTTP/1.1 503 "));
        assert!(server.follow(&BTreeMap::new()).await);
        tokio::task::yield_now().await;
        assert!(ask(port).await.is_err(), "the Service is gone");
    }
}
