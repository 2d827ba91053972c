//! Validation of a pod spec as a whole (upstream `ValidatePodSpec`).

use std::collections::BTreeSet;

use super::container::validate_containers;
use super::scheduling::{validate_affinity, validate_spread, validate_tolerations};
use super::security::validate_pod_security;
use super::volume::validate_volumes;
use crate::field::Field;
use crate::field_error::{ErrorList, FieldError};
use crate::metadata::validate_labels;
use crate::names;

/// Nameservers in `dnsConfig`.
const MAX_NAMESERVERS: usize = 3;
/// Search domains in `dnsConfig`.
const MAX_SEARCHES: usize = 32;

/// Checks the spec of a Pod or template.
pub fn validate_pod_spec(spec: &Field<'_>) -> ErrorList {
    let mut volumes = BTreeSet::new();
    let mut errors = validate_volumes(&spec.at("volumes"), &mut volumes);
    errors.extend(validate_containers(spec, &volumes));

    let restart = spec.at("restartPolicy");
    if restart.is_empty() {
        errors.push(restart.required(""));
    } else {
        errors.extend(restart.one_of(&["Always", "OnFailure", "Never"]));
    }
    errors.extend(spec.at("dnsPolicy").one_of(&[
        "ClusterFirstWithHostNet",
        "ClusterFirst",
        "Default",
        "None",
    ]));
    errors.extend(validate_dns(spec));
    errors.extend(spec.at("terminationGracePeriodSeconds").non_negative());
    let deadline = spec.at("activeDeadlineSeconds");
    if deadline.int().is_some_and(|d| !(1..=i64::from(i32::MAX)).contains(&d)) {
        errors.push(deadline.invalid(names::range_error(1, i64::from(i32::MAX))));
    }
    errors.extend(validate_labels(&spec.at("nodeSelector")));
    for (name, rule) in [
        ("serviceAccountName", names::dns1123_subdomain as fn(&str) -> Vec<String>),
        ("nodeName", names::dns1123_subdomain),
        ("schedulerName", names::dns1123_subdomain),
        ("priorityClassName", names::dns1123_subdomain),
        ("runtimeClassName", names::dns1123_subdomain),
        ("hostname", names::dns1123_label),
        ("subdomain", names::dns1123_label),
    ] {
        let field = spec.at(name);
        if !field.is_empty() {
            errors.extend(field.invalid_each(rule(field.str())));
        }
    }
    errors.extend(validate_host_fields(spec));
    errors.extend(validate_pod_security(spec));
    errors.extend(validate_affinity(&spec.at("affinity")));
    errors.extend(validate_tolerations(&spec.at("tolerations")));
    errors.extend(validate_spread(&spec.at("topologySpreadConstraints")));
    for alias in spec.at("hostAliases").items() {
        let ip = alias.at("ip");
        errors.extend(ip.invalid_each(names::ip(ip.str())));
        for host in alias.at("hostnames").items() {
            errors.extend(host.invalid_each(names::dns1123_subdomain(host.str())));
        }
    }
    let mut gates = BTreeSet::new();
    for gate in spec.at("schedulingGates").items() {
        let name = gate.at("name");
        errors.extend(name.invalid_each(names::label_key(name.str())));
        if !gates.insert(name.str()) {
            errors.push(FieldError::duplicate(gate.path, name.str()));
        }
    }
    for gate in spec.at("readinessGates").items() {
        let kind = gate.at("conditionType");
        errors.extend(kind.invalid_each(names::label_key(kind.str())));
    }
    let system = spec.at("os");
    if system.exists() {
        let name = system.at("name");
        if name.is_empty() {
            errors.push(name.required("cannot be empty"));
        } else {
            errors.extend(name.one_of(&["linux", "windows"]));
        }
    }
    errors
}

fn validate_dns(spec: &Field<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    let config = spec.at("dnsConfig");
    let servers = config.at("nameservers");
    if spec.at("dnsPolicy").str() == "None" {
        if !config.exists() {
            let detail = "must provide `dnsConfig` when `dnsPolicy` is None";
            errors.push(config.required(detail));
            return errors;
        }
        if servers.is_empty() {
            let detail = "must provide at least one DNS nameserver when `dnsPolicy` is None";
            errors.push(servers.required(detail));
            return errors;
        }
    }
    if servers.len() > MAX_NAMESERVERS {
        let detail = format!("must not have more than {MAX_NAMESERVERS} nameservers");
        errors.push(servers.invalid(detail));
    }
    for server in servers.items() {
        errors.extend(server.invalid_each(names::ip(server.str())));
    }
    let searches = config.at("searches");
    if searches.len() > MAX_SEARCHES {
        let detail = format!("must not have more than {MAX_SEARCHES} search paths");
        errors.push(searches.invalid(detail));
    }
    for search in searches.items() {
        let name = search.str().strip_suffix('.').unwrap_or(search.str());
        let plain = name.replace('_', "a");
        if search.str() != "." {
            errors.extend(search.invalid_each(names::dns1123_subdomain(&plain)));
        }
    }
    for option in config.at("options").items() {
        let name = option.at("name");
        if name.is_empty() {
            errors.push(FieldError::required(option.path, "must not be empty"));
        }
    }
    errors
}

fn validate_host_fields(spec: &Field<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    let shared = spec.at("shareProcessNamespace");
    if shared.bool() && spec.at("hostPID").bool() {
        errors.push(shared.invalid("ShareProcessNamespace and HostPID cannot both be enabled"));
    }
    let users = spec.at("hostUsers");
    if users.value == false {
        for name in ["hostNetwork", "hostPID", "hostIPC"] {
            let field = spec.at(name);
            if field.bool() {
                let detail = "when `pod.Spec.HostUsers` is false";
                errors.push(users.forbidden(format!("{detail}, `{name}` may not be true")));
            }
        }
    }
    if spec.at("hostNetwork").bool() {
        for list in ["containers", "initContainers"] {
            for container in spec.at(list).items() {
                for port in container.at("ports").items() {
                    let number = port.at("containerPort");
                    if number.int() != port.at("hostPort").int() {
                        let detail = "must match `hostPort` when `hostNetwork` is true";
                        errors.push(number.invalid(detail));
                    }
                }
            }
        }
    }
    errors
}
