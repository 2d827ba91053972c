//! What an idle node costs: memory, processor time, wake-ups, bytes written.

use std::time::Duration;

use crate::report::Report;
use crate::world::World;

/// What a fresh node still does at first is not idling: the last of it, what may be written late
/// (`store`, ten seconds).
const SETTLE: Duration = Duration::from_secs(12);
/// How long the node is watched, unless `IDLE_SECONDS` says otherwise.
const WINDOW_SECONDS: u64 = 45;
const MEMORY_BUDGET_MIB: f64 = 30.0;
const CPU_BUDGET_PERCENT: f64 = 0.1;
const WAKE_UPS_BUDGET: f64 = 5.0;
const WRITTEN_BUDGET_KIB: f64 = 64.0;

pub async fn measure(world: &World, report: &mut Report) {
    let window = std::env::var("IDLE_SECONDS")
        .ok()
        .and_then(|seconds| seconds.parse().ok())
        .unwrap_or(WINDOW_SECONDS);
    tokio::time::sleep(SETTLE).await;
    let (before, threads) = (world.agent.counters(), world.agent.threads());
    tokio::time::sleep(Duration::from_secs(window)).await;
    let activity = before.until_now(world.agent);
    let memory = world.agent.memory();

    let mib = |kib: u64| kib as f64 / 1024.0;
    report.at_most("idle, resident memory", mib(memory.rss_kib), MEMORY_BUDGET_MIB, "MiB");
    report.note("idle, proportional memory", mib(memory.pss_kib), "MiB");
    report.note("idle, threads", threads.len() as f64, "");
    let percent = activity.cpu_seconds / activity.seconds * 100.0;
    report.at_most("idle, processor", percent, CPU_BUDGET_PERCENT, "% of one core");
    let per_second = activity.wake_ups as f64 / activity.seconds;
    report.at_most("idle, wake-ups", per_second, WAKE_UPS_BUDGET, "/s");
    let per_hour = activity.written_bytes as f64 / 1024.0 / activity.seconds * 3600.0;
    report.at_most("idle, written", per_hour, WRITTEN_BUDGET_KIB, "KiB per hour");
}
