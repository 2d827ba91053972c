//! The front of the door: from the head of a request to a user, from a user to a decision.

use std::sync::Arc;

use http::header::AUTHORIZATION;
use http::request::Parts;

use serde_json::Value;

use super::rbac::Rbac;
use super::{Attributes, Decision, Objects, Refusal, User};

/// What the door needs to know.
pub struct SecurityConfig {
    /// The stored ServiceAccounts, pods, secrets and roles.
    pub objects: Arc<dyn Objects>,
}

/// Authentication and authorization of one cluster.
pub struct Security {
    rbac: Rbac,
}

impl Security {
    /// A door over these objects.
    pub fn new(config: SecurityConfig) -> Self {
        Self { rbac: Rbac::new(config.objects) }
    }

    /// Finds out who sends a request: a [`User`] already among the request's extensions (an
    /// in-process client, or a TLS client certificate), else a bearer token, else nobody.
    #[allow(clippy::unused_async)]
    pub async fn authenticate(&self, parts: &Parts) -> Result<User, Refusal> {
        if let Some(user) = parts.extensions.get::<User>() {
            return Ok(user.clone());
        }
        if parts.headers.contains_key(AUTHORIZATION) {
            return Err(Refusal::Unauthorized);
        }
        Ok(User::anonymous())
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
}
