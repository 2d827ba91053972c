//! Validation of `metadata` (upstream `apimachinery/pkg/api/validation/objectmeta.go`) and of
//! label selectors inside objects.

use std::collections::HashSet;

use serde_json::Value;

use crate::field::Field;
use crate::field_error::{ErrorList, FieldError};
use crate::names;
use crate::quote::is_printable;

/// All annotations of one object together, keys and values.
pub const ANNOTATIONS_MAX_BYTES: usize = 256 * 1024;
/// The name of a field manager.
pub const FIELD_MANAGER_MAX_BYTES: usize = 128;

/// Checks everything in `metadata` except name and generateName, which follow the kind's rule
/// (see [`validate_name`]).
pub fn validate_metadata(object: &Value, namespaced: bool) -> ErrorList {
    let metadata = Field::root(object).at("metadata");
    let mut errors = ErrorList::new();
    let namespace = metadata.at("namespace");
    if namespaced {
        if namespace.is_empty() {
            errors.push(namespace.required(""));
        } else {
            errors.extend(namespace.invalid_each(names::dns1123_label(namespace.str())));
        }
    } else if !namespace.is_empty() {
        errors.push(namespace.forbidden("not allowed on this type"));
    }
    errors.extend(metadata.at("generation").non_negative());
    errors.extend(validate_common(&metadata));
    errors
}

/// Checks name and generateName against a kind's rule.
pub fn validate_name(object: &Value, rule: impl Fn(&str, bool) -> Vec<String>) -> ErrorList {
    let metadata = Field::root(object).at("metadata");
    let mut errors = ErrorList::new();
    let generate = metadata.at("generateName");
    if !generate.is_empty() {
        errors.extend(generate.invalid_each(rule(generate.str(), true)));
    }
    let name = metadata.at("name");
    if name.is_empty() {
        errors.push(name.required("name or generateName is required"));
    } else {
        errors.extend(name.invalid_each(rule(name.str(), false)));
    }
    errors
}

/// Checks a changed `metadata` against the stored one.
pub fn validate_metadata_update(object: &Value, old: &Value) -> ErrorList {
    let (new, old) = (Field::root(object).at("metadata"), Field::root(old).at("metadata"));
    let mut errors = ErrorList::new();
    if old.at("deletionTimestamp").exists() {
        let (new_finalizers, old_finalizers) = (new.at("finalizers"), old.at("finalizers"));
        let had: HashSet<&Value> = old_finalizers.value.as_array().into_iter().flatten().collect();
        let mut extra: Vec<&str> = new_finalizers
            .items()
            .into_iter()
            .filter(|item| !had.contains(item.value))
            .map(|item| item.str())
            .collect();
        extra.sort_unstable();
        extra.dedup();
        if !extra.is_empty() {
            let list: Vec<String> = extra.iter().map(|name| format!("{name:?}")).collect();
            errors.push(new_finalizers.forbidden(format!(
                "no new finalizers can be added if the object is being deleted, found new \
                 finalizers []string{{{}}}",
                list.join(", ")
            )));
        }
    }
    let generation = new.at("generation");
    if generation.int().unwrap_or(0) < old.at("generation").int().unwrap_or(0) {
        errors.push(generation.invalid("must not be decremented"));
    }
    for name in [
        "name",
        "namespace",
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
    ] {
        errors.extend(new.at(name).immutable(old.at(name).value));
    }
    errors.extend(validate_common(&new));
    errors.extend(validate_managers(&new.at("managedFields"), &old.at("managedFields")));
    errors
}

/// Checks the name under which a client writes, as `fieldManager` gives it.
pub fn validate_field_manager(field: &str, manager: &str) -> ErrorList {
    if manager.len() > FIELD_MANAGER_MAX_BYTES {
        return FieldError::too_long(field, FIELD_MANAGER_MAX_BYTES).into();
    }
    let unprintable = manager.char_indices().filter(|(_, c)| !is_printable(*c));
    unprintable
        .map(|(at, c)| {
            let why = format!("invalid character U+{:04X} (at position {at})", u32::from(c));
            FieldError::invalid(field, manager, why)
        })
        .collect()
}

/// Checks the managers that a client writes itself, with one error for each at the most.
fn validate_managers(new: &Field<'_>, old: &Field<'_>) -> ErrorList {
    let old = old.items();
    let known: HashSet<&str> = old.iter().map(|entry| entry.at("manager").str()).collect();
    let managers = new.items().into_iter().map(|entry| entry.at("manager"));
    managers
        .filter(|manager| !known.contains(manager.str()))
        .filter_map(|manager| {
            validate_field_manager(&manager.path, manager.str()).into_iter().next()
        })
        .collect()
}

fn validate_common(metadata: &Field<'_>) -> ErrorList {
    let mut errors = validate_labels(&metadata.at("labels"));
    errors.extend(validate_annotations(&metadata.at("annotations")));
    errors.extend(validate_owner_references(&metadata.at("ownerReferences")));
    errors.extend(validate_finalizers(&metadata.at("finalizers")));
    errors
}

/// Checks keys and values of labels.
pub fn validate_labels(labels: &Field<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    for (key, value) in labels.entries() {
        for message in names::label_key(key) {
            errors.push(FieldError::invalid(&labels.path, key, message));
        }
        for message in names::label_value(value.str()) {
            errors.push(FieldError::invalid(&labels.path, value.str(), message));
        }
    }
    errors
}

/// Checks keys and the total size of annotations.
pub fn validate_annotations(annotations: &Field<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    let mut size = 0;
    for (key, value) in annotations.entries() {
        for message in names::label_key(&key.to_lowercase()) {
            errors.push(FieldError::invalid(&annotations.path, key, message));
        }
        size += key.len() + value.str().len();
    }
    if size > ANNOTATIONS_MAX_BYTES {
        errors.push(FieldError::too_long(&annotations.path, ANNOTATIONS_MAX_BYTES));
    }
    errors
}

fn validate_owner_references(references: &Field<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    let (mut first_controller, mut is_reported) = (None, false);
    for reference in references.items() {
        // Upstream names the list, not the element.
        let reference = Field::new(reference.value, &references.path);
        for (name, message) in [
            ("apiVersion", "version must not be empty"),
            ("kind", "must not be empty"),
            ("name", "must not be empty"),
            ("uid", "must not be empty"),
        ] {
            let field = reference.at(name);
            if field.is_empty() {
                errors.push(FieldError::invalid(field.path, "", message));
            }
        }
        let (api_version, kind) = (reference.at("apiVersion"), reference.at("kind"));
        if api_version.str() == "v1" && kind.str() == "Event" {
            errors.push(reference.invalid("/v1, Kind=Event is disallowed from being an owner"));
        }
        if reference.at("controller").bool() && !is_reported {
            let current = format!("{}/{}", kind.str(), reference.at("name").str());
            match &first_controller {
                Some(first) => {
                    errors.push(references.invalid(format!(
                        "Only one reference can have Controller set to true. Found \"true\" in \
                         references for {first} and {current}"
                    )));
                    is_reported = true;
                }
                None => first_controller = Some(current),
            }
        }
    }
    errors
}

const STANDARD_FINALIZERS: [&str; 3] = ["kubernetes", "orphan", "foregroundDeletion"];

fn validate_finalizers(finalizers: &Field<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    let mut seen = [false; 2];
    for finalizer in finalizers.items() {
        let name = finalizer.str();
        let finalizer = Field::new(finalizer.value, &finalizers.path);
        errors.extend(finalizer.invalid_each(names::label_key(name)));
        if !name.contains('/') && !STANDARD_FINALIZERS.contains(&name) {
            let detail = "name is neither a standard finalizer name nor is it fully qualified";
            errors.push(finalizer.invalid(detail));
        }
        seen[0] |= name == "orphan";
        seen[1] |= name == "foregroundDeletion";
    }
    if seen == [true, true] {
        let detail = "finalizer orphan and foregroundDeletion cannot be both set";
        errors.push(finalizers.invalid(detail));
    }
    errors
}

/// Checks a `metav1.LabelSelector`.
pub fn validate_label_selector(selector: &Field<'_>) -> ErrorList {
    let mut errors = validate_labels(&selector.at("matchLabels"));
    for expression in selector.at("matchExpressions").items() {
        let (operator, values) = (expression.at("operator"), expression.at("values"));
        match operator.str() {
            "In" | "NotIn" if values.is_empty() => {
                errors.push(values.required("must be specified when `operator` is 'In' or 'NotIn'"))
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                errors.push(values.forbidden(
                    "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
                ))
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => errors.push(FieldError::invalid(
                operator.path,
                other,
                "not a valid selector operator",
            )),
        }
        let key = expression.at("key");
        for message in names::label_key(key.str()) {
            errors.push(FieldError::invalid(&key.path, key.str(), message));
        }
        for value in values.items() {
            errors.extend(value.invalid_each(names::label_value(value.str())));
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::field_error::{ERRORS_MAX, VALUE_BYTES_MAX};
    use serde_json::json;

    #[test]
    fn field_managers_are_short_and_printable() {
        let texts = |manager: &str| -> Vec<String> {
            let errors = validate_field_manager("fieldManager", manager);
            errors.iter().map(FieldError::to_string).collect()
        };
        for manager in ["", "kubectl-edit", "é 漢", &"x".repeat(128)] {
            assert!(texts(manager).is_empty(), "{manager}");
        }
        assert_eq!(
            texts("a\u{1}\u{200b}"),
            [
                r#"fieldManager: Invalid value: "a\x01\u200b": invalid character U+0001 (at position 1)"#,
                r#"fieldManager: Invalid value: "a\x01\u200b": invalid character U+200B (at position 2)"#,
            ]
        );
        let long = ["fieldManager: Too long: may not be more than 128 bytes"];
        assert_eq!(texts(&"x".repeat(129)), long);
        assert_eq!(texts(&"\u{1}".repeat(60_000)), long);
    }

    #[test]
    fn written_managers_are_checked_unless_known() {
        let with = |managers: &[&str]| {
            let entries: Vec<Value> = managers.iter().map(|m| json!({ "manager": m })).collect();
            json!({ "metadata": { "managedFields": entries } })
        };
        let old = with(&["\u{1}"]);
        assert!(validate_metadata_update(&with(&["\u{1}", "b"]), &old).is_empty());
        let errors = validate_metadata_update(&with(&["b", "\u{2}\u{2}"]), &old);
        let texts: Vec<String> = errors.iter().map(FieldError::to_string).collect();
        assert_eq!(
            texts,
            [
                r#"metadata.managedFields[1].manager: Invalid value: "\x02\x02": invalid character U+0002 (at position 0)"#
            ]
        );
    }

    #[test]
    fn messages() {
        let object = json!({"metadata": {
            "name": "A", "labels": {"a b": "ok", "ok": "-"},
            "finalizers": ["x"],
            "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "p"}],
        }});
        let texts: Vec<String> =
            validate_metadata(&object, true).iter().map(FieldError::to_string).collect();
        assert_eq!(texts[0], "metadata.namespace: Required value");
        assert!(texts[1].starts_with("metadata.labels: Invalid value: \"a b\": name part must"));
        assert!(texts[2].starts_with("metadata.labels: Invalid value: \"-\": a valid label must"));
        assert_eq!(
            texts[3],
            "metadata.ownerReferences.uid: Invalid value: \"\": must not be empty"
        );
        assert_eq!(
            texts[4],
            "metadata.finalizers: Invalid value: \"x\": name is neither a standard finalizer name nor is it fully qualified"
        );
        let texts: Vec<String> =
            validate_name(&object, names::subdomain_name).iter().map(|e| e.to_string()).collect();
        assert!(texts[0].starts_with(
            "metadata.name: Invalid value: \"A\": a lowercase RFC 1123 subdomain must consist of"
        ));
    }
    #[test]
    fn several_controllers_are_one_short_error() {
        let references: Vec<Value> = (0..3_000)
            .map(|n| {
                json!({"apiVersion": "v1", "kind": "Pod", "name": format!("p{n}"), "uid": "u",
                    "controller": true})
            })
            .collect();
        let object = json!({ "metadata": { "ownerReferences": references } });
        let errors = validate_metadata(&object, false);
        assert_eq!(errors.len(), 1);
        let text = errors[0].to_string();
        assert!(text.starts_with(
            "metadata.ownerReferences: Invalid value: [{\"apiVersion\":\"v1\",\"controller\":true,"
        ));
        assert!(text.ends_with(
            "...: Only one reference can have Controller set to true. Found \"true\" in references \
             for Pod/p0 and Pod/p1"
        ));
        assert!(text.len() < VALUE_BYTES_MAX + 200, "{}", text.len());
    }

    #[test]
    fn many_bad_labels_are_a_hundred_errors() {
        let labels: serde_json::Map<String, Value> =
            (0..4_500).map(|n| (format!("a b{n}"), json!("x"))).collect();
        let errors = validate_metadata(&json!({ "metadata": { "labels": labels } }), false);
        assert_eq!(errors.len(), ERRORS_MAX);
    }

    #[test]
    fn many_finalizers_stay_and_few_are_new() {
        let with = |names: Vec<String>| json!({"metadata": {"deletionTimestamp": "2024-01-01T00:00:00Z", "finalizers": names}});
        let old: Vec<String> = (0..4_000).map(|n| format!("a.b/f{n}")).collect();
        let mut new: Vec<String> = old.iter().rev().cloned().collect();
        assert_eq!(validate_metadata_update(&with(new.clone()), &with(old.clone())), []);
        new.extend(["a.b/y", "a.b/x", "a.b/y"].map(str::to_owned));
        let errors = validate_metadata_update(&with(new), &with(old));
        let texts: Vec<String> = errors.iter().map(FieldError::to_string).collect();
        assert_eq!(
            texts,
            [
                "metadata.finalizers: Forbidden: no new finalizers can be added if the object is being \
              deleted, found new finalizers []string{\"a.b/x\", \"a.b/y\"}"
            ]
        );
    }
}
