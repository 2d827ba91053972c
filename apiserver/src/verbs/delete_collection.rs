//! `deletecollection`: every selected object.

use bytes::Bytes;
use http::{Response, StatusCode};
use serde_json::json;

use crate::body::{self, Body};
use crate::call::Call;
use crate::error::ApiError;
use crate::selection::Selection;
use crate::verbs::{delete, list};
use crate::write::Stored;
use crate::{meta, render};

/// Answers with the objects as they were left.
pub(crate) async fn answer(call: &Call<'_>, body: &Bytes) -> Result<Response<Body>, ApiError> {
    let options = delete::options(call, body)?;
    let selection = Selection::parse(call)?;
    let prefix = meta::prefix(call.resource, call.namespace());
    let page = call.server.store.select(&prefix, None, 0, |record| selection.matches(record));
    // Texts, not trees: the objects of a namespace may be many, and a tree takes many times its text.
    let (mut left, mut imagined, mut failure) = (Vec::new(), Vec::new(), None);
    for record in page.records {
        call.deadline.check()?;
        match delete::delete(call, meta::split(&record.key).2, &options).await {
            Ok(Stored::Object(record) | Stored::Removed(record)) => left.push(record),
            Ok(Stored::Imagined(mut object)) => {
                render::convert(call, &mut object);
                imagined.push(object.to_string());
            }
            // Somebody else has deleted it in between.
            Err(error) if error.is_not_found() => {}
            // One object keeps no other.
            Err(error) => drop(failure.get_or_insert(error)),
        }
    }
    if let Some(error) = failure {
        return Err(error);
    }
    let metadata = json!({ "resourceVersion": call.server.store.revision().to_string() });
    if imagined.is_empty() {
        return Ok(list::of_records(call, left, &metadata));
    }
    let text = format!("{}{}]}}", list::head(call, &metadata), imagined.join(","));
    Ok(body::typed(StatusCode::OK, text.into(), "application/json", call.headers))
}
