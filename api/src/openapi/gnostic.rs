//! Encodes a Swagger 2.0 document as gnostic's `openapi.v2.Document` in protobuf, the only form
//! that older clients accept. Covers what our documents contain.

use serde_json::{Map, Value};

type Object = Map<String, Value>;

/// Encodes a whole document.
pub fn encode(document: &Value) -> Vec<u8> {
    let mut out = Message::default();
    out.text(1, &document["swagger"]);
    out.message(2, |info| {
        info.text(1, &document["info"]["title"]);
        info.text(2, &document["info"]["version"]);
    });
    out.message(8, |paths| {
        for (path, item) in members(&document["paths"]) {
            paths.named(2, path, |out| path_item(out, item));
        }
    });
    out.message(9, |definitions| {
        for (name, definition) in members(&document["definitions"]) {
            definitions.named(1, name, |out| schema(out, definition));
        }
    });
    out.0
}

fn members(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flatten()
}

fn elements(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn path_item(out: &mut Message, item: &Value) {
    for (method, tag) in [("get", 2), ("put", 3), ("post", 4), ("delete", 5), ("patch", 8)] {
        if let Some(value) = item.get(method) {
            out.message(tag, |out| operation(out, value));
        }
    }
    for value in elements(&item["parameters"]) {
        out.message(9, |out| parameters_item(out, value));
    }
}

fn operation(out: &mut Message, operation: &Value) {
    for tag in elements(&operation["tags"]) {
        out.text(1, tag);
    }
    out.text(3, &operation["description"]);
    out.text(5, &operation["operationId"]);
    for media_type in elements(&operation["consumes"]) {
        out.text(7, media_type);
    }
    for value in elements(&operation["parameters"]) {
        out.message(8, |out| parameters_item(out, value));
    }
    out.message(9, |responses| {
        for (code, value) in members(&operation["responses"]) {
            responses.named(1, code, |out| {
                out.message(1, |response| {
                    response.text(1, &value["description"]);
                    response
                        .message(2, |item| item.message(1, |out| schema(out, &value["schema"])));
                });
            });
        }
    });
    extensions(out, 13, operation);
}

fn parameters_item(out: &mut Message, parameter: &Value) {
    out.message(1, |out| match parameter["in"].as_str() {
        Some("body") => out.message(1, |body| {
            body.text(2, &parameter["name"]);
            body.text(3, &parameter["in"]);
            body.flag(4, &parameter["required"]);
            body.message(5, |out| schema(out, &parameter["schema"]));
        }),
        Some(place) => out.message(2, |other| {
            let (kind, ty) = if place == "path" { (4, 5) } else { (3, 6) };
            other.message(kind, |out| {
                out.flag(1, &parameter["required"]);
                out.text(2, &parameter["in"]);
                out.text(3, &parameter["description"]);
                out.text(4, &parameter["name"]);
                out.text(ty, &parameter["type"]);
            });
        }),
        None => {}
    });
}

fn schema(out: &mut Message, schema_value: &Value) {
    out.text(1, &schema_value["$ref"]);
    out.text(2, &schema_value["format"]);
    out.text(4, &schema_value["description"]);
    for name in elements(&schema_value["required"]) {
        out.text(19, name);
    }
    if let Some(values) = schema_value.get("additionalProperties") {
        out.message(21, |item| item.message(1, |out| schema(out, values)));
    }
    if let Some(ty) = schema_value.get("type") {
        out.message(22, |item| item.text(1, ty));
    }
    if let Some(items) = schema_value.get("items") {
        out.message(23, |item| item.message(1, |out| schema(out, items)));
    }
    if let Some(properties) = schema_value.get("properties") {
        out.message(25, |out| {
            for (name, property) in members(properties) {
                out.named(1, name, |out| schema(out, property));
            }
        });
    }
    extensions(out, 31, schema_value);
}

/// Vendor extensions are YAML texts; JSON is YAML.
fn extensions(out: &mut Message, tag: u8, value: &Value) {
    let object: Option<&Object> = value.as_object();
    for (name, value) in object.into_iter().flatten().filter(|(name, _)| name.starts_with("x-")) {
        out.named(tag, name, |any| any.bytes(2, value.to_string().as_bytes()));
    }
}

/// A message under construction.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.0.push(number as u8 | 0x80);
            number >>= 7;
        }
        self.0.push(number as u8);
    }

    fn bytes(&mut self, tag: u8, bytes: &[u8]) {
        self.varint(u64::from(tag) << 3 | 2);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    /// A string; nothing if it is absent.
    fn text(&mut self, tag: u8, value: &Value) {
        if let Some(text) = value.as_str() {
            self.bytes(tag, text.as_bytes());
        }
    }

    fn flag(&mut self, tag: u8, value: &Value) {
        if value == &Value::Bool(true) {
            self.varint(u64::from(tag) << 3);
            self.varint(1);
        }
    }

    fn message(&mut self, tag: u8, fill: impl FnOnce(&mut Self)) {
        let mut inner = Self::default();
        fill(&mut inner);
        self.bytes(tag, &inner.0);
    }

    /// An entry `{1: name, 2: value}`.
    fn named(&mut self, tag: u8, name: &str, fill: impl FnOnce(&mut Self)) {
        self.message(tag, |entry| {
            entry.bytes(1, name.as_bytes());
            entry.message(2, fill);
        });
    }
}
