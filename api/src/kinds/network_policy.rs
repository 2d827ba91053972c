//! NetworkPolicy.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::row;
use crate::defaults::{child, empty, items_at, set, set_default, set_default_text};
use crate::field_error::ErrorList;
use crate::registry::{Behaviour, Cell, Column, Resource, Served};

/// The row of the resource table.
pub const RESOURCE: Resource = Resource::new(SERVED, &NetworkPolicy).with_generation();

const SERVED: &[Served] =
    &[Served::new("networking.k8s.io", "v1", "NetworkPolicy", "networkpolicies", "networkpolicy")
        .short(&["netpol"])];

struct NetworkPolicy;

impl Behaviour for NetworkPolicy {
    fn stored(&self) -> (&'static str, &'static str) {
        ("networking.k8s.io/v1", "NetworkPolicy")
    }

    fn to_storage(&self, _served: &Served, object: &mut Value) -> Result<(), ErrorList> {
        let spec = child(object, "spec");
        set_default(spec, "podSelector", empty());
        for direction in ["ingress", "egress"] {
            for rule in items_at(spec, direction) {
                for port in items_at(rule, "ports") {
                    set_default_text(port, "protocol", "TCP");
                }
            }
        }
        if row::count(&spec["policyTypes"]) == 0 {
            let egress = row::count(&spec["egress"]) > 0;
            let types = if egress { json!(["Ingress", "Egress"]) } else { json!(["Ingress"]) };
            set(spec, "policyTypes", types);
        }
        Ok(())
    }

    fn columns(&self) -> &'static [Column] {
        const { &[Column::NAME, Column::text("Pod-Selector"), Column::AGE] }
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Cell> {
        vec![
            row::name(object),
            row::label_selector(&object["spec"]["podSelector"]),
            row::age(object, now),
        ]
    }
}
