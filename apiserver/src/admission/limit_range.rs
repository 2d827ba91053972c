//! LimitRanges fill in what containers do not say and refuse what is out of range (upstream
//! `LimitRanger`).

use std::collections::BTreeMap;

use api::pod::{pod_limits, pod_requests};
use api::quantity::Quantity;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Map, Value, json};

use crate::call::Call;
use crate::error::ApiError;
use crate::{meta, object, render};

/// What the defaults were taken from is noted here.
const ANNOTATION: &str = "kubernetes.io/limit-ranger";

type Amounts = BTreeMap<String, Quantity>;

/// The LimitRanges of the namespace of the request.
fn ranges(call: &Call<'_>) -> Result<Vec<Value>, ApiError> {
    let resource = call.server.builtin("", "limitranges")?;
    let prefix = meta::prefix(resource, call.namespace());
    let page = call.server.store.list(&prefix, None, 0);
    page.records.iter().map(|record| render::parse(record)).collect()
}

fn limits(range: &Value) -> impl Iterator<Item = &Value> {
    range["spec"]["limits"].as_array().into_iter().flatten()
}

/// Fills in the defaults of a new pod and checks it.
pub(super) fn create_pod(call: &Call<'_>, pod: &mut Value) -> Result<(), ApiError> {
    let ranges = ranges(call)?;
    for range in &ranges {
        apply_defaults(range, pod);
    }
    let errors: Vec<String> = ranges.iter().flat_map(|range| pod_errors(range, pod)).collect();
    refuse(call, pod, &errors)
}

/// Checks a new or changed claim.
pub(super) fn check_claim(call: &Call<'_>, claim: &Value) -> Result<(), ApiError> {
    let mut errors = Vec::new();
    let requests = amounts(&claim["spec"]["resources"]["requests"]);
    for range in &ranges(call)? {
        for limit in limits(range).filter(|limit| limit["type"] == "PersistentVolumeClaim") {
            for (name, least) in amounts(&limit["min"]) {
                errors.extend(below("PersistentVolumeClaim", &name, least, &requests, None));
            }
            for (name, most) in amounts(&limit["max"]) {
                errors.extend(above_request("PersistentVolumeClaim", &name, most, &requests));
            }
        }
    }
    refuse(call, claim, &errors)
}

fn refuse(call: &Call<'_>, object: &Value, errors: &[String]) -> Result<(), ApiError> {
    let why = match errors {
        [] => return Ok(()),
        [one] => one.clone(),
        many => format!("[{}]", many.join(", ")),
    };
    let name = match object::name(object) {
        "" => object::metadata_str(object, "generateName"),
        name => name,
    };
    Err(ApiError::forbidden(call.served, name, &why))
}

fn amounts(list: &Value) -> Amounts {
    let entries = list.as_object().into_iter().flatten();
    entries.filter_map(|(name, v)| Some((name.clone(), Quantity::from_json(v).ok()?))).collect()
}

/// Gives containers the requests and limits that they do not state.
fn apply_defaults(range: &Value, pod: &mut Value) {
    let (mut requests, mut tops) = (Map::new(), Map::new());
    for limit in limits(range).filter(|limit| limit["type"] == "Container") {
        let entries = |list: &Value| list.as_object().cloned().unwrap_or_default();
        requests.extend(entries(&limit["defaultRequest"]));
        tops.extend(entries(&limit["default"]));
    }
    let mut notes = Vec::new();
    for (key, word) in [("containers", "container"), ("initContainers", "init container")] {
        let Some(containers) = pod["spec"][key].as_array_mut() else { continue };
        for container in containers {
            let name = container["name"].as_str().unwrap_or_default().to_owned();
            for (list, defaults, what) in
                [("requests", &requests, "request"), ("limits", &tops, "limit")]
            {
                let set = fill(container, list, defaults);
                if !set.is_empty() {
                    notes.push(format!("{} {what} for {word} {name}", set.join(", ")));
                }
            }
        }
    }
    if !notes.is_empty() {
        let text = format!("LimitRanger plugin set: {}", notes.join("; "));
        let metadata = object::metadata_mut(pod);
        let annotations = metadata.entry("annotations").or_insert_with(|| json!({}));
        annotations[ANNOTATION] = text.into();
    }
}

/// Adds what the list does not name; returns the added names.
fn fill(container: &mut Value, list: &str, defaults: &Map<String, Value>) -> Vec<String> {
    let mut set = Vec::new();
    for (name, amount) in defaults {
        if !container["resources"][list][name].is_null() {
            continue;
        }
        if !container["resources"].is_object() {
            container["resources"] = json!({});
        }
        container["resources"][list][name] = amount.clone();
        set.push(name.clone());
    }
    set
}

fn pod_errors(range: &Value, pod: &Value) -> Vec<String> {
    let mut errors = Vec::new();
    for limit in limits(range) {
        match limit["type"].as_str() {
            Some("Container") => {
                for key in ["containers", "initContainers"] {
                    for container in pod["spec"][key].as_array().into_iter().flatten() {
                        let resources = &container["resources"];
                        let (requests, tops) =
                            (amounts(&resources["requests"]), amounts(&resources["limits"]));
                        errors.extend(range_errors("Container", limit, &requests, &tops));
                    }
                }
            }
            Some("Pod") => {
                let Ok(typed) = api::typed::<Pod>(pod) else { continue };
                let (requests, tops) = (pod_requests(&typed), pod_limits(&typed));
                errors.extend(range_errors("Pod", limit, &requests, &tops));
            }
            _ => {}
        }
    }
    errors
}

fn range_errors(kind: &str, limit: &Value, requests: &Amounts, tops: &Amounts) -> Vec<String> {
    let mut errors = Vec::new();
    for (name, least) in amounts(&limit["min"]) {
        errors.extend(below(kind, &name, least, requests, Some(tops)));
    }
    for (name, most) in amounts(&limit["max"]) {
        errors.extend(above(kind, &name, most, requests, tops));
    }
    for (name, ratio) in amounts(&limit["maxLimitRequestRatio"]) {
        errors.extend(beyond_ratio(kind, &name, ratio, requests, tops));
    }
    errors
}

fn below(
    kind: &str,
    name: &str,
    least: Quantity,
    requests: &Amounts,
    tops: Option<&Amounts>,
) -> Option<String> {
    let rule = format!("minimum {name} usage per {kind} is {least}");
    match (requests.get(name), tops.and_then(|tops| tops.get(name))) {
        (None, _) => Some(format!("{rule}.  No request is specified")),
        (Some(request), _) if *request < least => Some(format!("{rule}, but request is {request}")),
        (_, Some(top)) if *top < least => Some(format!("{rule}, but limit is {top}")),
        _ => None,
    }
}

fn above(
    kind: &str,
    name: &str,
    most: Quantity,
    requests: &Amounts,
    tops: &Amounts,
) -> Option<String> {
    let rule = format!("maximum {name} usage per {kind} is {most}");
    match (tops.get(name), requests.get(name)) {
        (None, _) => Some(format!("{rule}.  No limit is specified")),
        (Some(top), _) if *top > most => Some(format!("{rule}, but limit is {top}")),
        (_, Some(request)) if *request > most => Some(format!("{rule}, but request is {request}")),
        _ => None,
    }
}

fn above_request(kind: &str, name: &str, most: Quantity, requests: &Amounts) -> Option<String> {
    let rule = format!("maximum {name} usage per {kind} is {most}");
    match requests.get(name) {
        None => Some(format!("{rule}.  No request is specified")),
        Some(request) if *request > most => Some(format!("{rule}, but request is {request}")),
        Some(_) => None,
    }
}

fn beyond_ratio(
    kind: &str,
    name: &str,
    ratio: Quantity,
    requests: &Amounts,
    tops: &Amounts,
) -> Option<String> {
    let rule = format!("{name} max limit to request ratio per {kind} is {ratio}");
    let some = |list: &Amounts| list.get(name).copied().filter(|amount| !amount.is_zero());
    let Some(request) = some(requests) else {
        return Some(format!("{rule}, but no request is specified or request is 0"));
    };
    let Some(top) = some(tops) else {
        return Some(format!("{rule}, but no limit is specified or limit is 0"));
    };
    let found = top.nano_value() as f64 / request.nano_value() as f64;
    let most = ratio.nano_value() as f64 / 1e9;
    (found > most).then(|| format!("{rule}, but provided ratio is {found:.6}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(resources: &Value) -> Value {
        json!({"metadata": {"name": "p"}, "spec": {"containers": [
            {"name": "c", "resources": resources}]}})
    }

    fn range(limit: &Value) -> Value {
        json!({"spec": {"limits": [limit]}})
    }

    #[test]
    fn defaults_fill_gaps_and_are_noted() {
        let range =
            range(&json!({"type": "Container", "default": {"cpu": "500m", "memory": "1Gi"},
            "defaultRequest": {"cpu": "100m"}}));
        let mut object = pod(&json!({"limits": {"cpu": "1"}}));
        apply_defaults(&range, &mut object);
        assert_eq!(
            object["spec"]["containers"][0]["resources"],
            json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "100m"}})
        );
        assert_eq!(
            object["metadata"]["annotations"][ANNOTATION],
            "LimitRanger plugin set: cpu request for container c; memory limit for container c"
        );
    }

    #[test]
    fn what_is_out_of_range_is_told_as_upstream_tells_it() {
        let limit = json!({"type": "Container", "min": {"cpu": "100m"}, "max": {"cpu": "1"},
            "maxLimitRequestRatio": {"cpu": "2"}});
        for (resources, expected) in [
            (
                json!({"requests": {"cpu": "50m"}, "limits": {"cpu": "100m"}}),
                vec!["minimum cpu usage per Container is 100m, but request is 50m"],
            ),
            (
                json!({"requests": {"cpu": "1"}, "limits": {"cpu": "2"}}),
                vec!["maximum cpu usage per Container is 1, but limit is 2"],
            ),
            (
                json!({"requests": {"cpu": "200m"}, "limits": {"cpu": "500m"}}),
                vec![
                    "cpu max limit to request ratio per Container is 2, but provided ratio is \
                     2.500000",
                ],
            ),
            (
                json!({}),
                vec![
                    "minimum cpu usage per Container is 100m.  No request is specified",
                    "maximum cpu usage per Container is 1.  No limit is specified",
                    "cpu max limit to request ratio per Container is 2, but no request is \
                     specified or request is 0",
                ],
            ),
            (json!({"requests": {"cpu": "500m"}, "limits": {"cpu": "1"}}), vec![]),
        ] {
            assert_eq!(pod_errors(&range(&limit), &pod(&resources)), expected, "{resources}");
        }
    }
}
