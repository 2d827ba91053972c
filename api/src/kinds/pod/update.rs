//! What may change in a pod that exists (upstream `ValidatePodUpdate`).

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
        let had = |gate: &Field<'_>| {
            old.at("schedulingGates").items().iter().any(|g| g.value == gate.value)
        };
        if let Some(gate) = new.at("schedulingGates").items().iter().find(|gate| !had(gate)) {
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
    let without_seconds = |toleration: &Value| {
        let mut toleration = toleration.clone();
        take(&mut toleration, "tolerationSeconds");
        toleration
    };
    let (new_items, old_items) = (new.items(), old.items());
    let kept = old_items.iter().all(|before| {
        let wanted = without_seconds(before.value);
        new_items.iter().any(|after| same(&without_seconds(after.value), &wanted))
    });
    (!kept).then(|| {
        new.forbidden("existing toleration can not be modified except its tolerationSeconds")
    })
}

/// Checks a write to `/ephemeralcontainers`: existing ones stay as they are.
pub fn validate_ephemeral_update(object: &Value, old: &Value) -> ErrorList {
    let spec = Field::root(object).at("spec");
    let mut errors = validate_ephemeral_containers(&spec);
    let list = spec.at("ephemeralContainers");
    for before in Field::root(old).at("spec").at("ephemeralContainers").items() {
        let name = before.at("name").str();
        let now = list.items();
        match now.iter().find(|container| container.at("name").str() == name) {
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
}
