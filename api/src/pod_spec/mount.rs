//! Validation of how containers take volumes: as directories, or as raw block devices (upstream
//! `ValidateVolumeMounts`, `ValidateVolumeDevices`).

use std::collections::{BTreeSet, HashMap, HashSet};

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

/// The names of a pod's volumes, and whether each can be a block device.
pub struct Devices<'a>(HashMap<&'a str, bool>);

impl<'a> Devices<'a> {
    /// Reads a pod's volumes; the first of several with the same name counts.
    pub fn of(volumes: &Field<'a>) -> Self {
        let mut devices = HashMap::new();
        for volume in volumes.items() {
            let is_claim =
                ["persistentVolumeClaim", "ephemeral"].iter().any(|kind| volume.at(kind).exists());
            devices.entry(volume.at("name").str()).or_insert(is_claim);
        }
        Self(devices)
    }
}

/// Checks `volumeDevices` of a container against the pod's volumes and the container's own mounts.
pub fn validate_devices(container: &Field<'_>, volumes: &Devices<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    let mounts = container.at("volumeMounts").items();
    let texts =
        |field: &str| -> HashSet<&str> { mounts.iter().map(|m| m.at(field).str()).collect() };
    let (mounted_names, mounted_paths) = (texts("name"), texts("mountPath"));
    let (mut names, mut paths) = (BTreeSet::new(), BTreeSet::new());
    for device in container.at("volumeDevices").items() {
        let (name, path) = (device.at("name"), device.at("devicePath"));
        if name.is_empty() {
            errors.push(name.required(""));
        }
        if !names.insert(name.str()) {
            errors.push(name.invalid("must be unique"));
        }
        match volumes.0.get(name.str()) {
            None => errors.push(FieldError::not_found(&name.path, name.str())),
            Some(false) => errors.push(name.invalid(
                "can only use volume source type of PersistentVolumeClaim for block mode",
            )),
            Some(true) => {}
        }
        if path.is_empty() {
            errors.push(path.required(""));
        } else if path.str().split('/').any(|part| part == "..") {
            errors.push(path.invalid("can not contain backsteps ('..')"));
        } else if !paths.insert(path.str()) {
            errors.push(path.invalid("must be unique"));
        }
        if mounted_names.contains(name.str()) {
            errors.push(name.invalid("must not already exist in volumeMounts"));
        }
        if mounted_paths.contains(path.str()) {
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
            validate_devices(&container, &Devices::of(&volumes))
                .iter()
                .map(ToString::to_string)
                .collect()
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
    #[test]
    fn many_devices_are_no_mounts() {
        let volumes: Vec<_> = (0..3_000)
            .map(|n| json!({"name": format!("v{n}"), "persistentVolumeClaim": {"claimName": "c"}}))
            .collect();
        let list = |field: &str, numbers: std::ops::Range<i32>| -> Vec<_> {
            numbers.map(|n| json!({"name": format!("v{n}"), field: format!("/p{n}")})).collect()
        };
        let (volumes, container) = (
            serde_json::Value::from(volumes),
            json!({
                "volumeMounts": list("mountPath", 0..1_001),
                "volumeDevices": list("devicePath", 1_000..3_001),
            }),
        );
        let devices = Devices::of(&Field::new(&volumes, "v"));
        let errors = validate_devices(&Field::new(&container, "c"), &devices);
        let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "c.volumeDevices[0].name: Invalid value: \"v1000\": must not already exist in \
                 volumeMounts",
                "c.volumeDevices[0].devicePath: Invalid value: \"/p1000\": must not already exist \
                 as a path in volumeMounts",
                "c.volumeDevices[2000].name: Not found: \"v3000\"",
            ]
        );
    }
}
