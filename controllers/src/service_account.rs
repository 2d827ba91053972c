//! The ServiceAccount controller: every namespace has an account named `default`.

use std::future::Future;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};

use crate::cache::{Change, ObjectKey};
use crate::context::Context;
use crate::error::Error;
use crate::queue::{Queue, Requeue};
use crate::request;

/// The account that pods run as unless they name another.
const DEFAULT: &str = "default";
/// How many namespaces are served at once.
const WORKERS: usize = 4;

/// Whether objects can be created in the namespace.
pub fn is_active(namespace: &Namespace) -> bool {
    namespace.metadata.deletion_timestamp.is_none()
        && namespace.status.as_ref().and_then(|status| status.phase.as_deref())
            != Some("Terminating")
}

/// Subscribes to what matters and returns the workers, to be run when the caches are filled.
pub fn workers(context: &Arc<Context>) -> impl Future<Output = ()> + Send + use<> {
    let queue: Arc<Queue<String>> = Queue::new();
    let wake = queue.clone();
    context
        .caches
        .namespaces
        .on_change(move |change| wake.add(ObjectKey::of(change.object().as_ref()).name));
    let wake = queue.clone();
    context.caches.service_accounts.on_change(move |change| {
        let key = ObjectKey::of(change.object().as_ref());
        if matches!(change, Change::Deleted(_)) && key.name == DEFAULT {
            wake.add(key.namespace);
        }
    });
    context.serve(&queue, "serviceaccount-controller", WORKERS, reconcile)
}

async fn reconcile(context: Arc<Context>, namespace: String) -> Result<Requeue, Error> {
    let active = context.caches.namespaces.get(&ObjectKey::new("", &namespace));
    let accounts = &context.caches.service_accounts;
    let key = ObjectKey::new(&namespace, DEFAULT);
    if !active.is_some_and(|namespace| is_active(&namespace)) || accounts.get(&key).is_some() {
        return Ok(Requeue::Never);
    }
    let mut account = ServiceAccount::default();
    account.metadata.name = Some(key.name);
    account.metadata.namespace = Some(key.namespace);
    match request::create(&context.client, &account).await {
        Ok(written) => accounts.observe(written),
        Err(error) if error.is_already_exists() || error.is_namespace_terminating() => {}
        Err(error) => return Err(error),
    }
    Ok(Requeue::Never)
}
