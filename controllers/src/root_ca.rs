//! The root CA publisher: every namespace has a ConfigMap `kube-root-ca.crt` with the certificate
//! that pods are to trust when they call the API.

use std::future::Future;
use std::sync::Arc;

use k8s_openapi::api::core::v1::ConfigMap;

use crate::cache::ObjectKey;
use crate::context::Context;
use crate::error::Error;
use crate::queue::{Queue, Requeue};
use crate::request;
use crate::service_account::is_active;

/// The name of the ConfigMap.
pub const NAME: &str = "kube-root-ca.crt";
/// Its only key.
const KEY: &str = "ca.crt";
/// The annotation that explains it.
const DESCRIPTION: (&str, &str) = (
    "kubernetes.io/description",
    "Contains a CA bundle that can be used to verify the kube-apiserver when using internal \
     endpoints such as the internal service IP or kubernetes.default.svc. No other usage is \
     guaranteed across distributions of Kubernetes clusters.",
);
/// How many namespaces are served at once.
const WORKERS: usize = 4;

/// Subscribes to what matters and returns the workers, to be run when the caches are filled.
pub fn workers(context: &Arc<Context>) -> impl Future<Output = ()> + Send + use<> {
    let queue: Arc<Queue<String>> = Queue::new();
    let wake = queue.clone();
    context
        .caches
        .namespaces
        .on_change(move |change| wake.add(ObjectKey::of(change.object().as_ref()).name));
    let wake = queue.clone();
    context
        .caches
        .root_cas
        .on_change(move |change| wake.add(ObjectKey::of(change.object().as_ref()).namespace));
    context.serve(&queue, "root-ca-cert-publisher", WORKERS, reconcile)
}

/// The ConfigMap that a namespace shall have, `None` if the known one will do.
fn plan(namespace: &str, certificate: &str, known: Option<&ConfigMap>) -> Option<ConfigMap> {
    let mut wanted = known.cloned().unwrap_or_default();
    wanted.metadata.name = Some(NAME.to_owned());
    wanted.metadata.namespace = Some(namespace.to_owned());
    let annotations = wanted.metadata.annotations.get_or_insert_default();
    annotations.insert(DESCRIPTION.0.to_owned(), DESCRIPTION.1.to_owned());
    wanted.data = Some([(KEY.to_owned(), certificate.to_owned())].into());
    (known != Some(&wanted)).then_some(wanted)
}

async fn reconcile(context: Arc<Context>, namespace: String) -> Result<Requeue, Error> {
    let active = context.caches.namespaces.get(&ObjectKey::new("", &namespace));
    if !active.is_some_and(|namespace| is_active(&namespace)) {
        return Ok(Requeue::Never);
    }
    let known = context.caches.root_cas.get(&ObjectKey::new(&namespace, NAME));
    let plan = plan(&namespace, &context.config.root_ca_pem, known.as_deref());
    let Some(wanted) = plan else { return Ok(Requeue::Never) };
    let written = match known {
        Some(_) => request::replace(&context.client, &wanted).await,
        None => request::create(&context.client, &wanted).await,
    };
    match written {
        Ok(written) => context.caches.root_cas.observe(written),
        Err(error) if error.is_already_exists() || error.is_namespace_terminating() => {}
        Err(error) => return Err(error),
    }
    Ok(Requeue::Never)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_tampered_certificate_is_put_right() {
        let wanted = plan("default", "PEM", None).unwrap();
        assert_eq!(plan("default", "PEM", Some(&wanted)), None);
        let mut tampered = wanted.clone();
        tampered.data = None;
        assert_eq!(plan("default", "PEM", Some(&tampered)), Some(wanted.clone()));
        assert!(plan("default", "NEW PEM", Some(&wanted)).is_some());
    }
}
