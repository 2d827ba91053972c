//! What no pod may do that is not to take over the node.

use std::collections::BTreeSet;

use serde_json::Value;

use super::checks::{Check, Violation};
use super::pod::{Pod, plural, quoted};
use super::policy::Version;

/// In upstream's order.
pub(super) const CHECKS: &[Check] = &[
    Check { since: 0, overridden: false, check: app_armor },
    Check { since: 0, overridden: true, check: capabilities },
    Check { since: 0, overridden: false, check: host_namespaces },
    Check { since: 0, overridden: true, check: host_paths },
    Check { since: 0, overridden: false, check: host_ports },
    Check { since: 0, overridden: false, check: privileged },
    Check { since: 0, overridden: false, check: proc_mount },
    Check { since: 0, overridden: false, check: selinux },
    Check { since: 19, overridden: true, check: seccomp },
    Check { since: 0, overridden: false, check: sysctls },
    Check { since: 0, overridden: false, check: host_process },
];

/// What containers have anyway.
const CAPABILITIES: [&str; 13] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

/// Parameters of the kernel that reach no further than the pod, and since when they are allowed.
const SYSCTLS: &[(&str, u32)] = &[
    ("kernel.shm_rmid_forced", 0),
    ("net.ipv4.ip_local_port_range", 0),
    ("net.ipv4.ip_unprivileged_port_start", 0),
    ("net.ipv4.ping_group_range", 0),
    ("net.ipv4.tcp_syncookies", 0),
    ("net.ipv4.ip_local_reserved_ports", 27),
    ("net.ipv4.tcp_fin_timeout", 29),
    ("net.ipv4.tcp_keepalive_intvl", 29),
    ("net.ipv4.tcp_keepalive_probes", 29),
    ("net.ipv4.tcp_keepalive_time", 29),
    ("net.ipv4.tcp_rmem", 32),
    ("net.ipv4.tcp_wmem", 32),
];

const APP_ARMOR_ANNOTATION: &str = "container.apparmor.security.beta.kubernetes.io/";

fn app_armor(pod: &Pod<'_>, _version: Version) -> Option<Violation> {
    let bad = |kind: &str| !matches!(kind, "RuntimeDefault" | "Localhost");
    let bad_annotation = |profile: &str| {
        !(profile.is_empty() || profile == "runtime/default" || profile.starts_with("localhost/"))
    };
    let mut values: BTreeSet<&str> = pod.values("/appArmorProfile/type", bad);
    let mut setters: Vec<String> = pod
        .contexts_that(|context| context["appArmorProfile"]["type"].as_str().is_some_and(bad))
        .into_iter()
        .collect();
    let mut annotations = Vec::new();
    for (key, value) in pod.annotations.as_object().into_iter().flatten() {
        let profile = value.as_str().unwrap_or_default();
        if key.starts_with(APP_ARMOR_ANNOTATION) && bad_annotation(profile) {
            annotations.push(format!("{key}={profile:?}"));
            values.insert(profile);
        }
    }
    if !annotations.is_empty() {
        let word = plural("annotation", annotations.len());
        setters.push(format!("{word} {}", annotations.join(", ")));
    }
    (!setters.is_empty()).then(|| {
        Violation::new(
            plural("forbidden AppArmor profile", values.len()),
            format!(
                "{} must not set AppArmor profile type to {}",
                setters.join(" and "),
                quoted(&values)
            ),
        )
    })
}

fn capabilities(pod: &Pod<'_>, _version: Version) -> Option<Violation> {
    added_capabilities(pod, &CAPABILITIES)
        .map(|detail| Violation::new("non-default capabilities", detail))
}

/// Which containers add capabilities that are not `allowed`.
pub(super) fn added_capabilities(pod: &Pod<'_>, allowed: &[&str]) -> Option<String> {
    let added = |container: &Value| -> Vec<String> {
        let list = &container["securityContext"]["capabilities"]["add"];
        let names = list.as_array().into_iter().flatten().filter_map(Value::as_str);
        names.filter(|name| !allowed.contains(name)).map(str::to_owned).collect()
    };
    let containers = pod.containers_that(|container| !added(container).is_empty())?;
    let names: BTreeSet<String> = pod.containers().flat_map(added).collect();
    Some(format!(
        "{} must not include {} in securityContext.capabilities.add",
        containers.text,
        quoted(&names)
    ))
}

fn host_namespaces(pod: &Pod<'_>, _version: Version) -> Option<Violation> {
    let set = ["hostNetwork", "hostPID", "hostIPC"].into_iter().filter(|f| pod.spec[*f] == true);
    let texts: Vec<String> = set.map(|field| format!("{field}=true")).collect();
    (!texts.is_empty()).then(|| Violation::new("host namespaces", texts.join(", ")))
}

fn host_paths(pod: &Pod<'_>, _version: Version) -> Option<Violation> {
    let volumes = pod.spec["volumes"].as_array().into_iter().flatten();
    let names: Vec<&str> = volumes
        .filter(|volume| !volume["hostPath"].is_null())
        .map(|volume| volume["name"].as_str().unwrap_or_default())
        .collect();
    (!names.is_empty()).then(|| {
        let detail = format!("{} {}", plural("volume", names.len()), quoted(&names));
        Violation::new("hostPath volumes", detail)
    })
}

fn host_ports(pod: &Pod<'_>, _version: Version) -> Option<Violation> {
    let ports = |container: &Value| -> Vec<String> {
        let list = container["ports"].as_array().into_iter().flatten();
        list.filter_map(|port| port["hostPort"].as_i64())
            .filter(|port| *port != 0)
            .map(|port| port.to_string())
            .collect()
    };
    let containers = pod.containers_that(|container| !ports(container).is_empty())?;
    let numbers: BTreeSet<String> = pod.containers().flat_map(ports).collect();
    let detail = format!(
        "{} {} {} {}",
        containers.text,
        if containers.count == 1 { "uses" } else { "use" },
        plural("hostPort", numbers.len()),
        numbers.into_iter().collect::<Vec<_>>().join(", ")
    );
    Some(Violation::new("hostPort", detail))
}

fn privileged(pod: &Pod<'_>, _version: Version) -> Option<Violation> {
    let containers = pod.containers_that(|c| c["securityContext"]["privileged"] == true)?;
    let detail = format!("{} must not set securityContext.privileged=true", containers.text);
    Some(Violation::new("privileged", detail))
}

fn proc_mount(pod: &Pod<'_>, _version: Version) -> Option<Violation> {
    let bad = |kind: &str| kind != "Default";
    let containers =
        pod.containers_that(|c| c["securityContext"]["procMount"].as_str().is_some_and(bad))?;
    let detail = format!(
        "{} must not set securityContext.procMount to {}",
        containers.text,
        quoted(&pod.values("/procMount", bad))
    );
    Some(Violation::new("procMount", detail))
}

fn selinux(pod: &Pod<'_>, version: Version) -> Option<Violation> {
    let bad_type = |kind: &str| match kind {
        "" | "container_t" | "container_init_t" | "container_kvm_t" => false,
        "container_engine_t" => !version.has(31),
        _ => true,
    };
    let set = |text: &str| !text.is_empty();
    let setters = pod.contexts_that(|context| {
        let text = |field: &str| context["seLinuxOptions"][field].as_str().unwrap_or_default();
        bad_type(text("type")) || set(text("user")) || set(text("role"))
    })?;
    let types = pod.values("/seLinuxOptions/type", bad_type);
    let mut details = Vec::new();
    if !types.is_empty() {
        details.push(format!("{} {}", plural("type", types.len()), quoted(&types)));
    }
    for field in ["user", "role"] {
        if !pod.values(&format!("/seLinuxOptions/{field}"), set).is_empty() {
            details.push(format!("{field} may not be set"));
        }
    }
    let detail =
        format!("{setters} set forbidden securityContext.seLinuxOptions: {}", details.join("; "));
    Some(Violation::new("seLinuxOptions", detail))
}

fn seccomp(pod: &Pod<'_>, _version: Version) -> Option<Violation> {
    set_seccomp(pod).map(|detail| Violation::new("seccompProfile", detail))
}

/// Who sets a seccomp profile that neither standard allows.
pub(super) fn set_seccomp(pod: &Pod<'_>) -> Option<String> {
    let bad = |kind: &str| !matches!(kind, "RuntimeDefault" | "Localhost");
    let setters =
        pod.contexts_that(|context| context["seccompProfile"]["type"].as_str().is_some_and(bad))?;
    Some(format!(
        "{setters} must not set securityContext.seccompProfile.type to {}",
        quoted(&pod.values("/seccompProfile/type", bad))
    ))
}

fn sysctls(pod: &Pod<'_>, version: Version) -> Option<Violation> {
    let list = pod.security_context()["sysctls"].as_array().into_iter().flatten();
    let allowed =
        |name: &str| SYSCTLS.iter().any(|(known, since)| *known == name && version.has(*since));
    let names: Vec<&str> =
        list.filter_map(|sysctl| sysctl["name"].as_str()).filter(|name| !allowed(name)).collect();
    (!names.is_empty()).then(|| Violation::new("forbidden sysctls", names.join(", ")))
}

fn host_process(pod: &Pod<'_>, _version: Version) -> Option<Violation> {
    let setters = pod.contexts_that(|context| context["windowsOptions"]["hostProcess"] == true)?;
    let detail = format!("{setters} must not set securityContext.windowsOptions.hostProcess=true");
    Some(Violation::new("hostProcess", detail))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::checks;
    use super::super::policy::{Level, Standard};
    use super::*;

    fn baseline(metadata: &Value, spec: &Value) -> Option<String> {
        checks::detail(&Standard::latest(Level::Baseline), &Pod::new(metadata, spec))
    }

    #[test]
    fn an_ordinary_pod_violates_nothing() {
        let spec = json!({"containers": [{"name": "a", "image": "nginx", "ports": [
            {"containerPort": 80}], "securityContext": {"capabilities": {"add": ["CHOWN"]}}}]});
        assert_eq!(baseline(&json!({}), &spec), None);
    }

    #[test]
    fn each_violation_has_upstreams_words() {
        let cases = [
            (
                json!({"hostNetwork": true, "hostIPC": true}),
                "host namespaces (hostNetwork=true, hostIPC=true)",
            ),
            (
                json!({"volumes": [{"name": "v", "hostPath": {}}, {"name": "w", "hostPath": {}}]}),
                "hostPath volumes (volumes \"v\", \"w\")",
            ),
            (
                json!({"containers": [{"name": "a", "ports": [{"hostPort": 80}]},
                    {"name": "b", "ports": [{"hostPort": 8080}]}]}),
                "hostPort (containers \"a\", \"b\" use hostPorts 80, 8080)",
            ),
            (
                json!({"initContainers": [{"name": "i", "securityContext": {"privileged": true}}]}),
                "privileged (container \"i\" must not set securityContext.privileged=true)",
            ),
            (
                json!({"containers": [{"name": "a", "securityContext": {
                    "capabilities": {"add": ["SYS_ADMIN", "CHOWN", "NET_RAW"]}}}]}),
                "non-default capabilities (container \"a\" must not include \"NET_RAW\", \
                 \"SYS_ADMIN\" in securityContext.capabilities.add)",
            ),
            (
                json!({"containers": [{"name": "a", "securityContext": {"procMount": "Unmasked"}}]}),
                "procMount (container \"a\" must not set securityContext.procMount to \"Unmasked\")",
            ),
            (
                json!({"securityContext": {"seLinuxOptions": {"type": "spc_t", "user": "u"}}}),
                "seLinuxOptions (pod set forbidden securityContext.seLinuxOptions: type \"spc_t\"; \
                 user may not be set)",
            ),
            (
                json!({"securityContext": {"seccompProfile": {"type": "Unconfined"}},
                    "containers": [{"name": "a", "securityContext": {
                        "seccompProfile": {"type": "Unconfined"}}}]}),
                "seccompProfile (pod and container \"a\" must not set \
                 securityContext.seccompProfile.type to \"Unconfined\")",
            ),
            (
                json!({"securityContext": {"sysctls": [
                    {"name": "kernel.msgmax"}, {"name": "net.ipv4.tcp_rmem"}]}}),
                "forbidden sysctls (kernel.msgmax)",
            ),
            (
                json!({"containers": [{"name": "a", "securityContext": {
                    "appArmorProfile": {"type": "Unconfined"}}}]}),
                "forbidden AppArmor profile (container \"a\" must not set AppArmor profile type \
                 to \"Unconfined\")",
            ),
            (
                json!({"securityContext": {"windowsOptions": {"hostProcess": true}}}),
                "hostProcess (pod must not set securityContext.windowsOptions.hostProcess=true)",
            ),
        ];
        for (spec, detail) in cases {
            assert_eq!(baseline(&json!({}), &spec).as_deref(), Some(detail));
        }
        let annotated = json!({"annotations": {
            "container.apparmor.security.beta.kubernetes.io/a": "unconfined"}});
        assert_eq!(
            baseline(&annotated, &json!({})).as_deref(),
            Some(
                "forbidden AppArmor profile (annotation \
                 container.apparmor.security.beta.kubernetes.io/a=\"unconfined\" must not set \
                 AppArmor profile type to \"unconfined\")"
            )
        );
    }

    #[test]
    fn a_version_knows_what_came_with_it() {
        let spec = json!({"securityContext": {"sysctls": [{"name": "net.ipv4.tcp_rmem"}]}});
        let metadata = json!({});
        let pod = Pod::new(&metadata, &spec);
        assert!(checks::detail(&Standard::of_minor(Level::Baseline, 31), &pod).is_some());
        assert!(checks::detail(&Standard::of_minor(Level::Baseline, 32), &pod).is_none());
    }
}
