//! The StatefulSet controller: pods with names, storage and an order of their own.
//!
//! Invariant: an identity is a name in the API, and the controller makes a pod of a name only when
//! no object of that name is there. Whatever crashes meanwhile, two pods never share an identity.

pub mod controller;
pub mod identity;
pub mod plan;
pub mod retention;
#[cfg(test)]
mod size_tests;
pub mod status;
#[cfg(test)]
mod tests;

pub use controller::workers;
