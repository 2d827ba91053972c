//! Which addresses stand behind a Service: Endpoints, EndpointSlices, and slices that mirror
//! Endpoints written by hand.
//!
//! Invariant: a pod that is being deleted is not ready in the very next write, because requests
//! must stop before its processes do.

pub mod address;
pub mod legacy;
pub mod mirror;
pub mod selectors;
pub mod slice;
pub mod slices;

pub use address::Ports;

#[cfg(test)]
mod tests;
