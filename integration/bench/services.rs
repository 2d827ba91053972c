//! Services: from the request to the kernel's rules.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use crate::manifests::{WEB_PORT, bare_service, endpoint_slice, service};
use crate::report::{Report, Times};
use crate::world::{World, reach, text};
use coracle_integration::client::Connection;

pub const SERVICES: &str = "/api/v1/namespaces/default/services";
pub const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
/// How many Services there are while endpoints change.
const MANY: usize = 1000;
/// Time to create them: on a slow machine there are fewer.
const FILL: Duration = Duration::from_secs(20);
const NEW_SERVICES: usize = 20;
const CHANGES: usize = 100;
const BUDGET_MS: f64 = 10.0;

/// Both budgets begin when the client is told that its change is stored: what it measures
/// includes the time from the request for comparison.
pub async fn measure(world: &World, report: &mut Report) {
    let pod = world.web_pod().await;
    let mut api = world.connect().await;
    let (mut answers, mut from_request) = (Times::default(), Times::default());
    for index in 0..NEW_SERVICES {
        let start = Instant::now();
        let created = api.create(SERVICES, &service(&format!("new-{index}"))).await;
        answers.add(reach(cluster_ip(&created), true));
        from_request.add(start.elapsed());
    }
    report.times("new Service → ClusterIP answers", &answers, BUDGET_MS, None);
    report.note("… from the request, median", from_request.median_ms(), "ms");

    let (count, _) = fill(&mut api, "few", MANY, pod, Instant::now() + FILL).await;
    let created = api.create(SERVICES, &bare_service("changing")).await;
    let address = cluster_ip(&created);
    api.create(SLICES, &endpoint_slice("changing", &[pod])).await;
    reach(address, true);
    let (mut changes, mut from_request) = (Times::default(), Times::default());
    for index in 0..CHANGES {
        let is_served = index % 2 == 1;
        let addresses = if is_served { &[pod][..] } else { &[] };
        let start = Instant::now();
        let path = format!("{SLICES}/changing");
        api.replace(&path, &endpoint_slice("changing", addresses)).await;
        changes.add(reach(address, is_served));
        from_request.add(start.elapsed());
    }
    let what = format!("endpoint change → kernel, {count} Services");
    report.times(&what, &changes, BUDGET_MS, Some(BUDGET_MS));
    report.note("… from the request, median", from_request.median_ms(), "ms");
}

/// The address that a Service was given.
pub fn cluster_ip(service: &serde_json::Value) -> SocketAddr {
    let ip: Ipv4Addr = text(&service["spec"]["clusterIP"]).parse().unwrap();
    SocketAddr::new(ip.into(), WEB_PORT)
}

/// Creates up to `count` Services with one endpoint each until `deadline`; returns how many they
/// are and the last one's address.
pub async fn fill(
    api: &mut Connection,
    name: &str,
    count: usize,
    pod: Ipv4Addr,
    deadline: Instant,
) -> (usize, SocketAddr) {
    let (mut last, mut created) = (None, 0);
    while created < count && (created == 0 || Instant::now() < deadline) {
        let name = format!("{name}-{created}");
        created += 1;
        last = Some(api.create(SERVICES, &bare_service(&name)).await);
        api.create(SLICES, &endpoint_slice(&name, &[pod])).await;
    }
    let address = cluster_ip(&last.expect("at least one Service"));
    reach(address, true);
    (created, address)
}
