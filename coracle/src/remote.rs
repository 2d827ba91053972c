//! A minimal client for the node's own API over TLS, for `coracle status` and
//! `coracle dashboard`: it reads the kubeconfig that `up` wrote.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::Method;
use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::Value;

use crate::Failure;

/// How long the API may take to answer.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The task that moves the bytes of a connection.
type Connection = tokio::task::JoinHandle<Result<(), hyper::Error>>;

/// The server and the credentials of a kubeconfig.
pub struct Remote {
    /// `https://host:port`.
    pub server: String,
    address: SocketAddr,
    tls: Arc<rustls::ClientConfig>,
}

impl Remote {
    /// Reads the first cluster and user of a kubeconfig with embedded certificates.
    pub fn from_kubeconfig(path: &Path) -> Result<Self, Failure> {
        let text = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
        let config: Value = serde_saphyr::from_str(&text)?;
        let field = |pointer: &str| -> Result<String, Failure> {
            let value = config.pointer(pointer).and_then(Value::as_str);
            Ok(value.ok_or_else(|| format!("{}: no {pointer}", path.display()))?.to_owned())
        };
        let pem =
            |pointer: &str| -> Result<Vec<u8>, Failure> { Ok(STANDARD.decode(field(pointer)?)?) };
        let server = field("/clusters/0/cluster/server")?;
        let mut roots = rustls::RootCertStore::empty();
        for certificate in
            CertificateDer::pem_slice_iter(&pem("/clusters/0/cluster/certificate-authority-data")?)
        {
            roots.add(certificate?)?;
        }
        let chain = CertificateDer::pem_slice_iter(&pem("/users/0/user/client-certificate-data")?)
            .collect::<Result<Vec<_>, _>>()?;
        let key = PrivateKeyDer::from_pem_slice(&pem("/users/0/user/client-key-data")?)?;
        // Another provider installed first serves as well.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let tls = rustls::ClientConfig::builder()
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)?;
        let address = server.trim_start_matches("https://").trim_end_matches('/').parse()?;
        Ok(Self { server, address, tls: Arc::new(tls) })
    }

    /// GETs a JSON document.
    pub async fn get(&self, path: &str) -> Result<Value, Failure> {
        tokio::time::timeout(TIMEOUT, self.request(Method::GET, path)).await?
    }

    /// POSTs nothing to `path` and returns the JSON document that comes of it.
    pub async fn post(&self, path: &str) -> Result<Value, Failure> {
        tokio::time::timeout(TIMEOUT, self.request(Method::POST, path)).await?
    }

    /// GETs `path` into a file, for as long as bytes keep coming.
    pub async fn download(&self, path: &str, out: &mut std::fs::File) -> Result<(), Failure> {
        use std::io::Write;
        let (response, connection) =
            tokio::time::timeout(TIMEOUT, self.send(Method::GET, path)).await??;
        let code = response.status();
        let mut body = response.into_body();
        while let Some(frame) = tokio::time::timeout(TIMEOUT, body.frame()).await? {
            if let Ok(bytes) = frame?.into_data() {
                out.write_all(&bytes)?;
            }
        }
        connection.abort();
        if !code.is_success() {
            return Err(format!("{path}: {code}").into());
        }
        Ok(())
    }

    async fn request(&self, method: Method, path: &str) -> Result<Value, Failure> {
        let (response, connection) = self.send(method, path).await?;
        let code = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        connection.abort();
        let answer: Value = serde_json::from_slice(&body)?;
        if !code.is_success() {
            let message = answer["message"].as_str().unwrap_or_default();
            return Err(format!("{path}: {code}: {message}").into());
        }
        Ok(answer)
    }

    /// Sends a request without a body on a connection of its own.
    async fn send(
        &self,
        method: Method,
        path: &str,
    ) -> Result<(http::Response<Incoming>, Connection), Failure> {
        let tcp = tokio::net::TcpStream::connect(self.address).await?;
        let name = ServerName::IpAddress(self.address.ip().into());
        let stream = tokio_rustls::TlsConnector::from(self.tls.clone()).connect(name, tcp).await?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let connection = tokio::spawn(connection);
        let request = http::Request::builder()
            .method(method)
            .uri(path)
            .header("host", self.address.to_string())
            .header("accept", "application/json")
            .body(Empty::<Bytes>::new())?;
        let response = sender.send_request(request).await?;
        Ok((response, connection))
    }
}
