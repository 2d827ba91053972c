//! Lease.

use jiff::Timestamp;
use serde_json::Value;

use super::row;
use crate::field::Field;
use crate::field_error::ErrorList;
use crate::registry::{Behaviour, Cell, Column, Persistence, Resource, Served};

/// The row of the resource table.
pub const RESOURCE: Resource = Resource::new(SERVED, &Lease).persistence(Persistence::Volatile);

const SERVED: &[Served] = &[Served::new("coordination.k8s.io", "v1", "Lease", "leases", "lease")];

struct Lease;

impl Behaviour for Lease {
    fn validate(&self, object: &Value) -> ErrorList {
        let spec = Field::root(object).at("spec");
        let mut errors = ErrorList::new();
        errors.extend(spec.at("leaseDurationSeconds").positive());
        errors.extend(spec.at("leaseTransitions").non_negative());
        errors
    }

    fn columns(&self) -> &'static [Column] {
        const { &[Column::NAME, Column::text("Holder"), Column::AGE] }
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Cell> {
        vec![
            row::name(object),
            row::text_or(&object["spec"]["holderIdentity"], ""),
            row::age(object, now),
        ]
    }
}
