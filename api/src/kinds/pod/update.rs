//! What may change in a pod that exists (upstream `ValidatePodUpdate`).

use std::collections::{HashMap, HashSet};

use serde_json::Value;

use crate::defaults::{copy_from, items_at, set, take};
use crate::field::{Field, same};
use crate::field_error::{ErrorList, FieldError};
use crate::pod_spec::validate_ephemeral_containers;

/// Fields that an ordinary update may change.
const MUTABLE: &str = "`spec.containers[*].image`,`spec.initContainers[*].image`,\
                       `spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing \
                       tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 \
                       if it was previously negative)";

/// Checks a changed spec against the stored one.
pub fn validate_update(object: &Value, old: &Value) -> ErrorList {
    let (new, old) = (Field::root(object).at("spec"), Field::root(old).at("spec"));
    let mut errors = ErrorList::new();
    for list in ["containers", "initContainers"] {
        if new.at(list).len() != old.at(list).len() {
            let detail = "pod updates may not add or remove containers";
            errors.push(new.at(list).forbidden(detail));
        }
    }
    if !errors.is_empty() {
        return errors;
    }
    let (deadline, before) = (new.at("activeDeadlineSeconds"), old.at("activeDeadlineSeconds"));
    match (deadline.int(), before.int()) {
        (Some(after), Some(before)) if after > before => {
            let detail = format!("must be less than or equal to previous value {before}");
            errors.push(deadline.invalid(detail));
        }
        (None, Some(_)) => errors.push(FieldError::invalid(
            deadline.path,
            Value::Null,
            "must not update from a positive integer to nil value",
        )),
        _ => {}
    }
    errors.extend(validate_tolerations(&new.at("tolerations"), &old.at("tolerations")));
    if !errors.is_empty() {
        return errors;
    }

    // With what may change made equal, nothing else may differ.
    let mut munged = new.value.clone();
    for list in ["containers", "initContainers"] {
        let before = old.at(list).items();
        for (container, before) in items_at(&mut munged, list).zip(before) {
            copy_from(container, before.value, "image");
        }
    }
    for field in ["activeDeadlineSeconds", "tolerations"] {
        copy_from(&mut munged, old.value, field);
    }
    let grace = old.at("terminationGracePeriodSeconds").int().unwrap_or(0);
    if grace < 0 && new.at("terminationGracePeriodSeconds").int() == Some(1) {
        set(&mut munged, "terminationGracePeriodSeconds", grace);
    }
    if !old.at("schedulingGates").is_empty() {
        // A gated pod may lose gates and become pickier about nodes.
        for field in ["schedulingGates", "nodeSelector", "affinity"] {
            copy_from(&mut munged, old.value, field);
        }
        let before = old.at("schedulingGates");
        let before: HashSet<&Value> = before.value.as_array().into_iter().flatten().collect();
        let gates = new.at("schedulingGates").items();
        if let Some(gate) = gates.iter().find(|gate| !before.contains(gate.value)) {
            errors.push(gate.forbidden("only deletion is allowed, but found new scheduling gate"));
        }
    }
    take(&mut munged, "ephemeralContainers");
    let mut before = old.value.clone();
    take(&mut before, "ephemeralContainers");
    if !same(&munged, &before) {
        let changes = difference("", &before, &munged).join("\n");
        errors.push(FieldError::forbidden(
            "spec",
            format!("pod updates may not change fields other than {MUTABLE}\n{changes}"),
        ));
    }
    errors
}

fn validate_tolerations(new: &Field<'_>, old: &Field<'_>) -> Option<FieldError> {
    // All that a toleration has besides its seconds; an absent text is an empty one.
    let essence = |toleration: &Value| {
        ["key", "operator", "value", "effect"]
            .map(|name| toleration[name].as_str().unwrap_or_default().to_owned())
    };
    let all = |list: &Field<'_>| -> HashSet<[String; 4]> {
        list.value.as_array().into_iter().flatten().map(essence).collect()
    };
    let kept = all(old).is_subset(&all(new));
    (!kept).then(|| {
        new.forbidden("existing toleration can not be modified except its tolerationSeconds")
    })
}

/// Checks a write to `/ephemeralcontainers`: existing ones stay as they are.
pub fn validate_ephemeral_update(object: &Value, old: &Value) -> ErrorList {
    let spec = Field::root(object).at("spec");
    let mut errors = validate_ephemeral_containers(&spec);
    let list = spec.at("ephemeralContainers");
    let now = list.items();
    let mut by_name = HashMap::new();
    for container in &now {
        // The first of several with the same name counts.
        by_name.entry(container.at("name").str()).or_insert(container);
    }
    for before in Field::root(old).at("spec").at("ephemeralContainers").items() {
        let name = before.at("name").str();
        match by_name.get(name) {
            None => {
                errors.push(list.forbidden(format!(
                    "existing ephemeral containers {name:?} may not be removed\n"
                )))
            }
            Some(container) if !same(container.value, before.value) => {
                errors.push(list.forbidden(format!(
                    "existing ephemeral containers {name:?} may not be changed\n"
                )))
            }
            Some(_) => {}
        }
    }
    errors
}

/// The lines that differ, as `-  path: old` and `+  path: new`.
fn difference(path: &str, old: &Value, new: &Value) -> Vec<String> {
    if same(old, new) {
        return Vec::new();
    }
    match (old, new) {
        (Value::Object(a), Value::Object(b)) => {
            let mut keys: Vec<&String> = a.keys().chain(b.keys()).collect();
            keys.sort();
            keys.dedup();
            let step =
                |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
            keys.iter()
                .flat_map(|key| difference(&step(key), &old[key.as_str()], &new[key.as_str()]))
                .collect()
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => a
            .iter()
            .zip(b)
            .enumerate()
            .flat_map(|(index, (a, b))| difference(&format!("{path}[{index}]"), a, b))
            .collect(),
        _ => vec![format!("-  {path}: {old}"), format!("+  {path}: {new}")],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_listed_fields_change() {
        let old = json!({"spec": {"containers": [{"name": "c", "image": "a"}], "hostname": "x"}});
        let mut new = old.clone();
        new["spec"]["containers"][0]["image"] = json!("b");
        assert_eq!(validate_update(&new, &old), []);
        new["spec"]["hostname"] = json!("y");
        let text = validate_update(&new, &old)[0].to_string();
        assert!(text.starts_with("spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions"), "{text}");
        assert!(text.ends_with("-  hostname: \"x\"\n+  hostname: \"y\""), "{text}");
    }
    #[test]
    fn many_gates_only_go() {
        let with = |names: Vec<String>| {
            let gates: Vec<Value> = names.iter().map(|name| json!({ "name": name })).collect();
            json!({ "spec": { "schedulingGates": gates } })
        };
        let names = |numbers: std::ops::Range<i32>| numbers.map(|n| format!("g{n}")).collect();
        let old = with(names(0..3_000));
        assert_eq!(validate_update(&with(names(1..3_000)), &old), []);
        let errors = validate_update(&with(names(1..3_002)), &old);
        let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            ["spec.schedulingGates[2999]: Forbidden: only deletion is allowed, but found new \
              scheduling gate"]
        );
    }

    #[test]
    fn many_tolerations_stay_but_for_their_seconds() {
        let with = |seconds: i32, count: i32| {
            let tolerations: Vec<Value> = (0..count)
                .map(|n| {
                    json!({"key": format!("k{n}"), "operator": "Exists",
                    "tolerationSeconds": seconds})
                })
                .collect();
            json!({ "spec": { "tolerations": tolerations } })
        };
        let mut new = with(2, 3_001);
        // An empty text is an absent one.
        new["spec"]["tolerations"][7]["effect"] = json!("");
        assert_eq!(validate_update(&new, &with(1, 3_000)), []);
        new["spec"]["tolerations"][7]["effect"] = json!("NoExecute");
        let errors = validate_update(&new, &with(1, 3_000));
        let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            ["spec.tolerations: Forbidden: existing toleration can not be modified except its \
              tolerationSeconds"]
        );
    }

    #[test]
    fn many_ephemeral_containers_stay_as_they_are() {
        let with = |numbers: std::ops::Range<i32>, image: &str| {
            let list: Vec<Value> = numbers
                .map(|n| {
                    json!({"name": format!("e{n}"), "image": image, "imagePullPolicy": "Always",
                    "terminationMessagePolicy": "File"})
                })
                .collect();
            json!({ "spec": { "ephemeralContainers": list } })
        };
        let old = with(0..2_000, "i");
        assert_eq!(validate_ephemeral_update(&with(0..2_001, "i"), &old), []);
        let removed = validate_ephemeral_update(&with(1..2_001, "i"), &old);
        assert_eq!(removed.len(), 1);
        assert!(removed[0].detail.contains("\"e0\" may not be removed"));
        let mut new = old.clone();
        new["spec"]["ephemeralContainers"][9]["image"] = json!("j");
        let changed = validate_ephemeral_update(&new, &old);
        assert_eq!(changed.len(), 1);
        assert!(changed[0].detail.contains("\"e9\" may not be changed"));
    }
}
