//! `namespaces/finalize`: takes finalizers off a namespace's spec; without any it goes.

use api::Subresource;
use http::{Response, StatusCode};
use serde_json::Value;

use crate::body::{self, Body};
use crate::call::Call;
use crate::decode;
use crate::error::ApiError;
use crate::object;
use crate::options::WriteOptions;
use crate::verbs::update;
use crate::write::{self, Edit};

/// Answers `PUT …/namespaces/<name>/finalize`.
pub(crate) async fn answer(call: &Call<'_>, body: Body) -> Result<Response<Body>, ApiError> {
    if call.info.verb != "update" {
        return Err(ApiError::method_not_allowed());
    }
    let body = body::read(call.headers, body).await?;
    let options = WriteOptions::parse(call, "UpdateOptions")?;
    let document = decode::document(call.headers, &body)?;
    let mut wanted = document.check(call, call.served, options.field_validation)?;
    update::claim_identity(call, &mut wanted)?;
    let edit = Edit {
        subresource: Subresource::None,
        trusted: true,
        dry_run: options.dry_run,
        manager: None,
    };
    let stored = write::modify(call, &call.info.name, &edit, |current| {
        write::check_identity(call, &wanted, current)?;
        let mut namespace = current.object.clone();
        let spec = object::child_mut(&mut namespace, "spec");
        match &wanted["spec"]["finalizers"] {
            Value::Array(finalizers) if !finalizers.is_empty() => {
                spec.insert("finalizers".into(), finalizers.clone().into());
            }
            _ => drop(spec.remove("finalizers")),
        }
        Ok(namespace)
    })
    .await?;
    stored.respond(call, StatusCode::OK)
}
