//! `coracle status`: is the node up, and how are its pods.

use std::collections::BTreeMap;

use runtime::printable::printable;
use serde_json::Value;

use crate::Failure;
use crate::cli::DirOptions;
use crate::paths::Paths;
use crate::remote::Remote;

/// Prints the state of the node; fails if it does not run.
pub fn run(options: &DirOptions) -> Result<(), Failure> {
    let paths = Paths::new(options);
    let Some(pid) = paths.running() else {
        println!("coracle does not run with {}", paths.data_dir.display());
        let shims = shims(&paths);
        if shims > 0 {
            println!(
                "{shims} pod(s) go on without it; `coracle up` takes them over, `coracle reset` ends them"
            );
        }
        return Err("not running".into());
    };
    let remote = Remote::from_kubeconfig(&options.kubeconfig)?;
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (version, nodes, pods) = tokio.block_on(async {
        let version = remote.get("/version").await?;
        let nodes = remote.get("/api/v1/nodes").await?;
        let pods = remote.get("/api/v1/pods").await?;
        Ok::<_, Failure>((version, nodes, pods))
    })?;
    println!("API          {} (pid {pid})", remote.server);
    println!("Kubernetes   {}", printable(text(&version, "/gitVersion")));
    println!("Kubeconfig   {}", options.kubeconfig.display());
    println!("Data         {}", paths.data_dir.display());
    for node in items(&nodes) {
        let name = printable(text(node, "/metadata/name"));
        println!("Node         {name} ({})", readiness(node));
    }
    let mut phases: BTreeMap<&str, usize> = BTreeMap::new();
    for pod in items(&pods) {
        *phases.entry(text(pod, "/status/phase")).or_default() += 1;
    }
    let phases: Vec<String> = phases.iter().map(|(phase, n)| format!("{n} {phase}")).collect();
    let phases = if phases.is_empty() { "none".into() } else { phases.join(", ") };
    println!("Pods         {}", printable(&phases));
    Ok(())
}

/// How many sandboxes have state of this boot.
fn shims(paths: &Paths) -> usize {
    std::fs::read_dir(paths.run_dir.join("sandboxes")).map_or(0, |entries| entries.count())
}

fn readiness(node: &Value) -> &str {
    let ready = items_at(node, "/status/conditions")
        .find(|c| c["type"] == "Ready")
        .is_some_and(|c| c["status"] == "True");
    if ready { "Ready" } else { "NotReady" }
}

fn items(list: &Value) -> impl Iterator<Item = &Value> {
    items_at(list, "/items")
}

fn items_at<'a>(value: &'a Value, pointer: &str) -> impl Iterator<Item = &'a Value> {
    value.pointer(pointer).and_then(Value::as_array).into_iter().flatten()
}

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or("unknown")
}
