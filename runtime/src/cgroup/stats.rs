//! Usage of a control group.

use std::fs;
use std::path::Path;

use super::{Hierarchies, keyed};

/// Usage of one cgroup.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// CPU time since creation, in nanoseconds.
    pub cpu_ns: u64,
    /// Memory charged, page cache included, in bytes.
    pub memory_bytes: u64,
    /// Memory that cannot be dropped at once (`usage - inactive file`), in bytes.
    pub working_set_bytes: u64,
    /// Anonymous memory, in bytes.
    pub rss_bytes: u64,
    /// Minor and major page faults since creation.
    pub page_faults: u64,
    /// Major page faults since creation.
    pub major_page_faults: u64,
    /// Tasks.
    pub pids: u64,
}

impl Hierarchies {
    /// Reads the usage of a group; what a machine does not count stays zero.
    pub fn usage(&self, group: &str) -> Usage {
        if self.is_unified() {
            let Some(directory) = self.unified_directory(group) else { return Usage::default() };
            let cpu = text(&directory, "cpu.stat");
            let memory = text(&directory, "memory.stat");
            let used = number(&directory, "memory.current");
            Usage {
                cpu_ns: keyed(&cpu, "usage_usec").unwrap_or(0) * 1000,
                memory_bytes: used,
                working_set_bytes: used
                    .saturating_sub(keyed(&memory, "inactive_file").unwrap_or(0)),
                rss_bytes: keyed(&memory, "anon").unwrap_or(0),
                page_faults: keyed(&memory, "pgfault").unwrap_or(0),
                major_page_faults: keyed(&memory, "pgmajfault").unwrap_or(0),
                pids: number(&directory, "pids.current"),
            }
        } else {
            let at = |controller, file: &str| {
                self.legacy_directory(controller, group).map_or(0, |d| number(&d, file))
            };
            let memory = self
                .legacy_directory("memory", group)
                .map(|d| text(&d, "memory.stat"))
                .unwrap_or_default();
            let used = at("memory", "memory.usage_in_bytes");
            Usage {
                cpu_ns: at("cpuacct", "cpuacct.usage"),
                memory_bytes: used,
                working_set_bytes: used
                    .saturating_sub(keyed(&memory, "total_inactive_file").unwrap_or(0)),
                rss_bytes: keyed(&memory, "total_rss").unwrap_or(0),
                page_faults: keyed(&memory, "total_pgfault").unwrap_or(0),
                major_page_faults: keyed(&memory, "total_pgmajfault").unwrap_or(0),
                pids: at("pids", "pids.current"),
            }
        }
    }
}

fn text(directory: &Path, file: &str) -> String {
    fs::read_to_string(directory.join(file)).unwrap_or_default()
}

fn number(directory: &Path, file: &str) -> u64 {
    text(directory, file).trim().parse().unwrap_or(0)
}
