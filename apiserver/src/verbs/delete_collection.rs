//! `deletecollection`: every selected object.

use bytes::Bytes;
use http::{Response, StatusCode};
use serde_json::json;

use crate::body::{self, Body};
use crate::call::Call;
use crate::error::ApiError;
use crate::negotiate::Encoding;
use crate::selection::Selection;
use crate::verbs::delete;
use crate::{meta, render};

/// Answers with the objects as they were left.
pub(crate) async fn answer(call: &Call<'_>, body: &Bytes) -> Result<Response<Body>, ApiError> {
    let options = delete::options(call, body)?;
    let selection = Selection::parse(call)?;
    let prefix = meta::prefix(call.resource, call.namespace());
    let page = call.server.store.list(&prefix, None, 0, |record| selection.matches(record));
    let mut items = Vec::with_capacity(page.records.len());
    for record in &page.records {
        match delete::delete(call, meta::split(&record.key).2, &options).await {
            Ok(stored) => {
                let mut object = stored.object()?;
                render::convert(call, &mut object);
                items.push(object);
            }
            // Somebody else has deleted it in between.
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
    }
    let list = json!({
        "kind": format!("{}List", call.served.kind),
        "apiVersion": call.served.api_version(),
        "metadata": { "resourceVersion": call.server.store.revision().to_string() },
        "items": items,
    });
    body::value(StatusCode::OK, &list, Encoding::Json, call.headers)
}
