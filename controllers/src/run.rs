//! Starting and stopping every controller.

use kube::Client;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::context::{Context, ControllersConfig};
use crate::{deployment, replicas};

/// Runs every controller and the scheduler until `token` is cancelled.
pub async fn run(client: Client, config: ControllersConfig, token: CancellationToken) {
    let context = Context::new(client, config, token.clone());
    // Subscribe first, so that no change is missed; fill the caches; then work.
    let deployments = deployment::workers(&context);
    let replica_sets = replicas::workers(&context, &context.caches.replica_sets);
    context.caches.start(&context.client, &token);
    tokio::select! {
        () = token.cancelled() => return,
        () = context.caches.synced() => {}
    }
    tracing::debug!("controllers have caught up");
    let mut tasks = JoinSet::new();
    tasks.spawn(deployments);
    tasks.spawn(replica_sets);
    while tasks.join_next().await.is_some() {}
}
