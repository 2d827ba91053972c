//! The size of a JSON value, found without recursion: a value that a client made may be deep.

use api::schema;
use serde_json::Value;

/// The extent of a JSON value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Measure {
    /// The number of values in it, itself included.
    pub(crate) values: usize,
    /// About as many bytes as its JSON has: escapes are not counted.
    pub(crate) bytes: usize,
    /// Bytes of memory that it takes.
    pub(crate) memory: usize,
    /// Nested objects and lists; 0 for a scalar.
    pub(crate) depth: usize,
}

/// Measures `value`.
pub(crate) fn measure(value: &Value) -> Measure {
    let mut sum = Measure { memory: size_of::<Value>(), ..Measure::default() };
    let mut open: Vec<(&Value, usize)> = vec![(value, 0)];
    while let Some((value, above)) = open.pop() {
        sum.values += 1;
        sum.memory += schema::node_bytes(value);
        match value {
            Value::Array(list) => {
                sum.bytes += 2 + list.len();
                sum.depth = sum.depth.max(above + 1);
                open.extend(list.iter().map(|value| (value, above + 1)));
            }
            Value::Object(map) => {
                sum.bytes += 2;
                sum.depth = sum.depth.max(above + 1);
                for (key, value) in map {
                    sum.bytes += key.len() + 4;
                    open.push((value, above + 1));
                }
            }
            Value::String(text) => sum.bytes += text.len() + 2,
            Value::Number(_) => sum.bytes += 8,
            Value::Null | Value::Bool(_) => sum.bytes += 4,
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn values_are_measured() {
        let text = measure(&json!("abc"));
        assert_eq!(text, Measure { values: 1, bytes: 5, memory: 64, depth: 0 });
        let nested = json!({"a": [{"b": null}], "c": "x"});
        let extent = measure(&nested);
        assert_eq!((extent.values, extent.bytes, extent.depth), (5, 29, 3));
        assert!((1300..2000).contains(&extent.memory), "{extent:?}");
        let long = "x".repeat(1000);
        let whole = json!({"k": [long, long]});
        assert!(measure(&whole).bytes.abs_diff(whole.to_string().len()) < 10);
    }
}
