//! A server over a temporary store and a terse client for it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, BodyStream};
use serde_json::Value;
use store::Options;
use tempfile::TempDir;

use crate::body::full;
use crate::security::{Security, SecurityConfig, User};
use crate::{ApiServer, Body, Catalog, Config, open_store};

pub(crate) struct Cluster {
    pub(crate) server: Arc<ApiServer>,
    directory: TempDir,
}

pub(crate) struct Answer {
    pub(crate) code: StatusCode,
    pub(crate) headers: http::HeaderMap,
    pub(crate) json: Value,
}

impl Cluster {
    pub(crate) async fn new() -> Self {
        Self::with_config(Config::default()).await
    }

    pub(crate) async fn with_config(config: Config) -> Self {
        Self::open(tempfile::tempdir().unwrap(), config).await
    }

    async fn open(directory: TempDir, config: Config) -> Self {
        let catalog = Arc::new(Catalog::new(api::registry::resources()));
        let path = directory.path().join("state.redb");
        let store = open_store(&path, Options::default(), &catalog).unwrap();
        let security = security(&store);
        let config = Config { service_account_wait: Duration::from_millis(50), ..config };
        let server = ApiServer::new(config, catalog, store, security);
        server.bootstrap().await.unwrap();
        let cluster = Self { server, directory };
        let account = serde_json::json!({"metadata": {"name": "default"}});
        cluster.post("/api/v1/namespaces/default/serviceaccounts", &account).await;
        cluster
    }

    /// Ends this server and starts another over the same file.
    pub(crate) async fn restart(self) -> Self {
        self.server.store().close();
        Self::open(self.directory, Config::default()).await
    }

    pub(crate) async fn raw(&self, request: Request<Body>) -> Response<Body> {
        self.raw_as(User::authenticated("admin", &["system:masters"]), request).await
    }

    /// The answer to a request of `user`.
    pub(crate) async fn raw_as(&self, user: User, request: Request<Body>) -> Response<Body> {
        let mut request = request;
        Arc::new(user).send(request.extensions_mut());
        self.server.handle(request).await
    }

    /// The answer to a request of the user `name`, who belongs to no group but the authenticated.
    pub(crate) async fn send_as(
        &self,
        name: &str,
        method: Method,
        uri: &str,
        media_type: &str,
        body: impl Into<Bytes>,
    ) -> Answer {
        let request = request(method, uri, media_type, body);
        read(self.raw_as(User::authenticated(name, &[]), request).await).await
    }

    /// Binds `user` to a ClusterRole in the namespace `default`.
    pub(crate) async fn bind_in_default(&self, user: &str, cluster_role: &str) {
        let binding = serde_json::json!({
            "metadata": {"name": format!("{user}-{cluster_role}")},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole",
                "name": cluster_role},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}],
        });
        let bindings = "/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings";
        self.post(bindings, &binding).await.ok();
    }

    pub(crate) async fn send(
        &self,
        method: Method,
        uri: &str,
        media_type: &str,
        body: impl Into<Bytes>,
    ) -> Answer {
        read(self.raw(request(method, uri, media_type, body)).await).await
    }

    pub(crate) async fn get(&self, uri: &str) -> Answer {
        self.send(Method::GET, uri, "", "").await
    }

    pub(crate) async fn get_as(&self, uri: &str, accept: &str) -> Answer {
        let request = Request::builder().uri(uri).header("accept", accept);
        read(self.raw(request.body(full("")).unwrap()).await).await
    }

    pub(crate) async fn post(&self, uri: &str, object: &Value) -> Answer {
        self.send(Method::POST, uri, "application/json", object.to_string()).await
    }

    pub(crate) async fn put(&self, uri: &str, object: &Value) -> Answer {
        self.send(Method::PUT, uri, "application/json", object.to_string()).await
    }

    pub(crate) async fn delete(&self, uri: &str) -> Answer {
        self.send(Method::DELETE, uri, "", "").await
    }

    pub(crate) async fn patch(&self, uri: &str, kind: &str, patch: &Value) -> Answer {
        let media_type = format!("application/{kind}+json");
        self.send(Method::PATCH, uri, &media_type, patch.to_string()).await
    }

    /// Takes the client's turn for heavy work until the sender is used.
    pub(crate) async fn hold_heavy_work(&self) -> tokio::sync::oneshot::Sender<()> {
        let (release, released) = tokio::sync::oneshot::channel();
        let (begin, began) = tokio::sync::oneshot::channel();
        let holder = crate::intake::holder(&User::authenticated("admin", &[]));
        let server = self.server.clone();
        tokio::spawn(async move {
            let work = async move {
                let _ = begin.send(());
                let _ = released.await;
            };
            server.intake.heavy(&holder, work).await.unwrap();
        });
        began.await.unwrap();
        release
    }

    pub(crate) async fn watch(&self, uri: &str) -> Events {
        self.watch_as(uri, "application/json").await
    }

    pub(crate) async fn watch_as(&self, uri: &str, accept: &str) -> Events {
        let request = Request::builder().uri(uri).header("accept", accept);
        let request = request.body(full("")).unwrap();
        let response = self.raw(request).await;
        assert_eq!(response.status(), StatusCode::OK);
        Events { body: BodyStream::new(response.into_body()), buffer: Vec::new() }
    }
}

fn security(store: &store::Store<crate::Meta>) -> Arc<Security> {
    let algorithm = &ring::signature::ECDSA_P256_SHA256_FIXED_SIGNING;
    let random = ring::rand::SystemRandom::new();
    let key = ring::signature::EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
    let config = SecurityConfig {
        objects: Arc::new(store.clone()),
        token_key: key.as_ref().to_vec(),
        issuer: "https://kubernetes.default.svc.cluster.local".into(),
        authority_pem: "authority".into(),
    };
    Arc::new(Security::new(config).unwrap())
}

fn request(method: Method, uri: &str, media_type: &str, body: impl Into<Bytes>) -> Request<Body> {
    let mut request = Request::builder().method(method).uri(uri);
    if !media_type.is_empty() {
        request = request.header("content-type", media_type);
    }
    request.body(full(body)).unwrap()
}

pub(crate) async fn read(response: Response<Body>) -> Answer {
    let (parts, body) = response.into_parts();
    let bytes = body.collect().await.unwrap().to_bytes();
    let json = serde_json::from_slice(&bytes)
        .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&bytes).into_owned()));
    Answer { code: parts.status, headers: parts.headers, json }
}

impl Answer {
    pub(crate) fn ok(self) -> Value {
        assert!(self.code.is_success(), "{} {}", self.code, self.json);
        self.json
    }

    pub(crate) fn fails(self, code: u16) -> Value {
        assert_eq!(self.code.as_u16(), code, "{}", self.json);
        self.json
    }
}

/// The events of a watch.
pub(crate) struct Events {
    body: BodyStream<Body>,
    buffer: Vec<u8>,
}

impl Events {
    /// The next event, or nothing at the end of the stream.
    pub(crate) async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.buffer.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).unwrap());
            }
            let frame = tokio::time::timeout(Duration::from_secs(10), self.body.next());
            let frame = frame.await.expect("an event comes in time")?.unwrap();
            self.buffer.extend_from_slice(&frame.into_data().unwrap());
        }
    }

    /// Type and name of the next event.
    pub(crate) async fn brief(&mut self) -> (String, String) {
        let event = self.next().await.expect("the watch goes on");
        let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
        (text(&event["type"]), text(&event["object"]["metadata"]["name"]))
    }
}
