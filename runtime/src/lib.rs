//! Containers: images, OCI runtime-spec execution, the shim that outlives the agent.
//!
//! This crate does not know what a pod is: a *sandbox* is a set of shared namespaces with a cgroup
//! and one shim process; containers run inside it from `oci_spec::runtime::Spec`s.

pub mod image;
pub mod sandbox;
