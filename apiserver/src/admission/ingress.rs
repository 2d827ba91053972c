//! An Ingress without a class gets the default one (upstream `DefaultIngressClass`).

use serde_json::Value;

use crate::call::Call;
use crate::error::ApiError;
use crate::object;

/// Says that a class is the default.
const DEFAULT_CLASS: [&str; 1] = ["ingressclass.kubernetes.io/is-default-class"];
/// How classes were named before there were objects for them.
const CLASS_ANNOTATION: &str = "kubernetes.io/ingress.class";

pub(super) fn default_class(call: &Call<'_>, ingress: &mut Value) -> Result<(), ApiError> {
    let named = ingress["metadata"]["annotations"][CLASS_ANNOTATION].is_string();
    if named || !ingress["spec"]["ingressClassName"].is_null() {
        return Ok(());
    }
    let (group, plural) = ("networking.k8s.io", "ingressclasses");
    if let Some(name) = super::newest_default(call, group, plural, &DEFAULT_CLASS)? {
        object::child_mut(ingress, "spec").insert("ingressClassName".into(), name.into());
    }
    Ok(())
}
