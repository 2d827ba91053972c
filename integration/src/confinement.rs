//! A node with little: a bound on its memory and on its open files.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Bounds of the node's own process and what it starts before they have control groups of their own.
#[derive(Clone, Copy, Debug)]
pub struct Confinement {
    /// Memory in bytes; the kernel kills the node beyond it.
    pub memory_bytes: u64,
    /// Open files, soft and hard limit.
    pub open_files: u64,
}

/// A control group that bounds the memory of the processes that are put into it.
#[derive(Debug)]
pub struct MemoryGroup {
    path: PathBuf,
}

impl Confinement {
    /// Wraps the program of `command` so that it starts with the bounds: a node looks at them when it
    /// starts.
    pub fn wrap(&self, command: &Command, group: &MemoryGroup) -> Command {
        let mut wrapped = Command::new("sh");
        wrapped.args(["-c", "echo $$ >\"$0\" && exec \"$@\""]).arg(group.path.join("cgroup.procs"));
        wrapped.arg("prlimit").arg(format!("--nofile={0}:{0}", self.open_files)).arg("--");
        wrapped.arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => wrapped.env(name, value),
                None => wrapped.env_remove(name),
            };
        }
        wrapped
    }

    /// Makes the control group; `name` is unique on the machine.
    pub fn memory_group(&self, name: &str) -> MemoryGroup {
        let first = Path::new("/sys/fs/cgroup/memory");
        let (root, limit) = match first.is_dir() {
            true => (first, "memory.limit_in_bytes"),
            false => {
                // Version 2: the root hands the controller down to its groups.
                std::fs::write("/sys/fs/cgroup/cgroup.subtree_control", "+memory").unwrap();
                (Path::new("/sys/fs/cgroup"), "memory.max")
            }
        };
        let path = root.join(name);
        std::fs::create_dir(&path).unwrap();
        std::fs::write(path.join(limit), self.memory_bytes.to_string()).unwrap();
        MemoryGroup { path }
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        // Busy for a moment after its last process has ended.
        for _ in 0..50 {
            if std::fs::remove_dir(&self.path).is_ok() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        eprintln!("{} cannot be removed", self.path.display());
    }
}
