//! What a Job asks of its pods: the tracking finalizer, the index, whether and when one ended.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::{Job, JobSpec};
use k8s_openapi::api::core::v1::{Container, EnvVar, EnvVarSource, ObjectFieldSelector, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

use crate::pod;

/// The finalizer that keeps a pod until its end has been counted.
pub const TRACKING: &str = "batch.kubernetes.io/job-tracking";
/// The annotation and label with the completion index.
pub const COMPLETION_INDEX: &str = "batch.kubernetes.io/job-completion-index";
/// How often the index failed before this pod.
const FAILURE_COUNT: &str = "batch.kubernetes.io/job-index-failure-count";
/// How often it failed without being counted.
const IGNORED_FAILURE_COUNT: &str = "batch.kubernetes.io/job-index-ignored-failure-count";
/// The environment variable with the index.
const INDEX_VARIABLE: &str = "JOB_COMPLETION_INDEX";
/// The longest prefix to which the server appends five characters.
const PREFIX_MAX_BYTES: usize = 58;

/// Whether the end of the pod is still to be counted.
pub fn is_tracked(pod: &Pod) -> bool {
    pod.metadata.finalizers.iter().flatten().any(|finalizer| finalizer == TRACKING)
}

/// Whether the pod ended well.
pub fn is_succeeded(pod: &Pod) -> bool {
    pod::phase(pod) == "Succeeded"
}

/// Whether the pod counts as failed. Unless only failed pods are replaced, a pod that is being
/// deleted has failed: it may never get the chance to say so.
pub fn is_failed(pod: &Pod, spec: &JobSpec) -> bool {
    let deleting = pod.metadata.deletion_timestamp.is_some();
    pod::phase(pod) == "Failed" || (!replaces_failed_only(spec) && deleting && !is_succeeded(pod))
}

/// Whether the pod is on its way out and has not ended yet.
pub fn is_terminating(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some() && !pod::is_terminal(pod)
}

/// Whether a pod is replaced only after it has ended.
pub fn replaces_failed_only(spec: &JobSpec) -> bool {
    spec.pod_replacement_policy.as_deref() == Some("Failed")
}

/// The completion index of the pod.
pub fn index(pod: &Pod) -> Option<i32> {
    number(pod, COMPLETION_INDEX).filter(|index| *index >= 0)
}

/// How often the index of the pod failed before, counted and not counted.
pub fn earlier_failures(pod: &Pod) -> (i32, i32) {
    (number(pod, FAILURE_COUNT).unwrap_or(0), number(pod, IGNORED_FAILURE_COUNT).unwrap_or(0))
}

fn number(pod: &Pod, annotation: &str) -> Option<i32> {
    pod.metadata.annotations.as_ref()?.get(annotation)?.parse().ok()
}

/// When the pod ended: what its containers say, or else the best guess.
pub fn ended(pod: &Pod) -> Timestamp {
    let terminated = |pod: &Pod| {
        let statuses = pod.status.as_ref()?.container_statuses.as_ref()?;
        statuses
            .iter()
            .map(|c| Some(c.state.as_ref()?.terminated.as_ref()?.finished_at.as_ref()?.0))
            .collect::<Option<Vec<_>>>()?
            .into_iter()
            .max()
    };
    let unready = |pod: &Pod| {
        let ready = pod::condition(pod, "Ready").filter(|ready| ready.status == "False")?;
        Some(ready.last_transition_time.as_ref()?.0)
    };
    let deleted = |pod: &Pod| {
        let grace = pod.metadata.deletion_grace_period_seconds.unwrap_or(0);
        let at = pod.metadata.deletion_timestamp.as_ref()?.0;
        at.checked_sub(SignedDuration::from_secs(grace)).ok()
    };
    terminated(pod)
        .or_else(|| unready(pod))
        .or_else(|| deleted(pod))
        .or_else(|| pod::created(pod))
        .unwrap_or(Timestamp::UNIX_EPOCH)
}

/// A pod that is to be created.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewPod {
    /// Its completion index, in an indexed Job.
    pub index: Option<i32>,
    /// How often its index failed before, counted and not counted, where that is limited.
    pub failures: Option<(i32, i32)>,
}

/// Makes a pod of `job`.
pub fn make(job: &Job, spec: &JobSpec, new: &NewPod, controller: OwnerReference) -> Pod {
    let name = job.metadata.name.as_deref().unwrap_or_default();
    let namespace = job.metadata.namespace.as_deref().unwrap_or_default();
    let prefix = match new.index {
        None => format!("{name}-"),
        Some(index) => {
            let suffix = format!("-{index}-");
            let room = PREFIX_MAX_BYTES.saturating_sub(suffix.len());
            format!("{}{suffix}", &name[..name.len().min(room)])
        }
    };
    let mut pod = pod::from_template(&spec.template, namespace, prefix, controller);
    let finalizers = pod.metadata.finalizers.get_or_insert_default();
    if !finalizers.iter().any(|finalizer| finalizer == TRACKING) {
        finalizers.push(TRACKING.to_owned());
    }
    let Some(index) = new.index else { return pod };
    let annotations = pod.metadata.annotations.get_or_insert_default();
    annotations.insert(COMPLETION_INDEX.to_owned(), index.to_string());
    if let Some((counted, ignored)) = new.failures {
        annotations.insert(FAILURE_COUNT.to_owned(), counted.to_string());
        if ignored > 0 {
            annotations.insert(IGNORED_FAILURE_COUNT.to_owned(), ignored.to_string());
        }
    }
    let labels = pod.metadata.labels.get_or_insert_default();
    labels.insert(COMPLETION_INDEX.to_owned(), index.to_string());
    if let Some(spec) = &mut pod.spec {
        spec.hostname = Some(format!("{name}-{index}"));
        spec.containers.iter_mut().for_each(add_index_variable);
        spec.init_containers.iter_mut().flatten().for_each(add_index_variable);
    }
    pod
}

fn add_index_variable(container: &mut Container) {
    let variables = container.env.get_or_insert_default();
    if variables.iter().any(|variable| variable.name == INDEX_VARIABLE) {
        return;
    }
    variables.push(EnvVar {
        name: INDEX_VARIABLE.to_owned(),
        value_from: Some(EnvVarSource {
            field_ref: Some(ObjectFieldSelector {
                api_version: None,
                field_path: format!("metadata.labels['{COMPLETION_INDEX}']"),
            }),
            ..EnvVarSource::default()
        }),
        ..EnvVar::default()
    });
}
