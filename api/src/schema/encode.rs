//! Encodes JSON as protobuf, and makes random objects: for round trips in tests.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::fuzz::Random;
use super::table::{Field, Message, Shape, Type, message};

/// A whole body.
pub fn encode(value: &Value) -> Vec<u8> {
    let api_version = value["apiVersion"].as_str().unwrap_or_default();
    let kind = value["kind"].as_str().unwrap_or_default();
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let mut raw = Vec::new();
    if let (Some(message), Value::Object(object)) = (message(group, version, kind), value) {
        encode_message(message, object, &mut raw);
    }
    let mut type_meta = Vec::new();
    bytes(1, api_version.as_bytes(), &mut type_meta);
    bytes(2, kind.as_bytes(), &mut type_meta);
    let mut body = b"k8s\0".to_vec();
    bytes(1, &type_meta, &mut body);
    bytes(2, &raw, &mut body);
    bytes(3, b"", &mut body);
    bytes(4, b"", &mut body);
    body
}

fn encode_message(message: &Message, object: &Map<String, Value>, out: &mut Vec<u8>) {
    for field in message.fields() {
        if field.is_inlined() {
            let mut inner = Vec::new();
            encode_message(
                field.message().expect("inlined fields are messages"),
                object,
                &mut inner,
            );
            bytes(field.tag(), &inner, out);
            continue;
        }
        if field.tag() == 0 {
            continue;
        }
        match (field.shape(), object.get(field.json_name())) {
            (_, None) => {}
            (Shape::Single, Some(value)) => encode_value(field, field.tag(), value, out),
            (Shape::List, Some(list)) => {
                for value in list.as_array().into_iter().flatten() {
                    encode_value(field, field.tag(), value, out);
                }
            }
            (Shape::Map, Some(map)) => {
                for (key, value) in map.as_object().into_iter().flatten() {
                    let mut entry = Vec::new();
                    bytes(1, key.as_bytes(), &mut entry);
                    encode_value(field, 2, value, &mut entry);
                    bytes(field.tag(), &entry, out);
                }
            }
        }
    }
}

fn encode_value(field: &Field, tag: u8, value: &Value, out: &mut Vec<u8>) {
    let text = value.as_str().unwrap_or_default();
    let mut inner = Vec::new();
    match field.ty() {
        Type::String => return bytes(tag, text.as_bytes(), out),
        Type::Bool => return number(tag, i64::from(value == true), out),
        Type::Int32 | Type::Int64 => return number(tag, value.as_i64().unwrap_or_default(), out),
        Type::Double => {
            varint(u64::from(tag) << 3 | 1, out);
            return out.extend(value.as_f64().unwrap_or_default().to_le_bytes());
        }
        Type::Bytes => inner = STANDARD.decode(text).expect("valid base64"),
        Type::Message => {
            let message = field.message().expect("a message");
            encode_message(message, value.as_object().expect("an object"), &mut inner);
        }
        Type::IntOrString => {
            number(1, i64::from(value.is_string()), &mut inner);
            number(2, value.as_i64().unwrap_or_default(), &mut inner);
            bytes(3, text.as_bytes(), &mut inner);
        }
        Type::Quantity => bytes(1, text.as_bytes(), &mut inner),
        Type::Time | Type::MicroTime => {
            let time: Timestamp = text.parse().expect("a time");
            number(1, time.as_second(), &mut inner);
            number(2, i64::from(time.subsec_nanosecond()), &mut inner);
        }
        Type::Duration => {
            let seconds: i64 = text.trim_end_matches('s').parse().expect("seconds");
            number(1, seconds * 1_000_000_000, &mut inner);
        }
        Type::Raw => bytes(1, value.to_string().as_bytes(), &mut inner),
        Type::Strings => {
            for element in value.as_array().into_iter().flatten() {
                bytes(1, element.as_str().unwrap_or_default().as_bytes(), &mut inner);
            }
        }
    }
    bytes(tag, &inner, out);
}

fn varint(mut number: u64, out: &mut Vec<u8>) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn number(tag: u8, value: i64, out: &mut Vec<u8>) {
    varint(u64::from(tag) << 3, out);
    varint(value as u64, out);
}

fn bytes(tag: u8, value: &[u8], out: &mut Vec<u8>) {
    varint(u64::from(tag) << 3 | 2, out);
    varint(value.len() as u64, out);
    out.extend_from_slice(value);
}

/// An object with some members set to values other than zero.
pub fn random(message: &Message, random: &mut Random, depth: usize) -> Map<String, Value> {
    let mut object = Map::new();
    for field in message.members() {
        if field.tag() == 0 || random.below(2 + depth) > 1 || depth > 8 {
            continue;
        }
        let value = match field.shape() {
            Shape::Single => random_value(field, random, depth),
            Shape::List => {
                (0..=random.below(3)).map(|_| random_value(field, random, depth)).collect()
            }
            Shape::Map => {
                let mut map = Map::new();
                for index in 0..=random.below(3) {
                    map.insert(format!("key{index}"), random_value(field, random, depth));
                }
                Value::Object(map)
            }
        };
        object.insert(field.json_name().to_owned(), value);
    }
    object
}

fn random_value(field: &Field, random: &mut Random, depth: usize) -> Value {
    let number = random.next();
    match field.ty() {
        Type::String => json!(format!("text-{}", number % 1000)),
        Type::Bool => json!(true),
        Type::Int32 => json!(number as i32 | 1),
        Type::Int64 => json!(number as i64 | 1),
        Type::Double => json!((number % 1000) as f64 + 0.5),
        Type::Bytes => json!(STANDARD.encode([&[1][..], &random.bytes(9)].concat())),
        Type::Message => {
            let message = field.message().expect("a message");
            Value::Object(self::random(message, random, depth + 1))
        }
        Type::IntOrString if number.is_multiple_of(2) => json!(number as i32 | 1),
        Type::IntOrString => json!(format!("{}%", number % 100)),
        Type::Quantity => json!(format!("{}Mi", number % 1000)),
        Type::Time => json!(format!("20{:02}-01-02T03:04:05Z", 10 + number % 90)),
        Type::MicroTime => json!(format!("2024-01-02T03:04:05.{:06}Z", number % 1_000_000)),
        Type::Duration => json!(format!("{}s", 1 + number % 59)),
        Type::Raw => json!({"a": [number % 7, "b", {"c": true}]}),
        Type::Strings => json!([format!("text-{}", number % 10), ""]),
    }
}
