//! Keeping a number of equal pods: what ReplicaSets and ReplicationControllers share.

pub mod controller;
pub mod plan;

pub use controller::{ReplicaOwner, workers};
pub use plan::{Failure, Observed, Plan, Status, plan};
