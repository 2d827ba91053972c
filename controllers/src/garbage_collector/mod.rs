//! The garbage collector: objects go when their owners are gone.
//!
//! [`graph`] knows who owns whom and decides; [`controller`] asks the API where the graph does not
//! know an owner, and carries decisions out.

pub mod controller;
pub mod graph;

pub use controller::workers;
