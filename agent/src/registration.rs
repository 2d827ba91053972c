//! The Node object and its Lease: how the cluster knows that this node is there.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node as ApiNode, ObjectReference};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Error};
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::events::Level;
use crate::image_gc;
use crate::node::Node;

/// Between renewals of the lease.
const RENEW: Duration = Duration::from_secs(10);
/// After this long without renewal others may call the node lost.
const LEASE_SECONDS: i32 = 40;
/// Between attempts while the API server is not there.
const RETRY: Duration = Duration::from_millis(200);
/// Images listed in the status.
const MAX_IMAGES: usize = 50;

/// Registers, then renews until dropped.
pub async fn run(node: Arc<Node>) {
    while let Err(error) = register(&node).await {
        tracing::debug!(%error, "cannot register the node yet");
        sleep(RETRY).await;
    }
    node.recorder.record(reference(&node), Level::Normal, "Starting", "Starting kubelet.");
    let mut pressure = node.pressure.subscribe();
    let mut not_ready = node.config.not_ready.clone();
    let mut known = Value::Null;
    loop {
        if let Err(error) = renew(&node).await {
            tracing::warn!(%error, "cannot renew the lease of the node");
        }
        let status = status(&node).await;
        if comparable(&status) != comparable(&known) {
            match write(&node, &status).await {
                Ok(()) => {
                    tell_of_readiness(&node, &known, &status);
                    known = status;
                }
                Err(error) => tracing::warn!(%error, "cannot write the status of the node"),
            }
        }
        tokio::select! {
            () = sleep(RENEW) => {}
            // The gauge lives as long as the node.
            _ = pressure.changed() => {}
            // Without a sender it stays what it is.
            Ok(()) = not_ready.changed() => {}
        }
    }
}

/// Says that the node became ready or not ready.
fn tell_of_readiness(node: &Node, before: &Value, now: &Value) {
    let ready = |status: &Value| {
        let mut conditions = status["conditions"].as_array().into_iter().flatten();
        conditions.find(|c| c["type"] == "Ready").map(|c| c["status"] == "True")
    };
    let (Some(before), Some(now)) = (ready(before), ready(now)) else { return };
    if before != now {
        let reason = if now { "NodeReady" } else { "NodeNotReady" };
        let message = format!("Node {} status is now: {reason}", node.config.node_name);
        node.recorder.record(reference(node), Level::Normal, reason, message);
    }
}

/// The node as events name it.
pub fn reference(node: &Node) -> ObjectReference {
    ObjectReference {
        kind: Some("Node".into()),
        name: Some(node.config.node_name.clone()),
        uid: Some(node.config.node_name.clone()),
        ..ObjectReference::default()
    }
}

fn comparable(status: &Value) -> Value {
    let mut status = status.clone();
    for condition in status["conditions"].as_array_mut().into_iter().flatten() {
        if let Some(fields) = condition.as_object_mut() {
            fields.remove("lastHeartbeatTime");
            fields.remove("lastTransitionTime");
        }
    }
    status
}

/// The object as the API has it; before it is registered, as it will be.
pub async fn object(node: &Node) -> Result<ApiNode, Error> {
    let api = Api::<ApiNode>::all(node.client.clone());
    match api.get_opt(&node.config.node_name).await? {
        Some(known) => Ok(known),
        None => initial(node).await,
    }
}

async fn initial(node: &Node) -> Result<ApiNode, Error> {
    let mut object = json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": node.config.node_name,
            "labels": labels(node),
            "annotations": {"volumes.kubernetes.io/controller-managed-attach-detach": "true"},
        },
        "spec": {},
    });
    object["status"] = status(node).await;
    ::api::typed(&object).map_err(Error::SerdeError)
}

async fn register(node: &Node) -> Result<(), Error> {
    let api = Api::<ApiNode>::all(node.client.clone());
    let name = &node.config.node_name;
    match api.create(&PostParams::default(), &initial(node).await?).await {
        Ok(_) => {}
        Err(Error::Api(status)) if status.code == 409 => {
            tell_of_reboot(node, &api).await?;
            let patch = json!({"metadata": {"labels": labels(node)}});
            api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await?;
        }
        Err(error) => return Err(error),
    }
    write(node, &status(node).await).await
}

/// Says that the machine was started anew since the node was last seen.
async fn tell_of_reboot(node: &Node, api: &Api<ApiNode>) -> Result<(), Error> {
    let before = api.get_opt(&node.config.node_name).await?;
    let before = before.and_then(|node| node.status).and_then(|status| status.node_info);
    let boot_id = read("/proc/sys/kernel/random/boot_id");
    if before.is_some_and(|info| !info.boot_id.is_empty() && info.boot_id != boot_id) {
        let name = &node.config.node_name;
        let message = format!("Node {name} has been rebooted, boot id: {boot_id}");
        node.recorder.record(reference(node), Level::Warning, "Rebooted", message);
    }
    Ok(())
}

async fn write(node: &Node, status: &Value) -> Result<(), Error> {
    let api = Api::<ApiNode>::all(node.client.clone());
    let name = &node.config.node_name;
    let mut status = status.clone();
    // A condition that stays what it was keeps the time of its last change.
    if let Some(old) = api.get_opt(name).await?.and_then(|node| node.status) {
        let old = serde_json::to_value(old.conditions).unwrap_or_default();
        for condition in status["conditions"].as_array_mut().into_iter().flatten() {
            let mut before = old.as_array().into_iter().flatten();
            let same = before.find(|before| {
                before["type"] == condition["type"] && before["status"] == condition["status"]
            });
            if let Some(same) = same {
                condition["lastTransitionTime"] = same["lastTransitionTime"].clone();
            }
        }
    }
    let patch = json!({"status": status});
    api.patch_status(name, &PatchParams::default(), &Patch::Merge(patch)).await.map(drop)
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn labels(node: &Node) -> BTreeMap<String, String> {
    let name = &node.config.node_name;
    let mut labels = BTreeMap::from([
        ("kubernetes.io/hostname".into(), name.clone()),
        ("kubernetes.io/arch".into(), architecture().into()),
        ("kubernetes.io/os".into(), "linux".into()),
        ("beta.kubernetes.io/arch".into(), architecture().into()),
        ("beta.kubernetes.io/os".into(), "linux".into()),
        ("node-role.kubernetes.io/control-plane".into(), "true".into()),
    ]);
    labels.extend(node.config.node_labels.iter().cloned());
    labels
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

fn os_image() -> String {
    let text = read("/etc/os-release");
    let line = text.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    line.map_or_else(|| "Linux".into(), |name| name.trim_matches('"').to_owned())
}

async fn status(node: &Node) -> Value {
    let config = &node.config;
    let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let total = image_gc::observe(&config.data_dir).nodefs.capacity;
    let memory_kib = node.capacity.memory_bytes / 1024;
    let resources = json!({
        "cpu": (node.capacity.milli_cpu / 1000).to_string(),
        "memory": format!("{memory_kib}Ki"),
        "pods": config.max_pods.to_string(),
        "ephemeral-storage": format!("{}Ki", total / 1024),
        "hugepages-1Gi": "0",
        "hugepages-2Mi": "0",
    });
    let mut addresses: Vec<Value> = config
        .node_ips
        .iter()
        .map(|ip| json!({"type": "InternalIP", "address": ip.to_string()}))
        .collect();
    addresses.push(json!({"type": "Hostname", "address": config.node_name}));
    let pressure = node.pressure.read();
    let condition = |kind: &str, status: bool, reason: &str, message: &str| {
        json!({
            "type": kind,
            "status": if status { "True" } else { "False" },
            "reason": reason,
            "message": message,
            "lastHeartbeatTime": now,
            "lastTransitionTime": now,
        })
    };
    let short = |kind: &str, is: bool, low: (&str, &str), well: (&str, &str)| {
        let (reason, message) = if is { low } else { well };
        condition(kind, is, &format!("KubeletHas{reason}"), &format!("kubelet has {message}"))
    };
    let mut images = node.machine.images.list().await;
    images.sort_by_key(|image| std::cmp::Reverse(image.size_bytes));
    let images: Vec<Value> = images
        .into_iter()
        .take(MAX_IMAGES)
        .map(|image| {
            let names: Vec<String> = image.digests.into_iter().chain(image.tags).collect();
            json!({"names": names, "sizeBytes": image.size_bytes})
        })
        .collect();
    json!({
        "capacity": resources,
        "allocatable": resources,
        "addresses": addresses,
        "daemonEndpoints": {"kubeletEndpoint": {"Port": config.kubelet_port}},
        "conditions": [
            short("MemoryPressure", pressure.memory,
                ("InsufficientMemory", "insufficient memory available"),
                ("SufficientMemory", "sufficient memory available")),
            short("DiskPressure", pressure.disk,
                ("DiskPressure", "disk pressure"), ("NoDiskPressure", "no disk pressure")),
            short("PIDPressure", pressure.pids,
                ("InsufficientPID", "insufficient PID available"),
                ("SufficientPID", "sufficient PID available")),
            match config.not_ready.borrow().as_str() {
                "" => condition("Ready", true, "KubeletReady", "kubelet is posting ready status"),
                reason => condition("Ready", false, "KubeletNotReady", reason),
            },
        ],
        "nodeInfo": {
            "machineID": read("/etc/machine-id"),
            "systemUUID": read("/sys/class/dmi/id/product_uuid"),
            "bootID": read("/proc/sys/kernel/random/boot_id"),
            "kernelVersion": read("/proc/sys/kernel/osrelease"),
            "osImage": os_image(),
            "containerRuntimeVersion": format!("coracle://{}", config.runtime_version),
            "kubeletVersion": config.reported_version,
            "kubeProxyVersion": config.reported_version,
            "operatingSystem": "linux",
            "architecture": architecture(),
        },
        "images": images,
    })
}

async fn renew(node: &Node) -> Result<(), Error> {
    let api = Api::<Lease>::namespaced(node.client.clone(), "kube-node-lease");
    let name = &node.config.node_name;
    let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string();
    let patch = json!({"spec": {"renewTime": now}});
    match api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await {
        Ok(_) => return Ok(()),
        Err(Error::Api(status)) if status.code == 404 => {}
        Err(error) => return Err(error),
    }
    let owner = Api::<ApiNode>::all(node.client.clone()).get_opt(name).await?;
    let uid = owner.and_then(|node| node.metadata.uid).unwrap_or_default();
    let lease = json!({
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": name, "namespace": "kube-node-lease", "ownerReferences": [
            {"apiVersion": "v1", "kind": "Node", "name": name, "uid": uid},
        ]},
        "spec": {
            "holderIdentity": name,
            "leaseDurationSeconds": LEASE_SECONDS,
            "renewTime": now,
        },
    });
    let lease: Lease = ::api::typed(&lease).map_err(Error::SerdeError)?;
    api.create(&PostParams::default(), &lease).await.map(drop)
}
