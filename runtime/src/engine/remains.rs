//! The kernel's view of this node's sandboxes, whatever became of their records.
//!
//! Several nodes may share a machine and even control groups, so nothing counts as this node's that
//! is not proved to be. A shim has the log in this node's state directory open. The control group of
//! a sandbox bears its identifier: it is this node's if the sandbox has a directory or a shim of this
//! node, or if a process in it lives on a writable layer in the state directory.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Inner;
use crate::sys::process::{pidfd, signal};
use crate::{Error, Result};

/// Bytes of a command line that are read: a tenant's may be long.
const MAX_COMMAND_BYTES: u64 = 512;
/// Bytes that are read of the mounts that a process sees.
const MAX_MOUNTS_BYTES: u64 = 1 << 20;
/// Processes of one sandbox whose mounts are looked at.
const MAX_PROBED_PROCESSES: usize = 32;
/// Levels below the group of all sandboxes at which a sandbox's may be. What is deeper is made by
/// containers.
const MAX_SANDBOX_DEPTH: usize = 2;
/// Longest time that killed shims may take to end, and the time between two looks at them.
const SHIM_END_TIMEOUT: Duration = Duration::from_secs(5);
const SHIM_END_PAUSE: Duration = Duration::from_millis(20);

/// Processes and control groups of this node's sandboxes, by the sandboxes' identifiers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Remains {
    /// Process IDs of shims.
    pub shims: BTreeMap<String, BTreeSet<i32>>,
    /// Control groups, relative to the root of each hierarchy.
    pub groups: BTreeMap<String, BTreeSet<String>>,
    /// Groups of sandboxes with processes of which nothing tells whose they are, with these. They
    /// are never ended.
    pub unclaimed: BTreeMap<String, BTreeSet<i32>>,
}

impl Remains {
    /// The identifiers of all sandboxes of which there is something.
    pub fn ids(&self) -> BTreeSet<String> {
        self.shims.keys().chain(self.groups.keys()).cloned().collect()
    }

    fn groups_of(&self, id: &str) -> impl Iterator<Item = &String> {
        self.groups.get(id).into_iter().flatten()
    }
}

/// A process that is a shim, of whichever node.
struct Shim {
    id: String,
    pid: i32,
    own: bool,
}

impl Inner {
    /// Looks for shims and control groups of this node. Reads files of every process.
    pub(super) fn remains(&self) -> Remains {
        let mut remains = Remains::default();
        let mut others = BTreeSet::new();
        for shim in self.shims() {
            if shim.own {
                remains.shims.entry(shim.id).or_default().insert(shim.pid);
            } else {
                others.insert(shim.id);
            }
        }
        let recorded = self.recorded();
        for (id, group) in self.sandbox_groups() {
            let own = remains.shims.contains_key(&id)
                || !others.contains(&id)
                    && (recorded.contains(&id) || self.lives_on_own_layer(&group, &id));
            if own {
                remains.groups.entry(id).or_default().insert(group);
            } else if !others.contains(&id) {
                let processes = self.cgroups.processes(&group);
                if !processes.is_empty() {
                    remains.unclaimed.insert(group, processes);
                }
            }
        }
        remains
    }

    /// The identifiers of sandboxes that have a directory.
    pub(super) fn recorded(&self) -> BTreeSet<String> {
        let entries = |directory: PathBuf| fs::read_dir(directory).into_iter().flatten().flatten();
        let all = entries(self.states()).chain(entries(self.runs()));
        all.filter_map(|entry| entry.file_name().into_string().ok()).collect()
    }

    fn shims(&self) -> Vec<Shim> {
        let here = fs::read_link("/proc/self/ns/mnt").ok();
        let files = self.cgroups.procs(&self.config.shim_group);
        let texts = files.iter().filter_map(|file| fs::read_to_string(file).ok());
        let grouped: BTreeSet<i32> = texts
            .flat_map(|t| t.lines().filter_map(|l| l.parse().ok()).collect::<Vec<_>>())
            .collect();
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            let process = entry.path();
            // A container has mounts of its own. Its command lines are not read: they prove nothing,
            // and its memory may keep a reader waiting.
            let mounts = fs::read_link(process.join("ns/mnt")).ok();
            if !grouped.contains(&pid) && (mounts.is_none() || mounts != here) {
                continue;
            }
            let command = read_start(&process.join("cmdline"), MAX_COMMAND_BYTES);
            if let Some(id) = shim_name(&command) {
                let own = self.is_own_log(&process.join("fd/2"), &id);
                found.push(Shim { id, pid, own });
            }
        }
        found
    }

    /// Returns whether an open file is the log of a shim of this node, which may have been removed.
    fn is_own_log(&self, descriptor: &Path, id: &str) -> bool {
        const REMOVED: &[u8] = b" (deleted)";
        use std::os::unix::ffi::OsStrExt as _;
        let Ok(open) = fs::read_link(descriptor) else { return false };
        let open = open.as_os_str().as_bytes();
        let open = open.strip_suffix(REMOVED).unwrap_or(open);
        let below = Path::new("sandboxes").join(id).join(super::SHIM_LOG);
        self.state_dirs().iter().any(|dir| dir.join(&below).as_os_str().as_bytes() == open)
    }

    /// The state directory by the names that the kernel may have for it.
    fn state_dirs(&self) -> Vec<PathBuf> {
        let configured = &self.config.state_dir;
        let names = [fs::canonicalize(configured).ok(), std::path::absolute(configured).ok()];
        names.into_iter().flatten().collect()
    }

    /// The groups of sandboxes of all nodes that share the group above them.
    fn sandbox_groups(&self) -> Vec<(String, String)> {
        let mut found = Vec::new();
        let mut level = vec![self.config.sandbox_group.clone()];
        level.retain(|top| !top.is_empty());
        for _ in 0..MAX_SANDBOX_DEPTH {
            let mut below = Vec::new();
            for group in level {
                for name in self.cgroups.children(&group) {
                    let child = format!("{group}/{name}");
                    match name.strip_prefix(SANDBOX_PREFIX).map(str::to_owned) {
                        Some(id) if Error::check_name(&id).is_ok() => found.push((id, child)),
                        _ => below.push(child),
                    }
                }
            }
            level = below;
        }
        found
    }

    /// Returns whether a process in the group of a sandbox has its root on a layer of this node.
    fn lives_on_own_layer(&self, group: &str, id: &str) -> bool {
        let layers: Vec<String> = self
            .state_dirs()
            .iter()
            .map(|dir| format!("upperdir={}/", escaped(&dir.join("sandboxes").join(id))))
            .collect();
        let processes = self.cgroups.processes(group);
        processes.into_iter().take(MAX_PROBED_PROCESSES).any(|pid| {
            let mounts = read_start(Path::new(&format!("/proc/{pid}/mountinfo")), MAX_MOUNTS_BYTES);
            let mounts = String::from_utf8_lossy(&mounts);
            let mut overlays = mounts.lines().filter(|line| line.contains(" - overlay "));
            overlays.any(|line| layers.iter().any(|layer| line.contains(layer.as_str())))
        })
    }

    /// Kills shims, each only if it still is one.
    pub(super) fn kill_shims(&self, id: &str, pids: &BTreeSet<i32>) {
        for pid in pids {
            // From here on the number stands for this process only.
            let Ok(process) = pidfd(*pid) else { continue };
            let command = read_start(Path::new(&format!("/proc/{pid}/cmdline")), MAX_COMMAND_BYTES);
            if shim_name(&command).as_deref() == Some(id) {
                let _ = signal(process.as_fd(), libc::SIGKILL);
            }
        }
    }

    /// Ends what the kernel knows of a sandbox: its shim, then every process of its groups, then the
    /// groups. Bounded; fails if something stays.
    pub(super) async fn end_remains(&self, id: &str, remains: &Remains) -> Result<()> {
        if let Some(shims) = remains.shims.get(id) {
            self.kill_shims(id, shims);
        }
        for group in remains.groups_of(id) {
            self.cgroups
                .end(group)
                .await
                .map_err(Error::kernel("killing the processes of a sandbox"))?;
            self.cgroups
                .remove(group)
                .await
                .map_err(Error::kernel("removing the control group"))?;
        }
        let deadline = tokio::time::Instant::now() + SHIM_END_TIMEOUT;
        for pid in remains.shims.get(id).into_iter().flatten() {
            // A command line of nothing is that of a process that has ended.
            let file = PathBuf::from(format!("/proc/{pid}/cmdline"));
            while shim_name(&read_start(&file, MAX_COMMAND_BYTES)).as_deref() == Some(id) {
                if tokio::time::Instant::now() > deadline {
                    return Err(Error::Stays { sandbox: id.to_owned(), pid: *pid });
                }
                tokio::time::sleep(SHIM_END_PAUSE).await;
            }
        }
        Ok(())
    }
}

/// The part of the name of a sandbox's group before the identifier.
const SANDBOX_PREFIX: &str = "pod";

/// The sandbox that a command line of a shim names.
fn shim_name(command: &[u8]) -> Option<String> {
    let mut arguments = command.split(|byte| *byte == 0);
    let (program, verb) = (arguments.next()?, arguments.next()?);
    let id = std::str::from_utf8(arguments.next()?).ok()?;
    let is_shim = program == super::SHIM_NAME.as_bytes() && verb == super::SHIM_VERB.as_bytes();
    (is_shim && Error::check_name(id).is_ok()).then(|| id.to_owned())
}

fn read_start(file: &Path, max_bytes: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    let read = |file: File| -> io::Result<usize> { file.take(max_bytes).read_to_end(&mut bytes) };
    let _ = File::open(file).and_then(read);
    bytes
}

/// A path as the kernel shows it among the options of a mount.
fn escaped(path: &Path) -> String {
    let mut text = String::new();
    for character in path.to_string_lossy().chars() {
        match character {
            ' ' | '\t' | '\n' | '\\' | ',' => text.push_str(&format!("\\{:03o}", character as u32)),
            other => text.push(other),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_lines_of_shims() {
        assert_eq!(shim_name(b"coracle\0shim\0a-1\0"), Some("a-1".to_owned()));
        for other in [
            &b""[..],
            b"coracle\0",
            b"coracle\0shim",
            b"coracle\0up\0a\0",
            b"shim\0shim\0a\0",
            b"coracle\0shim\0../a\0",
            b"coracle\0shim\0\xff\0",
        ] {
            assert_eq!(shim_name(other), None, "{other:?}");
        }
    }

    #[test]
    fn paths_in_options_are_escaped() {
        assert_eq!(escaped(Path::new("/a b/c,d\\e")), "/a\\040b/c\\054d\\134e");
    }
}
