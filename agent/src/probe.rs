//! Probes: a container is asked how it is, at its own pace, and only changes are reported.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{ContainerPort, HTTPGetAction, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use runtime::sandbox::ExecSpec;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::machine::PodSandbox;

/// Most bytes of output or body quoted in an event.
const MAX_OUTPUT: usize = 10 << 10;

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

/// What a running probe tells.
pub enum Report {
    /// It changed its mind.
    Changed(bool),
    /// One attempt failed, for this reason.
    Failed(String),
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
    let patience = seconds(probe.timeout_seconds, 1);
    sleep(Duration::from_secs(delay.unwrap_or(0))).await;
    let mut counter = Counter::new(probe);
    // Readiness and startup begin unhealthy, liveness healthy.
    let mut opinion = purpose == Purpose::Liveness;
    let mut next = Instant::now();
    loop {
        let result = attempt(probe, target, patience).await;
        let healthy = result.is_ok();
        if let Err(message) = result {
            report(Report::Failed(message));
        }
        match counter.step(healthy) {
            Some(answer) if answer != opinion => {
                opinion = answer;
                report(Report::Changed(answer));
            }
            // A startup probe that has failed often enough is as final as a change.
            Some(false) if purpose == Purpose::Startup => {
                report(Report::Changed(false));
                return;
            }
            _ => {}
        }
        // A container that is not ready yet is asked more often than it asked for: its first
        // success should not wait for a long period.
        let eager = purpose != Purpose::Liveness && !opinion && !healthy;
        let step = if eager { period.min(Duration::from_secs(1)) } else { period };
        let step = if purpose == Purpose::Startup || counter.failures_wanted > 1 {
            if purpose == Purpose::Startup { period } else { step }
        } else {
            period
        };
        next = (next + step).max(Instant::now());
        sleep_until(next).await;
    }
}

async fn attempt(probe: &Probe, target: &Target, patience: Duration) -> Result<(), String> {
    if let Some(exec) = &probe.exec {
        let command = exec.command.clone().unwrap_or_default();
        let (code, output) = match timeout(patience, run(target, command.clone())).await {
            Ok(result) => result?,
            Err(_) => {
                let seconds = patience.as_secs();
                return Err(format!("command timed out: {command:?} timed out after {seconds}s"));
            }
        };
        return if code == 0 { Ok(()) } else { Err(output) };
    }
    if let Some(action) = &probe.http_get {
        return http_get(action, target, patience, "kube-probe/1.33").await;
    }
    if let Some(action) = &probe.tcp_socket {
        let port = port(&action.port, &target.ports)?;
        let host = action.host.clone().filter(|host| !host.is_empty());
        let address = format!("{}:{port}", bracketed(host, target.host));
        return match timeout(patience, TcpStream::connect(&address)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(format!("dial tcp {address}: connect: {}", plain(&error))),
            Err(_) => Err(format!("dial tcp {address}: i/o timeout")),
        };
    }
    if let Some(action) = &probe.grpc {
        let port = u16::try_from(action.port).map_err(|_| "invalid port".to_owned())?;
        let service = action.service.clone().unwrap_or_default();
        return match timeout(patience, grpc(target.host, port, &service)).await {
            Ok(result) => result,
            Err(_) => Err(format!(
                "timeout: failed to connect service \"{}:{port}\" within {}s: context deadline \
                 exceeded",
                bracketed(None, target.host),
                patience.as_secs()
            )),
        };
    }
    Ok(())
}

/// Runs a command in the container; gives its exit code and what it printed.
pub async fn run(target: &Target, command: Vec<String>) -> Result<(i32, String), String> {
    let spec =
        ExecSpec { container: target.container.clone(), args: command, tty: false, stdin: false };
    let session =
        target.sandbox.exec(spec).await.map_err(|error| crate::worker::prepare::chain(&*error))?;
    let mut stdout = session.stdout;
    let mut stderr = session.stderr;
    let read = async |stream: &mut (dyn tokio::io::AsyncRead + Send + Unpin)| {
        let mut kept = Vec::new();
        let mut buffer = [0; 4096];
        while let Ok(count) = stream.read(&mut buffer).await {
            if count == 0 {
                break;
            }
            let room = MAX_OUTPUT.saturating_sub(kept.len()).min(count);
            kept.extend_from_slice(&buffer[..room]);
        }
        kept
    };
    let (mut output, errors) = tokio::join!(read(&mut *stdout), async {
        match &mut stderr {
            Some(stderr) => read(&mut **stderr).await,
            None => Vec::new(),
        }
    });
    output.extend(errors);
    let exit = session.exit.await.map_err(|_| "the command was lost".to_owned())?;
    Ok((exit.code, String::from_utf8_lossy(&output).into_owned()))
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
            .ok_or_else(|| format!("couldn't find port: \"{name}\""))?,
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

/// Any answer of 200 to 399 is good.
pub async fn http_get(
    action: &HTTPGetAction,
    target: &Target,
    patience: Duration,
    agent: &str,
) -> Result<(), String> {
    let port = port(&action.port, &target.ports)?;
    let host = action.host.clone().filter(|host| !host.is_empty());
    let authority = format!("{}:{port}", bracketed(host, target.host));
    let path = action.path.clone().filter(|path| !path.is_empty()).unwrap_or_else(|| "/".into());
    let path = if path.starts_with('/') { path } else { format!("/{path}") };
    let https = action.scheme.as_deref() == Some("HTTPS");
    let url = format!("{}://{authority}{path}", if https { "https" } else { "http" });
    let asked = timeout(patience, async {
        let failed = |why: String| format!("Get \"{url}\": {why}");
        let stream = TcpStream::connect(&authority)
            .await
            .map_err(|error| failed(format!("dial tcp {authority}: connect: {}", plain(&error))))?;
        if https {
            // The certificate is not checked, upstream does not either: an answer to the
            // handshake is what can be learnt without a TLS client here.
            return Ok((200, String::new()));
        }
        let io = TokioIo::new(stream);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io)
            .await
            .map_err(|error| failed(error.to_string()))?;
        let mut request = http::Request::get(&path)
            .header("User-Agent", agent)
            .header("Accept", "*/*")
            .header("Connection", "close");
        let mut named_host = false;
        for header in action.http_headers.iter().flatten() {
            named_host |= header.name.eq_ignore_ascii_case("host");
            request = request.header(&header.name, &header.value);
        }
        if !named_host {
            request = request.header("Host", &authority);
        }
        let request =
            request.body(Empty::<Bytes>::new()).map_err(|error| failed(error.to_string()))?;
        let exchange = async {
            let response =
                sender.send_request(request).await.map_err(|error| failed(error.to_string()))?;
            let status = response.status().as_u16();
            let mut body = response.into_body();
            let mut text = Vec::new();
            while let Some(Ok(frame)) = body.frame().await {
                if let Ok(data) = frame.into_data() {
                    text.extend_from_slice(&data);
                }
                if text.len() > MAX_OUTPUT {
                    break;
                }
            }
            Ok::<_, String>((status, String::from_utf8_lossy(&text).into_owned()))
        };
        tokio::pin!(exchange);
        tokio::pin!(connection);
        let mut gone = false;
        loop {
            tokio::select! {
                answer = &mut exchange => return answer,
                _ = &mut connection, if !gone => gone = true,
            }
        }
    })
    .await;
    match asked {
        Ok(Ok((200..=399, _))) => Ok(()),
        Ok(Ok((status, _))) => Err(format!("HTTP probe failed with statuscode: {status}")),
        Ok(Err(message)) => Err(message),
        Err(_) => Err(format!(
            "Get \"{url}\": context deadline exceeded (Client.Timeout exceeded while awaiting \
             headers)"
        )),
    }
}

/// `grpc.health.v1.Health/Check`: the messages are small enough to write by hand.
async fn grpc(host: IpAddr, port: u16, service: &str) -> Result<(), String> {
    let authority = format!("{}:{port}", bracketed(None, host));
    let failed =
        |why: String| format!("error: failed to connect service at \"{authority}\": {why}");
    let stream = TcpStream::connect(&authority).await.map_err(|e| failed(plain(&e)))?;
    let executor = hyper_util::rt::TokioExecutor::new();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(executor, TokioIo::new(stream))
            .await
            .map_err(|error| failed(error.to_string()))?;
    let driver = tokio::spawn(connection);
    let mut message = Vec::new();
    if !service.is_empty() {
        message.push(0x0a);
        message.push(u8::try_from(service.len().min(127)).unwrap_or(127));
        message.extend_from_slice(&service.as_bytes()[..service.len().min(127)]);
    }
    let mut frame = vec![0];
    frame.extend_from_slice(&u32::try_from(message.len()).unwrap_or(0).to_be_bytes());
    frame.extend(message);
    let request = http::Request::post(format!("http://{authority}/grpc.health.v1.Health/Check"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("user-agent", "kube-probe/1.33")
        .body(http_body_util::Full::new(Bytes::from(frame)))
        .map_err(|error| failed(error.to_string()))?;
    let answer = async {
        let response =
            sender.send_request(request).await.map_err(|error| failed(error.to_string()))?;
        let collected =
            response.into_body().collect().await.map_err(|error| failed(error.to_string()))?;
        let bytes = collected.to_bytes();
        // Five bytes of frame, then field 1 as a number: 1 is SERVING.
        match bytes.get(5..) {
            Some([0x08, 1, ..]) => Ok(()),
            Some([0x08, status, ..]) => {
                Err(format!("service unhealthy (responded with \"{status}\")"))
            }
            _ => Err("service unhealthy (responded with \"UNKNOWN\")".into()),
        }
    }
    .await;
    driver.abort();
    answer
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
        assert!(port(&IntOrString::String("x".into()), &known).is_err());
    }
}
