//! What Pods and pod templates share: defaults and validation of the pod spec.

mod container;
pub mod defaults;
mod mount;
mod probe;
mod scheduling;
mod security;
mod template;
mod validation;
mod volume;
mod warnings;

pub use container::{validate_ephemeral_containers, validate_resource_name};
pub use probe::validate_port;
pub use template::{validate_selector_and_labels, validate_template};
pub use validation::validate_pod_spec;
pub use warnings::pod_warnings;
