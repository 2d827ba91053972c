//! The kubelet's metrics in the text format of Prometheus, made from what the control groups
//! count at that moment.

use std::fmt::Write;

use runtime::cgroup::Usage;

use crate::node::Node;

/// Usage of one pod and its containers.
struct PodUsage {
    namespace: String,
    name: String,
    whole: Usage,
    containers: Vec<(String, Usage)>,
}

async fn read(node: &Node) -> Vec<PodUsage> {
    let mut pods = Vec::new();
    for ((namespace, name), place) in node.directory.all() {
        let Some(sandbox) = &place.sandbox else { continue };
        let Ok((whole, parts)) = sandbox.usage().await else { continue };
        let known = place.containers.iter();
        let containers = known
            .filter_map(|known| Some((known.name.clone(), *parts.get(known.id.as_ref()?)?)))
            .collect();
        pods.push(PodUsage { namespace, name, whole, containers });
    }
    pods
}

/// `/metrics`: what the kubelet itself looks after.
pub(crate) fn kubelet(node: &Node) -> String {
    let mut out = String::new();
    let places = node.directory.all();
    let running = places.iter().flat_map(|(_, place)| &place.containers);
    let running = running.filter(|container| container.id.is_some()).count();
    family(&mut out, "kubelet_node_name", "gauge", "The node's name. The count is always 1.");
    sample(&mut out, "kubelet_node_name", &[("node", &node.config.node_name)], 1.0);
    family(&mut out, "kubelet_running_pods", "gauge", "Number of pods that have a sandbox.");
    let pods = places.iter().filter(|(_, place)| place.sandbox.is_some()).count();
    sample(&mut out, "kubelet_running_pods", &[], pods as f64);
    family(&mut out, "kubelet_running_containers", "gauge", "Number of containers by state.");
    let labels = [("container_state", "running")];
    sample(&mut out, "kubelet_running_containers", &labels, running as f64);
    out
}

/// `/metrics/resource`: CPU and memory of the node, its pods and their containers.
pub(crate) async fn resource(node: &Node, (cpu_ns, working_set): (u64, u64)) -> String {
    let pods = read(node).await;
    let mut out = String::new();
    containers(&mut out, &pods, CPU, |usage| seconds(usage.cpu_ns));
    containers(&mut out, &pods, WORKING_SET, |usage| usage.working_set_bytes as f64);
    let name = "node_cpu_usage_seconds_total";
    family(&mut out, name, "counter", "Cumulative CPU time consumed by the node in core-seconds");
    sample(&mut out, name, &[], seconds(cpu_ns));
    let name = "node_memory_working_set_bytes";
    family(&mut out, name, "gauge", "Current working set of the node in bytes");
    sample(&mut out, name, &[], working_set as f64);
    let whole = |out: &mut String, name: &str, kind: &str, help: &str, of: fn(&Usage) -> f64| {
        family(out, name, kind, help);
        for pod in &pods {
            let labels = [("namespace", pod.namespace.as_str()), ("pod", &pod.name)];
            sample(out, name, &labels, of(&pod.whole));
        }
    };
    whole(
        &mut out,
        "pod_cpu_usage_seconds_total",
        "counter",
        "Cumulative CPU time consumed by the pod in core-seconds",
        |usage| seconds(usage.cpu_ns),
    );
    whole(
        &mut out,
        "pod_memory_working_set_bytes",
        "gauge",
        "Current working set of the pod in bytes",
        |usage| usage.working_set_bytes as f64,
    );
    let name = "resource_scrape_error";
    family(&mut out, name, "gauge", "1 if there was an error while getting metrics, 0 otherwise");
    sample(&mut out, name, &[], 0.0);
    out
}

/// `/metrics/cadvisor`: what containers use, by cAdvisor's names.
pub(crate) async fn cadvisor(node: &Node) -> String {
    let pods = read(node).await;
    let mut out = String::new();
    containers(&mut out, &pods, CPU, |usage| seconds(usage.cpu_ns));
    containers(&mut out, &pods, WORKING_SET, |usage| usage.working_set_bytes as f64);
    let usage = ("container_memory_usage_bytes", "gauge", "Memory usage in bytes, cache included");
    containers(&mut out, &pods, usage, |usage| usage.memory_bytes as f64);
    let rss = ("container_memory_rss", "gauge", "Size of anonymous memory in bytes");
    containers(&mut out, &pods, rss, |usage| usage.rss_bytes as f64);
    let faults = ("container_memory_failures_total", "counter", "Page faults so far");
    containers(&mut out, &pods, faults, |usage| usage.page_faults as f64);
    let tasks = ("container_threads", "gauge", "Number of tasks");
    containers(&mut out, &pods, tasks, |usage| usage.pids as f64);
    family(&mut out, "machine_memory_bytes", "gauge", "Amount of memory of the machine");
    sample(&mut out, "machine_memory_bytes", &[], node.capacity.memory_bytes as f64);
    out
}

/// Name, type and help of a family.
type Family = (&'static str, &'static str, &'static str);

const CPU: Family = (
    "container_cpu_usage_seconds_total",
    "counter",
    "Cumulative CPU time consumed by the container in core-seconds",
);
const WORKING_SET: Family = (
    "container_memory_working_set_bytes",
    "gauge",
    "Current working set of the container in bytes",
);

fn containers(
    out: &mut String,
    pods: &[PodUsage],
    (name, kind, help): Family,
    of: impl Fn(&Usage) -> f64,
) {
    family(out, name, kind, help);
    for pod in pods {
        for (container, usage) in &pod.containers {
            let labels = [
                ("container", container.as_str()),
                ("namespace", &pod.namespace),
                ("pod", &pod.name),
            ];
            sample(out, name, &labels, of(usage));
        }
    }
}

fn seconds(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1e9
}

fn family(out: &mut String, name: &str, kind: &str, help: &str) {
    // Writing to a String cannot fail.
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

/// Names of Kubernetes need no escaping.
fn sample(out: &mut String, name: &str, labels: &[(&str, &str)], value: f64) {
    let labels: Vec<String> =
        labels.iter().map(|(key, text)| format!("{key}=\"{text}\"")).collect();
    let labels =
        if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
    let _ = writeln!(out, "{name}{labels} {value}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_container_has_its_line() {
        let usage = Usage { cpu_ns: 1_500_000_000, ..Usage::default() };
        let pods = [PodUsage {
            namespace: "default".to_owned(),
            name: "web".to_owned(),
            whole: usage,
            containers: vec![("c".to_owned(), usage)],
        }];
        let mut out = String::new();
        containers(&mut out, &pods, CPU, |usage| seconds(usage.cpu_ns));
        let expected = "# TYPE container_cpu_usage_seconds_total counter\n\
            container_cpu_usage_seconds_total{container=\"c\",namespace=\"default\",pod=\"web\"} 1.5\n";
        assert!(out.ends_with(expected), "{out}");
    }
}
