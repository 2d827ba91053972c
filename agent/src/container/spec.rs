//! The OCI runtime specification of one container: a pure function of pod, image and decisions.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{Container, Pod, SeccompProfile};
use oci_spec::image::ImageConfiguration;
use oci_spec::runtime::Spec;
use serde_json::{Value, json};

use super::capability;
use super::clean_path::cleaned;
use super::command::{arguments, expanded};
use super::user::{self, Identity, UserError};
use super::variables::{ExcessError, Variables};
use super::{masks, resources};

/// A file or directory of the machine that the container sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bind {
    /// On the machine.
    pub source: PathBuf,
    /// In the container.
    pub target: PathBuf,
    /// The container cannot write.
    pub read_only: bool,
    /// And not on what is mounted below it either.
    pub recursive_read_only: bool,
    /// `private`, `rslave` or `rshared`.
    pub propagation: &'static str,
}

/// What a specification is made from, besides pod and container.
pub struct Ingredients<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// The container.
    pub container: &'a Container,
    /// The image's configuration.
    pub image: &'a ImageConfiguration,
    /// The image's layers, base first.
    pub layers: &'a [PathBuf],
    /// Environment that the pod asks for.
    pub env: &'a Variables,
    /// Volumes and the agent's files.
    pub binds: &'a [Bind],
    /// Host name as the container sees it.
    pub hostname: &'a str,
    /// Identifier of the container.
    pub id: &'a str,
    /// The control group above `kubepods`; empty for the top.
    pub cgroup_root: &'a str,
    /// Bytes of memory of the machine.
    pub memory_capacity: u64,
    /// Where profiles of seccomp type `Localhost` are.
    pub seccomp_dir: &'a Path,
    /// The process namespace of another container, to be joined.
    pub join_pid: Option<&'a Path>,
}

/// Why a container cannot be made from its pod; the text becomes a status message.
#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    /// Neither pod nor image name a program.
    #[error("no command specified")]
    NoCommand,
    /// A working directory that a process has open, which may be one of the machine.
    #[error(
        "working directory {0:?} is refused: it leads through a file that a process has open (CVE-2024-21626)"
    )]
    WorkingDirectory(String),
    /// No program can be given so much.
    #[error(transparent)]
    Excess(#[from] ExcessError),
    /// The user is unknown in the image.
    #[error(transparent)]
    User(#[from] UserError),
    /// `runAsNonRoot` and the image runs as root.
    #[error(
        "container has runAsNonRoot and image will run as root (pod: \"{pod}\", container: {container})"
    )]
    ImageRunsAsRoot {
        /// `name_namespace(uid)`.
        pod: String,
        /// Its name.
        container: String,
    },
    /// `runAsNonRoot` and `runAsUser: 0`.
    #[error(
        "container's runAsUser breaks non-root policy (pod: \"{pod}\", container: {container})"
    )]
    RunAsUserBreaksPolicy {
        /// `name_namespace(uid)`.
        pod: String,
        /// Its name.
        container: String,
    },
    /// `runAsNonRoot` and the image names its user, which proves nothing.
    #[error(
        "container has runAsNonRoot and image has non-numeric user ({user}), cannot verify user is non-root (pod: \"{pod}\", container: {container})"
    )]
    NonNumericUser {
        /// The name.
        user: String,
        /// `name_namespace(uid)`.
        pod: String,
        /// Its name.
        container: String,
    },
    /// A seccomp profile cannot be read.
    #[error("cannot load seccomp profile {path:?}")]
    Seccomp {
        /// Where it should be.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The kernel takes no more.
    #[error("more than {} supplementary groups", user::MAX_GROUPS)]
    Groups,
    /// The pieces do not make a specification.
    #[error("the container does not make a valid OCI specification: {0}")]
    Malformed(#[from] serde_json::Error),
}

/// The specification, and who the process runs as.
pub fn build(from: &Ingredients<'_>) -> Result<Spec, SpecError> {
    let Ingredients { pod, container, image, .. } = from;
    let config = image.config().clone().unwrap_or_default();
    let none = Vec::new();
    let security = container.security_context.clone().unwrap_or_default();
    let pod_spec = pod.spec.clone().unwrap_or_default();
    let pod_security = pod_spec.security_context.clone().unwrap_or_default();
    let privileged = security.privileged.unwrap_or(false);

    let args = arguments(
        container.command.as_deref().unwrap_or_default(),
        container.args.as_deref().unwrap_or_default(),
        config.entrypoint().as_ref().unwrap_or(&none),
        config.cmd().as_ref().unwrap_or(&none),
    );
    if args.is_empty() {
        return Err(SpecError::NoCommand);
    }

    let identity = identity(from, config.user().as_deref().unwrap_or_default())?;
    let mut groups = identity.groups.clone();
    if pod_security.supplemental_groups_policy.as_deref() == Some("Strict") {
        groups.clear();
    }
    let mut known: HashSet<u32> = groups.iter().copied().collect();
    let extra = pod_security.supplemental_groups.iter().flatten().chain(&pod_security.fs_group);
    groups
        .extend(extra.filter_map(|gid| u32::try_from(*gid).ok()).filter(|gid| known.insert(*gid)));
    if groups.len() > user::MAX_GROUPS {
        return Err(SpecError::Groups);
    }

    let env = environment(from, config.env().as_ref().unwrap_or(&none), &identity)?;
    let args = expanded(&args, from.env, &env)?;
    let env: Vec<String> = env.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let empty = Default::default();
    let caps = security.capabilities.as_ref().unwrap_or(&empty);
    let granted = capability::granted(
        privileged,
        caps.add.as_deref().unwrap_or_default(),
        caps.drop.as_deref().unwrap_or_default(),
    );
    // Only root gets what it is granted at once; others may get it through file capabilities.
    let effective = if identity.uid == 0 { granted.clone() } else { Vec::new() };

    let cwd = container.working_dir.clone().filter(|dir| !dir.is_empty());
    let cwd = cwd.or_else(|| config.working_dir().clone().filter(|dir| !dir.is_empty()));
    if let Some(cwd) = cwd.as_ref().filter(|cwd| leads_through_process(cwd)) {
        return Err(SpecError::WorkingDirectory(cwd.clone()));
    }
    let oom_score_adj = resources::oom_score_adj(pod, container, from.memory_capacity);
    let mut process = json!({
        "terminal": container.tty.unwrap_or(false),
        "user": {"uid": identity.uid, "gid": identity.gid, "additionalGids": groups},
        "args": args,
        "env": env,
        "cwd": cwd.unwrap_or_else(|| "/".into()),
        "capabilities": {
            "bounding": granted,
            "effective": effective,
            "permitted": effective,
            "inheritable": [],
            "ambient": [],
        },
        "noNewPrivileges": security.allow_privilege_escalation == Some(false),
        "oomScoreAdj": oom_score_adj,
    });
    process["user"]["umask"] = Value::Null;
    process["user"].as_object_mut().map(|user| user.remove("umask"));

    let mut linux = json!({
        "resources": resources::container_resources(container),
        "cgroupsPath": format!("/{}/{}", resources::pod_cgroup(from.cgroup_root, pod), from.id),
        "namespaces": namespaces(&pod_spec, from.join_pid),
    });
    linux["resources"]["devices"] = devices(privileged);
    if privileged {
        linux["devices"] = json!(host_devices());
    } else if security.proc_mount.as_deref() != Some("Unmasked") {
        linux["maskedPaths"] = json!(masks::masked());
        linux["readonlyPaths"] = json!(masks::READ_ONLY);
    }
    let shares_mounts = from.binds.iter().any(|bind| bind.propagation == "rshared");
    let follows_mounts = from.binds.iter().any(|bind| bind.propagation == "rslave");
    if shares_mounts {
        linux["rootfsPropagation"] = json!("shared");
    } else if follows_mounts {
        linux["rootfsPropagation"] = json!("slave");
    }
    if !privileged {
        let profile = security.seccomp_profile.or(pod_security.seccomp_profile);
        if let Some(seccomp) = seccomp(profile.as_ref(), &granted, from.seccomp_dir)? {
            linux["seccomp"] = seccomp;
        }
    }

    let spec = json!({
        "ociVersion": "1.2.0",
        "process": process,
        "root": {
            "path": "rootfs",
            "readonly": security.read_only_root_filesystem.unwrap_or(false),
        },
        "hostname": from.hostname,
        "mounts": mounts(from, privileged, &pod_spec),
        "linux": linux,
    });
    Ok(runtime::document::read(&serde_json::to_vec(&spec)?)?)
}

/// Who the process runs as: pod and container over the image, `runAsNonRoot` enforced.
fn identity(from: &Ingredients<'_>, image_user: &str) -> Result<Identity, SpecError> {
    let security = from.container.security_context.as_ref();
    let pod_security = from.pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref());
    let run_as_user =
        security.and_then(|s| s.run_as_user).or(pod_security.and_then(|s| s.run_as_user));
    let run_as_group =
        security.and_then(|s| s.run_as_group).or(pod_security.and_then(|s| s.run_as_group));
    let non_root =
        security.and_then(|s| s.run_as_non_root).or(pod_security.and_then(|s| s.run_as_non_root));
    let pod = || crate::worker::status::pod_full_name(from.pod);
    let container = || from.container.name.clone();
    if non_root == Some(true) {
        match run_as_user {
            Some(0) => {
                return Err(SpecError::RunAsUserBreaksPolicy {
                    pod: pod(),
                    container: container(),
                });
            }
            Some(_) => {}
            None => {
                let user = image_user.split(':').next().unwrap_or_default();
                match user::number(user) {
                    Some(0) => {
                        return Err(SpecError::ImageRunsAsRoot {
                            pod: pod(),
                            container: container(),
                        });
                    }
                    Some(_) => {}
                    None if user.is_empty() => {
                        return Err(SpecError::ImageRunsAsRoot {
                            pod: pod(),
                            container: container(),
                        });
                    }
                    None => {
                        return Err(SpecError::NonNumericUser {
                            user: user.to_owned(),
                            pod: pod(),
                            container: container(),
                        });
                    }
                }
            }
        }
    }
    let wanted = match run_as_user {
        Some(uid) => uid.to_string(),
        None => image_user.to_owned(),
    };
    let passwd = user::read_image_file(from.layers, "etc/passwd").unwrap_or_default();
    let group = user::read_image_file(from.layers, "etc/group").unwrap_or_default();
    let mut identity = user::resolve(&wanted, &passwd, &group)?;
    if non_root == Some(true) && identity.uid == 0 {
        return Err(SpecError::ImageRunsAsRoot { pod: pod(), container: container() });
    }
    if let Some(gid) = run_as_group.and_then(|gid| u32::try_from(gid).ok()) {
        identity.gid = gid;
    }
    Ok(identity)
}

/// The image's variables overridden by the pod's, with those every process expects.
fn environment(
    from: &Ingredients<'_>,
    image: &[String],
    identity: &Identity,
) -> Result<Variables, ExcessError> {
    let mut result = Variables::default();
    let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    result.set("PATH".into(), path.into())?;
    result.set("HOSTNAME".into(), from.hostname.to_owned())?;
    if from.container.tty == Some(true) {
        result.set("TERM".into(), "xterm".into())?;
    }
    let image = image.iter().filter_map(|entry| entry.split_once('='));
    for (name, value) in image.chain(from.env.iter()) {
        result.set(name.to_owned(), value.to_owned())?;
    }
    if result.get("HOME").is_none() {
        let home = identity.home.clone().filter(|home| !home.is_empty());
        result.set("HOME".into(), home.unwrap_or_else(|| "/".into()))?;
    }
    Ok(result)
}

fn namespaces(spec: &k8s_openapi::api::core::v1::PodSpec, join_pid: Option<&Path>) -> Value {
    // The runtime knows which of them the sandbox shares; this says which are not the machine's.
    let mut list = vec![json!({"type": "mount"}), json!({"type": "cgroup"})];
    if !spec.host_network.unwrap_or(false) {
        list.push(json!({"type": "network"}));
        list.push(json!({"type": "uts"}));
    }
    if !spec.host_ipc.unwrap_or(false) {
        list.push(json!({"type": "ipc"}));
    }
    if let Some(path) = join_pid {
        list.push(json!({"type": "pid", "path": path}));
    } else if !spec.host_pid.unwrap_or(false) {
        list.push(json!({"type": "pid"}));
    }
    json!(list)
}

fn devices(privileged: bool) -> Value {
    if privileged {
        return json!([{"allow": true, "access": "rwm"}]);
    }
    let allow = |kind: &str, major: Option<i64>, minor: Option<i64>, access: &str| {
        let mut rule = json!({"allow": true, "type": kind, "access": access});
        if let Some(major) = major {
            rule["major"] = json!(major);
        }
        if let Some(minor) = minor {
            rule["minor"] = json!(minor);
        }
        rule
    };
    json!([
        {"allow": false, "access": "rwm"},
        allow("c", None, None, "m"),
        allow("b", None, None, "m"),
        allow("c", Some(1), Some(3), "rwm"),
        allow("c", Some(1), Some(5), "rwm"),
        allow("c", Some(1), Some(7), "rwm"),
        allow("c", Some(1), Some(8), "rwm"),
        allow("c", Some(1), Some(9), "rwm"),
        allow("c", Some(5), Some(0), "rwm"),
        allow("c", Some(5), Some(2), "rwm"),
        allow("c", Some(136), None, "rwm"),
    ])
}

/// The device nodes of the machine, for privileged containers.
fn host_devices() -> Vec<Value> {
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    const SKIP: [&str; 8] = ["pts", "shm", "mqueue", "fd", "console", "ptmx", "core", ".udev"];
    let mut found = Vec::new();
    let mut pending = vec![PathBuf::from("/dev")];
    while let Some(directory) = pending.pop() {
        let Ok(entries) = std::fs::read_dir(&directory) else { continue };
        for entry in entries.flatten() {
            let Ok(metadata) = entry.metadata() else { continue };
            let name = entry.file_name();
            if directory == Path::new("/dev") && SKIP.iter().any(|skip| name == *skip) {
                continue;
            }
            let kind = metadata.file_type();
            let letter = if kind.is_char_device() {
                "c"
            } else if kind.is_block_device() {
                "b"
            } else {
                if kind.is_dir() {
                    pending.push(entry.path());
                }
                continue;
            };
            found.push(json!({
                "path": entry.path(),
                "type": letter,
                "major": nix::sys::stat::major(metadata.rdev()),
                "minor": nix::sys::stat::minor(metadata.rdev()),
                "fileMode": metadata.mode() & 0o7777,
                "uid": metadata.uid(),
                "gid": metadata.gid(),
            }));
        }
    }
    found
}

fn seccomp(
    profile: Option<&SeccompProfile>,
    granted: &[String],
    directory: &Path,
) -> Result<Option<Value>, SpecError> {
    let kind = profile.map_or("RuntimeDefault", |profile| profile.type_.as_str());
    match kind {
        "Unconfined" => Ok(None),
        "Localhost" => {
            let name = profile.and_then(|profile| profile.localhost_profile.clone());
            let path = directory.join(name.unwrap_or_default());
            let text = std::fs::read(&path)
                .map_err(|source| SpecError::Seccomp { path: path.clone(), source })?;
            Ok(Some(serde_json::from_slice(&text)?))
        }
        _ => {
            let granted = serde_json::from_value(json!(granted))?;
            Ok(Some(serde_json::to_value(runtime::seccomp::runtime_default(&granted))?))
        }
    }
}

/// Returns whether a path leads through what a process has open, is in or has as its root. Links
/// of the image that lead there are found when the container is started.
fn leads_through_process(path: &str) -> bool {
    // What follows such a part, even `..`, starts from there.
    let prefixes = Path::new(path).ancestors().filter_map(Path::to_str);
    prefixes.map(cleaned).any(|prefix| {
        let mut parts = prefix.iter().skip(1).filter_map(|part| part.to_str());
        match parts.next() {
            Some("dev") => parts.next() == Some("fd"),
            Some("proc") => parts.any(|part| matches!(part, "fd" | "cwd" | "root" | "map_files")),
            _ => false,
        }
    })
}

fn mounts(
    from: &Ingredients<'_>,
    privileged: bool,
    spec: &k8s_openapi::api::core::v1::PodSpec,
) -> Vec<Value> {
    let sys = if privileged { "rw" } else { "ro" };
    let mut mounts = vec![
        json!({"destination": "/proc", "type": "proc", "source": "proc",
            "options": ["nosuid", "noexec", "nodev"]}),
        json!({"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
            "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]}),
        json!({"destination": "/dev/pts", "type": "devpts", "source": "devpts",
            "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]}),
    ];
    let takes = |path: &str| from.binds.iter().any(|bind| bind.target == Path::new(path));
    if !takes("/dev/mqueue") {
        mounts.push(json!({"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue",
            "options": ["nosuid", "noexec", "nodev"]}));
    }
    if spec.host_network.unwrap_or(false) && spec.host_pid.unwrap_or(false) {
        mounts.push(json!({"destination": "/sys", "type": "bind", "source": "/sys",
            "options": ["rbind", "nosuid", "noexec", "nodev", if privileged { "rw" } else { "rro" }]}));
    } else {
        mounts.push(json!({"destination": "/sys", "type": "sysfs", "source": "sysfs",
            "options": ["nosuid", "noexec", "nodev", sys]}));
    }
    mounts.push(json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
        "options": ["nosuid", "noexec", "nodev", "relatime", sys]}));
    if !takes("/dev/shm") {
        mounts.push(if spec.host_ipc.unwrap_or(false) {
            json!({"destination": "/dev/shm", "type": "bind", "source": "/dev/shm",
                "options": ["rbind", "rprivate", "rw"]})
        } else {
            json!({"destination": "/dev/shm", "type": "tmpfs", "source": "shm",
                "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]})
        });
    }
    // Parents before what is mounted below them.
    let mut binds: Vec<&Bind> = from.binds.iter().collect();
    binds.sort_by_key(|bind| bind.target.components().count());
    for bind in binds {
        let mut options = vec!["rbind", bind.propagation];
        options.push(match (bind.read_only, bind.recursive_read_only) {
            (true, true) => "rro",
            (true, false) => "ro",
            _ => "rw",
        });
        mounts.push(json!({"destination": bind.target, "type": "bind", "source": bind.source,
            "options": options}));
    }
    mounts
}

#[cfg(test)]
#[path = "spec_tests.rs"]
mod tests;
