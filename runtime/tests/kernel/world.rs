//! A place for one test: directories, a busybox layer, a runtime; nothing is left afterwards.

use std::collections::{BTreeMap, HashSet};
use std::ffi::OsString;
use std::fs;
use std::future::Future;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::ExitCode;
use std::time::Duration;

use coracle_runtime::sandbox::{
    ContainerSpec, Exit, NamespaceMode, RuntimeConfig, SandboxEvent, SandboxSpec,
};
use coracle_runtime::{Runtime, Sandbox};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::mpsc;

pub type Case = fn(&'static World) -> Pin<Box<dyn Future<Output = ()>>>;

/// Longest time one case may take.
const LIMIT: Duration = Duration::from_secs(30);

pub struct World {
    pub directory: PathBuf,
    pub layer: PathBuf,
    pub runtime: Runtime,
    pub id: String,
}

pub fn run(case: Case) {
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio.block_on(async {
        let world = Box::leak(Box::new(World::new()));
        let local = tokio::task::LocalSet::new();
        let handle = local.spawn_local(tokio::time::timeout(LIMIT, case(world)));
        let result = local.run_until(handle).await;
        world.runtime.cleanup(&HashSet::new()).await.unwrap();
        world.assert_clean().await;
        let _ = fs::remove_dir_all(&world.directory);
        match result {
            Ok(Ok(())) => {}
            Ok(Err(_)) => panic!("took longer than {LIMIT:?}"),
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    });
}

pub fn open(directory: &Path, id: &str) -> Runtime {
    Runtime::open(RuntimeConfig {
        state_dir: directory.join("state"),
        run_dir: directory.join("run"),
        shim_binary: "/proc/self/exe".into(),
        shim_group: coracle_runtime::sandbox::shim_group(""),
        sandbox_group: format!("coracle-test-{id}"),
    })
    .unwrap()
}

/// Another agent: makes a sandbox with one container and is killed while it runs.
pub fn hold(args: &[OsString]) -> ExitCode {
    let (directory, id) = (PathBuf::from(&args[0]), args[1].to_str().unwrap().to_owned());
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio.block_on(async {
        let runtime = open(&directory, &id);
        let world = World { layer: directory.join("layer"), directory, runtime, id };
        let sandbox = world.sandbox().await;
        let script =
            "i=0; while [ $i -lt 10 ]; do echo line $i; i=$((i+1)); sleep 0.1; done; exit 7";
        let container = world.container("a", &["sh", "-c", script]);
        sandbox.create_container(container).await.unwrap();
        println!("{}", sandbox.start_container("a").await.unwrap());
        std::future::pending::<()>().await;
    });
    ExitCode::SUCCESS
}

impl World {
    fn new() -> Self {
        let unique = format!("{}-{}", std::process::id(), rand_suffix());
        let directory = PathBuf::from(format!("/tmp/crt-{unique}"));
        let layer = directory.join("layer");
        for part in ["bin", "etc", "tmp", "proc", "sys", "dev"] {
            fs::create_dir_all(layer.join(part)).unwrap();
        }
        let busybox = ["/bin/busybox", "/usr/bin/busybox"];
        let busybox = busybox.iter().find(|p| Path::new(p).exists()).expect("busybox-static");
        fs::copy(busybox, layer.join("bin/busybox")).unwrap();
        for applet in [
            "sh", "cat", "echo", "sleep", "ps", "hostname", "id", "ls", "dd", "grep", "stty",
            "tty", "env", "mount", "touch", "head", "tr", "yes", "pwd", "readlink", "unshare",
            "true",
        ] {
            symlink("busybox", layer.join("bin").join(applet)).unwrap();
        }
        fs::write(layer.join("etc/plain"), "not executable").unwrap();
        let id = format!("t{unique}");
        Self { runtime: open(&directory, &id), directory, layer, id }
    }

    pub fn sandbox_spec(&self) -> SandboxSpec {
        SandboxSpec {
            id: self.id.clone(),
            hostname: Some("boat".to_owned()),
            netns: None,
            ipc: NamespaceMode::Sandbox,
            pid: NamespaceMode::Container,
            cgroup: format!("coracle-test-{0}/pod{0}", self.id),
            resources: None,
            sysctls: BTreeMap::from([("kernel.shm_rmid_forced".to_owned(), "1".to_owned())]),
            labels: BTreeMap::from([("kind".to_owned(), "test".to_owned())]),
        }
    }

    pub async fn sandbox(&self) -> Sandbox {
        self.runtime.create_sandbox(self.sandbox_spec()).await.unwrap()
    }

    pub fn log(&self, id: &str) -> PathBuf {
        self.directory.join(format!("{id}.log"))
    }

    pub fn container(&self, id: &str, args: &[&str]) -> ContainerSpec {
        self.container_with(id, args, |_| {})
    }

    pub fn container_with(
        &self,
        id: &str,
        args: &[&str],
        change: impl FnOnce(&mut Value),
    ) -> ContainerSpec {
        let caps = [
            "CAP_CHOWN",
            "CAP_DAC_OVERRIDE",
            "CAP_FSETID",
            "CAP_FOWNER",
            "CAP_MKNOD",
            "CAP_NET_RAW",
            "CAP_SETGID",
            "CAP_SETUID",
            "CAP_SETFCAP",
            "CAP_SETPCAP",
            "CAP_NET_BIND_SERVICE",
            "CAP_SYS_CHROOT",
            "CAP_KILL",
            "CAP_AUDIT_WRITE",
        ];
        let mut spec = json!({
            "ociVersion": "1.0.2",
            "root": {"path": "", "readonly": false},
            "process": {
                "terminal": false, "user": {"uid": 0, "gid": 0}, "args": args,
                "env": ["PATH=/usr/bin:/bin", "FOO=bar"], "cwd": "/",
                "capabilities": {"bounding": caps, "effective": caps, "permitted": caps, "inheritable": [], "ambient": []},
                "noNewPrivileges": true
            },
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
                {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
                {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec", "nodev"]},
                {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
                {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["nosuid", "noexec", "nodev", "relatime", "ro"]}
            ],
            "linux": {
                "maskedPaths": ["/proc/kcore", "/proc/acpi", "/proc/keys", "/sys/firmware"],
                "readonlyPaths": ["/proc/sys", "/proc/bus"]
            }
        });
        change(&mut spec);
        ContainerSpec {
            id: id.to_owned(),
            spec: serde_json::from_value(spec).unwrap(),
            layers: vec![self.layer.clone()],
            log_path: self.log(id),
            log_max_bytes: 1 << 20,
            log_max_files: 3,
            stdin: false,
            stdin_once: false,
            labels: BTreeMap::from([("name".to_owned(), id.to_owned())]),
        }
    }

    /// Runs a container to its end: how it ended and the text of its log.
    pub async fn complete(&self, sandbox: &Sandbox, container: ContainerSpec) -> (Exit, String) {
        let id = container.id.clone();
        let mut events = sandbox.events();
        sandbox.create_container(container).await.unwrap();
        sandbox.start_container(&id).await.unwrap();
        let exit = exit_of(&mut events, &id).await;
        (exit, self.text(&id))
    }

    /// A shell script in a container of its own; its output.
    pub async fn script(&self, script: &str, change: impl FnOnce(&mut Value)) -> (Exit, String) {
        let sandbox = self.sandbox().await;
        let container = self.container_with("a", &["sh", "-c", script], change);
        let result = self.complete(&sandbox, container).await;
        sandbox.remove().await.unwrap();
        result
    }

    /// The log without times, streams and tags.
    pub fn text(&self, id: &str) -> String {
        let log = fs::read_to_string(self.log(id)).unwrap();
        log.lines()
            .map(|line| {
                let mut parts = line.splitn(4, ' ');
                let (tag, text) = (parts.nth(2).unwrap(), parts.next().unwrap_or(""));
                if tag == "F" { format!("{text}\n") } else { text.to_owned() }
            })
            .collect()
    }

    /// The process ID of the sandbox's shim.
    pub fn shim(&self) -> Option<i32> {
        fs::read_dir("/proc").unwrap().flatten().find_map(|process| {
            let line = fs::read(process.path().join("cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            let ours = line.contains("shim") && line.contains(&self.id);
            process.file_name().to_str()?.parse().ok().filter(|_| ours)
        })
    }

    /// Nothing of this test is left: no cgroup, mount, process or record.
    async fn assert_clean(&self) {
        for _ in 0..100 {
            if self.leftovers().is_empty() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("left over: {:?}", self.leftovers());
    }

    fn leftovers(&self) -> Vec<String> {
        let mut left = Vec::new();
        for part in ["state/sandboxes", "run/sandboxes"] {
            let entries = fs::read_dir(self.directory.join(part)).into_iter().flatten().flatten();
            left.extend(entries.map(|e| e.path().display().to_string()));
        }
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        left.extend(
            mounts
                .lines()
                .filter(|l| l.contains(self.directory.to_str().unwrap()))
                .map(str::to_owned),
        );
        for hierarchy in fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
            // The sandbox's group and the one above it, which was made for it.
            let group = hierarchy.path().join(format!("coracle-test-{}", self.id));
            left.extend(group.exists().then(|| group.display().to_string()));
        }
        for process in fs::read_dir("/proc").unwrap().flatten() {
            let line = fs::read(process.path().join("cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            left.extend((line.contains("shim") && line.contains(&self.id)).then_some(line));
        }
        left
    }
}

pub async fn exit_of(events: &mut mpsc::Receiver<SandboxEvent>, id: &str) -> Exit {
    loop {
        match events.recv().await.unwrap() {
            SandboxEvent::Exited { container, exit } if container == id => return exit,
            SandboxEvent::Exited { .. } => {}
            SandboxEvent::ShimLost => panic!("shim lost"),
        }
    }
}

pub async fn all(mut stream: impl AsyncRead + Unpin) -> String {
    let mut text = Vec::new();
    stream.read_to_end(&mut text).await.unwrap();
    String::from_utf8_lossy(&text).into_owned()
}

fn rand_suffix() -> u32 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().subsec_nanos()
}
