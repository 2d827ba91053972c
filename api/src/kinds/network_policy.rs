//! NetworkPolicy.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::row;
use super::service::is_cidr;
use crate::defaults::{child, empty, items_at, set, set_default, set_default_text};
use crate::field::Field;
use crate::field_error::{ErrorList, FieldError};
use crate::metadata::validate_label_selector;
use crate::pod_spec::validate_port;
use crate::registry::{Behaviour, Cell, Column, Resource, Served};

/// The row of the resource table.
pub const RESOURCE: Resource = Resource::new(SERVED, &NetworkPolicy).with_generation();

const SERVED: &[Served] =
    &[Served::new("networking.k8s.io", "v1", "NetworkPolicy", "networkpolicies", "networkpolicy")
        .short(&["netpol"])];

struct NetworkPolicy;

impl Behaviour for NetworkPolicy {
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

    fn validate(&self, object: &Value) -> ErrorList {
        let spec = Field::root(object).at("spec");
        let mut errors = validate_label_selector(&spec.at("podSelector"));
        for (direction, peers) in [("ingress", "from"), ("egress", "to")] {
            for rule in spec.at(direction).items() {
                for port in rule.at("ports").items() {
                    errors.extend(port.at("protocol").one_of(&["SCTP", "TCP", "UDP"]));
                    let number = port.at("port");
                    if number.exists() {
                        errors.extend(validate_port(&number));
                    }
                }
                for peer in rule.at(peers).items() {
                    errors.extend(validate_peer(&peer));
                }
            }
        }
        let types = spec.at("policyTypes");
        if types.len() > 2 {
            errors.push(types.invalid("may not specify more than two policyTypes"));
        }
        for kind in types.items() {
            errors.extend(kind.one_of(&["Egress", "Ingress"]));
        }
        errors
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

fn validate_peer(peer: &Field<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    let [pods, namespaces, block] =
        ["podSelector", "namespaceSelector", "ipBlock"].map(|name| peer.at(name));
    errors.extend(validate_label_selector(&pods));
    errors.extend(validate_label_selector(&namespaces));
    if !pods.exists() && !namespaces.exists() && !block.exists() {
        errors.push(peer.required("must specify a peer"));
    }
    if block.exists() {
        if pods.exists() || namespaces.exists() {
            let detail = "may not specify both ipBlock and another peer";
            errors.push(FieldError::forbidden(&peer.path, detail));
        }
        let cidr = block.at("cidr");
        if cidr.is_empty() {
            errors.push(cidr.required(""));
        }
        for range in block.at("except").items().into_iter().chain([cidr]) {
            if !range.is_empty() && !is_cidr(range.str()) {
                let detail = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
                errors.push(range.invalid(detail));
            }
        }
    }
    errors
}
