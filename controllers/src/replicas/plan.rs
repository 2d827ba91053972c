//! Deciding how many pods to create or which to delete, and what the status says.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::ReplicaSetCondition;
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::burst::{self, BURST_PODS};
use crate::pod::{self, Availability};
use crate::selector::{self, Labels};

/// What is known of one owner.
pub struct Observed<'a> {
    /// How many pods are wanted.
    pub replicas: i32,
    /// How long a pod must be ready to be available.
    pub min_ready_seconds: i32,
    /// The template.
    pub template: &'a PodTemplateSpec,
    /// The owner is being deleted: its pods are left to the garbage collector.
    pub deleting: bool,
    /// Everything asked for earlier has been seen.
    pub settled: bool,
    /// Every pod the owner controls.
    pub pods: &'a [Arc<Pod>],
    /// The time.
    pub now: Timestamp,
}

/// What to do about one owner.
#[derive(Debug, Default)]
pub struct Plan {
    /// How many pods to create.
    pub create: usize,
    /// Which pods to delete.
    pub delete: Vec<Arc<Pod>>,
    /// The counts for the status.
    pub status: Status,
    /// When a pod becomes available just by the passing of time.
    pub available_after: Option<Duration>,
}

/// The counts of a status.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Active pods.
    pub replicas: i32,
    /// Active pods with all labels of the template.
    pub fully_labeled: i32,
    /// Ready pods.
    pub ready: i32,
    /// Available pods.
    pub available: i32,
}

/// Why pods could not be created or deleted.
#[derive(Clone, Debug, PartialEq)]
pub struct Failure {
    /// `FailedCreate` or `FailedDelete`.
    pub reason: &'static str,
    /// The first error.
    pub message: String,
}

/// Compares what is wanted with what is there.
pub fn plan(observed: &Observed<'_>) -> Plan {
    let mut active: Vec<Arc<Pod>> =
        observed.pods.iter().filter(|pod| pod::is_active(pod)).cloned().collect();
    let mut plan = Plan::default();
    count(observed, &active, &mut plan);
    if observed.deleting || !observed.settled {
        return plan;
    }
    let wanted = usize::try_from(observed.replicas).unwrap_or(0);
    if active.len() < wanted {
        plan.create = (wanted - active.len()).min(burst::pods(observed.template));
    } else if active.len() > wanted {
        let surplus = (active.len() - wanted).min(BURST_PODS);
        pod::sort_for_deletion(&mut active, observed.now);
        active.truncate(surplus);
        plan.delete = active;
    }
    plan
}

fn count(observed: &Observed<'_>, active: &[Arc<Pod>], plan: &mut Plan) {
    let none = Labels::new();
    let labels =
        observed.template.metadata.as_ref().and_then(|meta| meta.labels.as_ref()).unwrap_or(&none);
    for pod in active {
        plan.status.replicas += 1;
        if selector::matches_map(labels, pod.metadata.labels.as_ref()) {
            plan.status.fully_labeled += 1;
        }
        if !pod::is_ready(pod) {
            continue;
        }
        plan.status.ready += 1;
        match pod::availability(pod, observed.min_ready_seconds, observed.now) {
            Availability::Available => plan.status.available += 1,
            Availability::After(left) => {
                let sooner = plan.available_after.is_none_or(|known| left < known);
                if sooner {
                    plan.available_after = Some(left);
                }
            }
            Availability::Unavailable => {}
        }
    }
}

/// The conditions after a round that failed or succeeded.
pub fn conditions(
    known: &[ReplicaSetCondition],
    failure: Option<&Failure>,
    now: Timestamp,
) -> Vec<ReplicaSetCondition> {
    const KIND: &str = "ReplicaFailure";
    let current = known.iter().find(|condition| condition.type_ == KIND);
    let mut conditions: Vec<_> =
        known.iter().filter(|condition| condition.type_ != KIND).cloned().collect();
    if let Some(failure) = failure {
        let same = current.filter(|current| {
            current.status == "True" && current.reason.as_deref() == Some(failure.reason)
        });
        conditions.push(same.cloned().unwrap_or_else(|| ReplicaSetCondition {
            type_: KIND.to_owned(),
            status: "True".to_owned(),
            reason: Some(failure.reason.to_owned()),
            message: Some(failure.message.clone()),
            last_transition_time: Some(Time(now)),
        }));
    }
    conditions
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::fixture::{self, ready};

    fn pod(name: &str, is_ready: bool, deleting: bool) -> Arc<Pod> {
        let deleted = deleting.then_some("2024-01-01T00:00:05Z");
        let more = json!({
            "metadata": {"labels": {"app": "a"}, "deletionTimestamp": deleted},
            "spec": {"nodeName": "n"},
            "status": {"phase": "Running", "conditions": [ready(is_ready, "2024-01-01T00:00:00Z")]}
        });
        fixture::pod(name, more)
    }

    fn observed<'a>(
        replicas: i32,
        template: &'a PodTemplateSpec,
        pods: &'a [Arc<Pod>],
    ) -> Observed<'a> {
        Observed {
            replicas,
            min_ready_seconds: 0,
            template,
            deleting: false,
            settled: true,
            pods,
            now: "2024-01-01T00:00:10Z".parse().unwrap(),
        }
    }

    #[test]
    fn missing_pods_are_created_and_surplus_ones_deleted() {
        let template: PodTemplateSpec =
            serde_json::from_value(json!({"metadata": {"labels": {"app": "a"}}})).unwrap();
        let pods = [pod("a", true, false), pod("b", false, false), pod("dying", true, true)];
        let up = plan(&observed(5, &template, &pods));
        assert_eq!((up.create, up.delete.len()), (3, 0));
        assert_eq!(up.status, Status { replicas: 2, fully_labeled: 2, ready: 1, available: 1 });
        let down = plan(&observed(1, &template, &pods));
        assert_eq!(down.create, 0);
        assert_eq!(down.delete[0].metadata.name.as_deref(), Some("b"));
        let even = plan(&observed(2, &template, &pods));
        assert_eq!((even.create, even.delete.len()), (0, 0));
    }

    #[test]
    fn nothing_is_decided_on_an_outdated_view() {
        let template = PodTemplateSpec::default();
        let mut outdated = observed(5, &template, &[]);
        outdated.settled = false;
        assert_eq!(plan(&outdated).create, 0);
        let mut deleting = observed(5, &template, &[]);
        deleting.deleting = true;
        assert_eq!(plan(&deleting).create, 0);
    }

    #[test]
    fn availability_by_time_asks_to_be_woken() {
        let template = PodTemplateSpec::default();
        let pods = [pod("a", true, false)];
        let mut waiting = observed(1, &template, &pods);
        waiting.min_ready_seconds = 15;
        let plan = plan(&waiting);
        assert_eq!(plan.status.available, 0);
        assert_eq!(plan.available_after, Some(Duration::from_secs(5)));
    }

    #[test]
    fn a_failure_is_a_condition_until_it_ends() {
        let now = Timestamp::UNIX_EPOCH;
        let failure = Failure { reason: "FailedCreate", message: "no".to_owned() };
        let failed = conditions(&[], Some(&failure), now);
        assert_eq!(failed[0].reason.as_deref(), Some("FailedCreate"));
        let later = conditions(&failed, Some(&failure), "2024-01-01T00:00:00Z".parse().unwrap());
        assert_eq!(later, failed);
        assert!(conditions(&failed, None, now).is_empty());
    }
}
