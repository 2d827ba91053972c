//! From stored objects to response bodies in the form that the client accepts.

use bytes::Bytes;
use http::{Response, StatusCode};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use store::Record;

use crate::body::{self, Body};
use crate::call::Call;
use crate::error::ApiError;
use crate::meta::Meta;
use crate::negotiate::{self, Accepted, Encoding, Form};
use crate::object::Encoded;
use crate::table::{self, Table};

/// Parses stored bytes.
pub(crate) fn parse(record: &Record<Meta>) -> Result<Value, ApiError> {
    from_stored(record)
}

fn from_stored<'a, T: Deserialize<'a>>(record: &'a Record<Meta>) -> Result<T, ApiError> {
    serde_json::from_slice(&record.value).map_err(|e| {
        ApiError::internal(format!("the stored object {} is damaged: {e}", record.key))
    })
}

/// Converts from the storage version to the version of the request.
pub(crate) fn convert(call: &Call<'_>, object: &mut Value) {
    if !call.is_storage_version() {
        call.resource.encode(call.served, object);
    }
}

/// A stored object as JSON in the version of the request.
pub(crate) fn whole(call: &Call<'_>, record: &Record<Meta>) -> Result<Bytes, ApiError> {
    if call.is_storage_version() {
        return Ok(record.value.clone());
    }
    let mut object = parse(record)?;
    convert(call, &mut object);
    Ok(Encoded::new(&object, call.served).at(record.revision))
}

/// The representation of one object that this client wants.
pub(crate) fn accepted(call: &Call<'_>) -> Result<Accepted, ApiError> {
    negotiate::accepted(call.headers, |form| !matches!(form, Form::Discovery(_)))
}

/// A response with one stored object.
pub(crate) fn record(
    call: &Call<'_>,
    status: StatusCode,
    record: &Record<Meta>,
) -> Result<Response<Body>, ApiError> {
    let accepted = accepted(call)?;
    if accepted == (Accepted { encoding: Encoding::Json, form: Form::Whole }) {
        return Ok(body::json_bytes(status, whole(call, record)?, call.headers));
    }
    object(call, status, parse(record)?)
}

/// A response with one object in its storage version.
pub(crate) fn object(
    call: &Call<'_>,
    status: StatusCode,
    mut object: Value,
) -> Result<Response<Body>, ApiError> {
    let accepted = accepted(call)?;
    let rendered = match accepted.form {
        Form::Table(version) => {
            let mut table = table::Table::new(call, version)?;
            table.push(object, Timestamp::now());
            table.finish(&json!({}))
        }
        Form::Metadata(version) => partial(&object, version),
        Form::Whole | Form::Discovery(_) => {
            convert(call, &mut object);
            object["apiVersion"] = call.served.api_version().into();
            object["kind"] = call.served.kind.into();
            object
        }
    };
    body::value(status, &rendered, accepted.encoding, call.headers)
}

/// A list of objects that are stored nowhere.
pub(crate) fn computed_list(
    call: &Call<'_>,
    items: Vec<Value>,
) -> Result<Response<Body>, ApiError> {
    let accepted = accepted(call)?;
    let metadata = json!({});
    let document = match accepted.form {
        Form::Table(version) => {
            let mut table = Table::new(call, version)?;
            let now = Timestamp::now();
            items.into_iter().for_each(|item| table.push(item, now));
            table.finish(&metadata)
        }
        Form::Metadata(version) => {
            let items: Vec<Value> = items.iter().map(|item| partial(item, version)).collect();
            json!({
                "kind": "PartialObjectMetadataList",
                "apiVersion": format!("meta.k8s.io/{version}"),
                "metadata": metadata,
                "items": items,
            })
        }
        _ => json!({
            "kind": format!("{}List", call.served.kind),
            "apiVersion": call.served.api_version(),
            "metadata": metadata,
            "items": items,
        }),
    };
    body::value(StatusCode::OK, &document, Encoding::Json, call.headers)
}

/// A stored object as `PartialObjectMetadata` in JSON; its metadata is taken as it is stored.
pub(crate) fn partial_bytes(record: &Record<Meta>, version: &str) -> Result<Vec<u8>, ApiError> {
    #[derive(Deserialize)]
    struct Stored<'a> {
        #[serde(borrow)]
        metadata: &'a RawValue,
    }
    let stored: Stored<'_> = from_stored(record)?;
    let metadata = stored.metadata.get();
    Ok(format!(
        "{{\"kind\":\"PartialObjectMetadata\",\"apiVersion\":\"meta.k8s.io/{version}\",\
         \"metadata\":{metadata}}}"
    )
    .into())
}

/// An object as `PartialObjectMetadata`.
pub(crate) fn partial(object: &Value, version: &str) -> Value {
    json!({
        "kind": "PartialObjectMetadata",
        "apiVersion": format!("meta.k8s.io/{version}"),
        "metadata": object["metadata"],
    })
}
