//! A small, fast Kubernetes client: HTTP/1.1 over TLS with keep-alive, JSON in and out.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use base64::Engine;
use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde::Deserialize;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Where the API is and who asks: what a kubeconfig says.
#[derive(Clone)]
pub struct Endpoint {
    address: SocketAddr,
    tls: TlsConnector,
}

#[derive(Deserialize)]
struct Kubeconfig {
    clusters: Vec<NamedCluster>,
    users: Vec<NamedUser>,
}

#[derive(Deserialize)]
struct NamedCluster {
    cluster: Cluster,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Cluster {
    server: String,
    certificate_authority_data: String,
}

#[derive(Deserialize)]
struct NamedUser {
    user: User,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct User {
    client_certificate_data: String,
    client_key_data: String,
}

impl Endpoint {
    /// Reads a kubeconfig; `None` while it is missing or half written.
    pub fn read(kubeconfig: &Path) -> Option<Self> {
        let config: Kubeconfig =
            serde_saphyr::from_str(&std::fs::read_to_string(kubeconfig).ok()?).ok()?;
        let (cluster, user) = (&config.clusters.first()?.cluster, &config.users.first()?.user);
        let pem = |text: &str| base64::engine::general_purpose::STANDARD.decode(text).ok();
        let mut roots = RootCertStore::empty();
        let authority = pem(&cluster.certificate_authority_data)?;
        roots.add(CertificateDer::from_pem_slice(&authority).ok()?).ok()?;
        let certificate = pem(&user.client_certificate_data)?;
        let chain = CertificateDer::pem_slice_iter(&certificate).collect::<Result<_, _>>().ok()?;
        let key = PrivateKeyDer::from_pem_slice(&pem(&user.client_key_data)?).ok()?;
        let tls = ClientConfig::builder()
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)
            .ok()?;
        let address = cluster.server.strip_prefix("https://")?.parse().ok()?;
        Some(Self { address, tls: TlsConnector::from(Arc::new(tls)) })
    }

    /// Connects; `None` while nobody listens.
    pub async fn try_connect(&self) -> Option<Connection> {
        let tcp = TcpStream::connect(self.address).await.ok()?;
        tcp.set_nodelay(true).ok()?;
        let name = ServerName::from(self.address.ip());
        let stream = self.tls.connect(name, tcp).await.ok()?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await.ok()?;
        tokio::spawn(connection);
        Some(Connection { sender, host: self.address.to_string() })
    }

    /// Connects to an API that is up.
    pub async fn connect(&self) -> Connection {
        self.try_connect().await.expect("the API accepts connections")
    }
}

/// One kept-alive connection.
pub struct Connection {
    sender: SendRequest<Full<Bytes>>,
    host: String,
}

impl Connection {
    /// Sends a request; returns `None` if the connection breaks before the head of the answer.
    async fn try_send(
        &mut self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Option<hyper::Response<Incoming>> {
        let content_type = match method {
            Method::PATCH => "application/merge-patch+json",
            _ => "application/json",
        };
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", &self.host)
            .header("accept", "application/json")
            .header("content-type", content_type)
            .body(Full::new(body))
            .unwrap();
        self.sender.ready().await.ok()?;
        self.sender.send_request(request).await.ok()
    }

    async fn send(&mut self, method: Method, path: &str, body: Bytes) -> hyper::Response<Incoming> {
        self.try_send(method, path, body).await.expect("the API answers")
    }

    /// Returns the status and the whole body, or `None` if the connection breaks before its end.
    pub async fn try_raw(
        &mut self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Option<(StatusCode, Bytes)> {
        let response = self.try_send(method, path, body).await?;
        let status = response.status();
        Some((status, response.into_body().collect().await.ok()?.to_bytes()))
    }

    /// Sends a request and returns the status and the whole body.
    pub async fn raw(&mut self, method: Method, path: &str, body: Bytes) -> (StatusCode, Bytes) {
        let response = self.send(method, path, body).await;
        let status = response.status();
        (status, response.into_body().collect().await.expect("the body ends").to_bytes())
    }

    async fn object(&mut self, method: Method, path: &str, body: Bytes) -> Value {
        let (status, body) = self.raw(method.clone(), path, body).await;
        assert!(
            status.is_success(),
            "{method} {path}: {status} {}",
            String::from_utf8_lossy(&body)
        );
        serde_json::from_slice(&body).unwrap()
    }

    pub async fn get(&mut self, path: &str) -> Value {
        self.object(Method::GET, path, Bytes::new()).await
    }

    /// The object, or `None` where it is not.
    pub async fn find(&mut self, path: &str) -> Option<Value> {
        let (status, body) = self.raw(Method::GET, path, Bytes::new()).await;
        status.is_success().then(|| serde_json::from_slice(&body).unwrap())
    }

    pub async fn create(&mut self, path: &str, object: &Value) -> Value {
        self.object(Method::POST, path, object.to_string().into()).await
    }

    pub async fn replace(&mut self, path: &str, object: &Value) -> Value {
        self.object(Method::PUT, path, object.to_string().into()).await
    }

    pub async fn merge(&mut self, path: &str, patch: &Value) -> Value {
        self.object(Method::PATCH, path, patch.to_string().into()).await
    }

    pub async fn delete(&mut self, path: &str) -> Value {
        self.object(Method::DELETE, path, Bytes::new()).await
    }

    /// Watches a collection from now on; what exists already comes first.
    pub async fn watch(mut self, collection: &str) -> Watch {
        let path = format!("{collection}?watch=true");
        let response = self.send(Method::GET, &path, Bytes::new()).await;
        assert!(response.status().is_success(), "watch {collection}: {}", response.status());
        Watch { body: response.into_body(), buffer: Vec::new(), _connection: self }
    }
}

/// The events of a collection.
pub struct Watch {
    body: Incoming,
    buffer: Vec<u8>,
    _connection: Connection,
}

impl Watch {
    /// The next event: its type and its object.
    pub async fn next(&mut self) -> (String, Value) {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                let mut event: Value = serde_json::from_slice(&line).unwrap();
                let kind = event["type"].as_str().unwrap_or_default().to_owned();
                return (kind, event["object"].take());
            }
            let frame = self.body.frame().await.expect("the watch goes on").unwrap();
            if let Some(data) = frame.data_ref() {
                self.buffer.extend_from_slice(data);
            }
        }
    }

    /// Waits for an event that `wanted` recognizes.
    pub async fn until(&mut self, mut wanted: impl FnMut(&str, &Value) -> bool) -> Value {
        let waiting = async {
            loop {
                let (kind, object) = self.next().await;
                if wanted(&kind, &object) {
                    return object;
                }
            }
        };
        tokio::time::timeout(PATIENCE, waiting).await.expect("the awaited event comes")
    }
}

/// How long an awaited event may take before its measurement counts as failed.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(30);
