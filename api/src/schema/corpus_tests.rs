//! Bodies that kubectl 1.33 sent (`corpus/*.pb`), and the objects they mean (`corpus/*.json`).

#![allow(clippy::unwrap_used)]

use serde_json::Value;

use super::{check, decode_protobuf, message};

/// Decodes a body and checks that it fits its own schema.
fn decode(body: &[u8]) -> Value {
    let mut value = decode_protobuf(body).unwrap();
    let api_version = value["apiVersion"].as_str().unwrap().to_owned();
    let (group, version) = api_version.split_once('/').unwrap_or(("", &api_version));
    let message = message(group, version, value["kind"].as_str().unwrap()).unwrap();
    let before = value.clone();
    assert_eq!(check(message, &mut value), Ok(Vec::new()));
    assert_eq!(before, value);
    value
}

#[test]
fn recorded_bodies() {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/src/schema/corpus");
    let mut count = 0;
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "pb") {
            let expected = std::fs::read(path.with_extension("json")).unwrap();
            let expected: Value = serde_json::from_slice(&expected).unwrap();
            assert_eq!(decode(&std::fs::read(&path).unwrap()), expected, "{}", path.display());
            count += 1;
        }
    }
    assert_eq!(count, 16);
}
