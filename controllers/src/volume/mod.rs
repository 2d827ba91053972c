//! PersistentVolumes and the claims on them: matching, provisioning on local directories, release
//! and reclaim, and the protection of what is in use.
//!
//! `claim` and `released` decide, `controller` carries it out. Making and removing directories is
//! work of the node's agent (`docs/decisions/0007`).

pub mod annotation;
pub mod claim;
pub mod controller;
pub mod ephemeral;
pub mod matching;
pub mod protection;
pub mod provision;
pub mod released;
#[cfg(test)]
mod tests;

pub use controller::workers;
