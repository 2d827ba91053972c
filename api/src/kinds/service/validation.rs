//! Validation of Services (upstream `ValidateService`, `ValidateServiceUpdate`).

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::field::Field;
use crate::field_error::{ErrorList, FieldError};
use crate::metadata::validate_labels;
use crate::names;

/// Affinity lasts a day at most.
const MAX_AFFINITY_SECONDS: i64 = 86_400;

/// Checks a Service.
pub fn validate(object: &Value) -> ErrorList {
    let spec = Field::root(object).at("spec");
    let mut errors = ErrorList::new();
    let kind = spec.at("type");
    let ports = spec.at("ports");
    let is_headless = spec.at("clusterIP").str() == "None";
    if ports.is_empty() && !is_headless && kind.str() != "ExternalName" {
        errors.push(ports.required(""));
    }
    let name = spec.at("externalName");
    match kind.str() {
        "LoadBalancer" if is_headless => errors.push(FieldError::invalid(
            "spec.clusterIPs[0]",
            "None",
            "may not be set to 'None' for LoadBalancer services",
        )),
        "NodePort" if is_headless => errors.push(FieldError::invalid(
            "spec.clusterIPs[0]",
            "None",
            "may not be set to 'None' for NodePort services",
        )),
        "ExternalName" => {
            let address = spec.at("clusterIP");
            if !spec.at("clusterIPs").is_empty() || !address.is_empty() {
                let detail = "may not be set when `type` is 'ExternalName'";
                errors.push(spec.at("clusterIPs").forbidden(detail));
            }
            if name.is_empty() {
                errors.push(name.required(""));
            } else {
                let plain = name.str().strip_suffix('.').unwrap_or(name.str());
                errors.extend(name.invalid_each(names::dns1123_subdomain(plain)));
            }
        }
        _ => {}
    }
    errors.extend(validate_ports(&spec));
    if spec.at("selector").exists() {
        errors.extend(validate_labels(&spec.at("selector")));
    }
    errors.extend(validate_affinity(&spec));
    for address in spec.at("clusterIPs").items().into_iter().chain([spec.at("clusterIP")]) {
        if !matches!(address.str(), "" | "None") {
            errors.extend(address.invalid_each(names::ip(address.str())));
        }
    }
    for address in spec.at("externalIPs").items() {
        let messages = names::ip(address.str());
        if messages.is_empty() {
            errors.extend(names::reachable_ip(address.str()).map(|why| address.invalid(why)));
        } else {
            errors.extend(address.invalid_each(messages));
        }
    }
    if kind.is_empty() {
        errors.push(kind.required(""));
    } else {
        errors.extend(kind.one_of(&["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"]));
    }
    errors.extend(validate_load_balancer(&spec));
    errors.extend(validate_policies(&spec));
    errors.extend(validate_families(&spec));
    errors
}

fn validate_families(spec: &Field<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    let (families, policy) = (spec.at("ipFamilies"), spec.at("ipFamilyPolicy"));
    if spec.at("type").str() == "ExternalName" {
        for field in [families, policy] {
            if !field.is_empty() {
                let detail = "may not be set for ExternalName services";
                errors.push(FieldError::forbidden(&field.path, detail));
            }
        }
        return errors;
    }
    let mut seen = BTreeSet::new();
    for family in families.items() {
        errors.extend(family.one_of(&["IPv4", "IPv6"]));
        if !seen.insert(family.str()) {
            errors.push(family.duplicate());
        }
    }
    if policy.exists() {
        errors.extend(policy.one_of(&["PreferDualStack", "RequireDualStack", "SingleStack"]));
    }
    errors
}

fn validate_ports(spec: &Field<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    let (ports, kind) = (spec.at("ports"), spec.at("type").str());
    let many = ports.len() > 1;
    let (mut port_names, mut pairs, mut nodes) =
        (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for port in ports.items() {
        let [name, number, protocol, target, node] =
            ["name", "port", "protocol", "targetPort", "nodePort"].map(|field| port.at(field));
        if many && name.is_empty() {
            errors.push(name.required(""));
        } else if !name.is_empty() {
            errors.extend(name.invalid_each(names::dns1123_label(name.str())));
            if !port_names.insert(name.str()) {
                errors.push(name.duplicate());
            }
        }
        let value = number.int().unwrap_or(0);
        for message in names::port_number(value) {
            errors.push(FieldError::invalid(&number.path, value, message));
        }
        if protocol.is_empty() {
            errors.push(protocol.required(""));
        } else {
            errors.extend(protocol.one_of(&["SCTP", "TCP", "UDP"]));
        }
        match target.value.as_str() {
            Some(text) => errors.extend(target.invalid_each(names::port_name(text))),
            None => {
                let number = target.int().unwrap_or(0);
                errors.extend(target.invalid_each(names::port_number(number)));
            }
        }
        let application = port.at("appProtocol");
        if application.exists() {
            errors.extend(application.invalid_each(names::label_key(application.str())));
        }
        if !pairs.insert((protocol.str(), value)) {
            let pair = json!({ "protocol": protocol.str(), "port": value });
            errors.push(FieldError::duplicate(&port.path, pair));
        }
        let Some(node_number) = node.int().filter(|number| *number != 0) else { continue };
        if kind == "ClusterIP" || kind == "ExternalName" {
            let detail = format!("may not be used when `type` is '{kind}'");
            errors.push(node.forbidden(detail));
        } else if !nodes.insert((protocol.str(), node_number)) {
            errors.push(node.duplicate());
        }
    }
    errors
}

fn validate_affinity(spec: &Field<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    let affinity = spec.at("sessionAffinity");
    if affinity.is_empty() {
        errors.push(affinity.required(""));
        return errors;
    }
    errors.extend(affinity.one_of(&["ClientIP", "None"]));
    let config = spec.at("sessionAffinityConfig");
    if affinity.str() == "ClientIP" {
        let timeout = config.at("clientIP").at("timeoutSeconds");
        if timeout.int().is_some_and(|s| !(1..=MAX_AFFINITY_SECONDS).contains(&s)) {
            errors.push(
                timeout.invalid(format!(
                    "must be greater than 0 and less than {MAX_AFFINITY_SECONDS}"
                )),
            );
        }
    } else if config.exists() {
        errors.push(config.forbidden("must not be set when session affinity is None"));
    }
    errors
}

fn validate_load_balancer(spec: &Field<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    let is_balancer = spec.at("type").str() == "LoadBalancer";
    let ranges = spec.at("loadBalancerSourceRanges");
    if !ranges.is_empty() && !is_balancer {
        errors.push(ranges.forbidden("may only be used when `type` is 'LoadBalancer'"));
    } else {
        for range in ranges.items() {
            if !is_cidr(range.str().trim()) {
                errors
                    .push(range.invalid(
                        "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)",
                    ));
            }
        }
    }
    let allocate = spec.at("allocateLoadBalancerNodePorts");
    if allocate.exists() && !is_balancer {
        errors.push(allocate.forbidden("may only be used when `type` is 'LoadBalancer'"));
    }
    let class = spec.at("loadBalancerClass");
    if class.exists() {
        if is_balancer {
            errors.extend(class.invalid_each(names::label_key(class.str())));
        } else {
            errors.push(class.forbidden("may only be used when `type` is 'LoadBalancer'"));
        }
    }
    errors
}

/// Whether a text is an address range of either family.
pub fn is_cidr(text: &str) -> bool {
    let Some((address, bits)) = text.split_once('/') else { return false };
    let max = match address.parse::<std::net::IpAddr>() {
        Ok(address) if address.is_ipv4() => 32,
        Ok(_) => 128,
        Err(_) => return false,
    };
    bits.parse::<u8>().is_ok_and(|bits| bits <= max)
}

fn validate_policies(spec: &Field<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    let kind = spec.at("type").str();
    let reaches_out = matches!(kind, "NodePort" | "LoadBalancer")
        || (kind == "ClusterIP" && !spec.at("externalIPs").is_empty());
    let external = spec.at("externalTrafficPolicy");
    if reaches_out {
        if external.is_empty() {
            errors.push(external.required(""));
        } else {
            errors.extend(external.one_of(&["Cluster", "Local"]));
        }
    } else if !external.is_empty() {
        errors.push(external.invalid("may only be set for externally-accessible services"));
    }
    let check = spec.at("healthCheckNodePort");
    if check.int().is_some_and(|port| port != 0)
        && !(kind == "LoadBalancer" && external.str() == "Local")
    {
        let detail = "may only be set when `type` is 'LoadBalancer' and \
                      `externalTrafficPolicy` is 'Local'";
        errors.push(check.invalid(detail));
    }
    let internal = spec.at("internalTrafficPolicy");
    if kind != "ExternalName" {
        if internal.exists() {
            errors.extend(internal.one_of(&["Cluster", "Local"]));
        } else {
            errors.push(internal.required(""));
        }
    }
    errors
}

/// Checks what may not change once given.
pub fn validate_update(object: &Value, old: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let (new, before) = (&object["spec"], &old["spec"]);
    let has_address = |spec: &Value| {
        spec["type"] != "ExternalName"
            && spec["clusterIP"].as_str().is_some_and(|ip| !ip.is_empty())
    };
    if has_address(before) && new["type"] != "ExternalName" {
        let address = new["clusterIP"].as_str().unwrap_or_default();
        let list = if address.is_empty() { Value::Null } else { json!([address]) };
        if address.is_empty() {
            let detail = "primary clusterIP can not be unset";
            errors.push(FieldError::invalid("spec.clusterIPs[0]", list, detail));
        } else if new["clusterIP"] != before["clusterIP"] {
            let detail = "may not change once set";
            errors.push(FieldError::invalid("spec.clusterIPs[0]", list, detail));
        }
    }
    if new["type"] == "LoadBalancer" && before["type"] == "LoadBalancer" {
        let class = Field::root(object).at("spec").at("loadBalancerClass");
        if class.value != &before["loadBalancerClass"] {
            errors.push(class.invalid("may not change once set"));
        }
    }
    errors
}
