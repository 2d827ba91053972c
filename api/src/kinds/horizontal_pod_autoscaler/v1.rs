//! Conversion between autoscaling/v1 and v2: what v1 has no field for travels in annotations.

use serde_json::{Map, Value, json};

use crate::defaults::{child, set, take};

const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const CURRENT_METRICS: &str = "autoscaling.alpha.kubernetes.io/current-metrics";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";

/// Makes a v1 object a v2 object.
pub fn to_v2(object: &mut Value) {
    let metrics = take_annotation(object, METRICS);
    let current = take_annotation(object, CURRENT_METRICS);
    let conditions = take_annotation(object, CONDITIONS);
    let behavior = take_annotation(object, BEHAVIOR);

    let spec = child(object, "spec");
    let utilization = take(spec, "targetCPUUtilizationPercentage");
    let mut list = Vec::new();
    if !utilization.is_null() {
        let target = json!({ "type": "Utilization", "averageUtilization": utilization });
        list.push(json!({ "type": "Resource", "resource": { "name": "cpu", "target": target } }));
    }
    for metric in metrics.as_array().into_iter().flatten() {
        list.push(metric_to_v2(metric, "target"));
    }
    if !list.is_empty() {
        set(spec, "metrics", list);
    }
    if behavior.is_object() {
        set(spec, "behavior", behavior);
    }

    if object["status"].is_object() {
        let status = child(object, "status");
        let utilization = take(status, "currentCPUUtilizationPercentage");
        let mut list = Vec::new();
        if !utilization.is_null() {
            let current = json!({ "averageUtilization": utilization });
            list.push(
                json!({ "type": "Resource", "resource": { "name": "cpu", "current": current } }),
            );
        }
        for metric in current.as_array().into_iter().flatten() {
            list.push(metric_to_v2(metric, "current"));
        }
        set(status, "currentMetrics", list);
        if conditions.is_array() {
            set(status, "conditions", conditions);
        }
    }
}

/// Makes a v2 object a v1 object.
pub fn from_v2(object: &mut Value) {
    let spec = child(object, "spec");
    let behavior = take(spec, "behavior");
    let (utilization, others) = split_cpu(take(spec, "metrics"), "target");
    if !utilization.is_null() {
        set(spec, "targetCPUUtilizationPercentage", utilization);
    }
    put_annotation(object, METRICS, others);
    if behavior.is_object() {
        put_annotation(object, BEHAVIOR, behavior);
    }
    if object["status"].is_object() {
        let status = child(object, "status");
        let conditions = take(status, "conditions");
        let (utilization, others) = split_cpu(take(status, "currentMetrics"), "current");
        if !utilization.is_null() {
            set(status, "currentCPUUtilizationPercentage", utilization);
        }
        put_annotation(object, CURRENT_METRICS, others);
        put_annotation(object, CONDITIONS, conditions);
    }
}

/// The utilization of the first metric on CPU, and all other metrics in the form of v1.
fn split_cpu(metrics: Value, side: &str) -> (Value, Value) {
    let mut utilization = Value::Null;
    let mut others = Vec::new();
    for metric in metrics.as_array().into_iter().flatten() {
        let resource = &metric["resource"];
        let percent = &resource[side]["averageUtilization"];
        if utilization.is_null() && resource["name"] == "cpu" && !percent.is_null() {
            utilization = percent.clone();
            if side == "target" || resource[side]["averageValue"].is_null() {
                continue;
            }
        }
        others.push(metric_to_v1(metric, side));
    }
    (utilization, Value::Array(others))
}

/// Names of the values of one metric source in v1, next to those inside v2's `target`/`current`.
fn value_names(source: &str, side: &str) -> [(&'static str, &'static str); 3] {
    match (source, side) {
        ("object", "target") => {
            [("targetValue", "value"), ("averageValue", "averageValue"), ("", "")]
        }
        ("object", _) => [("currentValue", "value"), ("averageValue", "averageValue"), ("", "")],
        (_, "target") => [
            ("targetValue", "value"),
            ("targetAverageValue", "averageValue"),
            ("targetAverageUtilization", "averageUtilization"),
        ],
        _ => [
            ("currentValue", "value"),
            ("currentAverageValue", "averageValue"),
            ("currentAverageUtilization", "averageUtilization"),
        ],
    }
}

fn source_key(metric: &Value) -> Option<&'static str> {
    ["resource", "containerResource", "pods", "object", "external"]
        .into_iter()
        .find(|key| metric[*key].is_object())
}

fn metric_to_v1(metric: &Value, side: &str) -> Value {
    let Some(key) = source_key(metric) else { return metric.clone() };
    let source = &metric[key];
    let mut out = Map::new();
    for (old, new) in value_names(key, side) {
        if !source[side][new].is_null() {
            out.insert(old.to_owned(), source[side][new].clone());
        }
    }
    match key {
        "resource" | "containerResource" => {
            out.insert("name".to_owned(), source["name"].clone());
            if key == "containerResource" {
                out.insert("container".to_owned(), source["container"].clone());
            }
        }
        _ => {
            out.insert("metricName".to_owned(), source["metric"]["name"].clone());
            let selector = &source["metric"]["selector"];
            if !selector.is_null() {
                let name = if key == "external" { "metricSelector" } else { "selector" };
                out.insert(name.to_owned(), selector.clone());
            }
            if key == "object" {
                out.insert("target".to_owned(), source["describedObject"].clone());
            }
        }
    }
    json!({ "type": metric["type"], key: out })
}

fn metric_to_v2(metric: &Value, side: &str) -> Value {
    let Some(key) = source_key(metric) else { return metric.clone() };
    let source = &metric[key];
    let mut values = Map::new();
    for (old, new) in value_names(key, side) {
        if !old.is_empty() && !source[old].is_null() {
            values.insert(new.to_owned(), source[old].clone());
        }
    }
    if side == "target" {
        let kind = if values.contains_key("averageUtilization") {
            "Utilization"
        } else if values.contains_key("averageValue") {
            "AverageValue"
        } else {
            "Value"
        };
        values.insert("type".to_owned(), kind.into());
    }
    let mut out = Map::new();
    out.insert(side.to_owned(), Value::Object(values));
    match key {
        "resource" | "containerResource" => {
            out.insert("name".to_owned(), source["name"].clone());
            if key == "containerResource" {
                out.insert("container".to_owned(), source["container"].clone());
            }
        }
        _ => {
            let name = if key == "external" { "metricSelector" } else { "selector" };
            let mut identifier = json!({ "name": source["metricName"] });
            if !source[name].is_null() {
                set(&mut identifier, "selector", source[name].clone());
            }
            out.insert("metric".to_owned(), identifier);
            if key == "object" {
                out.insert("describedObject".to_owned(), source["target"].clone());
            }
        }
    }
    json!({ "type": metric["type"], key: out })
}

fn take_annotation(object: &mut Value, key: &str) -> Value {
    let Some(annotations) = object.pointer_mut("/metadata/annotations") else { return Value::Null };
    let text = take(annotations, key);
    text.as_str().and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
}

fn put_annotation(object: &mut Value, key: &str, value: Value) {
    let is_empty = value.is_null() || value.as_array().is_some_and(Vec::is_empty);
    if !is_empty {
        set(child(child(object, "metadata"), "annotations"), key, value.to_string());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip() {
        let v2 = json!({"metadata": {}, "spec": {"metrics": [
            {"type": "Resource", "resource": {"name": "cpu",
                "target": {"type": "Utilization", "averageUtilization": 50}}},
            {"type": "Pods", "pods": {"metric": {"name": "rps"},
                "target": {"type": "AverageValue", "averageValue": "10"}}}]}});
        let mut object = v2.clone();
        from_v2(&mut object);
        assert_eq!(object["spec"], json!({"targetCPUUtilizationPercentage": 50}));
        to_v2(&mut object);
        assert_eq!(object["spec"], v2["spec"]);
    }
}
