//! Strategic merge patch: lists merge by key, directives delete, replace and order.
//!
//! Mirrors `k8s.io/apimachinery/pkg/util/strategicpatch`, the part that a server applies.

use std::collections::HashSet;

use serde_json::{Map, Value};

use super::order::{self, Identity};
use super::table::{Field, Message, Shape, Type};

const PATCH: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const SET_ELEMENT_ORDER: &str = "$setElementOrder/";
const DELETE_FROM_PRIMITIVE_LIST: &str = "$deleteFromPrimitiveList/";

/// Deepest nesting that is merged.
const MAX_DEPTH: usize = 100;

type Object = Map<String, Value>;

/// A patch that does not fit the schema or itself.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatchError {
    /// The patch or the object is not a JSON object.
    #[error("json: cannot unmarshal {0} into Go value of type map[string]interface {{}}")]
    NotAnObject(&'static str),
    /// A list element lacks the key that tells it apart.
    #[error("map: {element} does not contain declared merge key: {key}")]
    NoMergeKey {
        /// The element.
        element: String,
        /// The merge key of the list.
        key: &'static str,
    },
    /// An unknown `$patch` value.
    #[error("unknown patch type: {0} in map: {1}")]
    UnknownDirective(String, String),
    /// `$patch: merge` in a list.
    #[error("merging lists cannot yet be specified in the patch")]
    MergeInList,
    /// A list mixes objects with scalars, or holds lists.
    #[error("list element types are not identical")]
    MixedList,
    /// A list of objects that merges has no merge key.
    #[error("cannot merge lists without merge key for {0}")]
    NotMergeable(String),
    /// `$setElementOrder` or `$deleteFromPrimitiveList` is not a list.
    #[error("invalid patch format of {0}")]
    BadDirective(String),
    /// `$setElementOrder` leaves out an element of the patch or has another order.
    #[error("The order in patch list:\n{patch}\n doesn't match {directive} list:\n{order}\n")]
    WrongOrder {
        /// The patch list.
        patch: String,
        /// `$setElementOrder/…`.
        directive: String,
        /// The directive's list.
        order: String,
    },
    /// `$retainKeys` does not list a key that the patch sets.
    #[error("invalid patch format of retainKeys")]
    BadRetainKeys,
    /// Nested too deeply.
    #[error("exceeded max depth")]
    TooDeep,
}

/// Applies `patch` to `original`.
pub fn strategic_merge(
    message: &'static Message,
    original: &Value,
    patch: &Value,
) -> Result<Value, PatchError> {
    let object = |value: &Value| match value {
        Value::Object(object) => Ok(object.clone()),
        Value::Null => Ok(Object::new()),
        other => Err(PatchError::NotAnObject(kind_of(other))),
    };
    merge_objects(object(original)?, object(patch)?, Schema::Message(message), 0).map(Value::Object)
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// What is known of the members of an object.
#[derive(Clone, Copy)]
enum Schema {
    /// A message.
    Message(&'static Message),
    /// A map whose values are as this field says.
    Values(&'static Field),
    /// Nothing.
    Free,
}

/// How one member merges.
#[derive(Clone, Copy)]
struct Strategy {
    schema: Schema,
    merges_list: bool,
    merge_key: &'static str,
    name: &'static str,
}

impl Schema {
    fn member(self, name: &str) -> Strategy {
        let free = Strategy { schema: Self::Free, merges_list: false, merge_key: "", name: "" };
        match self {
            Self::Free => free,
            Self::Values(field) => Strategy { schema: of_value(field), ..free },
            Self::Message(message) => match message.field(name) {
                None => free,
                Some(field) => Strategy {
                    schema: match field.shape() {
                        Shape::Single | Shape::List => of_value(field),
                        Shape::Map => Self::Values(field),
                    },
                    merges_list: field.is_merged(),
                    merge_key: field.merge_key(),
                    name: field.json_name(),
                },
            },
        }
    }
}

fn of_value(field: &'static Field) -> Schema {
    match (field.ty(), field.message()) {
        (Type::Message, Some(message)) => Schema::Message(message),
        _ => Schema::Free,
    }
}

fn merge_objects(
    mut original: Object,
    mut patch: Object,
    schema: Schema,
    depth: usize,
) -> Result<Object, PatchError> {
    if depth >= MAX_DEPTH {
        return Err(PatchError::TooDeep);
    }
    match patch.get(PATCH).map(|directive| directive.as_str().unwrap_or_default()) {
        None => {}
        Some("replace") => {
            patch.remove(PATCH);
            return Ok(patch);
        }
        Some("delete") => return Ok(Object::new()),
        Some("merge") => {
            patch.remove(PATCH);
        }
        Some(other) => {
            let text = Value::Object(patch.clone()).to_string();
            return Err(PatchError::UnknownDirective(other.to_owned(), text));
        }
    }
    retain_keys(&mut original, &mut patch)?;
    merge_ordered(&mut original, &mut patch, schema, depth)?;
    for (key, value) in patch {
        let (name, deletes) = match key.strip_prefix(DELETE_FROM_PRIMITIVE_LIST) {
            Some(name) => (name.to_owned(), true),
            None => (key, false),
        };
        if value.is_null() {
            original.remove(&name);
            continue;
        }
        let strategy = schema.member(&name);
        let merged = match (original.remove(&name), value) {
            (None, _) if deletes => None,
            (Some(Value::Object(old)), Value::Object(new)) => {
                Some(Value::Object(merge_objects(old, new, strategy.schema, depth + 1)?))
            }
            (Some(Value::Array(old)), Value::Array(new)) => Some(Value::Array(if deletes {
                let unwanted = Identity::Value.positions(&new);
                let is_wanted = |value: &Value| !unwanted.contains_key(&value.to_string());
                old.into_iter().filter(is_wanted).collect()
            } else if strategy.merges_list {
                merge_lists(old, new, strategy, depth)?
            } else {
                new.into_iter().filter_map(without_directives).collect()
            })),
            (Some(old), _) if deletes => Some(old),
            (_, new) => without_directives(new),
        };
        if let Some(merged) = merged {
            original.insert(name, merged);
        }
    }
    Ok(original)
}

/// `$retainKeys`: what it does not list disappears from the original.
fn retain_keys(original: &mut Object, patch: &mut Object) -> Result<(), PatchError> {
    let Some(keys) = patch.remove(RETAIN_KEYS) else { return Ok(()) };
    let Value::Array(keys) = keys else { return Err(PatchError::BadRetainKeys) };
    let keys: HashSet<&str> = keys.iter().filter_map(Value::as_str).collect();
    let listed = |name: &str| keys.contains(name);
    if patch.iter().any(|(name, value)| !name.starts_with('$') && !value.is_null() && !listed(name))
    {
        return Err(PatchError::BadRetainKeys);
    }
    original.retain(|name, _| listed(name));
    Ok(())
}

/// Merges the lists that the patch gives an order for, and takes them out of the patch.
fn merge_ordered(
    original: &mut Object,
    patch: &mut Object,
    schema: Schema,
    depth: usize,
) -> Result<(), PatchError> {
    let directives: Vec<String> =
        patch.keys().filter(|key| key.starts_with(SET_ELEMENT_ORDER)).cloned().collect();
    for directive in directives {
        let Some(Value::Array(order)) = patch.remove(&directive) else {
            return Err(PatchError::BadDirective(directive));
        };
        let name = &directive[SET_ELEMENT_ORDER.len()..];
        let strategy = schema.member(name);
        let old = match original.get(name) {
            Some(Value::Array(list)) => Some(list.clone()),
            Some(Value::Null) | None => None,
            Some(_) => return Err(PatchError::BadDirective(directive)),
        };
        let new = match patch.get(name) {
            // `null` deletes the list, later.
            Some(Value::Null) => continue,
            Some(Value::Array(list)) => Some(list.clone()),
            Some(_) => return Err(PatchError::BadDirective(directive)),
            None => None,
        };
        // A list of scalars has no merge key; neither has one that the schema does not know.
        let identity = Identity::by(strategy.merge_key);
        if let Some(new) = &new {
            verify_order(new, &order, identity, &directive)?;
        }
        let merged = match (old.clone(), new) {
            (None, None) => continue,
            (Some(old), None) => old,
            (None, Some(new)) => new.into_iter().filter_map(without_directives).collect(),
            (Some(old), Some(new)) if strategy.merges_list => {
                merge_lists(old, new, strategy, depth)?
            }
            (Some(_), Some(new)) => new,
        };
        let old = old.unwrap_or_default();
        verify_kinds(&merged, strategy)?;
        original
            .insert(name.to_owned(), Value::Array(order::arrange(merged, &order, &old, identity)));
        patch.remove(name);
    }
    Ok(())
}

/// Each element of the patch that is not deleted must be in the order list, in that order.
fn verify_order(
    patch: &[Value],
    order: &[Value],
    identity: Identity,
    directive: &str,
) -> Result<(), PatchError> {
    let mut rest = order.iter();
    for element in patch {
        if element.get(PATCH).is_some() {
            continue;
        }
        if !rest.any(|other| identity.same(element, other)) {
            let text = |list: &[Value]| Value::Array(list.to_vec()).to_string();
            return Err(PatchError::WrongOrder {
                patch: text(patch),
                directive: directive.to_owned(),
                order: text(order),
            });
        }
    }
    Ok(())
}

/// Elements are all objects or all scalars; objects need a merge key, and each must have it.
fn verify_kinds(list: &[Value], strategy: Strategy) -> Result<(), PatchError> {
    let objects = list.iter().filter(|value| value.is_object()).count();
    if (objects != 0 && objects != list.len()) || list.iter().any(Value::is_array) {
        return Err(PatchError::MixedList);
    }
    if objects == 0 {
        return Ok(());
    }
    if strategy.merge_key.is_empty() {
        return Err(PatchError::NotMergeable(strategy.name.to_owned()));
    }
    match list.iter().find(|value| value.get(strategy.merge_key).is_none()) {
        None => Ok(()),
        Some(element) => {
            Err(PatchError::NoMergeKey { element: go_map(element), key: strategy.merge_key })
        }
    }
}

fn merge_lists(
    old: Vec<Value>,
    new: Vec<Value>,
    strategy: Strategy,
    depth: usize,
) -> Result<Vec<Value>, PatchError> {
    if old.is_empty() && new.is_empty() {
        return Ok(old);
    }
    let special = |element: &Value| element.get(PATCH).is_some();
    verify_kinds(&new.iter().filter(|v| !special(v)).cloned().collect::<Vec<_>>(), strategy)?;
    let scalars = |list: &[Value]| !list.iter().any(Value::is_object);
    if scalars(&old) != scalars(&new) && !old.is_empty() && !new.is_empty() {
        return Err(PatchError::MixedList);
    }
    if scalars(&old) && scalars(&new) {
        let mut seen = HashSet::new();
        let mut merged: Vec<Value> = old.iter().chain(&new).cloned().collect();
        merged.retain(|value| seen.insert(value.to_string()));
        return Ok(order::arrange(merged, &new, &old, Identity::Value));
    }
    let key = strategy.merge_key;
    if key.is_empty() {
        return Err(PatchError::NotMergeable(strategy.name.to_owned()));
    }
    let identity = Identity::Key(key);
    let (mut base, mut elements, mut replaces) = (old, Vec::new(), false);
    let mut deleted = HashSet::new();
    for element in new {
        let directive = element.get(PATCH).map(|value| value.as_str().unwrap_or_default());
        match directive {
            None => elements.push(element),
            Some("delete") => match identity.name(&element) {
                Some(name) => {
                    deleted.insert(name);
                }
                None => return Err(PatchError::NoMergeKey { element: go_map(&element), key }),
            },
            Some("replace") => replaces = true,
            Some("merge") => return Err(PatchError::MergeInList),
            Some(other) => {
                return Err(PatchError::UnknownDirective(other.to_owned(), element.to_string()));
            }
        }
    }
    if replaces {
        return Ok(elements);
    }
    base.retain(|element| identity.name(element).is_none_or(|name| !deleted.contains(&name)));
    let server_order = base.clone();
    let patch_order = elements.clone();
    let mut positions = identity.positions(&base);
    for element in elements {
        let name = identity.name(&element).unwrap_or_default();
        match positions.get(&name) {
            Some(at) => {
                if let (Value::Object(old), Value::Object(new)) = (base[*at].take(), element) {
                    base[*at] = Value::Object(merge_objects(old, new, strategy.schema, depth + 1)?);
                }
            }
            None => {
                positions.insert(name, base.len());
                base.extend(without_directives(element));
            }
        }
    }
    Ok(order::arrange(base, &patch_order, &server_order, identity))
}

/// A value that the original lacks: taken as it is, without directives and deletions.
fn without_directives(value: Value) -> Option<Value> {
    match value {
        Value::Object(mut object) => {
            match object.get(PATCH).and_then(Value::as_str) {
                Some("delete") => return None,
                Some(_) => {
                    object.remove(PATCH);
                }
                None => {}
            }
            let object = object
                .into_iter()
                .filter(|(name, value)| {
                    !value.is_null()
                        && name != RETAIN_KEYS
                        && !name.starts_with(SET_ELEMENT_ORDER)
                        && !name.starts_with(DELETE_FROM_PRIMITIVE_LIST)
                })
                .filter_map(|(name, value)| without_directives(value).map(|value| (name, value)))
                .collect();
            Some(Value::Object(object))
        }
        Value::Array(list) => {
            Some(Value::Array(list.into_iter().filter_map(without_directives).collect()))
        }
        other => Some(other),
    }
}

/// Go's `%v` of a map.
fn go_map(value: &Value) -> String {
    match value {
        Value::Object(object) => {
            let members: Vec<String> =
                object.iter().map(|(name, value)| format!("{name}:{}", go_map(value))).collect();
            format!("map[{}]", members.join(" "))
        }
        Value::Array(list) => {
            let elements: Vec<String> = list.iter().map(go_map).collect();
            format!("[{}]", elements.join(" "))
        }
        Value::String(text) => text.clone(),
        Value::Null => "<nil>".to_owned(),
        other => other.to_string(),
    }
}

#[cfg(test)]
#[path = "strategic_tests.rs"]
mod tests;
