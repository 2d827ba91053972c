//! Secret.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::Value;

use super::row;
use crate::defaults::{child, set, set_default_text, take};
use crate::field::{Field, same};
use crate::field_error::{ErrorList, FieldError};
use crate::names;
use crate::registry::{Behaviour, Cell, Column, Resource, Served, Subresource};
use crate::schema::parse_json;

/// The row of the resource table.
pub const RESOURCE: Resource = Resource::new(SERVED, &Secret);

const SERVED: &[Served] = &[Served::new("", "v1", "Secret", "secrets", "secret")];

/// All values together, decoded.
const MAX_BYTES: usize = 1024 * 1024;

struct Secret;

impl Behaviour for Secret {
    fn to_storage(&self, _served: &Served, object: &mut Value) -> Result<(), ErrorList> {
        if let Value::Object(texts) = take(object, "stringData") {
            let data = child(object, "data");
            for (key, text) in texts {
                let text = text.as_str().unwrap_or_default();
                set(data, &key, STANDARD.encode(text));
            }
        }
        set_default_text(object, "type", "Opaque");
        Ok(())
    }

    fn prepare_for_update(&self, object: &mut Value, old: &Value, _: Subresource<'_>) {
        // An update without a type keeps the one it has.
        if row::plain(&object["type"], "").is_empty() {
            set(object, "type", old["type"].clone());
        }
    }

    fn validate(&self, object: &Value) -> ErrorList {
        let object = Field::root(object);
        let data = object.at("data");
        let mut errors = ErrorList::new();
        let mut size = 0;
        for (key, value) in data.entries() {
            for message in names::config_map_key(key) {
                errors.push(FieldError::invalid(&value.path, key, message));
            }
            size += decoded(value.value).len();
        }
        if size > MAX_BYTES {
            errors.push(FieldError::too_long("data", MAX_BYTES));
        }
        errors.extend(validate_type(&object, &data));
        errors
    }

    fn validate_update(&self, object: &Value, old: &Value, _: Subresource<'_>) -> ErrorList {
        let mut errors = ErrorList::new();
        errors.extend(Field::root(object).at("type").immutable(&old["type"]));
        errors.extend(validate_immutable(object, old, &["data"]));
        errors.extend(self.validate(object));
        errors
    }

    fn columns(&self) -> &'static [Column] {
        const { &[Column::NAME, Column::text("Type"), Column::text("Data"), Column::AGE] }
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Cell> {
        vec![
            row::name(object),
            object["type"].clone(),
            row::count(&object["data"]).into(),
            row::age(object, now),
        ]
    }

    fn selectable_fields(&self, object: &Value) -> Vec<(&'static str, String)> {
        vec![("type", row::plain(&object["type"], ""))]
    }
}

fn decoded(value: &Value) -> Vec<u8> {
    STANDARD.decode(value.as_str().unwrap_or_default()).unwrap_or_default()
}

fn validate_type(object: &Field<'_>, data: &Field<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    let need = |key: &str| (!data.at(key).exists()).then(|| data.key(key).required(""));
    let json = |key: &str| {
        let error = parse_json(&decoded(data.key(key).value)).err()?;
        let path = data.key(key).path;
        Some(FieldError::invalid(path, "<secret contents redacted>", error.to_string()))
    };
    match object.at("type").str() {
        "kubernetes.io/service-account-token" => {
            let annotations = object.at("metadata").at("annotations");
            let name = annotations.key("kubernetes.io/service-account.name");
            if name.is_empty() {
                errors.push(name.required(""));
            }
        }
        "kubernetes.io/dockercfg" => match need(".dockercfg") {
            Some(error) => errors.push(error),
            None => errors.extend(json(".dockercfg")),
        },
        "kubernetes.io/dockerconfigjson" => match need(".dockerconfigjson") {
            Some(error) => errors.push(error),
            None => errors.extend(json(".dockerconfigjson")),
        },
        "kubernetes.io/basic-auth"
            if !data.at("username").exists() && !data.at("password").exists() =>
        {
            errors.push(data.key("username").required(""));
            errors.push(data.key("password").required(""));
        }
        "kubernetes.io/ssh-auth" if data.key("ssh-privatekey").is_empty() => {
            errors.push(data.key("ssh-privatekey").required(""));
        }
        "kubernetes.io/tls" => {
            errors.extend(need("tls.crt"));
            errors.extend(need("tls.key"));
        }
        _ => {}
    }
    errors
}

/// What may not change once `immutable` is set (ConfigMaps and Secrets).
pub fn validate_immutable(object: &Value, old: &Value, fields: &[&str]) -> ErrorList {
    let mut errors = ErrorList::new();
    if old["immutable"] != true {
        return errors;
    }
    let detail = "field is immutable when `immutable` is set";
    if object["immutable"] != true {
        errors.push(FieldError::forbidden("immutable", detail));
    }
    for field in fields {
        if !same(&object[*field], &old[*field]) {
            errors.push(FieldError::forbidden(*field, detail));
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_docker_configuration_is_json() {
        let check = |text: &str| -> Vec<String> {
            let secret = json!({"type": "kubernetes.io/dockerconfigjson",
                "data": {".dockerconfigjson": STANDARD.encode(text)}});
            Secret.validate(&secret).iter().map(ToString::to_string).collect()
        };
        assert!(check("{\"auths\":{}}").is_empty());
        assert_eq!(
            check("x"),
            ["data[.dockerconfigjson]: Invalid value: \"<secret contents redacted>\": invalid \
              character 'x' looking for beginning of value"]
        );
    }
}
