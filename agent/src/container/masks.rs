//! Paths of the kernel that an ordinary container cannot see or cannot write.

use std::path::Path;

/// Paths that are hidden, those of containerd and Moby.
const MASKED: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];
/// CPUs whose files are looked for at most.
const MAX_CPUS: u32 = 8192;

/// The masked paths, with the thermal counters of each CPU that has them (CVE-2020-8694 class).
pub fn masked() -> Vec<String> {
    let fixed = MASKED.iter().map(ToString::to_string);
    let possible = std::fs::read_to_string("/sys/devices/system/cpu/possible").unwrap_or_default();
    let last = possible.trim().rsplit(['-', ',']).next().and_then(|last| last.parse::<u32>().ok());
    let thermal = (0..=last.unwrap_or(0).min(MAX_CPUS))
        .map(|cpu| format!("/sys/devices/system/cpu/cpu{cpu}/thermal_throttle"))
        .filter(|path| Path::new(path).is_dir());
    fixed.chain(thermal).collect()
}

/// Paths that cannot be written.
pub const READ_ONLY: [&str; 5] =
    ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];
