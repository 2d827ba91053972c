//! Sets of fields, as `metadata.managedFields[].fieldsV1` writes them: `f:name` for a member,
//! `k:{…}` for a list element with keys, `v:…` for one without, `.` for the element itself.

use std::collections::BTreeSet;

use api::schema::{Field, ListType, Message, Shape};
use serde_json::{Map, Value};

use crate::error::ApiError;

/// One field: the way to it from the object's root.
pub(crate) type Path = Vec<String>;
/// Leaves, and elements of lists by themselves.
pub(crate) type Paths = BTreeSet<Path>;

/// Elements of all paths of one set together: some 60 bytes each, of an object of which only the
/// leaves are counted in its JSON.
const PATH_ELEMENTS_MAX: usize = 250_000;

/// An object sets more fields than can be tracked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the object has too many fields to record who manages them")]
pub(crate) struct TooManyFields;

impl From<TooManyFields> for ApiError {
    fn from(error: TooManyFields) -> Self {
        Self::entity_too_large(error)
    }
}

/// Paths as they are found.
#[derive(Default)]
struct Collected {
    paths: Paths,
    elements: usize,
}

impl Collected {
    fn insert(&mut self, path: Path) -> Result<(), TooManyFields> {
        self.elements += path.len();
        if self.elements > PATH_ELEMENTS_MAX {
            return Err(TooManyFields);
        }
        self.paths.insert(path);
        Ok(())
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
                let at = ["f:metadata".to_owned()];
                walk_members(owned, field.and_then(Field::message), &at, &mut found)?;
            }
            _ => {
                let field = message.and_then(|m| m.field(key));
                walk_field(value, field, &[element(key)], &mut found)?;
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
    at: &[String],
    found: &mut Collected,
) -> Result<(), TooManyFields> {
    for (key, value) in members {
        let path = join(at, element(key));
        walk_field(value, message.and_then(|m| m.field(key)), &path, found)?;
    }
    Ok(())
}

/// Collects the fields below `at`. It goes as deep as the object, which is bounded.
fn walk_field(
    value: &Value,
    field: Option<&'static Field>,
    at: &[String],
    found: &mut Collected,
) -> Result<(), TooManyFields> {
    let Some(field) = field else { return found.insert(at.to_vec()) };
    match (field.shape(), value) {
        (Shape::List, Value::Array(items)) if is_merged(field) => {
            for item in items {
                let path = join(at, item_element(item, field));
                if let (ListType::Map, Some(map)) = (field.list_type(), item.as_object()) {
                    found.insert(join(&path, ".".to_owned()))?;
                    walk_members(map, field.message(), &path, found)?;
                } else {
                    found.insert(path)?;
                }
            }
            Ok(())
        }
        (Shape::Map, Value::Object(map)) if !map.is_empty() && !field.is_atomic() => {
            for (key, value) in map {
                let path = join(at, element(key));
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
pub(crate) fn is_key(path: &[String]) -> bool {
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

pub(crate) fn join(at: &[String], element: String) -> Path {
    let mut path = at.to_vec();
    path.push(element);
    path
}

/// As `fieldsV1`.
pub(crate) fn to_json(paths: &Paths) -> Value {
    let mut root = Value::Object(Map::new());
    for path in paths {
        let mut node = &mut root;
        for element in path {
            if node.get(element).is_none() {
                node[element] = Value::Object(Map::new());
            }
            node = &mut node[element];
        }
    }
    root
}

/// From `fieldsV1`.
pub(crate) fn from_json(fields: &Value) -> Result<Paths, TooManyFields> {
    fn walk(node: &Value, at: &[String], found: &mut Collected) -> Result<(), TooManyFields> {
        match node.as_object() {
            Some(map) if !map.is_empty() => {
                for (element, child) in map {
                    walk(child, &join(at, element.clone()), found)?;
                }
                Ok(())
            }
            _ if !at.is_empty() => found.insert(at.to_vec()),
            _ => Ok(()),
        }
    }
    let mut found = Collected::default();
    walk(fields, &[], &mut found)?;
    Ok(found.paths)
}

/// As conflicts show it: `.spec.containers[name="a"].image`.
pub(crate) fn display(path: &[String]) -> String {
    path.iter()
        .map(|element| match element.split_at_checked(2) {
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
