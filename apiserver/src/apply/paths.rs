//! Sets of fields, as `metadata.managedFields[].fieldsV1` writes them: `f:name` for a member,
//! `k:{…}` for a list element with keys, `v:…` for one without, `.` for the element itself.

use std::collections::BTreeSet;

use api::schema::{Field, ListType, Message, Shape};
use serde_json::{Map, Value};

/// One field: the way to it from the object's root.
pub(crate) type Path = Vec<String>;
/// Leaves, and elements of lists by themselves.
pub(crate) type Paths = BTreeSet<Path>;

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
pub(crate) fn of(object: &Value, message: Option<&'static Message>) -> Paths {
    let mut paths = Paths::new();
    let Some(map) = object.as_object() else { return paths };
    for (key, value) in map {
        match key.as_str() {
            "apiVersion" | "kind" => {}
            "metadata" => {
                let field = message.and_then(|m| m.field("metadata"));
                let mut owned = value.clone();
                if let Some(owned) = owned.as_object_mut() {
                    owned.retain(|k, _| !UNOWNED_METADATA.contains(&k.as_str()));
                    if !owned.is_empty() {
                        let at = vec!["f:metadata".to_owned()];
                        walk_members(owned, field.and_then(Field::message), &at, &mut paths);
                    }
                }
            }
            _ => walk_field(value, message.and_then(|m| m.field(key)), &[element(key)], &mut paths),
        }
    }
    paths
}

fn element(key: &str) -> String {
    format!("f:{key}")
}

fn walk_members(
    map: &Map<String, Value>,
    message: Option<&'static Message>,
    at: &[String],
    paths: &mut Paths,
) {
    for (key, value) in map {
        let path = join(at, element(key));
        walk_field(value, message.and_then(|m| m.field(key)), &path, paths);
    }
}

fn walk_field(value: &Value, field: Option<&'static Field>, at: &[String], paths: &mut Paths) {
    let leaf = |paths: &mut Paths| {
        paths.insert(at.to_vec());
    };
    let Some(field) = field else { return leaf(paths) };
    match (field.shape(), value) {
        (Shape::List, Value::Array(items)) if is_merged(field) => {
            for item in items {
                let path = join(at, item_element(item, field));
                if let (ListType::Map, Some(map)) = (field.list_type(), item.as_object()) {
                    paths.insert(join(&path, ".".to_owned()));
                    walk_members(map, field.message(), &path, paths);
                } else {
                    paths.insert(path);
                }
            }
        }
        (Shape::Map, Value::Object(map)) if !map.is_empty() && !field.is_atomic() => {
            for (key, value) in map {
                let path = join(at, element(key));
                match (field.message(), value.as_object()) {
                    (Some(message), Some(map)) if !map.is_empty() => {
                        walk_members(map, Some(message), &path, paths);
                    }
                    _ => drop(paths.insert(path)),
                }
            }
        }
        (Shape::Single, Value::Object(map)) if !map.is_empty() && is_granular(field) => {
            walk_members(map, field.message(), at, paths);
        }
        _ => leaf(paths),
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
fn default_of(field: &Field, key: &str) -> Option<Value> {
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

/// The value at a path, if the object has one there.
pub(crate) fn get<'a>(object: &'a Value, path: &[String]) -> Option<&'a Value> {
    let mut value = object;
    for element in path {
        value = match element.split_at_checked(2) {
            Some(("f:", name)) => value.get(name)?,
            Some(("k:" | "v:", _)) => &value.as_array()?[position(value, element)?],
            _ => value,
        };
    }
    Some(value)
}

/// Removes what is at a path, and containers that this leaves empty.
pub(crate) fn remove(object: &mut Value, path: &[String]) {
    let Some((element, rest)) = path.split_first() else { return };
    let last = rest.is_empty() || rest == [".".to_owned()];
    match element.split_at_checked(2) {
        Some(("f:", name)) => {
            let Some(map) = object.as_object_mut() else { return };
            if last {
                map.remove(name);
            } else if let Some(child) = map.get_mut(name) {
                remove(child, rest);
                if child.as_object().is_some_and(Map::is_empty)
                    || child.as_array().is_some_and(Vec::is_empty)
                {
                    map.remove(name);
                }
            }
        }
        _ => {
            let Some(index) = position(object, element) else { return };
            let Some(list) = object.as_array_mut() else { return };
            if last {
                list.remove(index);
            } else {
                remove(&mut list[index], rest);
            }
        }
    }
}

fn position(list: &Value, element: &str) -> Option<usize> {
    let (kind, text) = element.split_at_checked(2)?;
    let wanted: Value = serde_json::from_str(text).ok()?;
    list.as_array()?.iter().position(|item| match (kind, wanted.as_object()) {
        ("k:", Some(keys)) => keys.iter().all(|(key, value)| match item.get(key) {
            Some(own) => own == value,
            None => key == "protocol" && value == "TCP",
        }),
        _ => *item == wanted,
    })
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
pub(crate) fn from_json(fields: &Value) -> Paths {
    fn walk(node: &Value, at: &[String], paths: &mut Paths) {
        match node.as_object() {
            Some(map) if !map.is_empty() => {
                for (element, child) in map {
                    walk(child, &join(at, element.clone()), paths);
                }
            }
            _ if !at.is_empty() => drop(paths.insert(at.to_vec())),
            _ => {}
        }
    }
    let mut paths = Paths::new();
    walk(fields, &[], &mut paths);
    paths
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
