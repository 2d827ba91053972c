//! `coracle up`: every part of the node, wired together in one process.
//!
//! The parts meet in the API only: each gets a client of its own that runs straight into the
//! server (see [`crate::in_process`]), as a user whose roles say what it may do.

use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use agent::pressure::threshold::{ENOUGH_BYTES, Threshold};
use agent::{Agent, AgentConfig, Registries};
use api::quantity::Quantity;
use apiserver::security::pki::{Pki, ServingNames, merge_into};
use apiserver::security::{Security, SecurityConfig, User};
use apiserver::stream_proxy::{AsyncReadWrite, NodeDialer};
use apiserver::{ApiServer, Catalog};
use dns::DnsConfig;
use futures::future::BoxFuture;
use http_body_util::BodyExt;
use ipnet::Ipv4Net;
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::{Api, Client};
use netproxy::proxy::{ProxyConfig, Withdrawals};
use netproxy::{NetworkConfig, PodNetwork};
use runtime::Runtime;
use runtime::image::ImageStore;
use runtime::sandbox::{RuntimeConfig, shim_group};
use tokio::net::TcpListener;
use tokio::runtime::{Handle, Runtime as Threads};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::cli::UpOptions;
use crate::in_process::{client, component};
use crate::paths::Paths;
use crate::{Failure, check, manifests, notify, registries, state};

/// Threads that serve the API: connections, the handlers of all requests, watches. Nothing else runs
/// on them, so that no computation of another part can stop them.
const API_THREADS: usize = 2;
/// Threads of everything else: the agent, the controllers, the Service proxy, DNS.
const NODE_THREADS: usize = 2;
/// Threads of the API for calls that block, started on demand.
const API_BLOCKING_THREADS_MAX: usize = 64;
/// Threads of everything else for calls that block (file systems, netlink), started on demand.
const NODE_BLOCKING_THREADS_MAX: usize = 256;
/// How long calls that block may hold up the end of the process.
const BLOCKED_CALLS_TIMEOUT: Duration = Duration::from_secs(1);
/// The kernel's OOM killer takes this process last of those that it may take.
const OOM_SCORE: i32 = -999;
/// The API's port unless `--listen` says otherwise.
const API_PORT: u16 = 6443;
/// How long the parts may take to end after SIGTERM.
const END_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes that may wait between the apiserver and the kubelet, per connection and direction.
const PIPE_BYTES: usize = 64 << 10;
/// Images are removed from a disk that is fuller than this.
const IMAGE_GC_HIGH_PERCENT: u8 = 85;
/// Where DNS is served.
const DNS_PORT: u16 = 53;
/// The resolvers behind systemd-resolved's stub.
const RESOLVED_CONF: &str = "/run/systemd/resolve/resolv.conf";
/// Which of the service addresses is the DNS server's.
const DNS_ADDRESS_INDEX: u32 = 10;

/// What is logged unless `RUST_LOG` says otherwise (`target=level`, separated by commas).
const LOG_TARGETS: &str = "warn,coracle=info";

/// Runs the node until SIGTERM or SIGINT.
pub fn run(options: UpOptions) -> Result<(), Failure> {
    // A quarter less memory once there are many objects, and nothing that could be measured in time.
    runtime::use_one_arena();
    start_log();
    claim_resources();
    if let Some(obstacle) = check::first_obstacle(&options.dirs) {
        return Err(obstacle.into());
    }
    let paths = Paths::new(&options.dirs);
    paths.create()?;
    let _lock = paths.take_lock()?;
    // Another provider installed first serves as well.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let api = threads("api", API_THREADS, API_BLOCKING_THREADS_MAX)?;
    let node = threads("node", NODE_THREADS, NODE_BLOCKING_THREADS_MAX)?;
    let outcome = node.block_on(run_node(&options, &paths, api.handle()));
    // A call that hangs in the kernel (a dead network file system) does not keep the process.
    node.shutdown_timeout(BLOCKED_CALLS_TIMEOUT);
    api.shutdown_timeout(BLOCKED_CALLS_TIMEOUT);
    outcome
}

/// Starts threads of that name for asynchronous work.
fn threads(name: &str, workers: usize, blocking: usize) -> std::io::Result<Threads> {
    tokio::runtime::Builder::new_multi_thread()
        .thread_name(name)
        .worker_threads(workers)
        .max_blocking_threads(blocking)
        .enable_all()
        .build()
}

/// Asks the kernel for open files and for protection from its OOM killer. The node works without.
fn claim_resources() {
    match runtime::own_limits::raise_open_files() {
        Ok(limit) => tracing::debug!(limit, "open files"),
        Err(error) => tracing::warn!(%error, "the limit of open files cannot be raised"),
    }
    if let Err(error) = runtime::own_limits::set_oom_score(OOM_SCORE) {
        tracing::warn!(
            %error,
            "oom_score_adj cannot be set to {OOM_SCORE}: the kernel may end this process when memory runs out"
        );
    }
}

/// What every part is told about the node.
struct Facts {
    name: String,
    ip: IpAddr,
    api_port: u16,
    dns_ip: Ipv4Addr,
}

/// What starting any part needs.
struct Launch<'a> {
    options: &'a UpOptions,
    paths: &'a Paths,
    facts: Facts,
    /// The threads that serve the API; everything else runs on the caller's.
    api: Handle,
    token: CancellationToken,
    tasks: TaskTracker,
}

impl Launch<'_> {
    fn client(&self, server: &Arc<ApiServer>, user: User) -> Client {
        client(server, user, &self.api)
    }
}

async fn run_node(options: &UpOptions, paths: &Paths, api: &Handle) -> Result<(), Failure> {
    let started = std::time::Instant::now();
    let facts = facts(options)?;
    let (token, tasks) = (CancellationToken::new(), TaskTracker::new());
    let launch = Launch { options, paths, facts, api: api.clone(), token, tasks };

    let pki = Pki::open(
        &paths.pki(),
        &ServingNames {
            addresses: vec![launch.facts.ip, first_address(options.service_cidr).into()],
            names: vec![launch.facts.name.clone()],
            cluster_domain: options.cluster_domain.clone(),
        },
        Arc::new(SystemTime::now),
    )?;
    let server = api_server(&launch, &pki).await?;
    let addresses = serve(&launch, &server, &pki).await?;
    let kubeconfig = pki.admin_kubeconfig(&format!("https://{}", addresses[0]));
    kubeconfig.write(&options.dirs.kubeconfig)?;
    if let Some(path) = &options.merge_kubeconfig {
        merge_into(path, &kubeconfig)?;
    }

    let ready_client = launch.client(&server, component("system:kube-controller-manager", &[]));
    start_controllers(&launch, &server, &pki);
    if options.no_pods {
        tracing::warn!("no pods, Services or DNS (--no-pods); containers that run are left alone");
    } else {
        let network = start_network(&launch, &server).await?;
        start_agent(&launch, &server, network).await?;
    }

    wait_for_default_account(&ready_client).await?;
    if let Some(dir) = &options.manifests {
        let admin = launch.client(&server, component("kubernetes-admin", &["system:masters"]));
        manifests::apply(admin, dir).await?;
    }
    // Whoever hears that we are ready may stop us at once.
    let told_to_stop = signals()?;
    notify::notify("READY=1");
    tracing::info!(
        api = %addresses[0],
        kubeconfig = %options.dirs.kubeconfig.display(),
        milliseconds = started.elapsed().as_millis(),
        "ready"
    );

    told_to_stop.await;
    notify::notify("STOPPING=1");
    launch.token.cancel();
    launch.tasks.close();
    if tokio::time::timeout(END_TIMEOUT, launch.tasks.wait()).await.is_err() {
        tracing::warn!("some parts did not end in time");
    }
    server.store().close();
    Ok(())
}

fn facts(options: &UpOptions) -> Result<Facts, Failure> {
    let name = match &options.node_name {
        Some(name) => name.clone(),
        None => nix::unistd::gethostname()?.to_string_lossy().to_lowercase(),
    };
    let ip = match options.node_ip {
        Some(ip) => ip,
        None => outgoing_address()
            .ok_or("this machine has no address with a route; tell one with --node-ip")?,
    };
    let api_port = options.listen.first().map_or(API_PORT, SocketAddr::port);
    let dns_ip = nth_address(options.service_cidr, DNS_ADDRESS_INDEX);
    Ok(Facts { name, ip, api_port, dns_ip })
}

/// The source address that the default route gives; nothing is sent.
fn outgoing_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    // TEST-NET-3 (RFC 5737): any address behind the default route will do.
    socket.connect("203.0.113.1:9").ok()?;
    Some(socket.local_addr().ok()?.ip()).filter(|ip| !ip.is_unspecified())
}

fn nth_address(cidr: Ipv4Net, n: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(cidr.network()) + n)
}

fn first_address(cidr: Ipv4Net) -> Ipv4Addr {
    nth_address(cidr, 1)
}

async fn api_server(launch: &Launch<'_>, pki: &Pki) -> Result<Arc<ApiServer>, Failure> {
    let (options, facts) = (launch.options, &launch.facts);
    let catalog = Arc::new(Catalog::new(api::registry::resources()));
    let max_bytes = size(&options.store_max_size)?;
    let store_options = store::Options { max_bytes, ..store::Options::default() };
    let store = state::open(&launch.paths.store(), store_options, &catalog)?;
    let security = Security::new(SecurityConfig {
        objects: Arc::new(store.clone()),
        token_key: pki.token_key().to_vec(),
        issuer: format!("https://kubernetes.default.svc.{}", options.cluster_domain),
        authority_pem: pki.authority_pem().to_owned(),
    })?;
    let config = apiserver::Config {
        event_ttl: Duration::from_secs(options.event_ttl),
        service_cidr: options.service_cidr,
        pod_cidr: options.pod_cidr,
        report_version: options.report_version.clone(),
        server_address: format!("{}:{}", facts.ip, facts.api_port),
        reconstruct_change_cause: !options.no_change_cause,
        ui_hosts: [vec![facts.name.clone()], options.dashboard_host.clone()].concat(),
        ..apiserver::Config::default()
    };
    let server = ApiServer::new(config, catalog, store, Arc::new(security));
    server.bootstrap().await?;
    let expiry = launch.token.clone().run_until_cancelled_owned(server.clone().expire_events());
    launch.tasks.spawn(expiry);
    Ok(server)
}

/// Returns the addresses on which the API is to listen.
fn api_addresses(options: &UpOptions, node_ip: IpAddr) -> Vec<SocketAddr> {
    let mut addresses = options.listen.clone();
    if addresses.is_empty() {
        addresses =
            [Ipv4Addr::LOCALHOST.into(), node_ip].map(|ip| SocketAddr::new(ip, API_PORT)).to_vec();
        addresses.dedup();
    }
    addresses
}

/// Opens the API's addresses; returns them.
async fn serve(
    launch: &Launch<'_>,
    server: &Arc<ApiServer>,
    pki: &Pki,
) -> Result<Vec<SocketAddr>, Failure> {
    let addresses = api_addresses(launch.options, launch.facts.ip);
    let open_files =
        runtime::own_limits::open_files().map_err(|e| format!("RLIMIT_NOFILE: {e}"))?;
    let connections = apiserver::Connections::new(open_files);
    for address in addresses.clone() {
        // A listener belongs to the threads that it was made on.
        let listener = launch.api.spawn(TcpListener::bind(address)).await?;
        let listener = listener.map_err(|e| format!("listen on {address}: {e}"))?;
        let server = server.clone();
        let handle = move |request: http::Request<hyper::body::Incoming>| {
            let server = server.clone();
            let request = request.map(|body| body.map_err(Into::into).boxed_unsync());
            async move { server.handle(request).await }
        };
        let served = apiserver::tls_listener::serve_tls(
            listener,
            pki.server_config()?,
            handle,
            connections.clone(),
            launch.token.clone(),
        );
        launch.tasks.spawn_on(served, &launch.api);
    }
    Ok(addresses)
}

fn start_controllers(launch: &Launch<'_>, server: &Arc<ApiServer>, pki: &Pki) {
    let (options, facts) = (launch.options, &launch.facts);
    let config = controllers::ControllersConfig {
        resources: api::registry::resources(),
        node_ip: facts.ip,
        api_port: facts.api_port,
        service_cidr: options.service_cidr.into(),
        cluster_domain: options.cluster_domain.clone(),
        volume_dir: AgentConfig::new(&facts.name, &launch.paths.data_dir).volume_dir(),
        root_ca_pem: pki.authority_pem().to_owned(),
    };
    let user = component("system:kube-controller-manager", &["system:masters"]);
    let client = launch.client(server, user);
    launch.tasks.spawn(controllers::run(client, config, launch.token.clone()));
}

/// The pod network, the Service rules and the cluster's DNS.
async fn start_network(
    launch: &Launch<'_>,
    server: &Arc<ApiServer>,
) -> Result<(PodNetwork, Withdrawals), Failure> {
    let (options, facts) = (launch.options, &launch.facts);
    let network = PodNetwork::start(NetworkConfig {
        dns_ip: Some(facts.dns_ip),
        api: api_addresses(options, facts.ip),
        ..NetworkConfig::new(options.pod_cidr, options.service_cidr, launch.paths.run_dir.clone())
    })
    .await?;
    let (withdrawals, questions) = netproxy::proxy::withdrawals();
    let proxy = netproxy::proxy::run(
        launch.client(server, component("system:kube-proxy", &[])),
        ProxyConfig {
            node_name: facts.name.clone(),
            pod_cidrs: vec![options.pod_cidr.into()],
            service_cidrs: vec![options.service_cidr.into()],
            dns_ip: Some(facts.dns_ip),
            api: api_addresses(options, facts.ip),
        },
        questions,
        launch.token.clone(),
    );
    launch.tasks.spawn(ended("Service proxy", proxy));
    let dns = dns::run(
        launch.client(
            server,
            component("system:serviceaccount:kube-system:kube-dns", &["system:serviceaccounts"]),
        ),
        DnsConfig {
            listen: vec![SocketAddr::new(facts.dns_ip.into(), DNS_PORT)],
            cluster_domain: options.cluster_domain.clone(),
            service_cidr: options.service_cidr.into(),
            pod_cidr: options.pod_cidr.into(),
            resolv_conf: resolv_conf(options),
            upstreams: None,
        },
        launch.token.clone(),
    );
    launch.tasks.spawn(ended("DNS server", dns));
    Ok((network, withdrawals))
}

/// Logs to standard error from now on.
fn start_log() {
    let wanted = std::env::var("RUST_LOG").unwrap_or_else(|_| LOG_TARGETS.into());
    let targets = wanted.parse::<Targets>().unwrap_or_else(|error| {
        eprintln!("coracle: RUST_LOG is not understood ({error}); logging {LOG_TARGETS}");
        LOG_TARGETS.parse().expect("the targets above are well-formed")
    });
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_target(false);
    tracing_subscriber::registry().with(lines.with_filter(targets)).init();
}

/// The kubelet, and the apiserver's way to it: a pipe in this process.
async fn start_agent(
    launch: &Launch<'_>,
    server: &Arc<ApiServer>,
    (network, withdrawals): (PodNetwork, Withdrawals),
) -> Result<(), Failure> {
    let (options, paths, facts) = (launch.options, launch.paths, &launch.facts);
    let runtime = Runtime::open(RuntimeConfig {
        state_dir: paths.containers(),
        run_dir: paths.run_dir.clone(),
        shim_binary: "/proc/self/exe".into(),
        shim_group: shim_group(&options.dirs.cgroup_root),
    })?;
    let images = ImageStore::open(&paths.images())?.sparing_containers(&paths.containers());
    let node_user = component(&format!("system:node:{}", facts.name), &["system:nodes"]);
    let container_logs = options.dirs.log_dir.parent().unwrap_or(Path::new("/")).join("containers");
    let (mirrors, plain_http) =
        registries::resolve(&options.registry_mirror, &options.plain_http_registry);
    let config = AgentConfig {
        registries: Registries { mirrors, plain_http, ..Registries::default() },
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
        log_max_bytes: size(&options.container_log_max_size)?,
        log_max_files: options.container_log_max_files,
        ..AgentConfig::new(&facts.name, &paths.data_dir)
    };
    let client = launch.client(server, node_user);
    let agent = Agent::start(config, client, runtime, images, network, withdrawals).await?;
    let dialer = PipeDialer { agent: agent.clone(), threads: Handle::current() };
    server.set_node_dialer(Arc::new(dialer));
    let token = launch.token.clone();
    launch.tasks.spawn(async move { agent.run(token).await });
    Ok(())
}

fn thresholds(texts: &[String]) -> Result<Vec<Threshold>, Failure> {
    let texts = texts.iter().filter(|text| !text.is_empty());
    Ok(texts.map(|text| text.parse()).collect::<Result<_, _>>()?)
}

/// A number of bytes written as a quantity.
fn size(text: &str) -> Result<u64, Failure> {
    let quantity: Quantity = Quantity::parse(text).map_err(|e| format!("{text}: {e}"))?;
    u64::try_from(quantity.value()).map_err(|_| format!("{text}: negative").into())
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
        let agent = self.agent.clone();
        self.threads.spawn(async move { agent.serve(far).await });
        Box::pin(async move { Ok(Box::new(near) as Box<dyn AsyncReadWrite>) })
    }
}

/// Reports a part that ends with an error: nobody waits for its result.
async fn ended<E: std::error::Error>(part: &'static str, run: impl Future<Output = Result<(), E>>) {
    if let Err(error) = run.await {
        let cause = error.source().map(ToString::to_string).unwrap_or_default();
        tracing::error!(part, %error, cause, "ended");
    }
}

/// Where the machine's real resolvers stand: systemd's stub list names only itself.
fn resolv_conf(options: &UpOptions) -> PathBuf {
    let real = Path::new(RESOLVED_CONF);
    match &options.resolv_conf {
        Some(path) => path.clone(),
        None if real.exists() => real.to_owned(),
        None => "/etc/resolv.conf".into(),
    }
}

/// Pods can be created once their namespace's default ServiceAccount is there.
async fn wait_for_default_account(client: &Client) -> Result<(), Failure> {
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), "default");
    let condition = |account: Option<&ServiceAccount>| account.is_some();
    kube::runtime::wait::await_condition(accounts, "default", condition).await?;
    Ok(())
}

/// Ends at SIGTERM or SIGINT, which end the process no longer from here on.
fn signals() -> Result<impl Future<Output = ()>, Failure> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

#[cfg(test)]
#[path = "up_tests.rs"]
mod tests;
