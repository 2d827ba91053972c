//! Nodes that lost their directories while pods run: nothing of them stays on the machine, and no
//! pod runs twice.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use coracle_integration::manifest::sleeper;
use coracle_integration::{Node, eventually, privileged, within};
use serde_json::json;

/// Returns a text that only the process in the test's pod has in its command line.
fn mark(node: &Node) -> String {
    format!("marked-{}", node.dir.path().display())
}

/// Starts a pod whose process is found by [`mark`].
fn start_pod(node: &Node) {
    let script = format!(": {}; trap 'exit 0' TERM; while :; do sleep 0.1; done", mark(node));
    let mut pod = sleeper("p", json!({"restartPolicy": "Always"}));
    pod["spec"]["containers"][0]["command"] = json!(["sh", "-c", script]);
    pod["spec"]["volumes"] = json!([{"name": "memory", "emptyDir": {"medium": "Memory"}}]);
    pod["spec"]["containers"][0]["volumeMounts"] =
        json!([{"name": "memory", "mountPath": "/memory"}]);
    let kubectl = node.any_kubectl();
    kubectl.apply(&pod.to_string());
    kubectl.ready("p");
    wait_for_one(node);
}

/// Waits until the pod is one process: for a moment its `sleep` is the shell's copy.
fn wait_for_one(node: &Node) {
    within(10, "the pod is one process", || processes(&mark(node)).len() == 1);
}

/// Processes by a part of their command lines.
fn processes(part: &str) -> Vec<i32> {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let has = |pid: &i32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).replace('\0', " ").contains(part)
    };
    pids.filter(has).collect()
}

/// Loses a directory with everything that is mounted in it, as when `/run` is mounted over or cleared.
fn lose(directory: &Path) {
    let mounts = std::fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
    let points = mounts.lines().map(|line| PathBuf::from(line.split(' ').nth(4).unwrap()));
    for point in points.filter(|point| point.starts_with(directory)) {
        assert!(Command::new("umount").arg("--lazy").arg(&point).status().unwrap().success());
    }
    std::fs::remove_dir_all(directory).unwrap();
}

/// Turns forwarding off, as before coracle: that state is lost with the run directory.
fn forget_forwarding(node: &Node) {
    for setting in ["net.ipv4.ip_forward=0", "net.ipv4.conf.all.route_localnet=0"] {
        node.ns.run("sysctl", &["-w", setting]);
    }
}

#[test]
fn reset_ends_pods_without_records() {
    if !privileged() {
        return;
    }
    let lost: [&[&str]; 3] = [&["run"], &["data/containers"], &["run", "data"]];
    for directories in lost {
        let mut node = Node::start();
        start_pod(&node);
        node.kill_agent();
        directories.iter().for_each(|directory| lose(&node.path(directory)));
        wait_for_one(&node);
        let output = node.coracle(&["reset", "--yes"]).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{directories:?}: {text}");
        assert_eq!(processes(&mark(&node)), [] as [i32; 0], "{directories:?}");
        if directories.contains(&"run") {
            forget_forwarding(&node);
        }
        // Compares everything with what there was before the node.
        node.reset();
    }
}

#[test]
fn pods_without_records_are_started_anew() {
    if !privileged() {
        return;
    }
    for lost in ["run", "data/containers"] {
        let mut node = Node::start();
        start_pod(&node);
        let before = processes(&mark(&node));
        node.kill_agent();
        lose(&node.path(lost));
        node.up();
        eventually(60, "the pod runs anew, once", || {
            let now = processes(&mark(&node));
            (now.len() == 1 && now != before).then_some(())
        });
        node.any_kubectl().ready("p");
        // Nothing of the former one comes back or stays.
        within(10, "one shim", || node.footprint()["shims"] == 1);
        wait_for_one(&node);
        forget_forwarding(&node);
    }
}

#[test]
fn unreadable_record_does_not_keep_a_pod() {
    if !privileged() {
        return;
    }
    let mut node = Node::start();
    start_pod(&node);
    let uid = node.any_kubectl().jsonpath(&["pod", "p"], "{.metadata.uid}");
    node.kill_agent();
    let record = node.data().join("containers/sandboxes").join(&uid).join("sandbox.json");
    std::fs::write(record, "{").unwrap();
    std::fs::remove_file(node.path("run/sandboxes").join(&uid).join("shim.sock")).unwrap();
    let output = node.coracle(&["reset", "--yes"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(processes(&mark(&node)), [] as [i32; 0]);
    node.reset();
}

/// A process in a group as pods have them, of which nothing tells whose it is.
#[test]
fn reset_names_what_stays() {
    if !privileged() {
        return;
    }
    let mut node = Node::start();
    start_pod(&node);
    node.stop_agent();
    let root = node.census().cgroups.iter().next().unwrap().clone();
    let hierarchy = Path::new(&root).parent().unwrap().to_owned();
    let name = Path::new(&root).file_name().unwrap();
    let group = hierarchy.join(name).join("kubepods/podstranger");
    std::fs::create_dir_all(&group).unwrap();
    let mut stranger = Command::new("sleep");
    let mut stranger = stranger.arg("1000").stdin(Stdio::null()).process_group(0).spawn().unwrap();
    std::fs::write(group.join("cgroup.procs"), stranger.id().to_string()).unwrap();
    let output = node.coracle(&["reset", "--yes"]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(text.contains("kubepods/podstranger"), "{text}");
    assert!(text.contains(&stranger.id().to_string()), "{text}");
    assert_eq!(stranger.try_wait().unwrap(), None, "the stranger was ended");
    // What is the node's was ended nevertheless.
    assert_eq!(processes(&mark(&node)), [] as [i32; 0]);
    stranger.kill().unwrap();
    stranger.wait().unwrap();
    node.reset();
}
