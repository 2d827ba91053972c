//! DNS answers per second of processor time, beside unbound's where it is installed.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::manifests::service;
use crate::process::Process;
use crate::report::Report;
use crate::services::SERVICES;
use crate::world::{World, text};

/// A name that both servers know.
const NAME: &str = "asked.default.svc.cluster.local";
/// Queries in flight.
const WINDOW: u16 = 64;
const DURATION: Duration = Duration::from_secs(4);
const BUDGET_RATIO: f64 = 1.3;
/// What unbound answers per processor second on a machine like those the budgets are for.
const UNBOUND_ELSEWHERE: f64 = 141_000.0;
const UNBOUND_PORT: u16 = 5353;

pub async fn measure(world: &World, report: &mut Report) {
    let mut api = world.connect().await;
    let created = api.create(SERVICES, &service("asked")).await;
    let address: Ipv4Addr = text(&created["spec"]["clusterIP"]).parse().unwrap();
    let server = api.get("/api/v1/namespaces/kube-system/services/kube-dns").await;
    let ip: Ipv4Addr = text(&server["spec"]["clusterIP"]).parse().unwrap();
    let ours = rate(SocketAddr::new(ip.into(), 53), address, world.agent);
    let what = "DNS answers per processor second";
    match Unbound::start(address) {
        Some(unbound) => {
            let server = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), UNBOUND_PORT);
            let theirs = rate(server, address, Process(unbound.child.id()));
            report.note(what, ours, "/s");
            report.note("… of unbound", theirs, "/s");
            report.at_least("… coracle / unbound", ours / theirs, BUDGET_RATIO, "×");
        }
        None => report.at_least(what, ours, BUDGET_RATIO * UNBOUND_ELSEWHERE, "/s"),
    }
}

/// Keeps `server` busy and returns its answers per second of `process`'s processor time.
fn rate(server: SocketAddr, expected: Ipv4Addr, process: Process) -> f64 {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let mut buffer = [0; 512];
    let asked = Instant::now();
    // A new name takes a moment until it is known.
    loop {
        socket.send_to(&query(0), server).unwrap();
        if let Ok((n, _)) = socket.recv_from(&mut buffer)
            && buffer[..n].ends_with(&expected.octets())
        {
            break;
        }
        assert!(asked.elapsed() < Duration::from_secs(10), "{server} does not know {NAME}");
        std::thread::sleep(Duration::from_millis(20));
    }
    // Every answer is followed by the next query, so that the window stays full.
    for id in 0..WINDOW {
        socket.send_to(&query(id), server).unwrap();
    }
    let (before, start) = (process.cpu(), Instant::now());
    let mut answers = 0_u32;
    while start.elapsed() < DURATION {
        match socket.recv_from(&mut buffer) {
            Ok((n, _)) if buffer[..n].ends_with(&expected.octets()) => answers += 1,
            Ok((n, _)) => panic!("{server} answered {:?}", &buffer[..n]),
            // Lost in a full buffer: ask again.
            Err(_) => {}
        }
        socket.send_to(&query(answers as u16), server).unwrap();
    }
    f64::from(answers) / (process.cpu() - before).as_secs_f64()
}

/// An A query (RFC 1035, section 4.1).
fn query(id: u16) -> Vec<u8> {
    let mut message = id.to_be_bytes().to_vec();
    message.extend([0x01, 0x00, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in NAME.split('.') {
        message.push(label.len() as u8);
        message.extend(label.as_bytes());
    }
    message.extend([0, 0, 1, 0, 1]);
    message
}

/// An unbound that knows the one name.
struct Unbound {
    child: Child,
    _dir: tempfile::TempDir,
}

impl Unbound {
    /// `None` where unbound is not installed.
    fn start(address: Ipv4Addr) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let configuration = dir.path().join("unbound.conf");
        let text = format!(
            "server:\n  interface: 127.0.0.1\n  port: {UNBOUND_PORT}\n  do-daemonize: no\n  \
             username: \"\"\n  chroot: \"\"\n  directory: \"{}\"\n  pidfile: \"\"\n  \
             use-syslog: no\n  verbosity: 0\n  num-threads: 1\n  \
             local-zone: \"cluster.local.\" static\n  local-data: \"{NAME}. 30 IN A {address}\"\n\
             remote-control:\n  control-enable: no\n",
            dir.path().display()
        );
        std::fs::write(&configuration, text).unwrap();
        let child = Command::new("/usr/sbin/unbound")
            .arg("-d")
            .arg("-c")
            .arg(&configuration)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        Some(Self { child, _dir: dir })
    }
}

impl Drop for Unbound {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
