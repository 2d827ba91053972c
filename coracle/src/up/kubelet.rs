//! Starts the kubelet.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use agent::pressure::threshold::{ENOUGH_BYTES, Threshold};
use agent::{Agent, AgentConfig, Registries};
use apiserver::stream_proxy::{AsyncReadWrite, NodeDialer};
use apiserver::{ApiServer, Guarded};
use futures::future::BoxFuture;
use netproxy::PodNetwork;
use netproxy::proxy::Withdrawals;
use runtime::Runtime;
use runtime::image::ImageStore;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use super::{Launch, resolv_conf, until_cancelled};
use crate::in_process::component;
use crate::{Failure, registries};

/// Bytes that may wait between the apiserver and the kubelet, per connection and direction.
const PIPE_BYTES: usize = 64 << 10;
/// Images are removed from a disk that is fuller than this.
const IMAGE_GC_HIGH_PERCENT: u8 = 85;

/// The kubelet, and the apiserver's way to it: a pipe in this process.
pub(super) async fn start(
    launch: &Launch<'_>,
    server: &Arc<ApiServer>,
    (network, withdrawals): (PodNetwork, Withdrawals),
) -> Result<(), Failure> {
    let (options, paths, facts) = (launch.options, launch.paths, &launch.facts);
    let runtime = Runtime::open(paths.runtime(&options.dirs.cgroup_root))?;
    let images = ImageStore::open(&paths.images())?.sparing_containers(&paths.containers());
    let node_user = component(&format!("system:node:{}", facts.name), &["system:nodes"]);
    let container_logs = options.dirs.log_dir.parent().unwrap_or(Path::new("/")).join("containers");
    let (mirrors, plain_http) =
        registries::resolve(&options.registry_mirror, &options.plain_http_registry);
    let config = AgentConfig {
        registries: Registries { mirrors, plain_http, ..Registries::default() },
        memory_bytes: crate::memory_limit::bytes().unwrap_or(0),
        node_ips: vec![facts.ip],
        pod_log_dir: options.dirs.log_dir.clone(),
        cgroup_root: options.dirs.cgroup_root.clone(),
        container_log_dir: container_logs,
        cluster_dns: vec![facts.dns_ip.into()],
        cluster_domain: options.cluster_domain.clone(),
        host_resolv_conf: resolv_conf(options),
        reported_version: options.report_version.clone(),
        eviction_hard: match &options.eviction_hard {
            Some(texts) => thresholds(texts)?,
            None => Threshold::usual(),
        },
        eviction_transition: Duration::from_secs(options.eviction_pressure_transition_period),
        image_gc_high_percent: options.image_gc_high_threshold.unwrap_or(IMAGE_GC_HIGH_PERCENT),
        image_gc_enough_bytes: match options.image_gc_high_threshold {
            Some(_) => u64::MAX,
            None => ENOUGH_BYTES,
        },
        image_gc_low_percent: options.image_gc_low_threshold,
        image_gc_min_age: Duration::from_secs(options.image_gc_minimum_age),
        log_max_bytes: super::size(&options.container_log_max_size)?,
        log_max_files: options.container_log_max_files,
        not_ready: launch.parts.not_ready(),
        ..AgentConfig::new(&facts.name, &paths.data_dir)
    };
    let client = launch.client(server, node_user);
    let agent = Agent::start(config, client, runtime, images, network, withdrawals).await?;
    let dialer = PipeDialer { agent: agent.clone(), threads: Handle::current() };
    server.set_node_dialer(Arc::new(dialer));
    for (name, run) in agent.parts() {
        let token = launch.token.clone();
        launch.start(name, move || {
            let (token, run) = (token.clone(), run());
            async move { until_cancelled(&token, run).await }
        });
    }
    let token = launch.token.clone();
    launch.tasks.spawn(async move {
        token.cancelled().await;
        agent.close();
    });
    Ok(())
}

fn thresholds(texts: &[String]) -> Result<Vec<Threshold>, Failure> {
    let texts = texts.iter().filter(|text| !text.is_empty());
    Ok(texts.map(|text| text.parse()).collect::<Result<_, _>>()?)
}

/// Connects the apiserver to the kubelet of the same process.
struct PipeDialer {
    agent: Agent,
    /// Those of the agent: it serves its end of the pipe there.
    threads: Handle,
}

impl NodeDialer for PipeDialer {
    fn dial(&self, _node: &str) -> BoxFuture<'static, io::Result<Box<dyn AsyncReadWrite>>> {
        let (near, far) = tokio::io::duplex(PIPE_BYTES);
        let (agent, gone) = (self.agent.clone(), CancellationToken::new());
        // The kubelet learns at once when the apiserver drops its end, also while the kubelet waits
        // for something else than the pipe.
        let near = Guarded::new(near, gone.clone().drop_guard());
        self.threads.spawn(async move { agent.serve(far, gone).await });
        Box::pin(async move { Ok(Box::new(near) as Box<dyn AsyncReadWrite>) })
    }
}
