//! A node of its own for each kernel test: network and mount namespaces that end with the test.
#![allow(clippy::unwrap_used, dead_code, missing_docs)]

use std::collections::HashSet;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use coracle_netproxy::proxy::{Proxy, ProxyConfig};
use coracle_netproxy::{AttachRequest, HostPort, NetworkConfig, PodLink, PodNetwork};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use serde_json::{Value, json};

#[path = "../../../integration/src/skip.rs"]
pub mod skip;

pub const NODE_IP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
pub const CLIENT_IP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
pub const DNS_IP: Ipv4Addr = Ipv4Addr::new(10, 47, 240, 10);
/// The port of the tests' API.
pub const API_PORT: u16 = 6443;

fn api() -> Vec<SocketAddr> {
    [Ipv4Addr::LOCALHOST, NODE_IP].map(|address| SocketAddr::from((address, API_PORT))).to_vec()
}

/// Longer than the first retransmission: on a busy machine a packet may get lost.
const WAIT: Duration = Duration::from_millis(2500);

/// Runs the test in fresh namespaces; says why when it cannot.
pub fn on_a_node<F: Future<Output = ()>>(test: impl FnOnce(Node) -> F + Send + 'static) {
    if !skip::is_root("a network namespace") {
        return;
    }
    let thread = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).unwrap();
        let none: Option<&str> = None;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
        mount(Some("sysfs"), "/sys", Some("sysfs"), MsFlags::empty(), none).unwrap();
        ip("link set lo up");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let directory = std::env::temp_dir().join(format!(
            "coracle-netproxy-{}-{:?}",
            std::process::id(),
            std::thread::current().id()
        ));
        std::fs::create_dir_all(&directory).unwrap();
        runtime.block_on(test(Node { run_dir: directory.clone() }));
        drop(runtime);
        // Pins that a test left are mounts of this thread's namespace only.
        for entry in std::fs::read_dir(directory.join("netns")).into_iter().flatten().flatten() {
            let _ = nix::mount::umount2(&entry.path(), nix::mount::MntFlags::MNT_DETACH);
        }
        let _ = nix::mount::umount2(&directory.join("outside"), nix::mount::MntFlags::MNT_DETACH);
        std::fs::remove_dir_all(&directory).unwrap();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Runs `ip` with these arguments in the current namespace.
pub fn ip(arguments: &str) -> String {
    run("ip", arguments)
}

pub fn run(program: &str, arguments: &str) -> String {
    let output = Command::new(program).args(arguments.split_whitespace()).output().unwrap();
    assert!(
        output.status.success(),
        "{program} {arguments}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

pub struct Node {
    pub run_dir: PathBuf,
}

impl Node {
    pub fn config(&self) -> NetworkConfig {
        let mut config = NetworkConfig::new(
            "10.44.0.0/16".parse().unwrap(),
            "10.47.240.0/20".parse().unwrap(),
            self.run_dir.clone(),
        );
        config.dns_ip = Some(DNS_IP);
        config.api = api();
        config
    }

    pub async fn network(&self) -> PodNetwork {
        PodNetwork::start(self.config()).await.unwrap()
    }

    pub fn proxy(&self) -> Proxy {
        Proxy::open(ProxyConfig {
            node_name: "node".into(),
            pod_cidrs: vec!["10.44.0.0/16".parse().unwrap()],
            service_cidrs: vec!["10.47.240.0/20".parse().unwrap()],
            dns_ip: Some(DNS_IP),
            api: api(),
        })
        .unwrap()
    }

    /// A machine outside, connected to the node by a cable.
    pub fn outside(&self) -> Place {
        let path = self.run_dir.join("outside");
        File::create(&path).unwrap();
        let pin = path.clone();
        std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            let none: Option<&str> = None;
            mount(Some("/proc/thread-self/ns/net"), &pin, none, MsFlags::MS_BIND, none).unwrap();
        })
        .join()
        .unwrap();
        ip("link add uplink type veth peer name cable");
        let place = Place { netns: Some(path.clone()) };
        let target = path.display();
        let output = Command::new("nsenter")
            .args([&format!("--net={target}"), "sleep", "30"])
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(50));
        ip(&format!("link set cable netns {}", output.id()));
        let mut output = output;
        output.kill().unwrap();
        output.wait().unwrap();
        ip(&format!("addr add {NODE_IP}/24 dev uplink"));
        ip("link set uplink up");
        place.run(|| {
            ip("link set lo up");
            ip(&format!("addr add {CLIENT_IP}/24 dev cable"));
            ip("link set cable up");
            // Service ranges are not routed here in life; the tests need to see them refused.
            ip(&format!("route add 10.0.0.0/8 via {NODE_IP}"));
        });
        place
    }
}

/// What the kernel holds in the current namespace: to compare before and after.
pub fn census(run_dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for command in ["link show", "addr show", "route show table all", "rule show", "neigh show"] {
        found.extend(ip(command).lines().map(str::to_owned));
    }
    found.extend(run("nft", "list ruleset").lines().map(str::to_owned));
    found.push(std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap());
    let mounts = std::fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
    let run_dir = run_dir.display().to_string();
    found.extend(mounts.lines().filter(|line| line.contains(&run_dir)).map(str::to_owned));
    found
}

/// The node itself, a pod, or a machine outside.
#[derive(Clone)]
pub struct Place {
    pub netns: Option<PathBuf>,
}

pub const NODE: Place = Place { netns: None };

impl Place {
    /// Runs code there.
    pub fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let netns = self.netns.clone();
        std::thread::spawn(move || {
            if let Some(path) = netns {
                setns(File::open(path).unwrap(), CloneFlags::CLONE_NEWNET).unwrap();
            }
            work()
        })
        .join()
        .unwrap()
    }

    /// Serves TCP and UDP: says its name and whom it sees.
    pub fn serve(&self, port: u16, name: &'static str) {
        self.serve_on(Ipv4Addr::UNSPECIFIED, port, name);
    }

    pub fn serve_on(&self, address: Ipv4Addr, port: u16, name: &'static str) {
        let (tcp, udp) = self.run(move || {
            let any = (address, port);
            (TcpListener::bind(any).unwrap(), UdpSocket::bind(any).unwrap())
        });
        std::thread::spawn(move || {
            for stream in tcp.incoming() {
                let mut stream = stream.unwrap();
                std::thread::spawn(move || {
                    let peer = stream.peer_addr().unwrap().ip();
                    let mut byte = [0];
                    while let Ok(1) = stream.read(&mut byte) {
                        if stream.write_all(format!("{name} {peer}\n").as_bytes()).is_err() {
                            break;
                        }
                    }
                });
            }
        });
        std::thread::spawn(move || {
            let mut buffer = [0; 16];
            while let Ok((_, peer)) = udp.recv_from(&mut buffer) {
                let _ = udp.send_to(format!("{name} {}", peer.ip()).as_bytes(), peer);
            }
        });
    }

    /// Connects and asks once: `name address`, or the kind of error.
    pub fn ask(&self, address: impl Into<IpAddr>, port: u16) -> String {
        let target = SocketAddr::new(address.into(), port);
        self.run(move || match TcpStream::connect_timeout(&target, WAIT) {
            Ok(mut stream) => ask_on(&mut stream),
            Err(error) => format!("{:?}", error.kind()),
        })
    }

    pub fn connect(&self, address: impl Into<IpAddr>, port: u16) -> TcpStream {
        let target = SocketAddr::new(address.into(), port);
        self.run(move || TcpStream::connect_timeout(&target, WAIT).unwrap())
    }

    pub fn udp(&self) -> UdpSocket {
        self.run(|| {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            socket.set_read_timeout(Some(WAIT)).unwrap();
            socket
        })
    }

    pub fn ask_udp(&self, address: impl Into<IpAddr>, port: u16) -> String {
        ask_udp_on(&self.udp(), SocketAddr::new(address.into(), port))
    }
}

pub fn ask_on(stream: &mut TcpStream) -> String {
    stream.set_read_timeout(Some(WAIT)).unwrap();
    if let Err(error) = stream.write_all(b"x") {
        return format!("{:?}", error.kind());
    }
    let mut buffer = [0; 64];
    match stream.read(&mut buffer) {
        Ok(length) => String::from_utf8_lossy(&buffer[..length]).trim().to_owned(),
        Err(error) => format!("{:?}", error.kind()),
    }
}

pub fn ask_udp_on(socket: &UdpSocket, target: SocketAddr) -> String {
    socket.connect(target).unwrap();
    let mut buffer = [0; 64];
    match socket.send(b"x").and_then(|_| socket.recv(&mut buffer)) {
        Ok(length) => String::from_utf8_lossy(&buffer[..length]).into_owned(),
        Err(error) => format!("{:?}", error.kind()),
    }
}

pub async fn pod(network: &PodNetwork, uid: &str) -> (PodLink, Place) {
    pod_with(network, uid, vec![]).await
}

pub async fn pod_with(
    network: &PodNetwork,
    uid: &str,
    host_ports: Vec<HostPort>,
) -> (PodLink, Place) {
    let request = AttachRequest { uid: uid.into(), host_ports };
    let link = network.attach(&request).await.unwrap();
    let place = Place { netns: Some(link.netns.clone()) };
    (link, place)
}

/// A Service with one port 80 and whatever `spec` adds.
pub fn service(name: &str, cluster_ip: &str, spec: Value) -> Service {
    let mut object = json!({
        "metadata": {"name": name, "namespace": "default", "uid": name},
        "spec": {"clusterIP": cluster_ip, "clusterIPs": [cluster_ip], "type": "ClusterIP",
                 "ports": [{"port": 80, "protocol": "TCP"}]},
    });
    merge(&mut object["spec"], &spec);
    if let Some(status) = spec.get("status") {
        object["status"] = status.clone();
        object["spec"].as_object_mut().unwrap().remove("status");
    }
    serde_json::from_value(object).unwrap()
}

pub fn merge(into: &mut Value, from: &Value) {
    for (key, value) in from.as_object().unwrap() {
        into[key] = value.clone();
    }
}

/// A slice of a Service: `(address, ready)` on this node, all on one port.
pub fn slice(
    service: &str,
    protocol: &str,
    port: u16,
    endpoints: &[(IpAddr, bool)],
) -> EndpointSlice {
    let endpoints: Vec<Value> = endpoints
        .iter()
        .map(|(address, ready)| {
            json!({"addresses": [address.to_string()], "nodeName": "node",
                   "conditions": {"ready": ready, "serving": ready, "terminating": !ready}})
        })
        .collect();
    serde_json::from_value(json!({
        "metadata": {"name": format!("{service}-1"), "namespace": "default",
                     "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4",
        "ports": [{"port": port, "protocol": protocol}],
        "endpoints": endpoints,
    }))
    .unwrap()
}

/// How often each answer came.
pub fn answers(times: usize, ask: impl Fn() -> String) -> HashSet<String> {
    (0..times).map(|_| ask()).collect()
}
