//! The PodDisruptionBudget controller: how many pods may be evicted right now.

mod controller;
pub mod plan;

pub use controller::workers;
