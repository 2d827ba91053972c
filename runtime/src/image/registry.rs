//! A client of OCI registries that trusts no registry: every body is bounded in bytes and time, every
//! document is checked against its digest, and credentials leave over HTTPS only, except to registries
//! that the administrator lets speak plain HTTP.

mod auth;
mod document;
mod pace;
mod refusal;

use std::time::Duration;

use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderValue};
use reqwest::redirect::Policy;
use reqwest::{Response, StatusCode, Url};
use tokio::sync::Mutex;

pub(super) use document::{Descriptor, Manifest};

use self::auth::Challenge;
use self::document::{Document, MANIFEST_TYPES};
use self::pace::Pace;
use super::digest::{Digest, Digester};
use super::pull::{Credentials, PullOptions};
use super::reference::Reference;
use crate::printable::chain;

/// A registry that does not accept a connection within this time is unreachable.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A registry that sends nothing for this long hangs.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
/// The whole of a request and of a document: a manifest, a configuration, a token, an error.
const DOCUMENT_TIMEOUT: Duration = Duration::from_secs(60);
/// Bytes of a manifest, index or configuration of an image; other runtimes take no more.
const MAX_DOCUMENT_BYTES: u64 = 4 << 20;
/// Bytes of the answer of a token server.
const MAX_TOKEN_BYTES: u64 = 1 << 20;
/// Bytes that are read of the body of a refusal.
const MAX_REFUSAL_BYTES: u64 = 8 << 10;
/// Redirects that one request follows.
const MAX_REDIRECTS: usize = 10;

/// The reason why a registry gave not what was asked for. What it says itself is not made printable
/// here.
#[derive(Debug, thiserror::Error)]
pub(super) enum RegistryError {
    /// No client can be made.
    #[error("{0}")]
    Client(String),
    /// The registry accepts no connection: nothing that was sent to it can be the reason.
    #[error("{0}")]
    Unreachable(String),
    /// It has no such thing.
    #[error("not found")]
    NotFound,
    /// It wants other credentials.
    #[error("{0}")]
    Denied(String),
    /// It sent something else than it promised.
    #[error("{0}")]
    Corrupt(String),
    /// It failed otherwise, or asks for something that is not done.
    #[error("{0}")]
    Refused(String),
}

/// A client of one repository in one registry, with one login.
pub(super) struct Client<'a> {
    http: reqwest::Client,
    base: Url,
    repository: &'a str,
    /// The registry that a mirror is asked for: one can serve several.
    mirrored: Option<&'a str>,
    plain_http: &'a [String],
    credentials: Option<&'a Credentials>,
    /// The challenge of the registry so far.
    authorization: Mutex<Option<HeaderValue>>,
}

impl<'a> Client<'a> {
    /// Makes a client of the repository of `reference`, at its registry or at `mirror`.
    pub(super) fn new(
        reference: &'a Reference,
        mirror: Option<&str>,
        credentials: Option<&'a Credentials>,
        options: &'a PullOptions,
    ) -> Result<Self, RegistryError> {
        let host = mirror.unwrap_or_else(|| reference.host());
        let scheme = if speaks_plain_http(host, &options.plain_http) { "http" } else { "https" };
        let base = format!("{scheme}://{host}/v2/{}/", reference.repository());
        let base = Url::parse(&base).map_err(|e| RegistryError::Client(format!("{base}: {e}")))?;
        let builder = || {
            reqwest::Client::builder()
                .user_agent(concat!("coracle/", env!("CARGO_PKG_VERSION")))
                .connect_timeout(options.connect_timeout.unwrap_or(CONNECT_TIMEOUT))
                .read_timeout(READ_TIMEOUT)
                .referer(false)
                .redirect(redirects())
        };
        let http = match builder().build() {
            // A machine without CA certificates trusts no registry, and needs none in plain HTTP.
            Err(_) => builder().tls_certs_only([]).build(),
            result => result,
        };
        let http = http.map_err(|e| RegistryError::Client(chain(&e)))?;
        Ok(Self {
            http,
            base,
            repository: reference.repository(),
            mirrored: mirror.map(|_| reference.registry()),
            plain_http: &options.plain_http,
            // A mirror in plain HTTP is the administrator's choice for images, not for the secrets
            // of whoever pulls them.
            credentials: credentials.filter(|_| mirror.is_none() || scheme == "https"),
            authorization: Mutex::new(None),
        })
    }

    /// Fetches the manifest for this machine. Returns it with the digest by which the image is
    /// named: that of the index, if there is one.
    pub(super) async fn manifest(
        &self,
        reference: &Reference,
    ) -> Result<(Manifest, String), RegistryError> {
        let wanted = reference.digest().map(Digest::parse).transpose().map_err(corrupt)?;
        let name = reference.digest().or(reference.tag()).unwrap_or_default();
        let (document, digest) = self.manifest_document(name, wanted.as_ref()).await?;
        match document {
            Document::Manifest(manifest) => Ok((manifest, digest)),
            Document::Index(index) => {
                let entry = index.for_this_machine().ok_or(RegistryError::NotFound)?;
                let wanted = entry.checked_digest().map_err(corrupt)?;
                match self.manifest_document(&entry.digest, Some(&wanted)).await?.0 {
                    Document::Manifest(manifest) => Ok((manifest, digest)),
                    Document::Index(_) => Err(RegistryError::NotFound),
                }
            }
        }
    }

    async fn manifest_document(
        &self,
        name: &str,
        wanted: Option<&Digest>,
    ) -> Result<(Document, String), RegistryError> {
        let response = self.get(&format!("manifests/{name}"), MANIFEST_TYPES).await?;
        let header = response.headers().get("Docker-Content-Digest").cloned();
        let bytes = within(self.bounded(response, MAX_DOCUMENT_BYTES)).await?;
        let promised = match header.as_ref().filter(|header| !header.is_empty()) {
            Some(header) => {
                let text = header.to_str().map_err(corrupt)?;
                Some(Digest::parse(text).map_err(corrupt)?)
            }
            None => None,
        };
        let mut digest = None;
        for expected in wanted.into_iter().chain(&promised) {
            digest = Some(check(expected, &bytes)?);
        }
        let digest = digest.unwrap_or_else(|| Digester::sha256_of(&bytes));
        Ok((Document::parse(&bytes).map_err(RegistryError::Corrupt)?, digest))
    }

    /// Fetches the configuration of an image.
    pub(super) async fn config(&self, descriptor: &Descriptor) -> Result<Vec<u8>, RegistryError> {
        let digest = descriptor.checked_digest().map_err(corrupt)?;
        let size = descriptor.checked_size().map_err(RegistryError::Corrupt)?;
        if size > MAX_DOCUMENT_BYTES {
            let text = format!("the image configuration has {size} bytes");
            return Err(RegistryError::Corrupt(text));
        }
        let response = self.blob_response(descriptor).await?;
        // One byte more than promised tells a longer one.
        let bytes = within(self.bounded(response, MAX_DOCUMENT_BYTES)).await?;
        if bytes.len() as u64 != size {
            return Err(size_mismatch("config", descriptor, bytes.len() as u64));
        }
        check(&digest, &bytes)?;
        Ok(bytes)
    }

    /// Begins to fetch a layer. The registry is asked for it, never a URL that its descriptor names.
    pub(super) async fn layer<'d>(
        &self,
        descriptor: &'d Descriptor,
    ) -> Result<LayerStream<'d>, RegistryError> {
        let digest = descriptor.checked_digest().map_err(corrupt)?;
        let size = descriptor.checked_size().map_err(RegistryError::Corrupt)?;
        let response = self.blob_response(descriptor).await?;
        Ok(LayerStream {
            response,
            descriptor,
            digester: Digester::new(&digest),
            digest,
            size,
            received: 0,
            pace: Pace::default(),
        })
    }

    async fn blob_response(&self, descriptor: &Descriptor) -> Result<Response, RegistryError> {
        let response = self.get(&format!("blobs/{}", descriptor.digest), "*/*").await;
        response.map_err(|error| match error {
            RegistryError::NotFound => RegistryError::Refused(format!(
                "could not fetch content descriptor {} from remote: not found",
                descriptor.digest
            )),
            // Most redirect to a storage, which may be what is away.
            RegistryError::Unreachable(text) => {
                RegistryError::Refused(format!("failed to do request: {text}"))
            }
            other => other,
        })
    }

    /// A successful response. The registry is asked without a login first, and again with what it
    /// asks for.
    async fn get(&self, path: &str, accept: &str) -> Result<Response, RegistryError> {
        let mut url = self.base.join(path).map_err(corrupt)?;
        if let Some(registry) = self.mirrored {
            url.query_pairs_mut().append_pair("ns", registry);
        }
        let mut authorization = self.authorization.lock().await.clone();
        let mut was_refused = false;
        loop {
            let mut request = self.http.get(url.clone()).header(ACCEPT, accept);
            if let Some(value) = &authorization {
                request = request.header(AUTHORIZATION, value.clone());
            }
            let response =
                within(async { request.send().await.map_err(|error| failed(&url, error)) }).await?;
            if response.status() == StatusCode::OK {
                return Ok(response);
            }
            // Where a redirect has led to has no claim to a login.
            let is_registry = response.url().origin() == self.base.origin();
            let challenge = Challenge::of(&response);
            match challenge {
                Some(challenge)
                    if response.status() == StatusCode::UNAUTHORIZED
                        && is_registry
                        && !was_refused =>
                {
                    was_refused = true;
                    let answer = self.answer(&challenge).await?;
                    let Some(answer) = answer else { return Err(self.refusal(response).await) };
                    *self.authorization.lock().await = Some(answer.clone());
                    authorization = Some(answer);
                }
                _ => return Err(self.refusal(response).await),
            }
        }
    }

    /// Reads a response that is no success.
    async fn refusal(&self, response: Response) -> RegistryError {
        let (status, mut url) = (response.status(), response.url().clone());
        url.set_query(None);
        let body = within(self.bounded(response, MAX_REFUSAL_BYTES)).await.unwrap_or_default();
        refusal::read(status, "GET", &url, &body)
    }

    /// The body of a response, which has at most `most` bytes.
    async fn bounded(&self, mut response: Response, most: u64) -> Result<Vec<u8>, RegistryError> {
        let mut url = response.url().clone();
        url.set_query(None);
        let too_large = || RegistryError::Corrupt(format!("{url}: more than {most} bytes"));
        if response.content_length().is_some_and(|length| length > most) {
            return Err(too_large());
        }
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| failed(&url, error))? {
            if bytes.len() as u64 + chunk.len() as u64 > most {
                return Err(too_large());
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes)
    }
}

/// The bytes of a layer, as they come. Its end is that of the promised bytes.
pub(super) struct LayerStream<'a> {
    response: Response,
    descriptor: &'a Descriptor,
    digest: Digest,
    digester: Digester,
    size: u64,
    received: u64,
    pace: Pace,
}

impl LayerStream<'_> {
    /// Returns the next bytes; `None` after the last, if all were those that were promised.
    pub(super) async fn next(&mut self) -> Result<Option<bytes::Bytes>, RegistryError> {
        let begun = tokio::time::Instant::now();
        let chunk = self.response.chunk().await;
        let chunk = chunk.map_err(|error| RegistryError::Corrupt(chain(&error.without_url())))?;
        let Some(chunk) = chunk else {
            if self.received != self.size {
                return Err(size_mismatch("layer", self.descriptor, self.received));
            }
            matches(&self.digest, self.digester.clone().finish())?;
            return Ok(None);
        };
        self.pace.note(begun.elapsed(), chunk.len() as u64).map_err(RegistryError::Refused)?;
        self.received += chunk.len() as u64;
        if self.received > self.size {
            return Err(size_mismatch("layer", self.descriptor, self.received));
        }
        self.digester.update(&chunk);
        Ok(Some(chunk))
    }
}

/// Bounds the time of something small.
async fn within<T>(
    work: impl Future<Output = Result<T, RegistryError>>,
) -> Result<T, RegistryError> {
    match tokio::time::timeout(DOCUMENT_TIMEOUT, work).await {
        Ok(result) => result,
        Err(_) => Err(RegistryError::Refused(format!(
            "failed to do request: no complete response within {} seconds",
            DOCUMENT_TIMEOUT.as_secs()
        ))),
    }
}

/// HTTPS never leads to plain HTTP. The library sends no login along to another host.
fn redirects() -> Policy {
    Policy::custom(|attempt| {
        let from = attempt.previous().last().map_or("", Url::scheme);
        if from == "https" && attempt.url().scheme() != "https" {
            return attempt.error("a redirect from HTTPS to plain HTTP is not followed");
        }
        if attempt.previous().len() > MAX_REDIRECTS {
            return attempt.error(format!("stopped after {MAX_REDIRECTS} redirects"));
        }
        attempt.follow()
    })
}

/// Returns whether `host[:port]` is spoken to in plain HTTP: it is this machine, or configured so.
fn speaks_plain_http(registry: &str, plain_http: &[String]) -> bool {
    is_loopback(registry) || plain_http.iter().any(|plain| plain == registry)
}

/// Returns whether `host[:port]` is this machine, where plain HTTP is no risk.
fn is_loopback(registry: &str) -> bool {
    let host = match registry.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or(v6),
        None => registry.rsplit_once(':').map_or(registry, |(host, _)| host),
    };
    host == "localhost"
        || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn check(expected: &Digest, bytes: &[u8]) -> Result<String, RegistryError> {
    let mut digester = Digester::new(expected);
    digester.update(bytes);
    matches(expected, digester.finish())
}

fn matches(expected: &Digest, got: String) -> Result<String, RegistryError> {
    if got == expected.to_string() {
        return Ok(got);
    }
    let text = format!("unexpected commit digest {got}, expected {expected}: failed precondition");
    Err(RegistryError::Corrupt(text))
}

fn size_mismatch(kind: &str, descriptor: &Descriptor, received: u64) -> RegistryError {
    RegistryError::Corrupt(format!(
        "failed commit on ref \"{kind}-{}\": failed size validation: {received} != {}: failed precondition",
        descriptor.digest, descriptor.size
    ))
}

fn corrupt(error: impl std::fmt::Display) -> RegistryError {
    RegistryError::Corrupt(error.to_string())
}

fn failed(url: &Url, error: reqwest::Error) -> RegistryError {
    let mut url = url.clone();
    url.set_query(None);
    let (is_redirect, is_connect) = (error.is_redirect(), error.is_connect());
    let text = format!("Get \"{url}\": {}", chain(&error.without_url()));
    match (is_connect, is_redirect) {
        (true, _) => RegistryError::Unreachable(text),
        (false, true) => RegistryError::Refused(text),
        (false, false) => RegistryError::Refused(format!("failed to do request: {text}")),
    }
}

#[cfg(test)]
mod tests;
