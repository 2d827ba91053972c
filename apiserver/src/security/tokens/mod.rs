//! ServiceAccount tokens: made for TokenRequests, believed only while what they are bound to lives.

mod claims;
mod jwt;
mod request;
mod verify;

use std::sync::Arc;

use serde_json::{Value, json};

use claims::Bound;
pub use jwt::TokenKeyError;

use super::Objects;
use jwt::TokenKey;

/// Issues and verifies the tokens of one cluster.
pub(super) struct Tokens {
    key: TokenKey,
    issuer: String,
    objects: Arc<dyn Objects>,
}

impl Tokens {
    /// `pkcs8` is an ECDSA P-256 key, `issuer` both the `iss` of tokens and their audience unless
    /// they are asked for another.
    pub(super) fn new(
        pkcs8: &[u8],
        issuer: &str,
        objects: Arc<dyn Objects>,
    ) -> Result<Self, TokenKeyError> {
        Ok(Self { key: TokenKey::from_pkcs8(pkcs8)?, issuer: issuer.to_owned(), objects })
    }

    /// `/.well-known/openid-configuration`.
    pub(super) fn openid_configuration(&self) -> Value {
        json!({
            "issuer": self.issuer,
            "jwks_uri": format!("{}/openid/v1/jwks", self.issuer),
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["ES256"],
        })
    }

    /// `/openid/v1/jwks`.
    pub(super) fn key_set(&self) -> Value {
        json!({ "keys": [self.key.public_jwk()] })
    }

    /// A stored object, parsed.
    fn object(&self, plural: &str, namespace: &str, name: &str) -> Option<Value> {
        serde_json::from_slice(&self.objects.get("", plural, namespace, name)?).ok()
    }
}

/// `system:serviceaccount:<namespace>:<name>`.
fn user_name(namespace: &str, name: &str) -> String {
    format!("system:serviceaccount:{namespace}:{name}")
}

#[cfg(test)]
mod tests;
