//! Fields and kinds that are accepted and not acted on. Every write that sets one of them is
//! answered with a warning that names the field; `docs/supported.md` lists them all.

mod kinds;
mod rules;
mod walk;

#[cfg(test)]
mod tests;

use serde_json::{Map, Value};

pub use kinds::KIND_RULES;
pub use rules::FIELD_RULES;

use crate::registry::Resource;

/// Warnings that one write returns at most; an object of 3 MiB could cause a hundred thousand.
pub const MAX_WARNINGS: usize = 64;

/// A field that is accepted and not acted on.
#[derive(Debug)]
pub struct FieldRule {
    /// The end of the message's name in the schema, for example `core.v1.Container`.
    pub message: &'static str,
    /// The JSON name of the field.
    pub field: &'static str,
    /// The values that are not acted on.
    pub when: When,
    /// The effect that is missing.
    pub effect: &'static str,
}

/// The values of a field that are not acted on.
#[derive(Debug)]
pub enum When {
    /// Any but null, false, 0 and empty ones.
    Set,
    /// Texts that begin with this.
    Text(&'static str),
    /// Entries of a map whose keys satisfy the predicate.
    Key(fn(&str) -> bool),
    /// Any, if the object that holds the field satisfies the predicate.
    Within(fn(&Map<String, Value>) -> bool),
}

/// A kind of which coracle acts on nothing, or not on all that its name promises.
#[derive(Debug)]
pub struct KindRule {
    /// The API group.
    pub group: &'static str,
    /// The kind.
    pub kind: &'static str,
    /// True if only creation is answered with the warning, because objects of the kind are updated
    /// every few seconds.
    pub only_create: bool,
    /// The effect that is missing.
    pub effect: &'static str,
}

/// Returns the warnings for a write of `object`, which is in the storage version.
pub fn warnings(resource: &Resource, object: &Value, is_create: bool) -> Vec<String> {
    let storage = resource.storage();
    let mut warnings = Vec::new();
    let of_kind = |rule: &&KindRule| rule.group == storage.group && rule.kind == storage.kind;
    for rule in KIND_RULES.iter().filter(of_kind).filter(|rule| is_create || !rule.only_create) {
        warnings.push(format!("{} {}: {}", storage.api_version(), storage.kind, rule.effect));
    }
    walk::fields(storage, object, &mut warnings);
    warnings
}
