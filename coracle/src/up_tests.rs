//! The network's parts against the real API server: DNS and Service rules follow what is written,
//! as the users that `up` makes them. No pods; a network namespace of its own (root).
#![allow(clippy::unwrap_used)]

use std::io::{self, Read};
use std::net::TcpStream;
use std::process::Command;
use std::time::Instant;

use apiserver::stream_proxy::{AsyncReadWrite, NodeDialer};
use clap::Parser;
use futures::FutureExt;
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{DeleteParams, PostParams};
use serde_json::json;

use super::*;

#[path = "../../integration/src/skip.rs"]
mod skip;

const NODE: &str = "192.0.2.10";
const DNS: &str = "10.47.240.10:53";
/// Longest that anything here may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    up: UpOptions,
}

fn options(dir: &Path) -> UpOptions {
    let path = |flag: &str, name: &str| format!("--{flag}={}", dir.join(name).display());
    let line = [
        "up".to_owned(),
        path("data-dir", "data"),
        path("run-dir", "run"),
        path("log-dir", "logs"),
        path("kubeconfig", "kubeconfig"),
        path("resolv-conf", "resolv.conf"),
        format!("--node-ip={NODE}"),
        "--node-name=node".to_owned(),
    ];
    Line::parse_from(line).up
}

/// Prepares to start parts whose API runs on the threads of `api`.
fn launch<'a>(options: &'a UpOptions, paths: &'a Paths, api: Handle) -> Launch<'a> {
    paths.create().unwrap();
    Launch {
        options,
        paths,
        facts: facts(options).unwrap(),
        api,
        token: CancellationToken::new(),
        tasks: TaskTracker::new(),
        parts: Parts::new(),
    }
}

/// Starts the API server.
async fn serve(launch: &Launch<'_>) -> Arc<ApiServer> {
    let addresses = vec![launch.facts.ip];
    let names = ServingNames { addresses, names: Vec::new(), cluster_domain: "c".into() };
    let pki = Pki::open(&launch.paths.pki(), &names, Arc::new(SystemTime::now)).unwrap();
    api_server(launch, &pki).await.unwrap()
}

async fn until<T>(what: &str, mut holds: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = holds().await {
            return value;
        }
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// The response code and the last four bytes of an answer to `name IN A`.
async fn ask(name: &str) -> Option<(u8, [u8; 4])> {
    let mut query = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        query.push(label.len() as u8);
        query.extend(label.as_bytes());
    }
    query.extend([0, 0, 1, 0, 1]);
    let socket = tokio::net::UdpSocket::bind("0.0.0.0:0").await.ok()?;
    socket.connect(DNS).await.ok()?;
    socket.send(&query).await.ok()?;
    let mut answer = [0; 512];
    let received = tokio::time::timeout(Duration::from_secs(1), socket.recv(&mut answer)).await;
    let length = received.ok()?.ok()?;
    Some((answer[3] & 15, answer[length - 4..length].try_into().unwrap()))
}

/// What a connection to an address is told.
async fn told(address: &str) -> Option<String> {
    let address = address.parse().ok()?;
    let asked = tokio::task::spawn_blocking(move || {
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(2)).ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        Some(text)
    });
    asked.await.unwrap()
}

/// Serves its port number to whoever connects.
async fn endpoint() -> u16 {
    let listener = TcpListener::bind((NODE, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            use tokio::io::AsyncWriteExt;
            // A client that is gone already asks again.
            let _ = stream.write_all(port.to_string().as_bytes()).await;
        }
    });
    port
}

fn slice(name: &str, port: u16) -> EndpointSlice {
    serde_json::from_value(json!({
        "metadata": {"name": name, "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": [NODE], "conditions": {"ready": true}}],
        "ports": [{"name": "", "protocol": "TCP", "port": port}],
    }))
    .unwrap()
}

async fn names_and_rules_follow_the_api() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("resolv.conf"), "").unwrap();
    let options = options(dir.path());
    let paths = Paths::new(&options.dirs);
    let launch = launch(&options, &paths, Handle::current());
    let server = serve(&launch).await;
    let network = start_network(&launch, &server).await.unwrap();

    let admin = launch.client(&server, component("kubernetes-admin", &["system:masters"]));
    let services = Api::<Service>::namespaced(admin.clone(), "default");
    let slices = Api::<EndpointSlice>::namespaced(admin, "default");
    let full = "web.default.svc.cluster.local";
    until("the server answers", async || ask(full).await.filter(|(code, _)| *code == 3)).await;

    let (first, second) = (endpoint().await, endpoint().await);
    let post = PostParams::default();
    slices.create(&post, &slice("web-1", first)).await.unwrap();
    let service = json!({"metadata": {"name": "web"}, "spec": {"ports": [{"port": 80}]}});
    let made = services.create(&post, &serde_json::from_value(service).unwrap()).await.unwrap();
    let address: Ipv4Addr = made.spec.unwrap().cluster_ip.unwrap().parse().unwrap();
    let known = (0, address.octets());
    until("the name is known", async || ask(full).await.filter(|answer| *answer == known)).await;
    let at = format!("{address}:80");
    let says = async |port: u16| told(&at).await.filter(|text| *text == port.to_string());
    until("the rules lead to the endpoint", async || says(first).await).await;

    slices.create(&post, &slice("web-2", second)).await.unwrap();
    slices.delete("web-1", &DeleteParams::default()).await.unwrap();
    until("they lead to the other one", async || says(second).await).await;
    assert!(says(first).await.is_none());

    services.delete("web", &DeleteParams::default()).await.unwrap();
    until("the name is gone", async || ask(full).await.filter(|(code, _)| *code == 3)).await;
    until("the rules are gone", async || told(&at).await.is_none().then_some(())).await;

    launch.token.cancel();
    launch.tasks.close();
    launch.tasks.wait().await;
    network.0.teardown().await.unwrap();
    server.store().close();
}

#[test]
fn the_network_follows_the_api() {
    if !skip::is_root("a network namespace") {
        return;
    }
    let inside = std::thread::spawn(|| {
        // Threads and processes that this one starts are inside too.
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        for line in [
            "link set lo up",
            "link add up0 type veth peer name up1",
            "address add 192.0.2.10/24 dev up0",
            "link set up0 up",
            "link set up1 up",
        ] {
            assert!(Command::new("ip").args(line.split(' ')).status().unwrap().success(), "{line}");
        }
        threads("node", 2, 8).build().unwrap().block_on(names_and_rules_follow_the_api());
    });
    inside.join().expect("the test passes inside");
}

/// Waits a moment, notes the name of the thread that it goes on on, and reaches no node.
#[derive(Default)]
struct ThreadName(Arc<std::sync::Mutex<Option<String>>>);

impl NodeDialer for ThreadName {
    fn dial(&self, _: &str) -> BoxFuture<'static, io::Result<Box<dyn AsyncReadWrite>>> {
        let name = self.0.clone();
        async move {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            *name.lock().unwrap() = std::thread::current().name().map(ToOwned::to_owned);
            Err(io::ErrorKind::ConnectionRefused.into())
        }
        .boxed()
    }
}

#[test]
fn waiting_requests_of_the_node_run_on_api_threads() {
    let dir = tempfile::tempdir().unwrap();
    let options = options(dir.path());
    let paths = Paths::new(&options.dirs);
    let api = threads("api", 1, 1).build().unwrap();
    let node = threads("node", 1, 1).build().unwrap();
    node.block_on(async {
        let launch = launch(&options, &paths, api.handle().clone());
        let server = serve(&launch).await;
        let dialer = ThreadName::default();
        let ended_on = dialer.0.clone();
        server.set_node_dialer(Arc::new(dialer));
        let client = launch.client(&server, component("kubernetes-admin", &["system:masters"]));
        let node = serde_json::from_value(json!({"metadata": {"name": "n"}})).unwrap();
        Api::<Node>::all(client.clone()).create(&PostParams::default(), &node).await.unwrap();
        let request = http::Request::get("/api/v1/nodes/n/proxy/healthz").body(Vec::new()).unwrap();
        assert!(client.request_text(request).await.is_err());
        assert_eq!(ended_on.lock().unwrap().as_deref(), Some("api"));
        launch.token.cancel();
        server.store().close();
    });
}
