//! Role-based access control: who holds which rules, and do they allow this.

mod cover;
mod default_roles;
mod escalation;
mod policy;
mod rule;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};

use serde_json::Value;

pub use default_roles::{default_objects, missing_objects};
pub use rule::Rule;

use super::objects::ObjectChange;
use super::user::MASTERS;
use super::{Attributes, Changes, Decision, Objects, Refusal, User};
use policy::{Grant, Policy, Type};

pub(super) const GROUP: &str = "rbac.authorization.k8s.io";

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

/// The places whose bindings count in a namespace: the cluster, and itself.
fn places(namespace: &str) -> impl Iterator<Item = &str> {
    std::iter::once("").chain(Some(namespace).filter(|namespace| !namespace.is_empty()))
}

/// The authorizer over the roles and bindings in the store.
///
/// Invariant: a decision sees every role and binding that was visible when it was asked for.
pub(super) struct Rbac {
    objects: Arc<dyn Objects>,
    followed: Mutex<Followed>,
    /// Changed by the holder of `followed` only.
    policy: RwLock<Policy>,
}

/// How far the policy follows the store.
struct Followed {
    revision: Option<u64>,
    types: Vec<FollowedType>,
}

struct FollowedType {
    kind: Type,
    changes: Box<dyn Changes>,
    /// Changes after the revision that the policy has: the types are not asked at the same moment.
    early: Vec<ObjectChange>,
}

impl Rbac {
    pub(super) fn new(objects: Arc<dyn Objects>) -> Self {
        let followed = Mutex::new(Followed { revision: None, types: Vec::new() });
        Self { objects, followed, policy: RwLock::default() }
    }

    /// The policy as it is now. What is held long is taken out of it.
    fn policy(&self) -> RwLockReadGuard<'_, Policy> {
        let mut followed = self.followed.lock().unwrap_or_else(PoisonError::into_inner);
        let revision = self.objects.revision();
        if followed.revision != Some(revision) {
            if followed.types.is_empty() {
                let follow = |kind: Type| FollowedType {
                    kind,
                    changes: self.objects.changes(GROUP, kind.plural()),
                    early: Vec::new(),
                };
                followed.types = Type::ALL.map(follow).into();
            }
            for FollowedType { kind, changes, early } in &mut followed.types {
                let mut new = std::mem::take(early);
                match changes.poll() {
                    Some(polled) => new.extend(polled),
                    None => {
                        let listed = self.objects.list(GROUP, kind.plural());
                        new = self.read().differences(*kind, listed);
                    }
                }
                *early = new.split_off(new.partition_point(|change| change.revision <= revision));
                if !new.is_empty() {
                    let mut policy = self.policy.write().unwrap_or_else(PoisonError::into_inner);
                    policy.apply(*kind, new);
                }
            }
            followed.revision = Some(revision);
        }
        self.read()
    }

    fn read(&self) -> RwLockReadGuard<'_, Policy> {
        self.policy.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// What bindings give the user in a namespace, cluster-wide ones first. Each place is looked up
    /// when the one before decided nothing, and has one more than are compared at the most.
    fn grants(&self, user: &User, namespace: &str) -> impl Iterator<Item = Grant> {
        places(namespace)
            .flat_map(|place| self.policy().grants(user, place, STEPS_MAX / GRANT_STEPS + 1))
    }

    pub(super) fn authorize(&self, attributes: &Attributes<'_>) -> Decision {
        if attributes.user.in_group(MASTERS) {
            return Decision { allowed: true, reason: String::new() };
        }
        let mut missing = BTreeSet::new();
        // Many bindings may name one role. Its rules are held, so that no others take their place.
        let mut denied = HashMap::new();
        let mut steps = STEPS_MAX;
        for grant in self.grants(attributes.user, attributes.namespace) {
            let Some(left) = steps.checked_sub(GRANT_STEPS) else { return too_much() };
            steps = left;
            let Some(rules) = &grant.rules else {
                if missing.len() < MISSING_ROLES_MAX {
                    missing.insert(grant.missing_role());
                }
                continue;
            };
            if denied.insert((rules.as_ptr(), rules.len()), rules.clone()).is_some() {
                continue;
            }
            for rule in rules.iter() {
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
        let mut rules: Vec<Rule> = Vec::new();
        if user.in_group(MASTERS) {
            rules.extend(Rule::everything());
        }
        // Many bindings may name one role, and many roles hold one rule.
        let grants: Vec<Grant> = places(namespace)
            .flat_map(|place| self.policy().grants(user, place, usize::MAX))
            .collect();
        let mut roles = HashSet::new();
        let mut seen: HashSet<&Rule> = HashSet::new();
        for of_role in grants.iter().filter_map(|grant| grant.rules.as_ref()) {
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
    fn referenced(&self, namespace: &str, role_ref: &Value) -> Option<Arc<[Rule]>> {
        let name = role_ref["name"].as_str()?;
        self.policy().role(role_ref["kind"].as_str()?, namespace, name)
    }
}

#[cfg(test)]
pub(crate) mod tests;
