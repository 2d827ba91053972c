//! Containers that work against their runtime.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use coracle_runtime::Sandbox;
use coracle_runtime::sandbox::{ExecSpec, NamespaceMode};
use serde_json::{Value, json};

use crate::world::{Case, World, all, exit_of};

pub const ALL: &[(&str, Case)] = &[
    ("exec_shows_nothing_of_the_host", |world| Box::pin(exec_shows_nothing_of_the_host(world))),
    ("start_shows_nothing_of_the_host", |world| Box::pin(start_shows_nothing_of_the_host(world))),
    ("null_device_of_the_host_stays", |world| Box::pin(null_device_of_the_host_stays(world))),
    ("stop_storm_does_not_stop_the_shim", |world| {
        Box::pin(stop_storm_does_not_stop_the_shim(world))
    }),
    ("frozen_container_is_removed", |world| Box::pin(frozen_container_is_removed(world))),
    ("starved_fork_bomb_is_killed", |world| Box::pin(starved_fork_bomb_is_killed(world))),
    ("stopped_shim_keeps_nothing_alive", |world| Box::pin(stopped_shim_keeps_nothing_alive(world))),
];

/// Longest time that an operation may take beside a hostile container.
const PATIENCE: Duration = Duration::from_secs(10);

fn exec_of(args: &[&str]) -> ExecSpec {
    ExecSpec {
        container: "a".to_owned(),
        args: args.iter().map(|a| (*a).to_owned()).collect(),
        tty: false,
        stdin: false,
        leashed: false,
    }
}

/// A container as pods have it by default, which may trace every process that it sees.
fn tracer(spec: &mut Value) {
    for set in ["bounding", "effective", "permitted"] {
        let set = spec["process"]["capabilities"][set].as_array_mut().unwrap();
        set.push(json!("CAP_SYS_PTRACE"));
    }
    spec["process"]["noNewPrivileges"] = json!(false);
    let profile = coracle_runtime::seccomp::runtime_default(&std::collections::HashSet::new());
    spec["linux"]["seccomp"] = serde_json::to_value(profile).unwrap();
}

/// Looks at all processes of a container as one of them with CAP_SYS_PTRACE could.
struct Scan {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<(u64, Vec<String>)>,
}

impl Scan {
    fn new(proc: PathBuf) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let identity = |path: &Path| fs::metadata(path).map(|m| (m.dev(), m.ino())).ok();
            let slash = identity(Path::new("/"));
            let null = identity(Path::new("/dev/null"));
            let mut hits = Vec::new();
            let mut seen = 0;
            while !stopped.load(Ordering::Relaxed) && hits.len() < 10 {
                for entry in fs::read_dir(&proc).into_iter().flatten().flatten() {
                    let name = entry.file_name().into_string().unwrap();
                    if name == "1" || name.parse::<u32>().is_err() {
                        continue;
                    }
                    seen += 1;
                    let process = entry.path();
                    for link in ["root", "cwd"] {
                        let found = identity(&process.join(link));
                        if found.is_some() && found == slash {
                            hits.push(format!("{link} is the host's"));
                        }
                    }
                    let status = fs::read_to_string(process.join("status")).unwrap_or_default();
                    let granted = status.lines().find_map(|l| l.strip_prefix("CapPrm:"));
                    let granted = granted.and_then(|c| u64::from_str_radix(c.trim(), 16).ok());
                    if granted.is_some_and(|set| set & (1 << 21) != 0) {
                        hits.push(format!("CapPrm {granted:x?}"));
                    }
                    for fd in fs::read_dir(process.join("fd")).into_iter().flatten().flatten() {
                        let Ok(found) = fs::metadata(fd.path()) else { continue };
                        let kind = found.file_type();
                        let own = kind.is_fifo() || kind.is_char_device();
                        if !own || Some((found.dev(), found.ino())) == null {
                            let link = fs::read_link(fd.path());
                            hits.push(format!("fd {:?} is {link:?}", fd.file_name()));
                        }
                    }
                }
            }
            (seen, hits)
        });
        Self { stop, thread }
    }

    fn finish(self) {
        self.stop.store(true, Ordering::Relaxed);
        let (seen, hits) = self.thread.join().unwrap();
        assert!(seen > 0);
        assert_eq!(hits, Vec::<String>::new(), "of {seen} looks");
    }
}

async fn exec_shows_nothing_of_the_host(world: &'static World) {
    let sandbox = world.sandbox().await;
    let container = world.container_with("a", &["sleep", "100"], tracer);
    sandbox.create_container(container).await.unwrap();
    let pid = sandbox.start_container("a").await.unwrap();
    let scan = Scan::new(PathBuf::from(format!("/proc/{pid}/root/proc")));
    for _ in 0..200 {
        // The program reads its own directories, so its descriptors are pipes and the null device.
        let session = sandbox.exec(exec_of(&["true"])).await.unwrap();
        assert_eq!(session.exit.await.unwrap().code, 0);
    }
    scan.finish();
    sandbox.remove().await.unwrap();
}

async fn start_shows_nothing_of_the_host(world: &'static World) {
    let mut spec = world.sandbox_spec();
    spec.pid = NamespaceMode::Sandbox;
    let sandbox = world.runtime.create_sandbox(spec).await.unwrap();
    let container = world.container_with("a", &["sleep", "100"], tracer);
    sandbox.create_container(container).await.unwrap();
    let pid = sandbox.start_container("a").await.unwrap();
    let scan = Scan::new(PathBuf::from(format!("/proc/{pid}/root/proc")));
    for number in 0..20 {
        let id = format!("b{number}");
        let script = "test -d /proc/1 && test $$ -gt 1 && exec sleep 100";
        let container = world.container_with(&id, &["sh", "-c", script], tracer);
        sandbox.create_container(container).await.unwrap();
        sandbox.start_container(&id).await.unwrap();
        sandbox.remove_container(&id).await.unwrap();
    }
    scan.finish();
    sandbox.remove().await.unwrap();
}

/// Streams, masks and device nodes that are the machine's would take its mode with them.
async fn null_device_of_the_host_stays(world: &'static World) {
    let before = fs::metadata("/dev/null").unwrap();
    let script = "busybox chmod 0 /proc/self/fd/0; busybox chmod 0 /proc/kcore; \
                  busybox chown 1 /proc/self/fd/0 /proc/keys; echo done";
    let (_, text) = world.script(script, |_| {}).await;
    let after = fs::metadata("/dev/null").unwrap();
    fs::set_permissions("/dev/null", fs::Permissions::from_mode(before.mode() & 0o7777)).unwrap();
    std::os::unix::fs::chown("/dev/null", Some(before.uid()), Some(before.gid())).unwrap();
    // Errors come through another pipe, and may stand after it.
    assert!(text.contains("done\n"), "{text}");
    assert_eq!((after.mode(), after.uid()), (before.mode(), before.uid()));
}

/// Removes a sandbox within a bound.
async fn removed_in_time(sandbox: &Sandbox) {
    let started = Instant::now();
    tokio::time::timeout(PATIENCE, sandbox.remove()).await.unwrap().unwrap();
    println!("removed in {:?}", started.elapsed());
}

async fn stop_storm_does_not_stop_the_shim(world: &'static World) {
    let sandbox = world.sandbox().await;
    let mut events = sandbox.events();
    let script = "while :; do kill -STOP -1; done";
    sandbox.create_container(world.container("a", &["sh", "-c", script])).await.unwrap();
    sandbox.start_container("a").await.unwrap();
    let mut stuck = Vec::new();
    for _ in 0..20 {
        let sandbox = sandbox.clone();
        let exec = async move { sandbox.exec(exec_of(&["true"])).await.map(drop) };
        stuck.push(tokio::task::spawn_local(exec));
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    // Another container of the sandbox does not notice.
    let other = world.container("b", &["echo", "unaffected"]);
    let (exit, text) =
        tokio::time::timeout(PATIENCE, world.complete(&sandbox, other)).await.unwrap();
    assert_eq!((exit.code, text.as_str()), (0, "unaffected\n"));
    sandbox.signal("a", libc::SIGKILL).await.unwrap();
    let exit = tokio::time::timeout(PATIENCE, exit_of(&mut events, "a")).await.unwrap();
    assert_eq!(exit.code, 137);
    removed_in_time(&sandbox).await;
    for exec in stuck {
        exec.abort();
    }
}

/// The directories of a container's control group that have a file.
fn groups(world: &World, file: &str) -> Vec<PathBuf> {
    let group = format!("coracle-test-{0}/pod{0}/a", world.id);
    let mounts = fs::read_dir("/sys/fs/cgroup").unwrap().flatten().map(|entry| entry.path());
    let mounts = mounts.chain([PathBuf::from("/sys/fs/cgroup")]);
    mounts.map(|mount| mount.join(&group).join(file)).filter(|path| path.exists()).collect()
}

async fn frozen_container_is_removed(world: &'static World) {
    let sandbox = world.sandbox().await;
    sandbox.create_container(world.container("a", &["sleep", "100"])).await.unwrap();
    sandbox.start_container("a").await.unwrap();
    let frozen = groups(world, "freezer.state");
    match frozen.first() {
        Some(file) => fs::write(file, "FROZEN").unwrap(),
        None => fs::write(&groups(world, "cgroup.freeze")[0], "1").unwrap(),
    }
    let stuck = {
        let sandbox = sandbox.clone();
        tokio::task::spawn_local(async move { sandbox.exec(exec_of(&["true"])).await.map(drop) })
    };
    tokio::time::sleep(Duration::from_millis(100)).await;
    tokio::time::timeout(PATIENCE, sandbox.kill_container("a")).await.unwrap().unwrap();
    removed_in_time(&sandbox).await;
    stuck.abort();
}

async fn starved_fork_bomb_is_killed(world: &'static World) {
    let sandbox = world.sandbox().await;
    let script = "f() { f | f & }; f; while :; do :; done";
    let container = world.container_with("a", &["sh", "-c", script], |spec| {
        spec["linux"]["resources"] = json!({
            "cpu": {"quota": 1000, "period": 100_000}, "pids": {"limit": 200}
        });
    });
    sandbox.create_container(container).await.unwrap();
    sandbox.start_container("a").await.unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    tokio::time::timeout(PATIENCE, sandbox.kill_container("a")).await.unwrap().unwrap();
    for file in groups(world, "cgroup.procs") {
        assert_eq!(fs::read_to_string(file).unwrap(), "");
    }
    removed_in_time(&sandbox).await;
}

async fn stopped_shim_keeps_nothing_alive(world: &'static World) {
    let sandbox = world.sandbox().await;
    sandbox.create_container(world.container("a", &["sleep", "100"])).await.unwrap();
    let pid = sandbox.start_container("a").await.unwrap();
    let shim = world.shim().unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(shim), nix::sys::signal::SIGSTOP).unwrap();
    tokio::time::timeout(PATIENCE, sandbox.kill_container("a")).await.unwrap().unwrap();
    let ended = fs::read_to_string(format!("/proc/{pid}/stat"));
    assert!(ended.is_err() || ended.unwrap().contains(") Z "));
    // Another agent finds the shim without an answer, and ends it too.
    let again = crate::world::open(&world.directory, &world.id);
    let none = std::collections::HashSet::new();
    let removal = tokio::time::timeout(PATIENCE * 3, again.cleanup(&none));
    removal.await.unwrap().unwrap();
    drop(all(&b""[..]).await);
    assert!(world.shim().is_none_or(|pid| {
        fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.contains(") Z "))
    }));
}
