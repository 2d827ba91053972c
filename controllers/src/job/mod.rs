//! The Job controller: pods that run to their end, counted exactly.

pub mod backoff;
pub mod condition;
mod controller;
pub mod indexes;
mod orphan;
pub mod policy;
mod replicas;
pub mod round;
#[cfg(test)]
mod tests;
pub mod tracked;
mod ttl;

pub use controller::workers;
pub use orphan::workers as orphan_workers;
pub use ttl::workers as ttl_workers;
