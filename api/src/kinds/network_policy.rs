//! NetworkPolicy.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::row;
use super::service::is_cidr;
use crate::defaults::{child, empty, items_at, set, set_default, set_default_text};
use crate::field::Field;
use crate::field_error::{ErrorList, FieldError};
use crate::metadata::validate_label_selector;
use crate::names;
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
                    errors.extend(validate_end_port(&number, &port.at("endPort")));
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

/// A range of ports begins with a number and does not end before it.
fn validate_end_port(port: &Field<'_>, end: &Field<'_>) -> ErrorList {
    let Some(last) = end.int() else { return ErrorList::new() };
    if !port.exists() {
        return end.invalid("may not be specified when `port` is not specified").into();
    }
    let Some(first) = port.int() else {
        return end.invalid("may not be specified when `port` is non-numeric").into();
    };
    let mut errors = ErrorList::new();
    if last < first {
        let detail = "must be greater than or equal to `port`";
        errors.push(FieldError::invalid(&end.path, first, detail));
    }
    errors.extend(end.invalid_each(names::port_number(last)));
    errors
}

/// Whether `part` is a range in the range `whole`, and smaller.
fn is_strict_part(part: &str, whole: &str) -> bool {
    let read = |text: &str| -> Option<(u128, u32, u32)> {
        let (address, bits) = text.split_once('/')?;
        let bits: u32 = bits.parse().ok()?;
        match address.parse().ok()? {
            std::net::IpAddr::V4(v4) => Some((u128::from(v4.to_bits()), 32, bits)),
            std::net::IpAddr::V6(v6) => Some((v6.to_bits(), 128, bits)),
        }
    };
    let (Some((inner, size, inner_bits)), Some((outer, outer_size, outer_bits))) =
        (read(part), read(whole))
    else {
        return false;
    };
    let network = |address: u128| address.checked_shr(size - outer_bits).unwrap_or(0);
    size == outer_size && outer_bits < inner_bits && network(inner) == network(outer)
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
        for part in block.at("except").items() {
            let valid = is_cidr(part.str()) && is_cidr(cidr.str());
            if valid && !is_strict_part(part.str(), cidr.str()) {
                errors.push(part.invalid("must be a strict subset of `cidr`"));
            }
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn ranges_of_ports_and_addresses() {
        let object = json!({"spec": {"podSelector": {}, "policyTypes": ["Ingress"], "ingress": [{
            "ports": [
                {"protocol": "TCP", "port": 80, "endPort": 90},
                {"protocol": "TCP", "port": 80, "endPort": 70},
                {"protocol": "TCP", "endPort": 70},
                {"protocol": "TCP", "port": "web", "endPort": 70},
            ],
            "from": [{"ipBlock": {"cidr": "10.0.0.0/8",
                "except": ["10.1.0.0/16", "10.0.0.0/8", "11.0.0.0/16"]}},
                {"ipBlock": {"cidr": "::/0", "except": ["fd00::/8"]}}],
        }]}});
        let errors: Vec<String> =
            NetworkPolicy.validate(&object).iter().map(ToString::to_string).collect();
        assert_eq!(
            errors,
            [
                "spec.ingress[0].ports[1].endPort: Invalid value: 80: must be greater than or \
                 equal to `port`",
                "spec.ingress[0].ports[2].endPort: Invalid value: 70: may not be specified when \
                 `port` is not specified",
                "spec.ingress[0].ports[3].endPort: Invalid value: 70: may not be specified when \
                 `port` is non-numeric",
                "spec.ingress[0].from[0].ipBlock.except[1]: Invalid value: \"10.0.0.0/8\": must be \
                 a strict subset of `cidr`",
                "spec.ingress[0].from[0].ipBlock.except[2]: Invalid value: \"11.0.0.0/16\": must be \
                 a strict subset of `cidr`",
            ]
        );
    }
}
