//! Access to the parts that every object has, and its encoding.

use api::Served;
use bytes::{Buf, Bytes};
use jiff::Timestamp;
use serde_json::{Map, Value};

/// Letters of generated names: no vowels, so no words (upstream `rand.SafeEncodeString`).
const SUFFIX_LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
const SUFFIX_LEN: usize = 5;
const GENERATE_NAME_MAX_LEN: usize = 63 - SUFFIX_LEN;

/// `metadata`, made if it is not there.
pub(crate) fn metadata_mut(object: &mut Value) -> &mut Map<String, Value> {
    child_mut(object, "metadata")
}

/// A member that is an object, made if it is not there or something else.
pub(crate) fn child_mut<'a>(object: &'a mut Value, name: &str) -> &'a mut Map<String, Value> {
    if !object.is_object() {
        *object = Value::Object(Map::new());
    }
    let child = &mut object[name];
    if !child.is_object() {
        *child = Value::Object(Map::new());
    }
    child.as_object_mut().expect("it was just made an object")
}

/// A string in `metadata`, empty if absent.
pub(crate) fn metadata_str<'a>(object: &'a Value, name: &str) -> &'a str {
    object["metadata"][name].as_str().unwrap_or_default()
}

/// `metadata.name`.
pub(crate) fn name(object: &Value) -> &str {
    metadata_str(object, "name")
}

/// Whether deletion has been asked for.
pub(crate) fn is_deleting(object: &Value) -> bool {
    object["metadata"]["deletionTimestamp"].is_string()
}

/// `metadata.finalizers`.
pub(crate) fn finalizers(object: &Value) -> impl Iterator<Item = &str> {
    object["metadata"]["finalizers"].as_array().into_iter().flatten().filter_map(Value::as_str)
}

/// RFC 3339 in whole seconds, as `metav1.Time` is written.
pub(crate) fn time(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// A name from `generateName`.
pub(crate) fn generate_name(base: &str) -> String {
    let mut end = base.len().min(GENERATE_NAME_MAX_LEN);
    while !base.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}{}", &base[..end], random_suffix())
}

/// Five letters and digits.
pub(crate) fn random_suffix() -> String {
    (0..SUFFIX_LEN)
        .map(|_| char::from(SUFFIX_LETTERS[rand::random_range(0..SUFFIX_LETTERS.len())]))
        .collect()
}

/// Digits of the largest revision.
const REVISION_DIGITS: usize = 20;

/// An object as JSON, but for its resource version.
pub(crate) struct Encoded {
    /// Room for the digits of the revision, then the object.
    bytes: Vec<u8>,
    /// The digits belong before this byte.
    revision_at: usize,
}

impl Encoded {
    /// Encodes with kind and apiVersion first, so that what reads only those need not read on.
    pub(crate) fn new(object: &Value, served: &Served) -> Self {
        let mut bytes = Vec::with_capacity(1024);
        bytes.resize(REVISION_DIGITS, 0);
        bytes.extend_from_slice(b"{\"kind\":");
        write(&mut bytes, &served.kind);
        bytes.extend_from_slice(b",\"apiVersion\":");
        write(&mut bytes, &served.api_version());
        bytes.extend_from_slice(b",\"metadata\":{");
        let mut revision_at = None;
        let empty = Map::new();
        for (key, value) in object["metadata"].as_object().unwrap_or(&empty) {
            if key == "resourceVersion" {
                continue;
            }
            if revision_at.is_none() && key.as_str() > "resourceVersion" {
                revision_at = Some(open_revision(&mut bytes));
            }
            separate(&mut bytes);
            write(&mut bytes, key);
            bytes.push(b':');
            write(&mut bytes, value);
        }
        let revision_at = revision_at.unwrap_or_else(|| open_revision(&mut bytes));
        bytes.push(b'}');
        for (key, value) in object.as_object().unwrap_or(&empty) {
            if !matches!(key.as_str(), "kind" | "apiVersion" | "metadata") {
                bytes.push(b',');
                write(&mut bytes, key);
                bytes.push(b':');
                write(&mut bytes, value);
            }
        }
        bytes.push(b'}');
        bytes.shrink_to_fit();
        Self { bytes, revision_at }
    }

    /// Bytes, but for those of the revision.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len() - REVISION_DIGITS
    }

    /// The whole object as of `revision`. Moves only what comes before the revision, since the store
    /// waits meanwhile.
    pub(crate) fn at(self, revision: u64) -> Bytes {
        let Self { mut bytes, revision_at } = self;
        let digits = revision.to_string();
        let start = REVISION_DIGITS - digits.len();
        bytes.copy_within(REVISION_DIGITS..revision_at, start);
        bytes[revision_at - digits.len()..revision_at].copy_from_slice(digits.as_bytes());
        let mut whole = Bytes::from(bytes);
        whole.advance(start);
        whole
    }
}

/// Writes the key and the quotes of the resource version; returns where the digits go.
fn open_revision(bytes: &mut Vec<u8>) -> usize {
    separate(bytes);
    bytes.extend_from_slice(b"\"resourceVersion\":\"");
    let at = bytes.len();
    bytes.push(b'"');
    at
}

fn separate(bytes: &mut Vec<u8>) {
    if bytes.last() != Some(&b'{') {
        bytes.push(b',');
    }
}

fn write<T: serde::Serialize + ?Sized>(bytes: &mut Vec<u8>, value: &T) {
    serde_json::to_writer(bytes, value).expect("a JSON value always encodes into memory");
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const PODS: Served = Served {
        group: "",
        version: "v1",
        kind: "Pod",
        plural: "pods",
        singular: "pod",
        short_names: &[],
        categories: &[],
    };

    #[test]
    fn the_revision_goes_where_it_belongs() {
        for metadata in [
            json!({}),
            json!({"name": "a"}),
            json!({"uid": "u"}),
            json!({"name": "a", "uid": "u", "resourceVersion": "1"}),
        ] {
            let object = json!({"spec": {"x": 1}, "metadata": metadata, "kind": "Other"});
            for revision in [0, 42, u64::MAX] {
                let bytes = Encoded::new(&object, &PODS).at(revision);
                let back: Value = serde_json::from_slice(&bytes).expect("it is JSON");
                let mut expected = object.clone();
                expected["kind"] = "Pod".into();
                expected["apiVersion"] = "v1".into();
                expected["metadata"]["resourceVersion"] = revision.to_string().into();
                assert_eq!(back, expected);
                let head = b"{\"kind\":\"Pod\",\"apiVersion\":\"v1\",\"metadata\":{";
                assert!(bytes.starts_with(head));
            }
        }
    }

    #[test]
    fn generated_names_fit() {
        let name = generate_name(&"x".repeat(200));
        assert_eq!(name.len(), 63);
        assert!(generate_name("web-").starts_with("web-"));
    }
}
