//! Requests and limits: quality of service, cgroup paths and cgroup values.

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use runtime::sandbox::below;
use serde_json::{Value, json};

/// Quality of service of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Qos {
    /// Every container has equal requests and limits for CPU and memory.
    Guaranteed,
    /// Something is requested or limited.
    Burstable,
    /// Nothing is.
    BestEffort,
}

impl fmt::Display for Qos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Guaranteed => "Guaranteed",
            Self::Burstable => "Burstable",
            Self::BestEffort => "BestEffort",
        })
    }
}

/// A quantity in thousandths of its unit, rounded up.
pub fn milli(quantity: &Quantity) -> Option<i128> {
    let text = quantity.0.trim();
    let end = text.find(|c: char| !(c.is_ascii_digit() || matches!(c, '.' | '+' | '-')));
    let (number, suffix) = text.split_at(end.unwrap_or(text.len()));
    let negative = number.starts_with('-');
    let number = number.trim_start_matches(['+', '-']);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let (mut multiplier, mut divisor): (i128, i128) = match suffix {
        "" => (1000, 1),
        "n" => (1, 1_000_000),
        "u" => (1, 1000),
        "m" => (1, 1),
        "k" => (1_000_000, 1),
        "M" => (1_000_000_000, 1),
        "G" => (1_000_000_000_000, 1),
        "T" => (1_000_000_000_000_000, 1),
        "P" => (1_000_000_000_000_000_000, 1),
        "E" => (1_000_000_000_000_000_000_000, 1),
        "Ki" => (1000 << 10, 1),
        "Mi" => (1000 << 20, 1),
        "Gi" => (1000 << 30, 1),
        "Ti" => (1000 << 40, 1),
        "Pi" => (1000 << 50, 1),
        "Ei" => (1000 << 60, 1),
        exponent => {
            let power: i32 = exponent.strip_prefix(['e', 'E'])?.parse().ok()?;
            if !(-18..=18).contains(&power) {
                return None;
            }
            let scale = 10i128.pow(power.unsigned_abs());
            if power >= 0 { (1000 * scale, 1) } else { (1000, scale) }
        }
    };
    let fraction = fraction.get(..fraction.len().min(12))?;
    let digits: i128 = format!("0{whole}{fraction}").parse().ok()?;
    divisor *= 10i128.pow(u32::try_from(fraction.len()).ok()?);
    if multiplier % divisor == 0 {
        multiplier /= divisor;
        divisor = 1;
    }
    let product = digits.checked_mul(multiplier)?;
    let value = product.div_euclid(divisor) + i128::from(product.rem_euclid(divisor) != 0);
    Some(if negative { -value } else { value })
}

/// A quantity in whole units, rounded up.
pub fn units(quantity: &Quantity) -> Option<i64> {
    let milli = milli(quantity)?;
    let units = milli.div_euclid(1000) + i128::from(milli.rem_euclid(1000) != 0);
    Some(i64::try_from(units).unwrap_or(i64::MAX))
}

type List = BTreeMap<String, Quantity>;

fn requests(resources: Option<&ResourceRequirements>) -> Option<&List> {
    resources.and_then(|resources| resources.requests.as_ref())
}

fn limits(resources: Option<&ResourceRequirements>) -> Option<&List> {
    resources.and_then(|resources| resources.limits.as_ref())
}

/// A limit of a container, positive or absent.
pub fn limit(container: &Container, resource: &str) -> Option<Quantity> {
    let quantity = limits(container.resources.as_ref())?.get(resource)?;
    milli(quantity).is_some_and(|value| value > 0).then(|| quantity.clone())
}

/// A request of a container; a limit without a request counts as one.
pub fn request(container: &Container, resource: &str) -> Option<Quantity> {
    requests(container.resources.as_ref())
        .and_then(|list| list.get(resource))
        .or_else(|| limits(container.resources.as_ref()).and_then(|list| list.get(resource)))
        .cloned()
}

/// The quality of service class by the rules of the API.
pub fn qos_class(pod: &Pod) -> Qos {
    let Some(spec) = &pod.spec else { return Qos::BestEffort };
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let mut any = false;
    let mut guaranteed = true;
    for container in containers {
        for resource in ["cpu", "memory"] {
            let request = request(container, resource).and_then(|q| milli(&q)).filter(|v| *v > 0);
            let limit = limit(container, resource).and_then(|q| milli(&q));
            any |= request.is_some() || limit.is_some();
            guaranteed &= limit.is_some() && request == limit;
        }
    }
    match (any, guaranteed) {
        (false, _) => Qos::BestEffort,
        (true, true) => Qos::Guaranteed,
        (true, false) => Qos::Burstable,
    }
}

/// The cgroup above those of all pods.
pub fn pods_cgroup(root: &str) -> String {
    below(root, "kubepods")
}

/// The cgroup of a pod below the node's, relative to the root of the hierarchy.
pub fn pod_cgroup(root: &str, pod: &Pod) -> String {
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    let group = match qos_class(pod) {
        Qos::Guaranteed => format!("kubepods/pod{uid}"),
        Qos::Burstable => format!("kubepods/burstable/pod{uid}"),
        Qos::BestEffort => format!("kubepods/besteffort/pod{uid}"),
    };
    below(root, &group)
}

const CPU_PERIOD_US: i128 = 100_000;

fn shares(milli_cpu: i128) -> i128 {
    (milli_cpu * 1024 / 1000).clamp(2, 262_144)
}

fn quota(milli_cpu: i128) -> i128 {
    (milli_cpu * CPU_PERIOD_US / 1000).max(1000)
}

fn cpu(request: Option<i128>, limit: Option<i128>) -> Value {
    let mut cpu = json!({"shares": shares(request.unwrap_or(0))});
    if let Some(limit) = limit {
        cpu["quota"] = json!(quota(limit));
        cpu["period"] = json!(CPU_PERIOD_US);
    }
    cpu
}

/// `linux.resources` of one container.
pub fn container_resources(container: &Container) -> Value {
    let of = |quantity: Option<Quantity>| quantity.as_ref().and_then(milli);
    let mut resources = json!({
        "cpu": cpu(of(request(container, "cpu")), of(limit(container, "cpu"))),
        // Where the kernel can, a container that is out of memory ends as a whole.
        "unified": {"memory.oom.group": "1"},
    });
    if let Some(bytes) = limit(container, "memory").as_ref().and_then(units) {
        // Swap is the sum of both on v1: equal values mean no swap.
        resources["memory"] = json!({"limit": bytes, "swap": bytes});
    }
    resources
}

/// `linux.resources` of the whole pod.
pub fn pod_resources(pod: &Pod, pids_limit: i64) -> Value {
    let empty = Vec::new();
    let containers = pod.spec.as_ref().map_or(&empty, |spec| &spec.containers);
    let sum = |value: &dyn Fn(&Container) -> Option<i128>| -> i128 {
        containers.iter().filter_map(value).sum()
    };
    let all_limited = |name: &str| containers.iter().all(|c| limit(c, name).is_some());
    let request_sum = sum(&|c| request(c, "cpu").as_ref().and_then(milli));
    let cpu_limit = all_limited("cpu").then(|| sum(&|c| limit(c, "cpu").as_ref().and_then(milli)));
    let mut resources = json!({"cpu": cpu(Some(request_sum), cpu_limit)});
    if all_limited("memory") {
        let bytes = sum(&|c| limit(c, "memory").as_ref().and_then(units).map(i128::from));
        // Init containers run under the same limit and may ask for more than the sum.
        let init = pod.spec.iter().flat_map(|spec| spec.init_containers.iter().flatten());
        let largest = init.map(|c| limit(c, "memory").as_ref().and_then(units).map(i128::from));
        let mut unlimited_init = false;
        let mut bytes = bytes;
        for limit in largest {
            match limit {
                Some(limit) => bytes = bytes.max(limit),
                None => unlimited_init = true,
            }
        }
        if !unlimited_init && bytes > 0 {
            resources["memory"] = json!({"limit": i64::try_from(bytes).unwrap_or(i64::MAX)});
        }
    }
    if pids_limit > 0 {
        resources["pids"] = json!({"limit": pids_limit});
    }
    resources
}

/// How readily the kernel sacrifices the container when memory runs out.
pub fn oom_score_adj(pod: &Pod, container: &Container, memory_capacity: u64) -> i32 {
    let critical = pod.spec.as_ref().and_then(|spec| spec.priority).unwrap_or(0) >= 2_000_000_000;
    if critical {
        return -997;
    }
    match qos_class(pod) {
        Qos::Guaranteed => -997,
        Qos::BestEffort => 1000,
        Qos::Burstable => {
            let request = request(container, "memory").as_ref().and_then(units).unwrap_or(0);
            let capacity = i128::from(memory_capacity.max(1));
            let adjust = 1000 - (1000 * i128::from(request)) / capacity;
            i32::try_from(adjust.clamp(3, 999)).unwrap_or(999)
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn quantities() {
        let cases = [
            ("256m", 256),
            ("1", 1000),
            ("0.5", 500),
            ("100Mi", 100 * 1024 * 1024 * 1000),
            ("1.5Gi", 3 * 512 * 1024 * 1024 * 1000),
            ("1e3", 1_000_000),
            ("1500u", 2),
            ("-2", -2000),
        ];
        for (text, expected) in cases {
            assert_eq!(milli(&Quantity(text.into())), Some(expected), "{text}");
        }
        assert_eq!(milli(&Quantity("1x".into())), None);
    }

    fn pod(containers: Value) -> Pod {
        serde_json::from_value(
            json!({"metadata": {"uid": "u"}, "spec": {"containers": containers}}),
        )
        .unwrap()
    }

    #[test]
    fn quality_of_service_and_cgroups() {
        let best = pod(json!([{"name": "a"}]));
        assert_eq!(pod_cgroup("", &best), "kubepods/besteffort/podu");
        let burst = pod(json!([{"name": "a", "resources": {"requests": {"cpu": "256m"}}}]));
        assert_eq!(pod_cgroup("/", &burst), "kubepods/burstable/podu");
        let limits = json!({"cpu": "1", "memory": "1Gi"});
        let sure = pod(json!([{"name": "a", "resources": {"limits": limits}}]));
        assert_eq!(pod_cgroup("/a/b", &sure), "a/b/kubepods/podu");
        let container = &sure.spec.as_ref().unwrap().containers[0];
        let bytes = 1i64 << 30;
        assert_eq!(
            container_resources(container),
            json!({
                "cpu": {"shares": 1024, "quota": 100_000, "period": 100_000},
                "memory": {"limit": bytes, "swap": bytes},
                "unified": {"memory.oom.group": "1"},
            })
        );
        assert_eq!(oom_score_adj(&best, container, 1 << 34), 1000);
        assert_eq!(oom_score_adj(&sure, container, 1 << 34), -997);
        assert_eq!(oom_score_adj(&burst, &burst.spec.clone().unwrap().containers[0], 1 << 34), 999);
    }
}
