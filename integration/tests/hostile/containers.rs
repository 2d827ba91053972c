//! Code in a container against the runtime.

use std::path::Path;
use std::time::Duration;

use coracle_integration::{privileged, within};
use serde_json::json;

use crate::tenant::Ground;

#[test]
fn code_in_a_container_stays_there() {
    if !privileged() {
        return;
    }
    let ground = Ground::new();
    processes_that_join_show_nothing_of_the_host(&ground);
    stopped_processes_do_not_keep_a_pod(&ground);
    files_that_may_not_change_do_not_stay(&ground);
}

/// A container with CAP_SYS_PTRACE looks at every process that appears in it.
fn processes_that_join_show_nothing_of_the_host(ground: &Ground) {
    let secret = ground.path("host-secret");
    std::fs::write(&secret, "HOST SECRET").unwrap();
    let privileges = json!({
        "containers": [{
            "name": "main", "image": "busybox", "imagePullPolicy": "IfNotPresent",
            "securityContext": {"capabilities": {"add": ["SYS_PTRACE"]}},
            "command": ["sh", "-c", "trap 'exit 0' TERM; while :; do sleep 0.1; done"],
            "readinessProbe": {"exec": {"command": ["true"]}, "periodSeconds": 1},
        }],
    });
    ground.pod("look", "trap 'exit 0' TERM; while :; do sleep 0.1; done", privileges);
    ground.tenant.ready("look");
    // Builtins only, so that the loop turns fast: `read` opens the file of the host.
    let script = format!(
        "end=$(($(date +%s) + 15)); while [ $(date +%s) -lt $end ]; do \
         i=0; while [ $i -lt 200 ]; do i=$((i+1)); for p in /proc/[0-9]*; do \
         {{ read -r line < $p/root{secret} && echo \"$p $line\"; }} 2>/dev/null; \
         done; done; done; echo finished",
        secret = secret.display()
    );
    let mut looking = ground.tenant.command(&["exec", "look", "--", "sh", "-c", &script]);
    let looking = looking.stdout(std::process::Stdio::piped()).spawn().unwrap();
    for _ in 0..100 {
        let output = ground.tenant.run(&["exec", "look", "--", "true"]);
        assert_eq!(output.code, 0, "{}", output.stderr);
    }
    let output = looking.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "finished\n");
    ground.is_sound("a reader of /proc/*/root");
    ground.delete("look");
}

/// Everything in the container is stopped as soon as it appears, what `exec` starts too.
fn stopped_processes_do_not_keep_a_pod(ground: &Ground) {
    let script = "while :; do kill -STOP -1; done";
    ground.pod("wedge", script, json!({"terminationGracePeriodSeconds": 1}));
    ground.tenant.ready("wedge");
    let uid = ground.tenant.jsonpath(&["pod", "wedge"], "{.metadata.uid}");
    let mut exec = ground.tenant.command(&["exec", "wedge", "--", "true"]).spawn().unwrap();
    std::thread::sleep(Duration::from_secs(2));
    let force = ["delete", "pod", "wedge", "--force", "--grace-period=0", "--timeout=60s"];
    ground.tenant.ok(&force);
    let group = uid.replace('-', "");
    within(60, "its processes are gone", || {
        let census = ground.node.census();
        let of_pod = |text: &String| text.contains(&uid) || text.contains(&group);
        !census.cgroups.iter().any(of_pod) && !census.processes.iter().any(of_pod)
    });
    let _ = exec.kill();
    let _ = exec.wait();
    ground.is_sound("a container that stops every process");
}

/// A container protects its files from every change. One pod is deleted; the other one runs until
/// the reset at the end, which finds what is left.
fn files_that_may_not_change_do_not_stay(ground: &Ground) {
    // The image has no chattr: the machine's, with its loader and libraries.
    let arch = std::env::consts::ARCH;
    let libraries = format!("lib/{arch}-linux-gnu");
    let loader = format!("{libraries}/ld-linux-{}.so.2", arch.replace('_', "-"));
    if ![loader.as_str(), "bin/chattr"].iter().all(|file| Path::new("/usr").join(file).exists()) {
        coracle_integration::skip::skip("a container that sets flags of files", "chattr");
        return;
    }
    let chattr = format!("/host/{loader} --library-path /host/{libraries} /host/bin/chattr");
    let script = format!(
        "for top in /data /root; do \
         mkdir -p $top/inner/deep && echo x > $top/inner/deep/file && \
         ln $top/inner/deep/file $top/name && {chattr} +i $top/inner/deep/file && \
         {chattr} +a $top/inner/deep && {chattr} +i $top/inner || exit 1; \
         done; {chattr} +a /data && touch /tmp/set; \
         trap 'exit 0' TERM; while :; do sleep 0.1; done"
    );
    let privileges = json!({
        "containers": [{
            "name": "main", "image": "busybox", "imagePullPolicy": "IfNotPresent",
            "securityContext": {"capabilities": {"add": ["LINUX_IMMUTABLE"]}},
            "readinessProbe": {"exec": {"command": ["ls", "/tmp/set"]}, "periodSeconds": 1},
            "volumeMounts": [
                {"name": "data", "mountPath": "/data"},
                {"name": "host", "mountPath": "/host", "readOnly": true},
            ],
        }],
        "volumes": [
            {"name": "data", "emptyDir": {}},
            {"name": "host", "hostPath": {"path": "/usr"}},
        ],
    });
    for pod in ["flags", "flags-kept"] {
        ground.pod(pod, &script, privileges.clone());
        ground.tenant.ready(pod);
    }
    let uid = ground.tenant.jsonpath(&["pod", "flags"], "{.metadata.uid}");
    let data = ground.node.data();
    let left = [data.join("pods").join(&uid), data.join("containers/sandboxes").join(&uid)];
    assert!(left.iter().all(|path| path.exists()), "{left:?}");
    ground.delete("flags");
    within(60, "its files are gone", || !left.iter().any(|path| path.exists()));
    ground.is_sound("files that may not change");
}
