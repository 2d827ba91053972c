//! The tokens controller: a Secret with a token of a ServiceAccount goes when the account does not
//! exist. The API fills such a Secret when it is created.

use std::future::Future;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Secret, ServiceAccount};

use crate::cache::{Change, ObjectKey, Selection};
use crate::context::Context;
use crate::error::Error;
use crate::held::Form;
use crate::queue::{Queue, Requeue};
use crate::request;

/// The Secrets that are followed.
pub const TYPE: &str = "kubernetes.io/service-account-token";
const ACCOUNT_NAME: &str = "kubernetes.io/service-account.name";
const ACCOUNT_UID: &str = "kubernetes.io/service-account.uid";
/// Secrets that are served at once.
const WORKERS: usize = 4;

/// Only Secrets of that type.
pub fn selection() -> Selection {
    Selection { fields: Some(format!("type={TYPE}")) }
}

/// Without what is secret.
pub fn form() -> Form<Secret> {
    let trim = |secret: &mut Secret| {
        secret.data = None;
        secret.string_data = None;
        secret.metadata.managed_fields = None;
    };
    Form { trim, ..Form::packed() }
}

/// Subscribes to what matters and returns the workers, to be run when the caches are filled.
pub fn workers(context: &Arc<Context>) -> impl Future<Output = ()> + Send + use<> {
    let queue: Arc<Queue<ObjectKey>> = Queue::new();
    let wake = queue.clone();
    context
        .caches
        .token_secrets
        .on_change(move |change| wake.add(ObjectKey::of(change.object().as_ref())));
    let (wake, secrets) = (queue.clone(), context.caches.token_secrets.clone());
    context.caches.service_accounts.on_change(move |change| {
        let account = ObjectKey::of(change.object().as_ref());
        let mut uids = change.states().map(|state| &state.metadata.uid);
        let first = uids.next();
        if !matches!(change, Change::Deleted(_)) && uids.all(|uid| Some(uid) == first) {
            return;
        }
        let named = secrets.namespaced(&account.namespace).into_iter().filter(|secret| {
            annotation(secret, ACCOUNT_NAME).is_some_and(|name| name == account.name)
        });
        named.for_each(|secret| wake.add(ObjectKey::of(secret.as_ref())));
    });
    context.serve(&queue, "serviceaccount-token-controller", WORKERS, reconcile)
}

fn annotation<'s>(secret: &'s Secret, name: &str) -> Option<&'s str> {
    let annotations = secret.metadata.annotations.as_ref()?;
    annotations.get(name).map(String::as_str).filter(|text| !text.is_empty())
}

/// Returns whether the Secret is for this account, by its uid where the Secret names one.
fn is_of(secret: &Secret, account: &ServiceAccount) -> bool {
    let uid = annotation(secret, ACCOUNT_UID);
    annotation(secret, ACCOUNT_NAME) == account.metadata.name.as_deref()
        && (uid.is_none() || uid == account.metadata.uid.as_deref())
}

async fn reconcile(context: Arc<Context>, key: ObjectKey) -> Result<Requeue, Error> {
    let Some(secret) = context.caches.token_secrets.get(&key) else { return Ok(Requeue::Never) };
    let name = annotation(&secret, ACCOUNT_NAME).unwrap_or_default();
    let account = ObjectKey::new(&key.namespace, name);
    let known = context.caches.service_accounts.get(&account);
    if known.is_some_and(|account| is_of(&secret, &account)) {
        return Ok(Requeue::Never);
    }
    // The account may be newer than the cache.
    if !name.is_empty() {
        let account = request::get::<ServiceAccount>(&context.client, &account).await?;
        if account.is_some_and(|account| is_of(&secret, &account)) {
            return Ok(Requeue::Never);
        }
    }
    match request::delete::<Secret>(&context.client, &key, secret.metadata.uid.as_deref()).await {
        // Another Secret has that name by now.
        Err(error) if error.is_conflict() => Ok(Requeue::Never),
        deleted => deleted.map(|()| Requeue::Never),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn secret(annotations: Value) -> Secret {
        serde_json::from_value(json!({"metadata": {"name": "s", "annotations": annotations},
            "type": TYPE, "data": {"token": "eA=="}}))
        .unwrap()
    }

    #[test]
    fn a_secret_names_its_account() {
        let account: ServiceAccount =
            serde_json::from_value(json!({"metadata": {"name": "a", "uid": "1"}})).unwrap();
        for (annotations, expected) in [
            (json!({ACCOUNT_NAME: "a"}), true),
            (json!({ACCOUNT_NAME: "a", ACCOUNT_UID: ""}), true),
            (json!({ACCOUNT_NAME: "a", ACCOUNT_UID: "1"}), true),
            (json!({ACCOUNT_NAME: "a", ACCOUNT_UID: "2"}), false),
            (json!({ACCOUNT_NAME: "b", ACCOUNT_UID: "1"}), false),
            (json!({}), false),
        ] {
            assert_eq!(is_of(&secret(annotations.clone()), &account), expected, "{annotations}");
        }
    }

    #[test]
    fn tokens_are_not_kept_in_memory() {
        let mut secret = secret(json!({ACCOUNT_NAME: "a"}));
        (form().trim)(&mut secret);
        assert_eq!(secret.data, None);
        assert_eq!(annotation(&secret, ACCOUNT_NAME), Some("a"));
    }
}
