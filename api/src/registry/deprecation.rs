//! Which served versions are deprecated.

use super::Served;

/// Served versions that upstream calls deprecated: group, version, kind, since, gone in, successor.
const DEPRECATED: &[(&str, &str, &str, &str, &str, &str)] = &[
    ("apps", "v1alpha1", "PetSet", "v1.5", "v1.5", "apps/v1 StatefulSet"),
    ("apps", "v1beta1", "ControllerRevision", "v1.8", "v1.16", "apps/v1 ControllerRevision"),
    ("apps", "v1beta1", "Deployment", "v1.8", "v1.16", "apps/v1 Deployment"),
    ("apps", "v1beta1", "StatefulSet", "v1.8", "v1.16", "apps/v1 StatefulSet"),
    ("apps", "v1beta2", "ControllerRevision", "v1.9", "v1.16", "apps/v1 ControllerRevision"),
    ("apps", "v1beta2", "DaemonSet", "v1.9", "v1.16", "apps/v1 DaemonSet"),
    ("apps", "v1beta2", "Deployment", "v1.9", "v1.16", "apps/v1 Deployment"),
    ("apps", "v1beta2", "ReplicaSet", "v1.9", "v1.16", "apps/v1 ReplicaSet"),
    ("apps", "v1beta2", "StatefulSet", "v1.9", "v1.16", "apps/v1 StatefulSet"),
    ("batch", "v1beta1", "CronJob", "v1.21", "v1.25", "batch/v1 CronJob"),
    ("extensions", "v1beta1", "DaemonSet", "v1.8", "v1.16", "apps/v1 DaemonSet"),
    ("extensions", "v1beta1", "Deployment", "v1.8", "v1.16", "apps/v1 Deployment"),
    ("extensions", "v1beta1", "ReplicaSet", "v1.8", "v1.16", "apps/v1 ReplicaSet"),
    ("policy", "v1beta1", "PodDisruptionBudget", "v1.21", "v1.25", "policy/v1 PodDisruptionBudget"),
];

/// The `Warning` for requests to a deprecated version; `None` for the others (upstream
/// `endpoints/deprecation`).
pub fn deprecation_warning(served: &Served) -> Option<String> {
    if served.group.is_empty() && served.kind == "Endpoints" {
        return Some(
            "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice"
                .to_owned(),
        );
    }
    if served.group.is_empty() && served.kind == "ComponentStatus" {
        return Some("v1 ComponentStatus is deprecated in v1.19+".to_owned());
    }
    let (_, _, kind, since, gone, successor) = DEPRECATED.iter().find(|entry| {
        entry.0 == served.group && entry.1 == served.version && entry.2 == served.kind
    })?;
    Some(format!(
        "{} {kind} is deprecated in {since}+, unavailable in {gone}+; use {successor}",
        served.api_version()
    ))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::registry::find;

    #[test]
    fn warnings_for_old_versions() {
        let (_, old) = find("apps", "v1beta1", "deployments").unwrap();
        assert_eq!(
            deprecation_warning(old).unwrap(),
            "apps/v1beta1 Deployment is deprecated in v1.8+, unavailable in v1.16+; use apps/v1 Deployment"
        );
        assert_eq!(deprecation_warning(find("apps", "v1", "deployments").unwrap().1), None);
    }
}
