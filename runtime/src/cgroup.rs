//! Control groups, version 1, 2 and both at once.
//!
//! A group is named by one path that holds in every hierarchy. On version 1 (and hybrid machines)
//! it is a directory in each hierarchy that matters to a container; on version 2 a single one.

mod devices;
mod limits;
mod stats;
mod tree;

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::plan::CgroupPlan;

pub use limits::apply;
pub use stats::Usage;
pub(crate) use tree::kill_all;

/// Version 1 controllers that containers are put under. Each costs every start and removal.
const CONTROLLERS: [&str; 6] = ["cpu", "cpuacct", "memory", "pids", "devices", "freezer"];

/// Version 1 controllers that are joined only where limits ask for them.
const ON_DEMAND: [&str; 2] = ["cpuset", "blkio"];

/// How often an empty group is tried to be removed while its last processes leave.
const REMOVE_ATTEMPTS: u32 = 200;

/// The hierarchies of this machine.
#[derive(Clone, Debug)]
pub struct Hierarchies {
    /// Where cgroup v2 is mounted, on hybrid machines too.
    unified: Option<PathBuf>,
    /// Version 1 hierarchies that we use; empty where version 2 has all controllers.
    legacy: Vec<Legacy>,
    /// Version 1 hierarchies that are used where limits ask for them.
    on_demand: Vec<Legacy>,
}

/// One version 1 hierarchy.
#[derive(Clone, Debug)]
struct Legacy {
    mount: PathBuf,
    /// Its controllers, or `name=…`.
    controllers: Vec<String>,
}

impl Hierarchies {
    /// Finds them in `/proc/self/mountinfo`, whose other mount points may be any bytes.
    pub fn detect() -> io::Result<Self> {
        Ok(Self::parse(&String::from_utf8_lossy(&fs::read("/proc/self/mountinfo")?)))
    }

    fn parse(mountinfo: &str) -> Self {
        let mut found = Self { unified: None, legacy: Vec::new(), on_demand: Vec::new() };
        for line in mountinfo.lines() {
            let Some((left, right)) = line.split_once(" - ") else { continue };
            let Some(mount) = left.split(' ').nth(4) else { continue };
            let mut right = right.split(' ');
            let (kind, options) = (right.next(), right.nth(1).unwrap_or(""));
            match kind {
                Some("cgroup2") if found.unified.is_none() => {
                    found.unified = Some(mount.into());
                }
                Some("cgroup") => {
                    let controllers: Vec<String> = options
                        .split(',')
                        .filter(|o| CONTROLLERS.contains(o) || *o == "name=systemd")
                        .map(str::to_owned)
                        .collect();
                    if !controllers.is_empty()
                        && !found.legacy.iter().any(|l| l.controllers == controllers)
                    {
                        found.legacy.push(Legacy { mount: mount.into(), controllers });
                    }
                    let controllers: Vec<String> = options
                        .split(',')
                        .filter(|o| ON_DEMAND.contains(o))
                        .map(str::to_owned)
                        .collect();
                    let known = found.on_demand.iter().any(|l| l.controllers == controllers)
                        || found.legacy.iter().any(|l| l.mount == Path::new(mount));
                    if !controllers.is_empty() && !known {
                        found.on_demand.push(Legacy { mount: mount.into(), controllers });
                    }
                }
                _ => {}
            }
        }
        found
    }

    /// Whether version 2 carries the controllers.
    pub fn is_unified(&self) -> bool {
        self.legacy.is_empty()
    }

    fn mounts(&self) -> impl Iterator<Item = &Path> {
        let legacy = self.legacy.iter().map(|l| l.mount.as_path());
        legacy.chain(self.unified.as_deref())
    }

    /// All hierarchies in which a group may be.
    fn all_mounts(&self) -> impl Iterator<Item = &Path> {
        self.mounts().chain(self.on_demand.iter().map(|l| l.mount.as_path()))
    }

    /// Makes a group in the hierarchy of a controller that is not used without need; returns its
    /// directory, or `None` where the machine has no such controller.
    fn join_on_demand(&self, controller: &str, group: &str) -> io::Result<Option<PathBuf>> {
        let has = |l: &&Legacy| l.controllers.iter().any(|c| c == controller);
        let Some(hierarchy) = self.on_demand.iter().find(has) else { return Ok(None) };
        let mut directory = hierarchy.mount.clone();
        for part in group.split('/').filter(|p| !p.is_empty()) {
            let parent = directory.clone();
            directory.push(part);
            match fs::create_dir(&directory) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(error) => return Err(error),
            }
            if controller == "cpuset" {
                // A group takes no process before it has some of both.
                for file in ["cpuset.cpus", "cpuset.mems"] {
                    fs::write(directory.join(file), fs::read(parent.join(file))?)?;
                }
            }
        }
        Ok(Some(directory))
    }

    /// The directory of `group` in the hierarchy with a version 1 controller.
    fn legacy_directory(&self, controller: &str, group: &str) -> Option<PathBuf> {
        self.legacy
            .iter()
            .find(|l| l.controllers.iter().any(|c| c == controller))
            .map(|l| join(&l.mount, group))
    }

    fn unified_directory(&self, group: &str) -> Option<PathBuf> {
        self.unified.as_ref().map(|mount| join(mount, group))
    }

    /// Makes a group, and those above it, in every hierarchy.
    pub fn create(&self, group: &str) -> io::Result<()> {
        for mount in self.mounts() {
            fs::create_dir_all(join(mount, group))?;
        }
        if self.is_unified() {
            self.enable_controllers(group);
        }
        Ok(())
    }

    /// Makes a group whose processes together have so many bytes of memory, swap included. Returns
    /// the files that take processes into it; it is in no other hierarchy than that of memory.
    pub fn create_bounded(&self, group: &str, bytes: u64) -> io::Result<Vec<PathBuf>> {
        let value = bytes.to_string();
        let directory = if self.is_unified() {
            self.create(group)?;
            let directory = self.unified_directory(group).ok_or(io::ErrorKind::NotFound)?;
            fs::write(directory.join("memory.max"), &value)?;
            // A kernel may have no swap.
            let _ = fs::write(directory.join("memory.swap.max"), "0");
            directory
        } else {
            let directory =
                self.legacy_directory("memory", group).ok_or(io::ErrorKind::NotFound)?;
            fs::create_dir_all(&directory)?;
            // The bound with swap is never below the one without; a kernel may have none.
            let with_swap = directory.join("memory.memsw.limit_in_bytes");
            let _ = fs::write(&with_swap, "-1");
            match fs::write(directory.join("memory.limit_in_bytes"), &value) {
                // Files in memory that belong to it are more; it gets no further.
                Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {}
                other => other?,
            }
            let _ = fs::write(&with_swap, &value);
            directory
        };
        Ok(vec![directory.join("cgroup.procs")])
    }

    /// On version 2 a group has the controllers that all groups above it hand down.
    fn enable_controllers(&self, group: &str) {
        const WANTED: [&str; 6] = ["cpu", "memory", "pids", "cpuset", "io", "hugetlb"];
        let Some(mount) = &self.unified else { return };
        let mut directory = mount.clone();
        for part in group.split('/').filter(|p| !p.is_empty()) {
            let available = fs::read_to_string(directory.join("cgroup.controllers"));
            let control = directory.join("cgroup.subtree_control");
            let enabled = fs::read_to_string(&control).unwrap_or_default();
            let enabled: Vec<&str> = enabled.split_whitespace().collect();
            for controller in available.unwrap_or_default().split_whitespace() {
                if WANTED.contains(&controller) && !enabled.contains(&controller) {
                    // One the kernel cannot hand down (real-time processes hold it) must not
                    // keep the others back.
                    let _ = fs::write(&control, format!("+{controller}"));
                }
            }
            directory.push(part);
        }
    }

    /// How a process gets into `group`.
    pub fn plan(&self, group: &str) -> CgroupPlan {
        let oom_file = if self.is_unified() {
            self.unified_directory(group).map(|d| d.join("memory.events"))
        } else {
            self.legacy_directory("memory", group).map(|d| d.join("memory.oom_control"))
        };
        CgroupPlan {
            directory: self.unified_directory(group),
            procs: self
                .legacy
                .iter()
                .map(|l| join(&l.mount, group))
                .chain(self.on_demand.iter().map(|l| join(&l.mount, group)).filter(|d| d.exists()))
                .map(|directory| directory.join("cgroup.procs"))
                .collect(),
            oom_file,
            kill_file: self
                .unified_directory(group)
                .map(|d| d.join("cgroup.kill"))
                .filter(|file| file.exists()),
            legacy_view: self
                .legacy
                .iter()
                .map(|l| {
                    let name = l.controllers.join(",");
                    let mut options: Vec<_> = l
                        .controllers
                        .iter()
                        .map(|c| match c.split_once('=') {
                            Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
                            None => (c.clone(), None),
                        })
                        .collect();
                    if name.starts_with("name=") {
                        options.push(("none".to_owned(), None));
                    }
                    (name.trim_start_matches("name=").to_owned(), options)
                })
                .collect(),
        }
    }

    /// The `cgroup.procs` files of a group in every hierarchy.
    pub fn procs(&self, group: &str) -> Vec<PathBuf> {
        self.mounts().map(|mount| join(mount, group).join("cgroup.procs")).collect()
    }

    /// The names of the groups directly below a group, in whichever hierarchy.
    pub fn children(&self, group: &str) -> BTreeSet<String> {
        let mut names = BTreeSet::new();
        for mount in self.all_mounts() {
            for entry in fs::read_dir(join(mount, group)).into_iter().flatten().flatten() {
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    names.extend(entry.file_name().into_string());
                }
            }
        }
        names
    }

    /// The processes in a group and the groups below it.
    pub fn processes(&self, group: &str) -> BTreeSet<i32> {
        let mut found = BTreeSet::new();
        for mount in self.mounts() {
            tree::each_group(&join(mount, group), |group| found.extend(tree::processes(group)));
        }
        found
    }

    /// Sends SIGKILL to every process in a group and the groups below it, and takes away what keeps
    /// them from ending: a frozen group, a share of the CPU too small to end with. Processes that
    /// are made meanwhile are missed; see [`Hierarchies::end`].
    pub fn kill(&self, group: &str) {
        if let Some(directory) = self.unified_directory(group)
            && self.is_unified()
        {
            let _ = fs::write(directory.join("cpu.max"), "max");
            if fs::write(directory.join("cgroup.kill"), "1").is_ok() {
                return;
            }
        }
        let freezer = self.legacy_directory("freezer", group);
        if let Some(freezer) = &freezer {
            // Frozen processes make no others.
            let _ = fs::write(freezer.join("freezer.state"), "FROZEN");
        }
        for mount in self.mounts() {
            tree::each_group(&join(mount, group), tree::kill_processes);
        }
        if let Some(freezer) = &freezer {
            tree::each_group(freezer, |group| tree::write(group, c"freezer.state", b"THAWED"));
        }
        if let Some(cpu) = self.legacy_directory("cpu", group) {
            tree::each_group(&cpu, |group| tree::write(group, c"cpu.cfs_quota_us", b"-1"));
        }
    }

    /// Kills every process in a group and the groups below it until none is left; fails with
    /// `TimedOut` if some do not end, those in an uninterruptible wait for example. Works without
    /// the help of any other process.
    pub async fn end(&self, group: &str) -> io::Result<()> {
        for attempt in 0..REMOVE_ATTEMPTS {
            if self.is_empty(group) {
                return Ok(());
            }
            self.kill(group);
            tokio::time::sleep(Duration::from_millis(u64::from(attempt / 4 + 1))).await;
        }
        Err(io::ErrorKind::TimedOut.into())
    }

    /// Returns whether no process is left in a group and the groups below it.
    pub fn is_empty(&self, group: &str) -> bool {
        self.processes(group).is_empty()
    }

    /// Kills what is left in a group and removes it everywhere. What is gone already is no error.
    pub async fn remove(&self, group: &str) -> io::Result<()> {
        let mut last = None;
        for attempt in 0..REMOVE_ATTEMPTS {
            match self.try_remove(group) {
                Ok(()) => return Ok(()),
                Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
                    self.kill(group);
                    last = Some(error);
                }
                Err(error) => return Err(error),
            }
            tokio::time::sleep(Duration::from_millis(u64::from(attempt / 4 + 1))).await;
        }
        last.map_or(Ok(()), Err)
    }

    /// Removes a group whose processes are gone; EBUSY while some are left.
    pub fn try_remove(&self, group: &str) -> io::Result<()> {
        for mount in self.all_mounts() {
            tree::remove(&join(mount, group))?;
        }
        Ok(())
    }

    /// Removes the groups above `group` that have become empty, `depth` levels of them.
    pub fn prune(&self, group: &str, depth: usize) {
        for mount in self.all_mounts() {
            for above in Path::new(group).ancestors().skip(1).take(depth) {
                if above.as_os_str().is_empty() || fs::remove_dir(mount.join(above)).is_err() {
                    break;
                }
            }
        }
    }

    /// Starts the grace period that the kernel waits for before it moves a process between
    /// version 1 groups, 10 to 20 ms on an idle machine. Moves within the next milliseconds then
    /// need not wait; the process named here cannot exist, so that nothing is moved.
    pub fn warm_up(&self, group: &str) {
        const BEYOND_LARGEST_PID: &str = "4194304";
        if let Some(hierarchy) = self.legacy.first() {
            let file = join(&hierarchy.mount, group).join("cgroup.procs");
            let _ = fs::write(file, BEYOND_LARGEST_PID);
        }
    }
}

fn join(mount: &Path, group: &str) -> PathBuf {
    mount.join(group.trim_start_matches('/'))
}

/// The number behind `key` in a file of `key number` lines.
pub(crate) fn keyed(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let (name, value) = line.split_once(' ')?;
        if name == key { value.trim().parse().ok() } else { None }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hybrid_machine() {
        let text = "\
30 24 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
31 30 0:27 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:5 - cgroup cgroup rw,cpu,cpuacct
32 30 0:28 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
33 30 0:29 / /sys/fs/cgroup/blkio rw,relatime - cgroup cgroup rw,blkio
34 30 0:30 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd
35 30 0:31 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
";
        let found = Hierarchies::parse(text);
        assert!(!found.is_unified());
        assert_eq!(
            found.procs("a/b"),
            [
                "/sys/fs/cgroup/cpu,cpuacct/a/b/cgroup.procs",
                "/sys/fs/cgroup/memory/a/b/cgroup.procs",
                "/sys/fs/cgroup/systemd/a/b/cgroup.procs",
                "/sys/fs/cgroup/unified/a/b/cgroup.procs",
            ]
            .map(PathBuf::from)
        );
        let view = found.plan("a").legacy_view;
        assert_eq!(view[0].0, "cpu,cpuacct");
        assert_eq!(view[2].0, "systemd");
    }

    #[test]
    fn a_unified_machine() {
        let found = Hierarchies::parse(
            "30 24 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n",
        );
        assert!(found.is_unified());
        let plan = found.plan("/kubepods/pod1");
        assert_eq!(plan.directory, Some("/sys/fs/cgroup/kubepods/pod1".into()));
        assert_eq!(plan.oom_file, Some("/sys/fs/cgroup/kubepods/pod1/memory.events".into()));
    }
}
