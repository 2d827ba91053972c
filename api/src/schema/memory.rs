//! The memory that an object takes: as a tree of JSON values, and decoded to the types of its kind.
//!
//! Both are estimates from above, for the 64-bit heap of glibc: lists and maps have room to grow.

use std::sync::OnceLock;

use serde_json::{Map, Value};

use super::table::{Field, Message, Shape, Type, messages};

/// Bytes of memory of one body, as a tree of JSON values. Of objects that upstream's etcd would store
/// (1.5 MB of text), those of the smallest values take about as much.
pub(super) const MAX_BODY_MEMORY_BYTES: usize = 32 << 20;

/// A value, or a string, list or map without what it points to.
const VALUE_BYTES: usize = 32;
const POINTERS_BYTES: usize = 24;
/// Entries that a node of a map has room for, and those that it has at least when there are several.
const NODE_ENTRIES: usize = 11;
const FULL_ENTRIES: usize = 5;
/// An element up to this size makes a list begin with room for four.
const SMALL_ELEMENT_BYTES: usize = 1024;

/// The memory of a body while it is parsed.
#[derive(Debug, Default)]
pub(super) struct Spent(usize);

/// The body takes more than [`MAX_BODY_MEMORY_BYTES`].
#[derive(Debug)]
pub(super) struct TooMuch;

impl Spent {
    fn add(&mut self, bytes: usize) -> Result<(), TooMuch> {
        self.0 = self.0.saturating_add(bytes);
        if self.0 > MAX_BODY_MEMORY_BYTES { Err(TooMuch) } else { Ok(()) }
    }

    /// Returns whether the bytes so far are too many.
    pub(super) fn is_too_much(&self) -> bool {
        self.0 > MAX_BODY_MEMORY_BYTES
    }

    /// Counts a value without what it points to; a list keeps room for as many again.
    pub(super) fn value(&mut self) -> Result<(), TooMuch> {
        self.add(2 * VALUE_BYTES)
    }

    /// Counts the bytes of a string.
    pub(super) fn text(&mut self, length: usize) -> Result<(), TooMuch> {
        self.add(allocated(length))
    }

    /// Counts a member that comes to a map of so many.
    pub(super) fn member(&mut self, present: usize, name: &str) -> Result<(), TooMuch> {
        let full = present >= NODE_ENTRIES && present.is_multiple_of(FULL_ENTRIES);
        let node =
            if present == 0 || full { map_bytes(1, POINTERS_BYTES + VALUE_BYTES) } else { 0 };
        self.add(node + allocated(name.len()))
    }
}

/// Bytes that the heap takes for an allocation.
fn allocated(bytes: usize) -> usize {
    if bytes == 0 { 0 } else { (bytes + 8).next_multiple_of(16).max(32) }
}

/// Bytes of a list, whose room has doubled until its elements fit.
fn list_bytes(length: usize, element: usize) -> usize {
    if length == 0 {
        return 0;
    }
    let least = if element <= SMALL_ELEMENT_BYTES { 4 } else { 1 };
    allocated(length.next_power_of_two().max(least) * element)
}

/// Bytes of the nodes of a B-tree map.
fn map_bytes(entries: usize, entry: usize) -> usize {
    let nodes = match entries {
        0 => 0,
        1..=NODE_ENTRIES => 1,
        _ => entries.div_ceil(FULL_ENTRIES),
    };
    nodes * allocated(NODE_ENTRIES * entry + 16)
}

/// Bytes that a value of a JSON tree points to, without what its parts point to.
pub fn node_bytes(value: &Value) -> usize {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
        Value::String(text) => allocated(text.len()),
        Value::Array(list) => list_bytes(list.len(), VALUE_BYTES),
        Value::Object(map) => {
            let names: usize = map.keys().map(|name| allocated(name.len())).sum();
            map_bytes(map.len(), POINTERS_BYTES + VALUE_BYTES) + names
        }
    }
}

/// Bytes that a JSON tree of any depth points to.
fn tree_bytes(value: &Value) -> usize {
    let mut sum = 0;
    let mut open = vec![value];
    while let Some(value) = open.pop() {
        sum += node_bytes(value);
        match value {
            Value::Array(list) => open.extend(list),
            Value::Object(map) => open.extend(map.values()),
            _ => {}
        }
    }
    sum
}

/// Bytes that an object takes as the Rust type of its kind, without the record of its managers, which
/// no part of a node keeps. It is as deep as the schema.
pub fn decoded_bytes(message: &'static Message, object: &Value) -> usize {
    size(message.index()) + object.as_object().map_or(0, |object| members_bytes(message, object))
}

/// Returns the bytes that the members of an object point to.
fn members_bytes(message: &'static Message, object: &Map<String, Value>) -> usize {
    let known = object.iter().filter(|(name, _)| *name != "managedFields");
    known
        .filter_map(|(name, value)| Some(member_bytes(message.field(name)?, value)))
        .fold(0, usize::saturating_add)
}

fn member_bytes(field: &'static Field, value: &Value) -> usize {
    match (field.shape(), value) {
        (Shape::List, Value::Array(list)) => {
            let elements: usize = list.iter().map(|element| element_bytes(field, element)).sum();
            list_bytes(list.len(), inline_bytes(field)) + elements
        }
        (Shape::Map, Value::Object(map)) => {
            let entries = map.iter().map(|(k, v)| allocated(k.len()) + element_bytes(field, v));
            map_bytes(map.len(), POINTERS_BYTES + inline_bytes(field)) + entries.sum::<usize>()
        }
        _ => element_bytes(field, value),
    }
}

/// Returns the bytes that a value, a list element or a map value points to.
fn element_bytes(field: &'static Field, value: &Value) -> usize {
    match (field.ty(), value) {
        (Type::Time | Type::MicroTime, _) => 0,
        (Type::Raw, value) => tree_bytes(value),
        (Type::Message, Value::Object(object)) => {
            field.message().map_or(0, |message| members_bytes(message, object))
        }
        (Type::Strings, Value::Array(list)) => {
            list_bytes(list.len(), POINTERS_BYTES) + list.iter().map(node_bytes).sum::<usize>()
        }
        (_, Value::String(text)) => allocated(text.len()),
        _ => 0,
    }
}

/// Bytes of a value, a list element or a map value without what it points to.
fn inline_bytes(field: &'static Field) -> usize {
    match field.ty() {
        Type::Message => field.message_index().map_or(0, size),
        ty => scalar_bytes(ty),
    }
}

fn scalar_bytes(ty: Type) -> usize {
    match ty {
        Type::Bool => 1,
        Type::Int32 => 8,
        Type::Int64 | Type::Double | Type::Time | Type::MicroTime => 16,
        Type::Raw => VALUE_BYTES,
        _ => POINTERS_BYTES,
    }
}

/// Bytes of the struct of a message: absent members take room in it, too.
fn size(index: usize) -> usize {
    static SIZES: OnceLock<Box<[usize]>> = OnceLock::new();
    let all = || {
        let mut sizes = vec![None; messages().len()];
        (0..sizes.len()).map(|index| struct_bytes(index, &mut sizes)).collect()
    };
    SIZES.get_or_init(all).get(index).copied().unwrap_or(0)
}

fn struct_bytes(index: usize, sizes: &mut [Option<usize>]) -> usize {
    if let Some(known) = sizes[index] {
        return known;
    }
    // A message within itself is behind a pointer.
    sizes[index] = Some(size_of::<usize>());
    let mut bytes = 0;
    for field in messages()[index].fields() {
        bytes += match (field.shape(), field.message_index()) {
            (Shape::List, _) => POINTERS_BYTES,
            (Shape::Map, _) => POINTERS_BYTES + size_of::<usize>(),
            (Shape::Single, Some(message)) => struct_bytes(message, sizes),
            // `apiVersion` and `kind` are those of the type.
            (Shape::Single, None) if field.tag() == 0 => 0,
            (Shape::Single, None) => scalar_bytes(field.ty()),
        };
    }
    sizes[index] = Some(bytes.max(size_of::<usize>()));
    bytes
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
    use k8s_openapi::api::core::v1::{
        Container, ContainerStatus, EnvVar, Node, PersistentVolume, Pod, Service, Toleration,
        Volume,
    };
    use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
    use serde_json::json;

    use super::super::table::message;
    use super::*;

    fn named(name: &str) -> usize {
        let index = messages().iter().position(|message| message.name().ends_with(name)).unwrap();
        size(index)
    }

    #[test]
    fn sizes_are_those_of_the_types() {
        for (name, estimate) in [
            (".core.v1.Pod", size_of::<Pod>()),
            (".core.v1.Container", size_of::<Container>()),
            (".core.v1.Volume", size_of::<Volume>()),
            (".core.v1.EnvVar", size_of::<EnvVar>()),
            (".core.v1.Toleration", size_of::<Toleration>()),
            (".core.v1.ContainerStatus", size_of::<ContainerStatus>()),
            (".core.v1.Service", size_of::<Service>()),
            (".core.v1.Node", size_of::<Node>()),
            (".core.v1.PersistentVolume", size_of::<PersistentVolume>()),
            (".apps.v1.Deployment", size_of::<Deployment>()),
            (".apps.v1.StatefulSet", size_of::<StatefulSet>()),
            (".discovery.v1.Endpoint", size_of::<Endpoint>()),
            (".discovery.v1.EndpointSlice", size_of::<EndpointSlice>()),
        ] {
            let ratio = named(name) as f64 / estimate as f64;
            assert!((0.85..1.5).contains(&ratio), "{name}: {} for {estimate}", named(name));
        }
    }

    #[test]
    fn small_text_that_decodes_to_much_is_seen() {
        let pod = |spec: Value| {
            let pod = json!({"metadata": {"name": "p"}, "spec": spec});
            decoded_bytes(message("", "v1", "Pod").unwrap(), &pod)
        };
        let terms: Vec<Value> = (0..100_000).map(|_| json!({})).collect();
        let affinity = json!({"requiredDuringSchedulingIgnoredDuringExecution":
            {"nodeSelectorTerms": terms}});
        let few = pod(json!({}));
        assert!((2000..3500).contains(&few), "{few}");
        let many = pod(json!({"affinity": {"nodeAffinity": affinity}}));
        assert!(many > few + 100_000 * 48, "{many}");
        let volumes: Vec<Value> =
            (0..1024).map(|n| json!({"name": n.to_string(), "emptyDir": {}})).collect();
        let many = pod(json!({"volumes": volumes}));
        let exact = few + 1024 * (size_of::<Volume>() + 32);
        assert!((0.9..1.5).contains(&(many as f64 / exact as f64)), "{many} for {exact}");
    }

    #[test]
    fn text_of_a_config_map_counts_once() {
        let map = json!({"metadata": {"name": "m"}, "data": {"k": "x".repeat(1 << 20)}});
        let bytes = decoded_bytes(message("", "v1", "ConfigMap").unwrap(), &map);
        assert!((1 << 20..(1 << 20) + 4096).contains(&bytes), "{bytes}");
    }

    #[test]
    fn managers_are_not_kept() {
        let fields: Map<String, Value> =
            (0..1000).map(|n| (format!("f:{n}"), json!({".": {}}))).collect();
        let managed = json!([{"manager": "m", "fieldsV1": fields}]);
        let map = |metadata: Value| {
            decoded_bytes(message("", "v1", "ConfigMap").unwrap(), &json!({"metadata": metadata}))
        };
        assert_eq!(map(json!({"managedFields": managed})), map(json!({})));
    }

    #[test]
    fn trees_of_small_maps_take_much_memory() {
        let list = Value::Array((0..1000).map(|_| json!({"a": 1})).collect());
        let bytes = tree_bytes(&list);
        assert!((600_000..800_000).contains(&bytes), "{bytes}");
        assert_eq!(tree_bytes(&json!(7)), 0);
    }
}
