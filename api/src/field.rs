//! A JSON value together with the path that leads to it, so that validation can name what it
//! objects to. An absent field reads as null.

use serde_json::Value;

use crate::field_error::FieldError;

static NULL: Value = Value::Null;

/// A value and its path, for example `spec.containers[0].image`.
#[derive(Clone, Debug)]
pub struct Field<'a> {
    /// The value; null when absent.
    pub value: &'a Value,
    /// Where it is.
    pub path: String,
}

impl<'a> Field<'a> {
    /// The object itself; its fields have paths without a prefix.
    pub fn root(value: &'a Value) -> Self {
        Self { value, path: String::new() }
    }

    /// A value at a path.
    pub fn new(value: &'a Value, path: impl Into<String>) -> Self {
        Self { value, path: path.into() }
    }

    /// The member `name`.
    pub fn at(&self, name: &str) -> Self {
        let path =
            if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) };
        Self { value: self.value.get(name).unwrap_or(&NULL), path }
    }

    /// The element `index`.
    pub fn index(&self, index: usize) -> Self {
        let path = format!("{}[{index}]", self.path);
        Self { value: self.value.get(index).unwrap_or(&NULL), path }
    }

    /// The entry `key` of a map, whose path is written `path[key]`.
    pub fn key(&self, key: &str) -> Self {
        let path = format!("{}[{key}]", self.path);
        Self { value: self.value.get(key).unwrap_or(&NULL), path }
    }

    /// The elements of a list; none when it is no list.
    pub fn items(&self) -> Vec<Self> {
        let count = self.value.as_array().map_or(0, Vec::len);
        (0..count).map(|index| self.index(index)).collect()
    }

    /// The entries of a map; none when it is no map.
    pub fn entries(&self) -> Vec<(&'a str, Self)> {
        let keys = self.value.as_object().into_iter().flat_map(|map| map.keys());
        keys.map(|key| (key.as_str(), self.key(key))).collect()
    }

    /// Whether the field is present and not null.
    pub fn exists(&self) -> bool {
        !self.value.is_null()
    }

    /// Whether it is absent, null, an empty text, list or map.
    pub fn is_empty(&self) -> bool {
        match self.value {
            Value::Null => true,
            Value::String(text) => text.is_empty(),
            Value::Array(items) => items.is_empty(),
            Value::Object(map) => map.is_empty(),
            _ => false,
        }
    }

    /// The number of elements or entries.
    pub fn len(&self) -> usize {
        match self.value {
            Value::Array(items) => items.len(),
            Value::Object(map) => map.len(),
            _ => 0,
        }
    }

    /// The text; empty when absent.
    pub fn str(&self) -> &'a str {
        self.value.as_str().unwrap_or_default()
    }

    /// The number, when it is one.
    pub fn int(&self) -> Option<i64> {
        self.value.as_i64()
    }

    /// The boolean; false when absent.
    pub fn bool(&self) -> bool {
        self.value.as_bool().unwrap_or(false)
    }

    /// `Required value: detail`.
    pub fn required(&self, detail: &str) -> FieldError {
        FieldError::required(&self.path, detail)
    }

    /// `Invalid value: value: detail`.
    pub fn invalid(&self, detail: impl Into<String>) -> FieldError {
        FieldError::invalid(&self.path, self.value, detail)
    }

    /// `Forbidden: detail`.
    pub fn forbidden(&self, detail: impl Into<String>) -> FieldError {
        FieldError::forbidden(&self.path, detail)
    }

    /// `Unsupported value: value: supported values: …`.
    pub fn not_supported(&self, supported: &[&str]) -> FieldError {
        FieldError::not_supported(&self.path, self.value, supported)
    }

    /// `Duplicate value: value`.
    pub fn duplicate(&self) -> FieldError {
        FieldError::duplicate(&self.path, self.value)
    }

    /// One `Invalid value` per message.
    pub fn invalid_each(&self, messages: Vec<String>) -> Vec<FieldError> {
        messages.into_iter().map(|message| self.invalid(message)).collect()
    }

    /// An error when the number is below zero.
    pub fn non_negative(&self) -> Option<FieldError> {
        let number = self.int()?;
        (number < 0).then(|| self.invalid("must be greater than or equal to 0"))
    }

    /// An error for each member of that name that is a number below zero.
    pub fn all_non_negative(&self, names: &[&str]) -> Vec<FieldError> {
        names.iter().filter_map(|name| self.at(name).non_negative()).collect()
    }

    /// An error when the number is not above zero.
    pub fn positive(&self) -> Option<FieldError> {
        let number = self.int()?;
        (number <= 0).then(|| self.invalid("must be greater than 0"))
    }

    /// An error when the value differs from `old` (absent and empty are the same).
    pub fn immutable(&self, old: &Value) -> Option<FieldError> {
        (!same(self.value, old)).then(|| self.invalid("field is immutable"))
    }

    /// An error unless the text is one of `supported`.
    pub fn one_of(&self, supported: &[&str]) -> Option<FieldError> {
        (!supported.contains(&self.str()))
            .then(|| FieldError::not_supported(&self.path, self.str(), supported))
    }
}

/// Equality that takes absent, null and empty lists and maps for the same, as upstream's semantic
/// comparison does.
pub fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Object(a), Value::Object(b)) => {
            a.iter().all(|(key, value)| same(value, b.get(key).unwrap_or(&NULL)))
                && b.iter().all(|(key, value)| a.contains_key(key) || is_blank(value))
        }
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b))
        }
        _ if is_blank(a) && is_blank(b) => true,
        _ => a == b,
    }
}

fn is_blank(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn paths() {
        let object = json!({"spec": {"containers": [{"image": "nginx"}], "labels": {"a/b": "c"}}});
        let spec = Field::root(&object).at("spec");
        assert_eq!(spec.at("containers").items()[0].at("image").path, "spec.containers[0].image");
        assert_eq!(spec.at("labels").entries()[0].1.path, "spec.labels[a/b]");
        assert!(!spec.at("nothing").at("at").at("all").exists());
    }

    #[test]
    fn semantic_equality() {
        assert!(same(&json!({"a": [], "b": 1}), &json!({"b": 1, "c": null, "d": {}})));
        assert!(!same(&json!({"a": 0}), &json!({})));
        assert!(!same(&json!({"a": [1]}), &json!({"a": [1, 2]})));
    }
}
