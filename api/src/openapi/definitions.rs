//! Definitions of types, as upstream publishes them.

use serde_json::{Map, Value, json};

use super::Dialect;
use crate::registry::{Resource, Served};
use crate::schema::{Descriptions, Field, ListType, Message, Shape, Type, message};

const RESOURCE: &str = "io.k8s.apimachinery.pkg.api.resource.";
const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.";
const INT_OR_STRING: &str = "io.k8s.apimachinery.pkg.util.intstr.IntOrString";
const RAW_EXTENSION: &str = "io.k8s.apimachinery.pkg.runtime.RawExtension";
const JSON: &str = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSON";

/// Collects definitions.
pub struct Writer<'a> {
    dialect: Dialect,
    descriptions: &'a Descriptions,
    definitions: Map<String, Value>,
}

impl<'a> Writer<'a> {
    /// An empty collection.
    pub fn new(dialect: Dialect, descriptions: &'a Descriptions) -> Self {
        Self { dialect, descriptions, definitions: Map::new() }
    }

    /// The definitions, by name.
    pub fn finish(self) -> Map<String, Value> {
        self.definitions
    }

    /// Defines a message.
    pub fn message(&mut self, message: &'static Message, kinds: Vec<Value>) {
        let mut definition = Map::new();
        let description = self.descriptions.message(message);
        if !description.is_empty() {
            definition.insert("description".to_owned(), description.into());
        }
        definition.insert("type".to_owned(), "object".into());
        let mut properties = Map::new();
        let mut required = Vec::new();
        for field in message.members() {
            if field.is_required() {
                required.push(Value::from(field.json_name()));
            }
            let property = self.field(message, field);
            properties.insert(field.json_name().to_owned(), property);
        }
        if !properties.is_empty() {
            definition.insert("properties".to_owned(), properties.into());
        }
        if !required.is_empty() {
            definition.insert("required".to_owned(), required.into());
        }
        if !kinds.is_empty() {
            definition.insert("x-kubernetes-group-version-kind".to_owned(), kinds.into());
        }
        if message.is_atomic() {
            definition.insert("x-kubernetes-map-type".to_owned(), "atomic".into());
        }
        self.definitions.insert(message.name().to_owned(), definition.into());
    }

    /// Defines the list kind of a resource.
    pub fn list(&mut self, resource: &Resource, served: &Served) {
        let Some(item) = message(served.group, served.version, served.kind) else { return };
        if !resource.verbs.contains(&"list") {
            return;
        }
        let property = |name: &str| {
            let field = item.field(name);
            let description = field.map_or("", |field| self.descriptions.field(field));
            json!({"description": description, "type": "string"})
        };
        let metadata = self.reference(
            &format!("{META}ListMeta"),
            "Standard list metadata. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds",
            true,
        );
        let kind = format!("{}List", served.kind);
        let definition = json!({
            "description": format!("{kind} is a list of {}.", served.kind),
            "type": "object",
            "required": ["items"],
            "properties": {
                "apiVersion": property("apiVersion"),
                "items": {
                    "description": format!("List of {}.", served.plural),
                    "type": "array",
                    "items": self.reference(item.name(), "", true),
                },
                "kind": property("kind"),
                "metadata": metadata,
            },
            "x-kubernetes-group-version-kind":
                [{"group": served.group, "version": served.version, "kind": kind}],
        });
        self.definitions.insert(format!("{}List", item.name()), definition);
        let list_meta = message("", "v1", "Status")
            .and_then(|status| status.field("metadata"))
            .and_then(Field::message);
        if let Some(list_meta) = list_meta.filter(|m| !self.definitions.contains_key(m.name())) {
            self.message(list_meta, Vec::new());
        }
    }

    /// A reference; in 3.0 nothing may stand beside one, hence `allOf`.
    fn reference(&self, name: &str, description: &str, is_value: bool) -> Value {
        let mut schema = Map::new();
        match self.dialect {
            Dialect::V2 => {
                schema.insert("$ref".to_owned(), format!("#/definitions/{name}").into());
            }
            Dialect::V3 => {
                let target = json!({"$ref": format!("#/components/schemas/{name}")});
                schema.insert("allOf".to_owned(), json!([target]));
                if is_value {
                    schema.insert("default".to_owned(), json!({}));
                }
            }
        }
        if !description.is_empty() {
            schema.insert("description".to_owned(), description.into());
        }
        schema.into()
    }

    fn field(&mut self, owner: &Message, field: &'static Field) -> Value {
        let description = self.descriptions.field(field);
        let is_container = field.shape() != Shape::Single;
        let value = self.value(owner, field, if is_container { "" } else { description });
        let mut schema = match field.shape() {
            Shape::Single => value,
            Shape::List => json!({"type": "array", "items": value}),
            Shape::Map => json!({"type": "object", "additionalProperties": value}),
        };
        let mut set = |name: &str, value: Value| {
            if let Value::Object(schema) = &mut schema {
                schema.insert(name.to_owned(), value);
            }
        };
        if is_container && !description.is_empty() {
            set("description", description.into());
        }
        if field.shape() == Shape::List && field.declares_list_type() {
            match field.list_type() {
                ListType::Atomic => set("x-kubernetes-list-type", "atomic".into()),
                ListType::Set => set("x-kubernetes-list-type", "set".into()),
                ListType::Map => {
                    set("x-kubernetes-list-map-keys", field.list_keys().collect());
                    set("x-kubernetes-list-type", "map".into());
                }
            }
        }
        if field.is_atomic() && field.message().is_none() && field.shape() != Shape::List {
            set("x-kubernetes-map-type", "atomic".into());
        }
        if !field.merge_key().is_empty() {
            set("x-kubernetes-patch-merge-key", field.merge_key().into());
        }
        let strategy = match (field.is_merged(), field.retains_keys()) {
            (true, true) => "merge,retainKeys",
            (true, false) => "merge",
            (false, true) => "retainKeys",
            (false, false) => "",
        };
        if !strategy.is_empty() {
            set("x-kubernetes-patch-strategy", strategy.into());
        }
        if self.dialect == Dialect::V3
            && let Ok(default) = serde_json::from_str::<Value>(field.default())
        {
            set("default", default);
        }
        schema
    }

    /// The schema of a value, of the elements of a list or of the values of a map.
    fn value(&mut self, owner: &Message, field: &'static Field, description: &str) -> Value {
        let is_value = field.shape() != Shape::Single || field.is_required();
        let plain = |ty: &str, format: &str, zero: Value| {
            let mut schema = Map::new();
            schema.insert("type".to_owned(), ty.into());
            if !format.is_empty() {
                schema.insert("format".to_owned(), format.into());
            }
            if self.dialect == Dialect::V3 && is_value && !zero.is_null() {
                schema.insert("default".to_owned(), zero);
            }
            if !description.is_empty() {
                schema.insert("description".to_owned(), description.into());
            }
            Value::Object(schema)
        };
        let special = match field.ty() {
            Type::String => return plain("string", "", "".into()),
            Type::Bool => return plain("boolean", "", false.into()),
            Type::Int32 => return plain("integer", "int32", 0.into()),
            Type::Int64 => return plain("integer", "int64", 0.into()),
            Type::Double => return plain("number", "double", 0.into()),
            Type::Bytes => return plain("string", "byte", Value::Null),
            Type::Strings => {
                let mut schema = plain("array", "", Value::Null);
                schema["items"] = json!({"type": "string"});
                return schema;
            }
            Type::Message => {
                let name = field.message().map_or("", Message::name);
                return self.reference(name, description, is_value);
            }
            Type::IntOrString => INT_OR_STRING.to_owned(),
            Type::Quantity => format!("{RESOURCE}Quantity"),
            Type::Time => format!("{META}Time"),
            Type::MicroTime => format!("{META}MicroTime"),
            Type::Duration => format!("{META}Duration"),
            Type::Raw if field.json_name() == "fieldsV1" => format!("{META}FieldsV1"),
            Type::Raw if owner.name().contains(".apiextensions.") => JSON.to_owned(),
            Type::Raw => RAW_EXTENSION.to_owned(),
        };
        self.define_special(&special);
        self.reference(&special, description, false)
    }

    fn define_special(&mut self, name: &str) {
        if self.definitions.contains_key(name) {
            return;
        }
        let short = name.rsplit('.').next().unwrap_or_default();
        let v3 = self.dialect == Dialect::V3;
        let definition = match short {
            "IntOrString" if v3 => json!({
                "description": INT_OR_STRING_TEXT,
                "format": "int-or-string",
                "oneOf": [{"type": "integer"}, {"type": "string"}],
            }),
            "IntOrString" => json!({
                "description": INT_OR_STRING_TEXT,
                "type": "string",
                "format": "int-or-string",
            }),
            "Quantity" if v3 => json!({
                "description": QUANTITY_TEXT,
                "oneOf": [{"type": "string"}, {"type": "number"}],
            }),
            "Quantity" => json!({"description": QUANTITY_TEXT, "type": "string"}),
            "Time" => json!({
                "description": "Time is a point in time as RFC 3339 writes it, to the second.",
                "type": "string",
                "format": "date-time",
            }),
            "MicroTime" => json!({
                "description": "MicroTime is version of Time with microsecond level precision.",
                "type": "string",
                "format": "date-time",
            }),
            "Duration" => json!({
                "description": "Duration is a span of time such as 1h30m or 500ms.",
                "type": "string",
            }),
            "FieldsV1" => json!({
                "description": "FieldsV1 stores a set of fields in a data structure like a Trie, \
                                in JSON format.",
                "type": "object",
            }),
            "RawExtension" => json!({
                "description": "RawExtension holds an object of any kind.",
                "type": "object",
            }),
            _ => json!({"description": "JSON represents any valid JSON value."}),
        };
        self.definitions.insert(name.to_owned(), definition);
    }
}

const INT_OR_STRING_TEXT: &str = "IntOrString is a type that can hold an int32 or a string. For \
                                  example, it holds a name or number.";

const QUANTITY_TEXT: &str = "Quantity is a fixed-point representation of a number: digits, with \
                             a decimal point perhaps, and a suffix that is a power of two (Ki, \
                             Mi, Gi, Ti, Pi, Ei), a power of ten (n, u, m, k, M, G, T, P, E) or \
                             an exponent (e3). Examples: 500m, 1.5Gi.";
