//! Checks a JSON object against its schema as Go's decoder does: unknown members are pruned and
//! reported, `null` means absent, a value of the wrong type is an error.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

use super::table::{Field, Message, Shape, Type};

/// Upstream reports no more strict errors than this.
const MAX_UNKNOWN: usize = 100;

/// A value of the wrong type, worded as Go words it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct TypeErrors(String);

/// Prunes unknown members and `null`s; gives the paths of the unknown ones.
pub fn check(message: &'static Message, value: &mut Value) -> Result<Vec<String>, TypeErrors> {
    let mut checker = Checker::default();
    match value {
        Value::Object(map) => checker.object(message, map),
        other => {
            let (is, wants) = (describe(other), message.go_type());
            checker.error =
                Some(format!("json: cannot unmarshal {is} into Go value of type {wants}"));
        }
    }
    match checker.error {
        None => Ok(checker.unknown),
        Some(error) => Err(TypeErrors(error)),
    }
}

/// Go goes on after an error and reports the first one.
#[derive(Default)]
struct Checker {
    /// `spec.containers[0]`: where we are, as strict errors print it.
    path: String,
    /// `spec.containers`: where we are, as type errors print it.
    fields: Vec<&'static str>,
    unknown: Vec<String>,
    error: Option<String>,
}

impl Checker {
    fn object(&mut self, message: &'static Message, map: &mut Map<String, Value>) {
        let mut unwanted = Vec::new();
        for (name, value) in map.iter_mut() {
            match message.field(name) {
                None => {
                    if self.unknown.len() < MAX_UNKNOWN {
                        self.unknown.push(self.member_path(name));
                    }
                    unwanted.push(name.clone());
                }
                Some(_) if value.is_null() => unwanted.push(name.clone()),
                Some(field) => {
                    let length = self.path.len();
                    self.push_member(name);
                    self.fields.push(field.json_name());
                    self.field(message, field, value);
                    self.fields.pop();
                    self.path.truncate(length);
                }
            }
        }
        for name in unwanted {
            map.remove(&name);
        }
    }

    fn field(&mut self, owner: &'static Message, field: &'static Field, value: &mut Value) {
        match (field.shape(), value) {
            (Shape::Single, value) => self.value(owner, field, value),
            (Shape::List, Value::Array(list)) => {
                for (index, element) in list.iter_mut().enumerate() {
                    let length = self.path.len();
                    self.path.push_str(&format!("[{index}]"));
                    self.element(owner, field, element);
                    self.path.truncate(length);
                }
            }
            (Shape::Map, Value::Object(map)) => {
                for (key, element) in map.iter_mut() {
                    let length = self.path.len();
                    self.push_member(key);
                    self.element(owner, field, element);
                    self.path.truncate(length);
                }
            }
            (_, value) => self.mismatch(owner, describe(value), &field.go_type()),
        }
    }

    /// A list element or map value; there `null` is the zero value.
    fn element(&mut self, owner: &'static Message, field: &'static Field, value: &mut Value) {
        if value.is_null() {
            *value = match field.ty() {
                Type::String | Type::Bytes => Value::from(""),
                Type::Bool => Value::from(false),
                Type::Int32 | Type::Int64 | Type::Double | Type::IntOrString => Value::from(0),
                Type::Quantity => Value::from("0"),
                Type::Message => Value::Object(Map::new()),
                Type::Strings => Value::Array(Vec::new()),
                Type::Raw | Type::Time | Type::MicroTime | Type::Duration => Value::Null,
            };
            return;
        }
        self.value(owner, field, value);
    }

    fn value(&mut self, owner: &'static Message, field: &'static Field, value: &mut Value) {
        let wants = || field.go_element_type();
        match (field.ty(), &mut *value) {
            (Type::Message, Value::Object(map)) => {
                if let Some(message) = field.message() {
                    self.object(message, map);
                }
            }
            (Type::String, Value::String(_))
            | (Type::Bool, Value::Bool(_))
            | (Type::Double, Value::Number(_))
            | (Type::IntOrString, Value::String(_))
            | (Type::Raw, _) => {}
            (Type::Int32 | Type::IntOrString, Value::Number(number)) => {
                if number.as_i64().is_none_or(|number| i32::try_from(number).is_err()) {
                    let is = format!("number {number}");
                    self.mismatch(owner, &is, "int32");
                }
            }
            (Type::Int64, Value::Number(number)) => {
                if number.as_i64().is_none() {
                    let is = format!("number {number}");
                    self.mismatch(owner, &is, "int64");
                }
            }
            (Type::Quantity, Value::String(text)) => {
                if let Some(error) = quantity_error(text) {
                    self.fail(error);
                }
            }
            (Type::Quantity, Value::Number(number)) => {
                let text = number.to_string();
                match quantity_error(&text) {
                    Some(error) => self.fail(error),
                    None => *value = Value::String(text),
                }
            }
            (Type::Bytes, Value::String(text)) => {
                let clean: String = text.chars().filter(|c| !matches!(c, '\r' | '\n')).collect();
                if let Err(error) = STANDARD.decode(&clean) {
                    let at = match error {
                        base64::DecodeError::InvalidByte(at, _)
                        | base64::DecodeError::InvalidLastSymbol(at, _) => at,
                        _ => clean.len() / 4 * 4,
                    };
                    self.fail(format!("illegal base64 data at input byte {at}"));
                } else if clean.len() != text.len() {
                    *text = clean;
                }
            }
            (Type::Time | Type::MicroTime, Value::String(text)) => {
                if text.parse::<jiff::Timestamp>().is_err() {
                    let layout = if field.ty() == Type::Time {
                        "2006-01-02T15:04:05Z07:00"
                    } else {
                        "2006-01-02T15:04:05.000000Z07:00"
                    };
                    self.fail(format!(
                        "parsing time {text:?} as {layout:?}: cannot parse {text:?} as \"2006\""
                    ));
                }
            }
            (Type::Duration, Value::String(_)) => {}
            (Type::Strings, Value::Array(list)) => {
                if let Some(other) = list.iter().find(|element| !element.is_string()) {
                    let is = describe(other);
                    self.mismatch(owner, is, "string");
                }
            }
            (_, other) => {
                let is = describe(other);
                self.mismatch(owner, is, &wants());
            }
        }
    }

    fn mismatch(&mut self, owner: &Message, is: &str, wants: &str) {
        let (owner, fields) = (owner.short_name(), self.fields.join("."));
        self.fail(format!(
            "json: cannot unmarshal {is} into Go struct field {owner}.{fields} of type {wants}"
        ));
    }

    fn fail(&mut self, error: String) {
        self.error.get_or_insert(error);
    }

    fn member_path(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }

    fn push_member(&mut self, name: &str) {
        if !self.path.is_empty() {
            self.path.push('.');
        }
        self.path.push_str(name);
    }
}

fn describe(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// Upstream's error for a text that is not a quantity.
fn quantity_error(text: &str) -> Option<String> {
    const FORM: &str = "quantities must match the regular expression \
                        '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'";
    const SUFFIX: &str = "unable to parse quantity's suffix";
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let end = unsigned.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(unsigned.len());
    let (number, suffix) = unsigned.split_at(end);
    if !number.contains(|c: char| c.is_ascii_digit()) || number.matches('.').count() > 1 {
        return Some(FORM.to_owned());
    }
    let known = ["", "n", "u", "m", "k", "M", "G", "T", "P", "E"].contains(&suffix)
        || ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"].contains(&suffix);
    let is_exponent = suffix.strip_prefix(['e', 'E']).is_some_and(|exponent| {
        let digits = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
        !digits.is_empty() && digits.len() < 10 && digits.bytes().all(|b| b.is_ascii_digit())
    });
    (!known && !is_exponent).then(|| {
        let is_form = suffix.chars().all(|c| "eEinumkKMGTP+-".contains(c) || c.is_ascii_digit());
        if is_form { SUFFIX } else { FORM }.to_owned()
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::json;

    use super::*;
    use crate::schema::message;

    fn deployment() -> &'static Message {
        message("apps", "v1", "Deployment").unwrap()
    }

    #[test]
    fn unknown_members_are_pruned_and_named() {
        let mut value = json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": "a", "labels": {"x": "y", "z": null}, "creationTimestamp": null},
            "spec": {
                "replicaz": 3,
                "template": {"spec": {"containers": [
                    {"name": "a", "imagez": "b"},
                    {"name": "b", "envFrom": [{"configMapRef": {"name": "c", "nam": "d"}}]},
                    {"name": "c", "livenessProbe": {"httpGet": {"port": "x", "Path": "/"}}},
                ]}},
            },
        });
        let unknown = check(deployment(), &mut value).unwrap();
        assert_eq!(
            unknown,
            [
                "spec.replicaz",
                "spec.template.spec.containers[0].imagez",
                "spec.template.spec.containers[1].envFrom[0].configMapRef.nam",
                "spec.template.spec.containers[2].livenessProbe.httpGet.Path",
            ]
        );
        assert_eq!(
            value,
            json!({
                "apiVersion": "apps/v1", "kind": "Deployment",
                "metadata": {"name": "a", "labels": {"x": "y", "z": ""}},
                "spec": {"template": {"spec": {"containers": [
                    {"name": "a"},
                    {"name": "b", "envFrom": [{"configMapRef": {"name": "c"}}]},
                    {"name": "c", "livenessProbe": {"httpGet": {"port": "x"}}},
                ]}}},
            })
        );
    }

    #[test]
    fn type_errors_read_as_in_go() {
        let field = "json: cannot unmarshal";
        let cases = [
            (
                json!({"spec": {"replicas": "3"}}),
                format!(
                    "{field} string into Go struct field DeploymentSpec.spec.replicas of type int32"
                ),
            ),
            (
                json!({"spec": {"replicas": 1.5}}),
                format!(
                    "{field} number 1.5 into Go struct field DeploymentSpec.spec.replicas of type int32"
                ),
            ),
            (
                json!({"spec": []}),
                format!(
                    "{field} array into Go struct field Deployment.spec of type v1.DeploymentSpec"
                ),
            ),
            (
                json!({"spec": {"template": {"spec": {"containers": [{"name": 1}]}}}}),
                format!(
                    "{field} number into Go struct field \
                     Container.spec.template.spec.containers.name of type string"
                ),
            ),
            (
                json!({"spec": {"template": {"spec": {"containers": {}}}}}),
                format!(
                    "{field} object into Go struct field \
                     PodSpec.spec.template.spec.containers of type []v1.Container"
                ),
            ),
            (
                json!({"metadata": {"labels": {"a": 1}}}),
                format!(
                    "{field} number into Go struct field ObjectMeta.metadata.labels of type string"
                ),
            ),
            (json!("x"), format!("{field} string into Go value of type v1.Deployment")),
            (
                json!({"spec": {"template": {"spec": {"overhead": {"cpu": "abc"}}}}}),
                "quantities must match the regular expression \
                 '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
                    .to_owned(),
            ),
        ];
        for (mut value, expected) in cases {
            let text = value.to_string();
            let error = check(deployment(), &mut value).unwrap_err();
            assert_eq!(error.to_string(), expected, "{text}");
        }
    }

    #[test]
    fn quantities_and_bytes() {
        for good in ["1", "+1.5Gi", "-2m", "1e3", "1E-3", "100n", ".5", "5.", "1E", "0"] {
            assert_eq!(quantity_error(good), None, "{good}");
        }
        for bad in ["", "x", "1.2.3", "1GiB", "1e", "Ki", "1 Gi", "+-1"] {
            assert!(quantity_error(bad).is_some(), "{bad}");
        }
        let secret = message("", "v1", "Secret").unwrap();
        let mut value = json!({"data": {"a": "aGk=\n"}});
        assert_eq!(check(secret, &mut value), Ok(Vec::new()));
        assert_eq!(value, json!({"data": {"a": "aGk="}}));
        let mut value = json!({"data": {"a": "aGk$"}});
        let error = check(secret, &mut value).unwrap_err();
        assert_eq!(error.to_string(), "illegal base64 data at input byte 3");
    }
}
