//! Carries out plans: begins tasks and notes what came of them.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodCondition};
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use runtime::image::Image;
use tokio::time::Instant;

use super::plan::{Action, spec_grace};
use super::prepare::{PrepareError, SandboxMade};
use super::start::{StartError, Started};
use super::state::{Failure, Finished, Hold, Live, Picture, Run, Setup, Termination, container};
use super::{Note, Worker, status, status_value};
use crate::blocking::{self, Deadline};
use crate::credential;
use crate::events::Level;
use crate::picture::{self, NoImage};
use crate::start_up::Step;
use crate::volume::prepare::{MountError, Prepared};

/// What came of a task.
#[expect(clippy::large_enum_variant, reason = "an outcome travels in a box, see `Note::Done`")]
pub enum Outcome {
    /// Network, volumes and sandbox; with the generation of objects they were made from.
    Prepared(u64, Result<SandboxMade, PrepareError>),
    /// Volumes were brought up to date.
    Refreshed(Result<Prepared, MountError>),
    /// An image was looked for.
    Image(usize, Result<Image, NoImage>),
    /// A container was started; with the generation of objects it was made from.
    Started(usize, u64, Result<Started, StartError>),
    /// `postStart` is over.
    PostStart(usize, String, Result<(), String>),
    /// `SIGTERM` is out.
    TermSent(String),
    /// Resources are released; the flag says whether for good.
    Released(bool, Result<(), String>),
    /// Status is written.
    Status(Result<Box<Pod>, kube::Error>),
    /// The delete request is answered.
    Deleted(Result<(), kube::Error>),
}

/// First and longest delay between attempts to make a sandbox.
const SETUP_RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(122));
/// First and longest delay between pulls.
const PULL_RETRY: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(300));
/// How long `ErrImagePull` is shown before `ImagePullBackOff`.
const SOFTEN: Duration = Duration::from_secs(2);
/// Between attempts to write status or delete while the API server is away.
const API_RETRY: Duration = Duration::from_secs(1);
/// First and longest delay between attempts to write a status that the API server does not take.
const REFUSED_RETRY: (Duration, Duration) = (API_RETRY, Duration::from_secs(300));

pub(crate) fn delay((first, longest): (Duration, Duration), failures: u32) -> Duration {
    (first * 2u32.saturating_pow(failures.min(16))).min(longest)
}

impl Worker {
    pub(crate) fn spawn(
        &mut self,
        work: impl Future<Output = Outcome> + Send + 'static,
    ) -> tokio::task::AbortHandle {
        let note = self.note.clone();
        // There is a copy of what runs a task for each type of task.
        let work = work.boxed();
        self.tasks.spawn(async move {
            let outcome = work.await;
            // Without a receiver the worker is gone and nobody cares.
            let _ = note.send(Note::Done(Box::new(outcome)));
        })
    }

    /// Begins one action of a plan.
    pub(crate) fn perform(&mut self, action: Action) {
        match action {
            Action::Prepare => {
                self.state.setup = Setup::Preparing;
                self.subscribe();
                let (work, objects) = (self.preparation(), self.objects_generation);
                self.spawn(async move { Outcome::Prepared(objects, work.run().await) });
            }
            Action::EnsureImage(index) => self.ensure_image(index),
            Action::Start(index) => self.start(index),
            Action::Stop { index, grace } => self.stop(index, grace),
            Action::Hasten { index, kill_at: sooner } => {
                if let Run::Stopping { kill_at, term_sent, .. } =
                    &mut self.state.containers[index].run
                {
                    *kill_at = sooner;
                    *term_sent = true;
                }
            }
            Action::Kill(index) => self.kill(index),
            Action::AnnounceCrash(index) => {
                let record = &mut self.state.containers[index];
                record.crash_announced = true;
                let message = format!(
                    "Back-off restarting failed container {} in pod {}",
                    record.name,
                    status::pod_full_name(&self.pod)
                );
                let name = record.name.clone();
                let recorder = &self.node.recorder;
                recorder.container(&self.pod, &name, Level::Warning, "BackOff", message);
            }
            Action::AnnounceImageBackOff(index) => {
                let record = &mut self.state.containers[index];
                let name = record.name.clone();
                let image = container(&self.pod, &name).and_then(|c| c.image).unwrap_or_default();
                let message = format!("Back-off pulling image \"{image}\"");
                if let Some(hold) = &mut record.hold {
                    hold.reason = "ImagePullBackOff";
                    hold.soften_at = None;
                    hold.message = format!("{message}: ErrImagePull: {}", hold.message);
                }
                let recorder = &self.node.recorder;
                recorder.container(&self.pod, &name, Level::Normal, "BackOff", message);
                let text = "Error: ImagePullBackOff";
                recorder.container(&self.pod, &name, Level::Warning, "Failed", text);
            }
            Action::Fail(failure) => self.fail(failure, spec_grace(&self.pod)),
            Action::Replace => {
                self.state.setup = Setup::Replacing;
                self.release(false);
            }
            Action::TearDown => {
                self.state.setup = Setup::Removing;
                self.stop_all_probes();
                self.release(true);
            }
            Action::DeleteObject => self.delete_object(),
            Action::Finish => {}
        }
    }

    /// Ends the pod as failed; its object stays.
    pub(crate) fn fail(&mut self, failure: Failure, grace: Duration) {
        let now = Instant::now();
        let recorder = &self.node.recorder;
        recorder.pod(&self.pod, Level::Warning, &failure.reason, failure.message.clone());
        self.state.failure = Some(failure);
        self.state.termination = Some(Termination { begun: now, grace, delete: false });
        self.stop_restarting_probes();
    }

    /// The pod fails without ever having a container (upstream `rejectPod`).
    pub(crate) fn reject(&mut self, refusal: Failure) {
        let recorder = &self.node.recorder;
        recorder.pod(&self.pod, Level::Warning, &refusal.reason, refusal.message.clone());
        let message = format!("Pod was rejected: {}", refusal.message);
        self.state.failure = Some(Failure { message, ..refusal });
        self.state.rejected = true;
        let (begun, grace) = (Instant::now(), Duration::ZERO);
        self.state.termination = Some(Termination { begun, grace, delete: false });
    }

    fn ensure_image(&mut self, index: usize) {
        let record = &mut self.state.containers[index];
        record.picture = Picture::Ensuring;
        record.hold = record.hold.take().filter(|hold| hold.reason != "ErrImagePull");
        let Some(container) = container(&self.pod, &record.name) else { return };
        let node = self.node.clone();
        let (images, recorder) = (node.machine.images.clone(), node.recorder.clone());
        let pod = self.pod.clone();
        let secrets = self.pull_secrets();
        let uid = self.uid.clone();
        self.spawn(async move {
            let mut credentials = Vec::new();
            let mut missing = Vec::new();
            for (name, secret) in secrets {
                let Some(payload) = secret.get().await else {
                    missing.push(name);
                    continue;
                };
                let read = move || credential::in_secret(&payload);
                match blocking::run(&uid, "Reading a pull secret", Deadline::Short, read).await {
                    Ok(found) => credentials.extend(found),
                    Err(error) => tracing::warn!(pod = uid, %error, "pull secret is left out"),
                }
                if credentials.len() > credential::MAX_CREDENTIALS {
                    tracing::warn!(pod = uid, "too many credentials in pull secrets");
                    credentials.truncate(credential::MAX_CREDENTIALS);
                    break;
                }
            }
            if !missing.is_empty() {
                let message = format!(
                    "Unable to retrieve some image pull secrets ({}); attempting to pull the image \
                     may not succeed.",
                    missing.join(", ")
                );
                let reason = "FailedToRetrieveImagePullSecret";
                recorder.pod(&pod, Level::Warning, reason, message);
            }
            let found = picture::ensure(&images, &recorder, &pod, &container, &credentials).await;
            if let Ok(image) = &found {
                node.image_uses.touch(&image.id);
            }
            Outcome::Image(index, found)
        });
    }

    fn pull_secrets(&self) -> Vec<(String, crate::objects::Subscription)> {
        let spec = self.pod.spec.as_ref();
        let names = spec.into_iter().flat_map(|spec| spec.image_pull_secrets.iter().flatten());
        names
            .filter_map(|reference| {
                let mut objects = self.objects.iter();
                objects.find(|(key, _)| {
                    key.kind == crate::objects::Kind::Secret && key.name == reference.name
                })
            })
            .map(|(key, subscription)| (key.name.clone(), subscription.clone()))
            .collect()
    }

    /// Notes what came of a task.
    pub(crate) fn conclude(&mut self, outcome: Outcome) {
        let now = Instant::now();
        match outcome {
            Outcome::Prepared(objects, result) => self.prepared(objects, result, now),
            Outcome::Refreshed(result) => self.refreshed(result),
            Outcome::Image(index, result) => self.pictured(index, result, now),
            Outcome::Started(index, objects, result) => self.started(index, objects, result, now),
            Outcome::PostStart(index, id, result) => self.post_started(index, &id, result),
            Outcome::TermSent(id) => {
                if let Some(index) = self.state.position_of(&id)
                    && let Run::Stopping { term_sent, kill_at, grace, .. } =
                        &mut self.state.containers[index].run
                {
                    *term_sent = true;
                    // Even after a long `preStop` a process gets two seconds to end.
                    if !grace.is_zero() {
                        *kill_at = (*kill_at).max(now + Duration::from_secs(2).min(*grace));
                    }
                }
            }
            Outcome::Released(for_good, result) => self.released(for_good, result, now),
            Outcome::Status(result) => {
                self.status_busy = false;
                match result {
                    Ok(pod) => {
                        self.status_refusals = 0;
                        self.status_known = status_value(&pod);
                        let mut newer = Pod::clone(&self.pod);
                        newer.status = pod.status.clone();
                        newer.metadata.resource_version = pod.metadata.resource_version.clone();
                        if pod.metadata.deletion_timestamp.is_some() {
                            newer.metadata = pod.metadata.clone();
                        }
                        self.pod = Arc::new(newer);
                    }
                    Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {
                        tracing::debug!(pod = %self.uid, %status, "status was refused");
                        if status.code == 404 {
                            self.state.vanished = true;
                        } else {
                            self.status_retry_at = Some(now + API_RETRY);
                        }
                    }
                    // The same status is refused again; time may bring another one.
                    Err(kube::Error::Api(status)) if matches!(status.code, 413 | 422) => {
                        let wait = delay(REFUSED_RETRY, self.status_refusals);
                        self.status_refusals += 1;
                        tracing::warn!(pod = %self.uid, %status, ?wait, "status was refused");
                        self.status_retry_at = Some(now + wait);
                    }
                    Err(error) => {
                        tracing::warn!(pod = %self.uid, %error, "cannot write status");
                        self.status_retry_at = Some(now + API_RETRY);
                    }
                }
            }
            Outcome::Deleted(result) => match result {
                Ok(()) => {}
                Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {
                    self.state.vanished = true;
                }
                Err(error) => {
                    tracing::warn!(pod = %self.uid, %error, "cannot delete a finished pod");
                    self.state.deleting = false;
                    self.state.final_status_written = false;
                    self.status_retry_at = Some(now + API_RETRY);
                }
            },
        }
    }

    fn pictured(&mut self, index: usize, result: Result<Image, NoImage>, now: Instant) {
        let record = &mut self.state.containers[index];
        let asked = container(&self.pod, &record.name).and_then(|c| c.image).unwrap_or_default();
        match result {
            Ok(image) => {
                record.picture = Picture::Present(picture::facts(&image, &asked));
                record.hold = None;
                record.failures = 0;
                self.images.insert(record.name.clone(), image);
            }
            Err(missing) => {
                record.picture = Picture::Unknown;
                let wait = delay(PULL_RETRY, record.failures);
                record.failures += 1;
                record.hold = Some(Hold {
                    reason: missing.reason,
                    message: missing.message,
                    retry_at: Some(now + if missing.retry { wait } else { PULL_RETRY.1 }),
                    soften_at: missing.retry.then(|| now + SOFTEN),
                });
            }
        }
    }

    fn started(
        &mut self,
        index: usize,
        objects: u64,
        result: Result<Started, StartError>,
        now: Instant,
    ) {
        let record = &mut self.state.containers[index];
        let name = record.name.clone();
        let previous = match &mut record.run {
            Run::Starting(previous) => previous.take(),
            _ => None,
        };
        match result {
            Ok(started) => {
                record.attempt = record.next_attempt();
                record.attempted = true;
                if let Some(previous) = previous {
                    record.crash.restarted(previous.at, now);
                    record.last = Some(previous);
                }
                record.hold = None;
                record.failures = 0;
                if let Picture::Present(facts) = &record.picture {
                    record.shown_image = Some(facts.clone());
                }
                let live = Live { id: started.id.clone(), started_at: started.started_at };
                record.run = Run::Running(live);
                self.images.remove(&name);
                let recorder = &self.node.recorder;
                self.node.start_ups.note(&self.uid, Step::Started, Timestamp::now());
                let text = format!("Started container {name}");
                recorder.container(&self.pod, &name, Level::Normal, "Started", text);
                if !self.begin_post_start(index) {
                    self.is_up(index);
                }
                // It may have ended before anybody listened.
                if let Some(exit) = started.exit {
                    self.exited(&started.id, &exit);
                }
            }
            Err(StartError::Launch { id, message }) => {
                record.attempt = record.next_attempt();
                record.attempted = true;
                if let Some(previous) = previous {
                    record.crash.restarted(previous.at, now);
                    record.last = Some(previous);
                }
                if let Picture::Present(facts) = &record.picture {
                    record.shown_image = Some(facts.clone());
                }
                let wall = Timestamp::now();
                record.run = Run::Exited(Finished {
                    id,
                    exit_code: 128,
                    signal: None,
                    reason: "StartError".into(),
                    message: Some(message.clone()),
                    started_at: Some(Timestamp::UNIX_EPOCH),
                    finished_at: Some(wall),
                    at: now,
                });
                record.crash_announced = false;
                record.picture = Picture::Unknown;
                let recorder = &self.node.recorder;
                let text = format!("Error: {message}");
                recorder.container(&self.pod, &name, Level::Warning, "Failed", text);
            }
            Err(StartError::Hold { reason, message, retry }) => {
                record.run = match previous {
                    Some(previous) => Run::Exited(previous),
                    None => Run::Waiting,
                };
                if reason == "CreateContainerError" {
                    // Its image may have gone: it is looked for again.
                    record.picture = Picture::Unknown;
                }
                let wait = delay((Duration::from_secs(1), PULL_RETRY.1), record.failures);
                record.failures += 1;
                // What it lacked may have come while it was being made.
                let changed = objects != self.objects_generation;
                let retry_at = if changed { Some(now) } else { retry.then(|| now + wait) };
                record.hold =
                    Some(Hold { reason, message: message.clone(), retry_at, soften_at: None });
                let recorder = &self.node.recorder;
                let text = format!("Error: {message}");
                recorder.container(&self.pod, &name, Level::Warning, "Failed", text);
            }
        }
    }

    /// Writes status if it differs from what the API server knows.
    pub(crate) fn write_status(&mut self) {
        let mains_ready = |worker: &Self| {
            worker
                .state
                .containers
                .iter()
                .all(|record| record.role != super::state::Role::Main || record.attempted)
        };
        if mains_ready(self) {
            self.state.initialized = true;
        }
        if self.status_busy || self.status_retry_at.is_some() || self.state.vanished {
            return;
        }
        let now = Instant::now();
        let host = &self.node.config.node_ips;
        let desired = status::status(&self.pod, &self.state, host, now, Timestamp::now());
        let is_ready = |c: &PodCondition| c.type_ == "Ready" && c.status == "True";
        if desired.conditions.iter().flatten().any(is_ready) {
            self.node.start_ups.note(&self.uid, Step::Ready, Timestamp::now());
        }
        let Ok(desired) = serde_json::to_value(desired) else { return };
        let Some(patch) = status::patch(&self.uid, &self.status_known, &desired) else {
            let was = self.state.final_status_written;
            self.state.final_status_written = self.state.setup == Setup::Removed;
            if self.state.final_status_written && !was {
                // The plan waited for this.
                self.objects_changed.notify_one();
            }
            return;
        };
        self.status_busy = true;
        let namespace = self.pod.metadata.namespace.clone().unwrap_or_default();
        let name = self.pod.metadata.name.clone().unwrap_or_default();
        let api = Api::<Pod>::namespaced(self.node.client.clone(), &namespace);
        self.spawn(async move {
            let params = PatchParams::default();
            let result = api.patch_status(&name, &params, &Patch::Strategic(patch)).await;
            Outcome::Status(result.map(Box::new))
        });
    }

    fn delete_object(&mut self) {
        self.state.deleting = true;
        let namespace = self.pod.metadata.namespace.clone().unwrap_or_default();
        let name = self.pod.metadata.name.clone().unwrap_or_default();
        let api = Api::<Pod>::namespaced(self.node.client.clone(), &namespace);
        let params = DeleteParams {
            grace_period_seconds: Some(0),
            preconditions: Some(Preconditions {
                uid: Some(self.uid.clone()),
                resource_version: None,
            }),
            ..DeleteParams::default()
        };
        self.spawn(async move { Outcome::Deleted(api.delete(&name, &params).await.map(|_| ())) });
    }

    pub(crate) fn setup_failed(&mut self, now: Instant) {
        let wait = delay(SETUP_RETRY, self.state.setup_failures);
        self.state.setup_failures += 1;
        self.state.setup = Setup::Absent { retry_at: Some(now + wait) };
    }

    fn released(&mut self, for_good: bool, result: Result<(), String>, now: Instant) {
        match result {
            Ok(()) => {
                self.sandbox = None;
                if for_good {
                    self.link = None;
                    self.state.setup = Setup::Removed;
                    self.objects.clear();
                    self.tokens.clear();
                    self.images.clear();
                } else {
                    self.state.setup = Setup::Absent { retry_at: None };
                    // In a new sandbox the init containers run again.
                    self.state.initialized = false;
                    for record in &mut self.state.containers {
                        if record.role == super::state::Role::Init {
                            record.run = Run::Waiting;
                        }
                    }
                }
            }
            Err(message) => {
                tracing::warn!(pod = %self.uid, message, "cannot release a pod's resources");
                let recorder = &self.node.recorder;
                recorder.pod(&self.pod, Level::Warning, "FailedKillPod", message);
                // Tried again; a pod is not gone before its resources are.
                let wait = delay(SETUP_RETRY, self.state.setup_failures);
                self.state.setup_failures += 1;
                let work = self.release_work(for_good);
                let at = now + wait;
                self.spawn(async move {
                    tokio::time::sleep_until(at).await;
                    Outcome::Released(for_good, work.await)
                });
            }
        }
    }
}
