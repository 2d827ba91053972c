//! Ingress.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::row;
use crate::defaults::set;
use crate::field::Field;
use crate::field_error::{ErrorList, FieldError};
use crate::names;
use crate::registry::{Behaviour, Cell, Column, Resource, Served};

/// The row of the resource table.
pub const RESOURCE: Resource = Resource::new(SERVED, &Ingress).with_status().with_generation();

const SERVED: &[Served] =
    &[Served::new("networking.k8s.io", "v1", "Ingress", "ingresses", "ingress").short(&["ing"])];

struct Ingress;

impl Behaviour for Ingress {
    fn prepare_for_create(&self, object: &mut Value) {
        set(object, "status", json!({ "loadBalancer": {} }));
    }

    fn validate(&self, object: &Value) -> ErrorList {
        let spec = Field::root(object).at("spec");
        let mut errors = ErrorList::new();
        let (rules, backend) = (spec.at("rules"), spec.at("defaultBackend"));
        if rules.is_empty() && !backend.exists() {
            let detail = "either `defaultBackend` or `rules` must be specified";
            errors.push(spec.invalid(detail));
        }
        let class = spec.at("ingressClassName");
        if class.exists() {
            errors.extend(class.invalid_each(names::dns1123_subdomain(class.str())));
        }
        if backend.exists() {
            errors.extend(validate_backend(&backend));
        }
        for tls in spec.at("tls").items() {
            for host in tls.at("hosts").items() {
                errors.extend(host.invalid_each(if host.str().contains('*') {
                    names::wildcard_dns1123_subdomain(host.str())
                } else {
                    names::dns1123_subdomain(host.str())
                }));
            }
            let secret = tls.at("secretName");
            if !secret.is_empty() {
                errors.extend(secret.invalid_each(names::dns1123_subdomain(secret.str())));
            }
        }
        for rule in rules.items() {
            let host = rule.at("host");
            if host.str().parse::<std::net::IpAddr>().is_ok() {
                errors.push(host.invalid("must be a DNS name, not an IP address"));
            } else if host.str().contains('*') {
                errors.extend(host.invalid_each(names::wildcard_dns1123_subdomain(host.str())));
            } else if !host.is_empty() {
                errors.extend(host.invalid_each(names::dns1123_subdomain(host.str())));
            }
            let http = rule.at("http");
            let paths = http.at("paths");
            if http.exists() && paths.is_empty() {
                errors.push(paths.required(""));
            }
            for path in paths.items() {
                errors.extend(validate_path(&path));
                errors.extend(validate_backend(&path.at("backend")));
            }
        }
        errors
    }

    fn columns(&self) -> &'static [Column] {
        const {
            &[
                Column::NAME,
                Column::text("Class"),
                Column::text("Hosts"),
                Column::text("Address"),
                Column::text("Ports"),
                Column::AGE,
            ]
        }
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Cell> {
        let spec = &object["spec"];
        let addresses: Vec<String> = object["status"]["loadBalancer"]["ingress"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|ingress| {
                let ip = ingress["ip"].as_str().filter(|ip| !ip.is_empty());
                ip.or(ingress["hostname"].as_str()).map(str::to_owned)
            })
            .collect();
        let ports = if row::count(&spec["tls"]) > 0 { "80, 443" } else { "80" };
        vec![
            row::name(object),
            row::text_or(&spec["ingressClassName"], "<none>"),
            hosts(&spec["rules"]).into(),
            addresses.join(",").into(),
            ports.into(),
            row::age(object, now),
        ]
    }
}

fn validate_path(path: &Field<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    let (kind, text) = (path.at("pathType"), path.at("path"));
    match kind.str() {
        "" => errors.push(kind.required("pathType must be specified")),
        "Exact" | "Prefix" => {
            if !text.str().starts_with('/') {
                errors.push(FieldError::invalid(
                    &text.path,
                    text.str(),
                    "must be an absolute path",
                ));
            }
            for sequence in ["//", "/./", "/../", "%2f", "%2F"] {
                if text.str().contains(sequence) {
                    errors.push(text.invalid(format!("must not contain '{sequence}'")));
                }
            }
        }
        "ImplementationSpecific" => {
            if !text.is_empty() && !text.str().starts_with('/') {
                errors.push(text.invalid("must be an absolute path"));
            }
        }
        _ => errors.push(kind.not_supported(&["Exact", "ImplementationSpecific", "Prefix"])),
    }
    errors
}

fn validate_backend(backend: &Field<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    let (service, resource) = (backend.at("service"), backend.at("resource"));
    match (service.exists(), resource.exists()) {
        (true, true) => {
            errors.push(backend.invalid("cannot set both resource and service backends"));
        }
        (false, false) => {
            errors.push(backend.required("resource or service backend is required"));
        }
        (false, true) => {}
        (true, false) => {
            let name = service.at("name");
            if name.is_empty() {
                errors.push(name.required(""));
            } else {
                errors.extend(name.invalid_each(names::dns1035_label(name.str())));
            }
            let port = service.at("port");
            let number = port.at("number");
            match (port.at("name").is_empty(), number.int().unwrap_or(0)) {
                (true, 0) => errors.push(port.required("port name or number is required")),
                (false, 0) => {}
                (false, _) => errors.push(port.invalid("cannot set both port name & port number")),
                (true, value) => errors.extend(number.invalid_each(names::port_number(value))),
            }
        }
    }
    errors
}

/// At most this many hosts are shown.
const SHOWN: usize = 3;

fn hosts(rules: &Value) -> String {
    let hosts: Vec<&str> = rules
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|rule| rule["host"].as_str())
        .filter(|host| !host.is_empty())
        .collect();
    match hosts.len() {
        0 => "*".to_owned(),
        count if count > SHOWN => {
            format!("{} + {} more...", hosts[..SHOWN].join(","), count - SHOWN)
        }
        _ => hosts.join(","),
    }
}
