//! `get`: one object.

use http::{Response, StatusCode};

use crate::body::Body;
use crate::call::Call;
use crate::error::ApiError;
use crate::render;

/// Answers with the named object.
pub(crate) fn answer(call: &Call<'_>) -> Result<Response<Body>, ApiError> {
    let name = &call.info.name;
    let record = call.server.store.get(&call.key(name)).ok_or_else(|| call.not_found(name))?;
    render::record(call, StatusCode::OK, &record)
}
