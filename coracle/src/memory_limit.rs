//! The memory that this process may use: the machine's, or what its control groups allow.

use std::fs;
use std::path::{Path, PathBuf};

/// The directory that control groups are mounted on.
const CGROUP_ROOT: &str = "/sys/fs/cgroup";

/// Bytes that this process may use; `None` when the kernel does not tell.
pub fn bytes() -> Option<u64> {
    let machine = fs::read_to_string("/proc/meminfo").ok().as_deref().and_then(total_bytes);
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let limits = limit_files(Path::new(CGROUP_ROOT), &groups);
    // The first version writes a huge number where there is no limit, the second one a word.
    let limits = limits.filter_map(|path| fs::read_to_string(path).ok()?.trim().parse().ok());
    limits.chain(machine).min()
}

/// The memory of the machine, from `/proc/meminfo`.
fn total_bytes(text: &str) -> Option<u64> {
    let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    Some(total.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

/// The files with the limits of the control groups in `/proc/self/cgroup`, and of those above them.
fn limit_files<'a>(root: &'a Path, groups: &'a str) -> impl Iterator<Item = PathBuf> + 'a {
    groups.lines().flat_map(move |line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next().unwrap_or(""), fields.next().unwrap_or(""));
        let (mount, file) = match controllers {
            "" => (root.to_owned(), "memory.max"),
            _ if controllers.split(',').any(|name| name == "memory") => {
                (root.join("memory"), "memory.limit_in_bytes")
            }
            _ => return Vec::new(),
        };
        let group = Path::new(path.trim_start_matches('/'));
        group.ancestors().map(|group| mount.join(group).join(file)).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_of_the_machine_is_read() {
        assert_eq!(total_bytes("MemTotal:       2048 kB\nMemFree: 1 kB\n"), Some(2 << 20));
        assert_eq!(total_bytes("MemFree: 1 kB\n"), None);
    }

    #[test]
    fn limits_of_all_groups_above_are_found() {
        let files = |groups: &str| -> Vec<String> {
            let files = limit_files(Path::new("/c"), groups);
            files.map(|path| path.display().to_string()).collect()
        };
        assert_eq!(
            files("0::/system.slice/coracle.service\n"),
            [
                "/c/system.slice/coracle.service/memory.max",
                "/c/system.slice/memory.max",
                "/c/memory.max"
            ]
        );
        assert_eq!(
            files("9:name=systemd:/x\n4:memory,hugetlb:/a\n2:cpu:/b\n"),
            ["/c/memory/a/memory.limit_in_bytes", "/c/memory/memory.limit_in_bytes"]
        );
    }

    #[test]
    fn this_process_has_memory() {
        assert!(bytes().is_some_and(|bytes| bytes > 1 << 20));
    }
}
