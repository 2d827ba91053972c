//! Usage of pods, as `metrics.k8s.io` tells it.

use std::collections::BTreeMap;

use api::quantity::Quantity;
use http::Request;
use jiff::{SignedDuration, Timestamp};
use kube::Client;
use serde_json::Value;

/// The usage of one pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// The usage in thousandths of the unit.
    pub milli: i64,
    /// The end of the time it is about.
    pub at: Timestamp,
    /// The length of that time.
    pub window: SignedDuration,
}

/// The usage of every pod of a namespace that matches a selector, by name: of the pod as a whole
/// or of one container. The error is the sentence for people.
pub async fn read(
    client: &Client,
    namespace: &str,
    selector: &str,
    resource: &str,
    container: Option<&str>,
) -> Result<BTreeMap<String, Sample>, String> {
    let escaped: String = selector
        .bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' => {
                char::from(byte).to_string()
            }
            other => format!("%{other:02X}"),
        })
        .collect();
    let path =
        format!("/apis/metrics.k8s.io/v1beta1/namespaces/{namespace}/pods?labelSelector={escaped}");
    let fetch = |why: String| format!("unable to fetch metrics from resource metrics API: {why}");
    let request = Request::get(path).body(Vec::new()).map_err(|error| fetch(error.to_string()))?;
    let list: Value = client.request(request).await.map_err(|error| fetch(error.to_string()))?;
    let samples = parse(&list, resource, container);
    if samples.is_empty() {
        return Err("no metrics returned from resource metrics API".to_owned());
    }
    Ok(samples)
}

fn parse(list: &Value, resource: &str, container: Option<&str>) -> BTreeMap<String, Sample> {
    let mut samples = BTreeMap::new();
    for pod in list["items"].as_array().into_iter().flatten() {
        let containers = pod["containers"].as_array().into_iter().flatten();
        let wanted = containers.filter(|c| container.is_none_or(|name| c["name"] == name));
        let usages: Option<Vec<Quantity>> =
            wanted.map(|c| Quantity::from_json(&c["usage"][resource]).ok()).collect();
        let Some(usages) = usages.filter(|usages| !usages.is_empty()) else { continue };
        let milli = usages.into_iter().sum::<Quantity>().milli_value();
        let at = pod["timestamp"].as_str().and_then(|text| text.parse().ok());
        let window = pod["window"].as_str().and_then(|text| text.parse().ok());
        if let (Some(name), Some(at)) = (pod["metadata"]["name"].as_str(), at) {
            let window = window.unwrap_or(SignedDuration::ZERO);
            samples.insert(name.to_owned(), Sample { milli, at, window });
        }
    }
    samples
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn containers_are_summed_or_picked() {
        let list = json!({"items": [
            {"metadata": {"name": "a"}, "timestamp": "2024-01-01T00:00:00Z", "window": "1m30.5s",
             "containers": [{"name": "x", "usage": {"cpu": "250000000n", "memory": "10Mi"}},
                            {"name": "y", "usage": {"cpu": "100m", "memory": "1Ki"}}]},
            {"metadata": {"name": "b"}, "timestamp": "2024-01-01T00:00:00Z", "window": "1s",
             "containers": []}]});
        let whole = parse(&list, "cpu", None);
        assert_eq!(whole.len(), 1);
        assert_eq!(
            (whole["a"].milli, whole["a"].window),
            (350, SignedDuration::from_millis(90_500))
        );
        assert_eq!(parse(&list, "memory", Some("y"))["a"].milli, 1_024_000);
        assert!(parse(&list, "cpu", Some("z")).is_empty());
    }
}
