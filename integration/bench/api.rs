//! The API under load: durable creates, reads, lists, watches.

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::join_all;
use http::Method;
use serde_json::json;

use crate::manifests::config_map;
use crate::report::{Report, Times};
use crate::world::{World, text};

const CLIENTS: usize = 8;
const DURATION: Duration = Duration::from_secs(3);
const LIST_LENGTH: usize = 2000;
const LISTS: usize = 21;
const WATCHED: usize = 200;
/// Five times what kube-apiserver with etcd does on a machine like those the budgets are for.
const CREATES_BUDGET: f64 = 5.0 * 830.0;
const GETS_BUDGET: f64 = 5.0 * 1900.0;
const LIST_BUDGET_MS: f64 = 8.0;
const WATCH_BUDGET_MS: f64 = 1.0;

pub async fn measure(world: &World, report: &mut Report) {
    let mut api = world.connect().await;
    for name in ["creates", "list", "watch"] {
        let namespace = json!({ "metadata": { "name": name } });
        api.create("/api/v1/namespaces", &namespace).await;
    }
    watched(world, report).await;
    list(world, report).await;
    let get = |_: usize, _: usize| {
        (Method::GET, "/api/v1/namespaces/list/configmaps/item-7".to_owned(), Bytes::new())
    };
    load(world, report, ("API GET, 8 clients", GETS_BUDGET), get).await;
    let create = |client: usize, index: usize| {
        let body = config_map(&format!("item-{client}-{index}")).to_string();
        (Method::POST, "/api/v1/namespaces/creates/configmaps".to_owned(), body.into())
    };
    load(world, report, ("API creates, durable, 8 clients", CREATES_BUDGET), create).await;
}

/// The requests of several clients, each as soon as its last one is answered.
async fn load(
    world: &World,
    report: &mut Report,
    (what, budget): (&str, f64),
    request: impl Fn(usize, usize) -> (Method, String, Bytes) + Copy,
) {
    let (before, start) = (world.agent.cpu(), Instant::now());
    let counts = join_all((0..CLIENTS).map(|client| async move {
        let mut api = world.connect().await;
        let mut count = 0;
        while start.elapsed() < DURATION {
            let (method, path, body) = request(client, count);
            let (status, answer) = api.raw(method, &path, body).await;
            assert!(status.is_success(), "{status} {}", String::from_utf8_lossy(&answer));
            count += 1;
        }
        count
    }))
    .await;
    let (total, elapsed) = (counts.iter().sum::<usize>() as f64, start.elapsed().as_secs_f64());
    let cpu = (world.agent.cpu() - before).as_secs_f64();
    report.at_least(what, total / elapsed, budget, "/s");
    report.note("… processor time each", cpu / total * 1e6, "µs");
}

async fn list(world: &World, report: &mut Report) {
    join_all((0..CLIENTS).map(|client| async move {
        let mut api = world.connect().await;
        for index in (client..LIST_LENGTH).step_by(CLIENTS) {
            let path = "/api/v1/namespaces/list/configmaps";
            api.create(path, &config_map(&format!("item-{index}"))).await;
        }
    }))
    .await;
    let mut api = world.connect().await;
    let (mut times, mut size) = (Times::default(), 0);
    for _ in 0..LISTS {
        let start = Instant::now();
        let path = "/api/v1/namespaces/list/configmaps";
        size = api.raw(Method::GET, path, Bytes::new()).await.1.len();
        times.add(start.elapsed());
    }
    let what = format!("API LIST of {LIST_LENGTH} ({:.1} MB)", size as f64 / 1e6);
    report.times(&what, &times, LIST_BUDGET_MS, None);
}

/// How long after the response to a create its event comes; before it is less than nothing.
async fn watched(world: &World, report: &mut Report) {
    let collection = "/api/v1/namespaces/watch/configmaps";
    let mut watch = world.connect().await.watch(collection).await;
    let mut api = world.connect().await;
    // Both connections are read at once, each on its own task.
    let arrivals = tokio::spawn(async move {
        let mut arrivals = Vec::new();
        while arrivals.len() < WATCHED {
            let (kind, object) = watch.next().await;
            if kind == "ADDED" && text(&object["metadata"]["name"]).starts_with("watched-") {
                arrivals.push(Instant::now());
            }
        }
        arrivals
    });
    let mut answers = Vec::new();
    for index in 0..WATCHED {
        api.create(collection, &config_map(&format!("watched-{index}"))).await;
        answers.push(Instant::now());
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let mut times = Times::default();
    for (arrival, answer) in arrivals.await.unwrap().into_iter().zip(answers) {
        let sign = if arrival < answer { -1.0 } else { 1.0 };
        let difference = arrival.max(answer) - arrival.min(answer);
        times.add_ms(sign * difference.as_secs_f64() * 1000.0);
    }
    report.times("create → watch event, after the response", &times, WATCH_BUDGET_MS, None);
}
