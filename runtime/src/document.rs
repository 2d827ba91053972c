//! `config.json`: what the OCI runtime spec says of a container on Linux.
//!
//! `oci_spec` can decode it too, with what the spec says of Solaris, Windows, z/OS and virtual
//! machines, and with an engine for regular expressions to check `execCPUAffinity`, which nothing
//! here follows: half a megabyte of every shim.

use std::collections::HashMap;
use std::path::PathBuf;

use oci_spec::runtime::{
    Box as ConsoleSize, Hooks, Linux, LinuxCapabilities, LinuxIOPriority, Mount, PosixRlimit,
    Process, Root, Scheduler, Spec, User,
};
use serde::{Deserialize, Deserializer};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    #[serde(default)]
    oci_version: String,
    root: Option<Root>,
    mounts: Option<Vec<Mount>>,
    process: Option<ProcessDocument>,
    hostname: Option<String>,
    domainname: Option<String>,
    hooks: Option<Hooks>,
    annotations: Option<HashMap<String, String>>,
    linux: Option<Linux>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ProcessDocument {
    terminal: Option<bool>,
    console_size: Option<ConsoleSize>,
    user: User,
    args: Option<Vec<String>>,
    env: Option<Vec<String>>,
    cwd: PathBuf,
    capabilities: Option<LinuxCapabilities>,
    rlimits: Option<Vec<PosixRlimit>>,
    no_new_privileges: Option<bool>,
    apparmor_profile: Option<String>,
    oom_score_adj: Option<i32>,
    selinux_label: Option<String>,
    io_priority: Option<LinuxIOPriority>,
    scheduler: Option<Scheduler>,
}

/// Decodes a `config.json`.
pub fn read(text: &[u8]) -> serde_json::Result<Spec> {
    serde_json::from_slice::<Document>(text).map(Document::into_spec)
}

/// Decodes a spec inside of another document.
pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Spec, D::Error> {
    Document::deserialize(deserializer).map(Document::into_spec)
}

impl Document {
    fn into_spec(self) -> Spec {
        let mut spec = Spec::default();
        spec.set_version(self.oci_version)
            .set_root(self.root)
            .set_mounts(self.mounts)
            .set_process(self.process.map(ProcessDocument::into_process))
            .set_hostname(self.hostname)
            .set_domainname(self.domainname)
            .set_hooks(self.hooks)
            .set_annotations(self.annotations)
            .set_linux(self.linux);
        spec
    }
}

impl ProcessDocument {
    fn into_process(self) -> Process {
        let mut process = Process::default();
        process
            .set_terminal(self.terminal)
            .set_console_size(self.console_size)
            .set_user(self.user)
            .set_args(self.args)
            .set_env(self.env)
            .set_cwd(self.cwd)
            .set_capabilities(self.capabilities)
            .set_rlimits(self.rlimits)
            .set_no_new_privileges(self.no_new_privileges)
            .set_apparmor_profile(self.apparmor_profile)
            .set_oom_score_adj(self.oom_score_adj)
            .set_selinux_label(self.selinux_label)
            .set_io_priority(self.io_priority)
            .set_scheduler(self.scheduler);
        process
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_read_is_what_the_library_reads() {
        let whole = serde_json::to_vec(&Spec::default()).unwrap();
        let full = br#"{
            "ociVersion": "1.2.0", "root": {"path": "rootfs", "readonly": true}, "hostname": "h",
            "domainname": "d", "annotations": {"a": "b"},
            "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
            "process": {"terminal": true, "consoleSize": {"height": 24, "width": 80},
                "user": {"uid": 1, "gid": 2, "additionalGids": [3]}, "args": ["a"], "env": ["B=c"],
                "cwd": "/w", "capabilities": {"bounding": ["CAP_KILL"]}, "noNewPrivileges": true,
                "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 9, "soft": 8}],
                "apparmorProfile": "p", "oomScoreAdj": 7, "selinuxLabel": "l",
                "ioPriority": {"class": "IOPRIO_CLASS_IDLE", "priority": 4}},
            "linux": {"cgroupsPath": "/a/b", "namespaces": [{"type": "pid"}]}}"#;
        for text in [&whole[..], &full[..], br#"{"ociVersion": "1.0.2"}"#] {
            let expected: Spec = serde_json::from_slice(text).unwrap();
            assert_eq!(read(text).unwrap(), expected);
        }
        assert!(read(br#"{"process": {"cwd": "/"}}"#).is_err());
    }
}
