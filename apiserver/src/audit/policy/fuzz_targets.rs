//! Entry points for fuzzing: no text makes the reader of audit policies panic, and what it accepts
//! decides about every request.

use super::*;
use crate::security::User;

/// Reads a policy and asks it about a resource and a path.
pub fn audit_policy(bytes: &[u8]) {
    let Ok(policy) = Policy::parse(&String::from_utf8_lossy(bytes)) else { return };
    assert!(!policy.rules.is_empty());
    let user = User { name: "jane".into(), groups: vec!["devs".into()], ..User::default() };
    for (resource, subresource) in [("pods", ""), ("pods", "log"), ("", "")] {
        let attributes = Attributes {
            user: &user,
            verb: "get",
            group: "",
            version: "v1",
            resource,
            subresource,
            namespace: "kube-system",
            name: "web",
            path: "/version",
            is_resource: !resource.is_empty(),
        };
        let verdict = policy.verdict(&attributes);
        let matched = policy.rules.iter().find(|rule| rule.matches(&attributes));
        assert_eq!(verdict.level, matched.map_or(Level::None, |rule| rule.level));
        let omitted = matched.map_or(&[][..], |rule| &rule.omit_stages);
        for stage in
            omitted.iter().chain(matched.and(Some(&policy.omit_stages)).into_iter().flatten())
        {
            assert!(verdict.omits(*stage), "{stage:?}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn corpus_of_audit_policies_is_read() {
        fuzz::each(concat!(env!("CARGO_MANIFEST_DIR"), "/corpus/audit_policy"), audit_policy);
    }
}
