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
            }
            let ports = subset.at("ports");
            for port in ports.items() {
                let (name, number) = (port.at("name"), port.at("port"));
                if ports.len() > 1 && name.is_empty() {
                    errors.push(name.required(""));
                }
                let value = number.int().unwrap_or(0);
                for message in names::port_number(value) {
                    errors.push(FieldError::invalid(&number.path, value, message));
                }
                errors.extend(port.at("protocol").one_of(&["SCTP", "TCP", "UDP"]));
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
