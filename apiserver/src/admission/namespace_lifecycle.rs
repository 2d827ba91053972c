//! Objects live only in namespaces that exist and are not being torn down; some namespaces stay.

use serde_json::Value;

use crate::call::Call;
use crate::error::ApiError;
use crate::{meta, object, render};

/// Namespaces that cannot be deleted.
const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];

pub(super) fn create(call: &Call<'_>, new: &Value) -> Result<(), ApiError> {
    let namespace = call.namespace();
    if namespace.is_empty() {
        return Ok(());
    }
    let resource = call.server.builtin("", "namespaces")?;
    let key = meta::key(resource, "", namespace);
    let Some(record) = call.server.store.get(&key) else {
        return Err(ApiError::not_found(&resource.served[0], namespace));
    };
    // Reviews of access are answered even while the namespace goes.
    let terminating = record.meta.field("status.phase") == Some("Terminating")
        || (record.meta.fields.is_empty() && is_terminating(&record)?);
    if terminating && call.stored_as().group != "authorization.k8s.io" {
        return Err(ApiError::namespace_terminating(call.served, object::name(new), namespace));
    }
    Ok(())
}

fn is_terminating(record: &store::Record<meta::Meta>) -> Result<bool, ApiError> {
    let namespace = render::parse(record)?;
    Ok(object::is_deleting(&namespace) || namespace["status"]["phase"] == "Terminating")
}

pub(super) fn delete(call: &Call<'_>, name: &str) -> Result<(), ApiError> {
    let stored = call.stored_as();
    if stored.group.is_empty() && stored.kind == "Namespace" && IMMORTAL.contains(&name) {
        return Err(ApiError::forbidden(call.served, name, "this namespace may not be deleted"));
    }
    Ok(())
}
