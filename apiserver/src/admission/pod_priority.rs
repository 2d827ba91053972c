//! A pod's priority is the number behind its PriorityClass (upstream `Priority`).

use serde_json::{Value, json};

use crate::call::Call;
use crate::error::ApiError;
use crate::{meta, object, render};

pub(super) fn create(call: &Call<'_>, pod: &mut Value) -> Result<(), ApiError> {
    let Some(resource) = call.server.catalog.stored("scheduling.k8s.io", "priorityclasses") else {
        return Ok(());
    };
    let store = &call.server.store;
    let wanted = pod["spec"]["priorityClassName"].as_str().unwrap_or_default().to_owned();
    let class = if wanted.is_empty() {
        default_class(call)?
    } else {
        let record = store.get(&meta::key(resource, "", &wanted)).ok_or_else(|| {
            let why = format!("no PriorityClass with name {wanted} was found");
            ApiError::forbidden(call.served, object::name(pod), &why)
        })?;
        Some(render::parse(&record)?)
    };
    let number = class.as_ref().and_then(|c| c["value"].as_i64()).unwrap_or(0);
    let policy = class
        .as_ref()
        .and_then(|c| c["preemptionPolicy"].as_str())
        .unwrap_or("PreemptLowerPriority")
        .to_owned();
    let name = object::name(pod).to_owned();
    let spec = object::child_mut(pod, "spec");
    let differs =
        |field: &str, value: &Value| spec.get(field).is_some_and(|v| !v.is_null() && v != value);
    if differs("priority", &json!(number)) {
        let given = &spec["priority"];
        let why = format!(
            "the integer value of priority ({given}) must not be provided in pod spec; priority \
             admission controller computed {number} from the given PriorityClass name"
        );
        return Err(ApiError::forbidden(call.served, &name, &why));
    }
    if differs("preemptionPolicy", &json!(policy)) {
        let given = spec["preemptionPolicy"].as_str().unwrap_or_default();
        let why = format!(
            "the string value of PreemptionPolicy ({given}) must not be provided in pod spec; \
             priority admission controller computed {policy} from the given PriorityClass name"
        );
        return Err(ApiError::forbidden(call.served, &name, &why));
    }
    if let Some(class) = &class {
        spec.insert("priorityClassName".into(), class["metadata"]["name"].clone());
    }
    spec.insert("priority".into(), number.into());
    spec.insert("preemptionPolicy".into(), policy.into());
    Ok(())
}

/// The class of pods that name none: the least of those that say so.
fn default_class(call: &Call<'_>) -> Result<Option<Value>, ApiError> {
    let resource = call.server.builtin("scheduling.k8s.io", "priorityclasses")?;
    let mut default: Option<Value> = None;
    for record in call.server.store.list(&meta::prefix(resource, ""), None, 0).records {
        let class = render::parse(&record)?;
        let value = |class: &Value| class["value"].as_i64().unwrap_or(0);
        let lower = default.as_ref().is_none_or(|d| value(&class) < value(d));
        if class["globalDefault"] == true && lower {
            default = Some(class);
        }
    }
    Ok(default)
}

/// One class at most is the default.
pub(super) fn check_default(call: &Call<'_>, class: &Value) -> Result<(), ApiError> {
    if call.stored_as().kind != "PriorityClass" || class["globalDefault"] != true {
        return Ok(());
    }
    let name = object::name(class);
    match default_class(call)?.as_ref().map(object::name) {
        Some(other) if other != name => {
            let why = format!(
                "PriorityClass {other} is already marked as default. Only one default can exist"
            );
            Err(ApiError::forbidden(call.served, name, &why))
        }
        _ => Ok(()),
    }
}

/// An update may leave out what the server computed.
pub(super) fn update(pod: &mut Value, old: &Value) {
    let spec = object::child_mut(pod, "spec");
    for field in ["priority", "preemptionPolicy"] {
        if spec.get(field).is_none_or(Value::is_null) && !old["spec"][field].is_null() {
            spec.insert(field.into(), old["spec"][field].clone());
        }
    }
}
