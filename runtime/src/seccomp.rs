//! Seccomp: the default profile and its compilation to a filter program.

mod filter;
mod numbers;

use oci_spec::runtime::{
    Arch, Capabilities, Capability, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg,
    LinuxSeccompArgBuilder, LinuxSeccompBuilder, LinuxSeccompOperator, LinuxSyscall,
    LinuxSyscallBuilder,
};

pub(crate) use filter::allows;
pub use filter::{CompileError, Filter, compile};

/// Calls that a container may not make whatever capabilities it has: they reach the keyring, the
/// kernel's memory policy and swap, or parts of the kernel that nobody maintains.
const NEVER: &[&str] = &[
    "_sysctl",
    "add_key",
    "afs_syscall",
    "bdflush",
    "break",
    "create_module",
    "ftime",
    "get_kernel_syms",
    "getpmsg",
    "gtty",
    "idle",
    "io_uring_enter",
    "io_uring_register",
    "io_uring_setup",
    "kexec_file_load",
    "kexec_load",
    "keyctl",
    "lock",
    "lsm_get_self_attr",
    "lsm_list_modules",
    "lsm_set_self_attr",
    "migrate_pages",
    "move_pages",
    "mpx",
    "nfsservctl",
    "nice",
    "oldfstat",
    "oldlstat",
    "oldolduname",
    "oldstat",
    "olduname",
    "pivot_root",
    "prof",
    "profil",
    "putpmsg",
    "readdir",
    "request_key",
    "security",
    "sgetmask",
    "sigaction",
    "signal",
    "sigpending",
    "sigsuspend",
    "ssetmask",
    "stty",
    "swapoff",
    "swapon",
    "sysfs",
    "tuxcall",
    "ulimit",
    "uselib",
    "userfaultfd",
    "ustat",
    "vm86",
    "vm86old",
    "vserver",
    "file_setattr",
    "file_getattr",
];

/// Calls allowed only beside a capability.
const GATED: &[(&[Capability], &[&str])] = &[
    (
        &[Capability::SysAdmin],
        &[
            "fanotify_init",
            "fsconfig",
            "fsmount",
            "fsopen",
            "fspick",
            "listmount",
            "lookup_dcookie",
            "mount",
            "mount_setattr",
            "move_mount",
            "open_tree",
            "open_tree_attr",
            "quotactl",
            "quotactl_fd",
            "setdomainname",
            "sethostname",
            "setns",
            "statmount",
            "umount",
            "umount2",
            "unshare",
        ],
    ),
    (&[Capability::SysAdmin, Capability::Bpf], &["bpf"]),
    (&[Capability::SysAdmin, Capability::Perfmon], &["perf_event_open"]),
    (&[Capability::SysAdmin, Capability::Syslog], &["syslog"]),
    (&[Capability::DacReadSearch], &["open_by_handle_at"]),
    (&[Capability::SysBoot], &["reboot"]),
    (&[Capability::SysChroot], &["chroot"]),
    (&[Capability::SysModule], &["delete_module", "finit_module", "init_module", "query_module"]),
    (&[Capability::SysPacct], &["acct"]),
    (&[Capability::SysPtrace], &["kcmp", "pidfd_getfd", "process_madvise"]),
    (&[Capability::SysRawio], &["ioperm", "iopl"]),
    (&[Capability::SysTime], &["clock_settime", "clock_settime64", "settimeofday", "stime"]),
    (&[Capability::SysTtyConfig], &["vhangup"]),
    (
        &[Capability::SysNice],
        &["get_mempolicy", "mbind", "set_mempolicy", "set_mempolicy_home_node"],
    ),
];

/// Calls that are allowed for some arguments only.
const BY_ARGUMENT: &[&str] = &["clone", "clone3", "personality", "socket"];

/// The RuntimeDefault profile, equivalent to what containerd and Docker apply, for a container
/// with these (bounding) capabilities.
///
/// What the kernel had in version 6.17 and is not named in the lists above is allowed, everything
/// newer fails with ENOSYS, so that programs fall back as on an older kernel.
pub fn runtime_default(capabilities: &Capabilities) -> LinuxSeccomp {
    let held = |any: &[Capability]| any.iter().any(|c| capabilities.contains(c));
    let gated = |name: &str| GATED.iter().any(|(any, names)| names.contains(&name) && !held(any));
    let names = numbers::SYSCALLS
        .iter()
        .map(|(name, ..)| *name)
        .filter(|name| !NEVER.contains(name) && !BY_ARGUMENT.contains(name) && !gated(name))
        .map(str::to_owned)
        .collect();
    let mut syscalls = vec![rule(names, None)];
    // Linux, a 32-bit personality, UNAME26, both, and the question what it is.
    for value in [0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff] {
        let argument = argument(0, value, None, LinuxSeccompOperator::ScmpCmpEq);
        syscalls.push(rule(vec!["personality".to_owned()], Some(argument)));
    }
    const AF_VSOCK: u64 = 40;
    let not_vsock = argument(0, AF_VSOCK, None, LinuxSeccompOperator::ScmpCmpNe);
    syscalls.push(rule(vec!["socket".to_owned()], Some(not_vsock)));
    if held(&[Capability::SysAdmin]) {
        syscalls.push(rule(vec!["clone".to_owned(), "clone3".to_owned()], None));
    } else {
        // No new namespaces. clone3 has its flags in memory, where a filter cannot look: the C
        // library falls back to clone on ENOSYS.
        const NAMESPACES: u64 = (libc::CLONE_NEWNS
            | libc::CLONE_NEWUTS
            | libc::CLONE_NEWIPC
            | libc::CLONE_NEWUSER
            | libc::CLONE_NEWPID
            | libc::CLONE_NEWNET
            | libc::CLONE_NEWCGROUP) as u64;
        let flags = argument(0, NAMESPACES, Some(0), LinuxSeccompOperator::ScmpCmpMaskedEq);
        syscalls.push(rule(vec!["clone".to_owned()], Some(flags)));
        let mut refused = rule(vec!["clone3".to_owned()], None);
        refused.set_action(LinuxSeccompAction::ScmpActErrno);
        refused.set_errno_ret(Some(libc::ENOSYS as u32));
        syscalls.push(refused);
    }
    LinuxSeccompBuilder::default()
        .default_action(LinuxSeccompAction::ScmpActErrno)
        .default_errno_ret(libc::EPERM as u32)
        .architectures(vec![Arch::ScmpArchX86_64, Arch::ScmpArchX86, Arch::ScmpArchX32])
        .syscalls(syscalls)
        .build()
        .unwrap_or_default()
}

/// Calls of the first process of a sandbox, which waits for orphans until it is killed.
const REAPER: &[&str] = &[
    "exit",
    "exit_group",
    "restart_syscall",
    "rt_sigaction",
    "rt_sigprocmask",
    "rt_sigreturn",
    "rt_sigtimedwait",
    "wait4",
    "waitid",
];

/// The filter of the first process of a sandbox.
pub(crate) fn reaper() -> Result<Filter, CompileError> {
    let names = REAPER.iter().map(|name| (*name).to_owned()).collect();
    let profile = LinuxSeccompBuilder::default()
        .default_action(LinuxSeccompAction::ScmpActErrno)
        .default_errno_ret(libc::EPERM as u32)
        .architectures(vec![Arch::ScmpArchX86_64])
        .syscalls(vec![rule(names, None)])
        .build()
        .unwrap_or_default();
    compile(&profile)
}

fn rule(names: Vec<String>, argument: Option<LinuxSeccompArg>) -> LinuxSyscall {
    let mut builder =
        LinuxSyscallBuilder::default().names(names).action(LinuxSeccompAction::ScmpActAllow);
    if let Some(argument) = argument {
        builder = builder.args(vec![argument]);
    }
    builder.build().unwrap_or_default()
}

fn argument(
    index: usize,
    value: u64,
    value_two: Option<u64>,
    operator: LinuxSeccompOperator,
) -> LinuxSeccompArg {
    let mut builder = LinuxSeccompArgBuilder::default().index(index).value(value).op(operator);
    if let Some(two) = value_two {
        builder = builder.value_two(two);
    }
    builder.build().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_log_needs_its_capability() {
        let allowed = |capability: Option<Capability>| {
            let profile = runtime_default(&capability.into_iter().collect());
            let program = compile(&profile).map(|filter| filter.program).unwrap_or_default();
            allows(&program, &[(libc::SYS_syslog, 3)])
        };
        assert!(!allowed(None));
        assert!(!allowed(Some(Capability::SysPtrace)));
        assert!(allowed(Some(Capability::Syslog)));
        assert!(allowed(Some(Capability::SysAdmin)));
    }

    #[test]
    fn reaper_gets_no_memory_and_no_files() {
        let program = reaper().map(|filter| filter.program).unwrap_or_default();
        assert!(allows(&program, &[(libc::SYS_wait4, 0), (libc::SYS_rt_sigtimedwait, 0)]));
        for call in [libc::SYS_mmap, libc::SYS_brk, libc::SYS_openat, libc::SYS_clone] {
            assert!(!allows(&program, &[(call, 0)]), "{call}");
        }
    }

    #[test]
    fn names_exist() {
        let gated = GATED.iter().flat_map(|(_, names)| names.iter());
        for name in NEVER.iter().chain(gated).chain(BY_ARGUMENT).chain(REAPER) {
            assert!(numbers::SYSCALLS.iter().any(|(known, ..)| known == name), "{name}");
        }
    }
}
