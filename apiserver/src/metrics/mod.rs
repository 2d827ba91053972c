//! `metrics.k8s.io`: usage of nodes and pods, read from the nodes when somebody asks and never
//! otherwise.

mod answer;
mod sampler;
mod summary;

pub(crate) use answer::answer;
pub(crate) use sampler::Sampler;

/// The API group.
pub(crate) const GROUP: &str = "metrics.k8s.io";
