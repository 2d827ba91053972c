//! ServiceAccount.

use jiff::Timestamp;
use serde_json::Value;

use super::row;
use crate::registry::{Behaviour, Cell, Column, Resource, Served, SubresourceInfo};

/// The row of the resource table.
pub const RESOURCE: Resource = Resource::new(SERVED, &ServiceAccount).subresources(SUBRESOURCES);

const SERVED: &[Served] =
    &[Served::new("", "v1", "ServiceAccount", "serviceaccounts", "serviceaccount").short(&["sa"])];

const SUBRESOURCES: &[SubresourceInfo] =
    &[SubresourceInfo::new("token", "TokenRequest", &["create"]).of("authentication.k8s.io", "v1")];

struct ServiceAccount;

impl Behaviour for ServiceAccount {
    fn columns(&self) -> &'static [Column] {
        const { &[Column::NAME, Column::text("Secrets"), Column::AGE] }
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Cell> {
        vec![row::name(object), row::count(&object["secrets"]).into(), row::age(object, now)]
    }
}
