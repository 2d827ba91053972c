//! Role-based access control: who holds which rules, and do they allow this.

mod aggregation;
mod cover;
mod default_roles;
mod escalation;
mod grant;
mod object;
mod policy;
mod rule;
mod rules;

use std::collections::{BTreeSet, HashSet};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};

use serde_json::Value;

pub use default_roles::{default_objects, missing_objects};
pub use object::PolicyObject;
pub use rule::Rule;

use super::objects::ObjectChange;
use super::user::MASTERS;
use super::{Attributes, Changes, Decision, Objects, Refusal, User};
use grant::{Seen, TooMuch};
use object::RoleRef;
use policy::{Policy, Type};
use rules::{RuleRef, Rules};

pub(super) const GROUP: &str = "rbac.authorization.k8s.io";

/// Roles without which bindings are, as a refusal lists them.
const MISSING_ROLES_MAX: usize = 32;

/// The authorizer over the roles and bindings in the store.
///
/// Invariant: a decision sees every role and binding that was visible when it was asked for.
pub(super) struct Rbac {
    objects: Arc<dyn Objects>,
    followed: Mutex<Followed>,
    /// Changed by the holder of `followed` only.
    policy: RwLock<Policy>,
}

/// The rules that a user holds in one place.
pub(super) struct HeldRules {
    /// Each rule once.
    pub(super) rules: Vec<Rule>,
    /// The reason why there may be more.
    pub(super) incomplete: Option<TooMuch>,
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

    /// The policy as it is now. While it is held no change is followed, so no request gets further.
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

    pub(super) fn authorize(&self, attributes: &Attributes<'_>) -> Decision {
        if attributes.user.in_group(MASTERS) {
            return Decision { allowed: true, reason: String::new() };
        }
        let mut missing = BTreeSet::new();
        let mut compared = Seen::default();
        let policy = self.policy();
        let found = policy.visit(attributes.user, attributes.namespace, |grant, steps| {
            let Some(parts) = grant.rules else {
                if missing.len() < MISSING_ROLES_MAX {
                    missing.insert(&grant.binding.role);
                }
                return Ok(None);
            };
            for rules in parts {
                steps.take(1)?;
                if !compared.insert(rules) {
                    continue;
                }
                for rule in rules.iter() {
                    steps.take(rule.steps())?;
                    if rule.allows(attributes) {
                        return Ok(Some(grant.reason()));
                    }
                }
            }
            Ok(None)
        });
        match found {
            Ok(Some(reason)) => Decision { allowed: true, reason },
            Ok(None) => Decision { allowed: false, reason: named(&missing) },
            Err(too_much) => Decision { allowed: false, reason: too_much.to_string() },
        }
    }

    /// The rules that the user holds in a namespace (at cluster scope when it is empty).
    pub(super) fn rules_for(&self, user: &User, namespace: &str) -> HeldRules {
        let mut parts: Vec<Arc<Rules>> = Vec::new();
        let mut seen = Seen::default();
        // What takes long is done when the policy may change again.
        let found = self.policy().visit(user, namespace, |grant, steps| {
            for rules in grant.rules.unwrap_or_default() {
                steps.take(1)?;
                if seen.insert(rules) {
                    steps.take(rules.steps())?;
                    parts.push(rules.clone());
                }
            }
            Ok(None::<()>)
        });
        let mut rules: Vec<Rule> = Vec::new();
        if user.in_group(MASTERS) {
            rules.extend(Rule::everything());
        }
        // Many roles hold one rule.
        let mut seen = HashSet::new();
        let all = parts.iter().flat_map(|part| part.iter()).map(RuleRef::to_rule);
        rules.extend(all.filter(|rule| seen.insert(rule.clone())));
        HeldRules { rules, incomplete: found.err() }
    }

    /// Refuses a write to a role or binding that would give a user more than the writer holds.
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
        let (kind, name) = (role_ref["kind"].as_str()?, role_ref["name"].as_str()?);
        let parts = self.policy().role(kind, namespace, name)?.to_vec();
        Some(parts.iter().flat_map(|part| part.iter()).map(RuleRef::to_rule).collect())
    }
}

/// The text that names missing roles.
fn named(missing: &BTreeSet<&RoleRef>) -> String {
    let texts: Vec<String> = missing.iter().map(|role| role.missing()).collect();
    match texts.as_slice() {
        [] => String::new(),
        [one] => format!("RBAC: {one}"),
        many => format!("RBAC: [{}]", many.join(", ")),
    }
}

#[cfg(test)]
pub(crate) mod tests;
