//! Acting as somebody else (`kubectl --as`), for those who may.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::HeaderMap;

use super::rbac::Rbac;
use super::user::{AUTHENTICATED, UNAUTHENTICATED};
use super::{Attributes, Refusal, User};

const USER: &str = "impersonate-user";
const GROUP: &str = "impersonate-group";
const UID: &str = "impersonate-uid";
const EXTRA: &str = "impersonate-extra-";

/// The user as whom the request is to be treated: the one in its headers, or `user` itself.
pub(super) fn impersonate(
    rbac: &Rbac,
    user: Arc<User>,
    headers: &HeaderMap,
) -> Result<Arc<User>, Refusal> {
    let all = |name: &str| -> Vec<String> {
        headers
            .get_all(name)
            .iter()
            .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
            .filter(|value| !value.is_empty())
            .collect()
    };
    let name = all(USER).into_iter().next().unwrap_or_default();
    let mut groups = all(GROUP);
    let uid = all(UID).into_iter().next().unwrap_or_default();
    let mut extra: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for header in headers.keys() {
        if let Some(key) = header.as_str().strip_prefix(EXTRA) {
            extra.insert(crate::percent::decode(key), all(header.as_str()));
        }
    }
    if name.is_empty() {
        if groups.is_empty() && uid.is_empty() && extra.is_empty() {
            return Ok(user);
        }
        return Err(Refusal::BadRequest(
            "requested impersonation of groups, uid or extra without impersonating a user"
                .to_owned(),
        ));
    }
    let may = |group, resource, subresource, namespace, name| {
        let attributes = Attributes {
            user: &user,
            verb: "impersonate",
            group,
            version: "v1",
            resource,
            subresource,
            namespace,
            name,
            path: "",
            is_resource: true,
        };
        let decision = rbac.authorize(&attributes);
        if decision.allowed {
            return Ok(());
        }
        Err(Refusal::Forbidden(attributes.forbidden_message(&decision.reason)))
    };
    let account = service_account(&name);
    match account {
        Some((namespace, name)) => may("", "serviceaccounts", "", namespace, name)?,
        None => may("", "users", "", "", &name)?,
    }
    for group in &groups {
        may("", "groups", "", "", group)?;
    }
    if !uid.is_empty() {
        may("authentication.k8s.io", "uids", "", "", &uid)?;
    }
    for (key, values) in &extra {
        for value in values {
            may("authentication.k8s.io", "userextras", key, "", value)?;
        }
    }
    if let Some((namespace, _)) = account
        && groups.is_empty()
    {
        groups.push("system:serviceaccounts".to_owned());
        groups.push(format!("system:serviceaccounts:{namespace}"));
    }
    let implied = if name == "system:anonymous" { UNAUTHENTICATED } else { AUTHENTICATED };
    if !groups.iter().any(|group| group == AUTHENTICATED || group == UNAUTHENTICATED) {
        groups.push(implied.to_owned());
    }
    Ok(Arc::new(User { name, uid, groups, extra }))
}

/// Returns the namespace and the name in the user name of a ServiceAccount (upstream
/// `serviceaccount.SplitUsername`); any other form names a plain user.
pub(crate) fn service_account(user: &str) -> Option<(&str, &str)> {
    let (namespace, name) = user.strip_prefix("system:serviceaccount:")?.split_once(':')?;
    let valid = api::names::dns1123_label(namespace).is_empty()
        && api::names::dns1123_subdomain(name).is_empty();
    valid.then_some((namespace, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_valid_names_are_service_accounts() {
        assert_eq!(service_account("system:serviceaccount:dev:ci.bot"), Some(("dev", "ci.bot")));
        for user in [
            "system:serviceaccount:alice:default/../../bob:bob",
            "system:serviceaccount:alice:default/..",
            "system:serviceaccount:dev:a:b",
            "system:serviceaccount::a",
            "system:serviceaccount:dev:",
            "system:serviceaccount:dev",
            "jane",
        ] {
            assert_eq!(service_account(user), None, "{user}");
        }
    }
}
