//! `patch`: a change given as a difference.

#[cfg(any(test, fuzzing))]
pub mod fuzz_targets;

use api::{FieldError, Subresource, schema};
use bytes::Bytes;
use http::{Response, StatusCode};
use serde_json::Value;

use crate::apply::{self, managed::Writer};
use crate::body::Body;
use crate::call::Call;
use crate::error::ApiError;
use crate::options::{FieldValidation, WriteOptions};
use crate::verbs::json_patch::{self, JsonPatchError};
use crate::verbs::update;
use crate::write::{self, Edit};
use crate::{change_cause, decode, render};

/// Media types of patches.
pub(crate) const PATCH_TYPES: [&str; 4] = [
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
];

/// A difference between two states of an object.
pub(crate) enum Patch {
    /// RFC 6902.
    Json(::json_patch::Patch),
    /// RFC 7396.
    Merge(Value),
    /// Kubernetes' own, which merges lists by their keys.
    Strategic(Value),
}

/// Answers with the patched object.
pub(crate) async fn answer(
    call: &Call<'_>,
    subresource: Subresource<'_>,
    body: &Bytes,
) -> Result<Response<Body>, ApiError> {
    let options = WriteOptions::parse(call, "PatchOptions")?;
    let media_type = decode::media_type(call.headers);
    if media_type == "application/apply-patch+yaml" {
        return apply::answer(call, subresource, &options, body).await;
    }
    if options.force {
        return Err(ApiError::invalid_kind(
            "meta.k8s.io",
            "PatchOptions",
            "",
            vec![FieldError::forbidden("force", "may not be specified for non-apply patch")],
        ));
    }
    let patch = Patch::parse(media_type, body)?;
    let name = &call.info.name;
    let edit = Edit {
        subresource,
        trusted: false,
        dry_run: options.dry_run,
        manager: Some(Writer::new(call, &options, subresource)),
    };
    let stored = write::modify(call, name, &edit, |current| {
        let mut object = current.object.clone();
        render::convert(call, &mut object);
        patch.apply(call, &mut object)?;
        if let Patch::Strategic(difference) = &patch {
            change_cause::reconstruct(call, difference, current.object, &mut object);
        }
        let mut object = check(call, object, body, options.field_validation)?;
        update::claim_identity(call, &mut object)?;
        write::check_identity(call, &object, current)?;
        call.resource
            .decode(call.served, &mut object)
            .map_err(|errors| ApiError::invalid(call.served, name, errors))?;
        Ok(object)
    })
    .await?;
    stored.respond(call, StatusCode::OK)
}

impl Patch {
    /// Reads a patch of this media type.
    pub(crate) fn parse(media_type: &str, body: &[u8]) -> Result<Self, ApiError> {
        match media_type {
            "application/json-patch+json" => {
                let refused = |e: &dyn std::fmt::Display| {
                    ApiError::bad_request(format!("error decoding patch: {e}"))
                };
                let document = schema::parse_json(body).map_err(|e| refused(&e))?.value;
                let patch: ::json_patch::Patch =
                    serde_json::from_value(document).map_err(|e| refused(&e))?;
                let operations = patch.0.len();
                if operations > json_patch::OPERATIONS_MAX {
                    return Err(ApiError::entity_too_large(format!(
                        "The allowed maximum operations in a JSON patch is {}, got {operations}",
                        json_patch::OPERATIONS_MAX
                    )));
                }
                Ok(Self::Json(patch))
            }
            "application/merge-patch+json" => Ok(Self::Merge(decode::json(body)?.value)),
            "application/strategic-merge-patch+json" => {
                Ok(Self::Strategic(decode::json(body)?.value))
            }
            _ => Err(ApiError::unsupported_media_type(&PATCH_TYPES)),
        }
    }

    /// Applies it to an object in the version of the request.
    pub(crate) fn apply(&self, call: &Call<'_>, object: &mut Value) -> Result<(), ApiError> {
        match self {
            Self::Json(patch) => {
                json_patch::apply(object, patch).map_err(|error| match error {
                    // Upstream does not say why.
                    JsonPatchError::Failed => ApiError::unprocessable(),
                    beyond => ApiError::entity_too_large(beyond),
                })
            }
            Self::Merge(patch) => {
                if !patch.is_object() {
                    return Err(ApiError::bad_request("a merge patch must be a JSON object"));
                }
                ::json_patch::merge(object, patch);
                Ok(())
            }
            Self::Strategic(patch) => {
                let served = call.served;
                let message = schema::message(served.group, served.version, served.kind)
                    .ok_or_else(|| ApiError::unsupported_media_type(&PATCH_TYPES[..2]))?;
                *object = schema::strategic_merge(message, object, patch)
                    .map_err(|e| ApiError::bad_request(e.to_string()))?;
                Ok(())
            }
        }
    }
}

/// Checks a patched object against the schema.
fn check(
    call: &Call<'_>,
    mut object: Value,
    body: &[u8],
    validation: FieldValidation,
) -> Result<Value, ApiError> {
    let served = call.served;
    let Some(message) = schema::message(served.group, served.version, served.kind) else {
        return Ok(object);
    };
    let refused = |why: String| {
        let patch = String::from_utf8_lossy(body).into_owned();
        ApiError::invalid_kind("", "", "", vec![FieldError::invalid("patch", patch, why)])
    };
    let unknown = schema::check(message, &mut object).map_err(|e| refused(e.to_string()))?;
    let complaints: Vec<String> =
        unknown.iter().map(|path| format!("unknown field {path:?}")).collect();
    if complaints.is_empty() {
        return Ok(object);
    }
    match validation {
        FieldValidation::Ignore => Ok(object),
        FieldValidation::Warn => {
            call.warn_all(complaints);
            Ok(object)
        }
        FieldValidation::Strict => {
            Err(refused(format!("strict decoding error: {}", complaints.join(", "))))
        }
    }
}
