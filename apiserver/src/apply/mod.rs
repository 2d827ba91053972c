//! Server-side apply: fields belong to the managers that set them.

pub(crate) mod managed;

use api::Subresource;
use bytes::Bytes;
use http::Response;

use crate::body::Body;
use crate::call::Call;
use crate::error::ApiError;
use crate::options::WriteOptions;
use crate::verbs::patch::PATCH_TYPES;

/// Answers with the object after the apply.
#[allow(clippy::unused_async)]
pub(crate) async fn answer(
    _call: &Call<'_>,
    _subresource: Subresource<'_>,
    _options: &WriteOptions,
    _body: &Bytes,
) -> Result<Response<Body>, ApiError> {
    Err(ApiError::unsupported_media_type(&PATCH_TYPES[..3]))
}
