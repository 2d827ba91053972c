//! Finds the fields of an object that are not acted on: one walk along the schema, which enters
//! only messages below which there is a rule.

use std::collections::HashMap;
use std::fmt::Write;
use std::sync::LazyLock;

use serde_json::{Map, Value};

use super::{FIELD_RULES, FieldRule, MAX_WARNINGS, When};
use crate::registry::Served;
use crate::schema::{self, Field, Message, Shape};

/// For every message: its own rules, and whether a message below it has some.
static INDEX: LazyLock<Index> = LazyLock::new(Index::build);

/// Adds a warning for each field of `object` that is not acted on, until there are
/// [`MAX_WARNINGS`].
pub(super) fn fields(storage: &Served, object: &Value, warnings: &mut Vec<String>) {
    let Some(message) = schema::message(storage.group, storage.version, storage.kind) else {
        return;
    };
    let Value::Object(map) = object else { return };
    let mut walk = Walk { path: String::new(), warnings };
    walk.object(message, map);
}

struct Walk<'a> {
    /// The path of the present value, for example `spec.containers[0]`.
    path: String,
    warnings: &'a mut Vec<String>,
}

impl Walk<'_> {
    /// The depth is that of the schema, in which the messages of served kinds do not recur.
    fn object(&mut self, message: &'static Message, map: &Map<String, Value>) {
        let Some(entry) = INDEX.entry(message) else { return };
        for rule in &entry.rules {
            if let Some(value) = map.get(rule.field) {
                self.apply(rule, value, map);
            }
        }
        if !entry.leads_to_rules {
            return;
        }
        for (name, value) in map {
            let at_top = self.path.is_empty();
            let Some(field) = message.field(name).filter(|_| !(at_top && name == "status")) else {
                continue;
            };
            let Some(target) = field.message().filter(|target| INDEX.entry(target).is_some())
            else {
                continue;
            };
            let length = self.path.len();
            self.push(name);
            self.member(field, target, value);
            self.path.truncate(length);
        }
    }

    fn member(&mut self, field: &Field, target: &'static Message, value: &Value) {
        match (field.shape(), value) {
            (Shape::Single, Value::Object(map)) => self.object(target, map),
            (Shape::List, Value::Array(list)) => {
                let maps = list.iter().enumerate();
                for (index, map) in maps.filter_map(|(i, item)| Some((i, item.as_object()?))) {
                    if self.warnings.len() >= MAX_WARNINGS {
                        return;
                    }
                    let length = self.path.len();
                    let _ = write!(self.path, "[{index}]");
                    self.object(target, map);
                    self.path.truncate(length);
                }
            }
            _ => {}
        }
    }

    fn apply(&mut self, rule: &FieldRule, value: &Value, holder: &Map<String, Value>) {
        let applies = match rule.when {
            When::Set => is_set(value),
            When::Text(start) => value.as_str().is_some_and(|text| text.starts_with(start)),
            When::Within(is_meant) => is_set(value) && is_meant(holder),
            When::Key(is_meant) => {
                let keys = value.as_object().into_iter().flat_map(Map::keys);
                for key in keys.filter(|key| is_meant(key)) {
                    self.warn(rule, &format!("[{key}]"));
                }
                return;
            }
        };
        if applies {
            self.warn(rule, "");
        }
    }

    fn warn(&mut self, rule: &FieldRule, key: &str) {
        if self.warnings.len() < MAX_WARNINGS {
            let dot = if self.path.is_empty() { "" } else { "." };
            let (path, FieldRule { field, effect, .. }) = (&self.path, rule);
            let text = format!("{path}{dot}{field}{key}: not supported by coracle: {effect}");
            self.warnings.push(text);
        }
    }

    fn push(&mut self, name: &str) {
        if !self.path.is_empty() {
            self.path.push('.');
        }
        self.path.push_str(name);
    }
}

/// Returns whether a value differs from what absence means.
fn is_set(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::String(text) => !text.is_empty(),
        Value::Number(number) => number.as_i64() != Some(0),
        Value::Array(items) => !items.is_empty(),
        Value::Object(map) => !map.is_empty(),
        Value::Bool(true) => true,
    }
}

struct Entry {
    /// The rules of the message and of those inlined into it.
    rules: Vec<&'static FieldRule>,
    /// True if the value of a field has an entry.
    leads_to_rules: bool,
}

/// Entries by the address of the message; those that lead nowhere are left out.
struct Index(HashMap<usize, Entry>);

impl Index {
    fn build() -> Self {
        let messages = schema::messages();
        let mut entries: HashMap<usize, Entry> = HashMap::new();
        for message in messages {
            let rules = rules_of(message);
            if !rules.is_empty() {
                entries.insert(address(message), Entry { rules, leads_to_rules: false });
            }
        }
        // Each round goes one level up; the schema has few.
        loop {
            let before = entries.len();
            for message in messages {
                let targets = message.members().into_iter().filter_map(Field::message);
                let mut leads = targets.into_iter().map(address);
                if leads.any(|target| entries.contains_key(&target)) {
                    let none = Entry { rules: Vec::new(), leads_to_rules: true };
                    entries.entry(address(message)).or_insert(none).leads_to_rules = true;
                }
            }
            if entries.len() == before {
                return Self(entries);
            }
        }
    }

    fn entry(&self, message: &Message) -> Option<&Entry> {
        self.0.get(&address(message))
    }
}

fn rules_of(message: &'static Message) -> Vec<&'static FieldRule> {
    let mut rules: Vec<_> =
        FIELD_RULES.iter().filter(|rule| is_named(message, rule.message)).collect();
    let inlined = message.fields().iter().filter(|field| field.is_inlined());
    rules.extend(inlined.filter_map(Field::message).flat_map(rules_of));
    rules
}

/// Returns whether the name of a message ends with these segments.
pub(super) fn is_named(message: &Message, end: &str) -> bool {
    message.name().strip_suffix(end).is_some_and(|start| start.ends_with('.'))
}

fn address(message: &Message) -> usize {
    std::ptr::from_ref(message).addr()
}
