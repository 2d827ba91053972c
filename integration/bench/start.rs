//! From the start of the process to a node that is Ready and a default ServiceAccount.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use coracle_integration::{Node, NodeOptions};

use crate::manifests::condition;
use crate::report::{Report, Times};
use coracle_integration::client::Endpoint;

/// How often a node is started for the first time and once more.
const ROUNDS: usize = 5;
/// How long a start may take before the measurement counts as failed.
const PATIENCE: Duration = Duration::from_secs(30);
const FIRST_BUDGET_MS: f64 = 500.0;
const WARM_BUDGET_MS: f64 = 200.0;

pub fn measure(report: &mut Report) {
    let mut node = Node::prepare(NodeOptions { without_images: true, ..NodeOptions::default() });
    let (mut first, mut warm) = (Times::default(), Times::default());
    for _ in 0..ROUNDS {
        first.add(start(&mut node));
        node.stop_agent();
        warm.add(start(&mut node));
        node.reset();
    }
    report.times("process start → Ready, first", &first, FIRST_BUDGET_MS, None);
    report.times("process start → Ready, warm", &warm, WARM_BUDGET_MS, None);
}

/// Starts the node while a client asks as fast as it can.
fn start(node: &mut Node) -> Duration {
    let kubeconfig = node.kubeconfig();
    let namespace = std::fs::File::open(node.ns.path()).unwrap();
    let start = Instant::now();
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| {
            nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap()
                .block_on(ready(kubeconfig))
        });
        node.up();
        asking.join().unwrap() - start
    })
}

async fn ready(kubeconfig: PathBuf) -> Instant {
    const PAUSE: Duration = Duration::from_millis(2);
    let asking = async {
        let mut api = loop {
            if let Some(endpoint) = Endpoint::read(&kubeconfig)
                && let Some(api) = endpoint.try_connect().await
            {
                break api;
            }
            tokio::time::sleep(PAUSE).await;
        };
        loop {
            let node = api.find("/api/v1/nodes/node").await;
            let account = api.find("/api/v1/namespaces/default/serviceaccounts/default").await;
            if account.is_some() && node.is_some_and(|node| condition(&node, "Ready")) {
                return Instant::now();
            }
            tokio::time::sleep(PAUSE).await;
        }
    };
    tokio::time::timeout(PATIENCE, asking).await.expect("the node becomes Ready")
}
