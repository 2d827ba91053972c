//! Nobody may hand out more than they hold (upstream `pkg/registry/rbac/*/policybased`).

use std::collections::BTreeSet;

use serde_json::Value;

use super::super::user::MASTERS;
use super::super::{Attributes, Refusal, User};
use super::rule::Rule;
use super::{GROUP, Rbac};

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

/// Gathers the verbs of one resource into one rule; paths stay as they are.
fn compact(atoms: impl Iterator<Item = Rule>) -> Vec<Rule> {
    let mut rules: Vec<Rule> = Vec::new();
    for atom in atoms {
        let known = rules.iter_mut().find(|rule| {
            let same = |part: fn(&Rule) -> &Vec<String>| part(rule) == part(&atom);
            atom.non_resource_urls.is_empty()
                && rule.non_resource_urls.is_empty()
                && same(|rule| &rule.api_groups)
                && same(|rule| &rule.resources)
                && same(|rule| &rule.resource_names)
        });
        match known {
            Some(rule) if rule.verbs.contains(&atom.verbs[0]) => {}
            Some(rule) => rule.verbs.extend(atom.verbs),
            None => rules.push(atom),
        }
    }
    rules
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
    let missing =
        wanted.iter().flat_map(Rule::atoms).filter(|atom| !own.iter().any(|own| own.covers(atom)));
    let missing: BTreeSet<String> = compact(missing).iter().map(ToString::to_string).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let missing: Vec<String> = missing.into_iter().collect();
    let groups: Vec<String> = user.groups.iter().map(|g| format!("{g:?}")).collect();
    Err(Refusal::Forbidden(format!(
        "{plural}.{GROUP} {name:?} is forbidden: user {:?} (groups=[{}]) is attempting to grant \
         RBAC permissions not currently held:\n{}",
        user.name,
        groups.join(" "),
        missing.join("\n")
    )))
}
