//! All roles and bindings, parsed and indexed by who they are for.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::Value;

use super::super::User;
use super::rule::Rule;

/// A snapshot of every role and binding.
#[derive(Default)]
pub(super) struct Policy {
    cluster_roles: HashMap<String, Vec<Rule>>,
    roles: HashMap<(String, String), Vec<Rule>>,
    cluster_grants: HashMap<Subject, Vec<Grant>>,
    grants: HashMap<String, HashMap<Subject, Vec<Grant>>>,
}

/// Whom a binding is for. A ServiceAccount is the user that its tokens prove.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Subject {
    User(String),
    Group(String),
}

/// One subject of one binding.
#[derive(Debug)]
pub(super) struct Grant {
    binding: String,
    /// Empty for a ClusterRoleBinding.
    namespace: String,
    role_kind: String,
    role: String,
    subject: Subject,
}

impl Grant {
    pub(super) fn missing_role(&self) -> String {
        if self.role_kind == "Role" {
            format!("role.rbac.authorization.k8s.io {:?} not found", self.role)
        } else {
            format!("clusterrole.rbac.authorization.k8s.io {:?} not found", self.role)
        }
    }
}

/// The reason that an access review gives.
impl fmt::Display for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, name) = if self.namespace.is_empty() {
            ("ClusterRoleBinding", self.binding.clone())
        } else {
            ("RoleBinding", format!("{}/{}", self.binding, self.namespace))
        };
        let (subject_kind, subject) = match &self.subject {
            Subject::User(name) => match service_account_name(name) {
                Some((namespace, name)) => ("ServiceAccount", format!("{name}/{namespace}")),
                None => ("User", name.clone()),
            },
            Subject::Group(name) => ("Group", name.clone()),
        };
        write!(
            f,
            "RBAC: allowed by {kind} {name:?} of {} {:?} to {subject_kind} {subject:?}",
            self.role_kind, self.role
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
    #[serde(default)]
    rules: Option<Vec<Rule>>,
    #[serde(default)]
    aggregation_rule: Option<Value>,
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

fn parsed<'a, T: Deserialize<'a>>(objects: &'a [Bytes]) -> impl Iterator<Item = T> {
    objects.iter().filter_map(|bytes| match serde_json::from_slice(bytes) {
        Ok(object) => Some(object),
        Err(error) => {
            tracing::error!(%error, "a stored role or binding cannot be read and grants nothing");
            None
        }
    })
}

impl Policy {
    pub(super) fn parse(
        cluster_roles: &[Bytes],
        cluster_bindings: &[Bytes],
        roles: &[Bytes],
        bindings: &[Bytes],
    ) -> Self {
        let mut policy = Self { cluster_roles: resolve(cluster_roles), ..Self::default() };
        for role in parsed::<Role>(roles) {
            let key = (role.metadata.namespace, role.metadata.name);
            policy.roles.insert(key, role.rules.unwrap_or_default());
        }
        for binding in parsed::<Binding>(cluster_bindings) {
            add(&mut policy.cluster_grants, binding);
        }
        for binding in parsed::<Binding>(bindings) {
            let namespace = binding.metadata.namespace.clone();
            add(policy.grants.entry(namespace).or_default(), binding);
        }
        policy
    }

    /// What bindings give the user in a namespace, cluster-wide ones included.
    pub(super) fn grants<'a>(
        &'a self,
        user: &User,
        namespace: &str,
    ) -> impl Iterator<Item = &'a Grant> {
        let mut subjects = vec![Subject::User(user.name.clone())];
        subjects.extend(user.groups.iter().cloned().map(Subject::Group));
        let local = self.grants.get(namespace).filter(|_| !namespace.is_empty());
        let maps = std::iter::once(&self.cluster_grants).chain(local);
        let found: Vec<&'a Vec<Grant>> =
            maps.flat_map(|map| subjects.iter().filter_map(|subject| map.get(subject))).collect();
        found.into_iter().flatten()
    }

    pub(super) fn rules(&self, grant: &Grant) -> Option<&[Rule]> {
        self.role(&grant.role_kind, &grant.namespace, &grant.role)
    }

    pub(super) fn role(&self, kind: &str, namespace: &str, name: &str) -> Option<&[Rule]> {
        let rules = match kind {
            "ClusterRole" => self.cluster_roles.get(name),
            "Role" => self.roles.get(&(namespace.to_owned(), name.to_owned())),
            _ => None,
        };
        rules.map(Vec::as_slice)
    }
}

fn add(map: &mut HashMap<Subject, Vec<Grant>>, binding: Binding) {
    for subject in binding.subjects.unwrap_or_default() {
        let subject = match subject.kind.as_str() {
            "User" => Subject::User(subject.name),
            "Group" => Subject::Group(subject.name),
            "ServiceAccount" => {
                let namespace = if subject.namespace.is_empty() {
                    &binding.metadata.namespace
                } else {
                    &subject.namespace
                };
                Subject::User(format!("system:serviceaccount:{namespace}:{}", subject.name))
            }
            _ => continue,
        };
        map.entry(subject.clone()).or_default().push(Grant {
            binding: binding.metadata.name.clone(),
            namespace: binding.metadata.namespace.clone(),
            role_kind: binding.role_ref.kind.clone(),
            role: binding.role_ref.name.clone(),
            subject,
        });
    }
}

/// The rules of every ClusterRole; an aggregated one has those of the roles that it selects, and
/// these may be aggregated in turn.
fn resolve(cluster_roles: &[Bytes]) -> HashMap<String, Vec<Rule>> {
    let roles: Vec<Role> = parsed(cluster_roles).collect();
    let aggregated: Vec<Option<Vec<usize>>> = roles
        .iter()
        .map(|role| {
            let selectors = role.aggregation_rule.as_ref()?["clusterRoleSelectors"].as_array()?;
            let selects = |other: &Role| {
                selectors.iter().any(|selector| selects(selector, &other.metadata.labels))
            };
            Some((0..roles.len()).filter(|at| selects(&roles[*at])).collect())
        })
        .collect();
    let mut resolved = HashMap::new();
    for (at, role) in roles.iter().enumerate() {
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
                    for rule in roles[at].rules.iter().flatten() {
                        if known.insert(rule) {
                            rules.push(rule.clone());
                        }
                    }
                }
            }
        }
        resolved.insert(role.metadata.name.clone(), rules);
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
