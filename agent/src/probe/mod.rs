//! Probes: a container is asked how it is, at its own pace, and only changes are reported.
//!
//! Texts and verdicts are those of the kubelet's prober.

mod connect;
mod grpc;
pub mod http;
mod tls;

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ContainerPort, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use runtime::sandbox::ExecSpec;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::machine::PodSandbox;

pub use connect::connect;

/// Most bytes of output or body quoted in an event.
const MAX_OUTPUT: usize = 10 << 10;
/// Longest that one attempt may take, in seconds, whatever the probe says.
const MAX_TIMEOUT_SECONDS: u64 = 3600;
/// Bytes of a command's output that are read as fast as they come.
const MAX_FAST_BYTES: usize = 1 << 20;
/// Pause between reads of what follows, in milliseconds: an endless output takes no processor.
const SLOW_READ_MS: u64 = 20;
/// First delay after a failure of a container that was never ready; it doubles up to the period.
const EAGER: Duration = Duration::from_secs(1);

/// What a probe is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// The container has come up.
    Startup,
    /// It still works.
    Liveness,
    /// It can serve.
    Readiness,
}

impl fmt::Display for Purpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Startup => "Startup",
            Self::Liveness => "Liveness",
            Self::Readiness => "Readiness",
        })
    }
}

/// A probe changed its mind about a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Identifier of the container.
    pub container: String,
    /// Which probe.
    pub purpose: Purpose,
    /// What it thinks now.
    pub healthy: bool,
}

/// What one attempt came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The container is well.
    Good,
    /// It counts as well, but the answer is odd: why.
    Odd(String),
    /// It is not well: why.
    Bad(String),
    /// It could not be asked, which counts for nothing: why.
    Unknown(String),
}

/// What a running probe tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// It changed its mind.
    Changed(bool),
    /// One attempt is worth an event.
    Event {
        /// The event's reason.
        reason: &'static str,
        /// The event's message.
        message: String,
    },
}

/// The container to ask.
#[derive(Clone)]
pub struct Target {
    /// Its sandbox.
    pub sandbox: Arc<dyn PodSandbox>,
    /// Its identifier.
    pub container: String,
    /// Address of the pod.
    pub host: IpAddr,
    /// Its ports, for probes that name one.
    pub ports: Vec<ContainerPort>,
}

/// Counts results until a threshold is reached: the mind of a probe.
#[derive(Clone, Copy, Debug)]
pub struct Counter {
    successes_wanted: u32,
    failures_wanted: u32,
    last: Option<bool>,
    run: u32,
}

impl Counter {
    /// With the thresholds of a probe.
    pub fn new(probe: &Probe) -> Self {
        let positive = |value: Option<i32>, default| {
            value.and_then(|value| u32::try_from(value).ok()).filter(|v| *v > 0).unwrap_or(default)
        };
        Self {
            successes_wanted: positive(probe.success_threshold, 1),
            failures_wanted: positive(probe.failure_threshold, 3),
            last: None,
            run: 0,
        }
    }

    /// Notes a result; the answer is there once enough in a row agree.
    pub fn step(&mut self, healthy: bool) -> Option<bool> {
        if self.last == Some(healthy) {
            self.run = self.run.saturating_add(1);
        } else {
            self.last = Some(healthy);
            self.run = 1;
        }
        let wanted = if healthy { self.successes_wanted } else { self.failures_wanted };
        (self.run >= wanted).then_some(healthy)
    }
}

/// Asks again and again until dropped.
pub async fn watch(
    purpose: Purpose,
    probe: &Probe,
    target: &Target,
    report: impl Fn(Report) + Send,
) {
    let seconds = |value: Option<i32>, default: u64| {
        let value = value.and_then(|value| u64::try_from(value).ok()).filter(|value| *value > 0);
        Duration::from_secs(value.unwrap_or(default))
    };
    let delay = probe.initial_delay_seconds.and_then(|delay| u64::try_from(delay).ok());
    let period = seconds(probe.period_seconds, 10);
    let patience = seconds(probe.timeout_seconds, 1).min(Duration::from_secs(MAX_TIMEOUT_SECONDS));
    sleep(Duration::from_secs(delay.unwrap_or(0))).await;
    let mut mind = Mind::new(purpose, Counter::new(probe), period);
    let mut next = Instant::now();
    loop {
        let answer = attempt(probe, target, patience).await;
        if let Some(event) = event(purpose, &answer) {
            report(event);
        }
        if let Some(healthy) = mind.take(&answer) {
            report(Report::Changed(healthy));
        }
        next = (next + mind.pause()).max(Instant::now());
        sleep_until(next).await;
    }
}

/// The event that an attempt is worth.
fn event(purpose: Purpose, answer: &Answer) -> Option<Report> {
    let (reason, message) = match answer {
        Answer::Good => return None,
        Answer::Odd(why) => ("ProbeWarning", format!("{purpose} probe warning: {why}")),
        Answer::Bad(why) => ("Unhealthy", format!("{purpose} probe failed: {why}")),
        Answer::Unknown(why) => {
            ("Unhealthy", format!("{purpose} probe errored and resulted in unknown state: {why}"))
        }
    };
    let message = match message.char_indices().nth(MAX_OUTPUT) {
        Some((end, _)) => message[..end].to_owned(),
        None => message,
    };
    Some(Report::Event { reason, message })
}

/// The opinion of a probe and how soon it asks again.
struct Mind {
    purpose: Purpose,
    counter: Counter,
    period: Duration,
    /// Readiness and startup begin unhealthy, liveness healthy.
    opinion: bool,
    /// The next delay of a readiness probe that never succeeded: its first success should not
    /// wait for a long period.
    eager: Option<Duration>,
}

impl Mind {
    fn new(purpose: Purpose, counter: Counter, period: Duration) -> Self {
        let eager = (purpose == Purpose::Readiness).then_some(EAGER);
        Self { purpose, counter, period, opinion: purpose == Purpose::Liveness, eager }
    }

    /// Notes an answer; returns the new opinion where it is news.
    fn take(&mut self, answer: &Answer) -> Option<bool> {
        let healthy = match answer {
            Answer::Good | Answer::Odd(_) => true,
            Answer::Bad(_) => false,
            Answer::Unknown(_) => return None,
        };
        if healthy {
            self.eager = None;
        }
        let opinion = self.counter.step(healthy)?;
        // A startup probe that has failed often enough is as final as a change.
        let final_failure = self.purpose == Purpose::Startup && !opinion;
        let news = opinion != self.opinion || final_failure;
        self.opinion = opinion;
        news.then_some(opinion)
    }

    /// How long to wait before the next attempt.
    fn pause(&mut self) -> Duration {
        match self.eager {
            Some(delay) if delay < self.period => {
                self.eager = Some(delay * 2);
                delay
            }
            _ => self.period,
        }
    }
}

async fn attempt(probe: &Probe, target: &Target, patience: Duration) -> Answer {
    if let Some(exec) = &probe.exec {
        let command = exec.command.clone().unwrap_or_default();
        let words = command.join(" ");
        return match timeout(patience, run(target, command)).await {
            Ok(Ok((0, _))) => Answer::Good,
            Ok(Ok((_, output))) => Answer::Bad(output),
            Ok(Err(why)) => Answer::Unknown(why),
            Err(_) => Answer::Bad(format!(
                "command timed out: {words:?} timed out after {}s",
                patience.as_secs()
            )),
        };
    }
    if let Some(action) = &probe.http_get {
        return http::probe(action, target, patience).await;
    }
    if let Some(action) = &probe.tcp_socket {
        let port = match port(&action.port, &target.ports) {
            Ok(port) => port,
            Err(why) => return Answer::Unknown(why),
        };
        let host = action.host.clone().filter(|host| !host.is_empty());
        let host = bracketed(host, target.host);
        let address = format!("{host}:{port}");
        return match timeout(patience, connect(&target.container, &host, port)).await {
            Ok(Ok(_)) => Answer::Good,
            Ok(Err(error)) => {
                Answer::Bad(format!("dial tcp {address}: connect: {}", plain(&error)))
            }
            Err(_) => Answer::Bad(format!("dial tcp {address}: i/o timeout")),
        };
    }
    if let Some(action) = &probe.grpc {
        let Ok(port) = u16::try_from(action.port) else {
            return Answer::Unknown(format!("invalid port number: {}", action.port));
        };
        let address = format!("{}:{port}", bracketed(None, target.host));
        let service = action.service.clone().unwrap_or_default();
        return grpc::probe(&address, &service, patience).await;
    }
    Answer::Unknown("missing probe handler".into())
}

/// Runs a command in the container; gives its exit code and what it printed. Whoever stops waiting
/// ends it.
pub async fn run(target: &Target, command: Vec<String>) -> Result<(i32, String), String> {
    let container = target.container.clone();
    let spec = ExecSpec { container, args: command, tty: false, stdin: false, leashed: true };
    let session =
        target.sandbox.exec(spec).await.map_err(|error| runtime::printable::chain(&*error))?;
    let mut stdout = session.stdout;
    let mut stderr = session.stderr;
    let (mut output, errors) = tokio::join!(read_output(&mut *stdout), async {
        match &mut stderr {
            Some(stderr) => read_output(&mut **stderr).await,
            None => Vec::new(),
        }
    });
    output.extend(errors);
    let exit = session.exit.await.map_err(|_| "the command was lost".to_owned())?;
    if let Some(leash) = session.leash {
        // It may have been cut already: the sandbox is gone.
        let _ = leash.send(());
    }
    Ok((exit.code, String::from_utf8_lossy(&output).into_owned()))
}

/// Reads an output to its end and keeps its beginning.
async fn read_output(stream: &mut (dyn AsyncRead + Send + Unpin)) -> Vec<u8> {
    let mut kept = Vec::new();
    let mut seen = 0_usize;
    let mut buffer = [0; 4096];
    while let Ok(count) = stream.read(&mut buffer).await {
        if count == 0 {
            break;
        }
        let room = MAX_OUTPUT.saturating_sub(kept.len()).min(count);
        kept.extend_from_slice(&buffer[..room]);
        seen = seen.saturating_add(count);
        if seen > MAX_FAST_BYTES {
            sleep(Duration::from_millis(SLOW_READ_MS)).await;
        }
    }
    kept
}

/// The number of a port that may be given by name.
pub fn port(port: &IntOrString, known: &[ContainerPort]) -> Result<u16, String> {
    let number = match port {
        IntOrString::Int(number) => *number,
        IntOrString::String(name) => known
            .iter()
            .find(|port| port.name.as_deref() == Some(name))
            .map(|port| port.container_port)
            .or_else(|| name.parse().ok())
            .ok_or_else(|| format!("strconv.Atoi: parsing \"{name}\": invalid syntax"))?,
    };
    u16::try_from(number)
        .ok()
        .filter(|port| *port > 0)
        .ok_or_else(|| format!("invalid port number: {number}"))
}

fn bracketed(host: Option<String>, address: IpAddr) -> String {
    match (host, address) {
        (Some(host), _) => host,
        (None, IpAddr::V4(address)) => address.to_string(),
        (None, IpAddr::V6(address)) => format!("[{address}]"),
    }
}

/// The system's words without the number that Rust adds.
fn plain(error: &std::io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds_count_results_in_a_row() {
        let probe =
            Probe { success_threshold: Some(2), failure_threshold: Some(3), ..Probe::default() };
        let mut counter = Counter::new(&probe);
        let seen: Vec<_> = [true, true, false, false, true, false, false, false]
            .map(|healthy| counter.step(healthy))
            .to_vec();
        assert_eq!(seen, [None, Some(true), None, None, None, None, None, Some(false)]);
    }

    #[test]
    fn ports_by_name() {
        let known =
            [ContainerPort { name: Some("web".into()), container_port: 80, ..Default::default() }];
        assert_eq!(port(&IntOrString::String("web".into()), &known), Ok(80));
        assert_eq!(port(&IntOrString::Int(8080), &known), Ok(8080));
        assert_eq!(
            port(&IntOrString::String("x".into()), &known),
            Err("strconv.Atoi: parsing \"x\": invalid syntax".into())
        );
    }

    #[test]
    fn answers_become_opinions() {
        let probe = Probe { failure_threshold: Some(2), ..Probe::default() };
        let bad = || Answer::Bad("no".into());
        let mind = |purpose| Mind::new(purpose, Counter::new(&probe), Duration::from_secs(10));
        let mut readiness = mind(Purpose::Readiness);
        assert_eq!(readiness.take(&Answer::Good), Some(true));
        assert_eq!(readiness.take(&bad()), None);
        // Nobody knows: the row of failures is not broken and not lengthened.
        assert_eq!(readiness.take(&Answer::Unknown("x".into())), None);
        assert_eq!(readiness.take(&bad()), Some(false));
        assert_eq!(readiness.take(&Answer::Odd("elsewhere".into())), Some(true));
        let mut startup = mind(Purpose::Startup);
        assert_eq!((startup.take(&bad()), startup.take(&bad())), (None, Some(false)));
        let mut liveness = mind(Purpose::Liveness);
        assert_eq!(liveness.take(&Answer::Good), None, "it was thought well of");
    }

    #[test]
    fn a_container_that_was_never_ready_is_asked_sooner() {
        let counter = Counter::new(&Probe::default());
        let mut mind = Mind::new(Purpose::Readiness, counter, Duration::from_secs(10));
        let mut pauses = || {
            mind.take(&Answer::Bad("no".into()));
            mind.pause().as_secs()
        };
        assert_eq!([pauses(), pauses(), pauses(), pauses(), pauses()], [1, 2, 4, 8, 10]);
        mind.take(&Answer::Good);
        mind.take(&Answer::Bad("no".into()));
        assert_eq!(mind.pause().as_secs(), 10);
    }

    #[tokio::test]
    async fn endless_output_is_read_slowly() {
        let begun = Instant::now();
        let read = timeout(Duration::from_secs(1), read_output(&mut tokio::io::repeat(b'y'))).await;
        assert!(read.is_err() && begun.elapsed() >= Duration::from_secs(1));
        let mut finite = tokio::io::AsyncReadExt::take(tokio::io::repeat(b'y'), 20 << 10);
        assert_eq!(read_output(&mut finite).await, vec![b'y'; MAX_OUTPUT]);
    }

    #[test]
    fn events_read_as_upstream_writes_them() {
        let text = |answer| match event(Purpose::Readiness, &answer) {
            Some(Report::Event { reason, message }) => format!("{reason} {message}"),
            _ => String::new(),
        };
        assert_eq!(text(Answer::Good), "");
        assert_eq!(
            text(Answer::Bad("HTTP probe failed with statuscode: 500".into())),
            "Unhealthy Readiness probe failed: HTTP probe failed with statuscode: 500"
        );
        assert_eq!(
            text(Answer::Unknown("x".into())),
            "Unhealthy Readiness probe errored and resulted in unknown state: x"
        );
        assert_eq!(text(Answer::Odd("y".into())), "ProbeWarning Readiness probe warning: y");
    }
}
