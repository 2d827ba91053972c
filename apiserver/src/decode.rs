//! From a request body to an object.

use api::Served;
use api::schema::{self, JsonError, ProtobufError};
use bytes::Bytes;
use http::HeaderMap;
use http::header::CONTENT_TYPE;
use serde_json::Value;

use crate::call::Call;
use crate::error::ApiError;
use crate::negotiate::MEDIA_TYPES;
use crate::options::FieldValidation;

/// A body, parsed but not yet checked against a schema.
pub(crate) struct Document {
    pub(crate) value: Value,
    /// Paths of keys that occur twice.
    pub(crate) duplicates: Vec<String>,
    /// Whether it came as protobuf, which cannot hold unknown fields.
    trusted: bool,
}

/// Parses a body by its content type; none means JSON.
pub(crate) fn document(headers: &HeaderMap, body: &Bytes) -> Result<Document, ApiError> {
    match media_type(headers) {
        "" | "application/json" | "*/*" | "application/*" => json(body),
        "application/yaml" | "application/x-yaml" | "text/yaml" => yaml(body),
        "application/vnd.kubernetes.protobuf" => {
            let value = schema::decode_protobuf(body).map_err(|e| match e {
                ProtobufError::TooLarge => ApiError::entity_too_large(e),
                e => ApiError::bad_request(e.to_string()),
            })?;
            Ok(Document { value, duplicates: Vec::new(), trusted: true })
        }
        _ => Err(ApiError::unsupported_media_type(&MEDIA_TYPES)),
    }
}

/// The content type without its parameters.
pub(crate) fn media_type(headers: &HeaderMap) -> &str {
    let header = headers.get(CONTENT_TYPE).and_then(|h| h.to_str().ok()).unwrap_or("");
    header.split(';').next().unwrap_or("").trim()
}

/// Parses JSON.
pub(crate) fn json(body: &[u8]) -> Result<Document, ApiError> {
    let parsed = schema::parse_json(body).map_err(|e| match e {
        JsonError::TooLarge => ApiError::entity_too_large(e),
        e => ApiError::bad_request(format!("couldn't get version/kind; json parse error: {e}")),
    })?;
    Ok(Document { value: parsed.value, duplicates: parsed.duplicates, trusted: false })
}

/// Parses one YAML document.
pub(crate) fn yaml(body: &[u8]) -> Result<Document, ApiError> {
    let parsed = schema::parse_yaml(body).map_err(|e| match e {
        JsonError::TooLarge => ApiError::entity_too_large(e),
        e => ApiError::bad_request(format!("error converting YAML to JSON: {e}")),
    })?;
    Ok(Document { value: parsed.value, duplicates: parsed.duplicates, trusted: false })
}

impl Document {
    /// Makes sure that this is `served`'s kind in `served`'s version, with only fields that its
    /// schema knows. Unknown and duplicate fields are dropped, warned about or refused.
    pub(crate) fn check(
        mut self,
        call: &Call<'_>,
        served: &Served,
        validation: FieldValidation,
    ) -> Result<Value, ApiError> {
        expect_kind(&mut self.value, served)?;
        if self.trusted {
            return Ok(self.value);
        }
        let subject = || {
            format!(
                "{} in version {:?} cannot be handled as a {}",
                served.kind, served.version, served.kind
            )
        };
        let mut complaints: Vec<String> = Vec::new();
        if let Some(message) = schema::message(served.group, served.version, served.kind) {
            let unknown = schema::check(message, &mut self.value)
                .map_err(|e| ApiError::bad_request(format!("{}: {e}", subject())))?;
            complaints.extend(unknown.iter().map(|path| format!("unknown field {path:?}")));
        }
        complaints.extend(self.duplicates.iter().map(|path| format!("duplicate field {path:?}")));
        if complaints.is_empty() {
            return Ok(self.value);
        }
        match validation {
            FieldValidation::Ignore => {}
            FieldValidation::Warn => complaints.into_iter().for_each(|text| call.warn(text)),
            FieldValidation::Strict => {
                return Err(ApiError::bad_request(format!(
                    "{}: strict decoding error: {}",
                    subject(),
                    complaints.join(", ")
                )));
            }
        }
        Ok(self.value)
    }
}

/// Fills in kind and apiVersion, or complains that they are others.
fn expect_kind(value: &mut Value, served: &Served) -> Result<(), ApiError> {
    let wanted = served.api_version();
    let Some(object) = value.as_object_mut() else {
        return Err(ApiError::bad_request(format!(
            "{} in version {:?} cannot be handled as a {}: json: cannot unmarshal {} into Go \
             value of type {}.{}",
            served.kind,
            served.version,
            served.kind,
            json_type(value),
            served.version,
            served.kind
        )));
    };
    let text = |value: Option<&Value>| value.and_then(Value::as_str).unwrap_or("").to_owned();
    let (kind, version) = (text(object.get("kind")), text(object.get("apiVersion")));
    if !version.is_empty() && version != wanted {
        return Err(ApiError::bad_request(format!(
            "the API version in the data ({version}) does not match the expected API version \
             ({wanted})"
        )));
    }
    if !kind.is_empty() && kind != served.kind {
        return Err(ApiError::bad_request(format!(
            "{kind} in version {:?} cannot be handled as a {}: no kind {kind:?} is registered for \
             the requested resource",
            served.version, served.kind
        )));
    }
    object.insert("kind".into(), served.kind.into());
    object.insert("apiVersion".into(), wanted.into());
    Ok(())
}

fn json_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}
