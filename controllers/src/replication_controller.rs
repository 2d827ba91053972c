//! The ReplicationController controller: a ReplicaSet of before, whose selector is a plain map.

use k8s_openapi::api::apps::v1::ReplicaSetCondition;
use k8s_openapi::api::core::v1::{
    PodTemplateSpec, ReplicationController, ReplicationControllerCondition,
    ReplicationControllerStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use crate::replicas::{ReplicaOwner, Status};

impl ReplicaOwner for ReplicationController {
    const COMPONENT: &'static str = "replication-controller";

    fn replicas(&self) -> i32 {
        self.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
    }

    fn min_ready_seconds(&self) -> i32 {
        self.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or(0)
    }

    fn selector(&self) -> Option<LabelSelector> {
        let wanted = self.spec.as_ref()?.selector.clone().filter(|wanted| !wanted.is_empty())?;
        Some(LabelSelector { match_labels: Some(wanted), match_expressions: None })
    }

    fn template(&self) -> Option<&PodTemplateSpec> {
        self.spec.as_ref()?.template.as_ref()
    }

    fn conditions(&self) -> Vec<ReplicaSetCondition> {
        let conditions = self.status.iter().flat_map(|status| status.conditions.iter().flatten());
        conditions
            .cloned()
            .map(|condition| ReplicaSetCondition {
                type_: condition.type_,
                status: condition.status,
                reason: condition.reason,
                message: condition.message,
                last_transition_time: condition.last_transition_time,
            })
            .collect()
    }

    fn with_status(&self, status: Status, conditions: Vec<ReplicaSetCondition>) -> Self {
        // Counts of zero are left out, as the server stores them.
        let some = |count: i32| (count != 0).then_some(count);
        let conditions: Vec<_> = conditions
            .into_iter()
            .map(|condition| ReplicationControllerCondition {
                type_: condition.type_,
                status: condition.status,
                reason: condition.reason,
                message: condition.message,
                last_transition_time: condition.last_transition_time,
            })
            .collect();
        let mut updated = self.clone();
        updated.status = Some(ReplicationControllerStatus {
            replicas: status.replicas,
            fully_labeled_replicas: some(status.fully_labeled),
            ready_replicas: some(status.ready),
            available_replicas: some(status.available),
            observed_generation: self.metadata.generation,
            conditions: (!conditions.is_empty()).then_some(conditions),
        });
        updated
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_empty_selector_selects_nothing_and_conditions_survive() {
        let owner: ReplicationController = serde_json::from_value(json!({
            "metadata": {"name": "rc", "generation": 4},
            "spec": {"replicas": 2, "selector": {}},
            "status": {"replicas": 0, "conditions": [{"type": "ReplicaFailure", "status": "True",
                "reason": "FailedCreate", "message": "quota"}]}
        }))
        .unwrap();
        assert_eq!(owner.selector(), None);
        let updated =
            owner.with_status(Status { replicas: 2, ..Status::default() }, owner.conditions());
        let status = updated.status.unwrap();
        assert_eq!((status.replicas, status.observed_generation), (2, Some(4)));
        assert_eq!(status.conditions, owner.status.unwrap().conditions);
    }
}
