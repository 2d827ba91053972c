//! The Deployment controller: ReplicaSets per template, rollouts between them.
//!
//! [`plan`] decides from what is observed and does no I/O; [`controller`] carries plans out.

pub mod controller;
pub mod plan;
pub mod revision;
pub mod rollout;
pub mod status;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod size_tests;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

pub use controller::workers;
pub use plan::{Observed, Plan, Write, plan};
