//! The rules of aggregated ClusterRoles: those of all roles that their selectors select (upstream's
//! ClusterRole aggregation controller). They are written so that people can read them; what a user
//! may do follows from the selectors alone.

use std::future::Future;
use std::sync::Arc;

use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule};
use kube::Api;
use kube::api::ListParams;
use serde_json::json;

use crate::cache::ObjectKey;
use crate::context::Context;
use crate::error::Error;
use crate::inventory::Inventory;
use crate::queue::{Queue, Requeue};
use crate::{request, selector};

/// Subscribes to roles and returns the worker, to be run when the caches are filled.
pub fn workers(
    context: &Arc<Context>,
    inventory: &Arc<Inventory>,
) -> impl Future<Output = ()> + Send + use<> {
    let queue: Arc<Queue<()>> = Queue::new();
    let wake = queue.clone();
    let kind = inventory.find("rbac.authorization.k8s.io/v1", "ClusterRole");
    inventory.on_sighting(move |sighting| {
        if Some(sighting.kind) == kind {
            wake.add(());
        }
    });
    context.serve(&queue, "clusterrole-aggregation-controller", 1, |context, ()| reconcile(context))
}

/// Roles change so rarely that they are not worth a cache.
async fn reconcile(context: Arc<Context>) -> Result<Requeue, Error> {
    let api: Api<ClusterRole> = Api::all(context.client.clone());
    let key = ObjectKey::new("", "");
    let list = api.list(&ListParams::default()).await;
    let mut roles = list.map_err(request::failed::<ClusterRole>("list", &key))?.items;
    roles.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
    for role in &roles {
        let Some(rules) = outdated(role, &roles) else { continue };
        let patch = json!({
            "metadata": {"uid": role.metadata.uid, "resourceVersion": role.metadata.resource_version},
            "rules": rules,
        });
        // The change of this role is seen, and then those that select it have their turn.
        request::merge::<ClusterRole>(&context.client, &ObjectKey::of(role), &patch).await?;
    }
    Ok(Requeue::Never)
}

/// The rules that `role` should have, where it has others. In which order it has them is its own
/// business.
fn outdated(role: &ClusterRole, roles: &[ClusterRole]) -> Option<Vec<PolicyRule>> {
    let selectors = role.aggregation_rule.as_ref()?.cluster_role_selectors.as_deref();
    let mut wanted: Vec<PolicyRule> = Vec::new();
    for selector in selectors.unwrap_or_default() {
        let selected = roles.iter().filter(|other| {
            other.metadata.name != role.metadata.name
                && selector::matches(selector, other.metadata.labels.as_ref())
        });
        for rule in selected.flat_map(|other| other.rules.iter().flatten()) {
            if !wanted.contains(rule) {
                wanted.push(rule.clone());
            }
        }
    }
    let known = role.rules.as_deref().unwrap_or_default();
    let same = wanted.iter().all(|rule| known.contains(rule))
        && known.iter().all(|rule| wanted.contains(rule));
    (!same).then_some(wanted)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn role(name: &str, label: &str, resources: &[&str], selects: Option<&str>) -> ClusterRole {
        let rules: Vec<Value> = resources
            .iter()
            .map(|resource| json!({"apiGroups": [""], "resources": [resource], "verbs": ["get"]}))
            .collect();
        let rule = selects
            .map(|label| json!({"clusterRoleSelectors": [{"matchLabels": {label: "true"}}]}));
        serde_json::from_value(json!({
            "metadata": {"name": name, "labels": {label: "true"}},
            "rules": rules,
            "aggregationRule": rule,
        }))
        .unwrap()
    }

    fn resources(rules: Option<Vec<PolicyRule>>) -> Option<String> {
        let names = |rule: PolicyRule| rule.resources.unwrap().join(",");
        rules.map(|rules| rules.into_iter().map(names).collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn selected_roles_give_their_rules_once() {
        let mut roles = vec![
            role("a", "part", &["pods", "services"], None),
            role("b", "part", &["services", "secrets"], None),
            role("other", "else", &["nodes"], None),
            // It does not aggregate itself.
            role("sum", "part", &["events"], Some("part")),
        ];
        let sum = |roles: &[ClusterRole]| resources(outdated(&roles[3], roles));
        assert_eq!(sum(&roles).as_deref(), Some("pods services secrets"));
        assert_eq!(resources(outdated(&roles[0], &roles)), None);
        // What is there in another order stays.
        roles[3] = role("sum", "part", &["secrets", "services", "pods"], Some("part"));
        assert_eq!(sum(&roles), None);
        roles[1].metadata.labels = None;
        assert_eq!(sum(&roles).as_deref(), Some("pods services"));
        roles[0].rules = None;
        assert_eq!(sum(&roles).as_deref(), Some(""));
    }
}
