//! Deployments: 30 replicas to Available, and a rolling update.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::manifests::{condition, deployment};
use crate::report::{Report, Times};
use crate::world::World;

const COLLECTION: &str = "/apis/apps/v1/namespaces/default/deployments";
const REPLICAS: u32 = 30;
const AVAILABLE_BUDGET_MS: f64 = 1000.0;
/// Until the shells of available pods handle signals.
const SHELLS_READY_AFTER: Duration = Duration::from_millis(500);
const UPDATED_REPLICAS: u32 = 3;
const UPDATES: u32 = 5;
const UPDATE_BUDGET_MS: f64 = 500.0;

pub async fn measure(world: &World, report: &mut Report) {
    let mut api = world.connect().await;
    let mut watch = world.connect().await.watch(COLLECTION).await;
    let mut pods = world.connect().await.watch("/api/v1/namespaces/default/pods").await;
    let mut available = Times::default();
    for name in ["many-a", "many-b"] {
        let start = Instant::now();
        api.create(COLLECTION, &deployment(name, REPLICAS)).await;
        watch
            .until(|_, deployment| {
                deployment["metadata"]["name"] == name
                    && condition(deployment, "Available")
                    && complete(deployment, REPLICAS)
            })
            .await;
        available.add(start.elapsed());
        // A container that ends on SIGTERM has to have said so first.
        tokio::time::sleep(SHELLS_READY_AFTER).await;
        api.delete(&format!("{COLLECTION}/{name}")).await;
        let mut gone = 0;
        pods.until(|kind, pod| {
            gone += u32::from(kind == "DELETED" && pod["metadata"]["labels"]["app"] == name);
            gone == REPLICAS
        })
        .await;
    }
    let what = format!("{REPLICAS}-replica Deployment → Available");
    report.times(&what, &available, AVAILABLE_BUDGET_MS, None);

    api.create(COLLECTION, &deployment("rolling", UPDATED_REPLICAS)).await;
    let is_complete = |_: &str, deployment: &Value| {
        deployment["metadata"]["name"] == "rolling" && complete(deployment, UPDATED_REPLICAS)
    };
    watch.until(is_complete).await;
    let mut updated = Times::default();
    for round in 0..UPDATES {
        let environment = json!([{ "name": "ROUND", "value": round.to_string() }]);
        let mut template = deployment("rolling", UPDATED_REPLICAS)["spec"]["template"].take();
        template["spec"]["containers"][0]["env"] = environment;
        let start = Instant::now();
        let path = format!("{COLLECTION}/rolling");
        api.merge(&path, &json!({ "spec": { "template": template } })).await;
        watch.until(is_complete).await;
        updated.add(start.elapsed());
    }
    api.delete(&format!("{COLLECTION}/rolling")).await;
    report.times("rolling update of 3 replicas, surge 1", &updated, UPDATE_BUDGET_MS, None);
}

/// What `kubectl rollout status` waits for.
fn complete(deployment: &Value, replicas: u32) -> bool {
    let status = &deployment["status"];
    let generation = &deployment["metadata"]["generation"];
    &status["observedGeneration"] == generation
        && ["replicas", "updatedReplicas", "availableReplicas"]
            .iter()
            .all(|field| status[*field] == replicas)
}
