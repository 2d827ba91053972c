//! ResourceQuota.

use jiff::Timestamp;
use serde_json::Value;

use super::row;
use crate::defaults::{child, empty, object_at, set};
use crate::field::Field;
use crate::field_error::ErrorList;
use crate::names;
use crate::quantity::{Quantity, canonicalize_list};
use crate::registry::{Behaviour, Cell, Column, Resource, Served};

/// The row of the resource table.
pub const RESOURCE: Resource = Resource::new(SERVED, &ResourceQuota).with_status();

const SERVED: &[Served] =
    &[Served::new("", "v1", "ResourceQuota", "resourcequotas", "resourcequota").short(&["quota"])];

/// Which pods a quota can be limited to.
const SCOPES: &[&str] = &[
    "BestEffort",
    "CrossNamespacePodAffinity",
    "NotBestEffort",
    "NotTerminating",
    "PriorityClass",
    "Terminating",
];

struct ResourceQuota;

impl Behaviour for ResourceQuota {
    fn to_storage(&self, _served: &Served, object: &mut Value) -> Result<(), ErrorList> {
        if let Some(hard) = object_at(child(object, "spec"), "hard") {
            canonicalize_list(hard);
        }
        for list in ["hard", "used"] {
            if let Some(list) = object_at(child(object, "status"), list) {
                canonicalize_list(list);
            }
        }
        Ok(())
    }

    fn prepare_for_create(&self, object: &mut Value) {
        set(object, "status", empty());
    }

    fn validate(&self, object: &Value) -> ErrorList {
        let spec = Field::root(object).at("spec");
        let mut errors = ErrorList::new();
        for (name, quantity) in spec.at("hard").entries() {
            errors.extend(quantity.invalid_each(names::label_key(name)));
            if Quantity::from_json(quantity.value).is_ok_and(|q| q.is_negative()) {
                errors.push(quantity.invalid("must be greater than or equal to 0"));
            }
        }
        for scope in spec.at("scopes").items() {
            errors.extend(scope.one_of(SCOPES));
        }
        errors
    }

    fn validate_change(&self, object: &Value, old: &Value) -> ErrorList {
        let scopes = Field::root(object).at("spec").at("scopes");
        scopes.immutable(&old["spec"]["scopes"]).into_iter().collect()
    }

    fn columns(&self) -> &'static [Column] {
        const { &[Column::NAME, Column::text("Request"), Column::text("Limit"), Column::AGE] }
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Cell> {
        let (spec, status) = (&object["spec"], &object["status"]);
        let (mut requests, mut limits) = (Vec::new(), Vec::new());
        for (resource, hard) in spec["hard"].as_object().into_iter().flatten() {
            let used = row::plain(&status["used"][resource], "0");
            let hard = row::plain(hard, "0");
            let list = if resource.starts_with("limits.") { &mut limits } else { &mut requests };
            list.push(format!("{resource}: {used}/{hard}"));
        }
        vec![
            row::name(object),
            requests.join(", ").into(),
            limits.join(", ").into(),
            row::age(object, now),
        ]
    }
}
