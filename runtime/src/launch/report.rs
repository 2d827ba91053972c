//! How a child tells why it failed: a few bytes over a pipe that exec closes.

use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;

use super::Wording;
use crate::{LaunchError, LaunchErrorKind};

/// Where between clone and exec a child was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Step {
    /// Set up and waiting before its program; not a failure.
    Ready,
    Cgroup,
    JoinNamespace,
    CgroupNamespace,
    Hostname,
    Sysctl,
    Isolate,
    RootMount,
    MountTarget,
    Mount,
    Device,
    DeviceLink,
    Console,
    Mask,
    ReadOnlyPath,
    ReadOnlyRoot,
    Pivot,
    Session,
    Streams,
    Limit,
    Cwd,
    CwdOutside,
    Bounding,
    Ids,
    Capabilities,
    NoNewPrivileges,
    Seccomp,
    AppArmor,
    Execute,
    NotFound,
    Pid,
    Keyring,
}

const STEPS: [Step; 32] = [
    Step::Ready,
    Step::Cgroup,
    Step::JoinNamespace,
    Step::CgroupNamespace,
    Step::Hostname,
    Step::Sysctl,
    Step::Isolate,
    Step::RootMount,
    Step::MountTarget,
    Step::Mount,
    Step::Device,
    Step::DeviceLink,
    Step::Console,
    Step::Mask,
    Step::ReadOnlyPath,
    Step::ReadOnlyRoot,
    Step::Pivot,
    Step::Session,
    Step::Streams,
    Step::Limit,
    Step::Cwd,
    Step::CwdOutside,
    Step::Bounding,
    Step::Ids,
    Step::Capabilities,
    Step::NoNewPrivileges,
    Step::Seccomp,
    Step::AppArmor,
    Step::Execute,
    Step::NotFound,
    Step::Pid,
    Step::Keyring,
];

/// One message of a child.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Report {
    pub step: Step,
    pub index: u16,
    pub errno: i32,
}

/// The contents of a pipe of reports.
pub(super) enum Received {
    /// Nothing yet.
    Nothing,
    /// A report.
    Report(Report),
    /// It was closed by every process that could write to it, which exec does too.
    End,
}

impl Report {
    /// Sends the report; does not allocate.
    pub fn send(self, pipe: &impl AsFd) {
        let mut bytes = [self.step as u8, 0, 0, 0, 0, 0, 0, 0];
        bytes[2..4].copy_from_slice(&self.index.to_ne_bytes());
        bytes[4..8].copy_from_slice(&self.errno.to_ne_bytes());
        let _ = nix::unistd::write(pipe, &bytes);
    }

    /// Takes the next report from a pipe that does not block.
    pub fn receive(pipe: &OwnedFd) -> Received {
        let mut bytes = [0_u8; 8];
        loop {
            match nix::unistd::read(pipe, &mut bytes) {
                // Eight bytes are written at once and read at once.
                Ok(8) => break,
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Received::Nothing,
                _ => return Received::End,
            }
        }
        match STEPS.get(usize::from(bytes[0])) {
            Some(step) => Received::Report(Self {
                step: *step,
                index: u16::from_ne_bytes([bytes[2], bytes[3]]),
                errno: i32::from_ne_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]),
            }),
            None => Received::End,
        }
    }

    /// The failure in runc's words.
    pub fn explain(self, wording: &Wording) -> LaunchError {
        let errno = Errno::from_raw(self.errno);
        let text = errno_text(errno);
        let index = usize::from(self.index);
        let program = &wording.program;
        let (kind, detail) = match self.step {
            Step::NotFound => (
                LaunchErrorKind::ExecutableNotFound,
                format!("exec: {program:?}: executable file not found in $PATH"),
            ),
            Step::Execute => match errno {
                Errno::ENOENT | Errno::ENOTDIR => (
                    LaunchErrorKind::ExecutableNotFound,
                    format!("exec: {program:?}: stat {program}: {text}"),
                ),
                Errno::EACCES | Errno::EPERM => (
                    LaunchErrorKind::PermissionDenied,
                    format!("exec: {program:?}: permission denied"),
                ),
                Errno::ENOEXEC => {
                    (LaunchErrorKind::PermissionDenied, format!("exec {program}: {text}"))
                }
                _ => (LaunchErrorKind::Other, format!("exec {program}: {text}")),
            },
            Step::Cwd => (
                LaunchErrorKind::Cwd,
                format!("chdir to cwd ({:?}) set in config.json failed: {text}", wording.cwd),
            ),
            Step::CwdOutside => (
                LaunchErrorKind::Cwd,
                "current working directory is outside of container mount namespace root -- \
                 possible container breakout detected"
                    .to_owned(),
            ),
            Step::MountTarget | Step::Mount => {
                let (source, target) = wording
                    .mounts
                    .get(index)
                    .map_or(("", ""), |(source, target)| (source.as_str(), target.as_str()));
                let what = match (self.step, errno) {
                    (Step::Mount, _) => "mount",
                    (_, Errno::ELOOP) => "must be mounted on ordinary directory",
                    (_, Errno::EPERM) => "mount point is inside /proc",
                    _ => "creating mount point",
                };
                (
                    LaunchErrorKind::Mount,
                    format!(
                        "error during container init: error mounting {source:?} to rootfs at \
                         \"/{target}\": {what}: {text}"
                    ),
                )
            }
            Step::Mask | Step::ReadOnlyPath => {
                let path = wording.paths.get(index).map_or("", String::as_str);
                let what = if self.step == Step::Mask { "mask path" } else { "make read-only" };
                (
                    LaunchErrorKind::Mount,
                    format!("error during container init: can't {what} \"/{path}\": {text}"),
                )
            }
            step => (
                LaunchErrorKind::Other,
                format!("error during container init: {}: {text}", operation(step)),
            ),
        };
        LaunchError {
            kind,
            message: format!("unable to start container process: {detail}"),
            errno: self.errno,
        }
    }
}

fn operation(step: Step) -> &'static str {
    match step {
        Step::Cgroup => "entering the control group",
        Step::JoinNamespace => "joining a namespace",
        Step::CgroupNamespace => "unsharing the cgroup namespace",
        Step::Hostname => "setting the host name",
        Step::Sysctl => "writing a sysctl",
        Step::Isolate => "making mounts private",
        Step::RootMount => "mounting the root",
        Step::Device => "making a device node",
        Step::DeviceLink => "making the links in /dev",
        Step::Console => "mounting /dev/console",
        Step::ReadOnlyRoot => "making the root read-only",
        Step::Pivot => "pivot_root",
        Step::Session => "starting a session",
        Step::Streams => "setting up the standard streams",
        Step::Limit => "setting resource limits",
        Step::Bounding => "dropping bounding capabilities",
        Step::Ids => "setting user and groups",
        Step::Capabilities => "setting capabilities",
        Step::NoNewPrivileges => "setting no_new_privs",
        Step::Seccomp => "installing the seccomp filter",
        Step::Keyring => "making a session keyring",
        Step::AppArmor => "setting the AppArmor profile",
        _ => "starting the program",
    }
}

/// The kernel's error as Go prints it.
pub(super) fn errno_text(errno: Errno) -> String {
    errno.desc().to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_listed_in_order() {
        for (number, step) in STEPS.iter().enumerate() {
            assert_eq!(*step as usize, number);
        }
    }

    #[test]
    fn words_are_runcs() {
        let wording = Wording {
            program: "foo".to_owned(),
            cwd: "/".to_owned(),
            mounts: Vec::new(),
            paths: Vec::new(),
        };
        let report = Report { step: Step::NotFound, index: 0, errno: libc::ENOENT };
        let error = report.explain(&wording);
        assert_eq!(error.exit_code(), 127);
        assert_eq!(
            error.start_message(),
            "failed to create containerd task: failed to create shim task: OCI runtime create \
             failed: runc create failed: unable to start container process: exec: \"foo\": \
             executable file not found in $PATH: unknown"
        );
    }
}
