//! Containers: images, OCI runtime-spec execution, the shim that outlives the agent.
//!
//! This crate does not know what a pod is: a *sandbox* is a set of shared namespaces with a cgroup
//! and one shim process; containers run inside it from `oci_spec::runtime::Spec`s.
//!
//! Two processes meet here. In the agent, [`Runtime`] and [`Sandbox`] plan: they write records,
//! make cgroups, compile an OCI spec to a [`plan`], and send it over a unix socket ([`protocol`]).
//! In the [`shim`], which is the same binary executed again, plans are carried out: it clones,
//! mounts, executes, keeps the output and waits.

pub mod cgroup;
pub mod document;
pub mod engine;
pub mod error;
pub mod handle;
pub mod image;
mod launch;
mod link;
pub mod oci_cli;
pub mod own_limits;
pub mod plan;
pub mod printable;
pub mod protocol;
mod records;
pub mod sandbox;
pub mod seccomp;
pub mod shim;
mod sys;
mod terminal;
pub mod tree;

pub use engine::Runtime;
pub use error::{Error, LaunchError, LaunchErrorKind, Result};
pub use handle::Sandbox;
pub use sys::memory::{trim as give_memory_back, use_one_arena};
pub use sys::scheduling::run_first;

#[cfg(test)]
#[path = "../../integration/src/skip.rs"]
mod skip;

/// Entry points of the coverage-guided fuzzers (`make fuzz`).
#[cfg(fuzzing)]
pub mod fuzz_targets {
    pub use crate::image::layer;
    pub use crate::plan::fuzz_targets::{image_reference, oci_spec};
}
