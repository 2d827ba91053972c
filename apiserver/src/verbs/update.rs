//! `update`: a whole object replaces the stored one.

use api::Subresource;
use bytes::Bytes;
use http::{Response, StatusCode};
use serde_json::Value;

use crate::apply::managed::Writer;
use crate::body::Body;
use crate::call::Call;
use crate::decode;
use crate::error::ApiError;
use crate::object;
use crate::options::WriteOptions;
use crate::write::{self, Edit};

/// Answers with the updated object.
pub(crate) async fn answer(
    call: &Call<'_>,
    subresource: Subresource<'_>,
    body: &Bytes,
) -> Result<Response<Body>, ApiError> {
    let options = WriteOptions::parse(call, "UpdateOptions")?;
    let document = decode::document(call.headers, body)?;
    let mut wanted = document.check(call, call.served, options.field_validation)?;
    claim_identity(call, &mut wanted)?;
    let name = &call.info.name;
    call.resource
        .decode(call.served, &mut wanted)
        .map_err(|errors| ApiError::invalid(call.served, name, errors))?;
    let edit = Edit {
        subresource,
        trusted: false,
        dry_run: options.dry_run,
        manager: Some(Writer::new(call, &options, subresource)),
    };
    let stored = write::modify(call, name, &edit, |current| {
        write::check_identity(call, &wanted, current)?;
        Ok(wanted.clone())
    })
    .await?;
    stored.respond(call, StatusCode::OK)
}

/// Fills in name and namespace from the URL, or refuses others.
pub(crate) fn claim_identity(call: &Call<'_>, object: &mut Value) -> Result<(), ApiError> {
    let name = object::name(object).to_owned();
    if name != call.info.name {
        return Err(ApiError::bad_request(if name.is_empty() {
            "name is required".to_owned()
        } else {
            format!(
                "the name of the object ({name}) does not match the name on the URL ({})",
                call.info.name
            )
        }));
    }
    if call.resource.namespaced {
        super::create::claim_namespace(call, object)?;
    }
    Ok(())
}
