//! The cases.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use coracle_runtime::LaunchErrorKind;
use coracle_runtime::sandbox::{ExecSpec, NamespaceMode};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::world::{Case, World, all, exit_of};

macro_rules! cases {
    ($($name:ident),* $(,)?) => {
        pub const ALL: &[(&str, Case)] = &[$((stringify!($name), |world| Box::pin($name(world)))),*];
    };
}

cases![
    identity,
    exit_codes,
    signals,
    oom,
    limits,
    hardening,
    mounts,
    readonly_root,
    long_layer_paths,
    many_layers,
    device_rules,
    cpus,
    oom_scores,
    links_for_system_directories,
    users,
    launch_failures,
    logs,
    exec,
    exec_terminal,
    attach,
    attach_input,
    terminal,
    shared_pids,
    survival,
    record_before_program,
    shim_lost,
    removal_while_running,
    oci_command_line,
    speed,
];

async fn identity(world: &'static World) {
    let script = "hostname; echo $$; echo $FOO; pwd; cat /proc/sys/kernel/shm_rmid_forced; readlink /dev/fd; ls /dev | tr '\\n' ' '; ls /proc/self/fd | tr '\\n' ' '";
    let (exit, text) = world.script(script, |_| {}).await;
    assert_eq!(exit.code, 0, "{text}");
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(&lines[..6], ["boat", "1", "bar", "/", "1", "/proc/self/fd"]);
    for device in ["full", "null", "ptmx", "pts", "random", "stderr", "tty", "urandom", "zero"] {
        assert!(lines[6].contains(device), "{text}");
    }
    // 0 to 2, and 3 for the directory that ls reads.
    assert!(text.trim_end().ends_with("0 1 2 3"), "{text}");
}

async fn exit_codes(world: &'static World) {
    assert_eq!(world.script("exit 42", |_| {}).await.0.code, 42);
    let (exit, _) = world.script("kill -9 $$; sleep 1; exit 3", |_| {}).await;
    // The first process of a PID namespace cannot kill itself.
    assert_eq!(exit.code, 3);
}

async fn signals(world: &'static World) {
    let sandbox = world.sandbox().await;
    let mut events = sandbox.events();
    sandbox.create_container(world.container("a", &["sleep", "100"])).await.unwrap();
    sandbox.start_container("a").await.unwrap();
    sandbox.signal("a", libc::SIGKILL).await.unwrap();
    let exit = exit_of(&mut events, "a").await;
    assert_eq!((exit.code, exit.signal, exit.oom_killed), (137, Some(9), false));
    sandbox.signal("a", libc::SIGKILL).await.unwrap();
    let script = "trap 'echo bye; exit 5' TERM; echo up; while true; do sleep 0.05; done";
    sandbox.create_container(world.container("b", &["sh", "-c", script])).await.unwrap();
    sandbox.start_container("b").await.unwrap();
    while !fs::read_to_string(world.log("b")).unwrap().contains("up") {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    sandbox.signal("b", libc::SIGTERM).await.unwrap();
    assert_eq!(exit_of(&mut events, "b").await.code, 5);
    assert_eq!(world.text("b"), "up\nbye\n");
    sandbox.remove().await.unwrap();
}

async fn oom(world: &'static World) {
    let script = "dd if=/dev/zero of=/dev/null bs=64M count=1; echo survived";
    let (exit, text) = world
        .script(script, |spec| {
            spec["linux"]["resources"] =
                json!({"memory": {"limit": 16_777_216, "swap": 16_777_216}});
        })
        .await;
    assert!(exit.oom_killed, "{exit:?} {text}");
}

async fn limits(world: &'static World) {
    let script = "for f in /sys/fs/cgroup/cpu/cpu.shares /sys/fs/cgroup/cpu/cpu.cfs_quota_us /sys/fs/cgroup/pids/pids.max /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/cpu.max /sys/fs/cgroup/pids.max; do [ -e $f ] && cat $f; done; cat /proc/self/cgroup; touch /sys/fs/cgroup/x && echo writable";
    let (_, text) = world
        .script(script, |spec| {
            spec["linux"]["resources"] = json!({
                "cpu": {"shares": 512, "quota": 25000, "period": 100_000},
                "memory": {"limit": 33_554_432}, "pids": {"limit": 33}
            });
        })
        .await;
    assert!(text.contains("25000") && text.contains("33\n"), "{text}");
    assert!(text.contains(":/\n"), "{text}");
    assert!(!text.contains("writable\n") && !text.contains("coracle-test"), "{text}");
}

async fn hardening(world: &'static World) {
    let script = "grep -E '^(CapEff|CapBnd|Seccomp|NoNewPrivs):' /proc/self/status; head -c 1 /proc/kcore | grep -c .; ls /sys/firmware; echo x > /proc/sys/kernel/hostname; mount -t tmpfs x /tmp; unshare -U true; mount | grep -c 'proc/sys '";
    let (_, text) = world
        .script(script, |spec| {
            let caps = coracle_runtime::seccomp::runtime_default(&std::collections::HashSet::new());
            spec["linux"]["seccomp"] = serde_json::to_value(caps).unwrap();
        })
        .await;
    assert!(text.contains("CapEff:\t00000000a80425fb"), "{text}");
    assert!(text.contains("CapBnd:\t00000000a80425fb"), "{text}");
    assert!(text.contains("NoNewPrivs:\t1"), "{text}");
    assert!(text.contains("Seccomp:\t2"), "{text}");
    assert!(text.contains("\n0\n"), "{text}");
    assert!(text.contains("Read-only file system"), "{text}");
    assert!(text.contains("permission denied") || text.contains("not permitted"), "{text}");
}

async fn mounts(world: &'static World) {
    let source = world.directory.join("volume");
    fs::create_dir_all(source.join("sub")).unwrap();
    fs::write(source.join("file"), "content\n").unwrap();
    fs::create_dir_all(world.layer.join("escape")).unwrap();
    // A link in the image that points out of it must not lead a mount out of it.
    std::os::unix::fs::symlink("/../../../../escape", world.layer.join("link")).unwrap();
    let add = |spec: &mut Value| {
        let mounts = spec["mounts"].as_array_mut().unwrap();
        let path = source.to_str().unwrap();
        mounts.push(json!({"destination": "/deep/new/volume", "type": "bind", "source": path, "options": ["rbind", "ro"]}));
        mounts.push(json!({"destination": "/writable", "type": "bind", "source": path, "options": ["rbind", "rw"]}));
        mounts.push(json!({"destination": "/etc/one", "type": "bind", "source": format!("{path}/file"), "options": ["bind", "ro"]}));
        mounts.push(json!({"destination": "/cache", "type": "tmpfs", "source": "tmpfs", "options": ["size=1m", "mode=1777"]}));
        mounts.push(json!({"destination": "/link/volume", "type": "bind", "source": path, "options": ["rbind"]}));
    };
    let script = "cat /deep/new/volume/file /etc/one; touch /deep/new/volume/x; touch /writable/y; touch /cache/z && ls /cache; mount | grep ' /cache '; ls /escape/volume; id -u";
    let (_, text) = world.script(script, add).await;
    assert!(text.starts_with("content\ncontent\n"), "{text}");
    assert!(text.contains("Read-only file system"), "{text}");
    assert!(text.contains("size=1024k"), "{text}");
    assert!(source.join("y").exists() && !source.join("x").exists());
    assert!(!std::path::Path::new("/escape").exists());
    assert!(!world.layer.join("deep").exists());
}

async fn readonly_root(world: &'static World) {
    let (_, text) = world
        .script("touch /x || echo refused; touch /dev/shm-x && echo dev", |spec| {
            spec["root"]["readonly"] = json!(true);
        })
        .await;
    assert!(text.contains("refused") && text.contains("dev\n"), "{text}");
}

/// The new mount call takes no such paths, and before 6.5 no list of layers at all.
async fn long_layer_paths(world: &'static World) {
    let upper = world.directory.join("second");
    fs::create_dir_all(upper.join("etc")).unwrap();
    fs::write(upper.join("etc/second"), "of the second layer\n").unwrap();
    let long = |name: &str| world.directory.join("./".repeat(200)).join(name);
    let sandbox = world.sandbox().await;
    let script =
        "cat /etc/second && cat /etc/plain && echo new >/etc/plain && grep -c new /etc/plain";
    let mut container = world.container("a", &["sh", "-c", script]);
    container.layers = vec![long("layer"), long("second")];
    let (exit, text) = world.complete(&sandbox, container).await;
    sandbox.remove().await.unwrap();
    assert_eq!((exit.code, text.as_str()), (0, "of the second layer\nnot executable1\n"));
}

/// As many layers as an image may have.
async fn many_layers(world: &'static World) {
    let layers = coracle_runtime::image::max_layers();
    let sandbox = world.sandbox().await;
    let mut container = world.container("a", &["cat", "/etc/last"]);
    for number in 1..layers {
        let layer = world.directory.join(format!("layer{number}"));
        fs::create_dir_all(layer.join("etc")).unwrap();
        fs::write(layer.join("etc/last"), format!("{number}")).unwrap();
        container.layers.push(layer);
    }
    let (exit, text) = world.complete(&sandbox, container).await;
    sandbox.remove().await.unwrap();
    assert_eq!((exit.code, text), (0, format!("{}", layers - 1)));
}

/// On version 1 by the controller, on version 2 by a program. The usual devices need no rule.
async fn device_rules(world: &'static World) {
    let script = "echo >/dev/null && head -c 1 /dev/zero >/dev/null && echo usual; busybox mknod /tmp/log c 1 11 && head -c 1 /tmp/log >/dev/null || echo refused";
    let rules = |spec: &mut Value| {
        spec["linux"]["resources"] = json!({"devices": [
            {"allow": false, "access": "rwm"},
            {"allow": true, "type": "c", "access": "m"}
        ]});
    };
    let (_, text) = world.script(script, rules).await;
    let said: Vec<&str> = text.lines().filter(|line| !line.starts_with("head:")).collect();
    assert_eq!(said, ["usual", "refused"], "{text}");
}

/// Version 1 groups that are made only where a limit asks for them.
async fn cpus(world: &'static World) {
    let limit = |spec: &mut Value| {
        spec["linux"]["resources"] = json!({"cpu": {"cpus": "0"}});
    };
    let (_, text) = world.script("grep Cpus_allowed_list /proc/self/status", limit).await;
    assert_eq!(text.trim(), "Cpus_allowed_list:\t0");
}

/// The shim is spared when memory runs out, its containers are not.
async fn oom_scores(world: &'static World) {
    let sandbox = world.sandbox().await;
    let own = fs::read_to_string("/proc/self/oom_score_adj").unwrap();
    let container = world.container("a", &["cat", "/proc/self/oom_score_adj"]);
    let shim = world.shim().unwrap();
    let shim = fs::read_to_string(format!("/proc/{shim}/oom_score_adj")).unwrap();
    let (_, text) = world.complete(&sandbox, container).await;
    sandbox.remove().await.unwrap();
    // Without CAP_SYS_RESOURCE it stays what it was.
    assert!(shim.trim() == "-998" || shim == own, "{shim}");
    if shim.trim() == "-998" {
        assert_eq!(text.trim(), "0");
    }
}

/// A link of the image leads neither proc nor sysfs nor devices elsewhere, and no volume into proc.
async fn links_for_system_directories(world: &'static World) {
    let layer = world.directory.join("linked");
    fs::create_dir_all(layer.join("real")).unwrap();
    std::os::unix::fs::symlink("/proc", layer.join("to-proc")).unwrap();
    let sandbox = world.sandbox().await;
    for name in ["proc", "sys", "dev"] {
        let image = world.directory.join(format!("image-{name}"));
        fs::create_dir_all(image.join("real")).unwrap();
        std::os::unix::fs::symlink("/real", image.join(name)).unwrap();
        let mut container = world.container(name, &["true"]);
        container.layers.insert(0, image);
        container.layers.remove(1);
        sandbox.create_container(container).await.unwrap();
        let error = sandbox.start_container(name).await.unwrap_err().to_string();
        assert!(error.contains("must be mounted on ordinary directory"), "{error}");
    }
    let source = world.directory.join("volume");
    fs::create_dir_all(&source).unwrap();
    let mut container = world.container_with("into-proc", &["true"], |spec| {
        let mount = json!({"destination": "/to-proc/sys", "type": "bind",
            "source": source.to_str().unwrap(), "options": ["rbind"]});
        spec["mounts"].as_array_mut().unwrap().push(mount);
    });
    container.layers.push(layer);
    sandbox.create_container(container).await.unwrap();
    let error = sandbox.start_container("into-proc").await.unwrap_err().to_string();
    assert!(error.contains("mount point is inside /proc"), "{error}");
    sandbox.remove().await.unwrap();
}

async fn users(world: &'static World) {
    let (_, text) = world
        .script("id; echo again > /dev/stdout; grep CapEff /proc/self/status; pwd; umask", |spec| {
            spec["process"]["user"] =
                json!({"uid": 1000, "gid": 1001, "additionalGids": [1002], "umask": 0o077});
            spec["process"]["cwd"] = json!("/made/for/it");
        })
        .await;
    assert!(
        text.contains("uid=1000 gid=1001 groups=1001,1002")
            || text.contains("uid=1000 gid=1001 groups=1002"),
        "{text}"
    );
    assert!(text.contains("again\n") && text.contains("/made/for/it\n0077\n"), "{text}");
    assert!(text.contains("CapEff:\t0000000000000000"), "{text}");
}

async fn launch_failures(world: &'static World) {
    let sandbox = world.sandbox().await;
    let cases: [(&str, &[&str], LaunchErrorKind, &str); 3] = [
        (
            "a",
            &["nope"],
            LaunchErrorKind::ExecutableNotFound,
            "exec: \"nope\": executable file not found in $PATH",
        ),
        (
            "b",
            &["/nope"],
            LaunchErrorKind::ExecutableNotFound,
            "exec: \"/nope\": stat /nope: no such file or directory",
        ),
        (
            "c",
            &["/etc/plain"],
            LaunchErrorKind::PermissionDenied,
            "exec: \"/etc/plain\": permission denied",
        ),
    ];
    for (id, args, kind, text) in cases {
        sandbox.create_container(world.container(id, args)).await.unwrap();
        let error = sandbox.start_container(id).await.unwrap_err();
        let launch = error.launch().unwrap_or_else(|| panic!("{error}"));
        assert_eq!(launch.kind, kind);
        assert!(launch.message.ends_with(text), "{}", launch.message);
        assert!(!sandbox.directory().join(id).join("started.json").exists(), "nothing ran");
        sandbox.remove_container(id).await.unwrap();
    }
    let missing = world.container_with("d", &["true"], |spec| {
        let mount = json!({"destination": "/x", "type": "bind", "source": "/does/not/exist", "options": ["rbind"]});
        spec["mounts"].as_array_mut().unwrap().push(mount);
    });
    sandbox.create_container(missing).await.unwrap();
    let error = sandbox.start_container("d").await.unwrap_err();
    assert_eq!(error.launch().unwrap().kind, LaunchErrorKind::Mount, "{error}");
    assert!(sandbox.start_container("none").await.unwrap_err().is_not_found());
    sandbox.remove().await.unwrap();
    sandbox.remove().await.unwrap();
}

async fn logs(world: &'static World) {
    let script = "echo out; echo err >&2; yes | tr -d '\\n' | head -c 20000; echo; printf end";
    let (_, _) = world.script(script, |_| {}).await;
    let log = fs::read_to_string(world.log("a")).unwrap();
    let tags: Vec<(String, String, usize)> = log
        .lines()
        .map(|line| {
            let mut parts = line.splitn(4, ' ');
            let (_, stream, tag) = (parts.next(), parts.next().unwrap(), parts.next().unwrap());
            (stream.to_owned(), tag.to_owned(), parts.next().unwrap().len())
        })
        .collect();
    let stdout: Vec<_> =
        tags.iter().filter(|t| t.0 == "stdout").map(|t| (t.1.as_str(), t.2)).collect();
    assert_eq!(stdout, [("F", 3), ("P", 16384), ("F", 3616), ("P", 3)]);
    assert!(tags.contains(&("stderr".to_owned(), "F".to_owned(), 3)));
}

async fn exec(world: &'static World) {
    let sandbox = world.sandbox().await;
    sandbox.create_container(world.container("a", &["sleep", "100"])).await.unwrap();
    sandbox.start_container("a").await.unwrap();
    let spec = |args: &[&str], stdin: bool| ExecSpec {
        container: "a".to_owned(),
        args: args.iter().map(|a| (*a).to_owned()).collect(),
        tty: false,
        stdin,
        leashed: false,
    };
    let session = sandbox.exec(spec(&["sh", "-c", "hostname; echo $FOO; cat /proc/1/comm; ls /proc/self/fd | tr '\\n' ' '; grep CapEff /proc/self/status; cat /proc/self/cgroup; echo oops >&2; exit 3"], false)).await.unwrap();
    let (out, err) = tokio::join!(all(session.stdout), all(session.stderr.unwrap()));
    assert!(out.starts_with("boat\nbar\nsleep\n0 1 2 3 CapEff:\t00000000a80425fb\n"), "{out}");
    assert!(!out.contains("coracle"), "{out}");
    assert_eq!(err, "oops\n");
    assert_eq!(session.exit.await.unwrap().code, 3);

    let mut session = sandbox.exec(spec(&["cat"], true)).await.unwrap();
    let mut stdin = session.stdin.take().unwrap();
    let bulk = vec![b'x'; 1 << 20];
    let (written, read) = tokio::join!(
        async move { stdin.write_all(&bulk).await.map(|()| drop(stdin)) },
        all(session.stdout)
    );
    written.unwrap();
    assert_eq!(read.len(), 1 << 20);
    assert_eq!(session.exit.await.unwrap().code, 0);

    // Nobody waits any more: one on a leash ends, another does not.
    let leashed = |args: &[&str]| ExecSpec { leashed: true, ..spec(args, false) };
    let waited = sandbox.exec(leashed(&["sleep", "7.1"])).await.unwrap();
    let free = sandbox.exec(spec(&["sleep", "7.2"], false)).await.unwrap();
    drop((waited, free));
    let list = ["sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '"];
    let mut seen = String::new();
    for _ in 0..100 {
        seen = all(sandbox.exec(spec(&list, false)).await.unwrap().stdout).await;
        if !seen.contains("sleep 7.1") {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(!seen.contains("sleep 7.1") && seen.contains("sleep 7.2"), "{seen}");
    let mut session = sandbox.exec(leashed(&["true"])).await.unwrap();
    assert_eq!(session.exit.await.unwrap().code, 0);
    session.leash.take().unwrap().send(()).unwrap();

    let error = sandbox.exec(spec(&["nope"], false)).await.err().unwrap();
    assert!(error.to_string().contains("executable file not found in $PATH"), "{error}");
    sandbox.remove().await.unwrap();
}

async fn exec_terminal(world: &'static World) {
    let sandbox = world.sandbox().await;
    sandbox.create_container(world.container("a", &["sleep", "100"])).await.unwrap();
    sandbox.start_container("a").await.unwrap();
    let mut session = sandbox
        .exec(ExecSpec {
            container: "a".to_owned(),
            args: ["sh", "-c", "read x; tty; stty size; echo got $x; exit 9"]
                .map(str::to_owned)
                .to_vec(),
            tty: true,
            stdin: true,
            leashed: false,
        })
        .await
        .unwrap();
    session.resize.send((100, 40)).await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    session.stdin.as_mut().unwrap().write_all(b"word\n").await.unwrap();
    let text = all(session.stdout).await;
    assert!(
        text.contains("/dev/pts/") && text.contains("40 100") && text.contains("got word"),
        "{text}"
    );
    assert_eq!(session.exit.await.unwrap().code, 9);
    sandbox.remove().await.unwrap();
}

async fn attach(world: &'static World) {
    let sandbox = world.sandbox().await;
    let mut container =
        world.container("a", &["sh", "-c", "echo early; sleep 0.4; echo late; echo bad >&2"]);
    container.stdin = true;
    sandbox.create_container(container).await.unwrap();
    sandbox.start_container("a").await.unwrap();
    tokio::time::sleep(Duration::from_millis(150)).await;
    let first = sandbox.attach("a", false).await.unwrap();
    let second = sandbox.attach("a", false).await.unwrap();
    let (one, two, errors) =
        tokio::join!(all(first.stdout), all(second.stdout), all(first.stderr.unwrap()));
    assert_eq!((one.as_str(), two.as_str(), errors.as_str()), ("early\nlate\n", "late\n", "bad\n"));
    assert_eq!(first.exit.await.unwrap().code, 0);
    sandbox.remove().await.unwrap();
}

async fn attach_input(world: &'static World) {
    let sandbox = world.sandbox().await;
    let mut container = world.container("a", &["cat"]);
    (container.stdin, container.stdin_once) = (true, true);
    sandbox.create_container(container).await.unwrap();
    sandbox.start_container("a").await.unwrap();
    let mut session = sandbox.attach("a", true).await.unwrap();
    let mut stdin = session.stdin.take().unwrap();
    let bulk = vec![b'y'; 300_000];
    let (_, text) = tokio::join!(
        async move {
            stdin.write_all(&bulk).await.unwrap();
            drop(stdin);
        },
        all(session.stdout)
    );
    assert_eq!(text.len(), 300_000);
    assert_eq!(session.exit.await.unwrap().code, 0);
    sandbox.remove().await.unwrap();
}

async fn terminal(world: &'static World) {
    let sandbox = world.sandbox().await;
    let mut container = world.container_with("a", &["sh"], |spec| {
        spec["process"]["terminal"] = json!(true);
    });
    (container.stdin, container.stdin_once) = (true, true);
    sandbox.create_container(container).await.unwrap();
    sandbox.start_container("a").await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    let mut session = sandbox.attach("a", true).await.unwrap();
    assert!(session.stderr.is_none());
    // The prompt, printed before the attach, is replayed.
    while session.stdout.read_u8().await.unwrap() != b'#' {}
    session.resize.send((90, 30)).await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    let mut stdin = session.stdin.take().unwrap();
    stdin.write_all(b"stty size; tty; ls -l /dev/console; exit 4\n").await.unwrap();
    let text = all(session.stdout).await;
    assert!(text.contains("30 90") && text.contains("/dev/pts/0"), "{text}");
    assert_eq!(session.exit.await.unwrap().code, 4);
    sandbox.remove().await.unwrap();
}

async fn shared_pids(world: &'static World) {
    let mut spec = world.sandbox_spec();
    spec.pid = NamespaceMode::Sandbox;
    let sandbox = world.runtime.create_sandbox(spec).await.unwrap();
    sandbox.create_container(world.container("a", &["sleep", "77"])).await.unwrap();
    let pid = sandbox.start_container("a").await.unwrap();
    init_is_confined(pid);
    let (exit, text) = world
        .complete(
            &sandbox,
            world.container(
                "b",
                &["sh", "-c", "sleep 88 & ps -o pid,args; cat /proc/1/comm; ls -l /proc/1/root/"],
            ),
        )
        .await;
    assert_eq!(exit.code, 1, "{text}");
    assert!(text.contains("sleep 77") && text.contains("coracle-init"), "{text}");
    let mut events = sandbox.events();
    sandbox.signal("a", libc::SIGTERM).await.unwrap();
    sandbox.signal("a", libc::SIGKILL).await.unwrap();
    exit_of(&mut events, "a").await;
    sandbox.remove().await.unwrap();
}

/// Checks the first process of the PID namespace of `member`: a neighbour with `CAP_SYS_PTRACE` may
/// make it run any code.
fn init_is_confined(member: u32) {
    let namespace = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
    let wanted = namespace(&member.to_string()).unwrap();
    let mut found = std::fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| {
        let pid = entry.file_name().into_string().ok()?;
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
        (name.trim() == "coracle-init" && namespace(&pid)? == wanted).then_some(pid)
    });
    let init = found.next().unwrap();
    let groups = std::fs::read_to_string(format!("/proc/{init}/cgroup")).unwrap();
    let memory = |line: &&str| line.contains(":memory:") || line.starts_with("0::");
    for group in groups.lines().filter(memory) {
        assert!(group.ends_with("/coracle-init"), "{groups}");
    }
    let status = std::fs::read_to_string(format!("/proc/{init}/status")).unwrap();
    for line in ["Seccomp:\t2", "NoNewPrivs:\t1", "CapBnd:\t0000000000000000"] {
        assert!(status.contains(line), "{line}: {status}");
    }
}

async fn survival(world: &'static World) {
    let mut command = Command::new("/proc/self/exe");
    command.arg0("agent").arg("hold").arg(&world.directory).arg(&world.id).stdout(Stdio::piped());
    let mut agent = command.spawn().unwrap();
    let mut line = String::new();
    let mut stdout = std::io::BufReader::new(agent.stdout.take().unwrap());
    std::io::BufRead::read_line(&mut stdout, &mut line).unwrap();
    agent.kill().unwrap();
    agent.wait().unwrap();
    let pid: u32 = line.trim().parse().unwrap();
    let mut adopted = world.runtime.adopt().await.unwrap().adopted;
    assert_eq!(adopted.len(), 1);
    let (spec, sandbox) = adopted.remove(0);
    assert_eq!(spec.labels["kind"], "test");
    let mut events = sandbox.events();
    let status = sandbox.status().await.unwrap();
    assert_eq!(status[0].pid, Some(pid));
    assert!(status[0].started_at.is_some());
    assert_eq!(status[0].labels["name"], "a");
    assert_eq!(status[0].exit, None);
    assert_eq!(exit_of(&mut events, "a").await.code, 7);
    let expected: String = (0..10).map(|i| format!("line {i}\n")).collect();
    assert_eq!(world.text("a"), expected);
    sandbox.remove().await.unwrap();
}

/// Whoever finds a record of a start knows that the program may have run; without, it has not.
async fn record_before_program(world: &'static World) {
    let sandbox = world.sandbox().await;
    let records = sandbox.directory();
    let container = world.container_with("a", &["cat", "/records/a/started.json"], |spec| {
        let mount = json!({"destination": "/records", "type": "bind", "source": records, "options": ["rbind", "ro"]});
        spec["mounts"].as_array_mut().unwrap().push(mount);
    });
    let (exit, text) = world.complete(&sandbox, container).await;
    assert_eq!(exit.code, 0, "{text}");
    let record: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(record["pid"].as_u64(), sandbox.status().await.unwrap()[0].pid.map(u64::from));
    assert!(record["start_ticks"].as_u64() > Some(0), "{text}");
    sandbox.remove().await.unwrap();
}

async fn shim_lost(world: &'static World) {
    let sandbox = world.sandbox().await;
    let mut events = sandbox.events();
    sandbox.create_container(world.container("a", &["sleep", "100"])).await.unwrap();
    let pid = sandbox.start_container("a").await.unwrap();
    kill_shim_of(pid);
    assert!(matches!(
        events.recv().await,
        Some(coracle_runtime::sandbox::SandboxEvent::Exited { exit, .. }) if exit.code == 255
    ));
    assert!(matches!(events.recv().await, Some(coracle_runtime::sandbox::SandboxEvent::ShimLost)));
    assert!(!sandbox.is_alive());
    sandbox.remove_container("a").await.unwrap();
    assert!(sandbox.status().await.unwrap().is_empty());
    sandbox.remove().await.unwrap();
}

async fn removal_while_running(world: &'static World) {
    let sandbox = world.sandbox().await;
    for id in ["a", "b"] {
        sandbox
            .create_container(world.container(id, &["sh", "-c", "sleep 100 & sleep 100"]))
            .await
            .unwrap();
        sandbox.start_container(id).await.unwrap();
    }
    let (usage, containers) = sandbox.stats().await.unwrap();
    assert!(usage.memory_bytes > 0 && containers["a"].pids >= 1, "{usage:?} {containers:?}");
    sandbox.remove_container("a").await.unwrap();
    sandbox.remove_container("a").await.unwrap();
    assert_eq!(sandbox.status().await.unwrap().len(), 1);
    // `run` asserts that the cleanup takes the rest.
}

async fn oci_command_line(world: &'static World) {
    let bundle = world.directory.join("bundle");
    fs::create_dir_all(&bundle).unwrap();
    let container = world.container("a", &["sh", "-c", "hostname; echo $$; sleep 100"]);
    let mut spec = serde_json::to_value(&container.spec).unwrap();
    spec["root"]["path"] = json!(world.layer);
    spec["hostname"] = json!("oci");
    spec["linux"]["cgroupsPath"] = json!(format!("/coracle-test-{}/oci", world.id));
    spec["linux"]["namespaces"] = json!([
        {"type": "mount"}, {"type": "pid"}, {"type": "uts"}, {"type": "ipc"},
        {"type": "network"}, {"type": "cgroup"}
    ]);
    fs::write(bundle.join("config.json"), spec.to_string()).unwrap();
    let root = world.directory.join("oci");
    let output = world.directory.join("oci.out");
    let run = |args: &[&str]| {
        let file = fs::File::options().append(true).create(true).open(&output).unwrap();
        let mut command = Command::new("/proc/self/exe");
        command.args(["oci", "--root"]).arg(&root).args(args).stdin(Stdio::null());
        match args[0] {
            "create" => command.stdout(file).stderr(Stdio::null()),
            _ => command.stdout(Stdio::piped()).stderr(Stdio::null()),
        };
        let output = command.output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let id = world.id.as_str();
    assert_eq!(run(&["create", "-b", bundle.to_str().unwrap(), id]).0, Some(0));
    assert!(run(&["state", id]).1.contains("\"created\""));
    assert_eq!(run(&["start", id]).0, Some(0));
    assert!(run(&["state", id]).1.contains("\"running\""));
    assert_eq!(run(&["exec", id, "sh", "-c", "hostname; exit 4"]), (Some(4), "oci\n".to_owned()));
    assert_eq!(run(&["delete", id]).0, Some(1));
    assert_eq!(run(&["kill", id, "KILL"]).0, Some(0));
    while !run(&["state", id]).1.contains("\"stopped\"") {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(run(&["delete", id]).0, Some(0));
    assert_eq!(run(&["state", id]).0, Some(1));
    assert_eq!(fs::read_to_string(&output).unwrap(), "oci\n1\n");

    // One that waits for its start does not outlive who could start it.
    assert_eq!(run(&["create", "-b", bundle.to_str().unwrap(), id]).0, Some(0));
    let state: Value = serde_json::from_str(&run(&["state", id]).1).unwrap();
    let pid = state["pid"].as_u64().unwrap() as u32;
    kill_shim_of(pid);
    while std::path::Path::new(&format!("/proc/{pid}/exe")).read_link().is_ok() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(run(&["state", id]).1.contains("\"stopped\""));
    assert_eq!(run(&["delete", id]).0, Some(0));
    assert_eq!(fs::read_to_string(&output).unwrap(), "oci\n1\n", "it ran");
}

fn shim_of(pid: u32) -> i32 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    status.lines().find_map(|l| l.strip_prefix("PPid:")).unwrap().trim().parse().unwrap()
}

fn kill_shim_of(pid: u32) {
    let shim = nix::unistd::Pid::from_raw(shim_of(pid));
    nix::sys::signal::kill(shim, nix::sys::signal::Signal::SIGKILL).unwrap();
}

/// Prints times; asserts none.
async fn speed(world: &'static World) {
    let started = std::time::Instant::now();
    let sandbox = world.sandbox().await;
    let made = started.elapsed();
    sandbox.create_container(world.container("a", &["sleep", "100"])).await.unwrap();
    let created = started.elapsed();
    let pid = sandbox.start_container("a").await.unwrap();
    let running = started.elapsed();
    let shim = shim_of(pid);
    let rollup = fs::read_to_string(format!("/proc/{shim}/smaps_rollup")).unwrap_or_default();
    let private: u64 = rollup
        .lines()
        .filter(|l| l.starts_with("Private_Dirty") || l.starts_with("Private_Clean"))
        .filter_map(|l| l.split_whitespace().nth(1)?.parse::<u64>().ok())
        .sum();
    let before = std::time::Instant::now();
    sandbox.remove().await.unwrap();
    println!(
        "sandbox {made:?}, created {created:?}, running {running:?}, removed in {:?}; shim private {private} KiB",
        before.elapsed()
    );
}
