//! From a token back to a user.

use std::borrow::Cow;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::Value;

use super::claims::{Claims, SECRET_ISSUER, SecretClaims};
use super::{Bound, Tokens, user_name};
use crate::security::User;

/// A token that is good now.
pub(in crate::security) struct Verified {
    pub(in crate::security) user: User,
    /// The wanted audiences that the token is meant for.
    pub(in crate::security) audiences: Vec<String>,
}

/// The parts of a Secret that say whose token it holds. The rest may be megabytes and is only skipped.
#[derive(Deserialize)]
struct TokenSecret<'a> {
    #[serde(borrow)]
    metadata: SecretMetadata<'a>,
    #[serde(borrow)]
    data: SecretData<'a>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SecretMetadata<'a> {
    #[serde(borrow, default)]
    deletion_timestamp: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct SecretData<'a> {
    #[serde(borrow)]
    token: Cow<'a, str>,
}

impl Tokens {
    /// Believes a token that we signed, that has not expired, that is meant for one of `audiences`
    /// (empty: for the apiserver), and whose ServiceAccount and bound object still exist.
    pub(in crate::security) fn verify(
        &self,
        token: &str,
        audiences: &[String],
        now: SystemTime,
    ) -> Option<Verified> {
        let own = [self.issuer.clone()];
        let wanted = if audiences.is_empty() { &own[..] } else { audiences };
        let claims: Value = self.key.verify(token)?;
        if claims["iss"] == SECRET_ISSUER {
            let user = self.user_of_secret(token, serde_json::from_value(claims).ok()?)?;
            // Such tokens say no audience; upstream takes them for the apiserver's own.
            let audiences = wanted.iter().filter(|a| **a == self.issuer).cloned().collect();
            return Some(Verified { user, audiences }).filter(|v| !v.audiences.is_empty());
        }
        let claims: Claims = serde_json::from_value(claims).ok()?;
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        if claims.iss != self.issuer || now >= claims.exp {
            return None;
        }
        let audiences: Vec<String> =
            wanted.iter().filter(|a| claims.aud.contains(a)).cloned().collect();
        if audiences.is_empty() {
            return None;
        }
        let user = self.user_of(&claims)?;
        Some(Verified { user, audiences })
    }

    fn user_of(&self, claims: &Claims) -> Option<User> {
        let private = &claims.private;
        let namespace = private.namespace.as_str();
        let account = &private.serviceaccount;
        if claims.sub != user_name(namespace, &account.name) {
            return None;
        }
        self.alive("serviceaccounts", namespace, account)?;
        if let Some(secret) = &private.secret {
            self.alive("secrets", namespace, secret)?;
        }
        if let Some(pod) = &private.pod {
            self.alive("pods", namespace, pod)?;
        } else if let Some(node) = &private.node {
            self.alive("nodes", "", node)?;
        }
        let mut user = service_account(namespace, account);
        let mut extra = |key: &str, value: String| {
            user.extra.insert(format!("authentication.kubernetes.io/{key}"), vec![value]);
        };
        extra("credential-id", format!("JTI={}", claims.jti));
        for (what, bound) in [("pod", &private.pod), ("node", &private.node)] {
            if let Some(bound) = bound {
                extra(&format!("{what}-name"), bound.name.clone());
                extra(&format!("{what}-uid"), bound.uid.clone());
            }
        }
        Some(user)
    }

    fn user_of_secret(&self, token: &str, claims: SecretClaims) -> Option<User> {
        let account = Bound { name: claims.account, uid: claims.account_uid };
        if claims.sub != user_name(&claims.namespace, &account.name) {
            return None;
        }
        self.alive("serviceaccounts", &claims.namespace, &account)?;
        let secret = self.objects.get("", "secrets", &claims.namespace, &claims.secret)?;
        let secret: TokenSecret = serde_json::from_slice(&secret).ok()?;
        let stored = STANDARD.decode(secret.data.token.as_bytes()).ok()?;
        let same = stored == token.as_bytes() && secret.metadata.deletion_timestamp.is_none();
        same.then(|| service_account(&claims.namespace, &account))
    }

    /// Whether this very object still exists. One that is being deleted counts until its grace
    /// period is over, because a terminating pod may still need the API.
    fn alive(&self, plural: &str, namespace: &str, bound: &Bound) -> Option<()> {
        let uid = self.objects.uid("", plural, namespace, &bound.name)?;
        (uid == bound.uid).then_some(())
    }
}

fn service_account(namespace: &str, account: &Bound) -> User {
    let mut user = User::authenticated(
        &user_name(namespace, &account.name),
        &["system:serviceaccounts", &format!("system:serviceaccounts:{namespace}")],
    );
    user.uid.clone_from(&account.uid);
    user
}
