//! Strict parsing of JSON and YAML bodies: duplicate members are reported by path, errors are
//! worded as Go words them.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::json_error;
use super::memory::{MAX_BODY_MEMORY_BYTES, Spent, TooMuch};

/// Deepest nesting that is accepted.
pub(super) const MAX_DEPTH: usize = 100;

/// Upstream reports no more strict errors than this.
pub(super) const MAX_DUPLICATES: usize = 100;

/// A parsed body.
#[derive(Clone, Debug, PartialEq)]
pub struct Parsed {
    /// The value; of duplicate members the last one.
    pub value: Value,
    /// Paths of duplicate members, for example `spec.containers[0].name`.
    pub duplicates: Vec<String>,
}

/// A body that is not JSON or YAML.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JsonError {
    /// Not JSON; the text is Go's.
    #[error("{0}")]
    Syntax(String),
    /// Nested too deeply.
    #[error("exceeded max depth")]
    TooDeep,
    /// Its values take too much memory.
    #[error("{TOO_LARGE} ({MAX_BODY_MEMORY_BYTES} bytes)")]
    TooLarge,
    /// Not YAML.
    #[error("error converting YAML to JSON: yaml: {0}")]
    Yaml(String),
}

/// Parses a whole JSON body.
pub fn parse_json(body: &[u8]) -> Result<Parsed, JsonError> {
    parse_part(body, &mut Spent::default())
}

/// Parses JSON that is a part of a body.
pub(super) fn parse_part(body: &[u8], spent: &mut Spent) -> Result<Parsed, JsonError> {
    let mut found = Found { duplicates: Vec::new(), spent };
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    let seed = Seed { path: None, depth: 0, found: &mut found };
    let value = seed.deserialize(&mut deserializer).and_then(|value| {
        deserializer.end()?;
        Ok(value)
    });
    match value {
        Ok(value) => Ok(Parsed { value, duplicates: found.duplicates }),
        Err(_) if found.spent.is_too_much() => Err(JsonError::TooLarge),
        Err(error) if is_too_deep(&error) => Err(JsonError::TooDeep),
        Err(error) => {
            Err(JsonError::Syntax(json_error::explain(body).unwrap_or_else(|| error.to_string())))
        }
    }
}

/// Parses a YAML body of one document; JSON is YAML too.
pub fn parse_yaml(body: &[u8]) -> Result<Parsed, JsonError> {
    if let Some(b'{') = body.iter().find(|byte| !byte.is_ascii_whitespace())
        && let Ok(parsed) = parse_json(body)
    {
        return Ok(parsed);
    }
    let options = serde_saphyr::options! {
        duplicate_keys: serde_saphyr::DuplicateKeyPolicy::PassThrough,
    };
    let document: Document =
        serde_saphyr::from_slice_with_options(body, options).map_err(|error| {
            let text = error.to_string();
            let too_large = text.contains(TOO_LARGE) || text.contains(TOO_MANY_NODES);
            if too_large { JsonError::TooLarge } else { JsonError::Yaml(text) }
        })?;
    Ok(Parsed { value: document.value, duplicates: document.duplicates })
}

fn is_too_deep(error: &serde_json::Error) -> bool {
    let text = error.to_string();
    text.contains(TOO_DEEP) || text.contains("recursion limit exceeded")
}

const TOO_DEEP: &str = "nested too deeply";
const TOO_LARGE: &str = "exceeded max memory of values";
/// The YAML parser's message about more values than it takes, 250,000.
const TOO_MANY_NODES: &str = "budget breached: Nodes";

/// A document whose duplicates come along, for parsers that take no seed.
struct Document {
    value: Value,
    duplicates: Vec<String>,
}

impl<'de> serde::Deserialize<'de> for Document {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut found = Found { duplicates: Vec::new(), spent: &mut Spent::default() };
        let seed = Seed { path: None, depth: 0, found: &mut found };
        let value = seed.deserialize(deserializer)?;
        Ok(Self { value, duplicates: found.duplicates })
    }
}

/// One step of the path to a value; the steps live on the stack.
struct Step<'a> {
    parent: Option<&'a Step<'a>>,
    at: At<'a>,
}

enum At<'a> {
    Member(&'a str),
    Element(usize),
}

impl fmt::Display for Step<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(parent) = self.parent {
            parent.fmt(f)?;
        }
        match self.at {
            At::Member(name) if self.parent.is_some() => write!(f, ".{name}"),
            At::Member(name) => f.write_str(name),
            At::Element(index) => write!(f, "[{index}]"),
        }
    }
}

/// The findings in the body so far.
struct Found<'s> {
    duplicates: Vec<String>,
    spent: &'s mut Spent,
}

struct Seed<'a, 's> {
    path: Option<&'a Step<'a>>,
    depth: usize,
    found: &'a mut Found<'s>,
}

fn too_large<E: serde::de::Error>(_: TooMuch) -> E {
    E::custom(JsonError::TooLarge)
}

impl<'de> DeserializeSeed<'de> for Seed<'_, '_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        self.found.spent.value().map_err(too_large)?;
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_, '_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<Value, E> {
        self.found.spent.text(value.len()).map_err(too_large)?;
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E: serde::de::Error>(self, value: String) -> Result<Value, E> {
        self.found.spent.text(value.len()).map_err(too_large)?;
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        if self.depth >= MAX_DEPTH {
            return Err(A::Error::custom(TOO_DEEP));
        }
        let mut list = Vec::new();
        loop {
            let step = Step { parent: self.path, at: At::Element(list.len()) };
            let seed = Seed { path: Some(&step), depth: self.depth + 1, found: self.found };
            match access.next_element_seed(seed)? {
                Some(value) => list.push(value),
                None => return Ok(Value::Array(list)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        if self.depth >= MAX_DEPTH {
            return Err(A::Error::custom(TOO_DEEP));
        }
        let mut map = Map::new();
        while let Some(Key(key)) = access.next_key()? {
            self.found.spent.member(map.len(), &key).map_err(too_large)?;
            let step = Step { parent: self.path, at: At::Member(&key) };
            if map.contains_key(&key) && self.found.duplicates.len() < MAX_DUPLICATES {
                let path = step.to_string();
                if !self.found.duplicates.contains(&path) {
                    self.found.duplicates.push(path);
                }
            }
            let seed = Seed { path: Some(&step), depth: self.depth + 1, found: self.found };
            let value = access.next_value_seed(seed)?;
            map.insert(key, value);
        }
        Ok(Value::Object(map))
    }
}

/// A member name; YAML may spell one as a number or a boolean.
struct Key(String);

impl<'de> serde::Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct KeyVisitor;
        impl Visitor<'_> for KeyVisitor {
            type Value = Key;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a member name")
            }

            fn visit_str<E>(self, value: &str) -> Result<Key, E> {
                Ok(Key(value.to_owned()))
            }

            fn visit_string<E>(self, value: String) -> Result<Key, E> {
                Ok(Key(value))
            }

            fn visit_bool<E>(self, value: bool) -> Result<Key, E> {
                Ok(Key(value.to_string()))
            }

            fn visit_i64<E>(self, value: i64) -> Result<Key, E> {
                Ok(Key(value.to_string()))
            }

            fn visit_u64<E>(self, value: u64) -> Result<Key, E> {
                Ok(Key(value.to_string()))
            }

            fn visit_f64<E>(self, value: f64) -> Result<Key, E> {
                Ok(Key(value.to_string()))
            }
        }
        deserializer.deserialize_any(KeyVisitor)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::json;

    use super::*;
    use crate::schema::fuzz::Random;

    #[test]
    fn duplicates_are_reported_by_path() {
        let body =
            br#"{"spec":{"replicas":1,"list":[{"a":1,"a":2,"a":3}],"replicas":2},"spec":{}}"#;
        let parsed = parse_json(body).unwrap();
        assert_eq!(parsed.duplicates, ["spec.list[0].a", "spec.replicas", "spec"]);
        assert_eq!(parsed.value, json!({"spec": {}}));
    }

    #[test]
    fn errors_read_as_in_go() {
        let cases: &[(&str, &str)] = &[
            ("", "unexpected end of JSON input"),
            ("{", "unexpected end of JSON input"),
            ("xyz", "invalid character 'x' looking for beginning of value"),
            (r#"{"a":1,}"#, "invalid character '}' looking for beginning of object key string"),
            (r#"{"a" 1}"#, "invalid character '1' after object key"),
            (r#"{"a":1 "b"}"#, "invalid character '\"' after object key:value pair"),
            ("[1 2]", "invalid character '2' after array element"),
            ("{} x", "invalid character 'x' after top-level value"),
            ("trux", "invalid character 'x' in literal true (expecting 'e')"),
            ("\"a\nb\"", "invalid character '\\n' in string literal"),
            ("\"\\q\"", "invalid character 'q' in string escape code"),
            ("-x", "invalid character 'x' in numeric literal"),
            ("1.x", "invalid character 'x' after decimal point in numeric literal"),
        ];
        for (body, expected) in cases {
            let error = parse_json(body.as_bytes()).unwrap_err();
            assert_eq!(error.to_string(), *expected, "{body}");
        }
    }

    #[test]
    fn deep_nesting_is_refused() {
        for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
            let deep = |n: usize| format!("{}1{}", open.repeat(n), close.repeat(n));
            assert!(parse_json(deep(90).as_bytes()).is_ok());
            assert_eq!(parse_json(deep(5000).as_bytes()), Err(JsonError::TooDeep));
        }
        assert!(parse_json("[".repeat(100_000).as_bytes()).is_err());
        assert!(parse_yaml("[".repeat(100_000).as_bytes()).is_err());
    }

    #[test]
    fn memory_of_a_body_is_bounded() {
        for (element, fits) in [("0", 500_000), ("{\"a\":1}", 40_000), ("\"x\"", 300_000)] {
            let list = |n: usize| format!("[{}0]", format!("{element},").repeat(n));
            assert!(parse_json(list(fits).as_bytes()).is_ok(), "{element}");
            let refused = parse_json(list(2 * fits).as_bytes());
            assert_eq!(refused, Err(JsonError::TooLarge), "{element}");
            assert_eq!(parse_yaml(list(2 * fits).as_bytes()), Err(JsonError::TooLarge));
        }
        let largest = serde_json::to_vec(&json!({"data": {"k": "x".repeat(3 << 20)}})).unwrap();
        assert!(parse_json(&largest).is_ok());
    }

    #[test]
    fn yaml_becomes_json() {
        let body = b"a: 1\nb: [x, \"2\", true]\nc: {d: null}\n1: e\na: 3\n";
        let parsed = parse_yaml(body).unwrap();
        let expected = json!({"a": 3, "b": ["x", "2", true], "c": {"d": null}, "1": "e"});
        assert_eq!(parsed.value, expected);
        assert_eq!(parsed.duplicates, ["a"]);
        assert_eq!(parse_yaml(br#"{"a":1}"#).unwrap().value, json!({"a": 1}));
        assert!(parse_yaml(b"a: [b").is_err());
    }

    #[test]
    fn random_bytes_never_panic() {
        let mut random = Random::new(1);
        for _ in 0..20_000 {
            let body = random.text(b"{}[]\",:0123456789.eE+-truefalsn \\u\n");
            let ours = parse_json(&body);
            let theirs: Result<Value, _> = serde_json::from_slice(&body);
            assert_eq!(ours.is_ok(), theirs.is_ok(), "{:?}", String::from_utf8_lossy(&body));
        }
    }
}
