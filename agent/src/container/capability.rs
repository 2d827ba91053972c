//! Capability sets of containers.

/// What a container may do when its pod says nothing.
pub const DEFAULT: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

/// Every capability of the kernel interface.
pub const ALL: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// The capabilities after additions and removals, named without or with `CAP_`.
pub fn granted(privileged: bool, add: &[String], drop: &[String]) -> Vec<String> {
    if privileged {
        return ALL.map(String::from).to_vec();
    }
    let full = |name: &String| {
        let name = name.to_ascii_uppercase();
        if name.starts_with("CAP_") { name } else { format!("CAP_{name}") }
    };
    let add: Vec<String> = add.iter().map(full).collect();
    let drop: Vec<String> = drop.iter().map(full).collect();
    let has = |list: &[String], name: &str| list.iter().any(|item| item == name);
    let mut granted: Vec<String> = if has(&add, "CAP_ALL") {
        ALL.iter().filter(|name| !has(&drop, name)).map(ToString::to_string).collect()
    } else if has(&drop, "CAP_ALL") {
        Vec::new()
    } else {
        DEFAULT.iter().filter(|name| !has(&drop, name)).map(ToString::to_string).collect()
    };
    for name in add {
        if ALL.contains(&name.as_str()) && !granted.contains(&name) {
            granted.push(name);
        }
    }
    granted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn additions_and_removals() {
        let list = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(granted(false, &[], &[]).len(), DEFAULT.len());
        let bind = granted(false, &list(&["NET_BIND_SERVICE"]), &list(&["ALL"]));
        assert_eq!(bind, ["CAP_NET_BIND_SERVICE"]);
        let admin = granted(false, &list(&["NET_ADMIN"]), &list(&["CHOWN"]));
        assert!(admin.contains(&"CAP_NET_ADMIN".into()) && !admin.contains(&"CAP_CHOWN".into()));
        assert_eq!(granted(false, &list(&["ALL"]), &list(&["SYS_ADMIN"])).len(), ALL.len() - 1);
        assert_eq!(granted(true, &[], &list(&["ALL"])).len(), ALL.len());
    }
}
