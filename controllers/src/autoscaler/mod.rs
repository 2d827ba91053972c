//! The HorizontalPodAutoscaler controller: as many pods as their load asks for.

mod behaviour;
mod controller;
mod metrics;
mod replicas;
mod status;

pub use controller::workers;
