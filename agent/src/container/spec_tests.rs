//! From a container to a runtime spec.

#![allow(clippy::unwrap_used)]

use super::*;

fn make(spec: Value, config: Value) -> Result<Value, SpecError> {
    make_with(spec, config, &[bind("/secrets")])
}

fn bind(target: &str) -> Bind {
    Bind {
        source: "/var/lib/x".into(),
        target: target.into(),
        read_only: true,
        recursive_read_only: false,
        propagation: "rprivate",
    }
}

fn make_with(spec: Value, config: Value, binds: &[Bind]) -> Result<Value, SpecError> {
    let pod: Pod = serde_json::from_value(
        json!({"metadata": {"name": "p", "namespace": "d", "uid": "u"}, "spec": spec}),
    )
    .unwrap();
    let image: ImageConfiguration = serde_json::from_value(json!({
        "architecture": "amd64", "os": "linux", "config": config,
        "rootfs": {"type": "layers", "diff_ids": []}, "history": [],
    }))
    .unwrap();
    let mut env = Variables::default();
    env.set("A".to_owned(), "1".to_owned()).unwrap();
    let spec = build(&Ingredients {
        pod: &pod,
        container: &pod.spec.as_ref().unwrap().containers[0],
        image: &image,
        layers: &[],
        env: &env,
        binds,
        hostname: "p",
        id: "abc",
        cgroup_root: "",
        memory_capacity: 1 << 33,
        seccomp_dir: Path::new("/nowhere"),
        join_pid: None,
    })?;
    Ok(serde_json::to_value(spec).unwrap())
}

/// A mount over a parent would hide what is mounted below it.
#[test]
fn parents_are_mounted_before_what_is_below() {
    let order = ["/data/inner/deep", "/other/b", "/data/inner", "/other/a", "/data", "/dev/shm"];
    let binds = order.map(bind);
    let spec = json!({"containers": [{"name": "c", "image": "i", "command": ["/p"]}]});
    let spec = make_with(spec, json!({}), &binds).unwrap();
    let mounts = spec["mounts"].as_array().unwrap().iter();
    let targets: Vec<&str> = mounts
        .filter(|mount| mount["source"] == "/var/lib/x")
        .map(|mount| mount["destination"].as_str().unwrap())
        .collect();
    // As upstream: by the number of parts, and otherwise as the pod lists them.
    assert_eq!(
        targets,
        ["/data", "/other/b", "/data/inner", "/other/a", "/dev/shm", "/data/inner/deep"]
    );
    let all: Vec<&Value> = spec["mounts"].as_array().unwrap().iter().collect();
    assert_eq!(all.iter().filter(|mount| mount["destination"] == "/dev/shm").count(), 1);
}

#[test]
fn an_ordinary_container() {
    let spec = make(
        json!({"containers": [{"name": "c", "args": ["$(A)"]}]}),
        json!({"Entrypoint": ["/run"], "Env": ["A=0", "B=2"], "User": "7:8", "WorkingDir": "/w"}),
    )
    .unwrap();
    assert_eq!(spec["process"]["args"], json!(["/run", "1"]));
    let env: Vec<&str> =
        spec["process"]["env"].as_array().unwrap().iter().map(|v| v.as_str().unwrap()).collect();
    assert!(env.contains(&"A=1") && env.contains(&"B=2") && env.contains(&"HOSTNAME=p"), "{env:?}");
    assert_eq!(spec["process"]["user"]["uid"], 7);
    assert_eq!(spec["process"]["user"]["gid"], 8);
    assert_eq!(spec["process"]["cwd"], "/w");
    assert_eq!(spec["process"]["capabilities"]["bounding"].as_array().unwrap().len(), 14);
    assert_eq!(spec["linux"]["cgroupsPath"], "/kubepods/besteffort/podu/abc");
    assert!(spec["linux"]["seccomp"].is_object());
    assert!(spec["linux"]["maskedPaths"].is_array());
    let secrets = spec["mounts"].as_array().unwrap();
    let secrets = secrets.iter().find(|mount| mount["destination"] == "/secrets").unwrap();
    assert_eq!(secrets["options"], json!(["rbind", "rprivate", "ro"]));
}

#[test]
fn a_privileged_container() {
    let spec = make(
        json!({"containers": [{"name": "c", "command": ["sh"], "securityContext": {
            "privileged": true, "allowPrivilegeEscalation": true}}]}),
        json!({}),
    )
    .unwrap();
    assert!(spec["linux"]["maskedPaths"].is_null());
    assert!(spec["linux"]["seccomp"].is_null());
    assert_eq!(spec["process"]["capabilities"]["effective"].as_array().unwrap().len(), 41);
}

#[test]
fn non_root_is_enforced() {
    let pod = |user: Option<i64>| {
        json!({"containers": [{"name": "c", "command": ["sh"]}],
            "securityContext": {"runAsNonRoot": true, "runAsUser": user}})
    };
    let text = |user, config| make(pod(user), config).unwrap_err().to_string();
    assert_eq!(
        text(None, json!({})),
        "container has runAsNonRoot and image will run as root (pod: \"p_d(u)\", container: c)"
    );
    assert_eq!(
        text(Some(0), json!({})),
        "container's runAsUser breaks non-root policy (pod: \"p_d(u)\", container: c)"
    );
    assert_eq!(
        text(None, json!({"User": "web"})),
        "container has runAsNonRoot and image has non-numeric user (web), cannot verify user is \
         non-root (pod: \"p_d(u)\", container: c)"
    );
    assert!(make(pod(Some(5)), json!({})).is_ok());
    assert!(make(pod(None), json!({"User": "1000"})).is_ok());
}

#[test]
fn a_container_without_a_program() {
    let error = make(json!({"containers": [{"name": "c"}]}), json!({})).unwrap_err();
    assert_eq!(error.to_string(), "no command specified");
}

#[test]
fn environment_of_the_image_counts_too() {
    let long = "x".repeat(100_000);
    let env: Vec<_> = (0..30).map(|n| format!("V{n}={long}")).collect();
    let spec = json!({"containers": [{"name": "c", "command": ["sh"]}]});
    let error = make(spec, json!({"Env": env})).unwrap_err();
    assert_eq!(error.to_string(), "environment and arguments are longer than 2097152 bytes");
}

#[test]
fn supplementary_groups_are_each_listed_once() {
    let groups = |list: Vec<u32>| {
        json!({"containers": [{"name": "c", "command": ["sh"]}],
            "securityContext": {"supplementalGroups": list, "fsGroup": 3}})
    };
    let spec = make(groups(vec![1, 2, 1, 3]), json!({})).unwrap();
    assert_eq!(spec["process"]["user"]["additionalGids"], json!([1, 2, 3]));
    let begun = std::time::Instant::now();
    let error = make(groups((0..200_000).collect()), json!({})).unwrap_err();
    assert_eq!(error.to_string(), "more than 65536 supplementary groups");
    assert!(begun.elapsed() < std::time::Duration::from_secs(10), "{:?}", begun.elapsed());
}

#[test]
fn host_sysfs_is_read_only_with_its_submounts() {
    let sys = |privileged: bool| {
        let spec = json!({"hostNetwork": true, "hostPID": true, "containers": [
            {"name": "c", "command": ["sh"], "securityContext": {"privileged": privileged}}]});
        let spec = make(spec, json!({})).unwrap();
        let mounts = spec["mounts"].as_array().unwrap().clone();
        mounts.into_iter().find(|mount| mount["destination"] == "/sys").unwrap()["options"].clone()
    };
    assert_eq!(sys(false), json!(["rbind", "nosuid", "noexec", "nodev", "rro"]));
    assert_eq!(sys(true), json!(["rbind", "nosuid", "noexec", "nodev", "rw"]));
}

#[test]
fn power_and_temperature_of_the_machine_are_masked() {
    let spec = make(json!({"containers": [{"name": "c", "command": ["sh"]}]}), json!({})).unwrap();
    let masked = spec["linux"]["maskedPaths"].as_array().unwrap().clone();
    assert!(masked.contains(&json!("/sys/devices/virtual/powercap")), "{masked:?}");
    let throttled = Path::new("/sys/devices/system/cpu/cpu0/thermal_throttle");
    let listed = masked.contains(&json!(throttled));
    assert_eq!(listed, throttled.is_dir());
}

/// CVE-2024-21626 and its like.
#[test]
fn working_directory_of_a_process_is_refused() {
    let spec = json!({"containers": [{"name": "c", "image": "i", "command": ["/p"]}]});
    for (path, refused) in [
        ("/proc/self/fd/7", true),
        ("/proc/self/fd/7/../../..", true),
        ("//proc/./thread-self/fd/8/", true),
        ("/srv/../proc/1/root/etc", true),
        ("/proc/self/cwd", true),
        ("/proc/self/task/1/fd/3", true),
        ("/dev/fd/7", true),
        ("/proc/sys", false),
        ("/srv/proc/self/fd/7", false),
        ("/dev/shm", false),
        ("/fd", false),
    ] {
        let made = make(spec.clone(), json!({"WorkingDir": path}));
        assert_eq!(made.is_err(), refused, "{path}");
        let mut own = spec.clone();
        own["containers"][0]["workingDir"] = path.into();
        assert_eq!(make(own, json!({})).is_err(), refused, "{path}");
    }
    let message = make(spec, json!({"WorkingDir": "/proc/self/fd/7"})).unwrap_err().to_string();
    assert!(message.starts_with("working directory \"/proc/self/fd/7\" is refused"), "{message}");
}
