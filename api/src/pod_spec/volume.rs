//! Validation of volumes.

use std::collections::BTreeSet;

use super::container::{FieldSources, validate_field_source};
use crate::field::Field;
use crate::field_error::{ErrorList, FieldError};
use crate::kinds::persistent_volume_claim::validate_claim_spec;
use crate::names;
use crate::quantity::Quantity;

/// Checks `spec.volumes` and collects their names.
pub fn validate_volumes(volumes: &Field<'_>, seen: &mut BTreeSet<String>) -> ErrorList {
    let mut errors = ErrorList::new();
    for volume in volumes.items() {
        let name = volume.at("name");
        if name.is_empty() {
            errors.push(name.required(""));
        } else {
            errors.extend(name.invalid_each(names::dns1123_label(name.str())));
            if !seen.insert(name.str().to_owned()) {
                errors.push(name.duplicate());
            }
        }
        let sources: Vec<&String> = volume
            .value
            .as_object()
            .into_iter()
            .flatten()
            .filter(|(key, value)| *key != "name" && !value.is_null())
            .map(|(key, _)| key)
            .collect();
        match sources.as_slice() {
            [] => errors.push(volume.required("must specify a volume type")),
            [kind, more @ ..] => {
                errors.extend(validate_source(kind, &volume.at(kind)));
                for extra in more {
                    let detail = "may not specify more than 1 volume type";
                    errors.push(volume.at(extra).forbidden(detail));
                }
            }
        }
    }
    errors
}

fn validate_source(kind: &str, source: &Field<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    let mut need = |name: &str| {
        let field = source.at(name);
        if field.is_empty() {
            errors.push(field.required(""));
        }
    };
    match kind {
        "secret" => need("secretName"),
        "configMap" => need("name"),
        "persistentVolumeClaim" => need("claimName"),
        "hostPath" => need("path"),
        "nfs" => ["server", "path"].into_iter().for_each(need),
        "csi" => need("driver"),
        "image" => need("reference"),
        "gitRepo" => need("repository"),
        _ => {}
    }
    match kind {
        "emptyDir" => {
            let limit = source.at("sizeLimit");
            if Quantity::from_json(limit.value).is_ok_and(|q| q.is_negative()) {
                errors.push(limit.forbidden("SizeLimit field must be a valid resource quantity"));
            }
        }
        "hostPath" => {
            let path = source.at("path");
            if path.str().split('/').any(|part| part == "..") {
                errors.push(path.invalid("must not contain '..'"));
            }
            errors.extend(source.at("type").one_of(&[
                "",
                "BlockDevice",
                "CharDevice",
                "Directory",
                "DirectoryOrCreate",
                "File",
                "FileOrCreate",
                "Socket",
            ]));
        }
        "nfs" => {
            let path = source.at("path");
            if !path.is_empty() && !path.str().starts_with('/') {
                errors.push(path.invalid("must be an absolute path"));
            }
        }
        // The plug-in ran git on the node; upstream disabled it for its security holes.
        "gitRepo" => errors.push(source.forbidden(
            "gitRepo volumes are disabled; use an init container that clones into an emptyDir",
        )),
        "secret" | "configMap" => {
            errors.extend(validate_mode(&source.at("defaultMode")));
            errors.extend(validate_items(&source.at("items")));
        }
        "downwardAPI" => {
            errors.extend(validate_mode(&source.at("defaultMode")));
            errors.extend(validate_downward(&source.at("items")));
        }
        "projected" => errors.extend(validate_projected(source)),
        "ephemeral" => {
            let template = source.at("volumeClaimTemplate");
            if template.exists() {
                errors.extend(validate_claim_spec(&template.at("spec")));
            } else {
                errors.push(template.required(""));
            }
        }
        _ => {}
    }
    errors
}

fn validate_projected(projected: &Field<'_>) -> ErrorList {
    let mut errors = validate_mode(&projected.at("defaultMode")).into_iter().collect::<ErrorList>();
    for source in projected.at("sources").items() {
        let mut count = 0;
        for kind in
            ["secret", "configMap", "downwardAPI", "serviceAccountToken", "clusterTrustBundle"]
        {
            let projection = source.at(kind);
            if !projection.exists() {
                continue;
            }
            count += 1;
            if count > 1 {
                let detail = "may not specify more than 1 volume type per source";
                errors.push(projection.forbidden(detail));
                continue;
            }
            match kind {
                "secret" | "configMap" => {
                    let name = projection.at("name");
                    if name.is_empty() {
                        errors.push(name.required(""));
                    }
                    errors.extend(validate_items(&projection.at("items")));
                }
                "downwardAPI" => errors.extend(validate_downward(&projection.at("items"))),
                "serviceAccountToken" => {
                    let expiry = projection.at("expirationSeconds");
                    match expiry.int() {
                        Some(seconds) if seconds < 600 => errors.push(
                            expiry.invalid("may not specify a duration less than 10 minutes"),
                        ),
                        Some(seconds) if seconds > 1 << 32 => errors.push(
                            expiry.invalid("may not specify a duration larger than 2^32 seconds"),
                        ),
                        _ => {}
                    }
                    errors.extend(validate_path(&projection.at("path")));
                }
                _ => errors.extend(validate_path(&projection.at("path"))),
            }
        }
        if count == 0 {
            errors.push(source.required("must specify a volume type"));
        }
    }
    errors
}

fn validate_mode(mode: &Field<'_>) -> Option<FieldError> {
    let number = mode.int()?;
    (!(0..=0o777).contains(&number))
        .then(|| mode.invalid("must be a number between 0 and 0777 (octal), both inclusive"))
}

fn validate_items(items: &Field<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    for item in items.items() {
        let key = item.at("key");
        if key.is_empty() {
            errors.push(key.required(""));
        }
        errors.extend(validate_path(&item.at("path")));
        errors.extend(validate_mode(&item.at("mode")));
    }
    errors
}

fn validate_downward(items: &Field<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    for item in items.items() {
        errors.extend(validate_path(&item.at("path")));
        errors.extend(validate_mode(&item.at("mode")));
        let (field, resource) = (item.at("fieldRef"), item.at("resourceFieldRef"));
        match (field.exists(), resource.exists()) {
            (true, true) => errors.push(
                item.invalid("fieldRef and resourceFieldRef can not be specified simultaneously"),
            ),
            (false, false) => {
                errors.push(item.required("one of fieldRef and resourceFieldRef is required"));
            }
            _ => errors.extend(validate_field_source(&item, FieldSources::Volume)),
        }
    }
    errors
}

/// A path inside a volume: relative, not upwards, not beginning with `..`.
fn validate_path(path: &Field<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    if path.is_empty() {
        errors.push(path.required(""));
        return errors;
    }
    errors.extend(validate_descending(path));
    if path.str().starts_with("..") && !path.str().starts_with("../") && path.str() != ".." {
        errors.push(path.invalid("must not start with '..'"));
    }
    errors
}

/// A relative path without `..`.
pub fn validate_descending(path: &Field<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    if path.str().starts_with('/') {
        errors.push(path.invalid("must be a relative path"));
    }
    if path.str().split('/').any(|part| part == "..") {
        errors.push(path.invalid("must not contain '..'"));
    }
    errors
}
