//! A pod that asks for a class of runtimes must name one that there is (upstream `RuntimeClass`):
//! containers are run in one way here, so there is none.

use serde_json::Value;

use crate::call::Call;
use crate::error::ApiError;
use crate::object;

pub(super) fn create(call: &Call<'_>, pod: &Value) -> Result<(), ApiError> {
    let spec = &pod["spec"];
    match spec["runtimeClassName"].as_str() {
        None | Some("") if spec["overhead"].as_object().is_some_and(|o| !o.is_empty()) => {
            let why = "pod rejected: Pod Overhead set without corresponding RuntimeClass defined \
                       Overhead";
            Err(ApiError::forbidden(call.served, object::name(pod), why))
        }
        None | Some("") => Ok(()),
        Some(class) => {
            let why = format!("pod rejected: RuntimeClass {class:?} not found");
            Err(ApiError::forbidden(call.served, object::name(pod), &why))
        }
    }
}
