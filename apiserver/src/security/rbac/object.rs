//! Roles and bindings as decisions need them: read once, in the turn of the request that writes them.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;

use super::GROUP;
use super::rule::Rule;
use super::rules::Rules;

/// Memory of one subject of a binding in the index of the policy, besides its name.
const INDEXED_BYTES: usize = 192;

/// A role or binding, read.
#[derive(Debug)]
pub enum PolicyObject {
    /// A Role or ClusterRole.
    Role(Role),
    /// A RoleBinding or ClusterRoleBinding.
    Binding(Arc<Binding>),
}

/// A Role or ClusterRole.
#[derive(Debug)]
pub struct Role {
    /// Empty for a ClusterRole.
    pub(super) namespace: Box<str>,
    pub(super) name: Box<str>,
    pub(super) rules: Arc<Rules>,
    /// The labels of a ClusterRole, by which others aggregate it.
    pub(super) labels: BTreeMap<String, String>,
    /// The `aggregationRule` of a ClusterRole.
    pub(super) aggregation: Option<Value>,
}

/// A RoleBinding or ClusterRoleBinding.
#[derive(Debug)]
pub struct Binding {
    /// Empty for a ClusterRoleBinding.
    pub(super) namespace: Box<str>,
    pub(super) name: Box<str>,
    pub(super) role: RoleRef,
    /// Each subject once.
    pub(super) subjects: Box<[Subject]>,
}

/// The role that a binding gives.
#[derive(Debug, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct RoleRef {
    pub(super) kind: Box<str>,
    pub(super) name: Box<str>,
}

/// The users that a binding is for. A ServiceAccount is the user that its tokens prove.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Subject {
    User(Arc<str>),
    Group(Arc<str>),
}

#[derive(Deserialize)]
struct RawSubject {
    kind: String,
    name: String,
    #[serde(default)]
    namespace: String,
}

impl PolicyObject {
    /// Reads an object of a type; `None` for types that are no roles or bindings. One that cannot be
    /// read is not there.
    pub(crate) fn read(group: &str, plural: &str, object: &Value) -> Option<Arc<Self>> {
        if group != GROUP {
            return None;
        }
        let read = match plural {
            "clusterroles" => Role::read(object, true).map(Self::Role),
            "roles" => Role::read(object, false).map(Self::Role),
            "clusterrolebindings" | "rolebindings" => {
                Binding::read(object).map(|binding| Self::Binding(Arc::new(binding)))
            }
            _ => return None,
        };
        match read {
            Ok(read) => Some(Arc::new(read)),
            Err(error) => {
                let (namespace, name) = (text(object, "namespace"), text(object, "name"));
                tracing::error!(
                    plural, namespace, name, %error,
                    "a role or binding cannot be read and grants nothing"
                );
                None
            }
        }
    }

    /// Namespace, empty for one of the cluster, and name.
    pub(super) fn place(&self) -> (&str, &str) {
        match self {
            Self::Role(role) => (&role.namespace, &role.name),
            Self::Binding(binding) => (&binding.namespace, &binding.name),
        }
    }

    pub(super) fn role(&self) -> Option<&Role> {
        if let Self::Role(role) = self { Some(role) } else { None }
    }

    pub(super) fn binding(&self) -> Option<&Arc<Binding>> {
        if let Self::Binding(binding) = self { Some(binding) } else { None }
    }

    /// Returns the bytes of memory by which the policy keeps more than the decoded object.
    pub(crate) fn index_bytes(&self) -> usize {
        match self {
            Self::Role(_) => 0,
            Self::Binding(binding) => {
                let each = binding.subjects.iter().map(|subject| subject.name().len());
                each.map(|name| INDEXED_BYTES + name).sum()
            }
        }
    }
}

/// A text among the metadata of an object.
fn text<'a>(object: &'a Value, name: &str) -> &'a str {
    object["metadata"][name].as_str().unwrap_or_default()
}

impl Role {
    fn read(object: &Value, of_cluster: bool) -> serde_json::Result<Self> {
        let rules = Option::<Vec<Rule>>::deserialize(&object["rules"])?.unwrap_or_default();
        let labels = of_cluster.then(|| Option::deserialize(&object["metadata"]["labels"]));
        let aggregation = &object["aggregationRule"];
        Ok(Self {
            namespace: text(object, "namespace").into(),
            name: text(object, "name").into(),
            rules: Arc::new(Rules::new(&rules)),
            labels: labels.transpose()?.flatten().unwrap_or_default(),
            aggregation: (of_cluster && !aggregation.is_null()).then(|| aggregation.clone()),
        })
    }
}

impl Binding {
    fn read(object: &Value) -> serde_json::Result<Self> {
        let namespace = text(object, "namespace");
        let subjects = Option::<Vec<RawSubject>>::deserialize(&object["subjects"])?;
        let mut seen = HashSet::new();
        let subjects = subjects.into_iter().flatten();
        let subjects = subjects.filter_map(|subject| Subject::of(&subject, namespace));
        Ok(Self {
            namespace: namespace.into(),
            name: text(object, "name").into(),
            role: RoleRef::deserialize(&object["roleRef"])?,
            subjects: subjects.filter(|subject| seen.insert(subject.clone())).collect(),
        })
    }
}

impl RoleRef {
    /// The text that says that there is no such role.
    pub(super) fn missing(&self) -> String {
        let plain = if &*self.kind == "Role" { "role" } else { "clusterrole" };
        format!("{plain}.{GROUP} {:?} not found", self.name)
    }
}

impl Subject {
    /// The subject of a binding in `namespace`; `None` for one of an unknown kind.
    fn of(subject: &RawSubject, namespace: &str) -> Option<Self> {
        match subject.kind.as_str() {
            "User" => Some(Self::User(subject.name.as_str().into())),
            "Group" => Some(Self::Group(subject.name.as_str().into())),
            "ServiceAccount" => {
                let own = subject.namespace.as_str();
                let namespace = if own.is_empty() { namespace } else { own };
                let user = format!("system:serviceaccount:{namespace}:{}", subject.name);
                Some(Self::User(user.into()))
            }
            _ => None,
        }
    }

    fn name(&self) -> &str {
        match self {
            Self::User(name) | Self::Group(name) => name,
        }
    }
}
