//! Network namespaces held by a process that dies with the test.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};

use nix::sched::{CloneFlags, setns};

/// A network namespace without any way out.
pub struct NetNs {
    keeper: Child,
}

impl NetNs {
    /// A new namespace with loopback up.
    pub fn new() -> Self {
        let keeper = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "unshare", "--net", "sleep", "infinity"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .expect("setpriv and unshare are installed");
        let ns = Self { keeper };
        let own = std::fs::read_link("/proc/self/ns/net").unwrap();
        crate::within(10, "a network namespace", || {
            std::fs::read_link(ns.path()).is_ok_and(|link| link != own)
                && std::fs::read_to_string(format!("/proc/{}/comm", ns.pid()))
                    .is_ok_and(|c| c.trim() == "sleep")
        });
        ns.run("ip", &["link", "set", "lo", "up"]);
        ns
    }

    pub fn pid(&self) -> u32 {
        self.keeper.id()
    }

    pub fn path(&self) -> String {
        format!("/proc/{}/ns/net", self.pid())
    }

    /// A command that will run inside. (`nsenter`, not `ip netns exec`, which hides the cgroups.)
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path())).arg("--").arg(program);
        command
    }

    /// Runs `work` on a thread inside; threads that it starts are inside too.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let namespace = std::fs::File::open(self.path()).expect("the keeper lives");
        let inside = || {
            setns(&namespace, CloneFlags::CLONE_NEWNET).expect("entering a namespace needs root");
            work()
        };
        std::thread::scope(|scope| match scope.spawn(inside).join() {
            Ok(value) => value,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    }

    /// Runs a command inside to its end and returns its standard output; panics if it fails.
    pub fn run(&self, program: &str, arguments: &[&str]) -> String {
        let output = self.command(program).args(arguments).output().unwrap();
        assert!(
            output.status.success(),
            "{program} {arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// A listener inside.
    pub fn listen(&self, address: &str) -> TcpListener {
        let path = self.path();
        let address = address.to_owned();
        // A thread may enter a namespace alone; the socket stays in it.
        let opened = std::thread::spawn(move || {
            let ns = std::fs::File::open(path).unwrap();
            nix::sched::setns(ns, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            TcpListener::bind(address).unwrap()
        });
        opened.join().unwrap()
    }

    /// Connects this namespace to another by a veth pair.
    pub fn link(
        &self,
        name: &str,
        address: &str,
        peer: &NetNs,
        peer_name: &str,
        peer_address: &str,
    ) {
        let pid = peer.pid().to_string();
        self.run(
            "ip",
            &["link", "add", name, "type", "veth", "peer", "name", peer_name, "netns", &pid],
        );
        for (ns, name, address) in [(self, name, address), (peer, peer_name, peer_address)] {
            ns.run("ip", &["address", "add", address, "dev", name]);
            // No link-local IPv6 address that appears at its own time.
            ns.run("ip", &["link", "set", name, "addrgenmode", "none"]);
            ns.run("ip", &["link", "set", name, "up"]);
        }
        // The kernel says a little later that the link is up; a census must not see both.
        for (ns, name) in [(self, name), (peer, peer_name)] {
            crate::within(10, "the link is up", || {
                ns.run("ip", &["-o", "link", "show", "dev", name]).contains("state UP")
            });
        }
    }
}

impl Default for NetNs {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for NetNs {
    fn drop(&mut self) {
        let _ = self.keeper.kill();
        let _ = self.keeper.wait();
    }
}
