//! What an operator decides about this node.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::watch;

use crate::pressure::threshold::{ENOUGH_BYTES, Threshold};

/// How images are fetched.
#[derive(Clone, Debug)]
pub struct Registries {
    /// Registry → mirrors (`host[:port]`) that are asked first, in this order.
    pub mirrors: BTreeMap<String, Vec<String>>,
    /// Registries and mirrors besides those on loopback that speak plain HTTP.
    pub plain_http: Vec<String>,
    /// Program and arguments that end up in [`runtime::image::worker_main`].
    pub pull_command: (PathBuf, Vec<String>),
}

impl Default for Registries {
    fn default() -> Self {
        Self {
            mirrors: BTreeMap::new(),
            plain_http: Vec::new(),
            pull_command: ("/proc/self/exe".into(), vec!["pull-worker".into()]),
        }
    }
}

/// Settings of one agent.
#[derive(Clone, Debug)]
pub struct AgentConfig {
    /// Name of the Node object and value of `spec.nodeName` on its pods.
    pub node_name: String,
    /// Addresses of the machine, the preferred one first.
    pub node_ips: Vec<IpAddr>,
    /// Where volumes of pods live (`pods/<uid>/…`).
    pub data_dir: PathBuf,
    /// `/var/log/pods` unless told otherwise.
    pub pod_log_dir: PathBuf,
    /// The control group above `kubepods`; empty for the top.
    pub cgroup_root: String,
    /// `/var/log/containers` unless told otherwise: one symlink per container log.
    pub container_log_dir: PathBuf,
    /// Address of the cluster DNS service, written to `/etc/resolv.conf` of pods.
    pub cluster_dns: Vec<IpAddr>,
    /// For example `cluster.local`.
    pub cluster_domain: String,
    /// The machine's resolver configuration that pods inherit; must not name a loopback resolver
    /// that pods cannot reach.
    pub host_resolv_conf: PathBuf,
    /// Version reported in `status.nodeInfo`, for example `v1.33.0`.
    pub reported_version: String,
    /// Version of coracle itself, reported as container runtime version.
    pub runtime_version: String,
    /// Port under which the kubelet API is told to be reachable.
    pub kubelet_port: u16,
    /// Most pods this node accepts.
    pub max_pods: u32,
    /// Most processes in one pod; 0 is no limit.
    pub pod_pids_limit: i64,
    /// Labels put on the Node in addition to the usual ones.
    pub node_labels: Vec<(String, String)>,
    /// Rotate a container log beyond this many bytes.
    pub log_max_bytes: u64,
    /// Log files kept per container.
    pub log_max_files: u32,
    /// Remove unused images when the file system of `data_dir` is fuller than this percentage.
    pub image_gc_high_percent: u8,
    /// Then remove images until it is no fuller than this.
    pub image_gc_low_percent: u8,
    /// No image has to go while so many bytes of that file system are left.
    pub image_gc_enough_bytes: u64,
    /// Images stay for this long after they came or were used: somebody may be about to start them.
    pub image_gc_min_age: Duration,
    /// What the node must have left; pods end when it has less.
    pub eviction_hard: Vec<Threshold>,
    /// How long a shortage is reported after it was last seen.
    pub eviction_transition: Duration,
    /// How images are fetched.
    pub registries: Registries,
    /// Memory that the node's process may use, in bytes: the machine's or that of its control group.
    pub memory_bytes: u64,
    /// Certificate authority of the cluster, for audience of mounted tokens.
    pub api_audiences: Vec<String>,
    /// The reason why the node is not ready, as its condition says it; empty while it is ready.
    pub not_ready: watch::Receiver<String>,
}

impl AgentConfig {
    /// Usual settings for a node of that name.
    pub fn new(node_name: impl Into<String>, data_dir: impl Into<PathBuf>) -> Self {
        Self {
            node_name: node_name.into(),
            node_ips: Vec::new(),
            data_dir: data_dir.into(),
            pod_log_dir: "/var/log/pods".into(),
            cgroup_root: String::new(),
            container_log_dir: "/var/log/containers".into(),
            cluster_dns: Vec::new(),
            cluster_domain: "cluster.local".into(),
            host_resolv_conf: "/etc/resolv.conf".into(),
            reported_version: "v1.33.0".into(),
            runtime_version: env!("CARGO_PKG_VERSION").into(),
            kubelet_port: 10250,
            max_pods: 110,
            pod_pids_limit: 0,
            node_labels: Vec::new(),
            log_max_bytes: 10 * 1024 * 1024,
            log_max_files: 5,
            image_gc_high_percent: 85,
            image_gc_low_percent: 80,
            image_gc_enough_bytes: ENOUGH_BYTES,
            image_gc_min_age: Duration::from_secs(120),
            eviction_hard: Threshold::usual(),
            eviction_transition: Duration::from_secs(300),
            registries: Registries::default(),
            memory_bytes: 0,
            api_audiences: Vec::new(),
            not_ready: watch::channel(String::new()).1,
        }
    }

    /// Directory of everything on disk that belongs to one pod.
    pub fn pod_dir(&self, uid: &str) -> PathBuf {
        self.data_dir.join("pods").join(uid)
    }

    /// Directory of the directories that are provisioned as volumes.
    pub fn volume_dir(&self) -> PathBuf {
        self.data_dir.join("volumes")
    }

    /// Directory of a pod's container logs.
    pub fn pod_logs(&self, namespace: &str, name: &str, uid: &str) -> PathBuf {
        self.pod_log_dir.join(format!("{namespace}_{name}_{uid}"))
    }
}
