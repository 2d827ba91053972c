//! The memory that very many objects cost, and the part of it that the node gives back.

use std::time::Duration;

use serde_json::{Value, json};

use crate::report::Report;
use crate::services::SERVICES;
use crate::world::World;

/// Objects of each kind, unless `MEMORY_OBJECTS` says otherwise; the budget is for these.
const MANY: usize = 10_000;
/// Connections that create and delete at once.
const CLIENTS: usize = 8;
/// Until the controllers and caches have followed.
const SETTLE: Duration = Duration::from_secs(20);
/// After which memory is to be given back.
const GIVEN_BACK_AFTER: Duration = Duration::from_secs(60);
const COST_BUDGET_MIB: f64 = 120.0;
const LEFT_BUDGET: f64 = 1.3;
const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";
const DATA_BYTES: usize = 1024;

/// Measures both kinds, one after the other.
pub async fn measure(world: &World, report: &mut Report) {
    let config_map = |name: &str| {
        let data: String = name.bytes().cycle().take(DATA_BYTES).map(char::from).collect();
        json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name },
            "data": { "key": data } })
    };
    cost(world, report, "ConfigMaps of 1 KiB", CONFIG_MAPS, &config_map).await;
    // As `kubectl create service` makes them: with Endpoints and an EndpointSlice each.
    let service = |name: &str| {
        json!({ "apiVersion": "v1", "kind": "Service",
            "metadata": { "name": name, "labels": { "app": name } },
            "spec": { "selector": { "app": name }, "ports": [{ "name": "http", "port": 80 }] } })
    };
    cost(world, report, "Services", SERVICES, &service).await;
}

async fn cost(
    world: &World,
    report: &mut Report,
    kind: &str,
    path: &str,
    object: &dyn Fn(&str) -> Value,
) {
    let rss_mib = || world.agent.memory().rss_kib as f64 / 1024.0;
    let before = rss_mib();
    let many = std::env::var("MEMORY_OBJECTS").ok().and_then(|text| text.parse().ok());
    let many = many.unwrap_or(MANY);
    let names: Vec<String> = (0..many).map(|number| format!("memory-{number}")).collect();
    let share = many.div_ceil(CLIENTS);
    futures::future::join_all(names.chunks(share).map(async |names| {
        let mut api = world.connect().await;
        for name in names {
            api.create(path, &object(name)).await;
        }
    }))
    .await;
    tokio::time::sleep(SETTLE).await;
    let what = format!("{many} {kind}, memory");
    report.at_most(&what, rss_mib() - before, COST_BUDGET_MIB, "MiB");
    futures::future::join_all(names.chunks(share).map(async |names| {
        let mut api = world.connect().await;
        for name in names {
            api.delete(&format!("{path}/{name}")).await;
        }
    }))
    .await;
    tokio::time::sleep(GIVEN_BACK_AFTER).await;
    let what = format!("… a minute after they were deleted ({before:.0} MiB before)");
    report.at_most(&what, rss_mib() / before, LEFT_BUDGET, "times");
}
