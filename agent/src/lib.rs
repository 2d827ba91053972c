//! The kubelet: runs the pods of this node.
//!
//! [`Agent`] watches the pods that are bound to the node. Each has a [`worker`]: a task that
//! observes, makes a plan (a pure function) and carries it out over the seams in [`machine`].
//! What it sees becomes the pod's status; nobody else writes that.

mod admission;
mod agent;
mod attend;
mod blocking;
mod config;
pub mod container;
mod credential;
mod directory;
mod events;
mod glob;
mod hook;
mod image_gc;
mod leftover;
pub mod logs;
pub mod machine;
mod metrics;
mod node;
mod objects;
mod picture;
pub mod pressure;
mod probe;
mod pull;
mod real;
mod registration;
mod server;
mod services;
mod sockets;
mod start_up;
pub mod streaming;
pub mod volume;
pub mod worker;

pub use agent::{Agent, AgentError, Part};
pub use config::{AgentConfig, Registries};

/// Entry points of the coverage-guided fuzzers (`make fuzz`).
#[cfg(fuzzing)]
pub mod fuzz_targets {
    pub use crate::container::expand::fuzz_targets::expansion;
    pub use crate::credential::fuzz_targets::credentials;
    pub use crate::glob::fuzz_targets::glob;
    pub use crate::streaming::fuzz_targets::{spdy, websocket};
}
