//! Validation of how containers take volumes: as directories, or as raw block devices (upstream
//! `ValidateVolumeMounts`, `ValidateVolumeDevices`).

use std::collections::BTreeSet;

use super::volume::validate_descending;
use crate::field::Field;
use crate::field_error::{ErrorList, FieldError};

/// Checks `volumeMounts` of a container against the names of the pod's volumes.
pub fn validate_mounts(container: &Field<'_>, volumes: &BTreeSet<String>) -> ErrorList {
    let mut errors = ErrorList::new();
    let mut paths = BTreeSet::new();
    for mount in container.at("volumeMounts").items() {
        let [name, path, sub, expression, propagation] =
            ["name", "mountPath", "subPath", "subPathExpr", "mountPropagation"]
                .map(|field| mount.at(field));
        if name.is_empty() {
            errors.push(name.required(""));
        } else if !volumes.contains(name.str()) {
            errors.push(FieldError::not_found(&name.path, name.str()));
        }
        if path.is_empty() {
            errors.push(path.required(""));
        } else if !paths.insert(path.str()) {
            errors.push(path.invalid("must be unique"));
        }
        if !sub.is_empty() {
            errors.extend(validate_descending(&sub));
        }
        if !expression.is_empty() {
            if !sub.is_empty() {
                let detail = "subPathExpr and subPath are mutually exclusive";
                errors.push(expression.invalid(detail));
            }
            errors.extend(validate_descending(&expression));
        }
        if propagation.exists() {
            let modes = ["Bidirectional", "HostToContainer", "None"];
            errors.extend(propagation.one_of(&modes));
            let privileged = container.at("securityContext").at("privileged").bool();
            if propagation.str() == "Bidirectional" && !privileged {
                errors.push(propagation.forbidden(
                    "Bidirectional mount propagation is available only to privileged containers",
                ));
            }
        }
        let recursive = mount.at("recursiveReadOnly");
        if matches!(recursive.str(), "Enabled" | "IfPossible") {
            if !mount.at("readOnly").bool() {
                errors.push(recursive.forbidden("may only be specified when readOnly is true"));
            }
            if propagation.exists() && propagation.str() != "None" {
                let detail = "may only be specified when mountPropagation is None or not specified";
                errors.push(recursive.forbidden(detail));
            }
        } else if recursive.exists() {
            errors.extend(recursive.one_of(&["Disabled", "Enabled", "IfPossible"]));
        }
    }
    errors
}

/// Checks `volumeDevices` of a container against the pod's volumes and the container's own mounts.
pub fn validate_devices(container: &Field<'_>, volumes: &Field<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    let volumes = volumes.items();
    let mounts = container.at("volumeMounts").items();
    let mounted = |field: &str, text: &str| mounts.iter().any(|m| m.at(field).str() == text);
    let (mut names, mut paths) = (BTreeSet::new(), BTreeSet::new());
    for device in container.at("volumeDevices").items() {
        let (name, path) = (device.at("name"), device.at("devicePath"));
        let volume = volumes.iter().find(|volume| volume.at("name").str() == name.str());
        let is_claim = |volume: &Field<'_>| {
            ["persistentVolumeClaim", "ephemeral"].iter().any(|kind| volume.at(kind).exists())
        };
        if name.is_empty() {
            errors.push(name.required(""));
        }
        if !names.insert(name.str()) {
            errors.push(name.invalid("must be unique"));
        }
        match volume {
            None => errors.push(FieldError::not_found(&name.path, name.str())),
            Some(volume) if !is_claim(volume) => errors.push(name.invalid(
                "can only use volume source type of PersistentVolumeClaim for block mode",
            )),
            Some(_) => {}
        }
        if path.is_empty() {
            errors.push(path.required(""));
        } else if path.str().split('/').any(|part| part == "..") {
            errors.push(path.invalid("can not contain backsteps ('..')"));
        } else if !paths.insert(path.str()) {
            errors.push(path.invalid("must be unique"));
        }
        if mounted("name", name.str()) {
            errors.push(name.invalid("must not already exist in volumeMounts"));
        }
        if mounted("mountPath", path.str()) {
            errors.push(path.invalid("must not already exist as a path in volumeMounts"));
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn mounts_that_are_read_only_throughout_are_read_only() {
        let check = |mount: serde_json::Value| -> Vec<String> {
            let container = json!({ "volumeMounts": [mount] });
            let volumes = BTreeSet::from(["v".to_owned()]);
            let errors = validate_mounts(&Field::new(&container, "c"), &volumes);
            errors.iter().map(ToString::to_string).collect()
        };
        let mount = json!({"name": "v", "mountPath": "/v", "readOnly": true,
            "recursiveReadOnly": "Enabled"});
        assert!(check(mount).is_empty());
        let mount = json!({"name": "v", "mountPath": "/v", "mountPropagation": "HostToContainer",
            "recursiveReadOnly": "Enabled"});
        assert_eq!(
            check(mount),
            [
                "c.volumeMounts[0].recursiveReadOnly: Forbidden: may only be specified when \
                 readOnly is true",
                "c.volumeMounts[0].recursiveReadOnly: Forbidden: may only be specified when \
                 mountPropagation is None or not specified",
            ]
        );
    }

    #[test]
    fn devices_are_claims_at_paths_of_their_own() {
        let volumes = json!([
            {"name": "claim", "persistentVolumeClaim": {"claimName": "c"}},
            {"name": "other", "ephemeral": {}},
            {"name": "plain", "emptyDir": {}},
        ]);
        let check = |container: serde_json::Value| -> Vec<String> {
            let (container, volumes) = (Field::new(&container, "c"), Field::new(&volumes, "v"));
            validate_devices(&container, &volumes).iter().map(ToString::to_string).collect()
        };
        assert!(
            check(json!({"volumeDevices": [
                {"name": "claim", "devicePath": "/dev/a"},
                {"name": "other", "devicePath": "/dev/b"},
            ]}))
            .is_empty()
        );
        assert_eq!(
            check(json!({
                "volumeMounts": [{"name": "claim", "mountPath": "/dev/a"}],
                "volumeDevices": [
                    {"name": "claim", "devicePath": "/dev/a"},
                    {"name": "plain", "devicePath": "../x"},
                    {"name": "none"},
                ],
            })),
            [
                "c.volumeDevices[0].name: Invalid value: \"claim\": must not already exist in \
                 volumeMounts",
                "c.volumeDevices[0].devicePath: Invalid value: \"/dev/a\": must not already exist \
                 as a path in volumeMounts",
                "c.volumeDevices[1].name: Invalid value: \"plain\": can only use volume source type \
                 of PersistentVolumeClaim for block mode",
                "c.volumeDevices[1].devicePath: Invalid value: \"../x\": can not contain backsteps \
                 ('..')",
                "c.volumeDevices[2].name: Not found: \"none\"",
                "c.volumeDevices[2].devicePath: Required value",
            ]
        );
    }
}
