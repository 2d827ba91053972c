//! Validation of containers of all three kinds.

use std::collections::BTreeSet;

use serde_json::Value;

use super::mount::{Devices, validate_devices, validate_mounts};
use super::probe::validate_probes;
use super::security::validate_container_security;
use crate::field::Field;
use crate::field_error::{ErrorList, FieldError};
use crate::names;
use crate::quantity::Quantity;

/// Checks `containers` and `initContainers` of a pod spec.
pub fn validate_containers(spec: &Field<'_>, volumes: &BTreeSet<String>) -> ErrorList {
    let mut errors = ErrorList::new();
    let devices = Devices::of(&spec.at("volumes"));
    let mut seen = BTreeSet::new();
    let containers = spec.at("containers");
    if containers.is_empty() {
        errors.push(containers.required(""));
    }
    for container in containers.items() {
        errors.extend(validate_container(&container, volumes, &mut seen));
        errors.extend(validate_devices(&container, &devices));
        errors.extend(validate_resize(&container, &spec.at("restartPolicy")));
        errors.extend(validate_probes(&container));
        let policy = container.at("restartPolicy");
        if policy.exists() {
            errors.push(policy.forbidden("may not be set for non-init containers"));
        }
    }
    for container in spec.at("initContainers").items() {
        errors.extend(validate_container(&container, volumes, &mut seen));
        errors.extend(validate_devices(&container, &devices));
        errors.extend(validate_resize(&container, &spec.at("restartPolicy")));
        let policy = container.at("restartPolicy");
        if policy.exists() {
            errors.extend(policy.one_of(&["Always"]));
            errors.extend(validate_probes(&container));
        } else {
            for name in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"] {
                let field = container.at(name);
                if field.exists() {
                    let detail = "may not be set for init containers without restartPolicy=Always";
                    errors.push(field.forbidden(detail));
                }
            }
        }
    }
    errors.extend(validate_host_ports(&containers));
    errors
}

/// Checks `ephemeralContainers`, which only `/ephemeralcontainers` may add.
pub fn validate_ephemeral_containers(spec: &Field<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    let devices = Devices::of(&spec.at("volumes"));
    let volumes = spec.at("volumes").items();
    let volumes = volumes.iter().map(|volume| volume.at("name").str().to_owned()).collect();
    let mut seen: BTreeSet<String> = ["containers", "initContainers"]
        .into_iter()
        .flat_map(|list| spec.at(list).items())
        .map(|container| container.at("name").str().to_owned())
        .collect();
    let others = seen.clone();
    for container in spec.at("ephemeralContainers").items() {
        errors.extend(validate_container(&container, &volumes, &mut seen));
        errors.extend(validate_devices(&container, &devices));
        for name in ["ports", "livenessProbe", "readinessProbe", "startupProbe", "lifecycle"] {
            let field = container.at(name);
            if !field.is_empty() {
                errors.push(field.forbidden("cannot be set for an Ephemeral Container"));
            }
        }
        let resources = container.at("resources");
        if !resources.is_empty() {
            errors.push(resources.forbidden("cannot be set for an Ephemeral Container"));
        }
        for mount in container.at("volumeMounts").items() {
            let path = mount.at("subPath");
            if !path.is_empty() {
                errors.push(path.forbidden("cannot be set for an Ephemeral Container"));
            }
        }
        let target = container.at("targetContainerName");
        if !target.is_empty() && !others.contains(target.str()) {
            errors.push(FieldError::not_found(target.path.clone(), target.str()));
        }
    }
    errors
}

fn validate_container(
    container: &Field<'_>,
    volumes: &BTreeSet<String>,
    seen: &mut BTreeSet<String>,
) -> ErrorList {
    let mut errors = ErrorList::new();
    let name = container.at("name");
    if name.is_empty() {
        errors.push(name.required(""));
    } else {
        errors.extend(name.invalid_each(names::dns1123_label(name.str())));
        if !seen.insert(name.str().to_owned()) {
            errors.push(name.duplicate());
        }
    }
    let image = container.at("image");
    if image.is_empty() {
        errors.push(image.required(""));
    } else if image.str().trim() != image.str() {
        errors.push(image.invalid("must not have leading or trailing whitespace"));
    }
    errors.extend(
        container.at("terminationMessagePolicy").one_of(&["File", "FallbackToLogsOnError"]),
    );
    errors.extend(validate_ports(&container.at("ports")));
    errors.extend(validate_env(&container.at("env")));
    errors.extend(validate_env_from(&container.at("envFrom")));
    errors.extend(validate_mounts(container, volumes));
    let policy = container.at("imagePullPolicy");
    if policy.is_empty() {
        errors.push(policy.required(""));
    } else {
        errors.extend(policy.one_of(&["Always", "IfNotPresent", "Never"]));
    }
    errors.extend(validate_resources(&container.at("resources")));
    let security = container.at("securityContext");
    if security.exists() {
        errors.extend(validate_container_security(&security));
    }
    errors
}

fn validate_ports(ports: &Field<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    let mut seen = BTreeSet::new();
    for port in ports.items() {
        let name = port.at("name");
        if !name.is_empty() {
            let messages = names::port_name(name.str());
            if messages.is_empty() && !seen.insert(name.str().to_owned()) {
                errors.push(name.duplicate());
            }
            errors.extend(name.invalid_each(messages));
        }
        let number = port.at("containerPort");
        match number.int().unwrap_or(0) {
            0 => errors.push(number.required("")),
            value => errors.extend(number.invalid_each(names::port_number(value))),
        }
        let host = port.at("hostPort");
        if let Some(value) = host.int().filter(|value| *value != 0) {
            errors.extend(host.invalid_each(names::port_number(value)));
        }
        let address = port.at("hostIP");
        if !address.is_empty() {
            errors.extend(address.invalid_each(names::ip(address.str())));
        }
        let protocol = port.at("protocol");
        if protocol.is_empty() {
            errors.push(protocol.required(""));
        } else {
            errors.extend(protocol.one_of(&["SCTP", "TCP", "UDP"]));
        }
    }
    errors
}

fn validate_host_ports(containers: &Field<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    let mut seen = BTreeSet::new();
    for container in containers.items() {
        for port in container.at("ports").items() {
            let Some(number) = port.at("hostPort").int().filter(|number| *number != 0) else {
                continue;
            };
            let text =
                format!("{}/{}/{number}", port.at("protocol").str(), port.at("hostIP").str());
            if !seen.insert(text.clone()) {
                errors.push(FieldError::duplicate(port.at("hostPort").path, text));
            }
        }
    }
    errors
}

fn validate_env(variables: &Field<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    for variable in variables.items() {
        let name = variable.at("name");
        if name.is_empty() {
            errors.push(name.required(""));
        } else {
            errors.extend(name.invalid_each(names::env_var_name(name.str())));
        }
        let source = variable.at("valueFrom");
        if !source.exists() {
            continue;
        }
        let kinds = ["fieldRef", "resourceFieldRef", "configMapKeyRef", "secretKeyRef"];
        let count = kinds.iter().filter(|kind| source.at(kind).exists()).count();
        let object = |detail: &str| FieldError::invalid(&source.path, "", detail);
        if count == 0 {
            errors.push(object(
                "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef` or `secretKeyRef`",
            ));
        } else if !variable.at("value").is_empty() {
            errors.push(object("may not be specified when `value` is not empty"));
        } else if count > 1 {
            errors.push(object("may not have more than one field specified at a time"));
        }
        errors.extend(validate_field_source(&source, FieldSources::Environment));
        for kind in ["configMapKeyRef", "secretKeyRef"] {
            let reference = source.at(kind);
            if !reference.exists() {
                continue;
            }
            let (name, key) = (reference.at("name"), reference.at("key"));
            if name.is_empty() {
                errors.push(name.required(""));
            }
            if key.is_empty() {
                errors.push(key.required(""));
            } else {
                errors.extend(key.invalid_each(names::config_map_key(key.str())));
            }
        }
    }
    errors
}

fn validate_env_from(sources: &Field<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    for source in sources.items() {
        let prefix = source.at("prefix");
        if !prefix.is_empty() {
            errors.extend(prefix.invalid_each(names::env_var_name(prefix.str())));
        }
        let mut count = 0;
        for kind in ["configMapRef", "secretRef"] {
            let reference = source.at(kind);
            if reference.exists() {
                count += 1;
                let name = reference.at("name");
                if name.is_empty() {
                    errors.push(name.required(""));
                } else {
                    errors.extend(name.invalid_each(names::dns1123_subdomain(name.str())));
                }
            }
        }
        match count {
            0 => errors.push(FieldError::invalid(
                &source.path,
                "",
                "must specify one of: `configMapRef` or `secretRef`",
            )),
            1 => {}
            _ => errors.push(FieldError::invalid(
                &source.path,
                "",
                "may not have more than one field specified at a time",
            )),
        }
    }
    errors
}

/// Where a downward-API source stands: the two know different fields.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum FieldSources {
    /// `env[].valueFrom`
    Environment,
    /// Items of a downwardAPI volume.
    Volume,
}

const ENVIRONMENT_FIELDS: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];
const VOLUME_FIELDS: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "metadata.labels",
    "metadata.annotations",
];

/// Checks `fieldRef` and `resourceFieldRef`.
pub fn validate_field_source(source: &Field<'_>, place: FieldSources) -> ErrorList {
    let mut errors = ErrorList::new();
    let field = source.at("fieldRef");
    if field.exists() {
        let path = field.at("fieldPath");
        let (known, all) = match place {
            FieldSources::Environment => (ENVIRONMENT_FIELDS, [ENVIRONMENT_FIELDS, VOLUME_FIELDS]),
            FieldSources::Volume => (VOLUME_FIELDS, [VOLUME_FIELDS, ENVIRONMENT_FIELDS]),
        };
        if field.at("apiVersion").is_empty() {
            errors.push(field.at("apiVersion").required(""));
        }
        let subscript = path.str().strip_suffix("']").and_then(|text| text.split_once("['"));
        match subscript {
            _ if path.is_empty() => errors.push(path.required("")),
            Some(("metadata.labels", key)) => {
                errors.extend(path.invalid_each(names::label_key(key)));
            }
            Some(("metadata.annotations", key)) => {
                errors.extend(path.invalid_each(names::label_key(&key.to_lowercase())));
            }
            Some((name, _)) => {
                errors.push(path.invalid(format!("does not support subscript: {name}")));
            }
            None if known.contains(&path.str()) => {}
            None if all[1].contains(&path.str()) => errors.push(path.not_supported(known)),
            None => errors.push(path.invalid(format!(
                "error converting fieldPath: field label not supported: {}",
                path.str()
            ))),
        }
    }
    let resource = source.at("resourceFieldRef");
    if resource.exists() {
        let name = resource.at("resource");
        let container = resource.at("containerName");
        if place == FieldSources::Volume && container.is_empty() {
            errors.push(container.required(""));
        }
        let known = [
            "limits.cpu",
            "limits.ephemeral-storage",
            "limits.memory",
            "requests.cpu",
            "requests.ephemeral-storage",
            "requests.memory",
        ];
        let is_huge = ["limits.hugepages-", "requests.hugepages-"]
            .iter()
            .any(|prefix| name.str().starts_with(prefix));
        if name.is_empty() {
            errors.push(name.required(""));
        } else if !is_huge {
            errors.extend(name.one_of(&known));
        }
    }
    errors
}

/// Checks what is to happen to a container whose resources change while it runs.
fn validate_resize(container: &Field<'_>, restart_policy: &Field<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    let policies = container.at("resizePolicy");
    let mut seen = BTreeSet::new();
    for entry in policies.items() {
        // Upstream names the list, but for duplicates.
        let (resource, policy) = (entry.at("resourceName"), entry.at("restartPolicy"));
        if !seen.insert(resource.str()) {
            errors.push(FieldError::duplicate(&entry.path, resource.str()));
        }
        for (field, known) in
            [(&resource, ["cpu", "memory"]), (&policy, ["NotRequired", "RestartContainer"])]
        {
            let field = Field::new(field.value, policies.path.as_str());
            if field.is_empty() {
                errors.push(field.required(""));
            } else {
                errors.extend(field.one_of(&known));
            }
        }
        if restart_policy.str() == "Never" && policy.str() != "NotRequired" {
            let detail = "must be 'NotRequired' when `restartPolicy` is 'Never'";
            errors.push(FieldError::invalid(&policies.path, policy.str(), detail));
        }
    }
    errors
}

/// Checks requests and limits.
pub fn validate_resources(resources: &Field<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    let (requests, limits) = (resources.at("requests"), resources.at("limits"));
    for (name, quantity) in limits.entries() {
        errors.extend(validate_resource(name, &quantity));
    }
    for (name, quantity) in requests.entries() {
        errors.extend(validate_resource(name, &quantity));
        let request = Quantity::from_json(quantity.value).unwrap_or_default();
        let limit = limits.value.get(name).and_then(|limit| Quantity::from_json(limit).ok());
        let invalid = |detail: String| {
            FieldError::invalid(&requests.path, Value::from(request.to_string()), detail)
        };
        match limit {
            Some(limit) if request != limit && is_extended(name) => {
                errors.push(invalid(format!("must be equal to {name} limit of {limit}")));
            }
            Some(limit) if request > limit => {
                errors.push(invalid(format!(
                    "must be less than or equal to {name} limit of {limit}"
                )));
            }
            None if is_extended(name) => {
                let detail = "Limit must be set for non overcommitable resources";
                errors.push(FieldError::required(&limits.path, detail));
            }
            _ => {}
        }
    }
    errors
}

/// Resources besides those of the node itself, which cannot be over-committed.
fn is_extended(name: &str) -> bool {
    name.starts_with("hugepages-")
        || name.split_once('/').is_some_and(|(domain, _)| !domain.contains("kubernetes.io"))
}

/// Checks the name of a resource that containers ask for.
pub fn validate_resource_name(name: &str, path: &str) -> ErrorList {
    let mut errors = ErrorList::new();
    for message in names::label_key(name) {
        errors.push(FieldError::invalid(path, name, message));
    }
    let standard =
        matches!(name, "cpu" | "memory" | "ephemeral-storage") || name.starts_with("hugepages-");
    if errors.is_empty() && !name.contains('/') && !standard {
        let detail = "must be a standard resource for containers";
        errors.push(FieldError::invalid(path, name, detail));
    }
    errors
}

fn validate_resource(name: &str, quantity: &Field<'_>) -> ErrorList {
    let mut errors = validate_resource_name(name, &quantity.path);
    if let Ok(value) = Quantity::from_json(quantity.value) {
        let text = || Value::from(value.to_string());
        if value.is_negative() {
            let detail = "must be greater than or equal to 0";
            errors.push(FieldError::invalid(&quantity.path, text(), detail));
        }
        if is_extended(name) && !value.is_whole() {
            errors.push(FieldError::invalid(&quantity.path, text(), "must be an integer"));
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod_spec::defaults::default_pod;
    use crate::pod_spec::validate_pod_spec;
    use serde_json::json;

    fn errors(mut spec: Value) -> Vec<String> {
        default_pod(&mut spec);
        let field = Field::new(&spec, "spec");
        validate_pod_spec(&field).iter().map(FieldError::to_string).collect()
    }

    fn with(container: Value) -> Vec<String> {
        let mut full = json!({"name": "c", "image": "i"});
        if let (Some(full), Value::Object(more)) = (full.as_object_mut(), container) {
            full.extend(more);
        }
        errors(json!({ "containers": [full] }))
    }

    #[test]
    fn messages() {
        assert_eq!(errors(json!({})), ["spec.containers: Required value"]);
        assert_eq!(with(json!({})), [""; 0]);
        for (container, expected) in [
            (json!({"image": ""}), "spec.containers[0].image: Required value"),
            (json!({"ports": [{}]}), "spec.containers[0].ports[0].containerPort: Required value"),
            (
                json!({"resizePolicy": [{"resourceName": "disk", "restartPolicy": "NotRequired"}]}),
                "spec.containers[0].resizePolicy: Unsupported value: \"disk\": supported values: \"cpu\", \"memory\"",
            ),
            (
                json!({"resizePolicy": [
                    {"resourceName": "cpu", "restartPolicy": "NotRequired"},
                    {"resourceName": "cpu", "restartPolicy": "RestartContainer"}]}),
                "spec.containers[0].resizePolicy[1]: Duplicate value: \"cpu\"",
            ),
            (
                json!({"ports": [{"containerPort": 70000}]}),
                "spec.containers[0].ports[0].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive",
            ),
            (
                json!({"ports": [{"containerPort": 1, "protocol": "X"}]}),
                "spec.containers[0].ports[0].protocol: Unsupported value: \"X\": supported values: \"SCTP\", \"TCP\", \"UDP\"",
            ),
            (
                json!({"volumeMounts": [{"name": "v", "mountPath": "/v"}]}),
                "spec.containers[0].volumeMounts[0].name: Not found: \"v\"",
            ),
            (
                json!({"resources": {"requests": {"cpu": "2"}, "limits": {"cpu": "1"}}}),
                "spec.containers[0].resources.requests: Invalid value: \"2\": must be less than or equal to cpu limit of 1",
            ),
            (
                json!({"resources": {"limits": {"foo": "1"}}}),
                "spec.containers[0].resources.limits[foo]: Invalid value: \"foo\": must be a standard resource for containers",
            ),
            (
                json!({"livenessProbe": {}}),
                "spec.containers[0].livenessProbe: Required value: must specify a handler type",
            ),
            (
                json!({"env": [{"name": "A", "valueFrom": {}}]}),
                "spec.containers[0].env[0].valueFrom: Invalid value: \"\": must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef` or `secretKeyRef`",
            ),
        ] {
            assert_eq!(with(container).first().map(String::as_str), Some(expected));
        }
        assert_eq!(
            errors(
                json!({"containers": [{"name": "c", "image": "i"}, {"name": "c", "image": "i"}]})
            ),
            ["spec.containers[1].name: Duplicate value: \"c\""]
        );
        assert_eq!(
            errors(json!({"containers": [{"name": "c", "image": "i"}], "restartPolicy": "x"})),
            [
                "spec.restartPolicy: Unsupported value: \"x\": supported values: \"Always\", \"Never\", \"OnFailure\""
            ]
        );
    }
}
