//! `coracle check`: what this machine offers to pods, what it lacks, and how to get it.

use std::fs;
use std::path::Path;

use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};
use nix::sys::statvfs::statvfs;

use crate::cli::DirOptions;
use crate::paths::Paths;

/// Free space below which images soon do not fit, in bytes.
const LOW_DISK_BYTES: u64 = 1 << 30;
/// The oldest kernel that has every call the runtime makes (`mount_setattr`, 5.12).
const MIN_KERNEL: (u32, u32) = (5, 12);
/// Where distributions keep the certificates of authorities, in one file or one file each.
const CERTIFICATES: [&str; 7] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
    "/etc/ssl/certs",
    "/etc/pki/tls/certs",
];
/// Bit of CAP_SYS_ADMIN in a capability mask.
const CAP_SYS_ADMIN: u64 = 1 << 21;
/// Bit of CAP_NET_ADMIN in a capability mask.
const CAP_NET_ADMIN: u64 = 1 << 12;
/// Bit of CAP_SYS_RESOURCE in a capability mask.
const CAP_SYS_RESOURCE: u64 = 1 << 24;

/// How one aspect of the machine is.
enum Finding {
    /// As it should be.
    Good(String),
    /// Works, with a limit.
    Limited { what: String, hint: &'static str },
    /// Pods cannot run without it.
    Missing { what: String, hint: &'static str },
}

use Finding::{Good, Limited, Missing};

/// Prints every finding; the exit code is 1 if something indispensable is missing.
pub fn run(options: &DirOptions) -> i32 {
    let findings = findings(options);
    for (name, finding) in &findings {
        match finding {
            Good(what) => println!("ok       {name}: {what}"),
            Limited { what, hint } => println!("limited  {name}: {what}\n         → {hint}"),
            Missing { what, hint } => println!("MISSING  {name}: {what}\n         → {hint}"),
        }
    }
    // Without the privilege, or nf_tables, there is nothing to list.
    for chain in netproxy::opened_firewalls().unwrap_or_default() {
        println!("note     firewall: coracle lets pods' packets through chain {chain}");
    }
    let missing = findings.iter().filter(|(_, f)| matches!(f, Missing { .. })).count();
    match missing {
        0 => println!("This machine can run pods."),
        n => println!("{n} thing(s) are missing; see the arrows."),
    }
    i32::from(missing > 0)
}

/// The first thing that keeps a node from running here, as one sentence with its remedy.
pub fn first_obstacle(options: &DirOptions) -> Option<String> {
    findings(options).into_iter().find_map(|(name, finding)| match finding {
        Missing { what, hint } => Some(format!("{name}: {what}; {hint}")),
        _ => None,
    })
}

fn findings(options: &DirOptions) -> Vec<(&'static str, Finding)> {
    vec![
        ("privileges", privileges()),
        ("kernel", kernel()),
        ("namespaces", namespaces()),
        ("overlayfs", overlayfs()),
        ("cgroups", cgroups()),
        ("nftables", nftables()),
        ("resource limits", resource_limits()),
        ("certificates", certificates()),
        ("disk", disk(&Paths::new(options).data_dir)),
    ]
}

fn capabilities() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(0)
}

fn privileges() -> Finding {
    let wanted = CAP_SYS_ADMIN | CAP_NET_ADMIN;
    if nix::unistd::geteuid().is_root() && capabilities() & wanted == wanted {
        Good("root".into())
    } else {
        Missing { what: "not root".into(), hint: "run it with sudo" }
    }
}

fn kernel() -> Finding {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let release = release.trim().to_owned();
    let mut numbers = release.split(['.', '-']).map(|n| n.parse::<u32>().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if version >= MIN_KERNEL {
        Good(release)
    } else {
        Missing { what: release, hint: "a kernel of 5.12 or later is needed (Debian 12 has 6.1)" }
    }
}

fn namespaces() -> Finding {
    let missing: Vec<&str> = ["pid", "net", "ipc", "uts", "mnt"]
        .into_iter()
        .filter(|ns| !Path::new("/proc/self/ns").join(ns).exists())
        .collect();
    if missing.is_empty() {
        Good("pid, net, ipc, uts, mnt".into())
    } else {
        Missing {
            what: format!("the kernel has no {} namespaces", missing.join(", ")),
            hint: "use a distribution kernel (CONFIG_NAMESPACES and its children)",
        }
    }
}

fn overlayfs() -> Finding {
    let known =
        |list: &str| list.lines().any(|line| line.trim_start_matches("nodev").trim() == "overlay");
    let builtin = known(&fs::read_to_string("/proc/filesystems").unwrap_or_default());
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let modules = Path::new("/lib/modules").join(release.trim()).join("kernel/fs/overlayfs");
    if builtin || modules.is_dir() {
        Good(if builtin { "present".into() } else { "as a module".into() })
    } else {
        Missing {
            what: "absent".into(),
            hint: "modprobe overlay, or a kernel with CONFIG_OVERLAY_FS",
        }
    }
}

fn cgroups() -> Finding {
    if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        let controllers =
            fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap_or_default();
        let missing: Vec<&str> = ["cpu", "memory", "pids"]
            .into_iter()
            .filter(|c| !controllers.split_whitespace().any(|have| have == *c))
            .collect();
        return if missing.is_empty() {
            Good("v2".into())
        } else {
            Limited {
                what: format!("v2 without {}", missing.join(", ")),
                hint: "limits of these kinds will not hold; see the kernel's cgroup_disable= option",
            }
        };
    }
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let missing: Vec<&str> = ["cpu", "memory", "pids"]
        .into_iter()
        .filter(|controller| {
            !mounts.lines().any(|line| {
                let mut fields = line.split(' ').skip(2);
                fields.next() == Some("cgroup")
                    && fields.next().is_some_and(|o| o.split(',').any(|o| o == *controller))
            })
        })
        .collect();
    if missing.is_empty() {
        Good("v1".into())
    } else {
        Missing {
            what: format!("no {} controller mounted", missing.join(", ")),
            hint: "mount -t cgroup2 none /sys/fs/cgroup, or boot with systemd",
        }
    }
}

fn nftables() -> Finding {
    let opened = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkNetFilter,
    );
    match opened {
        Ok(_) => Good("netlink answers".into()),
        Err(errno) => Missing {
            what: format!("no netfilter netlink ({errno})"),
            hint: "modprobe nf_tables nft_nat nft_chain_nat nft_fib_ipv4 nft_numgen",
        },
    }
}

fn resource_limits() -> Finding {
    if capabilities() & CAP_SYS_RESOURCE != 0 {
        Good("may be raised".into())
    } else {
        Limited {
            what: "CAP_SYS_RESOURCE is missing".into(),
            hint: "OOM scores cannot be lowered nor limits raised; everything else works",
        }
    }
}

fn certificates() -> Finding {
    let present = |path: &Path| match fs::read_dir(path) {
        Ok(mut entries) => entries.next().is_some(),
        Err(_) => path.is_file(),
    };
    let own = ["SSL_CERT_FILE", "SSL_CERT_DIR"].map(std::env::var_os);
    let own = own.iter().flatten().map(Path::new);
    match own.chain(CERTIFICATES.iter().map(Path::new)).find(|path| present(path)) {
        Some(path) => Good(path.display().to_string()),
        None => Limited {
            what: "no CA certificates are installed".into(),
            hint: "registries cannot be verified, only archives be loaded; apt-get install ca-certificates",
        },
    }
}

fn disk(dir: &Path) -> Finding {
    let existing = dir.ancestors().find(|d| d.exists()).unwrap_or(Path::new("/"));
    match statvfs(existing) {
        Ok(stat) => {
            let free = stat.blocks_available() * stat.fragment_size();
            let text =
                format!("{:.1} GiB free in {}", free as f64 / (1u64 << 30) as f64, dir.display());
            if free >= LOW_DISK_BYTES {
                Good(text)
            } else {
                Limited {
                    what: text,
                    hint: "images may not fit; free some space or use --data-dir",
                }
            }
        }
        Err(errno) => Limited {
            what: format!("{}: {errno}", existing.display()),
            hint: "choose another --data-dir",
        },
    }
}
