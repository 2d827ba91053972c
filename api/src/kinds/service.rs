//! Service.

mod carry;
mod validation;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::row;
use crate::defaults::{
    child, copy_from, items_at, set, set_default, set_default_number, set_default_text, take,
};
use crate::field_error::ErrorList;
use crate::names;
use crate::registry::{
    Behaviour, Cell, Column, Resource, Served, Subresource, SubresourceInfo, keep_all_but_status,
};

/// The row of the resource table.
pub const RESOURCE: Resource =
    Resource::new(SERVED, &Service).with_status().subresources(SUBRESOURCES);

const SERVED: &[Served] =
    &[Served::new("", "v1", "Service", "services", "service").short(&["svc"]).all()];

const SUBRESOURCES: &[SubresourceInfo] = &[SubresourceInfo::new(
    "proxy",
    "ServiceProxyOptions",
    &["create", "delete", "get", "patch", "update"],
)];

struct Service;

impl Behaviour for Service {
    fn to_storage(&self, _served: &Served, object: &mut Value) -> Result<(), ErrorList> {
        let spec = child(object, "spec");
        set_default_text(spec, "sessionAffinity", "None");
        if spec["sessionAffinity"] == "None" {
            take(spec, "sessionAffinityConfig");
        }
        if spec["sessionAffinity"] == "ClientIP" {
            let client = child(child(spec, "sessionAffinityConfig"), "clientIP");
            set_default_number(client, "timeoutSeconds", 10_800);
        }
        set_default_text(spec, "type", "ClusterIP");
        for port in items_at(spec, "ports") {
            set_default_text(port, "protocol", "TCP");
            if port["targetPort"].is_null() || port["targetPort"] == 0 || port["targetPort"] == "" {
                let number = port["port"].clone();
                set(port, "targetPort", number);
            }
        }
        let kind = spec["type"].as_str().unwrap_or_default().to_owned();
        let reaches_out = matches!(kind.as_str(), "NodePort" | "LoadBalancer")
            || (kind == "ClusterIP" && row::count(&spec["externalIPs"]) > 0);
        if reaches_out {
            set_default_text(spec, "externalTrafficPolicy", "Cluster");
        }
        if matches!(kind.as_str(), "ClusterIP" | "NodePort" | "LoadBalancer") {
            set_default(spec, "internalTrafficPolicy", "Cluster");
        }
        if kind == "LoadBalancer" {
            set_default(spec, "allocateLoadBalancerNodePorts", true);
            for ingress in items_at(child(child(object, "status"), "loadBalancer"), "ingress") {
                if !row::plain(&ingress["ip"], "").is_empty() {
                    set_default(ingress, "ipMode", "VIP");
                }
            }
        }
        Ok(())
    }

    fn prepare_for_create(&self, object: &mut Value) {
        set(object, "status", json!({ "loadBalancer": {} }));
    }

    fn prepare_for_update(&self, object: &mut Value, old: &Value, subresource: Subresource<'_>) {
        if subresource == Subresource::Status {
            return keep_all_but_status(object, old);
        }
        copy_from(object, old, "status");
        carry::keep_allocated(object, old);
        carry::drop_of_old_type(object, old);
    }

    fn validate(&self, object: &Value) -> ErrorList {
        validation::validate(object)
    }

    fn validate_update(
        &self,
        object: &Value,
        old: &Value,
        subresource: Subresource<'_>,
    ) -> ErrorList {
        if subresource == Subresource::Status {
            return ErrorList::new();
        }
        let mut errors = validation::validate_update(object, old);
        errors.extend(validation::validate(object));
        errors
    }

    fn name_rule(&self, name: &str, prefix: bool) -> Vec<String> {
        names::label_1035_name(name, prefix)
    }

    fn columns(&self) -> &'static [Column] {
        const {
            &[
                Column::NAME,
                Column::text("Type"),
                Column::text("Cluster-IP"),
                Column::text("External-IP"),
                Column::text("Port(s)"),
                Column::AGE,
                Column::wide("Selector"),
            ]
        }
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Cell> {
        let spec = &object["spec"];
        let address = match spec["clusterIPs"][0].as_str().or(spec["clusterIP"].as_str()) {
            Some(address) if !address.is_empty() => address,
            _ => "<none>",
        };
        vec![
            row::name(object),
            spec["type"].clone(),
            address.into(),
            external_address(object).into(),
            ports(&spec["ports"]).into(),
            row::age(object, now),
            row::labels(&spec["selector"]),
        ]
    }

    fn selectable_fields(&self, object: &Value) -> Vec<(&'static str, String)> {
        let spec = &object["spec"];
        vec![
            ("spec.clusterIP", row::plain(&spec["clusterIP"], "")),
            ("spec.type", row::plain(&spec["type"], "")),
        ]
    }
}

fn external_address(service: &Value) -> String {
    let spec = &service["spec"];
    let texts = |list: &Value| -> Vec<String> {
        let items = list.as_array().into_iter().flatten();
        items.filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let mut external = texts(&spec["externalIPs"]);
    match spec["type"].as_str().unwrap_or_default() {
        "ClusterIP" | "NodePort" => {
            if external.is_empty() {
                "<none>".to_owned()
            } else {
                external.join(",")
            }
        }
        "LoadBalancer" => {
            let mut balancers: Vec<String> = service["status"]["loadBalancer"]["ingress"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(|ingress| {
                    let ip = ingress["ip"].as_str().filter(|ip| !ip.is_empty());
                    ip.or(ingress["hostname"].as_str()).map(str::to_owned)
                })
                .collect();
            balancers.sort();
            balancers.dedup();
            balancers.append(&mut external);
            if balancers.is_empty() { "<pending>".to_owned() } else { balancers.join(",") }
        }
        "ExternalName" => spec["externalName"].as_str().unwrap_or_default().to_owned(),
        _ => "<unknown>".to_owned(),
    }
}

fn ports(ports: &Value) -> String {
    let pieces: Vec<String> = ports
        .as_array()
        .into_iter()
        .flatten()
        .map(|port| {
            let number = port["port"].as_i64().unwrap_or(0);
            let protocol = port["protocol"].as_str().unwrap_or_default();
            match port["nodePort"].as_i64() {
                Some(node) if node > 0 => format!("{number}:{node}/{protocol}"),
                _ => format!("{number}/{protocol}"),
            }
        })
        .collect();
    if pieces.is_empty() { "<none>".to_owned() } else { pieces.join(",") }
}

pub use validation::is_cidr;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn service(spec: Value) -> Value {
        let mut object = json!({ "metadata": { "name": "s" }, "spec": spec });
        RESOURCE.decode(&SERVED[0], &mut object).unwrap();
        object
    }

    fn errors(spec: Value) -> Vec<String> {
        Service.validate(&service(spec)).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn messages() {
        assert_eq!(errors(json!({ "ports": [{ "port": 80 }] })), [""; 0]);
        for (spec, expected) in [
            (json!({}), "spec.ports: Required value"),
            (
                json!({ "ports": [{ "port": 0 }] }),
                "spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
            ),
            (
                json!({ "ports": [{ "port": 1, "name": "a" }, { "port": 2 }] }),
                "spec.ports[1].name: Required value",
            ),
            (
                json!({ "ports": [{ "port": 1, "nodePort": 30000 }] }),
                "spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'",
            ),
            (json!({ "type": "ExternalName" }), "spec.externalName: Required value"),
            (
                json!({ "type": "x", "ports": [{ "port": 1 }] }),
                "spec.type: Unsupported value: \"x\": supported values: \"ClusterIP\", \"ExternalName\", \"LoadBalancer\", \"NodePort\"",
            ),
        ] {
            assert_eq!(errors(spec).first().map(String::as_str), Some(expected));
        }
    }

    #[test]
    fn updates_keep_what_was_allocated() {
        let mut old = service(json!({ "type": "NodePort", "clusterIP": "10.47.240.9",
            "clusterIPs": ["10.47.240.9"], "ports": [{ "port": 80, "nodePort": 30001 }] }));
        old["status"] = json!({ "loadBalancer": {} });
        let mut new = service(json!({ "type": "LoadBalancer", "ports": [{ "port": 80 }] }));
        Service.prepare_for_update(&mut new, &old, Subresource::None);
        assert_eq!(new["spec"]["clusterIP"], "10.47.240.9");
        assert_eq!(new["spec"]["ports"][0]["nodePort"], 30001);
        assert_eq!(Service.validate_update(&new, &old, Subresource::None), []);

        let mut back = old.clone();
        back["spec"]["type"] = json!("ClusterIP");
        Service.prepare_for_update(&mut back, &old, Subresource::None);
        assert!(back["spec"]["ports"][0]["nodePort"].is_null());
        assert_eq!(Service.validate_update(&back, &old, Subresource::None), []);

        back["spec"]["clusterIP"] = json!("10.47.240.10");
        let texts: Vec<String> = Service
            .validate_update(&back, &old, Subresource::None)
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(
            texts,
            ["spec.clusterIPs[0]: Invalid value: [\"10.47.240.10\"]: may not change once set"]
        );
    }
}
