//! Equality and hash of pod templates, independent of which default values are written out.
//!
//! Invariant: a field that holds its default counts as absent, so that a later version that
//! writes out more defaults neither changes a hash nor starts a rollout. A new default in `api`
//! needs a line in [`is_default`].

use std::fmt::Write;

use k8s_openapi::api::core::v1::PodTemplateSpec;
use serde_json::Value;

/// The label that ties a ReplicaSet and its pods to a template.
pub const HASH_LABEL: &str = "pod-template-hash";

/// Letters and digits that form no words (upstream `rand.SafeEncodeString`).
const SAFE: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";

/// The template as text: sorted keys, no defaults, no hash label.
pub fn canonical(template: &PodTemplateSpec) -> String {
    let mut value = serde_json::to_value(template).unwrap_or(Value::Null);
    if let Some(labels) = value.pointer_mut("/metadata/labels").and_then(Value::as_object_mut) {
        labels.remove(HASH_LABEL);
    }
    let mut text = String::new();
    render("", "", &value, &mut text);
    text
}

/// Whether two templates make the same pods.
pub fn same(a: &PodTemplateSpec, b: &PodTemplateSpec) -> bool {
    canonical(a) == canonical(b)
}

/// The value of the hash label. `collisions` tells apart templates whose hashes collide.
pub fn hash(template: &PodTemplateSpec, collisions: Option<i32>) -> String {
    let mut hash = Fnv32::default();
    hash.update(canonical(template).as_bytes());
    if let Some(collisions) = collisions.filter(|count| *count > 0) {
        hash.update(&collisions.to_le_bytes());
    }
    safe_encode(&hash.0.to_string())
}

/// Replaces every character by one that cannot form a word.
pub fn safe_encode(text: &str) -> String {
    text.bytes().map(|byte| char::from(SAFE[usize::from(byte) % SAFE.len()])).collect()
}

/// FNV-1a, 32 bits.
pub struct Fnv32(pub u32);

impl Default for Fnv32 {
    fn default() -> Self {
        Self(0x811c_9dc5)
    }
}

impl Fnv32 {
    /// Takes in more bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u32::from(*byte)).wrapping_mul(0x0100_0193);
        }
    }
}

fn render(parent: &str, key: &str, value: &Value, text: &mut String) {
    match value {
        Value::Object(fields) => {
            let mut names: Vec<&String> = fields.keys().collect();
            names.sort();
            text.push('{');
            let mut first = true;
            for name in names {
                let field = &fields[name.as_str()];
                if field.is_null() || is_default(parent, key, fields, name, field) {
                    continue;
                }
                if !first {
                    text.push(',');
                }
                first = false;
                // Writing to a String cannot fail.
                let _ = write!(text, "{}:", Value::from(name.as_str()));
                render(key, name, field, text);
            }
            text.push('}');
        }
        Value::Array(items) => {
            text.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    text.push(',');
                }
                render(parent, key, item, text);
            }
            text.push(']');
        }
        other => {
            let _ = write!(text, "{other}");
        }
    }
}

/// Whether `value` of the field `name` is what the server writes when the field is absent. `key`
/// names the field that holds the object, `parent` the one that holds that.
fn is_default(
    parent: &str,
    key: &str,
    object: &serde_json::Map<String, Value>,
    name: &str,
    value: &Value,
) -> bool {
    let text = value.as_str();
    let number = value.as_i64();
    let empty = value.as_object().is_some_and(serde_json::Map::is_empty)
        || value.as_array().is_some_and(Vec::is_empty);
    match (key, name) {
        ("", "metadata") | ("metadata", "labels" | "annotations") => empty,
        ("spec", "restartPolicy") => text == Some("Always"),
        ("spec", "dnsPolicy") => text == Some("ClusterFirst"),
        ("spec", "schedulerName") => text == Some("default-scheduler"),
        ("spec", "terminationGracePeriodSeconds") => number == Some(30),
        ("spec", "enableServiceLinks") => value == &Value::Bool(true),
        // The deprecated alias of serviceAccountName.
        ("spec", "serviceAccount") => object.get("serviceAccountName") == Some(value),
        ("spec", "hostNetwork" | "hostPID" | "hostIPC") => value == &Value::Bool(false),
        ("spec", _) if empty => true,
        ("containers" | "initContainers" | "ephemeralContainers", field) => match field {
            "terminationMessagePath" => text == Some("/dev/termination-log"),
            "terminationMessagePolicy" => text == Some("File"),
            "imagePullPolicy" => {
                let image = object.get("image").and_then(Value::as_str).unwrap_or_default();
                text == Some(default_pull_policy(image))
            }
            "stdin" | "stdinOnce" | "tty" => value == &Value::Bool(false),
            _ => empty,
        },
        ("resources", "limits" | "requests") => empty,
        ("ports", "protocol") => text == Some("TCP"),
        ("securityContext", "procMount") => text == Some("Default"),
        ("livenessProbe" | "readinessProbe" | "startupProbe", field) => match field {
            "timeoutSeconds" | "successThreshold" => number == Some(1),
            "periodSeconds" => number == Some(10),
            "failureThreshold" => number == Some(3),
            "initialDelaySeconds" => number == Some(0),
            _ => false,
        },
        ("httpGet", "scheme") => text == Some("HTTP"),
        ("httpGet", "path") => text == Some("/"),
        ("grpc", "service") => text == Some(""),
        ("fieldRef", "apiVersion") => text == Some("v1"),
        ("resourceFieldRef", "divisor") => text == Some("0"),
        ("secret" | "configMap" | "downwardAPI" | "projected", "defaultMode") => {
            // Only volumes have one; the same names below `sources` do not.
            parent != "sources" && number == Some(0o644)
        }
        ("serviceAccountToken", "expirationSeconds") => number == Some(3600),
        ("hostPath", "type") => text == Some(""),
        _ => false,
    }
}

fn default_pull_policy(image: &str) -> &'static str {
    let untagged_digest = image.contains('@');
    let last = image.rsplit('/').next().unwrap_or(image);
    let tag = last.split_once('@').map_or(last, |(name, _)| name).split_once(':');
    match tag {
        Some((_, "latest")) => "Always",
        None if !untagged_digest => "Always",
        _ => "IfNotPresent",
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    fn template(value: Value) -> PodTemplateSpec {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn written_defaults_and_the_hash_label_do_not_matter() {
        let short = template(json!({
            "metadata": {"labels": {"app": "nginx"}},
            "spec": {"containers": [{"name": "nginx", "image": "nginx",
                "ports": [{"containerPort": 80}],
                "readinessProbe": {"httpGet": {"port": 80}}}],
                "volumes": [{"name": "v", "emptyDir": {}}, {"name": "s", "secret": {"secretName": "x"}}]}
        }));
        let long = template(json!({
            "metadata": {"creationTimestamp": null, "labels": {"app": "nginx", "pod-template-hash": "abc"}},
            "spec": {"containers": [{"name": "nginx", "image": "nginx", "imagePullPolicy": "Always",
                "ports": [{"containerPort": 80, "protocol": "TCP"}], "resources": {},
                "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
                "readinessProbe": {"httpGet": {"port": 80, "path": "/", "scheme": "HTTP"},
                    "timeoutSeconds": 1, "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3}}],
                "volumes": [{"name": "v", "emptyDir": {}},
                    {"name": "s", "secret": {"secretName": "x", "defaultMode": 420}}],
                "dnsPolicy": "ClusterFirst", "restartPolicy": "Always", "securityContext": {},
                "schedulerName": "default-scheduler", "terminationGracePeriodSeconds": 30}
        }));
        assert_eq!(canonical(&short), canonical(&long));
        assert!(canonical(&short).contains(r#""emptyDir":{}"#));
        assert_eq!(hash(&short, None), hash(&long, Some(0)));
        assert_ne!(hash(&short, None), hash(&short, Some(1)));
    }

    #[test]
    fn a_hash_never_changes_between_versions() {
        let nginx = |image: &str| {
            template(json!({
                "metadata": {"labels": {"app": "nginx"}},
                "spec": {"containers": [{"name": "nginx", "image": image}]}
            }))
        };
        assert_eq!(
            canonical(&nginx("nginx:1.9.1")),
            r#"{"metadata":{"labels":{"app":"nginx"}},"spec":{"containers":[{"image":"nginx:1.9.1","name":"nginx"}]}}"#
        );
        assert_ne!(hash(&nginx("nginx"), None), hash(&nginx("nginx:1.9.1"), None));
    }

    #[test]
    fn differences_that_matter_are_seen() {
        let base = json!({"metadata": {"labels": {"app": "a"}},
            "spec": {"containers": [{"name": "a", "image": "a:1"}]}});
        let changes = [
            ("/spec/containers/0/image", json!("a:2")),
            ("/spec/containers/0/imagePullPolicy", json!("Always")),
            ("/spec/restartPolicy", json!("Never")),
            ("/spec/terminationGracePeriodSeconds", json!(0)),
            ("/metadata/annotations", json!({"kubectl.kubernetes.io/restartedAt": "now"})),
        ];
        for (path, value) in changes {
            let mut changed = base.clone();
            let (parent, name) = path.rsplit_once('/').unwrap();
            changed.pointer_mut(parent).unwrap()[name] = value;
            assert!(!same(&template(base.clone()), &template(changed)), "{path}");
        }
    }

    #[test]
    fn pull_policies_follow_the_tag() {
        for (image, policy) in [
            ("nginx", "Always"),
            ("nginx:latest", "Always"),
            ("nginx:1.9.1", "IfNotPresent"),
            ("localhost:5000/nginx", "Always"),
            ("localhost:5000/nginx:1", "IfNotPresent"),
            ("nginx@sha256:0", "IfNotPresent"),
        ] {
            assert_eq!(default_pull_policy(image), policy, "{image}");
        }
    }
}
