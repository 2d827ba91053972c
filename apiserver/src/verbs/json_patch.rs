//! JSON patches (RFC 6902) within bounds: each operation is counted, and what it makes of the
//! object is measured before the next one.

#[cfg(any(test, fuzzing))]
pub mod fuzz_targets;

use ::json_patch::{Patch, PatchOperation, patch_unsafe};
use serde_json::Value;

use crate::measure::{Measure, measure};
use crate::write::{OBJECT_BYTES_MAX, OBJECT_DEPTH_MAX, OBJECT_MEMORY_MAX, REPORT_BYTES_MAX};

/// Operations in one JSON patch (upstream's limit).
pub(crate) const OPERATIONS_MAX: usize = 10_000;
/// Bytes that the copies of one JSON patch may add (upstream's limit).
const COPIED_BYTES_MAX: usize = 3 << 20;
/// Values that one JSON patch may walk over or shift. A patch of an object of the largest size
/// passes it by if it does no more than some twenty times the work of writing that object.
const WORK_VALUES_MAX: usize = 16 << 20;

/// The reason why a patch is not applied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum JsonPatchError {
    #[error(
        "Unable to complete the copy, the accumulated size increase of copy is {0}, exceeding the \
         limit {COPIED_BYTES_MAX}"
    )]
    Copied(usize),
    #[error("the patched object has more than {OBJECT_BYTES_MAX} bytes")]
    TooLarge,
    #[error("the patched object takes more than {OBJECT_MEMORY_MAX} bytes of memory")]
    TooMuchMemory,
    #[error("the patched object is nested more than {OBJECT_DEPTH_MAX} levels deep")]
    TooDeep,
    #[error("the patch moves more than {WORK_VALUES_MAX} values")]
    TooMuchWork,
    /// An operation has no target, or a test fails.
    #[error("an operation cannot be applied")]
    Failed,
}

/// Applies `patch`. When it fails, `object` is left somewhere on the way.
pub(crate) fn apply(object: &mut Value, patch: &Patch) -> Result<(), JsonPatchError> {
    let start = measure(object);
    let mut bounds = Bounds::of(&start);
    for operation in &patch.0 {
        bounds.admit(object, operation)?;
        patch_unsafe(object, std::slice::from_ref(operation))
            .map_err(|_| JsonPatchError::Failed)?;
    }
    Ok(())
}

/// The amounts that a patch has used up so far.
struct Bounds {
    /// The size of the object.
    bytes: usize,
    most_bytes: usize,
    memory: usize,
    most_memory: usize,
    copied_bytes: usize,
    work: usize,
}

impl Bounds {
    /// Those of an object of this size. A full one may have got larger since; what is stored in the end
    /// is decided by the write.
    fn of(start: &Measure) -> Self {
        Self {
            bytes: start.bytes,
            most_bytes: OBJECT_BYTES_MAX.max(start.bytes) + REPORT_BYTES_MAX,
            memory: start.memory,
            most_memory: OBJECT_MEMORY_MAX.max(start.memory),
            copied_bytes: 0,
            work: start.values,
        }
    }

    /// Counts an operation before it is applied, and refuses it if its result is beyond a bound.
    fn admit(&mut self, object: &Value, operation: &PatchOperation) -> Result<(), JsonPatchError> {
        match operation {
            PatchOperation::Test(_) => Ok(()),
            PatchOperation::Add(add) => self.put(object, add.path.as_str(), &add.value),
            PatchOperation::Replace(replace) => {
                let path = replace.path.as_str();
                self.drop_value(object.pointer(path))?;
                self.gain(path, &replace.value)
            }
            PatchOperation::Remove(remove) => self.take(object, remove.path.as_str()).map(drop),
            PatchOperation::Move(moved) => {
                let (from, path) = (moved.from.as_str(), moved.path.as_str());
                let Some(value) = self.take(object, from)? else { return Ok(()) };
                // A value may replace what it is in: it is dropped only once.
                if is_within(from, path) && !is_element(object, path) {
                    let size = measure(value);
                    self.bytes += size.bytes;
                    self.memory += size.memory;
                }
                self.put(object, path, value)
            }
            PatchOperation::Copy(copy) => {
                let Some(value) = object.pointer(copy.from.as_str()) else { return Ok(()) };
                self.copied_bytes += measure(value).bytes;
                if self.copied_bytes > COPIED_BYTES_MAX {
                    return Err(JsonPatchError::Copied(self.copied_bytes));
                }
                self.put(object, copy.path.as_str(), value)
            }
        }
    }

    /// Counts a value that comes to `path`.
    fn put(&mut self, object: &Value, path: &str, value: &Value) -> Result<(), JsonPatchError> {
        self.make_room(object, path)?;
        self.gain(path, value)
    }

    /// Counts what a new value at `path` replaces or shifts.
    fn make_room(&mut self, object: &Value, path: &str) -> Result<(), JsonPatchError> {
        let Some((parent, last)) = path.rsplit_once('/') else {
            return self.drop_value(Some(object));
        };
        match object.pointer(parent) {
            Some(Value::Object(map)) => {
                self.drop_value(map.get(&last.replace("~1", "/").replace("~0", "~")))
            }
            Some(Value::Array(list)) => self.spend(list.len()),
            _ => Ok(()),
        }
    }

    /// Counts a value that goes from `path`, and returns it.
    fn take<'v>(
        &mut self,
        object: &'v Value,
        path: &str,
    ) -> Result<Option<&'v Value>, JsonPatchError> {
        let value = object.pointer(path);
        self.drop_value(value)?;
        if let Some((parent, _)) = path.rsplit_once('/')
            && let Some(list) = object.pointer(parent).and_then(Value::as_array)
        {
            self.spend(list.len())?;
        }
        Ok(value)
    }

    /// Counts a value that is added at `path`.
    fn gain(&mut self, path: &str, value: &Value) -> Result<(), JsonPatchError> {
        let size = measure(value);
        self.spend(size.values)?;
        if path.matches('/').count() + size.depth > OBJECT_DEPTH_MAX {
            return Err(JsonPatchError::TooDeep);
        }
        // The name of the new member counts too.
        self.bytes += size.bytes + path.rsplit_once('/').map_or(0, |(_, last)| last.len() + 4);
        self.memory += size.memory;
        if self.bytes > self.most_bytes {
            return Err(JsonPatchError::TooLarge);
        }
        if self.memory > self.most_memory {
            return Err(JsonPatchError::TooMuchMemory);
        }
        Ok(())
    }

    fn drop_value(&mut self, value: Option<&Value>) -> Result<(), JsonPatchError> {
        let Some(value) = value else { return Ok(()) };
        let size = measure(value);
        self.bytes = self.bytes.saturating_sub(size.bytes);
        self.memory = self.memory.saturating_sub(size.memory);
        self.spend(size.values)
    }

    fn spend(&mut self, values: usize) -> Result<(), JsonPatchError> {
        self.work = self.work.saturating_add(values);
        if self.work > WORK_VALUES_MAX { Err(JsonPatchError::TooMuchWork) } else { Ok(()) }
    }
}

/// Returns whether the value at `inner` is the one at `outer` or a part of it.
fn is_within(inner: &str, outer: &str) -> bool {
    inner.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Returns whether `path` is to an element of a list, which a new one shifts and does not replace.
fn is_element(object: &Value, path: &str) -> bool {
    let parent = path.rsplit_once('/').and_then(|(parent, _)| object.pointer(parent));
    parent.is_some_and(Value::is_array)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use serde_json::json;

    fn apply_to(mut object: Value, operations: Value) -> Result<Value, JsonPatchError> {
        let patch: Patch = serde_json::from_value(operations).unwrap();
        apply(&mut object, &patch).map(|()| object)
    }

    #[test]
    fn operations_apply_in_their_order() {
        let patched = apply_to(
            json!({"a": {"b": 1}, "list": [1, 2]}),
            json!([
                {"op": "test", "path": "/a/b", "value": 1},
                {"op": "add", "path": "/list/-", "value": 3},
                {"op": "copy", "from": "/a", "path": "/c~1d"},
                {"op": "move", "from": "/a/b", "path": "/list/0"},
                {"op": "replace", "path": "/a", "value": "x"},
                {"op": "remove", "path": "/list/1"},
            ]),
        );
        assert_eq!(patched, Ok(json!({"a": "x", "list": [1, 2, 3], "c/d": {"b": 1}})));
        let failing = json!([{"op": "test", "path": "/a", "value": 2}]);
        assert_eq!(apply_to(json!({"a": 1}), failing), Err(JsonPatchError::Failed));
        for path in ["/x/y", "/a/0"] {
            let missing = json!([{"op": "add", "path": path, "value": 2}]);
            assert_eq!(apply_to(json!({"a": 1}), missing), Err(JsonPatchError::Failed));
        }
    }

    #[test]
    fn copies_do_not_nest_without_end() {
        // Each copy doubles the depth.
        let mut operations = vec![json!({"op": "add", "path": "/x", "value": {"a": {}}})];
        let mut path = "/x/a".to_owned();
        for _ in 0..16 {
            operations.push(json!({"op": "copy", "from": "/x", "path": format!("{path}/a")}));
            path = format!("{path}{}", path.replace("/x", "/a"));
        }
        let refused = apply_to(json!({}), operations.into());
        assert_eq!(refused, Err(JsonPatchError::TooDeep));
    }

    #[test]
    fn moves_do_not_nest_without_end() {
        let mut object = json!({});
        let mut at = &mut object;
        for _ in 0..OBJECT_DEPTH_MAX - 2 {
            at["a"] = json!({});
            at = &mut at["a"];
        }
        let deep = "/a".repeat(OBJECT_DEPTH_MAX - 2);
        let operations = json!([
            {"op": "add", "path": "/b", "value": {"c": {"d": {}}}},
            {"op": "move", "from": "/b", "path": format!("{deep}/b")},
        ]);
        assert_eq!(apply_to(object, operations), Err(JsonPatchError::TooDeep));
    }

    #[test]
    fn copies_do_not_grow_without_end() {
        let doubling: Vec<Value> = (0..24)
            .map(|n| json!({"op": "copy", "from": "/data", "path": format!("/data/k{n}")}))
            .collect();
        let refused = apply_to(json!({"data": {"k": "x".repeat(1000)}}), doubling.into());
        assert!(matches!(refused, Err(JsonPatchError::TooLarge | JsonPatchError::Copied(_))));
        // What is copied and dropped again counts as well.
        let again: Vec<Value> =
            (0..4000).map(|_| json!({"op": "copy", "from": "/v", "path": "/k"})).collect();
        let refused = apply_to(json!({"v": "x".repeat(1000)}), again.into());
        assert!(matches!(refused, Err(JsonPatchError::Copied(_))), "{refused:?}");
    }

    #[test]
    fn result_stays_within_its_size() {
        let add = |name: &str| json!({"op": "add", "path": name, "value": "x".repeat(2 << 20)});
        let refused = apply_to(json!({}), json!([add("/a"), add("/b")]));
        assert_eq!(refused, Err(JsonPatchError::TooLarge));
        let replaced = apply_to(json!({}), json!([add("/a"), add("/a"), add("/a")]));
        assert!(replaced.is_ok(), "the object has never been larger than one value");
    }

    #[test]
    fn moves_within_a_value_count_its_size_once() {
        let third = "x".repeat(OBJECT_BYTES_MAX / 3);
        let object = json!({"a": {"b": third}, "other": third});
        let moved = json!({"op": "move", "from": "/a/b", "path": "/a"});
        let added = json!({"op": "add", "path": "/c", "value": "y".repeat(OBJECT_BYTES_MAX / 2)});
        let refused = apply_to(object.clone(), json!([moved, added]));
        assert_eq!(refused, Err(JsonPatchError::TooLarge));
        let expected = json!({"a": third, "other": third});
        assert_eq!(apply_to(object, json!([moved])), Ok(expected));
    }

    #[test]
    fn work_of_a_patch_is_bounded() {
        let list: Vec<Value> = (0..10_000).map(Value::from).collect();
        let shifting: Vec<Value> =
            (0..9_000).map(|_| json!({"op": "move", "from": "/l/0", "path": "/l/1"})).collect();
        let refused = apply_to(json!({"l": list}), shifting.into());
        assert_eq!(refused, Err(JsonPatchError::TooMuchWork));
    }
}
