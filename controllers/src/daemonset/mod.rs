//! The DaemonSet controller: one pod on every node that matches.
//!
//! `place` says which nodes those are, `plan` what to create and delete on them, `update` how a new
//! template is rolled out, `status` what is reported; `controller` carries it out.

pub mod controller;
pub mod place;
pub mod plan;
pub mod status;
#[cfg(test)]
mod tests;
pub mod update;

pub use controller::workers;
