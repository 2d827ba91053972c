//! Defaults of Pods and pod templates (upstream `pkg/apis/core/v1/defaults.go`).

use serde_json::{Value, json};

use crate::defaults::{
    child, empty, items_at, object_at, set, set_default, set_default_number, set_default_text,
};
use crate::quantity::{canonicalize, canonicalize_list};

const CONTAINER_LISTS: [&str; 3] = ["containers", "initContainers", "ephemeralContainers"];

/// Defaults of the `spec` of a Pod.
pub fn default_pod(spec: &mut Value) {
    default_spec(spec);
    for list in ["containers", "initContainers"] {
        for container in items_at(spec, list) {
            requests_from_limits(container);
        }
    }
    set_default(spec, "enableServiceLinks", true);
    if spec["hostNetwork"] == true {
        for list in ["containers", "initContainers"] {
            for container in items_at(spec, list) {
                for port in items_at(container, "ports") {
                    let number = port["containerPort"].as_i64().unwrap_or(0);
                    set_default_number(port, "hostPort", number);
                }
            }
        }
    }
}

/// Defaults of a pod template, at `template` of a workload's spec.
pub fn default_template(template: &mut Value) {
    if template.is_null() {
        return;
    }
    child(template, "metadata");
    default_spec(child(template, "spec"));
}

fn default_spec(spec: &mut Value) {
    set_default_text(spec, "dnsPolicy", "ClusterFirst");
    set_default_text(spec, "restartPolicy", "Always");
    set_default(spec, "securityContext", empty());
    set_default(spec, "terminationGracePeriodSeconds", 30);
    set_default_text(spec, "schedulerName", "default-scheduler");
    sync_service_account(spec);
    for volume in items_at(spec, "volumes") {
        default_volume(volume);
    }
    for list in CONTAINER_LISTS {
        for container in items_at(spec, list) {
            default_container(container);
        }
    }
    if let Some(overhead) = object_at(spec, "overhead") {
        canonicalize_list(overhead);
    }
    if let Some(resources) = object_at(spec, "resources") {
        default_resources(resources);
    }
}

/// Keeps the deprecated `serviceAccount` equal to `serviceAccountName`, as the wire form has it.
pub fn sync_service_account(spec: &mut Value) {
    let alias = spec["serviceAccount"].as_str().unwrap_or_default().to_owned();
    if !alias.is_empty() {
        set_default_text(spec, "serviceAccountName", &alias);
    }
    let name = spec["serviceAccountName"].as_str().unwrap_or_default().to_owned();
    if !name.is_empty() {
        set(spec, "serviceAccount", name);
    }
}

fn default_container(container: &mut Value) {
    let image = container["image"].as_str().unwrap_or_default();
    let policy = if image_tag(image) == Some("latest") { "Always" } else { "IfNotPresent" };
    set_default_text(container, "imagePullPolicy", policy);
    set_default_text(container, "terminationMessagePath", "/dev/termination-log");
    set_default_text(container, "terminationMessagePolicy", "File");
    default_resources(child(container, "resources"));
    for port in items_at(container, "ports") {
        set_default_text(port, "protocol", "TCP");
    }
    for variable in items_at(container, "env") {
        if let Some(source) = object_at(variable, "valueFrom") {
            default_field_source(source);
        }
    }
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe) = object_at(container, name) {
            default_probe(probe);
        }
    }
    if let Some(lifecycle) = object_at(container, "lifecycle") {
        for hook in ["postStart", "preStop"] {
            if let Some(hook) = object_at(lifecycle, hook) {
                default_http_get(hook);
            }
        }
    }
}

fn default_resources(resources: &mut Value) {
    for list in ["limits", "requests"] {
        if let Some(list) = object_at(resources, list) {
            canonicalize_list(list);
        }
    }
}

fn requests_from_limits(container: &mut Value) {
    let resources = child(container, "resources");
    let Some(limits) = resources["limits"].as_object().cloned() else { return };
    if limits.is_empty() {
        return;
    }
    let requests = child(resources, "requests");
    for (name, quantity) in limits {
        set_default(requests, &name, quantity);
    }
}

fn default_probe(probe: &mut Value) {
    set_default_number(probe, "timeoutSeconds", 1);
    set_default_number(probe, "periodSeconds", 10);
    set_default_number(probe, "successThreshold", 1);
    set_default_number(probe, "failureThreshold", 3);
    default_http_get(probe);
    if let Some(grpc) = object_at(probe, "grpc") {
        set_default(grpc, "service", "");
    }
}

fn default_http_get(handler: &mut Value) {
    if let Some(http) = object_at(handler, "httpGet") {
        set_default_text(http, "path", "/");
        set_default_text(http, "scheme", "HTTP");
    }
}

fn default_field_source(source: &mut Value) {
    if let Some(field) = object_at(source, "fieldRef") {
        set_default_text(field, "apiVersion", "v1");
    }
    if let Some(resource) = object_at(source, "resourceFieldRef") {
        // A divisor is always written, zero standing for one.
        set_default(resource, "divisor", "0");
        canonicalize(&mut resource["divisor"]);
    }
}

const FILE_MODE: i64 = 0o644;

fn default_volume(volume: &mut Value) {
    let has_source = volume
        .as_object()
        .is_some_and(|map| map.iter().any(|(key, value)| key != "name" && !value.is_null()));
    if !has_source {
        set(volume, "emptyDir", empty());
    }
    for (name, source) in volume.as_object_mut().into_iter().flatten() {
        match name.as_str() {
            "secret" | "configMap" => set_default(source, "defaultMode", FILE_MODE),
            "downwardAPI" => {
                set_default(source, "defaultMode", FILE_MODE);
                items_at(source, "items").for_each(default_field_source);
            }
            "projected" => {
                set_default(source, "defaultMode", FILE_MODE);
                for projection in items_at(source, "sources") {
                    if let Some(token) = object_at(projection, "serviceAccountToken") {
                        set_default(token, "expirationSeconds", 3600);
                    }
                    if let Some(downward) = object_at(projection, "downwardAPI") {
                        items_at(downward, "items").for_each(default_field_source);
                    }
                }
            }
            "hostPath" => set_default(source, "type", ""),
            "emptyDir" if source["sizeLimit"].is_string() || source["sizeLimit"].is_number() => {
                canonicalize(&mut source["sizeLimit"]);
            }
            "ephemeral" => {
                if let Some(claim) = object_at(source, "volumeClaimTemplate") {
                    default_claim_spec(child(claim, "spec"));
                }
            }
            "iscsi" => set_default_text(source, "iscsiInterface", "default"),
            "image" => {
                let reference = source["reference"].as_str().unwrap_or_default();
                let policy =
                    if image_tag(reference) == Some("latest") { "Always" } else { "IfNotPresent" };
                set_default_text(source, "pullPolicy", policy);
            }
            _ => {}
        }
    }
}

/// Defaults of the spec of a PersistentVolumeClaim.
pub fn default_claim_spec(spec: &mut Value) {
    set_default(spec, "volumeMode", "Filesystem");
    default_resources(child(spec, "resources"));
}

/// The tag of an image reference: `latest` when it has neither tag nor digest, `None` when it has
/// a digest alone or is not a reference.
pub fn image_tag(image: &str) -> Option<&str> {
    let (name, digest) = match image.split_once('@') {
        Some((name, digest)) => (name, Some(digest)),
        None => (image, None),
    };
    if name.is_empty() {
        return None;
    }
    let last = name.rsplit('/').next().unwrap_or(name);
    match last.split_once(':') {
        Some((_, tag)) => Some(tag),
        None if digest.is_some() => None,
        None => Some("latest"),
    }
}

/// The strategy of Deployments and DaemonSets: both bounds, unless given.
pub fn default_bounds(parent: &mut Value, max_unavailable: Value, max_surge: Value) {
    let rolling = child(parent, "rollingUpdate");
    set_default(rolling, "maxUnavailable", max_unavailable);
    set_default(rolling, "maxSurge", max_surge);
}

/// `25%`, the usual bound of a rolling update.
pub fn quarter() -> Value {
    json!("25%")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pull_policy_by_tag() {
        for (image, tag) in [
            ("nginx", Some("latest")),
            ("nginx:latest", Some("latest")),
            ("nginx:1.9.1", Some("1.9.1")),
            ("localhost:5000/nginx", Some("latest")),
            ("localhost:5000/nginx:1", Some("1")),
            ("nginx@sha256:abc", None),
            ("", None),
        ] {
            assert_eq!(image_tag(image), tag, "{image}");
        }
    }

    #[test]
    fn minimal_pod() {
        let mut spec = json!({
            "containers": [{
                "name": "c", "image": "nginx",
                "ports": [{"containerPort": 80}],
                "resources": {"limits": {"cpu": "0.5"}},
                "livenessProbe": {"httpGet": {"port": 80}},
                "env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
            }],
            "volumes": [{"name": "v"}, {"name": "s", "secret": {"secretName": "x"}}],
        });
        default_pod(&mut spec);
        assert_eq!(
            spec,
            json!({
                "containers": [{
                    "name": "c", "image": "nginx", "imagePullPolicy": "Always",
                    "ports": [{"containerPort": 80, "protocol": "TCP"}],
                    "resources": {"limits": {"cpu": "500m"}, "requests": {"cpu": "500m"}},
                    "livenessProbe": {
                        "httpGet": {"port": 80, "path": "/", "scheme": "HTTP"},
                        "timeoutSeconds": 1, "periodSeconds": 10, "successThreshold": 1,
                        "failureThreshold": 3,
                    },
                    "env": [{"name": "A", "valueFrom": {
                        "fieldRef": {"fieldPath": "metadata.name", "apiVersion": "v1"}}}],
                    "terminationMessagePath": "/dev/termination-log",
                    "terminationMessagePolicy": "File",
                }],
                "volumes": [
                    {"name": "v", "emptyDir": {}},
                    {"name": "s", "secret": {"secretName": "x", "defaultMode": 420}},
                ],
                "dnsPolicy": "ClusterFirst", "restartPolicy": "Always", "securityContext": {},
                "terminationGracePeriodSeconds": 30, "schedulerName": "default-scheduler",
                "enableServiceLinks": true,
            })
        );
    }
}
