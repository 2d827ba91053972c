//! What every measurement needs of the running node.

use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use coracle_integration::Node;
use coracle_integration::node::binary;
use serde_json::Value;

use crate::manifests;
use crate::process::Process;
use coracle_integration::client::{Connection, Endpoint};

/// How long something may take before its measurement counts as failed.
const PATIENCE: Duration = Duration::from_secs(30);

/// The running node as its clients see it.
pub struct World {
    pub endpoint: Endpoint,
    pub agent: Process,
    pub binary: PathBuf,
}

impl World {
    pub fn new(node: &Node) -> Self {
        Self {
            endpoint: Endpoint::read(&node.kubeconfig()).expect("the node has a kubeconfig"),
            agent: Process(node.pid()),
            binary: binary(),
        }
    }

    /// Runs a measurement on this thread alone: the other processor is the node's.
    pub fn block_on<T>(&self, measurement: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
            .block_on(measurement)
    }

    pub async fn connect(&self) -> Connection {
        self.endpoint.connect().await
    }

    /// A pod that serves HTTP, once it runs: its address.
    pub async fn web_pod(&self) -> Ipv4Addr {
        let mut api = self.connect().await;
        if api.find("/api/v1/namespaces/default/pods/web").await.is_none() {
            api.create("/api/v1/namespaces/default/pods", &manifests::web_pod()).await;
        }
        let pod = self
            .connect()
            .await
            .watch("/api/v1/namespaces/default/pods")
            .await
            .until(|_, pod| pod["metadata"]["name"] == "web" && manifests::is_ready(pod))
            .await;
        let address = text(&pod["status"]["podIP"]).parse().unwrap();
        reach(SocketAddr::new(Ipv4Addr::into(address), manifests::WEB_PORT), true);
        address
    }
}

/// The text of a JSON string, or nothing.
pub fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// Connects in a tight loop until connections are accepted (or refused); returns how long it took.
pub fn reach(address: SocketAddr, accepted: bool) -> Duration {
    let start = Instant::now();
    loop {
        let outcome = TcpStream::connect_timeout(&address, Duration::from_secs(1));
        if outcome.is_ok() == accepted {
            return start.elapsed();
        }
        assert!(start.elapsed() < PATIENCE, "{address}: not accepted={accepted} in time");
        std::thread::sleep(Duration::from_micros(100));
    }
}
