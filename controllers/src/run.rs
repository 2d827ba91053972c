//! Starting and stopping every controller.

use std::future::Future;
use std::pin::Pin;

use kube::Client;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::context::{Context, ControllersConfig};
use crate::endpoint::{legacy, mirror, slice};
use crate::inventory::Inventory;
use crate::{
    autoscaler, cron_job, daemonset, deployment, disruption, garbage_collector, job, load_balancer,
    namespace, node_taint, pod_gc, quota, replicas, role_aggregation, root_ca, scheduler,
    service_account, statefulset, taint_eviction, volume, well_known,
};

/// The workers of one controller.
type Workers = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Runs every controller and the scheduler until `token` is cancelled.
pub async fn run(client: Client, config: ControllersConfig, token: CancellationToken) {
    let context = Context::new(client, config, token.clone());
    let inventory = Inventory::new(&context);
    // Subscribe first, so that no change is missed; fill the caches; then work.
    let controllers: Vec<Workers> = vec![
        Box::pin(service_account::workers(&context)),
        Box::pin(root_ca::workers(&context)),
        Box::pin(well_known::workers(&context)),
        Box::pin(slice::workers(&context)),
        Box::pin(legacy::workers(&context)),
        Box::pin(mirror::workers(&context)),
        Box::pin(load_balancer::workers(&context)),
        Box::pin(replicas::workers(&context, &context.caches.replica_sets)),
        Box::pin(replicas::workers(&context, &context.caches.replication_controllers)),
        Box::pin(deployment::workers(&context)),
        Box::pin(daemonset::workers(&context)),
        Box::pin(statefulset::workers(&context)),
        Box::pin(job::workers(&context)),
        Box::pin(job::orphan_workers(&context)),
        Box::pin(job::ttl_workers(&context)),
        Box::pin(cron_job::workers(&context)),
        Box::pin(autoscaler::workers(&context)),
        Box::pin(disruption::workers(&context)),
        Box::pin(volume::workers(&context)),
        Box::pin(volume::protection::workers(&context)),
        Box::pin(volume::ephemeral::workers(&context)),
        Box::pin(scheduler::workers(&context)),
        Box::pin(quota::workers(&context, &inventory)),
        Box::pin(node_taint::workers(&context)),
        Box::pin(taint_eviction::workers(&context)),
        Box::pin(pod_gc::workers(&context)),
        Box::pin(role_aggregation::workers(&context, &inventory)),
        Box::pin(namespace::workers(&context, &inventory)),
        Box::pin(garbage_collector::workers(&context, &inventory)),
    ];
    context.caches.start(&context.client, &token);
    inventory.start(&context);
    tokio::select! {
        () = token.cancelled() => return,
        () = context.caches.synced() => {}
    }
    tracing::debug!("controllers have caught up");
    let mut tasks = JoinSet::new();
    for workers in controllers {
        tasks.spawn(workers);
    }
    while tasks.join_next().await.is_some() {}
}
