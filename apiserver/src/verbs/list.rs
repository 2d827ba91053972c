//! `list`: a collection as of one revision, in pages if asked.

mod stored;

use std::sync::Arc;
use std::time::Duration;

use api::Persistence;
use http::{Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use jiff::Timestamp;
use serde_json::{Value, json};
use store::{Page, Record};

use crate::body::{self, Body};
use crate::call::Call;
use crate::error::ApiError;
use crate::heavy::LIGHT_TRANSFORM_BYTES;
use crate::intake;
use crate::meta::{self, Meta};
use crate::negotiate::{self, Encoding, Form};
use crate::options::{Continue, ListOptions, Match};
use crate::render;
use crate::selection::Selection;
use crate::sending::Weight;
use crate::table::Table;
use stored::ListBody;

/// How long a list waits for a revision that the server has not reached.
const REVISION_WAIT: Duration = Duration::from_secs(3);
const REVISION_POLL: Duration = Duration::from_millis(50);

/// Answers with the selected objects.
pub(crate) async fn answer(call: &Call<'_>) -> Result<Response<Body>, ApiError> {
    let accepted = render::accepted(call)?;
    let options = ListOptions::parse(call.query)?;
    let selection = Selection::parse(call)?;
    if call.resource.persistence == Persistence::None {
        return Err(ApiError::method_not_allowed());
    }
    let revision = settle_revision(call, &options).await?;
    let after = options.continue_after.as_ref().map(|c| c.after.as_str());
    let prefix = meta::prefix(call.resource, call.namespace());
    if after.is_some_and(|after| !after.starts_with(&prefix)) {
        return Err(ApiError::bad_request("continue key is not valid: it is of another list"));
    }
    let (store, limit) = (&call.server.store, options.limit);
    let page = match selection.is_everything() {
        true => store.list(&prefix, after, limit),
        false => store.select(&prefix, after, limit, |record| selection.matches(record)),
    };
    let revision = revision.unwrap_or(page.revision);
    let metadata = list_metadata(&page, revision, &selection, options.continue_after.as_ref());
    let value = match accepted.form {
        Form::Whole | Form::Discovery(_) => {
            let list = around(call, page.records, &metadata);
            if accepted.encoding == Encoding::Json {
                return Ok(streamed(call, list));
            }
            serde_json::from_slice(&list.into_bytes()?).map_err(ApiError::internal)?
        }
        Form::Table(version) => {
            let mut table = Table::new(call, version)?;
            let now = Timestamp::now();
            for record in &page.records {
                table.push(render::parse(record)?, now);
            }
            table.finish(&metadata)
        }
        Form::Metadata(version) => {
            let items: Result<Vec<Value>, ApiError> = page
                .records
                .iter()
                .map(|r| Ok(render::partial(&render::parse(r)?, version)))
                .collect();
            json!({
                "kind": "PartialObjectMetadataList",
                "apiVersion": format!("meta.k8s.io/{version}"),
                "metadata": metadata,
                "items": items?,
            })
        }
    };
    body::value(StatusCode::OK, &value, accepted.encoding, call.headers)
}

/// Waits until the server is at least as new as the client wants, and says which revision to
/// report when it is not the present one.
async fn settle_revision(call: &Call<'_>, options: &ListOptions) -> Result<Option<u64>, ApiError> {
    let store = &call.server.store;
    if let Some(token) = &options.continue_after {
        return Ok(Some(token.revision));
    }
    let Some(wanted) = options.resource_version.filter(|rv| *rv != 0) else { return Ok(None) };
    let deadline = tokio::time::Instant::now() + REVISION_WAIT;
    while store.revision() < wanted {
        // Others wait for the turn of a list that has one.
        if intake::in_turn() || tokio::time::Instant::now() >= deadline {
            return Err(ApiError::revision_too_large(wanted, store.revision()));
        }
        tokio::time::sleep(REVISION_POLL).await;
    }
    let exact = options.resource_version_match == Match::Exact;
    if !exact || wanted == store.revision() {
        return Ok(None);
    }
    // Only the present is kept, so a past revision can be served only if nothing changed since.
    let prefix = meta::prefix(call.resource, call.namespace());
    let unchanged = store
        .watch(&prefix, wanted)
        .and_then(|mut watch| watch.poll())
        .is_ok_and(|batch| batch.changes.is_empty());
    if unchanged {
        return Ok(Some(wanted));
    }
    Err(ApiError::expired(format!(
        "The resourceVersion for the provided list is too old: {wanted}"
    )))
}

/// The metadata of a page. How many objects remain is counted from what the first page counted.
fn list_metadata(
    page: &Page<Meta>,
    revision: u64,
    selection: &Selection,
    continued: Option<&Continue>,
) -> Value {
    let mut metadata = json!({ "resourceVersion": revision.to_string() });
    if page.more
        && let Some(last) = page.records.last()
    {
        let before = match continued {
            None => Some(page.count),
            Some(token) => token.remaining.map(|remaining| remaining.min(page.count)),
        };
        let remaining = before
            .filter(|_| selection.is_everything())
            .map(|before| before.saturating_sub(page.records.len()).max(1));
        let token = Continue { revision, after: last.key.to_string(), remaining };
        metadata["continue"] = token.encode().into();
        if let Some(remaining) = remaining {
            metadata["remainingItemCount"] = remaining.into();
        }
    }
    metadata
}

/// Answers with a list of these objects.
pub(super) fn of_records(
    call: &Call<'_>,
    records: Vec<Arc<Record<Meta>>>,
    metadata: &Value,
) -> Response<Body> {
    streamed(call, around(call, records, metadata))
}

/// The list around the objects' own bytes.
fn around(call: &Call<'_>, records: Vec<Arc<Record<Meta>>>, metadata: &Value) -> ListBody {
    ListBody::new(head(call, metadata), records, (call.resource, call.served))
}

/// The text of a list up to its first object.
pub(super) fn head(call: &Call<'_>, metadata: &Value) -> String {
    format!(
        "{{\"kind\":\"{}List\",\"apiVersion\":\"{}\",\"metadata\":{metadata},\"items\":[",
        call.served.kind,
        call.served.api_version()
    )
}

/// The list with large objects in another version, each piece of which takes a turn for heavy work.
fn converted(call: &Call<'_>, list: ListBody) -> Body {
    let (server, holder) = (call.server.clone(), intake::holder(call.user));
    let pieces = futures::stream::unfold(Some(list), move |list| {
        let (server, holder) = (server.clone(), holder.clone());
        async move {
            let mut list = list?;
            let work = async move { (list.next_piece(), list) };
            match server.intake.heavy(&holder, work).await {
                Ok((Ok(piece), list)) => Some((Ok(Frame::data(piece?)), Some(list))),
                Ok((Err(error), _)) => Some((Err(error), None)),
                Err(error) => Some((Err(error.to_string().into()), None)),
            }
        }
    });
    StreamBody::new(pieces).boxed_unsync()
}

/// The list as JSON, which is written while the client takes it.
fn streamed(call: &Call<'_>, list: ListBody) -> Response<Body> {
    let compress = list.weight() > body::GZIP_MIN_BYTES && negotiate::accepts_gzip(call.headers);
    let list = if compress { list.compressed() } else { list };
    let weight = Weight(list.weight());
    let mut response = body::headed(StatusCode::OK, "application/json", compress);
    *response.body_mut() = if list.converts() && list.weight() > LIGHT_TRANSFORM_BYTES {
        converted(call, list)
    } else {
        list.boxed_unsync()
    };
    response.extensions_mut().insert(weight);
    response
}
