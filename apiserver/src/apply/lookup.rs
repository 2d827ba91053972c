//! Finds and removes what paths name in an object: each list is indexed once, so that the work
//! grows with the sizes of object and paths and not with their product.

use std::collections::HashMap;

use serde_json::{Map, Value};

use super::paths::{Element, Path};

/// Sets of keys by which the elements of one list can be named. Lists of the API have one; a
/// record of managed fields that a client wrote may claim any number.
const KEY_SETS_MAX: usize = 8;

/// Looks paths up in one object.
pub(crate) struct Lookup<'v> {
    root: &'v Value,
    /// By the address of the list, which stays where it is while it is borrowed and is never
    /// followed.
    lists: HashMap<*const Value, ListIndex>,
}

/// The positions of the elements of one list, by their names.
#[derive(Default)]
struct ListIndex {
    by_keys: Vec<(Vec<String>, HashMap<String, usize>)>,
    by_value: Option<HashMap<String, usize>>,
}

impl<'v> Lookup<'v> {
    /// A look-up in `root`.
    pub(crate) fn new(root: &'v Value) -> Self {
        Self { root, lists: HashMap::new() }
    }

    /// The value at a path, if the object has one there.
    pub(crate) fn get(&mut self, path: &[Element]) -> Option<&'v Value> {
        let mut value = self.root;
        for element in path {
            value = match element.split_at_checked(2) {
                Some(("f:", name)) => value.get(name)?,
                Some(("k:" | "v:", _)) => {
                    let list = value.as_array()?;
                    let index = self.lists.entry(std::ptr::from_ref(value)).or_default();
                    list.get(index.position(list, element)?)?
                }
                _ => value,
            };
        }
        Some(value)
    }

    /// Returns whether the object has a value at a path.
    pub(crate) fn has(&mut self, path: &[Element]) -> bool {
        self.get(path).is_some()
    }
}

impl ListIndex {
    /// The first element of `list` that `element` names.
    fn position(&mut self, list: &[Value], element: &str) -> Option<usize> {
        match element.split_at_checked(2)? {
            ("k:", text) => {
                let wanted: Map<String, Value> = serde_json::from_str(text).ok()?;
                let at = match self.by_keys.iter().position(|(keys, _)| wanted.keys().eq(keys)) {
                    Some(at) => at,
                    None if self.by_keys.len() >= KEY_SETS_MAX => return None,
                    None => {
                        let keys: Vec<String> = wanted.keys().cloned().collect();
                        let index = index(list, |item| key_text(item, &keys));
                        self.by_keys.push((keys, index));
                        self.by_keys.len() - 1
                    }
                };
                self.by_keys[at].1.get(&Value::Object(wanted).to_string()).copied()
            }
            (_, text) => {
                let wanted: Value = serde_json::from_str(text).ok()?;
                let by_value =
                    self.by_value.get_or_insert_with(|| index(list, |item| Some(item.to_string())));
                by_value.get(&wanted.to_string()).copied()
            }
        }
    }
}

fn index(list: &[Value], name: impl Fn(&Value) -> Option<String>) -> HashMap<String, usize> {
    let mut index = HashMap::with_capacity(list.len());
    for (at, item) in list.iter().enumerate() {
        if let Some(name) = name(item) {
            index.entry(name).or_insert(at);
        }
    }
    index
}

/// The keys of a list element as text; `None` if it lacks one.
fn key_text(item: &Value, keys: &[String]) -> Option<String> {
    let mut own = Map::new();
    for key in keys {
        let value = match item.get(key) {
            Some(value) => value.clone(),
            None if key == "protocol" => "TCP".into(),
            None => return None,
        };
        own.insert(key.clone(), value);
    }
    Some(Value::Object(own).to_string())
}

/// Removes what is at each of `paths`, which are in their order, and members that this leaves
/// empty.
pub(crate) fn remove_all<'p>(object: &mut Value, paths: impl IntoIterator<Item = &'p Path>) {
    let paths: Vec<&[Element]> = paths.into_iter().map(Vec::as_slice).collect();
    remove_below(object, &paths);
}

fn remove_below(value: &mut Value, paths: &[&[Element]]) {
    let groups = paths.chunk_by(|a, b| a.first() == b.first());
    match value {
        Value::Object(map) => {
            for group in groups {
                let Some(("f:", name)) = first(group) else { continue };
                let Some(rest) = below(group) else {
                    map.remove(name);
                    continue;
                };
                let Some(child) = map.get_mut(name) else { continue };
                remove_below(child, &rest);
                if child.as_object().is_some_and(Map::is_empty)
                    || child.as_array().is_some_and(Vec::is_empty)
                {
                    map.remove(name);
                }
            }
        }
        Value::Array(list) => {
            let mut index = ListIndex::default();
            // Found before anything changes: an element without its keys could not be found.
            let found: Vec<_> = groups
                .filter_map(|group| {
                    Some((index.position(list, group.first()?.first()?)?, below(group)))
                })
                .collect();
            let mut gone = vec![false; list.len()];
            for (at, rest) in found {
                match rest {
                    Some(rest) => remove_below(&mut list[at], &rest),
                    None => gone[at] = true,
                }
            }
            let mut at = 0;
            list.retain(|_| {
                at += 1;
                !gone[at - 1]
            });
        }
        _ => {}
    }
}

/// The element that a group of paths has in common.
fn first<'p>(group: &[&'p [Element]]) -> Option<(&'p str, &'p str)> {
    group.first()?.first()?.split_at_checked(2)
}

/// Returns the paths behind the common element; `None` if the group names the value itself.
fn below<'p>(group: &[&'p [Element]]) -> Option<Vec<&'p [Element]>> {
    let rest = group.iter().map(|path| path.get(1..).unwrap_or_default());
    let itself = |rest: &[Element]| rest.is_empty() || (rest.len() == 1 && &*rest[0] == ".");
    rest.map(|rest| if itself(rest) { None } else { Some(rest) }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn path(elements: &[&str]) -> Path {
        elements.iter().map(|element| Element::from(*element)).collect()
    }

    #[test]
    fn paths_are_found() {
        let object = json!({"a": {"b": 1}, "ports": [
            {"port": 1}, {"port": 1, "protocol": "UDP", "x": 2}, {"port": 1, "x": 3}],
            "set": ["p", "q"]});
        let mut lookup = Lookup::new(&object);
        assert_eq!(lookup.get(&path(&["f:a", "f:b"])), Some(&json!(1)));
        let udp = r#"k:{"port":1,"protocol":"UDP"}"#;
        assert_eq!(lookup.get(&path(&["f:ports", udp, "f:x"])), Some(&json!(2)));
        let tcp = r#"k:{"port":1,"protocol":"TCP"}"#;
        assert_eq!(lookup.get(&path(&["f:ports", tcp, "."])), Some(&json!({"port": 1})));
        assert_eq!(lookup.get(&path(&["f:set", "v:\"q\""])), Some(&json!("q")));
        for missing in
            [&["f:c"][..], &["f:set", "v:\"r\""], &["f:set", "k:{}", "f:x"], &["f:a", udp]]
        {
            assert_eq!(lookup.get(&path(missing)), None, "{missing:?}");
        }
    }

    #[test]
    fn removal_takes_elements_and_empty_members() {
        let mut object = json!({"a": {"b": 1}, "list": [
            {"name": "x", "v": 1, "w": 1}, {"name": "y", "v": 1}, {"name": "z"}], "set": ["p"]});
        let paths = [
            path(&["f:a", "f:b"]),
            path(&["f:list", r#"k:{"name":"x"}"#, "f:v"]),
            path(&["f:list", r#"k:{"name":"y"}"#, "."]),
            path(&["f:list", r#"k:{"name":"y"}"#, "f:v"]),
            path(&["f:set", "v:\"p\""]),
        ];
        remove_all(&mut object, &paths);
        assert_eq!(object, json!({"list": [{"name": "x", "w": 1}, {"name": "z"}]}));
    }

    #[test]
    fn key_sets_of_a_list_are_bounded() {
        let list: Vec<Value> = (0..5000).map(|n| json!({"n": n})).collect();
        let object = json!({ "l": list });
        let mut lookup = Lookup::new(&object);
        for n in 0..5000 {
            let key = format!("k:{{\"k{n}\":{n}}}");
            assert!(!lookup.has(&path(&["f:l", &key])));
        }
        let index = lookup.lists.values().next().map(|index| index.by_keys.len());
        assert_eq!(index, Some(KEY_SETS_MAX));
    }
}
