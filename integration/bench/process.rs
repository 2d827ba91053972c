//! What the kernel says of processes: memory, processor time, wake-ups, bytes written.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::unistd::{SysconfVar, sysconf};

/// A process of coracle.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Process(pub u32);

/// Memory in KiB.
#[derive(Clone, Copy, Default)]
pub struct Memory {
    /// Shared pages count in parts.
    pub pss_kib: u64,
    /// Shared pages count in full.
    pub rss_kib: u64,
}

/// Counters of a process that only grow.
#[derive(Clone, Copy)]
pub struct Counters {
    at: Instant,
    cpu: Duration,
    wake_ups: u64,
    written_bytes: u64,
}

/// What a process did between two readings.
#[derive(Clone, Copy, Debug)]
pub struct Activity {
    pub seconds: f64,
    pub cpu_seconds: f64,
    pub wake_ups: u64,
    pub written_bytes: u64,
}

impl Process {
    fn path(self, file: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{file}", self.0))
    }

    fn read(self, file: &str) -> String {
        fs::read_to_string(self.path(file)).unwrap_or_default()
    }

    pub fn memory(self) -> Memory {
        let rollup = self.read("smaps_rollup");
        Memory { pss_kib: field(&rollup, "Pss:"), rss_kib: field(&rollup, "Rss:") }
    }

    /// Processor time in user and kernel mode, in the kernel's ticks of 10 ms.
    pub fn cpu(self) -> Duration {
        let stat = self.read("stat");
        // The command name may hold spaces: what counts begins after its parenthesis.
        let fields: Vec<&str> =
            stat.rsplit(") ").next().unwrap_or_default().split_whitespace().collect();
        let ticks: u64 = [11, 12].iter().filter_map(|i| fields.get(*i)?.parse::<u64>().ok()).sum();
        let per_second = sysconf(SysconfVar::CLK_TCK).ok().flatten().unwrap_or(100);
        Duration::from_secs_f64(ticks as f64 / per_second as f64)
    }

    /// Reads the counters of all threads.
    pub fn counters(self) -> Counters {
        Counters {
            at: Instant::now(),
            cpu: self.scheduled(),
            wake_ups: self.threads().iter().map(|(_, wake_ups)| wake_ups).sum(),
            written_bytes: field(&self.read("io"), "write_bytes:"),
        }
    }

    /// Every thread's name and how often it gave up the processor of its own will.
    pub fn threads(self) -> Vec<(String, u64)> {
        let mut threads = Vec::new();
        for entry in fs::read_dir(self.path("task")).into_iter().flatten().flatten() {
            let status = fs::read_to_string(entry.path().join("status")).unwrap_or_default();
            let name = status.lines().next().and_then(|l| l.split('\t').nth(1)).unwrap_or("?");
            threads.push((name.to_owned(), field(&status, "voluntary_ctxt_switches:")));
        }
        threads
    }

    /// Nanoseconds on a processor, which ticks are too coarse for on an idle node.
    fn scheduled(self) -> Duration {
        let mut nanoseconds = 0;
        for entry in fs::read_dir(self.path("task")).into_iter().flatten().flatten() {
            let schedstat = fs::read_to_string(entry.path().join("schedstat")).unwrap_or_default();
            nanoseconds += schedstat
                .split_whitespace()
                .next()
                .and_then(|n| n.parse::<u64>().ok())
                .unwrap_or(0);
        }
        if nanoseconds == 0 { self.cpu() } else { Duration::from_nanos(nanoseconds) }
    }
}

impl Counters {
    /// What `process` did since.
    pub fn until_now(&self, process: Process) -> Activity {
        let now = process.counters();
        Activity {
            seconds: (now.at - self.at).as_secs_f64(),
            cpu_seconds: now.cpu.saturating_sub(self.cpu).as_secs_f64(),
            wake_ups: now.wake_ups.saturating_sub(self.wake_ups),
            written_bytes: now.written_bytes.saturating_sub(self.written_bytes),
        }
    }
}

/// The processes that run `binary`, except `agent`: the shims of its pods.
pub fn shims(binary: &Path, agent: Process) -> Vec<Process> {
    // The sealed copy that shims run has no path, but it is the same file.
    let file = |path: &Path| fs::metadata(path).ok().map(|file| (file.dev(), file.ino()));
    let binary = file(binary);
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
        if pid != agent.0 && file(&entry.path().join("exe")) == binary {
            found.push(Process(pid));
        }
    }
    found
}

/// The number after `name` in a file of `name value` lines.
fn field(text: &str, name: &str) -> u64 {
    text.lines()
        .find_map(|line| line.strip_prefix(name))
        .and_then(|rest| rest.split_whitespace().next()?.parse().ok())
        .unwrap_or(0)
}
