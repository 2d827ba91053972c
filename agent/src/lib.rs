//! agent.
pub mod streaming;
