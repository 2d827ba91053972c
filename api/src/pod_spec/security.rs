//! Validation of security contexts.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::field::Field;
use crate::field_error::{ErrorList, FieldError};
use crate::names;

/// The longest name of a sysctl.
const SYSCTL_MAX_BYTES: usize = 253;
const SYSCTL_REGEX: &str =
    "^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$";

/// Checks `spec.securityContext`.
pub fn validate_pod_security(spec: &Field<'_>) -> ErrorList {
    let context = spec.at("securityContext");
    let mut errors = ErrorList::new();
    for name in ["fsGroup", "runAsUser", "runAsGroup"] {
        errors.extend(validate_id(&context.at(name)));
    }
    for group in context.at("supplementalGroups").items() {
        errors.extend(validate_id(&group));
    }
    let policy = context.at("fsGroupChangePolicy");
    if policy.exists() {
        errors.extend(policy.one_of(&["Always", "OnRootMismatch"]));
    }
    let mut seen = BTreeSet::new();
    for sysctl in context.at("sysctls").items() {
        let name = sysctl.at("name");
        if name.is_empty() {
            errors.push(name.required(""));
            continue;
        }
        if !is_sysctl_name(name.str()) {
            errors.push(name.invalid(format!(
                "must have at most {SYSCTL_MAX_BYTES} characters and match regex {SYSCTL_REGEX}"
            )));
        } else if !seen.insert(name.str().replace('/', ".")) {
            errors.push(name.duplicate());
        }
        let dotted = name.str().replace('/', ".");
        if spec.at("hostNetwork").bool() && dotted.starts_with("net.") {
            errors.push(name.invalid("may not be specified when 'hostNetwork' is true"));
        }
        let is_ipc = dotted.starts_with("fs.mqueue.")
            || ["kernel.sem", "kernel.msg", "kernel.shm"].iter().any(|p| dotted.starts_with(p));
        if spec.at("hostIPC").bool() && is_ipc {
            errors.push(name.invalid("may not be specified when 'hostIPC' is true"));
        }
    }
    errors.extend(validate_profile(&context.at("seccompProfile"), "seccomp"));
    errors.extend(validate_profile(&context.at("appArmorProfile"), "AppArmor"));
    errors
}

fn is_sysctl_name(name: &str) -> bool {
    let legal = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    name.len() <= SYSCTL_MAX_BYTES
        && name.split(['.', '/']).all(|part| {
            let bytes = part.as_bytes();
            matches!((bytes.first(), bytes.last()), (Some(a), Some(z)) if legal(*a) && legal(*z))
                && bytes.iter().all(|b| legal(*b) || *b == b'-' || *b == b'_')
        })
}

/// Checks the security context of a container.
pub fn validate_container_security(context: &Field<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    for name in ["runAsUser", "runAsGroup"] {
        errors.extend(validate_id(&context.at(name)));
    }
    let mount = context.at("procMount");
    if mount.exists() {
        errors.extend(mount.one_of(&["Default", "Unmasked"]));
    }
    errors.extend(validate_profile(&context.at("seccompProfile"), "seccomp"));
    errors.extend(validate_profile(&context.at("appArmorProfile"), "AppArmor"));
    if context.at("allowPrivilegeEscalation").value == false {
        if context.at("privileged").bool() {
            errors.push(context.invalid(
                "cannot set `allowPrivilegeEscalation` to false and `privileged` to true",
            ));
        }
        let added = context.at("capabilities").at("add");
        if added.items().iter().any(|name| name.str() == "CAP_SYS_ADMIN") {
            errors.push(context.invalid(
                "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN",
            ));
        }
    }
    errors
}

fn validate_id(id: &Field<'_>) -> Vec<FieldError> {
    id.int().map(|number| id.invalid_each(names::unix_id(number))).unwrap_or_default()
}

fn validate_profile(profile: &Field<'_>, what: &str) -> ErrorList {
    let mut errors = ErrorList::new();
    if !profile.exists() {
        return errors;
    }
    let (kind, local) = (profile.at("type"), profile.at("localhostProfile"));
    match kind.str() {
        "Localhost" => match local.value {
            Value::Null => {
                errors.push(local.required(&format!("must be set when {what} type is Localhost")));
            }
            _ => {
                if local.str().starts_with('/') {
                    errors.push(local.invalid("must be a relative path"));
                }
                if local.str().split('/').any(|part| part == "..") {
                    errors.push(local.invalid("must not contain '..'"));
                }
            }
        },
        "RuntimeDefault" | "Unconfined" => {
            if local.exists() {
                let detail = format!("can only be set when {what} type is Localhost");
                errors.push(local.invalid(detail));
            }
        }
        "" => errors.push(kind.required("type is required when profile is set")),
        _ => errors.push(kind.not_supported(&["Localhost", "RuntimeDefault", "Unconfined"])),
    }
    errors
}
