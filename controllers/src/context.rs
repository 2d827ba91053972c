//! What every controller in the process shares: the client, the caches, the event writer.

use std::fmt::Debug;
use std::hash::Hash;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use api::registry::Resource;
use ipnet::IpNet;
use k8s_openapi::api::apps::v1::{
    ControllerRevision, DaemonSet, Deployment, ReplicaSet, StatefulSet,
};
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::{
    ConfigMap, Endpoints, Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod,
    ReplicationController, ResourceQuota, Secret, Service, ServiceAccount,
};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::storage::v1::StorageClass;
use kube::Client;
use tokio_util::sync::CancellationToken;

use crate::cache::{Cache, Selection};
use crate::endpoint::selectors::Selectors;
use crate::endpoint::slices::SERVICE_NAME;
use crate::error::Error;
use crate::event::Recorder;
use crate::held::Form;
use crate::load_balancer::{self, Announced, HostPorts};
use crate::queue::{Queue, Requeue};
use crate::token_secret;

/// What the controllers must be told.
#[derive(Clone)]
pub struct ControllersConfig {
    /// Every kind that the API serves (`api::registry::resources()`): what the garbage collector
    /// and the end of a namespace have to look at.
    pub resources: &'static [Resource],
    /// The address of this machine, used until the Node object says otherwise.
    pub node_ip: IpAddr,
    /// The port on which the API is served on the node's address.
    pub api_port: u16,
    /// The range of Service addresses: the first is the API's, the tenth the DNS server's.
    pub service_cidr: IpNet,
    /// The DNS domain of the cluster.
    pub cluster_domain: String,
    /// Where directories for volumes are made on a node.
    pub volume_dir: PathBuf,
    /// The PEM text of the certificate authority that pods are to trust.
    pub root_ca_pem: String,
    /// The ports that processes of this machine have.
    pub host_ports: Arc<dyn HostPorts>,
}

/// One cache per kind for the whole process.
pub struct Caches {
    /// Pods.
    pub pods: Arc<Cache<Pod>>,
    /// ReplicaSets.
    pub replica_sets: Arc<Cache<ReplicaSet>>,
    /// ReplicationControllers.
    pub replication_controllers: Arc<Cache<ReplicationController>>,
    /// Deployments.
    pub deployments: Arc<Cache<Deployment>>,
    /// DaemonSets.
    pub daemon_sets: Arc<Cache<DaemonSet>>,
    /// StatefulSets.
    pub stateful_sets: Arc<Cache<StatefulSet>>,
    /// ControllerRevisions.
    pub controller_revisions: Arc<Cache<ControllerRevision>>,
    /// PersistentVolumes.
    pub volumes: Arc<Cache<PersistentVolume>>,
    /// PersistentVolumeClaims.
    pub claims: Arc<Cache<PersistentVolumeClaim>>,
    /// StorageClasses.
    pub storage_classes: Arc<Cache<StorageClass>>,
    /// Jobs.
    pub jobs: Arc<Cache<Job>>,
    /// CronJobs.
    pub cron_jobs: Arc<Cache<CronJob>>,
    /// HorizontalPodAutoscalers.
    pub autoscalers: Arc<Cache<HorizontalPodAutoscaler>>,
    /// ResourceQuotas.
    pub quotas: Arc<Cache<ResourceQuota>>,
    /// PodDisruptionBudgets.
    pub budgets: Arc<Cache<PodDisruptionBudget>>,
    /// Services.
    pub services: Arc<Cache<Service>>,
    /// The selectors of the Services.
    pub selectors: Arc<Selectors>,
    /// Endpoints.
    pub endpoints: Arc<Cache<Endpoints>>,
    /// EndpointSlices.
    pub endpoint_slices: Arc<Cache<EndpointSlice>>,
    /// Nodes.
    pub nodes: Arc<Cache<Node>>,
    /// Namespaces.
    pub namespaces: Arc<Cache<Namespace>>,
    /// ServiceAccounts.
    pub service_accounts: Arc<Cache<ServiceAccount>>,
    /// The ConfigMaps that carry the certificate authority, one per namespace.
    pub root_cas: Arc<Cache<ConfigMap>>,
    /// The Secrets with tokens of ServiceAccounts, without the tokens.
    pub token_secrets: Arc<Cache<Secret>>,
}

impl Caches {
    /// Empty caches.
    pub fn new() -> Self {
        // There may be very many, each is read when it or one of its pods changes.
        let services =
            Cache::with_form(Form { group: Some(load_balancer::group), ..Form::packed() });
        Self {
            selectors: Selectors::of(&services),
            services,
            pods: Cache::new(),
            replica_sets: Cache::new(),
            replication_controllers: Cache::new(),
            deployments: Cache::new(),
            daemon_sets: Cache::new(),
            stateful_sets: Cache::new(),
            controller_revisions: Cache::new(),
            volumes: Cache::new(),
            claims: Cache::new(),
            storage_classes: Cache::new(),
            jobs: Cache::new(),
            cron_jobs: Cache::new(),
            autoscalers: Cache::new(),
            budgets: Cache::new(),
            quotas: Cache::new(),
            // As many as Services, and read only when their Service changes.
            endpoints: Cache::with_form(Form::packed()),
            endpoint_slices: Cache::with_form(Form { group: Some(service_name), ..Form::packed() }),
            nodes: Cache::new(),
            namespaces: Cache::new(),
            service_accounts: Cache::new(),
            root_cas: Cache::new(),
            token_secrets: Cache::with_form(token_secret::form()),
        }
    }

    /// Starts following the server.
    pub fn start(&self, client: &Client, token: &CancellationToken) {
        self.namespaces.start(client, token);
        self.nodes.start(client, token);
        self.service_accounts.start(client, token);
        self.services.start(client, token);
        self.endpoints.start(client, token);
        self.endpoint_slices.start(client, token);
        self.pods.start(client, token);
        self.replica_sets.start(client, token);
        self.replication_controllers.start(client, token);
        self.deployments.start(client, token);
        self.daemon_sets.start(client, token);
        self.stateful_sets.start(client, token);
        self.controller_revisions.start(client, token);
        self.volumes.start(client, token);
        self.claims.start(client, token);
        self.storage_classes.start(client, token);
        self.jobs.start(client, token);
        self.cron_jobs.start(client, token);
        self.autoscalers.start(client, token);
        self.budgets.start(client, token);
        self.quotas.start(client, token);
        let named = Selection { fields: Some("metadata.name=kube-root-ca.crt".to_owned()) };
        self.root_cas.start_selected(client, named, token);
        self.token_secrets.start_selected(client, token_secret::selection(), token);
    }

    /// Waits until every cache is filled.
    pub async fn synced(&self) {
        tokio::join!(
            self.pods.synced(),
            self.replica_sets.synced(),
            self.replication_controllers.synced(),
            self.deployments.synced(),
            self.daemon_sets.synced(),
            self.stateful_sets.synced(),
            self.controller_revisions.synced(),
            self.volumes.synced(),
            self.claims.synced(),
            self.storage_classes.synced(),
            self.jobs.synced(),
            self.cron_jobs.synced(),
            self.autoscalers.synced(),
            self.budgets.synced(),
            self.quotas.synced(),
            self.services.synced(),
            self.endpoints.synced(),
            self.endpoint_slices.synced(),
            self.nodes.synced(),
            self.namespaces.synced(),
            self.service_accounts.synced(),
            self.root_cas.synced(),
            self.token_secrets.synced(),
        );
    }
}

/// The Service that a slice says it belongs to.
fn service_name(slice: &EndpointSlice) -> Option<String> {
    slice.metadata.labels.as_ref()?.get(SERVICE_NAME).cloned()
}

impl Default for Caches {
    fn default() -> Self {
        Self::new()
    }
}

/// Everything shared.
pub struct Context {
    /// The client.
    pub client: Client,
    /// What the controllers were told.
    pub config: ControllersConfig,
    /// The caches.
    pub caches: Caches,
    /// The event writer.
    pub recorder: Recorder,
    /// The port conflicts of Services that were reported.
    pub port_conflicts: Announced,
    /// Cancelled when the process stops.
    pub token: CancellationToken,
}

impl Context {
    /// A context with empty caches. Must be called within a runtime.
    pub fn new(client: Client, config: ControllersConfig, token: CancellationToken) -> Arc<Self> {
        let recorder = Recorder::start(client.clone(), "controllermanager", token.clone());
        let (caches, port_conflicts) = (Caches::new(), Announced::default());
        Arc::new(Self { client, config, caches, recorder, port_conflicts, token })
    }

    /// Lets up to `workers` at a time serve the keys of `queue`, until the process stops.
    pub fn serve<K, Fut>(
        self: &Arc<Self>,
        queue: &Arc<Queue<K>>,
        controller: &'static str,
        workers: usize,
        reconcile: fn(Arc<Self>, K) -> Fut,
    ) -> impl Future<Output = ()> + Send + use<K, Fut>
    where
        K: Clone + Eq + Hash + Debug + Send + 'static,
        Fut: Future<Output = Result<Requeue, Error>> + Send + 'static,
    {
        queue.serve(controller, workers, &self.token, self, reconcile)
    }

    /// The address of the node: what its object says, or else the configured one.
    pub fn node_ip(&self) -> IpAddr {
        let reported = self.caches.nodes.all().into_iter().find_map(|node| {
            let addresses = node.status.as_ref()?.addresses.as_ref()?;
            let internal = addresses.iter().find(|address| address.type_ == "InternalIP")?;
            internal.address.parse().ok()
        });
        reported.unwrap_or(self.config.node_ip)
    }
}
