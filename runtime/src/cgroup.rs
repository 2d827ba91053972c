//! Control groups, version 1, 2 and both at once.

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
