//! All roles and bindings, parsed and indexed by who they are for.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::super::User;
use super::super::objects::ObjectChange;
use super::rule::Rule;

/// Every role and binding. A change costs as much as the object that it changes.
#[derive(Default)]
pub(super) struct Policy {
    cluster_roles: BTreeMap<Place, Kept<Role>>,
    /// The rules of each ClusterRole with those that it aggregates.
    resolved: HashMap<String, Arc<[Rule]>>,
    roles: BTreeMap<Place, Kept<Role>>,
    cluster_bindings: BTreeMap<Place, Kept<Binding>>,
    bindings: BTreeMap<Place, Kept<Binding>>,
    /// The bindings of each namespace (the empty one has those of the cluster) by whom they are for
    /// and by name.
    grants: HashMap<String, HashMap<Subject, BTreeMap<String, Arc<Binding>>>>,
}

/// Namespace and name of an object; the namespace of one of the cluster is empty.
type Place = (String, String);

/// An object beside the bytes that it was read from, by which it is known when all are listed.
struct Kept<T> {
    value: Bytes,
    object: Arc<T>,
}

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

/// Whom a binding is for. A ServiceAccount is the user that its tokens prove.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Subject {
    User(String),
    Group(String),
}

/// One subject of one binding, with the rules of its role unless that is missing.
pub(super) struct Grant {
    binding: Arc<Binding>,
    subject: Arc<Subject>,
    pub(super) rules: Option<Arc<[Rule]>>,
}

impl Grant {
    pub(super) fn missing_role(&self) -> String {
        let role = &self.binding.role_ref;
        if role.kind == "Role" {
            format!("role.rbac.authorization.k8s.io {:?} not found", role.name)
        } else {
            format!("clusterrole.rbac.authorization.k8s.io {:?} not found", role.name)
        }
    }
}

/// The reason that an access review gives.
impl fmt::Display for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Binding { metadata, role_ref, .. } = &*self.binding;
        let (kind, name) = if metadata.namespace.is_empty() {
            ("ClusterRoleBinding", metadata.name.clone())
        } else {
            ("RoleBinding", format!("{}/{}", metadata.name, metadata.namespace))
        };
        let (subject_kind, subject) = match &*self.subject {
            Subject::User(name) => match service_account_name(name) {
                Some((namespace, name)) => ("ServiceAccount", format!("{name}/{namespace}")),
                None => ("User", name.clone()),
            },
            Subject::Group(name) => ("Group", name.clone()),
        };
        write!(
            f,
            "RBAC: allowed by {kind} {name:?} of {} {:?} to {subject_kind} {subject:?}",
            role_ref.kind, role_ref.name
        )
    }
}

/// Namespace and name in `system:serviceaccount:<namespace>:<name>`.
fn service_account_name(user: &str) -> Option<(&str, &str)> {
    user.strip_prefix("system:serviceaccount:")?.split_once(':')
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct Metadata {
    name: String,
    namespace: String,
    labels: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Role {
    metadata: Metadata,
    #[serde(default, deserialize_with = "shared")]
    rules: Arc<[Rule]>,
    #[serde(default)]
    aggregation_rule: Option<Value>,
}

fn shared<'de, D: Deserializer<'de>>(from: D) -> Result<Arc<[Rule]>, D::Error> {
    Ok(Option::<Vec<Rule>>::deserialize(from)?.unwrap_or_default().into())
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Binding {
    metadata: Metadata,
    role_ref: RoleRef,
    #[serde(default)]
    subjects: Option<Vec<RawSubject>>,
}

#[derive(Deserialize)]
struct RoleRef {
    kind: String,
    name: String,
}

#[derive(Deserialize)]
struct RawSubject {
    kind: String,
    name: String,
    #[serde(default)]
    namespace: String,
}

impl Binding {
    fn subjects(&self) -> impl Iterator<Item = Subject> {
        self.subjects.iter().flatten().filter_map(|subject| match subject.kind.as_str() {
            "User" => Some(Subject::User(subject.name.clone())),
            "Group" => Some(Subject::Group(subject.name.clone())),
            "ServiceAccount" => {
                let namespace = match subject.namespace.as_str() {
                    "" => &self.metadata.namespace,
                    own => own,
                };
                Some(Subject::User(format!("system:serviceaccount:{namespace}:{}", subject.name)))
            }
            _ => None,
        })
    }
}

/// Reads an object; one that cannot be read is not there.
fn parsed<T: DeserializeOwned>(value: Bytes) -> Option<Kept<T>> {
    match serde_json::from_slice(&value) {
        Ok(object) => Some(Kept { value, object: Arc::new(object) }),
        Err(error) => {
            tracing::error!(%error, "a stored role or binding cannot be read and grants nothing");
            None
        }
    }
}

/// Sets the object at a place or removes it there, and returns the one that was there before.
fn set<T>(
    map: &mut BTreeMap<Place, Kept<T>>,
    place: Place,
    new: Option<Kept<T>>,
) -> Option<Arc<T>> {
    let old = match new {
        Some(new) => map.insert(place, new),
        None => map.remove(&place),
    };
    old.map(|kept| kept.object)
}

/// The changes that lead from what is kept to all that is listed, without their revisions.
fn differences<T>(kept: &BTreeMap<Place, Kept<T>>, listed: Vec<Bytes>) -> Vec<ObjectChange> {
    let mut changes = Vec::new();
    let same = |kept: &Kept<T>, value: &Bytes| {
        kept.value.as_ptr() == value.as_ptr() && kept.value.len() == value.len()
    };
    let mut known: HashMap<*const u8, &Place> = HashMap::with_capacity(kept.len());
    known.extend(kept.iter().map(|(place, kept)| (kept.value.as_ptr(), place)));
    let mut left: HashSet<&Place> = kept.keys().collect();
    for value in listed {
        if let Some(place) = known.get(&value.as_ptr()).filter(|place| same(&kept[**place], &value))
        {
            left.remove(*place);
            continue;
        }
        #[derive(Deserialize)]
        struct Named {
            metadata: Metadata,
        }
        let Some(named) = parsed::<Named>(value.clone()) else { continue };
        let Metadata { namespace, name, .. } = &named.object.metadata;
        let (namespace, name) = (namespace.clone(), name.clone());
        left.remove(&(namespace.clone(), name.clone()));
        changes.push(ObjectChange { namespace, name, value: Some(value), revision: 0 });
    }
    changes.extend(left.into_iter().cloned().map(|(namespace, name)| ObjectChange {
        namespace,
        name,
        value: None,
        revision: 0,
    }));
    changes
}

impl Policy {
    /// The changes that make the policy hold exactly the objects of that type that are listed.
    pub(super) fn differences(&self, kind: Type, listed: Vec<Bytes>) -> Vec<ObjectChange> {
        match kind {
            Type::ClusterRoles => differences(&self.cluster_roles, listed),
            Type::ClusterRoleBindings => differences(&self.cluster_bindings, listed),
            Type::Roles => differences(&self.roles, listed),
            Type::RoleBindings => differences(&self.bindings, listed),
        }
    }

    /// Follows changes of objects of one type.
    pub(super) fn apply(&mut self, kind: Type, changes: Vec<ObjectChange>) {
        let aggregates = matches!(kind, Type::ClusterRoles) && !changes.is_empty();
        for ObjectChange { namespace, name, value, .. } in changes {
            let place = (namespace, name);
            match kind {
                Type::ClusterRoles => {
                    set(&mut self.cluster_roles, place, value.and_then(parsed));
                }
                Type::Roles => {
                    set(&mut self.roles, place, value.and_then(parsed));
                }
                Type::ClusterRoleBindings => {
                    let new = value.and_then(parsed);
                    let old = set(&mut self.cluster_bindings, place.clone(), new);
                    let new = self.cluster_bindings.get(&place);
                    follow(&mut self.grants, &place, old, new);
                }
                Type::RoleBindings => {
                    let old = set(&mut self.bindings, place.clone(), value.and_then(parsed));
                    follow(&mut self.grants, &place, old, self.bindings.get(&place));
                }
            }
        }
        if aggregates {
            self.resolved = resolve(self.cluster_roles.values().map(|kept| &*kept.object));
        }
    }

    /// What the bindings of a namespace, or those of the cluster where it is empty, give the user:
    /// `max` of them.
    pub(super) fn grants(&self, user: &User, namespace: &str, max: usize) -> Vec<Grant> {
        let mut subjects = vec![Arc::new(Subject::User(user.name.clone()))];
        subjects.extend(user.groups.iter().cloned().map(Subject::Group).map(Arc::new));
        let Some(map) = self.grants.get(namespace) else { return Vec::new() };
        let found = subjects.iter().filter_map(|subject| Some((subject, map.get(&**subject)?)));
        found
            .flat_map(|(subject, bindings)| {
                bindings.values().map(move |binding| (subject, binding))
            })
            .take(max)
            .map(|(subject, binding)| {
                let Binding { metadata, role_ref, .. } = &**binding;
                let rules = self.role(&role_ref.kind, &metadata.namespace, &role_ref.name);
                Grant { binding: binding.clone(), subject: subject.clone(), rules }
            })
            .collect()
    }

    pub(super) fn role(&self, kind: &str, namespace: &str, name: &str) -> Option<Arc<[Rule]>> {
        match kind {
            "ClusterRole" => self.resolved.get(name).cloned(),
            "Role" => {
                let role = self.roles.get(&(namespace.to_owned(), name.to_owned()))?;
                Some(role.object.rules.clone())
            }
            _ => None,
        }
    }
}

/// Takes the subjects of a binding out of the index, and puts those of the new one in.
fn follow(
    grants: &mut HashMap<String, HashMap<Subject, BTreeMap<String, Arc<Binding>>>>,
    (namespace, name): &Place,
    old: Option<Arc<Binding>>,
    new: Option<&Kept<Binding>>,
) {
    let of_namespace = grants.entry(namespace.clone()).or_default();
    for subject in old.iter().flat_map(|old| old.subjects()) {
        if let Entry::Occupied(mut bindings) = of_namespace.entry(subject) {
            bindings.get_mut().remove(name);
            if bindings.get().is_empty() {
                bindings.remove();
            }
        }
    }
    for binding in new.iter().map(|new| &new.object) {
        for subject in binding.subjects() {
            of_namespace.entry(subject).or_default().insert(name.clone(), binding.clone());
        }
    }
    if of_namespace.is_empty() {
        grants.remove(namespace);
    }
}

/// The rules of every ClusterRole; an aggregated one has those of the roles that it selects, and
/// these may be aggregated in turn.
fn resolve<'a>(cluster_roles: impl Iterator<Item = &'a Role>) -> HashMap<String, Arc<[Rule]>> {
    let roles: Vec<&Role> = cluster_roles.collect();
    let aggregated: Vec<Option<Vec<usize>>> = roles
        .iter()
        .map(|role| {
            let selectors = role.aggregation_rule.as_ref()?["clusterRoleSelectors"].as_array()?;
            let selects = |other: &Role| {
                selectors.iter().any(|selector| selects(selector, &other.metadata.labels))
            };
            Some((0..roles.len()).filter(|at| selects(roles[*at])).collect())
        })
        .collect();
    let mut resolved = HashMap::new();
    for (at, role) in roles.iter().enumerate() {
        if aggregated[at].is_none() {
            resolved.insert(role.metadata.name.clone(), role.rules.clone());
            continue;
        }
        let (mut rules, mut known): (Vec<Rule>, HashSet<&Rule>) = Default::default();
        let mut seen = vec![false; roles.len()];
        let mut todo = vec![at];
        while let Some(at) = todo.pop() {
            if std::mem::replace(&mut seen[at], true) {
                continue;
            }
            match &aggregated[at] {
                // Deepest last, so that the order is that of the roles.
                Some(members) => todo.extend(members.iter().rev()),
                None => {
                    for rule in roles[at].rules.iter() {
                        if known.insert(rule) {
                            rules.push(rule.clone());
                        }
                    }
                }
            }
        }
        resolved.insert(role.metadata.name.clone(), rules.into());
    }
    resolved
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
