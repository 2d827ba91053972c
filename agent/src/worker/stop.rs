//! Ends containers, and watches over those that run: probes, hooks, signals.

use std::time::Duration;

use runtime::sandbox::{Exit, SandboxEvent};
use tokio::time::Instant;

use super::perform::Outcome;
use super::state::{Role, Run, container};
use super::traffic::awaited_ports;
use super::{Note, Worker};
use crate::events::Level;
use crate::hook;
use crate::probe::{self, Purpose, Target, Verdict};

/// Longest time that the end of a killed container may stay unreported.
const KILL_REPORT: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 10 });

impl Worker {
    /// Runs `preStop`, then asks the process to end.
    pub(crate) fn stop(&mut self, index: usize, grace: Duration) {
        let record = &mut self.state.containers[index];
        let name = record.name.clone();
        let Run::Running(live) = record.run.clone() else { return };
        let grace = self.stopping_for.remove(&name).unwrap_or(grace);
        record.run = Run::Stopping {
            live: live.clone(),
            term_sent: false,
            kill_at: Instant::now() + grace,
            killed: false,
            grace,
        };
        self.stop_probes(&name, &[Purpose::Liveness, Purpose::Startup]);
        let recorder = self.node.recorder.clone();
        if self.state.termination.is_some() {
            let text = format!("Stopping container {name}");
            recorder.container(&self.pod, &name, Level::Normal, "Killing", text);
        }
        let Some(sandbox) = self.sandbox.clone() else { return };
        let spec = container(&self.pod, &name).unwrap_or_default();
        let handler = spec.lifecycle.as_ref().and_then(|lifecycle| lifecycle.pre_stop.clone());
        let target = self.target(index);
        let (pod, uid) = (self.pod.clone(), self.uid.clone());
        let withdrawal = self.withdrawal().filter(|_| !grace.is_zero());
        self.spawn(async move {
            if let (Some(handler), Some(target)) = (handler, target)
                && !grace.is_zero()
            {
                let ran = tokio::time::timeout(grace, hook::run(&handler, &target)).await;
                let failure = match ran {
                    Ok(Ok(())) => None,
                    Ok(Err(message)) => Some(message),
                    Err(_) => Some("it did not end within the grace period".into()),
                };
                if let Some(why) = failure {
                    // The event does not say why: answers may hold secrets.
                    tracing::info!(pod = uid, container = name, why, "preStop failed");
                    let text = "PreStopHook failed";
                    recorder.container(&pod, &name, Level::Warning, "FailedPreStopHook", text);
                }
            }
            let (pid, asked) = facts(&sandbox, &live.id).await;
            let signal = if grace.is_zero() { 9 } else { asked };
            if let Some(withdrawal) = withdrawal {
                withdrawal.run(pid, grace).await;
            }
            if let Err(error) = sandbox.signal(&live.id, signal).await {
                tracing::debug!(%error, "a container that ended cannot be signalled");
            }
            Outcome::TermSent(live.id)
        });
    }

    pub(crate) fn kill(&mut self, index: usize) {
        let Run::Stopping { live, killed, .. } = &mut self.state.containers[index].run else {
            return;
        };
        *killed = true;
        let id = live.id.clone();
        let Some(sandbox) = self.sandbox.clone() else { return };
        let (note, uid) = (self.note.clone(), self.uid.clone());
        self.tasks.spawn(async move {
            if let Err(error) = sandbox.signal(&id, 9).await {
                tracing::debug!(%error, "a container that ended cannot be killed");
            }
            // The end of a container that was killed is reported at once, unless its shim is stuck.
            loop {
                tokio::time::sleep(KILL_REPORT).await;
                let known = sandbox.status().await.unwrap_or_default();
                if !known.iter().any(|status| status.id == id && status.exit.is_none()) {
                    return;
                }
                match sandbox.kill_all(&id).await {
                    Ok(()) => break,
                    Err(error) => {
                        tracing::warn!(pod = uid, %error, "a container cannot be killed; trying again");
                    }
                }
            }
            tracing::warn!(pod = uid, "the end of a killed container was not reported");
            let finished_at = std::time::SystemTime::now();
            let exit = Exit { code: 137, signal: Some(9), oom_killed: false, finished_at };
            // Without a receiver the worker is gone.
            let _ = note.send(Note::Sandbox(SandboxEvent::Exited { container: id, exit }));
        });
    }

    fn target(&self, index: usize) -> Option<Target> {
        let record = &self.state.containers[index];
        let live = record.live()?;
        let spec = container(&self.pod, &record.name)?;
        let host = if self.host_network() {
            self.node.config.node_ips.first().copied()
        } else {
            self.state.addresses.first().copied()
        };
        Some(Target {
            sandbox: self.sandbox.clone()?,
            container: live.id.clone(),
            host: host.unwrap_or(std::net::IpAddr::from([127, 0, 0, 1])),
            ports: spec.ports.unwrap_or_default(),
        })
    }

    /// Begins the probes that are due: startup alone first, the others once it was content.
    pub(crate) fn begin_probes(&mut self, index: usize) {
        let record = &self.state.containers[index];
        if !matches!(record.role, Role::Main | Role::Sidecar) || self.state.termination.is_some() {
            return;
        }
        let name = record.name.clone();
        let started = record.started;
        let Some(spec) = container(&self.pod, &name) else { return };
        let Some(target) = self.target(index) else { return };
        let due: Vec<_> = if started {
            [(Purpose::Liveness, spec.liveness_probe), (Purpose::Readiness, spec.readiness_probe)]
                .into_iter()
                .filter_map(|(purpose, probe)| Some((purpose, probe?)))
                .collect()
        } else {
            spec.startup_probe.map(|probe| (Purpose::Startup, probe)).into_iter().collect()
        };
        for (purpose, settings) in due {
            let note = self.note.clone();
            let pod = self.pod.clone();
            let recorder = self.node.recorder.clone();
            let (target, name) = (target.clone(), name.clone());
            let handle = self.tasks.spawn(async move {
                let id = target.container.clone();
                probe::watch(purpose, &settings, &target, |report| match report {
                    probe::Report::Changed(healthy) => {
                        let verdict = Verdict { container: id.clone(), purpose, healthy };
                        // Without a receiver the worker is gone.
                        let _ = note.send(Note::Probe(verdict));
                    }
                    probe::Report::Event { reason, message } => {
                        recorder.container(&pod, &name, Level::Warning, reason, message);
                    }
                })
                .await;
            });
            let record = &self.state.containers[index];
            self.probes.entry(record.name.clone()).or_default().push((purpose, handle));
        }
    }

    pub(crate) fn stop_probes(&mut self, name: &str, purposes: &[Purpose]) {
        let Some(running) = self.probes.get_mut(name) else { return };
        for (_, handle) in running.extract_if(.., |(purpose, _)| purposes.contains(purpose)) {
            handle.abort();
        }
    }

    /// Ends the probes that could restart a container; readiness goes on while a pod ends, so that
    /// its Service notices.
    pub(crate) fn stop_restarting_probes(&mut self) {
        let names: Vec<String> = self.probes.keys().cloned().collect();
        for name in names {
            self.stop_probes(&name, &[Purpose::Liveness, Purpose::Startup]);
        }
    }

    pub(crate) fn stop_all_probes(&mut self) {
        for (_, handle) in self.probes.drain().flat_map(|(_, running)| running) {
            handle.abort();
        }
    }

    /// A probe changed its mind.
    pub(crate) fn judge(&mut self, verdict: Verdict) {
        let Some(index) = self.state.position_of(&verdict.container) else { return };
        let record = &mut self.state.containers[index];
        if verdict.purpose == Purpose::Readiness {
            record.ready = verdict.healthy;
            return;
        }
        if !matches!(record.run, Run::Running(_)) {
            return;
        }
        let name = record.name.clone();
        match (verdict.purpose, verdict.healthy) {
            (Purpose::Startup, true) => {
                record.started = true;
                self.stop_probes(&name, &[Purpose::Startup]);
                self.begin_probes(index);
            }
            (Purpose::Liveness, true) | (Purpose::Readiness, _) => {}
            (Purpose::Liveness | Purpose::Startup, false) => {
                let spec = container(&self.pod, &name).unwrap_or_default();
                let settings = match verdict.purpose {
                    Purpose::Startup => spec.startup_probe,
                    _ => spec.liveness_probe,
                };
                let seconds = settings.and_then(|probe| probe.termination_grace_period_seconds);
                let grace = seconds.and_then(|seconds| u64::try_from(seconds).ok());
                let grace =
                    grace.map_or_else(|| super::plan::spec_grace(&self.pod), Duration::from_secs);
                let what = match verdict.purpose {
                    Purpose::Startup => "startup",
                    _ => "liveness",
                };
                let text = format!("Container {name} failed {what} probe, will be restarted");
                let recorder = &self.node.recorder;
                recorder.container(&self.pod, &name, Level::Normal, "Killing", text);
                self.stop(index, grace);
            }
        }
    }

    /// A container counts as running from here on.
    pub(crate) fn is_up(&mut self, index: usize) {
        let record = &mut self.state.containers[index];
        let spec = container(&self.pod, &record.name).unwrap_or_default();
        record.hooking = false;
        record.started = spec.startup_probe.is_none();
        let ports = awaited_ports(record.role, &spec);
        record.ready = spec.readiness_probe.is_none() && ports.is_empty();
        self.begin_probes(index);
        self.await_listening(index, ports);
    }

    /// Begins `postStart`; returns whether there is one.
    pub(crate) fn begin_post_start(&mut self, index: usize) -> bool {
        let record = &self.state.containers[index];
        let handler = container(&self.pod, &record.name)
            .and_then(|spec| spec.lifecycle)
            .and_then(|lifecycle| lifecycle.post_start);
        let (Some(handler), Some(target)) = (handler, self.target(index)) else { return false };
        self.state.containers[index].hooking = true;
        self.spawn(async move {
            let result = hook::run(&handler, &target).await;
            Outcome::PostStart(index, target.container.clone(), result)
        });
        true
    }

    pub(crate) fn post_started(&mut self, index: usize, id: &str, result: Result<(), String>) {
        if self.state.position_of(id) != Some(index) {
            return;
        }
        if !matches!(self.state.containers[index].run, Run::Running(_)) {
            return;
        }
        let Err(why) = result else {
            self.is_up(index);
            return;
        };
        self.state.containers[index].hooking = false;
        let name = self.state.containers[index].name.clone();
        // The event does not say why: answers may hold secrets.
        tracing::info!(pod = self.uid, container = name, why, "postStart failed");
        let recorder = &self.node.recorder;
        let text = "PostStartHook failed";
        recorder.container(&self.pod, &name, Level::Warning, "FailedPostStartHook", text);
        let text = "FailedPostStartHook";
        recorder.container(&self.pod, &name, Level::Normal, "Killing", text);
        self.stop(index, super::plan::spec_grace(&self.pod));
    }
}

/// The first process of a container and the signal that its image wants, else `SIGTERM`.
pub(crate) async fn facts(
    sandbox: &std::sync::Arc<dyn crate::machine::PodSandbox>,
    id: &str,
) -> (Option<u32>, i32) {
    let status = sandbox.status().await.unwrap_or_default();
    let status = status.iter().find(|status| status.id == id);
    let label = status.and_then(|status| status.labels.get(super::start::STOP_SIGNAL_LABEL));
    let signal = label.and_then(|name| parse_signal(name)).unwrap_or(15);
    (status.and_then(|status| status.pid), signal)
}

/// `SIGQUIT`, `QUIT` or `3`.
fn parse_signal(name: &str) -> Option<i32> {
    if let Ok(number) = name.parse::<i32>() {
        return (1..=64).contains(&number).then_some(number);
    }
    let upper = name.to_ascii_uppercase();
    let full = if upper.starts_with("SIG") { upper } else { format!("SIG{upper}") };
    full.parse::<nix::sys::signal::Signal>().ok().map(|signal| signal as i32)
}

#[cfg(test)]
mod tests {
    use super::parse_signal;

    #[test]
    fn signals_by_name_and_number() {
        assert_eq!(parse_signal("SIGQUIT"), Some(3));
        assert_eq!(parse_signal("usr1"), Some(10));
        assert_eq!(parse_signal("28"), Some(28));
        assert_eq!(parse_signal("x"), None);
    }
}
