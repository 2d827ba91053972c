//! Which kernel settings a pod may have: those that the kernel keeps for each pod and that touch no
//! other one. The list is that of upstream's `pkg/kubelet/sysctl/safe_sysctls.go`, on any kernel
//! that knows the second version of cgroups.

use k8s_openapi::api::core::v1::Pod;

use crate::worker::state::Failure;

/// The one setting of an IPC namespace; the others are of network namespaces.
const IPC: &str = "kernel.shm_rmid_forced";
const NET: [&str; 11] = [
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ping_group_range",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.tcp_wmem",
];

/// Why the first setting that is not the pod's to make is refused.
pub fn refusal(pod: &Pod) -> Option<Failure> {
    let spec = pod.spec.as_ref()?;
    let sysctls = spec.security_context.as_ref()?.sysctls.as_ref()?;
    let (host_net, host_ipc) = (spec.host_network == Some(true), spec.host_ipc == Some(true));
    let why = sysctls.iter().find_map(|sysctl| {
        let name = dotted(&sysctl.name);
        let why = match name.as_str() {
            IPC if host_ipc => "not allowed with host ipc enabled",
            IPC => return None,
            other if !NET.contains(&other) => "not allowlisted",
            _ if host_net => "not allowed with host net enabled",
            _ => return None,
        };
        Some(format!("{name:?} {why}"))
    })?;
    let message = format!("forbidden sysctl: {why}");
    Some(Failure { reason: "SysctlForbidden".into(), message })
}

/// A name with dots between its parts. It may be written with slashes there, as sysctl(8) has it:
/// then its dots are part of a name.
pub fn dotted(name: &str) -> String {
    if name.find(['.', '/']).is_none_or(|first| name[first..].starts_with('.')) {
        return name.to_owned();
    }
    let swapped = name.chars().map(|char| match char {
        '.' => '/',
        '/' => '.',
        char => char,
    });
    swapped.collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::{Value, json};

    fn message(spec: Value, names: &[&str]) -> Option<String> {
        let sysctls: Vec<_> = names.iter().map(|n| json!({"name": n, "value": "1"})).collect();
        let mut pod: Pod = serde_json::from_value(json!({"spec": spec})).unwrap();
        let context = serde_json::from_value(json!({"sysctls": sysctls})).unwrap();
        pod.spec.as_mut().unwrap().security_context = Some(context);
        let failure = refusal(&pod)?;
        assert_eq!(failure.reason, "SysctlForbidden");
        Some(failure.message)
    }

    #[test]
    fn only_what_is_the_pods_own_is_allowed() {
        let plain = || json!({"containers": []});
        assert_eq!(message(plain(), &[]), None);
        assert_eq!(message(plain(), &NET), None);
        assert_eq!(message(plain(), &[IPC, "net/ipv4/tcp_rmem"]), None);
        for (names, why) in [
            (vec!["kernel.msgmax"], "\"kernel.msgmax\" not allowlisted"),
            (vec!["net/core/somaxconn"], "\"net.core.somaxconn\" not allowlisted"),
            (vec![NET[0], "kernel.sem", "vm.x"], "\"kernel.sem\" not allowlisted"),
            (vec!["net.ipv4.tcp_rmem.x"], "\"net.ipv4.tcp_rmem.x\" not allowlisted"),
        ] {
            assert_eq!(message(plain(), &names), Some(format!("forbidden sysctl: {why}")));
        }
    }

    #[test]
    fn what_is_the_machines_stays_as_it_is() {
        let net = json!({"containers": [], "hostNetwork": true});
        assert_eq!(message(net.clone(), &[IPC]), None);
        let why = "forbidden sysctl: \"net.ipv4.tcp_rmem\" not allowed with host net enabled";
        assert_eq!(message(net, &[IPC, "net.ipv4.tcp_rmem"]).as_deref(), Some(why));
        let ipc = json!({"containers": [], "hostIPC": true});
        assert_eq!(message(ipc.clone(), &["net.ipv4.tcp_rmem"]), None);
        let why = "forbidden sysctl: \"kernel.shm_rmid_forced\" not allowed with host ipc enabled";
        assert_eq!(message(ipc, &[IPC]).as_deref(), Some(why));
    }

    #[test]
    fn names_have_either_separator() {
        for (written, meant) in [
            ("", ""),
            ("kernel", "kernel"),
            ("kernel.msgmax", "kernel.msgmax"),
            ("kernel/msgmax", "kernel.msgmax"),
            ("net.ipv4.conf.eno2/100.rp_filter", "net.ipv4.conf.eno2/100.rp_filter"),
            ("net/ipv4/conf/eno2.100/rp_filter", "net.ipv4.conf.eno2/100.rp_filter"),
        ] {
            assert_eq!(dotted(written), meant);
        }
    }
}
