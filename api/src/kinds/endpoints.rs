//! Endpoints.

use jiff::Timestamp;
use serde_json::Value;

use super::row;
use crate::defaults::{items_at, set_default_text};
use crate::field::Field;
use crate::field_error::{ErrorList, FieldError};
use crate::names;
use crate::registry::{Behaviour, Cell, Column, Resource, Served};

/// The row of the resource table.
pub const RESOURCE: Resource = Resource::new(SERVED, &Endpoints);

const SERVED: &[Served] =
    &[Served::new("", "v1", "Endpoints", "endpoints", "endpoints").short(&["ep"])];

struct Endpoints;

impl Behaviour for Endpoints {
    fn to_storage(&self, _served: &Served, object: &mut Value) -> Result<(), ErrorList> {
        for subset in items_at(object, "subsets") {
            for port in items_at(subset, "ports") {
                set_default_text(port, "protocol", "TCP");
            }
        }
        Ok(())
    }

    fn validate(&self, object: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        for subset in Field::root(object).at("subsets").items() {
            let lists = ["addresses", "notReadyAddresses"].map(|name| subset.at(name));
            if lists.iter().all(Field::is_empty) {
                errors.push(subset.required("must specify `addresses` or `notReadyAddresses`"));
            }
            for address in lists.iter().flat_map(Field::items) {
                let ip = address.at("ip");
                errors.extend(ip.invalid_each(names::ip(ip.str())));
                errors.extend(names::reachable_ip(ip.str()).map(|why| ip.invalid(why)));
                let (host, node) = (address.at("hostname"), address.at("nodeName"));
                if !host.is_empty() {
                    errors.extend(host.invalid_each(names::dns1123_label(host.str())));
                }
                if node.exists() {
                    errors.extend(node.invalid_each(names::dns1123_subdomain(node.str())));
                }
            }
            let ports = subset.at("ports");
            for port in ports.items() {
                let (name, number) = (port.at("name"), port.at("port"));
                if ports.len() > 1 && name.is_empty() {
                    errors.push(name.required(""));
                } else if !name.is_empty() {
                    errors.extend(name.invalid_each(names::dns1123_label(name.str())));
                }
                let value = number.int().unwrap_or(0);
                for message in names::port_number(value) {
                    errors.push(FieldError::invalid(&number.path, value, message));
                }
                errors.extend(port.at("protocol").one_of(&["SCTP", "TCP", "UDP"]));
                let application = port.at("appProtocol");
                if application.exists() {
                    errors.extend(application.invalid_each(names::label_key(application.str())));
                }
            }
        }
        errors
    }

    fn columns(&self) -> &'static [Column] {
        const { &[Column::NAME, Column::text("Endpoints"), Column::AGE] }
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Cell> {
        vec![row::name(object), addresses(&object["subsets"]).into(), row::age(object, now)]
    }
}

/// At most this many addresses are shown.
const SHOWN: usize = 3;

fn addresses(subsets: &Value) -> String {
    let mut shown = Vec::new();
    let mut count = 0;
    for subset in subsets.as_array().into_iter().flatten() {
        let list = |key: &str| subset[key].as_array().into_iter().flatten();
        for port in list("ports").map(|port| port["port"].as_i64().unwrap_or(0)) {
            for address in list("addresses") {
                let ip = address["ip"].as_str().unwrap_or_default();
                if shown.len() < SHOWN {
                    let bracketed = ip.contains(':');
                    shown.push(if bracketed {
                        format!("[{ip}]:{port}")
                    } else {
                        format!("{ip}:{port}")
                    });
                }
                count += 1;
            }
        }
        if list("ports").count() == 0 {
            // Headless services may have no ports.
            for address in list("addresses") {
                if shown.len() < SHOWN {
                    shown.push(address["ip"].as_str().unwrap_or_default().to_owned());
                }
                count += 1;
            }
        }
    }
    match count {
        0 if row::count(subsets) == 0 => "<none>".to_owned(),
        _ if count > SHOWN => format!("{} + {} more...", shown.join(","), count - SHOWN),
        _ => shown.join(","),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn addresses_lead_somewhere_and_names_are_names() {
        let object = json!({"subsets": [{
            "addresses": [
                {"ip": "127.0.0.1"}, {"ip": "169.254.1.1"}, {"ip": "224.0.0.5", "hostname": "A"},
                {"ip": "10.0.0.1", "hostname": "a", "nodeName": "n.x"},
            ],
            "ports": [{"name": "A b", "port": 80, "protocol": "TCP"}],
        }]});
        let errors = Endpoints.validate(&object);
        let starts = [
            "subsets[0].addresses[0].ip: Invalid value: \"127.0.0.1\": may not be in the loopback",
            "subsets[0].addresses[1].ip: Invalid value: \"169.254.1.1\": may not be in the link-l",
            "subsets[0].addresses[2].ip: Invalid value: \"224.0.0.5\": may not be in the link-loc",
            "subsets[0].addresses[2].hostname: Invalid value: \"A\": a lowercase RFC 1123 label",
            "subsets[0].ports[0].name: Invalid value: \"A b\": a lowercase RFC 1123 label",
        ];
        assert_eq!(errors.len(), starts.len());
        for (error, start) in errors.iter().zip(starts) {
            assert!(error.to_string().starts_with(start), "{error}");
        }
    }
}
