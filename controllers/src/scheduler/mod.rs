//! The scheduler: gives every pending pod a node, or says why none will do.
//!
//! [`filter`] decides about one pod and one node, [`preempt`] what could make room, [`explain`]
//! puts refusals into upstream's words, [`controller`] binds.

pub mod affinity;
pub mod controller;
pub mod explain;
pub mod filter;
pub mod node;
pub mod preempt;
pub mod state;
pub mod volumes;

pub use controller::workers;
