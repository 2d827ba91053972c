//! The rules of aggregated ClusterRoles: those of the roles that they select.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde_json::Value;

use super::object::Role;
use super::rules::Rules;

/// Returns the rules of every aggregated ClusterRole: those of the roles that it selects, and these
/// may be aggregated in turn. None is copied.
pub(super) fn aggregated(roles: &[&Role]) -> HashMap<Box<str>, Box<[Arc<Rules>]>> {
    let selected: Vec<Option<Vec<usize>>> = roles
        .iter()
        .map(|role| {
            let selectors = role.aggregation.as_ref()?["clusterRoleSelectors"].as_array()?;
            let selects =
                |other: &Role| selectors.iter().any(|selector| selects(selector, &other.labels));
            Some((0..roles.len()).filter(|at| selects(roles[*at])).collect())
        })
        .collect();
    let mut aggregated = HashMap::new();
    for (at, role) in roles.iter().enumerate().filter(|(at, _)| selected[*at].is_some()) {
        let mut rules = Vec::new();
        let mut seen = vec![false; roles.len()];
        let mut todo = vec![at];
        while let Some(at) = todo.pop() {
            if std::mem::replace(&mut seen[at], true) {
                continue;
            }
            match &selected[at] {
                // Deepest last, so that the order is that of the roles.
                Some(members) => todo.extend(members.iter().rev()),
                None => rules.push(roles[at].rules.clone()),
            }
        }
        aggregated.insert(role.name.clone(), rules.into());
    }
    aggregated
}

/// `metav1.LabelSelector`; an empty one selects nothing here, as in upstream's aggregation.
fn selects(selector: &Value, labels: &BTreeMap<String, String>) -> bool {
    let pairs = selector["matchLabels"].as_object();
    let expressions = selector["matchExpressions"].as_array();
    if pairs.is_none_or(serde_json::Map::is_empty) && expressions.is_none_or(Vec::is_empty) {
        return false;
    }
    let pairs_hold = pairs.into_iter().flatten().all(|(key, value)| {
        labels.get(key).map(String::as_str) == value.as_str().or(Some(""))
            && labels.contains_key(key)
    });
    pairs_hold
        && expressions.into_iter().flatten().all(|expression| {
            let own = expression["key"].as_str().and_then(|key| labels.get(key));
            let listed = || {
                let values = expression["values"].as_array().into_iter().flatten();
                own.is_some_and(|own| values.filter_map(Value::as_str).any(|v| v == own))
            };
            match expression["operator"].as_str() {
                Some("In") => listed(),
                Some("NotIn") => !listed(),
                Some("Exists") => own.is_some(),
                Some("DoesNotExist") => own.is_none(),
                _ => false,
            }
        })
}
