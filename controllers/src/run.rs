//! Starting and stopping every controller.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;

use ::watch::restart::panic_text;
use futures::FutureExt;
use kube::Client;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::context::{Context, ControllersConfig};
use crate::endpoint::{legacy, mirror, slice};
use crate::inventory::Inventory;
use crate::{
    autoscaler, cron_job, daemonset, deployment, disruption, garbage_collector, job, load_balancer,
    namespace, node_taint, pod_gc, quota, replicas, role_aggregation, root_ca, scheduler,
    service_account, statefulset, taint_eviction, token_secret, volume, well_known,
};

/// The workers of one controller.
type Workers = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The workers of a controller ended, which they are not meant to do.
#[derive(Debug, thiserror::Error)]
#[error("the {controller} controller ended: {reason}")]
pub struct ControllerEnded {
    controller: &'static str,
    reason: String,
}

/// Runs every controller and the scheduler until `token` is cancelled. Panics over a single object are
/// failures of that object; should the workers of a controller end all the same, all controllers end,
/// to be run again with caches of their own.
pub async fn run(
    client: Client,
    config: ControllersConfig,
    token: CancellationToken,
) -> Result<(), ControllerEnded> {
    // What runs beside the workers ends with them.
    let token = token.child_token();
    let _end = token.clone().drop_guard();
    let context = Context::new(client, config, token.clone());
    let inventory = Inventory::new(&context);
    // Subscribe first, so that no change is missed; fill the caches; then work.
    let controllers: Vec<(&'static str, Workers)> = vec![
        ("serviceaccount", Box::pin(service_account::workers(&context))),
        ("serviceaccount-token", Box::pin(token_secret::workers(&context))),
        ("root-ca-certificate-publisher", Box::pin(root_ca::workers(&context))),
        ("kubernetes-service", Box::pin(well_known::workers(&context))),
        ("endpointslice", Box::pin(slice::workers(&context))),
        ("endpoints", Box::pin(legacy::workers(&context))),
        ("endpointslicemirroring", Box::pin(mirror::workers(&context))),
        ("service-lb", Box::pin(load_balancer::workers(&context))),
        ("replicaset", Box::pin(replicas::workers(&context, &context.caches.replica_sets))),
        (
            "replicationcontroller",
            Box::pin(replicas::workers(&context, &context.caches.replication_controllers)),
        ),
        ("deployment", Box::pin(deployment::workers(&context))),
        ("daemonset", Box::pin(daemonset::workers(&context))),
        ("statefulset", Box::pin(statefulset::workers(&context))),
        ("job", Box::pin(job::workers(&context))),
        ("job-orphans", Box::pin(job::orphan_workers(&context))),
        ("ttl-after-finished", Box::pin(job::ttl_workers(&context))),
        ("cronjob", Box::pin(cron_job::workers(&context))),
        ("horizontalpodautoscaling", Box::pin(autoscaler::workers(&context))),
        ("disruption", Box::pin(disruption::workers(&context))),
        ("persistentvolume-binder", Box::pin(volume::workers(&context))),
        ("pvc-protection", Box::pin(volume::protection::workers(&context))),
        ("ephemeral-volume", Box::pin(volume::ephemeral::workers(&context))),
        ("scheduler", Box::pin(scheduler::workers(&context))),
        ("resourcequota", Box::pin(quota::workers(&context, &inventory))),
        ("node-lifecycle", Box::pin(node_taint::workers(&context))),
        ("taint-eviction", Box::pin(taint_eviction::workers(&context))),
        ("pod-garbage-collector", Box::pin(pod_gc::workers(&context))),
        ("clusterrole-aggregation", Box::pin(role_aggregation::workers(&context, &inventory))),
        ("namespace", Box::pin(namespace::workers(&context, &inventory))),
        ("garbage-collector", Box::pin(garbage_collector::workers(&context, &inventory))),
    ];
    context.caches.start(&context.client, &token);
    inventory.start(&context);
    tokio::select! {
        () = token.cancelled() => return Ok(()),
        () = context.caches.synced() => {}
    }
    tracing::debug!("controllers have caught up");
    let mut tasks = JoinSet::new();
    for (controller, workers) in controllers {
        tasks.spawn(async move {
            let outcome = AssertUnwindSafe(workers).catch_unwind().await;
            (controller, outcome.err().map(|panic| panic_text(&*panic).to_owned()))
        });
    }
    while let Some(ended) = tasks.join_next().await {
        if token.is_cancelled() {
            continue;
        }
        let (controller, panic) = ended.unwrap_or(("unknown", None));
        let reason = panic.map_or("no reason".to_owned(), |text| format!("panicked: {text}"));
        return Err(ControllerEnded { controller, reason });
    }
    Ok(())
}
