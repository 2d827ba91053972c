//! A coracle node with directories, control groups and a network namespace of its own, beside a
//! second namespace that plays the outside world.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::CloneFlags;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::census::Census;
use crate::confinement::{Confinement, MemoryGroup};
use crate::kubectl::Kubectl;
use crate::netns::NetNs;

/// The node's address towards the outside (TEST-NET-1, RFC 5737).
pub const NODE_IP: &str = "192.0.2.10";
/// The outside's address.
pub const OUTSIDE_IP: &str = "192.0.2.20";

static COUNTER: AtomicU32 = AtomicU32::new(0);

/// How to start a node.
#[derive(Clone, Debug, Default)]
pub struct NodeOptions {
    /// Further arguments of `coracle up`.
    pub arguments: Vec<String>,
    /// Load no images.
    pub without_images: bool,
    /// As on a machine without CA certificates.
    pub without_certificates: bool,
    /// A disk of its own of this size (as tmpfs writes it) for the data directory. The calling
    /// thread gets a mount namespace of its own for it.
    pub disk: Option<&'static str>,
    /// Bounds of the node's process.
    pub confinement: Option<Confinement>,
}

/// A running node; dropped, it is stopped and reset.
pub struct Node {
    pub ns: NetNs,
    pub outside: NetNs,
    pub dir: tempfile::TempDir,
    options: NodeOptions,
    before: Census,
    mark: String,
    child: Option<Child>,
    memory: Option<MemoryGroup>,
}

/// The binary under test.
pub fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("CORACLE_BINARY") {
        return path.into();
    }
    panic!("CORACLE_BINARY does not name the binary under test (make test sets it)");
}

impl Node {
    /// Starts a node with the test images and waits until it is ready.
    pub fn start() -> Self {
        Self::start_with(NodeOptions::default())
    }

    pub fn start_with(options: NodeOptions) -> Self {
        let mut node = Self::prepare(options);
        node.up();
        node
    }

    /// A node that is not started yet; its images are loaded.
    pub fn prepare(options: NodeOptions) -> Self {
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let mark = format!("coracle-e2e-{}-{number:05}", std::process::id());
        let dir = tempfile::Builder::new().prefix(&format!("{mark}-")).tempdir().unwrap();
        let ns = NetNs::new();
        let outside = NetNs::new();
        ns.link("up0", &format!("{NODE_IP}/24"), &outside, "up0", &format!("{OUTSIDE_IP}/24"));
        std::fs::write(dir.path().join("resolv.conf"), "").unwrap();
        if let Some(size) = options.disk {
            make_disk(&dir.path().join("disk"), size);
        }
        let memory = options.confinement.map(|c| c.memory_group(&format!("confined-{mark}")));
        let before = Census::take(&mark, Some(&ns));
        let node = Self { ns, outside, dir, options, before, mark, child: None, memory };
        if !node.options.without_images {
            for image in ["busybox-latest", "nginx-latest", "nginx-1.9.1"] {
                node.load_image(image);
            }
        }
        node
    }

    /// Loads one of the test images by its file name.
    pub fn load_image(&self, image: &str) {
        let archive = crate::workspace().join(format!("build/images/{image}.tar"));
        let output = self.coracle(&["image", "load"]).arg(&archive).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The data directory.
    pub fn data(&self) -> PathBuf {
        self.path(if self.options.disk.is_some() { "disk/data" } else { "data" })
    }

    /// Starts `coracle up`, which is expected to give up; returns what it printed.
    pub fn up_fails(&self) -> String {
        let output = self.up_command(&self.path("nobody-listens")).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "coracle up ended well: {text}");
        text
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.path("kubeconfig")
    }

    /// `coracle …` with this node's directories, in its namespace.
    pub fn coracle(&self, verb: &[&str]) -> Command {
        let mut command = self.ns.command(binary().to_str().unwrap());
        command.args(verb);
        command.arg(format!("--data-dir={}", self.data().display()));
        for (flag, name) in [("run-dir", "run"), ("log-dir", "logs")] {
            command.arg(format!("--{flag}={}", self.path(name).display()));
        }
        command.arg(format!("--cgroup-root={}", self.mark));
        command.arg(format!("--kubeconfig={}", self.kubeconfig().display()));
        command
    }

    /// What the machine carries of this node now.
    pub fn census(&self) -> Census {
        Census::take(&self.mark, Some(&self.ns))
    }

    /// What pods use on this machine, in numbers that do not depend on which pods they were.
    pub fn footprint(&self) -> BTreeMap<&'static str, usize> {
        let entries = |name: &str| std::fs::read_dir(self.path(name)).map_or(0, Iterator::count);
        let census = self.census();
        let is_pod = |path: &&String| path.rsplit('/').next().is_some_and(|n| n.starts_with("pod"));
        BTreeMap::from([
            ("sandbox records", entries("data/containers/sandboxes")),
            ("sandbox sockets", entries("run/sandboxes")),
            ("pod directories", entries("data/pods")),
            ("log directories", entries("logs")),
            ("log links", entries("containers")),
            ("unfinished images", entries("data/images/incoming")),
            ("pod cgroups", census.cgroups.iter().filter(is_pod).count()),
            ("shims", census.processes.iter().filter(|p| p.contains("coracle shim")).count()),
            ("overlays", census.mounts.iter().filter(|m| m.contains(" - overlay ")).count()),
            ("tmpfs", census.mounts.iter().filter(|m| m.contains(" - tmpfs ")).count()),
        ])
    }

    /// Starts `coracle up` and kills it after that time, ready or not.
    pub fn up_for(&mut self, time: Duration) {
        let mut child = self.spawn(&self.path("nobody-listens"));
        std::thread::sleep(time);
        child.kill().unwrap();
        child.wait().unwrap();
    }

    fn spawn(&self, notify: &Path) -> Child {
        let log = File::options().create(true).append(true).open(self.path("log")).unwrap();
        let mut command = self.up_command(notify);
        if let Some((confinement, group)) = self.options.confinement.iter().zip(&self.memory).next()
        {
            command = confinement.wrap(&command, group);
        }
        command.stdin(Stdio::null());
        command.stdout(Stdio::from(log.try_clone().unwrap())).stderr(Stdio::from(log));
        command.spawn().unwrap()
    }

    /// `coracle up` as this node starts it; it reports to the socket `notify`.
    pub fn up_command(&self, notify: &Path) -> Command {
        let mut command = self.coracle(&["up"]);
        command
            .arg(format!("--node-ip={NODE_IP}"))
            .args(["--node-name=node"])
            .arg(format!("--resolv-conf={}", self.path("resolv.conf").display()))
            .args(&self.options.arguments)
            .env("NOTIFY_SOCKET", notify)
            .env("RUST_LOG", std::env::var("RUST_LOG").unwrap_or_else(|_| "info".into()))
            .stdin(Stdio::null());
        if self.options.without_certificates {
            command.env("SSL_CERT_FILE", "/nonexistent").env("SSL_CERT_DIR", "/nonexistent");
        }
        command
    }

    /// Starts `coracle up` and waits until it reports that it is ready.
    pub fn up(&mut self) {
        if let Err(said) = self.try_up() {
            panic!("{said}");
        }
    }

    /// Starts `coracle up` and waits until it reports that it is ready, or gives up and says why.
    pub fn try_up(&mut self) -> Result<(), String> {
        let socket_path = self.path("notify");
        let _ = std::fs::remove_file(&socket_path);
        let socket = UnixDatagram::bind(&socket_path).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        let mut child = self.spawn(&socket_path);
        let mut buffer = [0; 256];
        for _ in 0..60 {
            if let Ok(n) = socket.recv(&mut buffer)
                && buffer[..n].starts_with(b"READY=1")
            {
                self.child = Some(child);
                return Ok(());
            }
            if let Some(status) = child.try_wait().unwrap() {
                return Err(format!("coracle up ended with {status}:\n{}", self.log()));
            }
        }
        let _ = child.kill();
        let _ = child.wait();
        panic!("coracle up did not become ready:\n{}", self.log());
    }

    /// What the node printed.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// The process of `coracle up` (nsenter executes it in place).
    pub fn pid(&self) -> u32 {
        self.child.as_ref().map(Child::id).expect("the node runs")
    }

    /// `kill -9`: the agent is gone at once, the pods go on.
    pub fn kill_agent(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// SIGTERM and the wait for the end; pods go on.
    pub fn stop_agent(&mut self) {
        if let Some(mut child) = self.child.take() {
            kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM).unwrap();
            let status =
                crate::eventually(20, "coracle ends on SIGTERM", || child.try_wait().unwrap());
            assert!(status.success(), "coracle up ended with {status}:\n{}", self.log());
        }
    }

    /// A kubectl of one version, or `None` where it is not on the machine.
    pub fn kubectl(&self, version: &str) -> Option<Kubectl> {
        let binary = Kubectl::binary(version)?;
        Some(Kubectl::new(version, binary, &self.kubeconfig(), self.dir.path(), &self.ns.path()))
    }

    /// The same in a namespace that is made for it; a version that is missing is a skip.
    pub fn kubectl_in_own_namespace(&self, version: &str) -> Option<Kubectl> {
        let Some(kubectl) = self.kubectl(version) else {
            Kubectl::skip(version);
            return None;
        };
        let namespace = format!("v{}", version.replace('.', "-"));
        kubectl.ok(&["create", "namespace", &namespace]);
        Some(kubectl.in_namespace(&namespace))
    }

    /// The oldest client and a new one, each in a namespace of its own: for what takes so long that
    /// both have to wait at once. One that is missing is left out and reported.
    pub fn old_and_new_kubectl(&self) -> Vec<Kubectl> {
        let versions = crate::kubectl::OLD_AND_NEW.iter();
        let clients = versions.filter_map(|version| self.kubectl_in_own_namespace(version));
        let clients: Vec<Kubectl> = clients.collect();
        assert!(!clients.is_empty(), "there is no kubectl in build/kubectl (make kubectl)");
        clients
    }

    /// The newest of the kubectls that are always tested first.
    pub fn any_kubectl(&self) -> Kubectl {
        ["1.33", "1.32", "1.31", "1.30", "1.27", "1.20"]
            .iter()
            .find_map(|version| self.kubectl(version))
            .expect("make test provides some kubectl")
    }

    /// Resets the node and returns what is left behind (empty differences expected).
    pub fn reset(&mut self) {
        self.stop_agent();
        let output = self.coracle(&["reset", "--yes"]).output().unwrap();
        assert!(
            output.status.success(),
            "reset: {}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        // Shims that were told to end may still be on their way out.
        let mut after = self.census();
        for _ in 0..50 {
            if after == self.before {
                break;
            }
            std::thread::sleep(Duration::from_millis(100));
            after = self.census();
        }
        assert_eq!(self.before, after, "reset left something behind");
        for path in [self.data(), self.path("run"), self.path("kubeconfig")] {
            assert!(!path.exists(), "reset left {} behind", path.display());
        }
        let logs = self.path("logs");
        assert!(is_empty(&logs), "reset left logs behind");
    }
}

fn make_disk(path: &Path, size: &str) {
    nix::sched::unshare(CloneFlags::CLONE_NEWNS).unwrap();
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
    std::fs::create_dir(path).unwrap();
    let size = format!("size={size}");
    mount(Some("disk"), path, Some("tmpfs"), MsFlags::empty(), Some(size.as_str())).unwrap();
}

fn is_empty(dir: &Path) -> bool {
    std::fs::read_dir(dir).map_or(true, |mut entries| entries.next().is_none())
}

impl Drop for Node {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let tail: Vec<&str> = log.lines().rev().take(60).collect();
            eprintln!("--- the node's last words");
            for line in tail.iter().rev() {
                eprintln!("{line}");
            }
            self.kill_agent();
            let _ = self.coracle(&["reset", "--yes"]).output();
        } else {
            self.reset();
        }
        if self.options.disk.is_some() {
            // It would go with its namespace, but the directory cannot be removed before.
            let _ = umount2(&self.path("disk"), MntFlags::MNT_DETACH);
        }
    }
}
