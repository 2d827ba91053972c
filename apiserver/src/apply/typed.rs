//! Checks that the lists of an applied configuration can be merged: each element has its keys, once
//! (upstream structured-merge-diff, `typed/validate.go`, with its texts).

use std::collections::HashSet;

use api::schema::{Field, ListType, Message, Shape};
use http::StatusCode;
use serde_json::{Map, Value};

use super::paths;
use crate::call::Call;
use crate::error::ApiError;
use crate::object;

/// Faults that one refusal lists.
const FAULTS_MAX: usize = 100;

/// Refuses a configuration whose lists cannot be merged, as upstream with 500 and no reason.
pub(super) fn check(
    call: &Call<'_>,
    config: &Value,
    message: Option<&'static Message>,
) -> Result<(), ApiError> {
    let mut faults = Faults::default();
    if let (Some(message), Some(members)) = (message, config.as_object()) {
        faults.members(members, message);
    }
    let text = match faults.found.as_slice() {
        [] => return Ok(()),
        [one] => one.clone(),
        many => format!("errors:\n  {}", many.join("\n  ")),
    };
    let served = call.served;
    let (namespace, name) = (object::metadata_str(config, "namespace"), object::name(config));
    let text = format!(
        "failed to create typed patch object ({namespace}/{name}; {}/{}, Kind={}): {text}",
        served.group, served.version, served.kind
    );
    Err(ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "", text))
}

/// The faults, and the present path of the walk. It goes as deep as the object, which is bounded.
#[derive(Default)]
struct Faults {
    found: Vec<String>,
    at: String,
}

impl Faults {
    fn add(&mut self, fault: &str) {
        if self.found.len() < FAULTS_MAX {
            self.found.push(format!("{}: {fault}", self.at));
        }
    }

    /// Walks what is one step below.
    fn below(&mut self, step: &str, walk: impl FnOnce(&mut Self)) {
        let length = self.at.len();
        self.at.push_str(step);
        walk(self);
        self.at.truncate(length);
    }

    fn members(&mut self, members: &Map<String, Value>, message: &'static Message) {
        for (key, value) in members {
            if let Some(field) = message.field(key) {
                self.below(&format!(".{key}"), |faults| faults.field(value, field));
            }
        }
    }

    fn field(&mut self, value: &Value, field: &'static Field) {
        match (field.shape(), value) {
            (Shape::List, Value::Array(items)) if paths::is_merged(field) => {
                self.elements(items, field);
            }
            (Shape::List, Value::Array(items)) => {
                for (at, item) in items.iter().enumerate() {
                    self.below(&format!("[{at}]"), |faults| faults.value(item, field));
                }
            }
            (Shape::Map, Value::Object(map)) => {
                for (key, value) in map {
                    self.below(&format!(".{key}"), |faults| faults.value(value, field));
                }
            }
            _ => self.value(value, field),
        }
    }

    fn value(&mut self, value: &Value, field: &'static Field) {
        if let (Some(members), Some(message)) = (value.as_object(), field.message()) {
            self.members(members, message);
        }
    }

    fn elements(&mut self, items: &[Value], field: &'static Field) {
        let mut known = HashSet::with_capacity(items.len());
        for (at, item) in items.iter().enumerate() {
            if let Some(fault) = unnameable(item, field) {
                // The rest of the list is not looked at, as upstream.
                return self.add(&format!("element {at}: {fault}"));
            }
            let element = paths::item_element(item, field);
            let name = paths::display(std::slice::from_ref(&element));
            if !known.insert(element) {
                self.add(&format!("duplicate entries for key {name}"));
            }
            self.below(&name, |faults| faults.value(item, field));
        }
    }
}

/// Returns the reason why an element of a merged list has no name in it.
fn unnameable(item: &Value, field: &'static Field) -> Option<String> {
    let fault = match (field.list_type(), item) {
        (ListType::Map, Value::Object(map)) => {
            let key = field.list_keys().find(|key| {
                map.get(*key).is_none_or(Value::is_null) && paths::default_of(field, key).is_none()
            })?;
            return Some(format!(
                "associative list with keys has an element that omits key field {key:?} (and \
                 doesn't have default value)"
            ));
        }
        (ListType::Map, Value::Null) => "associative list with keys may not have a null element",
        (ListType::Map, _) => "associative list with keys may not have non-map elements",
        (_, Value::Object(_)) => "associative list without keys has an element that's a map type",
        (_, Value::Array(_)) => "not supported: associative list with lists as elements",
        (_, Value::Null) => "associative list without keys has an element that's an explicit null",
        _ => return None,
    };
    Some(fault.to_owned())
}
