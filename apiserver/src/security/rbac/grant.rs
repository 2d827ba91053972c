//! The way through what the bindings give a user, within the bound on one request.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt::Write;
use std::sync::Arc;

use super::super::User;
use super::object::Binding;
use super::policy::Policy;
use super::rules::Rules;

/// Items of rules that are compared for one request: some two milliseconds.
pub(super) const STEPS_MAX: usize = 200_000;
/// The part of that which one lookup takes: of a subject's bindings, or of a binding's role.
const LOOKUP_STEPS: usize = 20;
/// Roles whose rules are known as compared without an allocation.
const FEW_ROLES: usize = 16;

/// Bytes that most reasons of decisions have room in.
const REASON_BYTES: usize = 192;

/// The reason why bindings and rules are not compared to the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "RBAC: the user has more bindings and rules than are compared for one request \
     ({STEPS_MAX} steps)"
)]
pub(in crate::security) struct TooMuch;

/// The work that is left for one request.
pub(super) struct Steps(usize);

impl Steps {
    pub(super) fn take(&mut self, steps: usize) -> Result<(), TooMuch> {
        self.0 = self.0.checked_sub(steps).ok_or(TooMuch)?;
        Ok(())
    }
}

/// The name by which bindings are looked up.
#[derive(Clone, Copy)]
pub(super) enum Holder<'a> {
    User(&'a str),
    Group(&'a str),
}

/// One subject of one binding.
pub(super) struct Grant<'a> {
    holder: Holder<'a>,
    pub(super) binding: &'a Binding,
    /// The rules of its role, in parts; `None` if there is no such role.
    pub(super) rules: Option<&'a [Arc<Rules>]>,
}

impl Policy {
    /// Visits what bindings give the user in a namespace, cluster-wide ones first, until one visit
    /// returns something or there is too much.
    pub(super) fn visit<'a, T>(
        &'a self,
        user: &'a User,
        namespace: &str,
        mut visit: impl FnMut(&Grant<'a>, &mut Steps) -> Result<Option<T>, TooMuch>,
    ) -> Result<Option<T>, TooMuch> {
        let mut steps = Steps(STEPS_MAX);
        for place in std::iter::once("").chain(Some(namespace).filter(|name| !name.is_empty())) {
            let groups = user.groups.iter().map(|group| Holder::Group(group));
            for holder in std::iter::once(Holder::User(&user.name)).chain(groups) {
                steps.take(LOOKUP_STEPS)?;
                for binding in self.bindings(place, holder) {
                    steps.take(LOOKUP_STEPS)?;
                    let role = &binding.role;
                    let rules = self.role(&role.kind, &binding.namespace, &role.name);
                    let found = visit(&Grant { holder, binding, rules }, &mut steps)?;
                    if found.is_some() {
                        return Ok(found);
                    }
                }
            }
        }
        Ok(None)
    }
}

impl Grant<'_> {
    /// The reason that an access review gives, in one allocation if its names have one part.
    pub(super) fn reason(&self) -> String {
        let Binding { namespace, name, role, .. } = self.binding;
        let (kind, name) = if namespace.is_empty() {
            ("ClusterRoleBinding", Cow::from(&**name))
        } else {
            ("RoleBinding", format!("{name}/{namespace}").into())
        };
        let (subject_kind, subject) = match self.holder {
            Holder::User(name) => match service_account_name(name) {
                Some((namespace, name)) => ("ServiceAccount", format!("{name}/{namespace}").into()),
                None => ("User", Cow::from(name)),
            },
            Holder::Group(name) => ("Group", name.into()),
        };
        let mut text = String::with_capacity(REASON_BYTES);
        // Writing to a text does not fail.
        let _ = write!(
            text,
            "RBAC: allowed by {kind} {name:?} of {} {:?} to {subject_kind} {subject:?}",
            role.kind, role.name
        );
        text
    }
}

/// Namespace and name in `system:serviceaccount:<namespace>:<name>`.
fn service_account_name(user: &str) -> Option<(&str, &str)> {
    user.strip_prefix("system:serviceaccount:")?.split_once(':')
}

/// Rules that have been looked at, by their addresses: many bindings may name one role.
#[derive(Default)]
pub(super) struct Seen {
    few: [usize; FEW_ROLES],
    count: usize,
    many: HashSet<usize>,
}

impl Seen {
    /// Returns whether the rules come for the first time. They are held as long as this is used.
    pub(super) fn insert(&mut self, rules: &Rules) -> bool {
        let address = std::ptr::from_ref(rules).addr();
        if self.few[..self.count].contains(&address) {
            return false;
        }
        if self.count == FEW_ROLES {
            return self.many.insert(address);
        }
        self.few[self.count] = address;
        self.count += 1;
        true
    }
}
