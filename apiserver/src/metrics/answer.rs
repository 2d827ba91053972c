//! From samples to objects and tables.

use std::collections::{HashMap, HashSet};

use api::Resource;
use api::quantity::Quantity;
use http::{Response, StatusCode};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::sampler::Pair;
use super::summary::Usage;
use crate::body::Body;
use crate::call::Call;
use crate::error::ApiError;
use crate::selection::Selection;
use crate::{meta, object, render};

/// Answers `get` and `list` of nodes and pods.
pub(crate) async fn answer(call: &Call<'_>) -> Result<Response<Body>, ApiError> {
    let resource = call.server.builtin("", call.served.plural)?;
    let selection = Selection::parse(call)?;
    let wanted = call.info.name.as_str();
    let prefix = meta::prefix(resource, call.namespace());
    let pods = call.served.plural == "pods";
    // The selectors of the request are about the labels of the nodes and pods themselves. What no
    // node has taken uses nothing, and need not even be parsed.
    let page = call.server.store.select(&prefix, None, 0, |record| {
        let (_, _, name) = meta::split(&record.key);
        let node = record.meta.field("spec.nodeName");
        selection.matches(record)
            && (wanted.is_empty() || wanted == name)
            && (!pods || node.is_some_and(|node| !node.is_empty()))
    });
    let known = call.parse(page.records).await?;
    if known.is_empty() && !wanted.is_empty() {
        return Err(call.not_found(wanted));
    }
    let samples = sample(call, resource, &known).await;
    let items: Vec<Value> = known
        .iter()
        .filter_map(|object| match call.served.plural {
            "nodes" => node(object, samples.get(object::name(object))?),
            _ => pod(object, samples.get(object["spec"]["nodeName"].as_str()?)?),
        })
        .collect();
    if wanted.is_empty() {
        return render::computed_list(call, items);
    }
    match items.into_iter().next() {
        Some(item) => render::object(call, StatusCode::OK, item),
        None => Err(call.not_found(wanted)),
    }
}

/// Two samples of every node that matters and that answers.
async fn sample(call: &Call<'_>, resource: &Resource, known: &[Value]) -> HashMap<String, Pair> {
    let name = |object: &Value| match resource.served[0].plural {
        "nodes" => object::name(object).to_owned(),
        _ => object["spec"]["nodeName"].as_str().unwrap_or_default().to_owned(),
    };
    let nodes: HashSet<String> = known.iter().map(name).filter(|name| !name.is_empty()).collect();
    let mut samples = HashMap::new();
    let Some(dialer) = call.server.node_dialer() else { return samples };
    for node in nodes {
        match call.server.sampler.sample(dialer.as_ref(), &node).await {
            Ok(pair) => drop(samples.insert(node, pair)),
            Err(error) => tracing::warn!(node, error, "the usage of a node is unknown"),
        }
    }
    samples
}

/// Metadata and time of one object of metrics.
fn frame(kind: &str, of: &Value, pair: &Pair) -> Value {
    let now = object::time(Timestamp::now());
    let mut metadata = json!({ "name": object::name(of), "creationTimestamp": now });
    for field in ["namespace", "labels"] {
        if !of["metadata"][field].is_null() {
            metadata[field] = of["metadata"][field].clone();
        }
    }
    let window = pair.after.taken.duration_since(pair.before.taken);
    json!({
        "kind": kind,
        "apiVersion": "metrics.k8s.io/v1beta1",
        "metadata": metadata,
        "timestamp": now,
        "window": format!("{:.3}s", window.as_secs_f64()),
    })
}

fn usage(pair: &Pair, before: Option<Usage>, after: Usage) -> Value {
    let window = pair.after.taken.duration_since(pair.before.taken).as_secs_f64();
    // What was not there before, or has been started anew, began at zero within the window.
    let since = before.map(|before| before.cpu_ns).filter(|cpu_ns| *cpu_ns <= after.cpu_ns);
    let nanocores = (after.cpu_ns - since.unwrap_or(0)) as f64 / window;
    let kib = after.memory_bytes / 1024;
    let memory = Quantity::from_bytes(i64::try_from(kib * 1024).unwrap_or(i64::MAX));
    let memory = if kib == 0 { memory.to_string() } else { format!("{kib}Ki") };
    json!({ "cpu": format!("{}n", nanocores as u64), "memory": memory })
}

fn node(of: &Value, pair: &Pair) -> Option<Value> {
    let mut metrics = frame("NodeMetrics", of, pair);
    metrics["usage"] = usage(pair, Some(pair.before.node), pair.after.node);
    Some(metrics)
}

/// A pod that runs; others use nothing.
fn pod(of: &Value, pair: &Pair) -> Option<Value> {
    let uid = of["metadata"]["uid"].as_str()?;
    let after = pair.after.pods.get(uid).filter(|containers| !containers.is_empty())?;
    let before = pair.before.pods.get(uid);
    let mut names: Vec<&String> = after.keys().collect();
    names.sort();
    let containers: Vec<Value> = names
        .into_iter()
        .map(|name| {
            let earlier = before.and_then(|before| before.get(name)).copied();
            json!({ "name": name, "usage": usage(pair, earlier, after[name]) })
        })
        .collect();
    let mut metrics = frame("PodMetrics", of, pair);
    metrics["containers"] = containers.into();
    Some(metrics)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::Instant;

    use super::super::summary::Summary;
    use super::*;

    #[test]
    fn rates_are_per_second_of_the_window() {
        let start = Instant::now();
        let summary = |seconds: u64, cpu_ns: u64, container: &str| Summary {
            taken: start + Duration::from_secs(seconds),
            node: Usage { cpu_ns, memory_bytes: 3 << 20 },
            pods: HashMap::from([(
                "u".to_owned(),
                HashMap::from([(container.to_owned(), Usage { cpu_ns, memory_bytes: 1500 })]),
            )]),
        };
        let pair = Pair {
            before: summary(0, 1_000_000_000, "old"),
            after: summary(2, 2_000_000_000, "new"),
        };
        let of = json!({"metadata": {"name": "x", "uid": "u", "labels": {"a": "b"}}});
        let metrics = node(&of, &pair).unwrap_or_default();
        assert_eq!(metrics["usage"], json!({"cpu": "500000000n", "memory": "3072Ki"}));
        assert_eq!(
            (&metrics["window"], &metrics["metadata"]["labels"]),
            (&json!("2.000s"), &json!({"a": "b"}))
        );
        let metrics = pod(&of, &pair).unwrap_or_default();
        let expected = json!([{"name": "new", "usage": {"cpu": "1000000000n", "memory": "1Ki"}}]);
        assert_eq!(metrics["containers"], expected);
        assert!(pod(&json!({"metadata": {"uid": "other"}}), &pair).is_none());
    }
}
