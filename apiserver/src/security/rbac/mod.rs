//! Role-based access control: who holds which rules, and do they allow this.

mod cover;
mod default_roles;
mod escalation;
mod policy;
mod rule;

use std::collections::{BTreeSet, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::Value;

pub use default_roles::{default_objects, missing_objects};
pub use rule::Rule;

use super::user::MASTERS;
use super::{Attributes, Changes, Decision, Objects, Refusal, User};
use policy::Policy;

pub(super) const GROUP: &str = "rbac.authorization.k8s.io";
const TYPES: [&str; 4] = ["clusterroles", "clusterrolebindings", "roles", "rolebindings"];

/// Items of rules that are compared for one request: some ten milliseconds.
const STEPS_MAX: usize = 1_000_000;
/// The part of that which finding the role of one binding takes.
const GRANT_STEPS: usize = 20;
/// Roles without which bindings are, as a refusal lists them.
const MISSING_ROLES_MAX: usize = 32;

/// Refuses what cannot be decided within its bound.
fn too_much() -> Decision {
    let reason = format!(
        "RBAC: the user has more bindings and rules than are compared for one request \
         ({STEPS_MAX} steps)"
    );
    Decision { allowed: false, reason }
}

/// The authorizer over the roles and bindings in the store.
///
/// Invariant: a decision sees every role and binding that was visible when it was asked for.
pub(super) struct Rbac {
    objects: Arc<dyn Objects>,
    cached: Mutex<Cached>,
}

struct Cached {
    revision: Option<u64>,
    watches: Vec<Box<dyn Changes>>,
    policy: Arc<Policy>,
}

impl Rbac {
    pub(super) fn new(objects: Arc<dyn Objects>) -> Self {
        let cached =
            Cached { revision: None, watches: Vec::new(), policy: Arc::new(Policy::default()) };
        Self { objects, cached: Mutex::new(cached) }
    }

    /// The roles as they are now; parsed again only when one of them changed.
    fn policy(&self) -> Arc<Policy> {
        let mut cached = self.cached.lock().unwrap_or_else(PoisonError::into_inner);
        let revision = self.objects.revision();
        if cached.revision == Some(revision) {
            return cached.policy.clone();
        }
        let first = cached.watches.is_empty();
        if first {
            cached.watches =
                TYPES.iter().map(|plural| self.objects.changes(GROUP, plural)).collect();
        }
        // Every watch must be asked, or it would report the same change again.
        let changed = cached.watches.iter_mut().fold(first, |any, watch| watch.changed() | any);
        if changed {
            let [cluster_roles, cluster_bindings, roles, bindings] =
                TYPES.map(|plural| self.objects.list(GROUP, plural));
            cached.policy =
                Arc::new(Policy::parse(&cluster_roles, &cluster_bindings, &roles, &bindings));
        }
        cached.revision = Some(revision);
        cached.policy.clone()
    }

    pub(super) fn authorize(&self, attributes: &Attributes<'_>) -> Decision {
        if attributes.user.in_group(MASTERS) {
            return Decision { allowed: true, reason: String::new() };
        }
        let policy = self.policy();
        let mut missing = BTreeSet::new();
        // Many bindings may name one role.
        let mut denied = HashSet::new();
        let mut steps = STEPS_MAX;
        for grant in policy.grants(attributes.user, attributes.namespace) {
            let Some(left) = steps.checked_sub(GRANT_STEPS) else { return too_much() };
            steps = left;
            let Some(rules) = policy.rules(grant) else {
                if missing.len() < MISSING_ROLES_MAX {
                    missing.insert(grant.missing_role());
                }
                continue;
            };
            if !denied.insert((rules.as_ptr(), rules.len())) {
                continue;
            }
            for rule in rules {
                let Some(left) = steps.checked_sub(rule.steps()) else { return too_much() };
                steps = left;
                if rule.allows(attributes) {
                    return Decision { allowed: true, reason: grant.to_string() };
                }
            }
        }
        let missing: Vec<String> = missing.into_iter().collect();
        let reason = match missing.as_slice() {
            [] => String::new(),
            [one] => format!("RBAC: {one}"),
            many => format!("RBAC: [{}]", many.join(", ")),
        };
        Decision { allowed: false, reason }
    }

    /// Every rule that the user holds in a namespace (at cluster scope when it is empty).
    pub(super) fn rules_for(&self, user: &User, namespace: &str) -> Vec<Rule> {
        let policy = self.policy();
        let mut rules: Vec<Rule> = Vec::new();
        if user.in_group(MASTERS) {
            rules.extend(Rule::everything());
        }
        // Many bindings may name one role, and many roles hold one rule.
        let mut roles = HashSet::new();
        let mut seen: HashSet<&Rule> = HashSet::new();
        for grant in policy.grants(user, namespace) {
            let of_role = policy.rules(grant).unwrap_or_default();
            if roles.insert((of_role.as_ptr(), of_role.len())) {
                rules.extend(of_role.iter().filter(|rule| seen.insert(rule)).cloned());
            }
        }
        rules
    }

    /// Refuses a write to a role or binding that would give somebody more than the writer holds.
    pub(super) fn check_write(
        &self,
        user: &User,
        plural: &str,
        namespace: &str,
        object: &Value,
        old: Option<&Value>,
    ) -> Result<(), Refusal> {
        escalation::check(self, user, plural, namespace, object, old)
    }

    /// The rules of the role that a `roleRef` names; `None` when there is no such role.
    fn referenced(&self, namespace: &str, role_ref: &Value) -> Option<Vec<Rule>> {
        let policy = self.policy();
        let name = role_ref["name"].as_str()?;
        policy.role(role_ref["kind"].as_str()?, namespace, name).map(<[Rule]>::to_vec)
    }
}

#[cfg(test)]
pub(crate) mod tests;
