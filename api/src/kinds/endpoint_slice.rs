//! EndpointSlice.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::row;
use crate::defaults::{items_at, set_default, set_default_text, take};
use crate::field::{Field, same};
use crate::field_error::ErrorList;
use crate::names;
use crate::registry::{Behaviour, Cell, Column, Resource, Served};

/// The row of the resource table.
pub const RESOURCE: Resource = Resource::new(SERVED, &EndpointSlice).with_generation();

const CURRENT: Served =
    Served::new("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices", "endpointslice");

const SERVED: &[Served] = &[CURRENT];

/// At most this many ports and addresses are shown.
const SHOWN: usize = 3;

struct EndpointSlice;

impl Behaviour for EndpointSlice {
    fn to_storage(&self, _served: &Served, object: &mut Value) -> Result<(), ErrorList> {
        for port in items_at(object, "ports") {
            set_default(port, "name", "");
            set_default_text(port, "protocol", "TCP");
        }
        set_default(object, "endpoints", json!([]));
        Ok(())
    }

    fn prepare_for_create(&self, object: &mut Value) {
        take(object, "status");
    }

    fn generation_changed(&self, object: &Value, old: &Value) -> bool {
        let differs = |key: &str| !same(&object[key], &old[key]);
        let labels = |value: &Value| value["metadata"]["labels"].clone();
        differs("endpoints") || differs("ports") || !same(&labels(object), &labels(old))
    }

    fn validate(&self, object: &Value) -> ErrorList {
        let object = Field::root(object);
        let kind = object.at("addressType");
        let mut errors = ErrorList::new();
        if kind.is_empty() {
            errors.push(kind.required(""));
        } else {
            errors.extend(kind.one_of(&["FQDN", "IPv4", "IPv6"]));
        }
        for endpoint in object.at("endpoints").items() {
            let addresses = endpoint.at("addresses");
            if addresses.is_empty() {
                errors.push(addresses.required("must contain at least 1 address"));
            }
            for address in addresses.items() {
                let fits = match kind.str() {
                    "IPv4" => address.str().parse::<std::net::Ipv4Addr>().is_ok(),
                    "IPv6" => address.str().parse::<std::net::Ipv6Addr>().is_ok(),
                    _ => true,
                };
                if !fits {
                    errors.push(address.invalid(format!("must be a valid {} address", kind.str())));
                } else if kind.str() != "FQDN" {
                    errors
                        .extend(names::reachable_ip(address.str()).map(|why| address.invalid(why)));
                }
            }
            let (host, node) = (endpoint.at("hostname"), endpoint.at("nodeName"));
            if host.exists() {
                errors.extend(host.invalid_each(names::dns1123_label(host.str())));
            }
            if node.exists() {
                errors.extend(node.invalid_each(names::dns1123_subdomain(node.str())));
            }
            for zone in endpoint.at("hints").at("forZones").items() {
                let name = zone.at("name");
                if name.is_empty() {
                    errors.push(name.required(""));
                }
            }
        }
        let mut seen = BTreeSet::new();
        for port in object.at("ports").items() {
            let name = port.at("name");
            if !name.is_empty() {
                errors.extend(name.invalid_each(names::dns1123_label(name.str())));
            }
            if !seen.insert(name.str()) {
                errors.push(name.duplicate());
            }
            errors.extend(port.at("protocol").one_of(&["SCTP", "TCP", "UDP"]));
            let application = port.at("appProtocol");
            if application.exists() {
                errors.extend(application.invalid_each(names::label_key(application.str())));
            }
        }
        errors
    }

    fn validate_change(&self, object: &Value, old: &Value) -> ErrorList {
        Field::root(object).at("addressType").immutable(&old["addressType"]).into_iter().collect()
    }

    fn columns(&self) -> &'static [Column] {
        const {
            &[
                Column::NAME,
                Column::text("AddressType"),
                Column::text("Ports"),
                Column::text("Endpoints"),
                Column::AGE,
            ]
        }
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Cell> {
        let ports: Vec<String> = object["ports"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|port| match port["name"].as_str() {
                Some(name) if port["port"].is_null() => name.to_owned(),
                _ => row::plain(&port["port"], "*"),
            })
            .collect();
        let addresses: Vec<String> = object["endpoints"]
            .as_array()
            .into_iter()
            .flatten()
            .flat_map(|endpoint| endpoint["addresses"].as_array().into_iter().flatten())
            .filter_map(|address| address.as_str().map(str::to_owned))
            .collect();
        vec![
            row::name(object),
            object["addressType"].clone(),
            first_three(&ports).into(),
            first_three(&addresses).into(),
            row::age(object, now),
        ]
    }
}

fn first_three(items: &[String]) -> String {
    let shown = items[..items.len().min(SHOWN)].join(",");
    match items.len() {
        count if count > SHOWN => format!("{shown} + {} more...", count - SHOWN),
        _ if shown.is_empty() => "<unset>".to_owned(),
        _ => shown,
    }
}
