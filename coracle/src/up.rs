//! `coracle up`: every part of the node, wired together in one process.
//!
//! The parts meet in the API only: each gets a client of its own that runs straight into the
//! server (see [`crate::in_process`]), as a user whose roles say what it may do.

mod kubelet;

use std::cell::Cell;
use std::convert::Infallible;
use std::error::Error;
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use agent::AgentConfig;
use api::quantity::Quantity;
use apiserver::audit::Audit;
use apiserver::security::pki::{Pki, ServingNames, merge_into};
use apiserver::security::{Security, SecurityConfig, User};
use apiserver::{ApiServer, Catalog, Connections};
use dns::DnsConfig;
use http_body_util::BodyExt;
use ipnet::Ipv4Net;
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::{Api, Client};
use netproxy::proxy::{ProxyConfig, Withdrawals};
use netproxy::{NetworkConfig, PodNetwork};
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Handle};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::cli::UpOptions;
use crate::in_process::{client, component};
use crate::paths::Paths;
use crate::supervise::Parts;
use crate::{
    Failure, check, give_back, manifests, memory_limit, notify, restore, state, store_alarm,
};

/// Threads that serve the API: connections, the handlers of all requests, watches. Nothing else runs
/// on them, so that no computation of another part can stop them.
const API_THREADS: usize = 2;
/// Threads of everything else: the agent, the controllers, the Service proxy, DNS.
const NODE_THREADS: usize = 2;
/// Threads of the API for calls that block, started on demand.
const API_BLOCKING_THREADS_MAX: usize = 64;
/// Threads of everything else for calls that block (file systems, netlink), started on demand.
const NODE_BLOCKING_THREADS_MAX: usize = 256;
/// Longest time that calls that block may hold up the end of the process.
const BLOCKED_CALLS_TIMEOUT: Duration = Duration::from_secs(1);
/// The kernel's OOM killer takes this process last of those that it may take.
const OOM_SCORE: i32 = -999;
/// The API's port unless `--listen` says otherwise.
const API_PORT: u16 = 6443;
/// How long the parts may take to end after SIGTERM.
const END_TIMEOUT: Duration = Duration::from_secs(10);
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
    restore::finish(&paths)?;
    // Another provider installed first serves as well.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let api = threads("api", API_THREADS, API_BLOCKING_THREADS_MAX)
        .on_thread_park(answer_soon)
        .build()?;
    let node = threads("node", NODE_THREADS, NODE_BLOCKING_THREADS_MAX).build()?;
    let outcome = node.block_on(run_node(&options, &paths, api.handle()));
    // A call that hangs in the kernel (a dead network file system) does not keep the process.
    node.shutdown_timeout(BLOCKED_CALLS_TIMEOUT);
    api.shutdown_timeout(BLOCKED_CALLS_TIMEOUT);
    outcome
}

/// Threads of that name for asynchronous work, to be started.
fn threads(name: &str, workers: usize, blocking: usize) -> Builder {
    let mut threads = Builder::new_multi_thread();
    threads.thread_name(name).worker_threads(workers).max_blocking_threads(blocking).enable_all();
    threads
}

/// Has the kernel run a thread of the API as soon as a request comes, however many others compute.
/// Called whenever such a thread has nothing to do, which threads for calls that block never say.
fn answer_soon() {
    thread_local! {
        static DONE: Cell<bool> = const { Cell::new(false) };
    }
    if !DONE.replace(true)
        && let Err(error) = runtime::run_first()
    {
        tracing::debug!(%error, "the kernel does not run the API's threads first");
    }
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

/// The things that starting any part needs.
struct Launch<'a> {
    options: &'a UpOptions,
    paths: &'a Paths,
    facts: Facts,
    /// The threads that serve the API; everything else runs on the caller's.
    api: Handle,
    token: CancellationToken,
    tasks: TaskTracker,
    parts: Parts,
}

impl Launch<'_> {
    /// Starts a part of the node: `make` runs it, and again whenever it has ended.
    fn start<F, E>(&self, name: &str, make: impl FnMut() -> F + Send + 'static)
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Error + Send + 'static,
    {
        self.tasks.spawn(self.parts.run(name, &self.token, make));
    }

    fn client(&self, server: &Arc<ApiServer>, user: User) -> Client {
        client(server, user, &self.api)
    }
}

async fn run_node(options: &UpOptions, paths: &Paths, api: &Handle) -> Result<(), Failure> {
    let started = std::time::Instant::now();
    let facts = facts(options)?;
    let (token, tasks) = (CancellationToken::new(), TaskTracker::new());
    let parts = Parts::new();
    let launch = Launch { options, paths, facts, api: api.clone(), token, tasks, parts };

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
    server.set_parts(Arc::new(launch.parts.clone()));
    let addresses = serve(&launch, &server, &pki).await?;
    let kubeconfig = pki.admin_kubeconfig(&format!("https://{}", addresses[0]));
    kubeconfig.write(&options.dirs.kubeconfig)?;
    if let Some(path) = &options.merge_kubeconfig {
        merge_into(path, &kubeconfig)?;
    }

    let ready_client = launch.client(&server, component("system:kube-controller-manager", &[]));
    start_controllers(&launch, &server, &pki);
    let alarm_client = launch.client(&server, component("kubernetes-admin", &["system:masters"]));
    launch.tasks.spawn(store_alarm::report(
        alarm_client,
        launch.facts.name.clone(),
        server.store().alarms(),
        launch.token.clone(),
    ));
    if options.no_pods {
        tracing::warn!("no pods, Services or DNS (--no-pods); containers that run are left alone");
    } else {
        let network = start_network(&launch, &server).await?;
        kubelet::start(&launch, &server, network).await?;
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
    server.flush_audit();
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
    let max_size = options.store_max_size.as_deref().map(size).transpose()?;
    let store_options = state::options(max_size, memory_limit::bytes());
    let store = state::open(&launch.paths.store(), store_options, &catalog)?;
    let security = Security::new(SecurityConfig {
        objects: Arc::new(store.clone()),
        token_key: pki.token_key().to_vec(),
        issuer: format!("https://kubernetes.default.svc.{}", options.cluster_domain),
        authority_pem: pki.authority_pem().to_owned(),
    })?;
    let open_files = open_files()?;
    let config = apiserver::Config {
        open_files,
        event_ttl: Duration::from_secs(options.event_ttl),
        service_cidr: options.service_cidr,
        pod_cidr: options.pod_cidr,
        host_ports: crate::host_ports::busy,
        report_version: options.report_version.clone(),
        server_address: format!("{}:{}", facts.ip, facts.api_port),
        reconstruct_change_cause: !options.no_change_cause,
        ui_hosts: [vec![facts.name.clone()], options.dashboard_host.clone()].concat(),
        ..apiserver::Config::default()
    };
    let server = ApiServer::new(config, catalog, store, Arc::new(security));
    if let Some((policy, log)) = options.audit() {
        server.set_audit(Audit::open(policy, log)?);
    }
    server.bootstrap().await?;
    let (removing, token) = (server.clone(), launch.token.clone());
    launch.start("memory", move || {
        let (token, give_back) = (token.clone(), give_back::run(removing.clone()));
        async move { until_cancelled(&token, give_back).await }
    });
    let (expiring, token) = (server.clone(), launch.token.clone());
    launch.start("event-expiry", move || {
        let (token, expire) = (token.clone(), expiring.clone().expire_events());
        async move { until_cancelled(&token, expire).await }
    });
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

/// The descriptors that this process may have.
fn open_files() -> Result<u64, Failure> {
    Ok(runtime::own_limits::open_files().map_err(|e| format!("RLIMIT_NOFILE: {e}"))?)
}

/// Opens the API's addresses; returns them.
async fn serve(
    launch: &Launch<'_>,
    server: &Arc<ApiServer>,
    pki: &Pki,
) -> Result<Vec<SocketAddr>, Failure> {
    let addresses = api_addresses(launch.options, launch.facts.ip);
    let connections = Connections::new(open_files()?);
    for address in addresses.clone() {
        // A listener belongs to the threads that it was made on.
        let listener = launch.api.spawn(TcpListener::bind(address)).await?;
        let mut first = Some(listener.map_err(|e| format!("listen on {address}: {e}"))?);
        let (server, tls, token) = (server.clone(), pki.server_config()?, launch.token.clone());
        let connections = connections.clone();
        let name = format!("listener-{address}");
        let part = launch.parts.run(&name, &launch.token, move || {
            let (listener, server) = (first.take(), server.clone());
            let (tls, connections, token) = (tls.clone(), connections.clone(), token.clone());
            async move {
                let listener = match listener {
                    Some(listener) => listener,
                    None => TcpListener::bind(address).await?,
                };
                listen(listener, server, tls, connections, token).await;
                Ok::<_, std::io::Error>(())
            }
        });
        launch.tasks.spawn_on(part, &launch.api);
    }
    Ok(addresses)
}

/// Serves the API at one address until cancelled.
async fn listen(
    listener: TcpListener,
    server: Arc<ApiServer>,
    tls: Arc<rustls::ServerConfig>,
    connections: Arc<Connections>,
    token: CancellationToken,
) {
    let handle = move |request: http::Request<hyper::body::Incoming>| {
        let server = server.clone();
        let request = request.map(|body| body.map_err(Into::into).boxed_unsync());
        async move { server.handle(request).await }
    };
    apiserver::tls_listener::serve_tls(listener, tls, handle, connections, token).await;
}

/// Runs a loop that does not end by itself until `token` is cancelled.
async fn until_cancelled(
    token: &CancellationToken,
    work: impl Future<Output = ()>,
) -> Result<(), Infallible> {
    token.run_until_cancelled(work).await;
    Ok(())
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
        host_ports: Arc::new(crate::host_ports::Machine),
    };
    let user = component("system:kube-controller-manager", &["system:masters"]);
    let client = launch.client(server, user);
    let token = launch.token.clone();
    launch.start("controllers", move || {
        controllers::run(client.clone(), config.clone(), token.clone())
    });
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
    let (rules, token) = (network.clone(), launch.token.clone());
    launch.start("pod-network", move || {
        let (rules, token) = (rules.clone(), token.clone());
        async move { rules.run(token).await }
    });
    let (withdrawals, questions) = netproxy::proxy::withdrawals();
    let questions = Arc::new(Mutex::new(questions));
    let client = launch.client(server, component("system:kube-proxy", &[]));
    let config = ProxyConfig {
        node_name: facts.name.clone(),
        pod_cidrs: vec![options.pod_cidr.into()],
        service_cidrs: vec![options.service_cidr.into()],
        dns_ip: Some(facts.dns_ip),
        api: api_addresses(options, facts.ip),
    };
    let token = launch.token.clone();
    launch.start("service-proxy", move || {
        let (client, config, token) = (client.clone(), config.clone(), token.clone());
        let questions = questions.clone();
        async move {
            netproxy::proxy::run(client, config, &mut *questions.lock().await, token).await
        }
    });
    let user = component("system:serviceaccount:kube-system:kube-dns", &["system:serviceaccounts"]);
    let client = launch.client(server, user);
    let config = DnsConfig {
        listen: vec![SocketAddr::new(facts.dns_ip.into(), DNS_PORT)],
        cluster_domain: options.cluster_domain.clone(),
        service_cidr: options.service_cidr.into(),
        pod_cidr: options.pod_cidr.into(),
        resolv_conf: resolv_conf(options),
        upstreams: None,
    };
    let token = launch.token.clone();
    launch.start("dns", move || dns::run(client.clone(), config.clone(), token.clone()));
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

/// Reads a number of bytes that is written as a quantity.
fn size(text: &str) -> Result<u64, Failure> {
    let quantity: Quantity = Quantity::parse(text).map_err(|e| format!("{text}: {e}"))?;
    u64::try_from(quantity.value()).map_err(|_| format!("{text}: negative").into())
}

#[cfg(test)]
#[path = "up_tests.rs"]
mod tests;
