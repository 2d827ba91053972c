//! Built-in admission: what the server adds to or refuses of valid requests, in upstream's order.

mod ingress;
mod limit_range;
mod namespace_lifecycle;
mod pod_priority;
mod pod_security;
pub(crate) mod quota;
mod runtime_class;
mod service_account;
mod storage;
mod tolerations;

use api::Subresource;
use serde_json::Value;

use crate::call::Call;
use crate::error::ApiError;
use crate::{meta, object, render};

/// Before an object is created: may change it.
pub(crate) async fn create(call: &Call<'_>, object: &mut Value) -> Result<(), ApiError> {
    let stored = call.stored_as();
    namespace_lifecycle::create(call, object)?;
    if is_pod(call) {
        service_account::create(call, object).await?;
        pod_priority::create(call, object)?;
        tolerations::create(object);
        runtime_class::create(call, object)?;
        limit_range::create_pod(call, object)?;
    }
    if is_claim(call) {
        limit_range::check_claim(call, object)?;
    }
    match (stored.group, stored.kind) {
        ("", "Secret") => {
            call.server.security.fill_token_secret(object)?;
        }
        ("", "PersistentVolumeClaim") => {
            storage::default_class(call, object)?;
            storage::protect(object, "kubernetes.io/pvc-protection");
        }
        ("networking.k8s.io", "Ingress") => ingress::default_class(call, object)?,
        ("", "PersistentVolume") => storage::protect(object, "kubernetes.io/pv-protection"),
        _ => {}
    }
    Ok(())
}

/// Before a valid new object is stored: only refuses.
pub(crate) fn validate_create(call: &Call<'_>, object: &Value) -> Result<(), ApiError> {
    check_roles(call, object, None)?;
    pod_priority::check_default(call, object)?;
    pod_security::create(call, object)
}

/// Before a valid changed object is stored: only refuses.
pub(crate) fn validate_update(
    call: &Call<'_>,
    object: &Value,
    old: &Value,
    subresource: Subresource<'_>,
) -> Result<(), ApiError> {
    pod_priority::check_default(call, object)?;
    pod_security::update(call, object, old, subresource)
}

/// The name of the newest class that one of these annotations makes the default.
fn newest_default(
    call: &Call<'_>,
    group: &str,
    plural: &str,
    annotations: &[&str],
) -> Result<Option<String>, ApiError> {
    let resource = call.server.builtin(group, plural)?;
    let mut newest: Option<Value> = None;
    for record in call.server.store.list(&meta::prefix(resource, ""), None, 0).records {
        let class = render::parse(&record)?;
        let is_default =
            annotations.iter().any(|key| class["metadata"]["annotations"][*key] == "true");
        let created = |class: &Value| object::metadata_str(class, "creationTimestamp").to_owned();
        if is_default && newest.as_ref().is_none_or(|known| created(known) < created(&class)) {
            newest = Some(class);
        }
    }
    Ok(newest.map(|class| object::name(&class).to_owned()))
}

/// Nobody hands out more than they hold themselves.
fn check_roles(call: &Call<'_>, object: &Value, old: Option<&Value>) -> Result<(), ApiError> {
    let stored = call.stored_as();
    if stored.group == "rbac.authorization.k8s.io" {
        let namespace = call.namespace();
        let checked =
            call.server.security.check_rbac_write(call.user, stored.plural, namespace, object, old);
        checked.map_err(|refusal| {
            ApiError::from(refusal).about(stored.group, stored.plural, object::name(object))
        })?;
    }
    Ok(())
}

/// Before an object is updated: may change it. What it returns is held until the object is stored.
pub(crate) async fn update(
    call: &Call<'_>,
    object: &mut Value,
    old: &Value,
    subresource: Subresource<'_>,
) -> Result<Option<quota::Turn>, ApiError> {
    if is_pod(call) && subresource == Subresource::None {
        pod_priority::update(object, old);
        tolerations::create(object);
    }
    if is_claim(call) && subresource == Subresource::None {
        storage::resize(call, object, old)?;
        limit_range::check_claim(call, object)?;
    }
    check_roles(call, object, Some(old))?;
    if subresource == Subresource::None {
        return quota::update(call, object, old).await;
    }
    Ok(None)
}

/// Before an object is deleted.
pub(crate) fn delete(call: &Call<'_>, name: &str) -> Result<(), ApiError> {
    namespace_lifecycle::delete(call, name)
}

fn is_claim(call: &Call<'_>) -> bool {
    let stored = call.stored_as();
    stored.group.is_empty() && stored.kind == "PersistentVolumeClaim"
}

fn is_pod(call: &Call<'_>) -> bool {
    let stored = call.stored_as();
    stored.group.is_empty() && stored.kind == "Pod"
}
