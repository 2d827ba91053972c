//! From any JSON value to a typed object.

use serde::de::DeserializeOwned;
use serde_json::Value;

/// Decodes `value` by way of its text.
///
/// The code that decodes the types of Kubernetes is large, and there is one copy of it for each kind
/// of source; text is the source that everything else decodes from (`docs/decisions/0010`).
pub fn typed<T: DeserializeOwned>(value: &Value) -> serde_json::Result<T> {
    serde_json::from_str(&value.to_string())
}
