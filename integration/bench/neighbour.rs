//! The cost of a hostile tenant for another client: the suite of `integration/tests/hostile` runs,
//! and a client asks for one object all the while.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use coracle_integration::neighbour::{CLIENT_NICENESS, COLLECTED_IN};

use crate::report::{Report, Times};

/// The variable that names the suite's program (`make bench` sets it).
const SUITE: &str = "CORACLE_HOSTILE";
/// Requests of an attacked node to those of an idle one, both the 99th percentile.
const RATIO_BUDGET: f64 = 5.0;

pub fn measure(report: &mut Report) {
    let suite = PathBuf::from(std::env::var_os(SUITE).expect("CORACLE_HOSTILE names the suite"));
    let file = tempfile::NamedTempFile::new().unwrap();
    let status = Command::new(suite)
        .arg("--test-threads=1")
        .env(COLLECTED_IN, file.path())
        .env(CLIENT_NICENESS, "19")
        .env("CARGO_MANIFEST_DIR", coracle_integration::workspace().join("integration"))
        .stdout(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success(), "the suite ended with {status}");
    let text = std::fs::read_to_string(file.path()).unwrap();
    let (idle, attacked) = (times(&text, "idle"), times(&text, "attacked"));
    report.times_of("API GET of a neighbour, idle", &idle);
    report.times_of("… while a tenant attacks", &attacked);
    let ratio = attacked.quantile_ms(0.99) / idle.quantile_ms(0.99);
    report.at_most("… p99, attacked to idle", ratio, RATIO_BUDGET, "times");
}

/// The times with this label; lines are `LABEL MILLISECONDS`.
fn times(text: &str, label: &str) -> Times {
    let mut times = Times::default();
    for line in text.lines() {
        if let Some((_, time)) = line.split_once(' ').filter(|(of, _)| *of == label) {
            times.add_ms(time.parse().unwrap());
        }
    }
    times
}
