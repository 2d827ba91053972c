//! `/metrics`: what the server has done so far, in the text format of Prometheus, under the names
//! that monitors of Kubernetes know.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use api::Served;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Response, StatusCode};

use crate::body::{self, Body};
use crate::meta;
use crate::server::ApiServer;

/// Upper bounds of the buckets of request durations, in seconds.
const BUCKETS: [f64; 8] = [0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 5.0, 60.0];
/// Kernel clock ticks per second, as `/proc` counts them.
const TICKS_PER_SECOND: f64 = 100.0;
const PAGE_BYTES: u64 = 4096;

/// What requests are told apart by.
type Key = (&'static str, &'static str, &'static str, &'static str, &'static str);

#[derive(Default)]
struct Tally {
    codes: BTreeMap<u16, u64>,
    buckets: [u64; BUCKETS.len()],
    seconds: f64,
    timed: u64,
}

/// Counts requests.
#[derive(Default)]
pub(crate) struct Requests(Mutex<BTreeMap<Key, Tally>>);

impl Requests {
    /// Counts one request about a resource type; `took` is absent for those that last as long as
    /// the client likes.
    pub(crate) fn count(
        &self,
        verb: &'static str,
        served: &'static Served,
        subresource: &str,
        code: StatusCode,
        took: Option<Duration>,
    ) {
        const KNOWN: [&str; 11] = [
            "approval",
            "attach",
            "binding",
            "eviction",
            "exec",
            "log",
            "portforward",
            "proxy",
            "scale",
            "status",
            "token",
        ];
        let subresource = KNOWN.into_iter().find(|name| *name == subresource).unwrap_or("");
        let key = (verb, served.group, served.version, served.plural, subresource);
        let mut tallies = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let tally = tallies.entry(key).or_default();
        *tally.codes.entry(code.as_u16()).or_default() += 1;
        let Some(took) = took.map(|took| took.as_secs_f64()) else { return };
        tally.seconds += took;
        tally.timed += 1;
        for (bucket, bound) in tally.buckets.iter_mut().zip(BUCKETS) {
            *bucket += u64::from(took <= bound);
        }
    }

    fn write(&self, out: &mut String) {
        let tallies = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let labels = |(verb, group, version, resource, subresource): &Key| {
            format!(
                "group=\"{group}\",resource=\"{resource}\",subresource=\"{subresource}\",\
                 verb=\"{}\",version=\"{version}\"",
                verb.to_uppercase()
            )
        };
        head(out, "apiserver_request_total", "counter", "Requests by verb, resource and code.");
        for (key, tally) in tallies.iter() {
            for (code, count) in &tally.codes {
                line(
                    out,
                    "apiserver_request_total",
                    &format!("code=\"{code}\",{}", labels(key)),
                    *count as f64,
                );
            }
        }
        let name = "apiserver_request_duration_seconds";
        head(out, name, "histogram", "Response latency by verb and resource.");
        for (key, tally) in tallies.iter().filter(|(_, tally)| tally.timed > 0) {
            let labels = labels(key);
            for (count, bound) in tally.buckets.iter().zip(BUCKETS) {
                let labels = format!("{labels},le=\"{bound}\"");
                line(out, &format!("{name}_bucket"), &labels, *count as f64);
            }
            let all = format!("{labels},le=\"+Inf\"");
            line(out, &format!("{name}_bucket"), &all, tally.timed as f64);
            line(out, &format!("{name}_sum"), &labels, tally.seconds);
            line(out, &format!("{name}_count"), &labels, tally.timed as f64);
        }
    }
}

fn head(out: &mut String, name: &str, kind: &str, help: &str) {
    // Writing to a String cannot fail.
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

fn line(out: &mut String, name: &str, labels: &str, value: f64) {
    let labels = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
    let _ = writeln!(out, "{name}{labels} {value}");
}

/// Answers `GET /metrics`.
pub(crate) fn answer(server: &ApiServer) -> Response<Body> {
    let mut out = String::new();
    server.requests.write(&mut out);
    let name = "apiserver_current_inflight_requests";
    head(&mut out, name, "gauge", "Requests from outside the process that are being answered.");
    line(&mut out, name, "request_kind=\"all\"", server.requests_in_flight() as f64);
    let (used, _) = server.store.usage();
    for name in ["apiserver_storage_size_bytes", "etcd_db_total_size_in_bytes"] {
        head(&mut out, name, "gauge", "Bytes of the stored objects.");
        line(&mut out, name, "storage_cluster_id=\"etcd-0\"", used as f64);
    }
    let name = "apiserver_storage_objects";
    head(&mut out, name, "gauge", "Number of stored objects by type.");
    for resource in server.catalog.resources() {
        let count = server.store.count(&meta::prefix(resource, ""));
        if resource.persistence != api::Persistence::None {
            let stored = resource.storage();
            let resource = crate::error::qualified(stored.group, stored.plural);
            line(&mut out, name, &format!("resource=\"{resource}\""), count as f64);
        }
    }
    process(&mut out);
    let mut response = body::text(StatusCode::OK, out);
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

/// What the kernel says about this process.
fn process(out: &mut String) {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The name of the program may hold spaces; the fields follow its closing bracket.
    let fields = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
    let fields: Vec<f64> =
        fields.split_whitespace().map(|field| field.parse().unwrap_or(0.0)).collect();
    let field = |number: usize| fields.get(number - 3).copied().unwrap_or(0.0);
    let boot = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let boot = boot.lines().find_map(|line| line.strip_prefix("btime ")?.parse::<f64>().ok());
    let descriptors = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    for (name, kind, help, value) in [
        (
            "process_cpu_seconds_total",
            "counter",
            "CPU time used so far.",
            (field(14) + field(15)) / TICKS_PER_SECOND,
        ),
        (
            "process_resident_memory_bytes",
            "gauge",
            "Resident memory.",
            field(24) * PAGE_BYTES as f64,
        ),
        ("process_virtual_memory_bytes", "gauge", "Virtual memory.", field(23)),
        ("process_open_fds", "gauge", "Open file descriptors.", descriptors as f64),
        (
            "process_start_time_seconds",
            "gauge",
            "Start of the process since the epoch.",
            boot.unwrap_or(0.0) + field(22) / TICKS_PER_SECOND,
        ),
    ] {
        head(out, name, kind, help);
        line(out, name, "", value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static PODS: Served = Served::new("", "v1", "Pod", "pods", "pod");

    #[test]
    fn requests_are_counted_by_what_they_were() {
        let requests = Requests::default();
        let fast = Some(Duration::from_millis(10));
        requests.count("get", &PODS, "status", StatusCode::OK, fast);
        requests.count("get", &PODS, "status", StatusCode::NOT_FOUND, fast);
        requests.count("watch", &PODS, "", StatusCode::OK, None);
        let mut out = String::new();
        requests.write(&mut out);
        for expected in [
            "apiserver_request_total{code=\"404\",group=\"\",resource=\"pods\",subresource=\"status\",verb=\"GET\",version=\"v1\"} 1\n",
            "subresource=\"status\",verb=\"GET\",version=\"v1\",le=\"0.005\"} 0\n",
            "subresource=\"status\",verb=\"GET\",version=\"v1\",le=\"0.025\"} 2\n",
            "apiserver_request_duration_seconds_sum{group=\"\",resource=\"pods\",subresource=\"status\",verb=\"GET\",version=\"v1\"} 0.02\n",
        ] {
            assert!(out.contains(expected), "{expected} is not in\n{out}");
        }
        assert!(
            !out.contains("duration_seconds_count{group=\"\",resource=\"pods\",subresource=\"\"")
        );
    }
}
