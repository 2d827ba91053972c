//! Entry points for fuzzing: after an apply the object has every field of the configuration, no more than
//! both had, and the record of managed fields reads as it was written.

use std::collections::HashSet;

use super::*;
use crate::measure::measure;

/// Applies the `config` of a document to its `live` object, and takes its fields away again.
pub fn apply(bytes: &[u8]) {
    let Ok(parsed) = schema::parse_json(bytes) else { return };
    let (live, config) = (&parsed.value["live"], &parsed.value["config"]);
    if !live.is_object() || !config.is_object() {
        return;
    }
    reread_record(live);
    let message = message_of(config);
    let (Ok(owned), Ok(_)) = (paths::of(config, message), paths::of(live, message)) else { return };
    let mut merged = live.clone();
    merge_members(&mut merged, config, message);
    let (before, added, after) = (measure(live), measure(config), measure(&merged));
    assert!(after.values <= before.values + added.values, "{merged}");
    assert!(after.depth <= before.depth.max(added.depth), "{merged}");
    // An element of a list that lacks a key or has the name of an earlier one cannot be found.
    if !is_distinct(config, message) || !is_distinct(live, message) {
        return;
    }
    let mut once = merged.clone();
    merge_members(&mut once, config, message);
    assert_eq!(once, merged, "a second apply changes the object");
    let (mut wanted, mut present) = (Lookup::new(config), Lookup::new(&merged));
    for path in &owned {
        let wanted = wanted.get(path);
        // An empty map or list leaves what is in it to others.
        if path.last().is_some_and(|last| &**last == ".") || wanted.is_some_and(is_empty) {
            assert!(present.has(path), "{path:?} of {merged}");
        } else {
            assert_eq!(present.get(path), wanted, "{path:?} of {merged}");
        }
    }
    let mut without = merged.clone();
    lookup::remove_all(&mut without, owned.iter());
    let mut present = Lookup::new(&without);
    for path in &owned {
        assert!(!present.has(path), "{path:?} of {without}");
    }
}

fn is_empty(value: &Value) -> bool {
    value.as_object().is_some_and(Map::is_empty) || value.as_array().is_some_and(Vec::is_empty)
}

/// Reads the record of managed fields, writes it and reads it again.
fn reread_record(object: &Value) {
    let Ok(entries) = managed::entries(object) else { return };
    let mut copy = object.clone();
    managed::set_entries(&mut copy, &entries).expect("a record that was read fits");
    let again = managed::entries(&copy).expect("a record that was read is written");
    let kept = entries.iter().filter(|entry| !entry.paths.is_empty());
    for (entry, again) in kept.zip(&again) {
        assert_eq!(entry.paths, again.paths);
        assert_eq!(entry.whose(), again.whose());
        for path in &entry.paths {
            let _ = (paths::display(path), paths::is_key(path));
        }
    }
    let mut lookup = Lookup::new(object);
    for entry in &entries {
        for path in &entry.paths {
            let _ = lookup.has(path);
        }
        lookup::remove_all(&mut copy, &entry.paths);
    }
}

fn message_of(object: &Value) -> Option<&'static Message> {
    let api_version = object["apiVersion"].as_str()?;
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    schema::message(group, version, object["kind"].as_str()?)
}

/// Returns whether all elements of merged lists have all their keys, and no two have one name.
fn is_distinct(object: &Value, message: Option<&'static Message>) -> bool {
    let members = object.as_object().into_iter().flatten();
    members.into_iter().all(|(name, value)| {
        let Some(field) = message.and_then(|message| message.field(name)) else { return true };
        match (field.shape(), value) {
            (Shape::List, Value::Array(items)) if paths::is_merged(field) => {
                let mut names = HashSet::new();
                let keys = field.list_keys().count();
                items.iter().all(|item| {
                    let name = paths::item_element(item, field);
                    let named: Option<Map<String, Value>> =
                        name.strip_prefix("k:").and_then(|keys| serde_json::from_str(keys).ok());
                    named.is_none_or(|named| named.len() == keys)
                        && names.insert(name)
                        && is_distinct(item, field.message())
                })
            }
            (Shape::Map, Value::Object(map)) => {
                map.values().all(|value| is_distinct(value, field.message()))
            }
            (Shape::Single, value) => is_distinct(value, field.message()),
            _ => true,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn corpus_of_applies_is_merged() {
        fuzz::each(concat!(env!("CARGO_MANIFEST_DIR"), "/corpus/apply"), apply);
    }
}
