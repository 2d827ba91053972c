//! What the machine carries: mounts, processes, cgroups; and what a node's network namespace
//! carries: links, addresses, routes, rules, settings. Equal before and after, or something leaked.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::netns::NetNs;

/// Everything that a node could leave behind. `mark` is a string that all of its paths contain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Census {
    pub mounts: BTreeSet<String>,
    pub processes: BTreeSet<String>,
    pub cgroups: BTreeSet<String>,
    pub network: Vec<String>,
}

impl Census {
    /// Takes stock of what carries `mark` on the machine, and of the whole namespace `ns`.
    pub fn take(mark: &str, ns: Option<&NetNs>) -> Self {
        Self {
            mounts: mounts(mark),
            processes: processes(mark),
            cgroups: cgroups(mark),
            network: ns.map(network).unwrap_or_default(),
        }
    }
}

fn mounts(mark: &str) -> BTreeSet<String> {
    fs::read_to_string("/proc/thread-self/mountinfo")
        .unwrap()
        .lines()
        .filter(|line| line.contains(mark))
        .map(|line| line.split(' ').skip(3).collect::<Vec<_>>().join(" "))
        .collect()
}

fn processes(mark: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
        let read = |file: &str| fs::read(entry.path().join(file)).unwrap_or_default();
        let command = String::from_utf8_lossy(&read("cmdline")).replace('\0', " ");
        let cgroup = String::from_utf8_lossy(&read("cgroup")).into_owned();
        // A shim has neither in its name nor in its group whose it is, but it has its log open.
        let log = fs::read_link(entry.path().join("fd/2")).unwrap_or_default();
        let is_shim = command.contains(" shim ") && log.display().to_string().contains(mark);
        if pid != std::process::id() && (command.contains(mark) || cgroup.contains(mark) || is_shim)
        {
            found.insert(format!("{pid} {command}"));
        }
    }
    found
}

fn cgroups(mark: &str) -> BTreeSet<String> {
    fn walk(dir: &Path, depth: u32, mark: &str, found: &mut BTreeSet<String>) {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            if !entry.file_type().is_ok_and(|t| t.is_dir()) {
                continue;
            }
            let path = entry.path();
            if path.display().to_string().contains(mark) {
                found.insert(path.display().to_string());
            }
            if depth > 0 {
                walk(&path, depth - 1, mark, found);
            }
        }
    }
    let mut found = BTreeSet::new();
    walk(Path::new("/sys/fs/cgroup"), 5, mark, &mut found);
    found
}

fn network(ns: &NetNs) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for arguments in [
        &["-o", "link"][..],
        &["-o", "address"],
        &["route", "show", "table", "all"],
        &["rule"],
        &["-o", "neighbour", "show", "nud", "permanent"],
    ] {
        let text = ns.run("ip", arguments);
        lines.extend(text.lines().map(|l| normalized(l).to_owned()));
    }
    lines.extend(ns.run("nft", &["list", "ruleset"]).lines().map(str::to_owned));
    for sysctl in ["net.ipv4.ip_forward", "net.ipv4.conf.all.route_localnet"] {
        lines.push(ns.run("sysctl", &[sysctl]).trim().to_owned());
    }
    lines
}

/// Cuts off what changes by itself (remaining lifetimes).
fn normalized(line: &str) -> &str {
    line.split(" valid_lft").next().unwrap_or(line).split("\\").next().unwrap_or(line)
}
