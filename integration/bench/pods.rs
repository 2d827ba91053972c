//! Pods: from create to Running, from delete to gone, and what each adds to memory.

use std::time::{Duration, Instant};

use crate::manifests::pod;
use crate::process::shims;
use crate::report::{Report, Times};
use crate::world::World;
use coracle_integration::client::{Connection, Watch};

const COLLECTION: &str = "/api/v1/namespaces/default/pods";
/// How many pods run at the end: as many as a node takes.
const PODS: usize = 110;
/// How many of them run when memory is read for the first time.
const FEW: usize = 10;
/// What the last pod's start leaves to do is not its memory.
const SETTLE: Duration = Duration::from_secs(4);
const CREATE_BUDGET_MS: (f64, f64) = (30.0, 80.0);
const DELETE_BUDGET_MS: f64 = 30.0;
const MEMORY_BUDGET_MIB: f64 = 1.5;

pub async fn measure(world: &World, report: &mut Report) {
    let mut api = world.connect().await;
    let mut watch = world.connect().await.watch(COLLECTION).await;
    // The first pod pays for what is loaded once.
    create(&mut api, &mut watch, "warm-up").await;
    delete(&mut api, &mut watch, "warm-up").await;
    tokio::time::sleep(SETTLE).await;

    let (mut created, mut deleted) = (Times::default(), Times::default());
    let before = Memory::read(world);
    for index in 0..PODS {
        created.add(create(&mut api, &mut watch, &format!("pod-{index}")).await);
        if index + 1 == FEW {
            tokio::time::sleep(SETTLE).await;
            Memory::read(world).report(&before, FEW, report);
        }
    }
    tokio::time::sleep(SETTLE).await;
    Memory::read(world).report(&before, PODS, report);
    let counters = world.agent.counters();
    tokio::time::sleep(SETTLE).await;
    let activity = counters.until_now(world.agent);
    let per_second = activity.wake_ups as f64 / activity.seconds;
    report.note(&format!("{PODS} pods idle, wake-ups"), per_second, "/s");

    for index in 0..PODS {
        deleted.add(delete(&mut api, &mut watch, &format!("pod-{index}")).await);
    }
    let (p50, p99) = CREATE_BUDGET_MS;
    report.times("Pod create → Running", &created, p50, Some(p99));
    report.times("Pod delete → gone", &deleted, DELETE_BUDGET_MS, None);
}

async fn create(api: &mut Connection, watch: &mut Watch, name: &str) -> Duration {
    let start = Instant::now();
    api.create(COLLECTION, &pod(name)).await;
    watch
        .until(|_, pod| pod["metadata"]["name"] == name && pod["status"]["phase"] == "Running")
        .await;
    start.elapsed()
}

async fn delete(api: &mut Connection, watch: &mut Watch, name: &str) -> Duration {
    let start = Instant::now();
    api.delete(&format!("{COLLECTION}/{name}")).await;
    watch.until(|kind, pod| kind == "DELETED" && pod["metadata"]["name"] == name).await;
    start.elapsed()
}

/// Memory in KiB, shared pages counted in parts.
struct Memory {
    agent: u64,
    shims: Vec<u64>,
}

impl Memory {
    fn read(world: &World) -> Self {
        let shims = shims(&world.binary, world.agent);
        Self {
            agent: world.agent.memory().pss_kib,
            shims: shims.into_iter().map(|shim| shim.memory().pss_kib).collect(),
        }
    }

    fn total(&self) -> u64 {
        self.agent + self.shims.iter().sum::<u64>()
    }

    fn report(mut self, before: &Self, pods: usize, report: &mut Report) {
        let growth = (self.total() as f64 - before.total() as f64) / 1024.0 / pods as f64;
        let what = format!("{pods} pods, memory of each");
        report.at_most(&what, growth, MEMORY_BUDGET_MIB, "MiB");
        self.shims.sort_unstable();
        let shim = self.shims.get(self.shims.len() / 2).copied().unwrap_or(0);
        report.note(&format!("{pods} pods, of which its shim"), shim as f64 / 1024.0, "MiB");
    }
}
