//! Ingress.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::row;
use crate::defaults::set;
use crate::registry::{Behaviour, Cell, Column, Resource, Served};

/// The row of the resource table.
pub const RESOURCE: Resource = Resource::new(SERVED, &Ingress).with_status().with_generation();

const SERVED: &[Served] =
    &[Served::new("networking.k8s.io", "v1", "Ingress", "ingresses", "ingress").short(&["ing"])];

/// The class, before `spec.ingressClassName` existed.
const CLASS_ANNOTATION: &str = "kubernetes.io/ingress.class";

struct Ingress;

impl Behaviour for Ingress {
    fn stored(&self) -> (&'static str, &'static str) {
        ("networking.k8s.io/v1", "Ingress")
    }

    fn prepare_for_create(&self, object: &mut Value) {
        set(object, "status", json!({ "loadBalancer": {} }));
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
        let class = match spec["ingressClassName"].as_str() {
            Some(class) => class.to_owned(),
            None => row::plain(&object["metadata"]["annotations"][CLASS_ANNOTATION], "<none>"),
        };
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
            class.into(),
            hosts(&spec["rules"]).into(),
            addresses.join(",").into(),
            ports.into(),
            row::age(object, now),
        ]
    }
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
