//! What all pods of the node share.

use std::sync::Arc;

use kube::Client;
use tokio::sync::Semaphore;

use crate::config::AgentConfig;
use crate::directory::Directory;
use crate::events::Recorder;
use crate::image_gc::ImageUses;
use crate::machine::Machine;
use crate::objects::Objects;
use crate::pressure::Gauge;
use crate::services::Services;
use crate::start_up::StartUps;

/// What the machine has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capacity {
    /// Thousandths of a CPU.
    pub milli_cpu: u64,
    /// Bytes of memory.
    pub memory_bytes: u64,
}

impl Capacity {
    /// Asks the kernel.
    pub fn of_this_machine() -> Self {
        let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
        let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
        let kib = total.and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<u64>().ok());
        Self { milli_cpu: cpus as u64 * 1000, memory_bytes: kib.unwrap_or(0) * 1024 }
    }
}

/// Shared by the workers and the kubelet API.
pub struct Node {
    /// Settings.
    pub config: AgentConfig,
    /// The API.
    pub client: Client,
    /// Containers, images, network.
    pub machine: Machine,
    /// Tells people.
    pub recorder: Recorder,
    /// Watches secrets and config maps.
    pub objects: Objects,
    /// Knows Services.
    pub services: Services,
    /// Where containers are.
    pub directory: Directory,
    /// When images were last wanted.
    pub image_uses: ImageUses,
    /// What the node is short of.
    pub pressure: Gauge,
    /// What the machine has.
    pub capacity: Capacity,
    /// When pods started.
    pub start_ups: StartUps,
    /// Places for connections that are forwarded to pods.
    pub forwards: Arc<Semaphore>,
}
