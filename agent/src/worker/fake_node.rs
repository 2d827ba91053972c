//! A node over fakes.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use tokio_util::sync::CancellationToken;

use super::fake_api::FakeApi;
use super::fakes::FakeMachine;
use crate::config::AgentConfig;
use crate::directory::Directory;
use crate::events::Recorder;
use crate::image_gc::ImageUses;
use crate::node::{Capacity, Node};
use crate::objects::Objects;
use crate::pressure::Gauge;
use crate::services::Services;
use crate::start_up::StartUps;

/// A node with its files in `directory`, and the events that it records.
pub fn node(
    directory: &Path,
    api: &FakeApi,
    machine: &FakeMachine,
    stop: &CancellationToken,
) -> (Node, impl FnMut() -> Vec<String> + use<>) {
    let client = api.client();
    let (recorder, events) = Recorder::for_test();
    let mut config = AgentConfig::new("node", directory);
    config.pod_log_dir = directory.join("logs");
    config.container_log_dir = directory.join("links");
    config.host_resolv_conf = directory.join("resolv.conf");
    std::fs::create_dir_all(&config.container_log_dir).unwrap();
    let node = Node {
        config,
        client: client.clone(),
        machine: machine.machine(),
        recorder,
        objects: Objects::new(client.clone()),
        services: Services::start(client, stop.clone()),
        directory: Directory::default(),
        image_uses: ImageUses::default(),
        pressure: Gauge::default(),
        start_ups: StartUps::default(),
        forwards: std::sync::Arc::new(tokio::sync::Semaphore::new(0)),
        capacity: Capacity { milli_cpu: 1000, memory_bytes: 1 << 30 },
    };
    (node, events)
}
