//! The serving certificate, replaced under running connections.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use arc_swap::ArcSwap;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::files::StateDir;
use super::issue::{self, Leaf};
use super::{Authority, Clock, PkiError, SERVING_VALIDITY, ServingNames, private_key};

const FILE: &str = "serving.pem";

/// Gives every handshake a certificate that is good now.
pub(super) struct Serving {
    authority: Arc<Authority>,
    clock: Clock,
    current: ArcSwap<Current>,
    /// Held while a new certificate is made.
    issuing: Mutex<Issuing>,
}

struct Current {
    key: Arc<CertifiedKey>,
    renew_at: SystemTime,
}

struct Issuing {
    state: StateDir,
    names: Vec<String>,
}

impl Serving {
    pub(super) fn open(
        state: StateDir,
        authority: Arc<Authority>,
        names: &ServingNames,
        clock: Clock,
    ) -> Result<Self, PkiError> {
        let now = clock();
        let names = names.subject_alt_names();
        let kept = state
            .read(FILE)?
            .and_then(|pem| Leaf::parse(&pem))
            .filter(|leaf| leaf.is_good(&authority, now) && leaf.names == names);
        let leaf = match kept {
            Some(leaf) => leaf,
            None => issue(&state, &authority, &names, now)?,
        };
        let current = ArcSwap::from_pointee(certified(&authority, &leaf)?);
        Ok(Self { authority, clock, current, issuing: Mutex::new(Issuing { state, names }) })
    }

    pub(super) fn set_names(&self, names: &ServingNames) -> Result<(), PkiError> {
        let names = names.subject_alt_names();
        let mut issuing = self.issuing.lock().unwrap_or_else(PoisonError::into_inner);
        if issuing.names == names {
            return Ok(());
        }
        issuing.names = names;
        self.replace(&issuing, (self.clock)())
    }

    fn replace(&self, issuing: &Issuing, now: SystemTime) -> Result<(), PkiError> {
        let leaf = issue(&issuing.state, &self.authority, &issuing.names, now)?;
        self.current.store(Arc::new(certified(&self.authority, &leaf)?));
        Ok(())
    }

    /// The certificate to show now, renewed if its time has come.
    pub(super) fn certificate(&self) -> Arc<CertifiedKey> {
        let now = (self.clock)();
        if now >= self.current.load().renew_at {
            let issuing = self.issuing.lock().unwrap_or_else(PoisonError::into_inner);
            if now >= self.current.load().renew_at
                && let Err(error) = self.replace(&issuing, now)
            {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "the serving certificate cannot be renewed"
                );
            }
        }
        self.current.load().key.clone()
    }
}

impl ResolvesServerCert for Serving {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.certificate())
    }
}

impl fmt::Debug for Serving {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Serving").finish_non_exhaustive()
    }
}

fn issue(
    state: &StateDir,
    authority: &Authority,
    names: &[String],
    now: SystemTime,
) -> Result<Leaf, PkiError> {
    let leaf = issue::server(authority, "kube-apiserver", names, now, SERVING_VALIDITY)?;
    state.write(FILE, &leaf.pem())?;
    Ok(leaf)
}

fn certified(authority: &Authority, leaf: &Leaf) -> Result<Current, PkiError> {
    let unusable = || PkiError::Tls(rustls::Error::General("unusable key".to_owned()));
    let key = private_key(&leaf.key_pem).ok_or_else(unusable)?;
    let key = rustls::crypto::ring::sign::any_supported_type(&key).map_err(PkiError::Tls)?;
    let chain = vec![leaf.certificate.clone(), authority.certificate.clone()];
    Ok(Current { key: Arc::new(CertifiedKey::new(chain, key)), renew_at: leaf.renew_at })
}
