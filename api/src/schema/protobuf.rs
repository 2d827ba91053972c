//! Decodes request bodies of `application/vnd.kubernetes.protobuf` into JSON.
//!
//! Go writes every scalar that is not a pointer, zero or not. A zero therefore means "unset"
//! unless the field is a pointer ([`Field::is_pointer`]) or required.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::{Map, Value};

use super::json::parse_part;
use super::memory::{Spent, TooMuch};
use super::table::{Field, Message, Shape, Type, message};
use super::wire::{Datum, Reader};

/// What every body starts with.
const MAGIC: &[u8] = b"k8s\0";

/// Deepest nesting that is accepted.
pub(super) const MAX_DEPTH: usize = 64;

/// A body that cannot be decoded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtobufError {
    /// The first four bytes are wrong.
    #[error(
        "provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]"
    )]
    NoEnvelope,
    /// The body ends in the middle of a value.
    #[error("unexpected EOF")]
    Truncated,
    /// A varint is longer than 64 bits.
    #[error("proto: integer overflow")]
    Overflow,
    /// A field has another wire type than its schema says, or one that does not exist.
    #[error("proto: wrong wireType = {wire} for field {field}")]
    WireType {
        /// The wire type.
        wire: u8,
        /// The JSON name, or the number of an unknown field.
        field: String,
    },
    /// A string is not UTF-8.
    #[error("proto: field {0} contains invalid UTF-8")]
    Utf8(&'static str),
    /// A time is out of range.
    #[error("proto: field {0} is not a valid time")]
    Time(&'static str),
    /// An embedded JSON value is not JSON.
    #[error("proto: field {field}: {error}")]
    Json {
        /// The JSON name.
        field: &'static str,
        /// What is wrong with it.
        error: String,
    },
    /// Nested too deeply.
    #[error("proto: exceeded max depth")]
    TooDeep,
    /// Its values take too much memory.
    #[error("proto: the message has too many elements")]
    TooLarge,
    /// The content encoding or type of the envelope is not one we know.
    #[error("unmarshal of content type {0:?} is not supported")]
    Content(String),
    /// The kind is unknown.
    #[error(
        "no kind \"{kind}\" is registered for version \"{api_version}\" in scheme \
         \"pkg/api/legacyscheme/scheme.go:30\""
    )]
    UnknownKind {
        /// As given in the envelope.
        api_version: String,
        /// As given in the envelope.
        kind: String,
    },
}

/// Decodes a whole body; `apiVersion` and `kind` come from its envelope.
pub fn decode_protobuf(body: &[u8]) -> Result<Value, ProtobufError> {
    decode_protobuf_or(body, "", "")
}

/// Decodes a whole body; `api_version` and `kind` count where its envelope names none.
pub fn decode_protobuf_or(
    body: &[u8],
    api_version: &str,
    kind: &str,
) -> Result<Value, ProtobufError> {
    let mut decoder = Decoder { spent: Spent::default() };
    decoder.envelope(body, api_version, kind, 0)
}

struct Decoder {
    spent: Spent,
}

impl From<TooMuch> for ProtobufError {
    fn from(_: TooMuch) -> Self {
        Self::TooLarge
    }
}

impl Decoder {
    fn envelope(
        &mut self,
        body: &[u8],
        api_version: &str,
        kind: &str,
        depth: usize,
    ) -> Result<Value, ProtobufError> {
        let mut reader = Reader(body.strip_prefix(MAGIC).ok_or(ProtobufError::NoEnvelope)?);
        let (mut api_version, mut kind) = (api_version.to_owned(), kind.to_owned());
        let (mut raw, mut encoding, mut content_type) = (&[][..], "", "");
        while let Some((tag, datum)) = reader.next()? {
            match tag {
                1 => {
                    let mut type_meta = Reader(datum.bytes("typeMeta")?);
                    while let Some((tag, datum)) = type_meta.next()? {
                        match tag {
                            1 => replace(&mut api_version, datum.text("apiVersion")?),
                            2 => replace(&mut kind, datum.text("kind")?),
                            _ => {}
                        }
                    }
                }
                2 => raw = datum.bytes("raw")?,
                3 => encoding = datum.text("contentEncoding")?,
                4 => content_type = datum.text("contentType")?,
                _ => {}
            }
        }
        if !encoding.is_empty() {
            return Err(ProtobufError::Content(encoding.to_owned()));
        }
        match content_type {
            "" | "application/vnd.kubernetes.protobuf" => {}
            "application/json" => return self.embedded_json("raw", raw),
            other => return Err(ProtobufError::Content(other.to_owned())),
        }
        let (group, version) = api_version.split_once('/').unwrap_or(("", &api_version));
        let Some(message) = message(group, version, &kind) else {
            return Err(ProtobufError::UnknownKind { api_version, kind });
        };
        let mut object = Map::new();
        self.message(message, raw, &mut object, depth)?;
        object.insert("apiVersion".to_owned(), api_version.into());
        object.insert("kind".to_owned(), kind.into());
        Ok(Value::Object(object))
    }

    fn message(
        &mut self,
        message: &'static Message,
        bytes: &[u8],
        object: &mut Map<String, Value>,
        depth: usize,
    ) -> Result<(), ProtobufError> {
        if depth >= MAX_DEPTH {
            return Err(ProtobufError::TooDeep);
        }
        let mut reader = Reader(bytes);
        while let Some((tag, datum)) = reader.next()? {
            let Some(field) = message.field_by_tag(tag) else { continue };
            let name = field.json_name();
            match field.shape() {
                Shape::Single if field.is_inlined() => {
                    if let Some(target) = field.message() {
                        self.message(target, datum.bytes(target.short_name())?, object, depth + 1)?;
                    }
                }
                Shape::Single => {
                    let value = self.value(field, &datum, depth)?;
                    if is_unset(field, &value) {
                        object.remove(name);
                    } else {
                        self.spent.member(object.len(), name)?;
                        object.insert(name.to_owned(), value);
                    }
                }
                Shape::List => {
                    self.member(object, name)?;
                    let list = object.entry(name).or_insert_with(|| Value::Array(Vec::new()));
                    let Value::Array(list) = list else { continue };
                    if let (Datum::Bytes(packed), Type::Int32 | Type::Int64) = (&datum, field.ty())
                    {
                        let mut packed = Reader(packed);
                        while !packed.0.is_empty() {
                            let datum = Datum::Varint(packed.varint()?);
                            list.push(self.value(field, &datum, depth)?);
                        }
                    } else {
                        list.push(self.value(field, &datum, depth)?);
                    }
                }
                Shape::Map => {
                    let mut entry = Reader(datum.bytes(name)?);
                    let (mut key, mut value) = ("", None);
                    while let Some((tag, datum)) = entry.next()? {
                        match tag {
                            1 => key = datum.text(name)?,
                            2 => value = Some(self.value(field, &datum, depth)?),
                            _ => {}
                        }
                    }
                    let value = match value {
                        Some(value) => value,
                        None => self.value(field, &zero(field.ty()), depth)?,
                    };
                    self.member(object, name)?;
                    let map = object.entry(name).or_insert_with(|| Value::Object(Map::new()));
                    if let Value::Object(map) = map {
                        self.spent.member(map.len(), key)?;
                        map.insert(key.to_owned(), value);
                    }
                }
            }
        }
        Ok(())
    }

    fn value(
        &mut self,
        field: &'static Field,
        datum: &Datum<'_>,
        depth: usize,
    ) -> Result<Value, ProtobufError> {
        let name = field.json_name();
        self.spent.value()?;
        let value = match field.ty() {
            Type::String => Value::from(datum.text(name)?),
            Type::Bool => Value::from(datum.varint(name)? != 0),
            Type::Int32 => Value::from(datum.varint(name)? as i32),
            Type::Int64 => Value::from(datum.varint(name)? as i64),
            Type::Double => match datum {
                Datum::Fixed64(bits) => Value::from(f64::from_bits(*bits)),
                other => return Err(other.wrong(name)),
            },
            Type::Bytes => Value::from(STANDARD.encode(datum.bytes(name)?)),
            Type::Message => {
                let mut object = Map::new();
                if let Some(target) = field.message() {
                    self.message(target, datum.bytes(name)?, &mut object, depth + 1)?;
                }
                Value::Object(object)
            }
            Type::IntOrString => {
                let (mut is_text, mut number, mut text) = (false, 0, "");
                let mut reader = Reader(datum.bytes(name)?);
                while let Some((tag, datum)) = reader.next()? {
                    match tag {
                        1 => is_text = datum.varint(name)? == 1,
                        2 => number = datum.varint(name)? as i32,
                        3 => text = datum.text(name)?,
                        _ => {}
                    }
                }
                if is_text { Value::from(text) } else { Value::from(number) }
            }
            Type::Quantity => {
                let mut text = "";
                let mut reader = Reader(datum.bytes(name)?);
                while let Some((tag, datum)) = reader.next()? {
                    if tag == 1 {
                        text = datum.text(name)?;
                    }
                }
                Value::from(if text.is_empty() { "0" } else { text })
            }
            Type::Time | Type::MicroTime => time(field, datum.bytes(name)?)?,
            Type::Duration => {
                let mut nanoseconds = 0;
                let mut reader = Reader(datum.bytes(name)?);
                while let Some((tag, datum)) = reader.next()? {
                    if tag == 1 {
                        nanoseconds = datum.varint(name)? as i64;
                    }
                }
                Value::from(go_duration(nanoseconds))
            }
            Type::Raw => {
                let mut raw = &[][..];
                let mut reader = Reader(datum.bytes(name)?);
                while let Some((tag, datum)) = reader.next()? {
                    if tag == 1 {
                        raw = datum.bytes(name)?;
                    }
                }
                if raw.is_empty() {
                    Value::Null
                } else if raw.starts_with(MAGIC) {
                    if depth >= MAX_DEPTH {
                        return Err(ProtobufError::TooDeep);
                    }
                    self.envelope(raw, "", "", depth + 1)?
                } else {
                    self.embedded_json(name, raw)?
                }
            }
            Type::Strings => {
                let mut list = Vec::new();
                let mut reader = Reader(datum.bytes(name)?);
                while let Some((tag, datum)) = reader.next()? {
                    if tag == 1 {
                        let text = datum.text(name)?;
                        self.spent.value()?;
                        self.spent.text(text.len())?;
                        list.push(Value::from(text));
                    }
                }
                Value::Array(list)
            }
        };
        if let Value::String(text) = &value {
            self.spent.text(text.len())?;
        }
        Ok(value)
    }

    /// Counts a list or map that is about to become a member, if it is not one yet.
    fn member(&mut self, object: &Map<String, Value>, name: &str) -> Result<(), ProtobufError> {
        if !object.contains_key(name) {
            self.spent.member(object.len(), name)?;
        }
        Ok(())
    }

    fn embedded_json(&mut self, field: &'static str, raw: &[u8]) -> Result<Value, ProtobufError> {
        match parse_part(raw, &mut self.spent) {
            Ok(parsed) => Ok(parsed.value),
            Err(_) if self.spent.is_too_much() => Err(ProtobufError::TooLarge),
            Err(error) => Err(ProtobufError::Json { field, error: error.to_string() }),
        }
    }
}

fn replace(target: &mut String, text: &str) {
    if !text.is_empty() {
        text.clone_into(target);
    }
}

/// Whether Go would have written the value for a field that nobody set.
fn is_unset(field: &Field, value: &Value) -> bool {
    match value {
        Value::Null => true,
        _ if field.is_pointer() => false,
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        _ if field.is_required() => false,
        Value::Bool(set) => !set,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::Object(_) => false,
    }
}

fn zero(ty: Type) -> Datum<'static> {
    match ty {
        Type::Bool | Type::Int32 | Type::Int64 => Datum::Varint(0),
        Type::Double => Datum::Fixed64(0),
        _ => Datum::Bytes(&[]),
    }
}

/// An empty message is Go's zero time, which JSON writes as `null`.
fn time(field: &Field, bytes: &[u8]) -> Result<Value, ProtobufError> {
    let name = field.json_name();
    if bytes.is_empty() {
        return Ok(Value::Null);
    }
    let (mut seconds, mut nanoseconds) = (0, 0);
    let mut reader = Reader(bytes);
    while let Some((tag, datum)) = reader.next()? {
        match tag {
            1 => seconds = datum.varint(name)? as i64,
            2 => nanoseconds = datum.varint(name)? as i32,
            _ => {}
        }
    }
    let (precision, nanoseconds) = match field.ty() {
        Type::MicroTime => (6, nanoseconds / 1000 * 1000),
        _ => (0, 0),
    };
    let time = Timestamp::new(seconds, nanoseconds).map_err(|_| ProtobufError::Time(name))?;
    Ok(Value::from(format!("{time:.precision$}")))
}

/// Go's `time.Duration.String`, for example `1m30s` or `1.5s`.
fn go_duration(nanoseconds: i64) -> String {
    let magnitude = nanoseconds.unsigned_abs();
    let sign = if nanoseconds < 0 { "-" } else { "" };
    let decimal = |unit: u64| {
        let (whole, rest) = (magnitude / unit, magnitude % unit);
        let digits = unit.ilog10() as usize;
        let fraction = format!("{rest:0digits$}");
        match fraction.trim_end_matches('0') {
            "" => whole.to_string(),
            fraction => format!("{whole}.{fraction}"),
        }
    };
    match magnitude {
        0 => "0s".to_owned(),
        1..1_000 => format!("{sign}{magnitude}ns"),
        1_000..1_000_000 => format!("{sign}{}µs", decimal(1_000)),
        1_000_000..1_000_000_000 => format!("{sign}{}ms", decimal(1_000_000)),
        _ => {
            let whole = magnitude / 1_000_000_000;
            let (hours, minutes) = (whole / 3600, whole / 60 % 60);
            let rest = magnitude - (hours * 3600 + minutes * 60) * 1_000_000_000;
            let fraction = format!("{:09}", rest % 1_000_000_000);
            let seconds = match fraction.trim_end_matches('0') {
                "" => format!("{}s", rest / 1_000_000_000),
                fraction => format!("{}.{fraction}s", rest / 1_000_000_000),
            };
            match (hours, minutes) {
                (0, 0) => format!("{sign}{seconds}"),
                (0, minutes) => format!("{sign}{minutes}m{seconds}"),
                (hours, minutes) => format!("{sign}{hours}h{minutes}m{seconds}"),
            }
        }
    }
}

#[cfg(test)]
#[path = "protobuf_tests.rs"]
mod tests;
