//! The cluster's own certificate authority and everything it has signed, kept in one directory.
//!
//! | file | content |
//! | --- | --- |
//! | `ca.key`, `ca.crt` | the certificate authority |
//! | `serving.pem` | key and certificate that the apiserver shows |
//! | `admin.pem` | key and client certificate of the administrator |
//! | `service-account.key` | the key that signs ServiceAccount tokens |
//!
//! Invariant: a certificate is replaced long before it expires, whatever the clock does: the
//! serving certificate is looked at in every handshake, so no timer can be slept through, and
//! nothing is ever "not yet valid" because validity begins in 1970.

mod files;
mod issue;
mod kubeconfig;
mod serving;

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{Issuer, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};

pub use kubeconfig::{Kubeconfig, merge_into};

use files::StateDir;
use issue::Leaf;
use serving::Serving;

/// A source of the current time; tests own theirs.
pub type Clock = Arc<dyn Fn() -> SystemTime + Send + Sync>;

const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
/// The serving certificate lives one year and is renewed after eight months.
const SERVING_VALIDITY: Duration = YEAR;
/// The administrator's certificate is copied into files that we do not renew, so it lives long.
const ADMIN_VALIDITY: Duration = YEAR.saturating_mul(10);
/// Nobody wants to replace the certificate authority of a cluster.
const AUTHORITY_VALIDITY: Duration = YEAR.saturating_mul(100);

/// Why keys or certificates cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// The directory cannot be made.
    #[error("cannot create {0}")]
    CreateDir(PathBuf, #[source] std::io::Error),
    /// A state file cannot be read.
    #[error("cannot read {0}")]
    Read(PathBuf, #[source] std::io::Error),
    /// A state file cannot be written.
    #[error("cannot write {0}")]
    Write(PathBuf, #[source] std::io::Error),
    /// A state file holds something else than we once wrote.
    #[error("{0} is damaged: {1}")]
    Damaged(PathBuf, String),
    /// A key cannot be generated.
    #[error("cannot generate a key")]
    Generate(#[source] rcgen::Error),
    /// A certificate cannot be signed.
    #[error("cannot sign the certificate of {0}")]
    Sign(String, #[source] rcgen::Error),
    /// rustls does not accept what we made.
    #[error("cannot set up TLS")]
    Tls(#[source] rustls::Error),
    /// The verifier of client certificates cannot be built.
    #[error("cannot set up the verification of client certificates")]
    ClientVerifier(#[source] rustls::server::VerifierBuilderError),
    /// The user's kubeconfig is not what kubectl writes.
    #[error("{0} is not a kubeconfig: {1}")]
    Kubeconfig(PathBuf, String),
}

/// The names and addresses under which clients reach the apiserver, besides those that every
/// cluster has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServingNames {
    /// The node's addresses and the address of the `kubernetes` Service.
    pub addresses: Vec<IpAddr>,
    /// The machine's host name and whatever else the user wants.
    pub names: Vec<String>,
    /// `cluster.local`.
    pub cluster_domain: String,
}

impl ServingNames {
    /// All subject alternative names, sorted, as text.
    fn subject_alt_names(&self) -> Vec<String> {
        let domain = &self.cluster_domain;
        let mut all: Vec<String> = ["127.0.0.1", "::1", "localhost", "kubernetes"]
            .iter()
            .map(|n| (*n).to_owned())
            .chain(["kubernetes.default".to_owned(), "kubernetes.default.svc".to_owned()])
            .chain(self.addresses.iter().map(ToString::to_string))
            .chain(self.names.iter().filter(|n| !n.is_empty()).map(|n| n.to_lowercase()))
            .collect();
        if !domain.is_empty() {
            all.push(format!("kubernetes.default.svc.{domain}"));
        }
        all.sort();
        all.dedup();
        all
    }
}

/// The certificate authority of a cluster, and what it signed.
pub struct Pki {
    authority: Arc<Authority>,
    serving: Arc<Serving>,
    admin: Leaf,
    token_key: Vec<u8>,
}

/// What signs certificates.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    pem: String,
}

impl Pki {
    /// Opens the directory, making whatever is missing, expired or about to expire.
    pub fn open(dir: &Path, names: &ServingNames, clock: Clock) -> Result<Self, PkiError> {
        let state = StateDir::open(dir)?;
        let now = clock();
        let authority = Arc::new(open_authority(&state, now)?);
        let admin = match state.read("admin.pem")? {
            Some(pem) => Leaf::parse(&pem).filter(|leaf| leaf.is_good(&authority, now)),
            None => None,
        };
        let admin = match admin {
            Some(admin) => admin,
            None => {
                let admin = issue::client(
                    &authority,
                    "kubernetes-admin",
                    &["system:masters"],
                    now,
                    ADMIN_VALIDITY,
                )?;
                state.write("admin.pem", &admin.pem())?;
                admin
            }
        };
        let token_key = open_key(&state, "service-account.key")?.serialized_der().to_vec();
        let serving = Arc::new(Serving::open(state, authority.clone(), names, clock)?);
        Ok(Self { authority, serving, admin, token_key })
    }

    /// The certificate authority's certificate, PEM.
    pub fn authority_pem(&self) -> &str {
        &self.authority.pem
    }

    /// The PKCS#8 key (ECDSA P-256) that signs ServiceAccount tokens.
    pub fn token_key(&self) -> &[u8] {
        &self.token_key
    }

    /// Re-issues the serving certificate if it lacks one of these names. Connections already open
    /// are not touched.
    pub fn set_names(&self, names: &ServingNames) -> Result<(), PkiError> {
        self.serving.set_names(names)
    }

    /// The administrator's kubeconfig for the apiserver at `server` (`https://127.0.0.1:6443`).
    pub fn admin_kubeconfig(&self, server: &str) -> Kubeconfig {
        Kubeconfig {
            cluster: "coracle".to_owned(),
            user: "coracle-admin".to_owned(),
            server: server.to_owned(),
            authority_pem: self.authority.pem.clone(),
            certificate_pem: self.admin.certificate_pem.clone(),
            key_pem: self.admin.key_pem.clone(),
        }
    }

    /// TLS for the apiserver: 1.2 and up, client certificates of our own authority optional,
    /// HTTP/2 and HTTP/1.1.
    pub fn server_config(&self) -> Result<Arc<ServerConfig>, PkiError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(self.authority.certificate.clone()).map_err(PkiError::Tls)?;
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
                .allow_unauthenticated()
                .build()
                .map_err(PkiError::ClientVerifier)?;
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(PkiError::Tls)?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(self.serving.clone());
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}

fn open_key(state: &StateDir, name: &str) -> Result<KeyPair, PkiError> {
    if let Some(pem) = state.read(name)? {
        return KeyPair::from_pem(&pem)
            .map_err(|error| PkiError::Damaged(state.path(name), error.to_string()));
    }
    let key = KeyPair::generate().map_err(PkiError::Generate)?;
    state.write(name, &key.serialize_pem())?;
    Ok(key)
}

/// The key is written before the certificate, so a crash between the two costs nothing.
fn open_authority(state: &StateDir, now: SystemTime) -> Result<Authority, PkiError> {
    let key = open_key(state, "ca.key")?;
    let pem = match state.read("ca.crt")? {
        Some(pem) => pem,
        None => {
            let pem = issue::authority(&key, now, AUTHORITY_VALIDITY)?;
            state.write("ca.crt", &pem)?;
            pem
        }
    };
    let damaged = |why: String| PkiError::Damaged(state.path("ca.crt"), why);
    let certificate = CertificateDer::from_pem_slice(pem.as_bytes())
        .map_err(|error| damaged(error.to_string()))?;
    let issuer =
        Issuer::from_ca_cert_der(&certificate, key).map_err(|error| damaged(error.to_string()))?;
    Ok(Authority { issuer, certificate, pem })
}

/// A private key in the form that rustls wants.
fn private_key(pem: &str) -> Option<PrivateKeyDer<'static>> {
    PrivateKeyDer::from_pem_slice(pem.as_bytes()).ok()
}

#[cfg(test)]
mod tests;
