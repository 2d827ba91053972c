//! What a pod must do besides to be hardened.

use std::collections::BTreeSet;

use serde_json::Value;

use super::baseline;
use super::checks::{Check, Violation};
use super::pod::{Pod, plural, quoted};
use super::policy::Version;

/// In upstream's order.
pub(super) const CHECKS: &[Check] = &[
    Check { since: 8, overridden: false, check: privilege_escalation },
    Check { since: 22, overridden: false, check: capabilities },
    Check { since: 0, overridden: false, check: volumes },
    Check { since: 0, overridden: false, check: non_root },
    Check { since: 23, overridden: false, check: root_user },
    Check { since: 19, overridden: false, check: seccomp },
];

/// Volumes that bring nothing of the node into the pod.
const VOLUMES: [&str; 8] = [
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
    "secret",
];

/// From this minor version on pods for Windows need not set what only Linux has.
const WINDOWS_IS_KNOWN: u32 = 25;

fn skips_windows(pod: &Pod<'_>, version: Version) -> bool {
    version.has(WINDOWS_IS_KNOWN) && pod.is_windows()
}

fn privilege_escalation(pod: &Pod<'_>, version: Version) -> Option<Violation> {
    if skips_windows(pod, version) {
        return None;
    }
    let missing = |c: &Value| c["securityContext"]["allowPrivilegeEscalation"] != false;
    let containers = pod.containers_that(missing)?;
    let detail =
        format!("{} must set securityContext.allowPrivilegeEscalation=false", containers.text);
    Some(Violation::new("allowPrivilegeEscalation != false", detail))
}

fn capabilities(pod: &Pod<'_>, version: Version) -> Option<Violation> {
    if skips_windows(pod, version) {
        return None;
    }
    let keeps_some = |c: &Value| {
        let dropped = c["securityContext"]["capabilities"]["drop"].as_array();
        !dropped.is_some_and(|list| list.iter().any(|name| name == "ALL"))
    };
    let missing = pod.containers_that(keeps_some).map(|containers| {
        format!("{} must set securityContext.capabilities.drop=[\"ALL\"]", containers.text)
    });
    let added = baseline::added_capabilities(pod, &["NET_BIND_SERVICE"]);
    let details: Vec<String> = missing.into_iter().chain(added).collect();
    (!details.is_empty()).then(|| Violation::new("unrestricted capabilities", details.join("; ")))
}

fn volumes(pod: &Pod<'_>, _version: Version) -> Option<Violation> {
    let mut names = Vec::new();
    let mut kinds = BTreeSet::new();
    for volume in pod.spec["volumes"].as_array().into_iter().flatten() {
        let members = volume.as_object().into_iter().flatten();
        let mut sources =
            members.filter(|(key, value)| *key != "name" && !value.is_null()).map(|(key, _)| key);
        if sources.clone().any(|kind| VOLUMES.contains(&kind.as_str())) {
            continue;
        }
        names.push(volume["name"].as_str().unwrap_or_default());
        kinds.insert(sources.next().map_or("unknown", String::as_str));
    }
    (!names.is_empty()).then(|| {
        let detail = format!(
            "{} {} {} {} {}",
            plural("volume", names.len()),
            quoted(&names),
            if names.len() == 1 { "uses" } else { "use" },
            plural("restricted volume type", kinds.len()),
            quoted(&kinds)
        );
        Violation::new("restricted volume types", detail)
    })
}

fn non_root(pod: &Pod<'_>, _version: Version) -> Option<Violation> {
    const REASON: &str = "runAsNonRoot != true";
    if let Some(setters) = pod.contexts_that(|context| context["runAsNonRoot"] == false) {
        let detail = format!("{setters} must not set securityContext.runAsNonRoot=false");
        return Some(Violation::new(REASON, detail));
    }
    if pod.security_context()["runAsNonRoot"] == true {
        return None;
    }
    let containers = pod.containers_that(|c| c["securityContext"]["runAsNonRoot"].is_null())?;
    let detail = format!("pod or {} must set securityContext.runAsNonRoot=true", containers.text);
    Some(Violation::new(REASON, detail))
}

fn root_user(pod: &Pod<'_>, _version: Version) -> Option<Violation> {
    let setters = pod.contexts_that(|context| context["runAsUser"] == 0)?;
    Some(Violation::new("runAsUser=0", format!("{setters} must not set runAsUser=0")))
}

fn seccomp(pod: &Pod<'_>, version: Version) -> Option<Violation> {
    const REASON: &str = "seccompProfile";
    if skips_windows(pod, version) {
        return None;
    }
    if let Some(detail) = baseline::set_seccomp(pod) {
        return Some(Violation::new(REASON, detail));
    }
    if !pod.security_context()["seccompProfile"].is_null() {
        return None;
    }
    let containers = pod.containers_that(|c| c["securityContext"]["seccompProfile"].is_null())?;
    let detail = format!(
        "pod or {} must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \
         \"Localhost\"",
        containers.text
    );
    Some(Violation::new(REASON, detail))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::checks;
    use super::super::policy::{Level, Standard};
    use super::*;

    fn restricted(spec: &Value) -> Option<String> {
        let metadata = json!({});
        checks::detail(&Standard::latest(Level::Restricted), &Pod::new(&metadata, spec))
    }

    #[test]
    fn an_ordinary_pod_is_not_hardened() {
        let spec = json!({"hostNetwork": true, "containers": [{"name": "a"}, {"name": "b"}]});
        assert_eq!(
            restricted(&spec).as_deref(),
            Some(
                "host namespaces (hostNetwork=true), allowPrivilegeEscalation != false \
                 (containers \"a\", \"b\" must set \
                 securityContext.allowPrivilegeEscalation=false), unrestricted capabilities \
                 (containers \"a\", \"b\" must set securityContext.capabilities.drop=[\"ALL\"]), \
                 runAsNonRoot != true (pod or containers \"a\", \"b\" must set \
                 securityContext.runAsNonRoot=true), seccompProfile (pod or containers \"a\", \
                 \"b\" must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \
                 \"Localhost\")"
            )
        );
    }

    fn hardened() -> Value {
        json!({
            "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{"name": "a", "securityContext": {
                "allowPrivilegeEscalation": false,
                "capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]}}}],
            "volumes": [{"name": "t", "projected": {}}],
        })
    }

    #[test]
    fn a_hardened_pod_violates_nothing() {
        assert_eq!(restricted(&hardened()), None);
    }

    #[test]
    fn what_undoes_the_hardening_is_named() {
        let mut spec = hardened();
        spec["containers"][0]["securityContext"]["runAsUser"] = 0.into();
        spec["containers"][0]["securityContext"]["runAsNonRoot"] = false.into();
        spec["containers"][0]["securityContext"]["capabilities"]["add"] = json!(["SYS_TIME"]);
        spec["volumes"] =
            json!([{"name": "h", "hostPath": {"path": "/"}}, {"name": "n", "nfs": {}}]);
        assert_eq!(
            restricted(&spec).as_deref(),
            Some(
                "unrestricted capabilities (container \"a\" must not include \"SYS_TIME\" in \
                 securityContext.capabilities.add), restricted volume types (volumes \"h\", \
                 \"n\" use restricted volume types \"hostPath\", \"nfs\"), runAsNonRoot != true \
                 (container \"a\" must not set securityContext.runAsNonRoot=false), runAsUser=0 \
                 (container \"a\" must not set runAsUser=0)"
            )
        );
    }

    #[test]
    fn pods_for_windows_set_what_windows_has() {
        let spec = json!({"os": {"name": "windows"}, "containers": [{"name": "a"}],
            "securityContext": {"runAsNonRoot": true}});
        assert_eq!(restricted(&spec), None);
    }
}
