//! Entry points for fuzzing: no body and no strategic merge patch makes the readers panic, and what
//! they return stays within their bounds.

use serde_json::{Map, Value};

use super::json::{MAX_DEPTH, MAX_DUPLICATES};
use super::memory::MAX_BODY_MEMORY_BYTES;
use super::{
    JsonError, Message, check, decode_protobuf, message, parse_json, parse_yaml, protobuf,
    strategic_merge,
};

/// Values of one body: each takes 64 bytes at least.
const MAX_VALUES: usize = MAX_BODY_MEMORY_BYTES / 64;

/// Nested lists and objects for one level of protobuf: a list, or a map, of messages.
const JSON_LEVELS_OF_MESSAGE: usize = 2;

/// Reads a JSON body as `serde_json` does, and checks it against its schema.
pub fn body_json(bytes: &[u8]) {
    let theirs: Result<Value, _> = serde_json::from_slice(bytes);
    match parse_json(bytes) {
        Ok(parsed) => {
            assert_bounds(&parsed.value, MAX_DEPTH, MAX_VALUES);
            assert!(parsed.duplicates.len() <= MAX_DUPLICATES);
            assert_eq!(Some(&parsed.value), theirs.ok().as_ref());
            check_twice(parsed.value);
        }
        Err(JsonError::TooDeep | JsonError::TooLarge) => {}
        Err(error) => assert!(theirs.is_err(), "refused: {error}"),
    }
}

/// Reads a YAML body and the JSON that it means.
pub fn body_yaml(bytes: &[u8]) {
    let Ok(parsed) = parse_yaml(bytes) else { return };
    assert_bounds(&parsed.value, MAX_DEPTH, MAX_VALUES);
    assert!(parsed.duplicates.len() <= MAX_DUPLICATES);
    let json = parsed.value.to_string();
    let again = parse_json(json.as_bytes());
    let again = again.unwrap_or_else(|error| panic!("{error}: {json}"));
    assert!(again.duplicates.is_empty(), "{json}");
    if !has_fraction(&parsed.value) {
        assert_eq!(again.value, parsed.value);
    }
    check_twice(parsed.value);
}

/// Reads a protobuf body and checks it against its schema.
pub fn body_protobuf(bytes: &[u8]) {
    let Ok(value) = decode_protobuf(bytes) else { return };
    // Embedded JSON has a depth of its own.
    let depth = JSON_LEVELS_OF_MESSAGE * (protobuf::MAX_DEPTH + 1) + MAX_DEPTH;
    assert_bounds(&value, depth, MAX_VALUES + bytes.len());
    check_twice(value);
}

/// Merges the `patch` of a document into its `original`.
pub fn strategic(bytes: &[u8]) {
    let Ok(parsed) = parse_json(bytes) else { return };
    let (original, patch) = (&parsed.value["original"], &parsed.value["patch"]);
    let Some(message) = schema_of(original) else { return };
    let (before, added) = (extent(original), extent(patch));
    if let Ok(merged) = strategic_merge(message, original, patch) {
        let after = extent(&merged);
        assert!(after.depth <= before.depth.max(added.depth), "{merged}");
        assert!(after.values <= before.values + added.values, "{merged}");
    }
    let untouched = strategic_merge(message, original, &Value::Object(Map::new()));
    assert_eq!(untouched.as_ref(), Ok(original));
}

/// Checks a value against the schema of its kind: what the first check leaves, the second one
/// leaves as it is.
fn check_twice(mut value: Value) {
    let Some(message) = schema_of(&value) else { return };
    if check(message, &mut value).is_ok() {
        let pruned = value.clone();
        assert_eq!(check(message, &mut value), Ok(Vec::new()));
        assert_eq!(value, pruned);
    }
}

fn schema_of(value: &Value) -> Option<&'static Message> {
    let api_version = value.get("apiVersion")?.as_str()?;
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    message(group, version, value.get("kind")?.as_str()?)
}

/// The size of a value.
#[derive(Default)]
struct Extent {
    values: usize,
    depth: usize,
}

fn extent(value: &Value) -> Extent {
    let mut sum = Extent::default();
    let mut open = vec![(value, 0)];
    while let Some((value, depth)) = open.pop() {
        sum.values += 1;
        sum.depth = sum.depth.max(depth);
        match value {
            Value::Array(list) => open.extend(list.iter().map(|value| (value, depth + 1))),
            Value::Object(map) => open.extend(map.values().map(|value| (value, depth + 1))),
            _ => {}
        }
    }
    sum
}

fn assert_bounds(value: &Value, depth: usize, values: usize) {
    let extent = extent(value);
    assert!(extent.depth <= depth, "{} levels", extent.depth);
    assert!(extent.values <= values, "{} values", extent.values);
}

/// Returns whether a number of the value may read back in another last digit.
fn has_fraction(value: &Value) -> bool {
    match value {
        Value::Number(number) => number.is_f64(),
        Value::Array(list) => list.iter().any(has_fraction),
        Value::Object(map) => map.values().any(has_fraction),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn each(corpus: &str, parse: impl Fn(&[u8])) {
        fuzz::each(format!("{}/corpus/{corpus}", env!("CARGO_MANIFEST_DIR")), parse);
    }

    #[test]
    fn corpus_of_json_bodies_is_read() {
        each("body_json", body_json);
    }

    #[test]
    fn corpus_of_yaml_bodies_is_read() {
        each("body_yaml", body_yaml);
    }

    #[test]
    fn corpus_of_protobuf_bodies_is_read() {
        each("body_protobuf", body_protobuf);
    }

    #[test]
    fn corpus_of_strategic_patches_is_merged() {
        each("strategic", strategic);
    }
}
