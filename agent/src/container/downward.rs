//! Fields of a pod that its containers may ask for.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Container, Pod, ResourceFieldSelector};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::resources::{limit, milli, request};

/// What the pod object alone does not say.
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    /// Addresses of the pod.
    pub pod_ips: Vec<IpAddr>,
    /// Addresses of the machine.
    pub host_ips: Vec<IpAddr>,
    /// Name of the node.
    pub node_name: String,
    /// Thousandths of a CPU that pods may use; the limit of a container without one.
    pub allocatable_milli_cpu: u64,
    /// Bytes of memory that pods may use; the limit of a container without one.
    pub allocatable_memory: u64,
}

/// The value of a `fieldRef`, or `None` for a path that is not offered.
pub fn field(pod: &Pod, around: &Surroundings, path: &str) -> Option<String> {
    let metadata = &pod.metadata;
    let spec = pod.spec.as_ref();
    let join = |ips: &[IpAddr]| ips.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    let first = |ips: &[IpAddr]| ips.first().map(ToString::to_string).unwrap_or_default();
    if let Some((map, key)) = subscript(path) {
        let map = match map {
            "metadata.labels" => metadata.labels.as_ref(),
            "metadata.annotations" => metadata.annotations.as_ref(),
            _ => return None,
        };
        return Some(map.and_then(|map| map.get(key)).cloned().unwrap_or_default());
    }
    Some(match path {
        "metadata.name" => metadata.name.clone().unwrap_or_default(),
        "metadata.namespace" => metadata.namespace.clone().unwrap_or_default(),
        "metadata.uid" => metadata.uid.clone().unwrap_or_default(),
        "metadata.labels" => lines(metadata.labels.as_ref()),
        "metadata.annotations" => lines(metadata.annotations.as_ref()),
        "spec.nodeName" => around.node_name.clone(),
        "spec.serviceAccountName" => {
            spec.and_then(|spec| spec.service_account_name.clone()).unwrap_or_default()
        }
        "status.hostIP" => first(&around.host_ips),
        "status.hostIPs" => join(&around.host_ips),
        "status.podIP" => first(&around.pod_ips),
        "status.podIPs" => join(&around.pod_ips),
        _ => return None,
    })
}

fn subscript(path: &str) -> Option<(&str, &str)> {
    let (map, rest) = path.split_once('[')?;
    let key = rest.strip_suffix(']')?;
    Some((map, key.trim_matches(|c| c == '\'' || c == '"')))
}

/// A map the way the downward API writes it to a file: sorted `key="value"` lines.
fn lines(map: Option<&BTreeMap<String, String>>) -> String {
    let lines = map.into_iter().flatten();
    lines.map(|(key, value)| format!("{key}={}", quote(value))).collect::<Vec<_>>().join("\n")
}

/// As Go's `%q` does for ordinary text.
fn quote(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            c if c.is_control() => quoted.push_str(&format!("\\x{:02x}", u32::from(c))),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

/// The value of a `resourceFieldRef`: in units of its divisor, rounded up.
pub fn resource(
    container: &Container,
    around: &Surroundings,
    selector: &ResourceFieldSelector,
) -> Option<String> {
    let (kind, name) = selector.resource.split_once('.')?;
    let value = match kind {
        "limits" => match (limit(container, name), name) {
            (Some(quantity), _) => milli(&quantity)?,
            (None, "cpu") => i128::from(around.allocatable_milli_cpu),
            (None, "memory") => i128::from(around.allocatable_memory) * 1000,
            (None, _) => 0,
        },
        "requests" => request(container, name).as_ref().and_then(milli).unwrap_or(0),
        _ => return None,
    };
    let one = Quantity("1".into());
    let divisor = selector.divisor.as_ref().filter(|divisor| !matches!(&*divisor.0, "" | "0"));
    let divisor = milli(divisor.unwrap_or(&one)).filter(|divisor| *divisor > 0)?;
    Some((value.div_euclid(divisor) + i128::from(value.rem_euclid(divisor) != 0)).to_string())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    #[test]
    fn fields() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "labels": {"b": "x\"y", "a": "1"}},
            "spec": {"containers": []},
        }))
        .unwrap();
        let around =
            Surroundings { pod_ips: vec!["10.0.0.1".parse().unwrap()], ..Surroundings::default() };
        let value = |path: &str| field(&pod, &around, path);
        assert_eq!(value("metadata.name").unwrap(), "p");
        assert_eq!(value("metadata.labels").unwrap(), "a=\"1\"\nb=\"x\\\"y\"");
        assert_eq!(value("metadata.labels['a']").unwrap(), "1");
        assert_eq!(value("metadata.annotations['none']").unwrap(), "");
        assert_eq!(value("status.podIP").unwrap(), "10.0.0.1");
        assert_eq!(value("spec.containers"), None);
    }

    #[test]
    fn resources() {
        let container: Container = serde_json::from_value(
            json!({"name": "a", "resources": {"limits": {"cpu": "1500m", "memory": "64Mi"}}}),
        )
        .unwrap();
        let around = Surroundings::default();
        let value = |resource: &str, divisor: &str| {
            let selector =
                serde_json::from_value(json!({"resource": resource, "divisor": divisor}));
            super::resource(&container, &around, &selector.unwrap()).unwrap()
        };
        assert_eq!(value("limits.cpu", "0"), "2");
        assert_eq!(value("limits.cpu", "1m"), "1500");
        assert_eq!(value("limits.memory", "1Mi"), "64");
        assert_eq!(value("requests.memory", "1"), (64 << 20).to_string());
    }
}
