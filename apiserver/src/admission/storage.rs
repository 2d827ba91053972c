//! Storage: the default class, protection of what is in use, and which claims may grow (upstream
//! `DefaultStorageClass`, `StorageObjectInUseProtection`, `PersistentVolumeClaimResize`).

use api::quantity::Quantity;
use serde_json::Value;

use crate::call::Call;
use crate::error::ApiError;
use crate::{meta, object, render};

/// Says that a class is the default, in its present and its former form.
const DEFAULT_CLASS: [&str; 2] = [
    "storageclass.kubernetes.io/is-default-class",
    "storageclass.beta.kubernetes.io/is-default-class",
];

/// A claim without a class gets the newest default one.
pub(super) fn default_class(call: &Call<'_>, claim: &mut Value) -> Result<(), ApiError> {
    if !claim["spec"]["storageClassName"].is_null() {
        return Ok(());
    }
    if let Some(name) =
        super::newest_default(call, "storage.k8s.io", "storageclasses", &DEFAULT_CLASS)?
    {
        object::child_mut(claim, "spec").insert("storageClassName".into(), name.into());
    }
    Ok(())
}

/// Adds a finalizer that is taken away when nothing uses the object any more.
pub(super) fn protect(object: &mut Value, finalizer: &str) {
    if object::finalizers(object).any(|known| known == finalizer) {
        return;
    }
    let mut finalizers: Vec<String> = object::finalizers(object).map(str::to_owned).collect();
    finalizers.push(finalizer.to_owned());
    object::metadata_mut(object).insert("finalizers".into(), finalizers.into());
}

/// A claim grows only if its class lets it.
pub(super) fn resize(call: &Call<'_>, claim: &Value, old: &Value) -> Result<(), ApiError> {
    let size = |claim: &Value| {
        let size = &claim["spec"]["resources"]["requests"]["storage"];
        Quantity::from_json(size).unwrap_or_default()
    };
    if size(claim) <= size(old) {
        return Ok(());
    }
    let refuse = |why: &str| Err(ApiError::forbidden(call.served, object::name(claim), why));
    if old["status"]["phase"] != "Bound" {
        return refuse("Only bound persistent volume claims can be expanded");
    }
    let class = old["spec"]["storageClassName"].as_str().unwrap_or_default();
    let resource = call.server.catalog.stored("storage.k8s.io", "storageclasses");
    let record =
        resource.and_then(|resource| call.server.store.get(&meta::key(resource, "", class)));
    let class = record.map(|record| render::parse(&record)).transpose()?.unwrap_or_default();
    if class["allowVolumeExpansion"] == true {
        return Ok(());
    }
    refuse(
        "only dynamically provisioned pvc can be resized and the storageclass that provisions the \
         pvc must support resize",
    )
}
