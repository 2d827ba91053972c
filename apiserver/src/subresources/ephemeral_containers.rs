//! `pods/ephemeralcontainers`: adds debugging containers to a pod that runs.

use api::Subresource;
use http::Response;
use serde_json::Value;

use crate::body::{self, Body};
use crate::call::Call;
use crate::error::ApiError;
use crate::verbs;

/// Name of the subresource.
const NAME: &str = "ephemeralcontainers";

/// Answers get, update and patch.
pub(crate) async fn answer(call: &Call<'_>, body: Body) -> Result<Response<Body>, ApiError> {
    match call.info.verb {
        "get" => verbs::get::answer(call),
        "update" => {
            let bytes = body::read(call.headers, body).await?;
            verbs::update::answer(call, Subresource::Other(NAME), &bytes).await
        }
        "patch" => {
            let bytes = body::read(call.headers, body).await?;
            verbs::patch::answer(call, Subresource::Other(NAME), &bytes).await
        }
        _ => Err(ApiError::method_not_allowed()),
    }
}

/// Carries over everything but the ephemeral containers.
pub(crate) fn keep_the_rest(pod: &mut Value, old: &Value) {
    let containers = pod["spec"]["ephemeralContainers"].take();
    *pod = old.clone();
    if !containers.is_null() {
        pod["spec"]["ephemeralContainers"] = containers;
    }
}
