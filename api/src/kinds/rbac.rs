//! Role, ClusterRole, RoleBinding and ClusterRoleBinding.

use jiff::Timestamp;
use serde_json::Value;

use super::row;
use crate::defaults::{child, items_at, set_default_text, take};
use crate::field::{Field, same};
use crate::field_error::{ErrorList, FieldError};
use crate::metadata::validate_label_selector;
use crate::names;
use crate::registry::{Behaviour, Cell, Column, Resource, Served, Subresource};

const GROUP: &str = "rbac.authorization.k8s.io";

/// Subjects of one binding: a change of it changes the index of access decisions for each.
const SUBJECTS_MAX: usize = 2048;

/// Role.
pub const ROLE: Resource =
    Resource::new(&[Served::new(GROUP, "v1", "Role", "roles", "role")], &Role { cluster: false });

/// ClusterRole.
pub const CLUSTER_ROLE: Resource = Resource::new(
    &[Served::new(GROUP, "v1", "ClusterRole", "clusterroles", "clusterrole")],
    &Role { cluster: true },
)
.cluster_scoped();

/// RoleBinding.
pub const ROLE_BINDING: Resource = Resource::new(
    &[Served::new(GROUP, "v1", "RoleBinding", "rolebindings", "rolebinding")],
    &RoleBinding { cluster: false },
);

/// ClusterRoleBinding.
pub const CLUSTER_ROLE_BINDING: Resource = Resource::new(
    &[Served::new(GROUP, "v1", "ClusterRoleBinding", "clusterrolebindings", "clusterrolebinding")],
    &RoleBinding { cluster: true },
)
.cluster_scoped();

struct Role {
    cluster: bool,
}

impl Behaviour for Role {
    fn validate(&self, object: &Value) -> ErrorList {
        let object = Field::root(object);
        let mut errors = ErrorList::new();
        for rule in object.at("rules").items() {
            errors.extend(validate_rule(&rule, self.cluster));
        }
        let aggregation = object.at("aggregationRule");
        if self.cluster && aggregation.exists() {
            let selectors = aggregation.at("clusterRoleSelectors");
            if selectors.is_empty() {
                errors.push(selectors.required(
                    "at least one clusterRoleSelector required if aggregationRule is non-nil",
                ));
            }
            for selector in selectors.items() {
                errors.extend(validate_label_selector(&selector));
            }
        }
        errors
    }

    fn name_rule(&self, name: &str, prefix: bool) -> Vec<String> {
        names::path_segment_name(name, prefix)
    }
}

fn validate_rule(rule: &Field<'_>, cluster: bool) -> ErrorList {
    let mut errors = ErrorList::new();
    let [verbs, groups, resources, urls] =
        ["verbs", "apiGroups", "resources", "nonResourceURLs"].map(|name| rule.at(name));
    if verbs.is_empty() {
        errors.push(verbs.required("verbs must contain at least one value"));
    }
    if !urls.is_empty() {
        if !cluster {
            errors.push(urls.invalid("namespaced rules cannot apply to non-resource URLs"));
        }
        let names = rule.at("resourceNames");
        if !groups.is_empty() || !resources.is_empty() || !names.is_empty() {
            errors.push(
                urls.invalid("rules cannot apply to both regular resources and non-resource URLs"),
            );
        }
        return errors;
    }
    if groups.is_empty() {
        errors.push(groups.required("resource rules must supply at least one api group"));
    }
    if resources.is_empty() {
        errors.push(resources.required("resource rules must supply at least one resource"));
    }
    errors
}

struct RoleBinding {
    cluster: bool,
}

impl Behaviour for RoleBinding {
    fn to_storage(&self, _served: &Served, object: &mut Value) -> Result<(), ErrorList> {
        set_default_text(child(object, "roleRef"), "apiGroup", GROUP);
        for subject in items_at(object, "subjects") {
            if matches!(subject["kind"].as_str(), Some("User" | "Group")) {
                set_default_text(subject, "apiGroup", GROUP);
            } else if subject["apiGroup"] == "" {
                take(subject, "apiGroup");
            }
        }
        Ok(())
    }

    fn validate(&self, object: &Value) -> ErrorList {
        self.errors(object, SUBJECTS_MAX)
    }

    fn validate_update(&self, object: &Value, old: &Value, _: Subresource<'_>) -> ErrorList {
        // One that was stored with more subjects may keep as many.
        let mut errors =
            self.errors(object, SUBJECTS_MAX.max(Field::root(old).at("subjects").len()));
        errors.extend(self.validate_change(object, old));
        errors
    }

    fn validate_change(&self, object: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        if !same(&object["roleRef"], &old["roleRef"]) {
            errors.push(Field::root(object).at("roleRef").invalid("cannot change roleRef"));
        }
        errors
    }

    fn name_rule(&self, name: &str, prefix: bool) -> Vec<String> {
        names::path_segment_name(name, prefix)
    }

    fn columns(&self) -> &'static [Column] {
        const {
            &[
                Column::NAME,
                Column::text("Role"),
                Column::AGE,
                Column::wide("Users"),
                Column::wide("Groups"),
                Column::wide("ServiceAccounts"),
            ]
        }
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Cell> {
        let role = &object["roleRef"];
        let role = format!("{}/{}", row::plain(&role["kind"], ""), row::plain(&role["name"], ""));
        let subjects = |kind: &str| {
            let list = object["subjects"].as_array().into_iter().flatten();
            let names: Vec<String> = list
                .filter(|subject| subject["kind"] == kind)
                .map(|subject| {
                    let name = row::plain(&subject["name"], "");
                    match kind {
                        "ServiceAccount" => {
                            format!("{}/{name}", row::plain(&subject["namespace"], ""))
                        }
                        _ => name,
                    }
                })
                .collect();
            Value::from(names.join(", "))
        };
        vec![
            row::name(object),
            role.into(),
            row::age(object, now),
            subjects("User"),
            subjects("Group"),
            subjects("ServiceAccount"),
        ]
    }
}

impl RoleBinding {
    /// Errors of a binding, of which more than so many subjects are one.
    fn errors(&self, object: &Value, subjects_max: usize) -> ErrorList {
        let object = Field::root(object);
        let mut errors = ErrorList::new();
        let role = object.at("roleRef");
        let group = role.at("apiGroup");
        if group.str() != GROUP {
            errors.push(group.not_supported(&[GROUP]));
        }
        let kinds: &[&str] = if self.cluster { &["ClusterRole"] } else { &["ClusterRole", "Role"] };
        errors.extend(role.at("kind").one_of(kinds));
        let name = role.at("name");
        if name.is_empty() {
            errors.push(name.required(""));
        } else {
            errors.extend(name.invalid_each(names::path_segment(name.str())));
        }
        let subjects = object.at("subjects");
        if subjects.len() > subjects_max {
            errors.push(FieldError::too_many(&subjects.path, subjects.len(), SUBJECTS_MAX));
            return errors;
        }
        for subject in subjects.items() {
            errors.extend(validate_subject(&subject, !self.cluster));
        }
        errors
    }
}

fn validate_subject(subject: &Field<'_>, namespaced: bool) -> ErrorList {
    let mut errors = ErrorList::new();
    let [kind, name, group, namespace] =
        ["kind", "name", "apiGroup", "namespace"].map(|field| subject.at(field));
    if name.is_empty() {
        errors.push(name.required(""));
    }
    match kind.str() {
        "ServiceAccount" => {
            if !name.is_empty() {
                errors.extend(name.invalid_each(names::dns1123_subdomain(name.str())));
            }
            if !group.is_empty() {
                errors.push(group.not_supported(&[""]));
            }
            if !namespaced && namespace.is_empty() {
                errors.push(namespace.required(""));
            }
        }
        "User" | "Group" => {
            if group.str() != GROUP {
                errors.push(group.not_supported(&[GROUP]));
            }
        }
        other => errors.push(FieldError::not_supported(
            kind.path,
            other,
            &["ServiceAccount", "User", "Group"],
        )),
    }
    errors
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn binding(subjects: usize) -> Value {
        let subject =
            |at: usize| json!({"kind": "User", "apiGroup": GROUP, "name": at.to_string()});
        json!({"roleRef": {"apiGroup": GROUP, "kind": "ClusterRole", "name": "view"},
            "subjects": (0..subjects).map(subject).collect::<Vec<_>>()})
    }

    fn texts(errors: ErrorList) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn binding_has_a_bounded_number_of_subjects() {
        for cluster in [false, true] {
            let kind = RoleBinding { cluster };
            assert!(kind.validate(&binding(2048)).is_empty());
            assert_eq!(
                texts(kind.validate(&binding(2049))),
                ["subjects: Too many: 2049: must have at most 2048 items"]
            );
        }
    }

    #[test]
    fn stored_binding_keeps_its_many_subjects() {
        let kind = RoleBinding { cluster: false };
        let update = |new: usize, old: usize| {
            texts(kind.validate_update(&binding(new), &binding(old), Subresource::None))
        };
        assert!(update(3000, 3000).is_empty());
        assert!(update(2999, 3000).is_empty());
        let refused = ["subjects: Too many: 3001: must have at most 2048 items"];
        assert_eq!(update(3001, 3000), refused);
        assert_eq!(update(3001, 2), refused);
    }
}
