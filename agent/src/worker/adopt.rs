//! Takes over what an earlier process of the agent left running, without touching it.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ContainerStatus as ApiStatus;
use runtime::sandbox::ContainerStatus;
use tokio::time::Instant;

use super::crash::CrashBackOff;
use super::prepare::Work;
use super::start::{ATTEMPT_LABEL, IMAGE_ID_LABEL, IMAGE_LABEL, NAME_LABEL};
use super::state::{Finished, ImageFacts, Live, Picture, Record, Run, Setup};
use super::{Worker, reason};

impl Worker {
    /// Finds out where the pod stands before the first plan is made.
    pub(crate) async fn begin(&mut self) {
        let phase = self.pod.status.as_ref().and_then(|status| status.phase.as_deref());
        let over = matches!(phase, Some("Succeeded" | "Failed"));
        self.recall();
        let Some(sandbox) = self.adopted.take() else {
            if over {
                // Nothing runs, nothing will: only what was left of it is released.
                self.state.setup = Setup::Removing;
                self.release(true);
            }
            return;
        };
        self.subscribe();
        let seen = sandbox.status().await.unwrap_or_else(|error| {
            tracing::warn!(pod = %self.uid, %error, "cannot ask an adopted sandbox");
            Vec::new()
        });
        self.take_sandbox(sandbox);
        let now = Instant::now();
        for status in &seen {
            self.recognise(status, now);
        }
        if over {
            self.state.setup = Setup::Removing;
            self.release(true);
            return;
        }
        // The link is the one it had; volumes that are right are left alone.
        let work: Work = self.preparation();
        let made = work.run().await.and_then(|made| {
            self.take_link(made.link);
            made.volumes
        });
        match made {
            Ok(prepared) => {
                self.volumes = prepared.volumes;
                self.tokens = prepared.tokens;
                self.state.setup = Setup::Ready;
            }
            Err(error) => {
                tracing::warn!(pod = %self.uid, %error, "an adopted pod is not complete");
                self.setup_failed(now);
            }
        }
        let main_was_up =
            |record: &Record| record.role == super::state::Role::Main && record.attempted;
        self.state.initialized = self.state.containers.iter().any(main_was_up);
        // Processes that ended between the question and the subscription.
        if let Some(sandbox) = self.sandbox.clone() {
            for status in sandbox.status().await.unwrap_or_default() {
                if let Some(exit) = &status.exit {
                    self.exited(&status.id, exit);
                }
            }
        }
        for index in 0..self.state.containers.len() {
            if self.state.containers[index].live().is_some() {
                self.begin_probes(index);
            }
        }
    }

    /// What status says of containers: restart counts survive, and a container that was said to
    /// run and is not found has ended unseen.
    fn recall(&mut self) {
        let Some(status) = self.pod.status.clone() else { return };
        let phase = status.phase.clone().unwrap_or_default();
        let tells_of_containers = status.container_statuses.iter().flatten().next().is_some();
        let lists = [
            status.init_container_statuses,
            status.container_statuses,
            status.ephemeral_container_statuses,
        ];
        let now = Instant::now();
        if let (true, Some(reason)) = (phase == "Failed", status.reason) {
            let message = status.message.unwrap_or_default();
            self.state.failure = Some(super::state::Failure { reason, message });
            self.state.rejected = !tells_of_containers;
        }
        for known in lists.into_iter().flatten().flatten() {
            let Some(record) =
                self.state.containers.iter_mut().find(|record| record.name == known.name)
            else {
                continue;
            };
            recall_one(record, &known, now);
        }
    }

    fn recognise(&mut self, seen: &ContainerStatus, now: Instant) {
        let label = |key: &str| seen.labels.get(key).cloned().unwrap_or_default();
        let name = label(NAME_LABEL);
        let attempt: u32 = label(ATTEMPT_LABEL).parse().unwrap_or(0);
        let known_status = self.known_status(&name);
        let spec = super::state::container(&self.pod, &name);
        let Some(record) = self.state.containers.iter_mut().find(|record| record.name == name)
        else {
            return;
        };
        let newer = !record.attempted || attempt >= record.attempt || record.live().is_none();
        let Some(started) = seen.started_at.filter(|_| newer) else { return };
        let started_at = Timestamp::try_from(started).unwrap_or(Timestamp::UNIX_EPOCH);
        record.attempted = true;
        record.attempt = attempt;
        record.crash = CrashBackOff::after_restarts(attempt, now);
        let image = ImageFacts { name: label(IMAGE_LABEL), id: label(IMAGE_ID_LABEL) };
        record.shown_image = Some(image.clone());
        record.picture = Picture::Unknown;
        if seen.exit.is_some() {
            self.unread.push(seen.id.clone());
        }
        record.run = match &seen.exit {
            None => {
                let spec = spec.unwrap_or_default();
                // What probes said before is good until they say otherwise.
                let known = known_status.as_ref();
                record.started = spec.startup_probe.is_none()
                    || known.and_then(|known| known.started).unwrap_or(false);
                record.ready =
                    spec.readiness_probe.is_none() || known.is_some_and(|known| known.ready);
                record.picture = Picture::Present(image);
                Run::Running(Live { id: seen.id.clone(), started_at })
            }
            Some(exit) => Run::Exited(Finished {
                id: seen.id.clone(),
                exit_code: exit.code,
                signal: exit.signal,
                reason: reason(exit).into(),
                message: None,
                started_at: Some(started_at),
                finished_at: Timestamp::try_from(exit.finished_at).ok(),
                at: now,
            }),
        };
    }

    fn known_status(&self, name: &str) -> Option<ApiStatus> {
        let status = self.pod.status.as_ref()?;
        status
            .container_statuses
            .iter()
            .chain(&status.init_container_statuses)
            .flatten()
            .find(|status| status.name == name)
            .cloned()
    }
}

fn recall_one(record: &mut Record, known: &ApiStatus, now: Instant) {
    let strip = |id: &Option<String>| {
        id.as_deref().and_then(|id| id.split("://").nth(1)).unwrap_or_default().to_owned()
    };
    let ended = |terminated: &k8s_openapi::api::core::v1::ContainerStateTerminated| Finished {
        id: strip(&terminated.container_id),
        exit_code: terminated.exit_code,
        signal: terminated.signal,
        reason: terminated.reason.clone().unwrap_or_default(),
        message: terminated.message.clone(),
        started_at: terminated.started_at.as_ref().map(|time| time.0),
        finished_at: terminated.finished_at.as_ref().map(|time| time.0),
        at: now,
    };
    let state = known.state.clone().unwrap_or_default();
    let last = known.last_state.as_ref().and_then(|last| last.terminated.as_ref()).map(ended);
    record.attempt = u32::try_from(known.restart_count).unwrap_or(0);
    if let Some(terminated) = &state.terminated {
        record.run = Run::Exited(ended(terminated));
        record.last = last;
    } else if let Some(running) = &state.running {
        record.run = Run::Exited(Finished {
            id: strip(&known.container_id),
            exit_code: 137,
            signal: None,
            reason: "ContainerStatusUnknown".into(),
            message: Some("The container could not be located when the pod was terminated".into()),
            started_at: running.started_at.as_ref().map(|time| time.0),
            finished_at: None,
            at: now,
        });
        record.last = last;
    } else if let Some(last) = last {
        record.run = Run::Exited(last);
    } else {
        return;
    }
    record.attempted = true;
    record.crash = CrashBackOff::after_restarts(record.attempt, now);
    if !known.image_id.is_empty() {
        record.shown_image =
            Some(ImageFacts { name: known.image.clone(), id: known.image_id.clone() });
    }
}
