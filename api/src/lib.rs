//! The Kubernetes object model: what a resource type is, its defaults, validation, columns and
//! wire schema. Pure: nothing here does I/O.

pub mod field_error;
pub mod registry;
pub mod schema;

pub use field_error::{ErrorList, FieldError};
pub use registry::{Behaviour, Cell, Column, Persistence, Resource, Served, Subresource};
