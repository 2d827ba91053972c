//! Label and field selectors.

mod field;
mod label;
mod parser;

pub use field::{FieldRequirement, FieldSelector, FieldSelectorError};
pub use label::{LabelSelector, Operator, Requirement, SelectorError, format_json};
