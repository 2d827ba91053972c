//! The two policies of a Job: what a failed pod means, and when enough has succeeded.

use k8s_openapi::api::batch::v1::{
    PodFailurePolicy, PodFailurePolicyOnExitCodesRequirement, SuccessPolicy,
};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};

use crate::job::indexes::Indexes;
use crate::pod;

/// What the failure of one pod means for its Job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It counts towards the back-off limit.
    Count,
    /// It does not count.
    Ignore,
    /// Its index has failed.
    FailIndex,
    /// The Job has failed, for this reason.
    FailJob(String),
}

impl Verdict {
    /// Whether the failure is counted.
    pub fn counts(&self) -> bool {
        *self != Self::Ignore
    }
}

/// Judges a failed pod by the first rule that matches it.
pub fn judge(policy: Option<&PodFailurePolicy>, failed: &Pod) -> Verdict {
    let rules = policy.map(|policy| policy.rules.as_slice()).unwrap_or_default();
    for (index, rule) in rules.iter().enumerate() {
        let name = || {
            let part = |text: &Option<String>| text.clone().unwrap_or_default();
            format!("{}/{}", part(&failed.metadata.namespace), part(&failed.metadata.name))
        };
        let action = rule.action.as_str();
        let reason = if let Some(requirement) = &rule.on_exit_codes {
            exited_with(requirement, failed).map(|(container, code)| {
                format!(
                    "Container {container} for pod {} failed with exit code {code} matching \
                     {action} rule at index {index}",
                    name()
                )
            })
        } else {
            let patterns = rule.on_pod_conditions.iter().flatten();
            patterns
                .filter(|pattern| {
                    pod::condition(failed, &pattern.type_)
                        .is_some_and(|condition| condition.status == pattern.status)
                })
                .map(|pattern| {
                    format!(
                        "Pod {} has condition {} matching {action} rule at index {index}",
                        name(),
                        pattern.type_
                    )
                })
                .next()
        };
        let Some(reason) = reason else { continue };
        match action {
            "FailJob" => return Verdict::FailJob(reason),
            "FailIndex" => return Verdict::FailIndex,
            "Ignore" => return Verdict::Ignore,
            "Count" => return Verdict::Count,
            // An action of a later version: the rule says nothing to us.
            _ => {}
        }
    }
    Verdict::Count
}

/// The container and exit code that meet the requirement.
fn exited_with<'a>(
    requirement: &PodFailurePolicyOnExitCodesRequirement,
    pod: &'a Pod,
) -> Option<(&'a str, i32)> {
    let status = pod.status.as_ref()?;
    let containers = status.container_statuses.iter().flatten();
    let all = containers.chain(status.init_container_statuses.iter().flatten());
    let ended = |container: &'a ContainerStatus| {
        let code = container.state.as_ref()?.terminated.as_ref()?.exit_code;
        Some((container.name.as_str(), code))
    };
    all.filter_map(ended).find(|(name, code)| {
        let meant = requirement.container_name.as_deref().is_none_or(|wanted| wanted == *name);
        let listed = requirement.values.contains(code);
        meant
            && *code != 0
            && match requirement.operator.as_str() {
                "In" => listed,
                "NotIn" => !listed,
                _ => false,
            }
    })
}

/// Why the Job has succeeded, once a rule of its success policy is met.
pub fn success(
    policy: Option<&SuccessPolicy>,
    completions: i32,
    succeeded: &Indexes,
) -> Option<String> {
    if succeeded.total() == 0 {
        return None;
    }
    let rules = policy.map(|policy| policy.rules.as_slice()).unwrap_or_default();
    let met =
        rules.iter().position(|rule| match (&rule.succeeded_indexes, rule.succeeded_count) {
            (Some(wanted), count) => {
                let wanted = Indexes::parse(wanted, completions);
                succeeded.common(&wanted) >= count.unwrap_or(wanted.total())
            }
            (None, Some(count)) => succeeded.total() >= count,
            (None, None) => false,
        })?;
    Some(format!("Matched rules at index {met}"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::fixture;

    #[test]
    fn the_first_matching_rule_decides() {
        let policy: PodFailurePolicy = serde_json::from_value(json!({"rules": [
            {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
            {"action": "FailJob", "onExitCodes": {"containerName": "main", "operator": "In", "values": [42]}},
            {"action": "FailIndex", "onExitCodes": {"operator": "In", "values": [43]}},
            {"action": "Count", "onExitCodes": {"operator": "NotIn", "values": [1]}},
        ]}))
        .unwrap();
        let pod = |container: &str, code: i32, conditions: serde_json::Value| {
            let ended = json!({"name": container, "state": {"terminated": {"exitCode": code}}});
            let status = json!({"phase": "Failed", "conditions": conditions,
                "containerStatuses": [ended]});
            fixture::pod("p", json!({"status": status}))
        };
        let none = json!([]);
        assert_eq!(
            judge(Some(&policy), &pod("main", 42, none.clone())),
            Verdict::FailJob(
                "Container main for pod default/p failed with exit code 42 matching FailJob rule at index 1"
                    .to_owned()
            )
        );
        assert_eq!(judge(Some(&policy), &pod("side", 42, none.clone())), Verdict::Count);
        assert_eq!(judge(Some(&policy), &pod("side", 43, none.clone())), Verdict::FailIndex);
        assert_eq!(judge(Some(&policy), &pod("main", 1, none.clone())), Verdict::Count);
        assert_eq!(judge(None, &pod("main", 42, none)), Verdict::Count);
        let disrupted = json!([{"type": "DisruptionTarget", "status": "True"}]);
        assert_eq!(judge(Some(&policy), &pod("main", 42, disrupted)), Verdict::Ignore);
    }

    #[test]
    fn a_success_rule_names_indexes_or_a_count_or_both() {
        let met = |rule: serde_json::Value, done: &str| {
            let policy: SuccessPolicy = serde_json::from_value(json!({"rules": [rule]})).unwrap();
            success(Some(&policy), 10, &Indexes::parse(done, 10)).is_some()
        };
        assert!(met(json!({"succeededIndexes": "0,2"}), "0-2"));
        assert!(!met(json!({"succeededIndexes": "0,2"}), "0,1"));
        assert!(met(json!({"succeededIndexes": "0-5", "succeededCount": 1}), "3"));
        assert!(met(json!({"succeededCount": 2}), "7,9"));
        assert!(!met(json!({"succeededCount": 3}), "7,9"));
        assert_eq!(success(None, 10, &Indexes::parse("0-9", 10)), None);
    }
}
