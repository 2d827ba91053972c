//! What a token says.

use serde::{Deserialize, Serialize};

/// The claims of a ServiceAccount token.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct Claims {
    /// For whom.
    pub aud: Vec<String>,
    /// Seconds since 1970 after which it is worth nothing.
    pub exp: u64,
    /// When it was made.
    pub iat: u64,
    /// By whom.
    pub iss: String,
    /// Its own name.
    pub jti: String,
    /// What it is bound to.
    #[serde(rename = "kubernetes.io")]
    pub private: Private,
    /// When its life begins. Not enforced: only this server issues tokens, so a token from the
    /// future means that the clock was set back.
    pub nbf: u64,
    /// `system:serviceaccount:<namespace>:<name>`.
    pub sub: String,
}

/// The claims in the `kubernetes.io` namespace.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct Private {
    /// Of the ServiceAccount and of what it is bound to.
    pub namespace: String,
    /// The node, for a token bound to a node or to a pod on one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<Bound>,
    /// The pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<Bound>,
    /// The Secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<Bound>,
    /// The ServiceAccount.
    pub serviceaccount: ServiceAccountRef,
}

/// A reference to one incarnation of an object.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct Bound {
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
}

/// The ServiceAccount of a token.
pub type ServiceAccountRef = Bound;

/// The claims of a token that lies in a Secret and never expires.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct SecretClaims {
    pub(super) iss: String,
    #[serde(rename = "kubernetes.io/serviceaccount/namespace")]
    pub(super) namespace: String,
    #[serde(rename = "kubernetes.io/serviceaccount/secret.name")]
    pub(super) secret: String,
    #[serde(rename = "kubernetes.io/serviceaccount/service-account.name")]
    pub(super) account: String,
    #[serde(rename = "kubernetes.io/serviceaccount/service-account.uid")]
    pub(super) account_uid: String,
    pub(super) sub: String,
}

/// The issuer of tokens in Secrets.
pub(super) const SECRET_ISSUER: &str = "kubernetes/serviceaccount";
