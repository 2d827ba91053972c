//! The check that a writer gives no more than it holds (upstream `pkg/registry/rbac/*/policybased`).

use std::fmt;

use serde_json::Value;

use super::super::user::MASTERS;
use super::super::{Attributes, Refusal, User};
use super::rule::Rule;
use super::{GROUP, Rbac, cover};

pub(super) fn check(
    rbac: &Rbac,
    user: &User,
    plural: &str,
    namespace: &str,
    object: &Value,
    old: Option<&Value>,
) -> Result<(), Refusal> {
    if user.in_group(MASTERS) {
        return Ok(());
    }
    match plural {
        "roles" | "clusterroles" => check_role(rbac, user, plural, namespace, object, old),
        "rolebindings" | "clusterrolebindings" => {
            check_binding(rbac, user, plural, namespace, object, old)
        }
        _ => Ok(()),
    }
}

fn check_role(
    rbac: &Rbac,
    user: &User,
    plural: &str,
    namespace: &str,
    object: &Value,
    old: Option<&Value>,
) -> Result<(), Refusal> {
    let same = |field: &str| old.is_some_and(|old| old[field] == object[field]);
    if same("rules") && same("aggregationRule") {
        return Ok(());
    }
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    if may(rbac, user, "escalate", plural, namespace, name) {
        return Ok(());
    }
    let mut wanted: Vec<Rule> = serde_json::from_value(object["rules"].clone()).unwrap_or_default();
    if !object["aggregationRule"].is_null() && !same("aggregationRule") {
        // Whoever chooses what is aggregated chooses the rules, now and later.
        wanted.extend(Rule::everything());
    }
    confirm(rbac, user, plural, namespace, name, &wanted)
}

fn check_binding(
    rbac: &Rbac,
    user: &User,
    plural: &str,
    namespace: &str,
    object: &Value,
    old: Option<&Value>,
) -> Result<(), Refusal> {
    let same = |field: &str| old.is_some_and(|old| old[field] == object[field]);
    if same("roleRef") && same("subjects") {
        return Ok(());
    }
    let role_ref = &object["roleRef"];
    let role = role_ref["name"].as_str().unwrap_or_default();
    let roles = if role_ref["kind"] == "Role" { "roles" } else { "clusterroles" };
    if may(rbac, user, "bind", roles, namespace, role) {
        return Ok(());
    }
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    let Some(wanted) = rbac.referenced(namespace, role_ref) else {
        let kind = roles.trim_end_matches('s');
        return Err(Refusal::Forbidden(format!(
            "{plural}.{GROUP} {name:?} is forbidden: {kind}.{GROUP} {role:?} not found"
        )));
    };
    confirm(rbac, user, plural, namespace, name, &wanted)
}

fn may(rbac: &Rbac, user: &User, verb: &str, plural: &str, namespace: &str, name: &str) -> bool {
    let attributes = Attributes {
        user,
        verb,
        group: GROUP,
        version: "*",
        resource: plural,
        subresource: "",
        namespace,
        name,
        path: "",
        is_resource: true,
    };
    rbac.authorize(&attributes).allowed
}

fn confirm(
    rbac: &Rbac,
    user: &User,
    plural: &str,
    namespace: &str,
    name: &str,
    wanted: &[Rule],
) -> Result<(), Refusal> {
    let own = rbac.rules_for(user, namespace);
    let forbidden = |reason: &dyn fmt::Display| {
        Refusal::Forbidden(format!("{plural}.{GROUP} {name:?} is forbidden: {reason}"))
    };
    let missing = cover::missing(&own.rules, wanted).map_err(|error| forbidden(&error))?;
    if missing.is_empty() {
        return Ok(());
    }
    if let Some(too_much) = own.incomplete {
        return Err(forbidden(&too_much));
    }
    let groups: Vec<String> = user.groups.iter().map(|g| format!("{g:?}")).collect();
    Err(forbidden(&format_args!(
        "user {:?} (groups=[{}]) is attempting to grant RBAC permissions not currently held:\n{}",
        user.name,
        groups.join(" "),
        missing.join("\n")
    )))
}
