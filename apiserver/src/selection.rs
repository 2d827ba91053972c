//! Which objects of a collection a request is about: label and field selectors.

use api::selector::{FieldRequirement, FieldSelector, LabelSelector};
use serde_json::Value;
use store::Record;

use crate::call::Call;
use crate::error::ApiError;
use crate::meta::{self, Meta};

/// The selectors of a list, watch or deletecollection.
pub(crate) struct Selection {
    labels: LabelSelector,
    fields: FieldSelector,
    /// The only name that can match, if there is such.
    name: Option<String>,
    everything: bool,
}

impl Selection {
    pub(crate) fn parse(call: &Call<'_>) -> Result<Self, ApiError> {
        let unparsable = |e: &dyn std::fmt::Display| ApiError::bad_request(e.to_string());
        let labels = LabelSelector::parse(call.query.get("labelSelector").unwrap_or(""))
            .map_err(|e| unparsable(&e))?;
        let fields = FieldSelector::parse(call.query.get("fieldSelector").unwrap_or(""))
            .map_err(|e| unparsable(&e))?;
        let supported = call.resource.behaviour.selectable_fields(&Value::Null);
        for requirement in fields.requirements() {
            let field = requirement.field.as_str();
            let known = field == "metadata.name"
                || (field == "metadata.namespace" && call.resource.namespaced)
                || supported.iter().any(|(name, _)| *name == field);
            if !known {
                return Err(ApiError::bad_request(
                    call.resource.behaviour.unknown_field_message(field),
                ));
            }
        }
        // A legacy watch names its object in the path.
        let name = Some(call.info.name.clone()).filter(|n| !n.is_empty()).or_else(|| {
            let named = |r: &&FieldRequirement| r.equals && r.field == "metadata.name";
            fields.requirements().iter().find(named).map(|r| r.value.clone())
        });
        let everything = labels.is_everything() && fields.is_everything() && name.is_none();
        Ok(Self { labels, fields, name, everything })
    }

    /// Whether no selector narrows the collection.
    pub(crate) fn is_everything(&self) -> bool {
        self.everything
    }

    /// Returns whether only objects of one name are selected.
    pub(crate) fn is_of_one_name(&self) -> bool {
        self.name.is_some()
    }

    /// Whether a record belongs to the selection.
    pub(crate) fn matches(&self, record: &Record<Meta>) -> bool {
        if self.everything {
            return true;
        }
        let (_, namespace, name) = meta::split(&record.key);
        if self.name.as_ref().is_some_and(|wanted| wanted != name) {
            return false;
        }
        // Both are in the order of the names, so one walk finds all, however many they are.
        let mut labels = record.meta.labels.iter().peekable();
        let mut label = |wanted: &str| {
            while labels.next_if(|(name, _)| *name < wanted).is_some() {}
            labels.peek().filter(|(name, _)| *name == wanted).map(|(_, value)| *value)
        };
        self.labels.matches_with(&mut label)
            && self.fields.matches(|field| match field {
                "metadata.name" => Some(name.to_owned()),
                "metadata.namespace" => Some(namespace.to_owned()),
                other => record.meta.field(other).map(str::to_owned),
            })
    }
}
