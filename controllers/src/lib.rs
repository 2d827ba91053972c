//! Kubernetes controllers and the scheduler, as one set of tasks over one cache per kind.
//!
//! Every controller is `plan` (pure: what is observed → intended writes) and a thin part that
//! carries plans out. They meet only in the API.

pub mod autoscaler;
pub mod burst;
pub mod cache;
pub mod clock;
pub mod context;
pub mod cron_job;
pub mod daemonset;
pub mod deployment;
pub mod disruption;
pub mod endpoint;
pub mod error;
pub mod event;
pub mod expectation;
#[cfg(test)]
mod fixture;
pub mod garbage_collector;
pub mod held;
mod history;
pub mod inventory;
pub mod job;
pub mod load_balancer;
pub mod namespace;
mod node_taint;
pub mod ownership;
pub mod pod;
pub mod pod_control;
pub mod pod_gc;
pub mod queue;
pub mod quota;
pub mod replicas;
pub mod replicaset;
pub mod replication_controller;
pub mod request;
pub mod role_aggregation;
pub mod root_ca;
pub mod run;
pub mod scale;
pub mod scheduler;
pub mod selector;
pub mod service_account;
pub mod statefulset;
mod taint_eviction;
pub mod template;
mod token_secret;
pub mod volume;
pub mod well_known;

pub use context::ControllersConfig;
pub use run::{ControllerEnded, run};
