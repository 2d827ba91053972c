//! Which secrets and config maps a pod refers to.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::Pod;

use crate::objects::{Key, Kind};

/// Every object that volumes, environments and image pulls of the pod refer to.
pub fn references(pod: &Pod) -> BTreeSet<Key> {
    let mut keys = BTreeSet::new();
    let Some(spec) = &pod.spec else { return keys };
    let namespace = pod.metadata.namespace.clone().unwrap_or_default();
    let mut add = |kind: Kind, name: &str| {
        if !name.is_empty() {
            keys.insert(Key { kind, namespace: namespace.clone(), name: name.to_owned() });
        }
    };
    for volume in spec.volumes.iter().flatten() {
        if let Some(secret) = volume.secret.as_ref().and_then(|s| s.secret_name.as_ref()) {
            add(Kind::Secret, secret);
        }
        if let Some(map) = &volume.config_map {
            add(Kind::ConfigMap, &map.name);
        }
        let sources = volume.projected.iter().flat_map(|p| p.sources.iter().flatten());
        for source in sources {
            if let Some(secret) = &source.secret {
                add(Kind::Secret, &secret.name);
            }
            if let Some(map) = &source.config_map {
                add(Kind::ConfigMap, &map.name);
            }
        }
    }
    for secret in spec.image_pull_secrets.iter().flatten() {
        add(Kind::Secret, &secret.name);
    }
    for (_, container) in crate::worker::state::containers(pod) {
        for source in container.env_from.iter().flatten() {
            if let Some(secret) = &source.secret_ref {
                add(Kind::Secret, &secret.name);
            }
            if let Some(map) = &source.config_map_ref {
                add(Kind::ConfigMap, &map.name);
            }
        }
        for from in container.env.iter().flatten().filter_map(|env| env.value_from.as_ref()) {
            if let Some(secret) = &from.secret_key_ref {
                add(Kind::Secret, &secret.name);
            }
            if let Some(map) = &from.config_map_key_ref {
                add(Kind::ConfigMap, &map.name);
            }
        }
    }
    keys
}
