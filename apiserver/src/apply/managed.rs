//! `metadata.managedFields`: who set which fields.

use api::Subresource;
use serde_json::Value;

use crate::call::Call;
use crate::object;
use crate::options::WriteOptions;

/// The member of `metadata`.
pub(crate) const FIELD: &str = "managedFields";

/// Who writes, as `managedFields` records it.
#[derive(Clone, Debug)]
pub(crate) struct Writer<'a> {
    pub(crate) manager: String,
    pub(crate) api_version: String,
    pub(crate) subresource: &'a str,
}

impl<'a> Writer<'a> {
    pub(crate) fn new(
        call: &Call<'_>,
        options: &WriteOptions,
        subresource: Subresource<'a>,
    ) -> Self {
        let subresource = match subresource {
            Subresource::None => "",
            Subresource::Status => "status",
            Subresource::Scale => "scale",
            Subresource::Other(name) => name,
        };
        Self {
            manager: options.manager.clone(),
            api_version: call.served.api_version(),
            subresource,
        }
    }
}

/// Carries the record of managers over.
pub(crate) fn record_update(new: &mut Value, old: &Value, _writer: &Writer<'_>) {
    let metadata = object::metadata_mut(new);
    match &old["metadata"][FIELD] {
        Value::Null => drop(metadata.remove(FIELD)),
        fields => drop(metadata.insert(FIELD.into(), fields.clone())),
    }
}
