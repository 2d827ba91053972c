//! Sets of fields, as `metadata.managedFields[].fieldsV1` writes them: `f:name` for a member,
//! `k:{…}` for a list element with keys, `v:…` for one without, `.` for the element itself.

use std::collections::BTreeSet;
use std::sync::Arc;

use api::schema::{Field, ListType, Message, Shape};
use serde_json::{Map, Value};

use crate::error::ApiError;

/// One step of a path, shared by all paths that go through it.
pub(crate) type Element = Arc<str>;
/// One field: the way to it from the object's root.
pub(crate) type Path = Vec<Element>;
/// Leaves, and elements of lists by themselves.
pub(crate) type Paths = BTreeSet<Path>;

/// Memory of the paths of one object: of all its managers together, or of the fields that it sets.
/// Each path repeats its prefix, so that it does not grow with the JSON alone.
pub(crate) const PATHS_BYTES_MAX: usize = 16 << 20;
/// Memory of a path without its elements: its place in a set and the head of its allocation.
const PATH_BYTES: usize = 64;
/// Memory of an element in each path.
const ELEMENT_BYTES: usize = size_of::<Element>();
/// Memory of an element that paths share, without its text.
const SHARED_BYTES: usize = 32;

/// An object sets more fields than can be tracked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("metadata.managedFields: the object has too many fields to record who manages them")]
pub(crate) struct TooManyFields;

impl From<TooManyFields> for ApiError {
    fn from(error: TooManyFields) -> Self {
        Self::entity_too_large(error)
    }
}

/// Memory that paths may still take.
pub(crate) struct Room {
    bytes: usize,
}

impl Default for Room {
    fn default() -> Self {
        Self { bytes: PATHS_BYTES_MAX }
    }
}

impl Room {
    /// Takes the memory of the paths of a `fieldsV1`.
    pub(crate) fn take_fields(&mut self, fields: &Value) -> Result<(), TooManyFields> {
        self.take_below(fields, 0)
    }

    /// Goes as deep as the object, which is bounded.
    fn take_below(&mut self, node: &Value, depth: usize) -> Result<(), TooManyFields> {
        match node.as_object() {
            Some(map) if !map.is_empty() => map.iter().try_for_each(|(element, child)| {
                self.take_element(element)?;
                self.take_below(child, depth + 1)
            }),
            _ if depth > 0 => self.take_path(depth),
            _ => Ok(()),
        }
    }

    fn take_element(&mut self, element: &str) -> Result<(), TooManyFields> {
        self.take(SHARED_BYTES + element.len())
    }

    fn take_path(&mut self, elements: usize) -> Result<(), TooManyFields> {
        self.take(PATH_BYTES + elements * ELEMENT_BYTES)
    }

    fn take(&mut self, bytes: usize) -> Result<(), TooManyFields> {
        self.bytes = self.bytes.checked_sub(bytes).ok_or(TooManyFields)?;
        Ok(())
    }
}

/// Paths as they are found.
#[derive(Default)]
struct Collected {
    paths: Paths,
    room: Room,
}

impl Collected {
    fn insert(&mut self, path: Path) -> Result<(), TooManyFields> {
        self.room.take_path(path.len())?;
        self.paths.insert(path);
        Ok(())
    }

    /// Returns the path to `element` below `at`.
    fn join(&mut self, at: &[Element], element: String) -> Result<Path, TooManyFields> {
        self.room.take_element(&element)?;
        Ok(join(at, element.into()))
    }
}

/// Members that no manager owns.
const UNOWNED_METADATA: [&str; 11] = [
    "name",
    "namespace",
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "selfLink",
    "managedFields",
    "generateName",
];

/// The fields that an object sets.
pub(crate) fn of(
    object: &Value,
    message: Option<&'static Message>,
) -> Result<Paths, TooManyFields> {
    let mut found = Collected::default();
    for (key, value) in object.as_object().into_iter().flatten() {
        match key.as_str() {
            "apiVersion" | "kind" => {}
            "metadata" => {
                let field = message.and_then(|m| m.field("metadata"));
                let members = value.as_object().into_iter().flatten();
                let owned = members.filter(|(k, _)| !UNOWNED_METADATA.contains(&k.as_str()));
                let at = [Element::from("f:metadata")];
                walk_members(owned, field.and_then(Field::message), &at, &mut found)?;
            }
            _ => {
                let field = message.and_then(|m| m.field(key));
                let path = found.join(&[], element(key))?;
                walk_field(value, field, &path, &mut found)?;
            }
        }
    }
    Ok(found.paths)
}

fn element(key: &str) -> String {
    format!("f:{key}")
}

fn walk_members<'v>(
    members: impl IntoIterator<Item = (&'v String, &'v Value)>,
    message: Option<&'static Message>,
    at: &[Element],
    found: &mut Collected,
) -> Result<(), TooManyFields> {
    for (key, value) in members {
        let path = found.join(at, element(key))?;
        walk_field(value, message.and_then(|m| m.field(key)), &path, found)?;
    }
    Ok(())
}

/// Collects the fields below `at`. It goes as deep as the object, which is bounded.
fn walk_field(
    value: &Value,
    field: Option<&'static Field>,
    at: &[Element],
    found: &mut Collected,
) -> Result<(), TooManyFields> {
    let Some(field) = field else { return found.insert(at.to_vec()) };
    match (field.shape(), value) {
        (Shape::List, Value::Array(items)) if is_merged(field) => {
            for item in items {
                let path = found.join(at, item_element(item, field))?;
                if let (ListType::Map, Some(map)) = (field.list_type(), item.as_object()) {
                    let itself = found.join(&path, ".".to_owned())?;
                    found.insert(itself)?;
                    walk_members(map, field.message(), &path, found)?;
                } else {
                    found.insert(path)?;
                }
            }
            Ok(())
        }
        (Shape::Map, Value::Object(map)) if !map.is_empty() && !field.is_atomic() => {
            for (key, value) in map {
                let path = found.join(at, element(key))?;
                match (field.message(), value.as_object()) {
                    (Some(message), Some(map)) if !map.is_empty() => {
                        walk_members(map, Some(message), &path, found)?;
                    }
                    _ => found.insert(path)?,
                }
            }
            Ok(())
        }
        (Shape::Single, Value::Object(map)) if !map.is_empty() && is_granular(field) => {
            walk_members(map, field.message(), at, found)
        }
        _ => found.insert(at.to_vec()),
    }
}

/// Whether a path is to a key of a list element, which stays as long as the element.
pub(crate) fn is_key(path: &[Element]) -> bool {
    let [.., element, member] = path else { return false };
    let (Some(keys), Some(name)) = (element.strip_prefix("k:"), member.strip_prefix("f:")) else {
        return false;
    };
    serde_json::from_str::<Map<String, Value>>(keys).is_ok_and(|keys| keys.contains_key(name))
}

/// Whether apply merges the list element by element.
pub(crate) fn is_merged(field: &Field) -> bool {
    field.list_type() != ListType::Atomic
}

/// Whether apply merges the object member by member.
pub(crate) fn is_granular(field: &'static Field) -> bool {
    !field.is_atomic() && field.message().is_some_and(|m| !m.is_atomic() && !m.fields().is_empty())
}

/// How a path names an element of a merged list.
pub(crate) fn item_element(item: &Value, field: &Field) -> String {
    if field.list_type() != ListType::Map {
        return format!("v:{item}");
    }
    let keys: Map<String, Value> = field
        .list_keys()
        .filter_map(|key| {
            let default = || default_of(field, key);
            let value = item.get(key).filter(|v| !v.is_null()).cloned().or_else(default)?;
            Some((key.to_owned(), value))
        })
        .collect();
    format!("k:{}", Value::Object(keys))
}

/// The value that an absent key stands for; all such keys in the API are protocols.
pub(super) fn default_of(field: &Field, key: &str) -> Option<Value> {
    let declared = field.message().and_then(|m| m.field(key)).map(|f| f.default());
    declared
        .and_then(|text| serde_json::from_str(text).ok())
        .or_else(|| (key == "protocol").then(|| "TCP".into()))
}

fn join(at: &[Element], element: Element) -> Path {
    let mut path = Vec::with_capacity(at.len() + 1);
    path.extend_from_slice(at);
    path.push(element);
    path
}

/// As `fieldsV1`.
pub(crate) fn to_json(paths: &Paths) -> Value {
    let mut root = Value::Object(Map::new());
    for path in paths {
        let mut node = &mut root;
        for element in path {
            if node.get(&**element).is_none() {
                node[&**element] = Value::Object(Map::new());
            }
            node = &mut node[&**element];
        }
    }
    root
}

/// From `fieldsV1`, if it is within `room`.
pub(crate) fn from_json(fields: &Value, room: &mut Room) -> Result<Paths, TooManyFields> {
    fn walk(node: &Value, at: &[Element], found: &mut Paths) {
        match node.as_object() {
            Some(map) if !map.is_empty() => {
                for (element, child) in map {
                    walk(child, &join(at, element.as_str().into()), found);
                }
            }
            _ if !at.is_empty() => drop(found.insert(at.to_vec())),
            _ => {}
        }
    }
    room.take_fields(fields)?;
    let mut found = Paths::new();
    walk(fields, &[], &mut found);
    Ok(found)
}

/// As conflicts show it: `.spec.containers[name="a"].image`.
pub(crate) fn display(path: &[impl AsRef<str>]) -> String {
    path.iter()
        .map(|element| match element.as_ref().split_at_checked(2) {
            Some(("f:", name)) => format!(".{name}"),
            Some(("k:", keys)) => {
                let keys: Map<String, Value> = serde_json::from_str(keys).unwrap_or_default();
                let terms: Vec<String> = keys.iter().map(|(k, v)| format!("{k}={v}")).collect();
                format!("[{}]", terms.join(","))
            }
            Some(("v:", value)) => format!("[={value}]"),
            _ => String::new(),
        })
        .collect()
}
