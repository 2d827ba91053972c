//! Limits and isolation are real: memory, CPU, namespaces, capabilities, file systems.
#![allow(clippy::unwrap_used, clippy::panic)]

use coracle_integration::{Node, eventually, privileged, within};

fn pod(name: &str, command: &str, resources: &str) -> String {
    format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: busybox
    imagePullPolicy: IfNotPresent
    command: [sh, -c, {command:?}]
    resources: {resources}
"
    )
}

#[test]
fn limits_and_isolation_are_real() {
    if !privileged() {
        return;
    }
    let node = Node::start();
    let kubectl = node.any_kubectl();

    // Memory: the kernel kills what grows beyond its limit, and the status says so.
    kubectl.apply(&pod("hungry", "x=a; while true; do x=$x$x; done", "{limits: {memory: 32Mi}}"));
    let state = eventually(60, "the hungry pod is killed", || {
        let state = kubectl.json(&["pod", "hungry"])["status"]["containerStatuses"][0]["state"]
            ["terminated"]
            .clone();
        state.is_object().then_some(state)
    });
    assert_eq!(state["reason"], "OOMKilled", "{state}");
    assert_eq!(state["exitCode"], 137, "{state}");

    // CPU: 250m is a quarter of a core.
    kubectl.apply(&pod("busy", "while :; do :; done", "{limits: {cpu: 250m, memory: 32Mi}}"));
    kubectl.ok(&["wait", "--for=condition=Ready", "pod/busy", "--timeout=30s"]);
    // Both clocks are read inside, so that the machine's other work falls between no two of them.
    let seen = kubectl.ok(&[
        "exec",
        "busy",
        "--",
        "sh",
        "-c",
        "cat /proc/uptime /proc/1/stat; sleep 4; cat /proc/uptime /proc/1/stat; \
         cat /sys/fs/cgroup/cpu.stat /sys/fs/cgroup/cpu/cpu.stat 2>/dev/null; true",
    ]);
    let lines: Vec<&str> = seen.lines().collect();
    let wall = |line: &str| line.split(' ').next().unwrap().parse::<f64>().unwrap();
    let used = |line: &str| {
        let fields: Vec<&str> = line.rsplit(')').next().unwrap().split_whitespace().collect();
        // utime and stime in clock ticks of 10 ms.
        (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
    };
    let share = (used(lines[3]) - used(lines[1])) / (wall(lines[2]) - wall(lines[0]));
    // A machine that has other things to do may give less, never more.
    assert!((0.02..=0.30).contains(&share), "a limit of 250m got {share:.3} of a core");
    let throttled = lines.iter().find_map(|line| line.strip_prefix("nr_throttled "));
    assert!(throttled.unwrap().parse::<u64>().unwrap() > 0, "{seen}");
    kubectl.ok(&["delete", "pod", "busy", "--timeout=60s"]);

    // Isolation, as seen from inside.
    kubectl.apply(&pod("box", "sleep 1000", "{}"));
    kubectl.ok(&["wait", "--for=condition=Ready", "pod/box", "--timeout=30s"]);
    let exec = |command: &str| kubectl.ok(&["exec", "box", "--", "sh", "-c", command]);
    assert_eq!(exec("hostname"), "box\n");
    assert_eq!(exec("cat /proc/1/comm"), "sleep\n");
    assert_eq!(
        exec("grep CapEff /proc/1/status").split_whitespace().nth(1),
        Some("00000000a80425fb")
    );
    assert_eq!(exec("grep -E '^Seccomp:' /proc/1/status").split_whitespace().nth(1), Some("2"));
    assert_eq!(exec("ls / | tr '\\n' ' '").trim(), "bin dev etc home proc root sys tmp usr var");
    assert_eq!(exec("cat /proc/kcore 2>/dev/null | wc -c"), "0\n");
    let mounts = exec("cat /proc/mounts");
    for line in mounts.lines() {
        let source = line.split(' ').next().unwrap();
        assert!(!source.starts_with("/work") && !source.starts_with("/home"), "{line}");
    }
    // Programs word the refusal differently; the kernel mounts nothing either way.
    let refused = exec("mkdir -p /mnt; mount -t tmpfs x /mnt 2>&1 || echo refused");
    assert!(refused.ends_with("refused\n"), "{refused}");
    assert!(!exec("cat /proc/mounts").contains(" /mnt "));
    assert_eq!(exec("id -u"), "0\n", "the refusal is not about the user");
    assert!(exec("(echo 1 > /proc/sys/kernel/panic) 2>&1 || true").contains("Read-only"));
    assert!(
        exec("mknod /tmp/sda b 8 0 2>&1 && cat /tmp/sda 2>&1 || true").contains("not permitted")
    );
    let netns = exec("readlink /proc/1/ns/net");
    assert_ne!(
        netns.trim(),
        std::fs::read_link("/proc/self/ns/net").unwrap().display().to_string()
    );

    // One image file system does not see another's writes.
    exec("echo mine > /etc/mine");
    kubectl.apply(&pod("other", "cat /etc/mine; true", "{}"));
    within(30, "the other pod ends", || {
        kubectl.jsonpath(&["pod", "other"], "{.status.phase}") == "Succeeded"
    });
    assert!(kubectl.ok(&["logs", "other"]).contains("No such file"));
}
