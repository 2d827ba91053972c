//! The Kubernetes object model: what a resource type is, its defaults, validation, columns and
//! wire schema. Pure: nothing here does I/O.

pub mod defaults;
pub mod duration;
pub mod field;
pub mod field_error;
#[cfg(any(test, fuzzing))]
pub mod fuzz_targets;
pub mod int_or_string;
mod kinds;
pub mod metadata;
pub mod names;
pub mod openapi;
pub mod placement;
pub mod pod;
pub mod pod_spec;
pub mod quantity;
pub mod quota;
pub mod quote;
pub mod registry;
pub mod schedule;
pub mod schema;
pub mod selector;
mod typed;
pub mod unsupported;

pub use field_error::{ErrorList, FieldError};
pub use registry::{Behaviour, Cell, Column, Persistence, Resource, Served, Subresource};
pub use typed::typed;
