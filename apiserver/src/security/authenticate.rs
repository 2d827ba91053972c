//! The front of the door: from the head of a request to a user, from a user to a decision.

use std::sync::Arc;
use std::time::SystemTime;

use http::header::AUTHORIZATION;
use http::request::Parts;
use serde_json::Value;

use super::impersonate::impersonate;
use super::rbac::Rbac;
use super::tokens::{TokenKeyError, Tokens};
use super::{Attributes, Decision, Objects, Refusal, User};

/// What the door needs to know.
pub struct SecurityConfig {
    /// The stored ServiceAccounts, pods, secrets and roles.
    pub objects: Arc<dyn Objects>,
    /// The PKCS#8 key (ECDSA P-256) that signs ServiceAccount tokens.
    pub token_key: Vec<u8>,
    /// `https://kubernetes.default.svc.cluster.local`: issuer and default audience of tokens.
    pub issuer: String,
    /// The certificate authority of the serving certificate, for token Secrets.
    pub authority_pem: String,
}

/// Authentication and authorization of one cluster.
pub struct Security {
    pub(super) rbac: Rbac,
    pub(super) tokens: Tokens,
    authority_pem: String,
}

impl Security {
    /// A door over these objects.
    pub fn new(config: SecurityConfig) -> Result<Self, TokenKeyError> {
        let tokens = Tokens::new(&config.token_key, &config.issuer, config.objects.clone())?;
        let rbac = Rbac::new(config.objects);
        Ok(Self { rbac, tokens, authority_pem: config.authority_pem })
    }

    /// Finds out who sends a request: a [`User`] already among the request's extensions (an
    /// in-process client, or a TLS client certificate), else a bearer token, else nobody. Whoever
    /// may act as somebody else and asks for it (`kubectl --as`) becomes that user.
    #[allow(clippy::unused_async)]
    pub async fn authenticate(&self, parts: &Parts) -> Result<Arc<User>, Refusal> {
        impersonate(&self.rbac, self.identify(parts)?, &parts.headers)
    }

    /// Returns the user that sends a request, before any impersonation.
    pub(crate) fn identify(&self, parts: &Parts) -> Result<Arc<User>, Refusal> {
        if let Some(user) = User::sends(&parts.extensions) {
            return Ok(user.clone());
        }
        match parts.headers.get(AUTHORIZATION) {
            Some(value) => self.user_of_token(value.as_bytes()).map(Arc::new),
            None => Ok(Arc::new(User::anonymous())),
        }
    }

    fn user_of_token(&self, authorization: &[u8]) -> Result<User, Refusal> {
        let text = std::str::from_utf8(authorization).map_err(|_| Refusal::Unauthorized)?;
        let (scheme, token) = text.trim().split_once(' ').ok_or(Refusal::Unauthorized)?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return Err(Refusal::Unauthorized);
        }
        let verified = self.tokens.verify(token.trim(), &[], SystemTime::now());
        Ok(verified.ok_or(Refusal::Unauthorized)?.user)
    }

    /// Decides whether the user may do this.
    pub fn authorize(&self, attributes: &Attributes<'_>) -> Decision {
        self.rbac.authorize(attributes)
    }

    /// Refuses a write to a role or binding (`plural` of `rbac.authorization.k8s.io`) that would
    /// give somebody more than the writer holds. `object` is the new state, `old` the present one.
    pub fn check_rbac_write(
        &self,
        user: &User,
        plural: &str,
        namespace: &str,
        object: &Value,
        old: Option<&Value>,
    ) -> Result<(), Refusal> {
        self.rbac.check_write(user, plural, namespace, object, old)
    }

    /// Answers a `TokenRequest` (`serviceaccounts/<name>/token`): the request with its status.
    pub fn create_token(
        &self,
        namespace: &str,
        name: &str,
        request: Value,
    ) -> Result<Value, Refusal> {
        self.tokens.create(namespace, name, request, SystemTime::now())
    }

    /// Fills a new Secret of type `kubernetes.io/service-account-token` with a token that does not
    /// expire; does nothing to other Secrets. Returns whether it changed the Secret.
    pub fn fill_token_secret(&self, secret: &mut Value) -> Result<bool, Refusal> {
        self.tokens.fill_secret(secret, &self.authority_pem)
    }

    /// `/.well-known/openid-configuration`.
    pub fn openid_configuration(&self) -> Value {
        self.tokens.openid_configuration()
    }

    /// `/openid/v1/jwks` (media type `application/jwk-set+json`).
    pub fn key_set(&self) -> Value {
        self.tokens.key_set()
    }
}
