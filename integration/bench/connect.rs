//! What a connection through a ClusterIP costs beside a direct one when there are many Services.

use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use futures::future::join_all;

use crate::manifests::WEB_PORT;
use crate::report::{Report, Times};
use crate::services::fill;
use crate::world::World;

/// How many Services are added; each has an EndpointSlice.
const SERVICES: usize = 10_000;
/// Time to create them: on a slow machine there are fewer.
const FILL: Duration = Duration::from_secs(30);
const CLIENTS: usize = 8;
const CONNECTIONS: usize = 3000;
const BUDGET_RATIO: f64 = 1.5;

pub async fn measure(world: &World, report: &mut Report) {
    let pod = world.web_pod().await;
    let direct = SocketAddr::new(pod.into(), WEB_PORT);
    let start = Instant::now();
    let filled = join_all((0..CLIENTS).map(|client| async move {
        let mut api = world.connect().await;
        fill(&mut api, &format!("many-{client}"), SERVICES / CLIENTS, pod, start + FILL).await
    }))
    .await;
    let services: usize = filled.iter().map(|(count, _)| count).sum();
    report.note(
        &format!("{services} Services created and in the kernel"),
        start.elapsed().as_secs_f64(),
        "s",
    );
    let (mut through, mut directly) = (Times::default(), Times::default());
    for index in 0..CONNECTIONS {
        through.add(connect(filled[index % filled.len()].1));
        directly.add(connect(direct));
    }
    let ratio = through.median_ms() / directly.median_ms();
    report.note("connect directly, median", directly.median_ms() * 1000.0, "µs");
    let what = format!("connect through a ClusterIP / directly, {services} Services");
    report.at_most(&what, ratio, BUDGET_RATIO, "×");
    let memory = world.agent.memory();
    let what = format!("resident memory with {services} Services");
    report.note(&what, memory.rss_kib as f64 / 1024.0, "MiB");
}

/// The time of one handshake; the connection is closed at once.
fn connect(address: SocketAddr) -> Duration {
    let start = Instant::now();
    let stream = TcpStream::connect(address).expect("the pod accepts connections");
    let elapsed = start.elapsed();
    drop(stream);
    elapsed
}
