//! `make bench`: measures the release binary against the budgets of the design and prints the
//! table. It judges nothing: a missed budget is marked, and the exit code says only whether the
//! measurements came to their end.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

mod api;
mod connect;
mod deployments;
mod dns;
mod idle;
mod manifests;
mod memory;
mod neighbour;
mod pods;
mod process;
mod report;
mod services;
mod size;
mod start;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use coracle_integration::{Node, NodeOptions, privileged};

use crate::report::Report;
use crate::world::World;

/// Room for the addresses of 10,000 Services.
const SERVICE_CIDR: &str = "10.96.0.0/14";

type Measurement = fn(&World, &mut Report);

/// The measurements that share one node, in the order of the least disturbance.
const MEASUREMENTS: [(&str, Measurement); 8] = [
    ("idle", |world, report| world.block_on(idle::measure(world, report))),
    ("pods", |world, report| world.block_on(pods::measure(world, report))),
    ("deployments", |world, report| world.block_on(deployments::measure(world, report))),
    ("services", |world, report| world.block_on(services::measure(world, report))),
    ("dns", |world, report| world.block_on(dns::measure(world, report))),
    ("api", |world, report| world.block_on(api::measure(world, report))),
    ("connect", |world, report| world.block_on(connect::measure(world, report))),
    ("memory", |world, report| world.block_on(memory::measure(world, report))),
];

fn main() -> ExitCode {
    if !privileged() {
        return ExitCode::FAILURE;
    }
    // Another provider installed first serves as well.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let only: Vec<String> = std::env::args().skip(1).collect();
    let wanted = |name: &str| only.is_empty() || only.iter().any(|o| o == name);
    let mut report = Report::default();

    if wanted("size") {
        size::measure(&mut report);
    }
    if wanted("start") {
        guarded("start", &mut report, start::measure);
    }
    if wanted("neighbour") {
        guarded("neighbour", &mut report, neighbour::measure);
    }
    let chosen: Vec<_> = MEASUREMENTS.iter().filter(|(name, _)| wanted(name)).collect();
    if !chosen.is_empty() {
        let mut node = Node::start_with(NodeOptions {
            arguments: vec![format!("--service-cidr={SERVICE_CIDR}")],
            ..NodeOptions::default()
        });
        let world = World::new(&node);
        for (name, measurement) in chosen {
            eprintln!("{name}");
            guarded(name, &mut report, |report| node.ns.within(|| measurement(&world, report)));
        }
        // The census is part of the reset: what stays behind is a failure like any other.
        guarded("leftovers", &mut report, |_| node.reset());
    }

    let path = coracle_integration::workspace().join("build/bench.json");
    report.write(&path);
    println!("{}", report.table());
    println!("{} budgets missed; figures in {}", report.missed(), path.display());
    ExitCode::SUCCESS
}

/// A measurement that panics becomes a line that says so; the others go on.
fn guarded(name: &str, report: &mut Report, measurement: impl FnOnce(&mut Report)) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| measurement(report))) {
        let why = panic
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        report.failed(name, &why.unwrap_or_default());
    }
}
