//! Requests below an object: `/status`, `/scale`, `/binding`, `/log` and the like.

pub(crate) mod binding;
pub(crate) mod eviction;
pub(crate) mod finalize;
pub(crate) mod scale;

use api::Subresource;
use http::request::Parts;
use http::{Response, StatusCode};

use crate::body::{self, Body};
use crate::call::Call;
use crate::error::ApiError;
use crate::negotiate::Encoding;
use crate::options::WriteOptions;
use crate::{decode, public, stream_proxy, verbs};

/// Answers a request for a subresource.
pub(crate) async fn dispatch(
    call: &Call<'_>,
    parts: Parts,
    body: Body,
) -> Result<Response<Body>, ApiError> {
    let stored = call.stored_as();
    let subresource = call.info.subresource.as_str();
    match (stored.group, stored.plural, subresource) {
        (_, _, "status") if call.resource.has_status => {
            object(call, Subresource::Status, body).await
        }
        (_, _, "scale") if call.resource.has_scale => scale::answer(call, body).await,
        ("", "pods", "log" | "exec" | "attach" | "portforward" | "proxy")
        | ("", "services" | "nodes", "proxy") => stream_proxy::answer(call, parts, body).await,
        ("", "pods", "binding") => {
            let body = create_body(call, body).await?;
            binding::answer(call, &call.info.name, &body).await
        }
        ("", "pods", "eviction") => {
            let body = create_body(call, body).await?;
            eviction::answer(call, &body).await
        }
        ("", "namespaces", "finalize") => finalize::answer(call, body).await,
        ("", "serviceaccounts", "token") => {
            let body = create_body(call, body).await?;
            let request = decode::document(call.headers, &body)?.value;
            let security = &call.server.security;
            let answer = security.create_token(call.namespace(), &call.info.name, request)?;
            body::value(StatusCode::CREATED, &answer, Encoding::Json, call.headers)
        }
        _ if call.resource.subresources.iter().any(|s| s.name == subresource) => {
            object(call, Subresource::Other(subresource), body).await
        }
        _ => Ok(public::page_not_found()),
    }
}

/// A part of the object that is read and written as the object itself.
async fn object(
    call: &Call<'_>,
    subresource: Subresource<'_>,
    body: Body,
) -> Result<Response<Body>, ApiError> {
    match call.info.verb {
        "get" => verbs::get::answer(call),
        "update" => {
            let body = body::read(call.headers, body).await?;
            verbs::update::answer(call, subresource, &body).await
        }
        "patch" => {
            let body = body::read(call.headers, body).await?;
            verbs::patch::answer(call, subresource, &body).await
        }
        _ => Err(ApiError::method_not_allowed()),
    }
}

async fn create_body(call: &Call<'_>, body: Body) -> Result<bytes::Bytes, ApiError> {
    if call.info.verb != "create" {
        return Err(ApiError::method_not_allowed());
    }
    WriteOptions::parse(call, "CreateOptions")?;
    body::read(call.headers, body).await
}
