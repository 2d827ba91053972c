//! Amounts of resources that pods ask for and nodes have.

use std::collections::BTreeMap;

use api::quantity::Quantity;
use k8s_openapi::api::core::v1::{Container, Pod};
use k8s_openapi::apimachinery::pkg::api::resource;

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

    /// Raises every amount to that of `other` where that is larger.
    pub fn raise_to(&mut self, other: &Self) {
        for (name, amount) in &other.0 {
            let known = self.0.entry(name.clone()).or_default();
            *known = (*known).max(*amount);
        }
    }
}

/// What a pod needs: its containers and sidecars together, or the largest init container beside
/// the sidecars started before it, and the overhead.
pub fn requests(pod: &Pod) -> Resources {
    let Some(spec) = &pod.spec else { return Resources::default() };
    let of = |container: &Container| {
        Resources::from_map(container.resources.as_ref().and_then(|known| known.requests.as_ref()))
    };
    let mut running = Resources::default();
    for container in &spec.containers {
        running.add(&of(container));
    }
    let mut sidecars = Resources::default();
    let mut peak = Resources::default();
    for container in spec.init_containers.iter().flatten() {
        let request = of(container);
        if container.restart_policy.as_deref() == Some("Always") {
            sidecars.add(&request);
            peak.raise_to(&sidecars);
        } else {
            let mut with_sidecars = sidecars.clone();
            with_sidecars.add(&request);
            peak.raise_to(&with_sidecars);
        }
    }
    running.add(&sidecars);
    running.raise_to(&peak);
    if let Some(whole) = spec.resources.as_ref().and_then(|known| known.requests.as_ref()) {
        running.0.extend(Resources::from_map(Some(whole)).0);
    }
    running.add(&Resources::from_map(spec.overhead.as_ref()));
    running
}

/// A quantity in the unit of its resource, rounded up; what cannot be read counts as nothing.
pub fn amount(name: &str, text: &str) -> i64 {
    let quantity = Quantity::parse(text).unwrap_or_default();
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
