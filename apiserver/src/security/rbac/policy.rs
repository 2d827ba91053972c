//! All roles and bindings, indexed by the users that they are for.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use super::super::objects::ObjectChange;
use super::aggregation::aggregated;
use super::grant::Holder;
use super::object::{Binding, PolicyObject, Role, Subject};
use super::rules::Rules;

/// Every role and binding. A change costs some map entries: it has been read before.
#[derive(Default)]
pub(super) struct Policy {
    kept: [Kept; Type::ALL.len()],
    /// The rules of each aggregated ClusterRole, in parts.
    aggregated: HashMap<Box<str>, Box<[Arc<Rules>]>>,
    /// The bindings of each namespace; the empty one has those of the cluster.
    grants: HashMap<Box<str>, Grants>,
}

/// The objects of one type by namespace, which is empty for those of the cluster, and by name.
type Kept = HashMap<Box<str>, BTreeMap<Box<str>, Arc<PolicyObject>>>;

/// The bindings of one namespace by their subjects.
#[derive(Default)]
struct Grants {
    users: Index,
    groups: Index,
}

/// Bindings in the order of their names.
type Index = HashMap<Arc<str>, Vec<Arc<Binding>>>;

/// The types that the policy is made of.
#[derive(Clone, Copy, Debug)]
pub(super) enum Type {
    ClusterRoles,
    ClusterRoleBindings,
    Roles,
    RoleBindings,
}

impl Type {
    pub(super) const ALL: [Self; 4] =
        [Self::ClusterRoles, Self::ClusterRoleBindings, Self::Roles, Self::RoleBindings];

    pub(super) fn plural(self) -> &'static str {
        match self {
            Self::ClusterRoles => "clusterroles",
            Self::ClusterRoleBindings => "clusterrolebindings",
            Self::Roles => "roles",
            Self::RoleBindings => "rolebindings",
        }
    }
}

impl Policy {
    /// The changes that make the policy hold exactly the objects of that type that are listed,
    /// without their revisions.
    pub(super) fn differences(
        &self,
        kind: Type,
        listed: Vec<Arc<PolicyObject>>,
    ) -> Vec<ObjectChange> {
        let kept = &self.kept[kind as usize];
        let mut changes = Vec::new();
        let mut change = |(namespace, name): (&str, &str), object| {
            let (namespace, name) = (namespace.to_owned(), name.to_owned());
            changes.push(ObjectChange { namespace, name, object, revision: 0 });
        };
        let mut present = 0;
        for object in &listed {
            let (namespace, name) = object.place();
            let known = kept.get(namespace).and_then(|objects| objects.get(name));
            present += usize::from(known.is_some());
            if !known.is_some_and(|known| Arc::ptr_eq(known, object)) {
                change(object.place(), Some(object.clone()));
            }
        }
        if present < kept.values().map(BTreeMap::len).sum() {
            let listed: HashSet<_> = listed.iter().map(|object| object.place()).collect();
            let places = kept.iter().flat_map(|(namespace, objects)| {
                objects.keys().map(|name| (&**namespace, &**name))
            });
            places.filter(|place| !listed.contains(place)).for_each(|place| change(place, None));
        }
        changes
    }

    /// Follows changes of objects of one type.
    pub(super) fn apply(&mut self, kind: Type, changes: Vec<ObjectChange>) {
        let aggregates = matches!(kind, Type::ClusterRoles) && !changes.is_empty();
        for ObjectChange { namespace, name, object, .. } in changes {
            let new = object.as_deref().and_then(PolicyObject::binding).cloned();
            let old = set(&mut self.kept[kind as usize], &namespace, name, object);
            let old = old.as_deref().and_then(PolicyObject::binding);
            if old.is_some() || new.is_some() {
                self.follow(namespace, old, new.as_ref());
            }
        }
        if aggregates {
            let roles = self.kept[Type::ClusterRoles as usize].get("");
            let roles: Vec<&Role> = roles
                .iter()
                .flat_map(|roles| roles.values())
                .filter_map(|object| object.role())
                .collect();
            self.aggregated = aggregated(&roles);
        }
    }

    /// Takes the subjects of a binding out of the index, and puts those of the new one in.
    fn follow(
        &mut self,
        namespace: String,
        old: Option<&Arc<Binding>>,
        new: Option<&Arc<Binding>>,
    ) {
        let namespace: Box<str> = namespace.into();
        let of_namespace = self.grants.entry(namespace.clone()).or_default();
        for (binding, subject) in subjects(old) {
            let (index, holder) = of_namespace.index(subject);
            if let Some(bindings) = index.get_mut(holder) {
                if let Ok(at) = bindings.binary_search_by(|other| other.name.cmp(&binding.name)) {
                    bindings.remove(at);
                }
                if bindings.is_empty() {
                    index.remove(holder);
                }
            }
        }
        for (binding, subject) in subjects(new) {
            let (index, holder) = of_namespace.index(subject);
            let bindings = index.entry(holder.clone()).or_insert_with(|| Vec::with_capacity(1));
            match bindings.binary_search_by(|other| other.name.cmp(&binding.name)) {
                Ok(at) => bindings[at] = binding.clone(),
                Err(at) => bindings.insert(at, binding.clone()),
            }
        }
        if of_namespace.users.is_empty() && of_namespace.groups.is_empty() {
            self.grants.remove(&namespace);
        }
    }

    /// The bindings of a namespace, or those of the cluster where it is empty, that name the holder.
    pub(super) fn bindings(&self, namespace: &str, holder: Holder<'_>) -> &[Arc<Binding>] {
        let found = self.grants.get(namespace).and_then(|grants| match holder {
            Holder::User(name) => grants.users.get(name),
            Holder::Group(name) => grants.groups.get(name),
        });
        found.map(Vec::as_slice).unwrap_or_default()
    }

    /// The rules of a role, in parts; `None` if there is no such role.
    pub(super) fn role(&self, kind: &str, namespace: &str, name: &str) -> Option<&[Arc<Rules>]> {
        let (kind, namespace) = match kind {
            "ClusterRole" => (Type::ClusterRoles, ""),
            "Role" => (Type::Roles, namespace),
            _ => return None,
        };
        let role = self.kept[kind as usize].get(namespace)?.get(name)?.role()?;
        // One without selectors has its own rules.
        let aggregated = role.aggregation.as_ref().and_then(|_| self.aggregated.get(name));
        Some(aggregated.map_or(std::slice::from_ref(&role.rules), |rules| rules))
    }
}

/// Sets the object at a place or removes it there, and returns the one that was there before.
fn set(
    kept: &mut Kept,
    namespace: &str,
    name: String,
    new: Option<Arc<PolicyObject>>,
) -> Option<Arc<PolicyObject>> {
    if let Some(new) = new {
        return kept.entry(namespace.into()).or_default().insert(name.into(), new);
    }
    let objects = kept.get_mut(namespace)?;
    let old = objects.remove(name.as_str());
    if objects.is_empty() {
        kept.remove(namespace);
    }
    old
}

/// Each subject of a binding, if there is one, with the binding.
fn subjects(binding: Option<&Arc<Binding>>) -> impl Iterator<Item = (&Arc<Binding>, &Subject)> {
    binding
        .into_iter()
        .flat_map(|binding| binding.subjects.iter().map(move |subject| (binding, subject)))
}

impl Grants {
    /// The index in which a subject is, and its name there.
    fn index<'a>(&mut self, subject: &'a Subject) -> (&mut Index, &'a Arc<str>) {
        match subject {
            Subject::User(name) => (&mut self.users, name),
            Subject::Group(name) => (&mut self.groups, name),
        }
    }
}
