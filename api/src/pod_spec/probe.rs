//! Validation of probes and lifecycle hooks.

use crate::field::Field;
use crate::field_error::{ErrorList, FieldError};
use crate::names;

/// Checks all probes and hooks of a container.
pub fn validate_probes(container: &Field<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    let lifecycle = container.at("lifecycle");
    for hook in ["postStart", "preStop"] {
        let hook = lifecycle.at(hook);
        if hook.exists() {
            errors.extend(validate_handler(&hook, &["exec", "httpGet", "tcpSocket", "sleep"]));
        }
    }
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        let probe = container.at(name);
        if !probe.exists() {
            continue;
        }
        errors.extend(validate_handler(&probe, &["exec", "httpGet", "tcpSocket", "grpc"]));
        for number in [
            "initialDelaySeconds",
            "timeoutSeconds",
            "periodSeconds",
            "successThreshold",
            "failureThreshold",
        ] {
            errors.extend(probe.at(number).non_negative());
        }
        let grace = probe.at("terminationGracePeriodSeconds");
        if name == "readinessProbe" {
            if grace.exists() {
                errors.push(grace.invalid("must not be set for readinessProbes"));
            }
        } else {
            errors.extend(grace.positive());
            let threshold = probe.at("successThreshold");
            if threshold.int().is_some_and(|number| number != 1) {
                errors.push(threshold.invalid("must be 1"));
            }
        }
    }
    errors
}

fn validate_handler(handler: &Field<'_>, kinds: &[&str]) -> ErrorList {
    let mut errors = ErrorList::new();
    let mut count = 0;
    for kind in kinds {
        let action = handler.at(kind);
        if !action.exists() {
            continue;
        }
        count += 1;
        if count > 1 {
            errors.push(action.forbidden("may not specify more than 1 handler type"));
            continue;
        }
        match *kind {
            "exec" => {
                let command = action.at("command");
                if command.is_empty() {
                    errors.push(command.required(""));
                }
            }
            "httpGet" => {
                let path = action.at("path");
                if path.is_empty() {
                    errors.push(path.required(""));
                }
                errors.extend(validate_port(&action.at("port")));
                errors.extend(action.at("scheme").one_of(&["HTTP", "HTTPS"]));
                for header in action.at("httpHeaders").items() {
                    let name = header.at("name");
                    errors.extend(name.invalid_each(names::http_header_name(name.str())));
                }
            }
            "tcpSocket" => errors.extend(validate_port(&action.at("port"))),
            "grpc" => {
                let port = action.at("port");
                errors.extend(port.invalid_each(names::port_number(port.int().unwrap_or(0))));
            }
            _ => errors.extend(action.at("seconds").non_negative()),
        }
    }
    if count == 0 {
        errors.push(FieldError::required(&handler.path, "must specify a handler type"));
    }
    errors
}

/// Checks a port that may be a number or the name of one.
pub fn validate_port(port: &Field<'_>) -> Vec<FieldError> {
    match port.value.as_str() {
        Some(name) => port.invalid_each(names::port_name(name)),
        None => {
            let number = port.int().unwrap_or(0);
            names::port_number(number)
                .into_iter()
                .map(|message| FieldError::invalid(&port.path, number, message))
                .collect()
        }
    }
}
