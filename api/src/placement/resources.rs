//! Amounts of resources that pods ask for and nodes have.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::api::resource;

use crate::pod::pod_requests;
use crate::quantity::Quantity;

/// Amounts by resource name: thousandths for `cpu`, whole units for all others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources(pub BTreeMap<String, i64>);

impl Resources {
    /// The amounts of a `requests`, `limits` or `allocatable` map.
    pub fn from_map(map: Option<&BTreeMap<String, resource::Quantity>>) -> Self {
        let amounts = map.into_iter().flatten();
        Self(amounts.map(|(name, text)| (name.clone(), amount(name, &text.0))).collect())
    }

    /// The amount of one resource.
    pub fn get(&self, name: &str) -> i64 {
        self.0.get(name).copied().unwrap_or(0)
    }

    /// Adds every amount.
    pub fn add(&mut self, other: &Self) {
        for (name, amount) in &other.0 {
            let sum = self.0.entry(name.clone()).or_default();
            *sum = sum.saturating_add(*amount);
        }
    }

    /// Takes every amount away.
    pub fn subtract(&mut self, other: &Self) {
        for (name, amount) in &other.0 {
            let sum = self.0.entry(name.clone()).or_default();
            *sum = sum.saturating_sub(*amount);
        }
    }
}

/// What a pod needs ([`pod_requests`]).
pub fn requests(pod: &Pod) -> Resources {
    let requests = pod_requests(pod).into_iter();
    Resources(
        requests
            .map(|(name, quantity)| {
                let amount = in_unit(&name, quantity);
                (name, amount)
            })
            .collect(),
    )
}

/// What a node has for pods.
pub fn allocatable(node: &Node) -> Resources {
    let status = node.status.as_ref();
    Resources::from_map(
        status.and_then(|status| status.allocatable.as_ref().or(status.capacity.as_ref())),
    )
}

/// A quantity in the unit of its resource, rounded up; what cannot be read counts as nothing.
pub fn amount(name: &str, text: &str) -> i64 {
    in_unit(name, Quantity::parse(text).unwrap_or_default())
}

fn in_unit(name: &str, quantity: Quantity) -> i64 {
    if name == "cpu" { quantity.milli_value() } else { quantity.value() }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn quantities_are_read_in_every_notation() {
        for (name, text, expected) in [
            ("cpu", "256m", 256),
            ("cpu", "2", 2000),
            ("cpu", "0.5", 500),
            ("cpu", "1e-1", 100),
            ("cpu", "100n", 1),
            ("memory", "100Mi", 104_857_600),
            ("memory", "1.5Gi", 1_610_612_736),
            ("memory", "128974848", 128_974_848),
            ("memory", "129e6", 129_000_000),
            ("memory", "129M", 129_000_000),
            ("memory", "1E", 1_000_000_000_000_000_000),
            ("memory", "nonsense", 0),
            ("pods", "110", 110),
        ] {
            assert_eq!(amount(name, text), expected, "{name} {text}");
        }
    }

    #[test]
    fn init_containers_count_by_their_largest_moment() {
        let container = |cpu: &str, restart: Option<&str>| json!({"name": "c", "resources": {"requests": {"cpu": cpu}}, "restartPolicy": restart});
        let pod: Pod = serde_json::from_value(json!({"metadata": {}, "spec": {
            "initContainers": [container("700m", None), container("100m", Some("Always")),
                container("800m", None)],
            "containers": [container("200m", None), container("300m", None)],
            "overhead": {"cpu": "50m"}
        }}))
        .unwrap();
        assert_eq!(requests(&pod).get("cpu"), 950);
    }
}
