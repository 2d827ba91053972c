//! The identity behind a request.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::Extensions;
use serde_json::{Value, json};

/// Everybody who has proved who they are.
pub const AUTHENTICATED: &str = "system:authenticated";
/// Everybody who has not.
pub const UNAUTHENTICATED: &str = "system:unauthenticated";
/// The group that may do everything, whatever the roles say.
pub const MASTERS: &str = "system:masters";

/// Who sends a request (upstream `user.Info`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    /// `jane`, `system:serviceaccount:default:builder`, `system:node:n1`.
    pub name: String,
    /// Stable across renames; empty when the authenticator knows none.
    pub uid: String,
    /// Groups, `system:authenticated` included.
    pub groups: Vec<String>,
    /// What else the authenticator found out (bound pod, credential id).
    pub extra: BTreeMap<String, Vec<String>>,
}

impl User {
    /// A user that has been authenticated, in these groups and `system:authenticated`.
    pub fn authenticated(name: &str, groups: &[&str]) -> Self {
        let mut groups: Vec<String> = groups.iter().map(|g| (*g).to_owned()).collect();
        if !groups.iter().any(|g| g == AUTHENTICATED) {
            groups.push(AUTHENTICATED.to_owned());
        }
        Self { name: name.to_owned(), groups, ..Self::default() }
    }

    /// Who does not say who they are.
    pub fn anonymous() -> Self {
        Self {
            name: "system:anonymous".to_owned(),
            groups: vec![UNAUTHENTICATED.to_owned()],
            ..Self::default()
        }
    }

    /// Has the server believe that this user sends the request of these extensions.
    pub fn send(self: Arc<Self>, extensions: &mut Extensions) {
        extensions.insert(self);
    }

    /// Returns the user that is known to send the request of these extensions.
    pub(crate) fn sends(extensions: &Extensions) -> Option<&Arc<Self>> {
        extensions.get()
    }

    /// Whether the user is in `group`.
    pub fn in_group(&self, group: &str) -> bool {
        self.groups.iter().any(|g| g == group)
    }

    /// As `authentication.k8s.io/v1` `UserInfo`.
    pub fn to_json(&self) -> Value {
        let mut info = json!({ "username": self.name });
        if !self.uid.is_empty() {
            info["uid"] = json!(self.uid);
        }
        if !self.groups.is_empty() {
            info["groups"] = json!(self.groups);
        }
        if !self.extra.is_empty() {
            info["extra"] = json!(self.extra);
        }
        info
    }
}
