//! Round trips, dropped zeros, limits and random input.

#![allow(clippy::unwrap_used)]

use serde_json::json;

use super::*;
use crate::schema::encode::encode;
use crate::schema::fuzz::Random;
use crate::schema::{check, kinds};

#[test]
fn a_deployment_goes_round() {
    let value = json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {
            "name": "web", "labels": {"app": "web", "empty": ""},
            "creationTimestamp": "2024-02-03T04:05:06Z",
            "managedFields": [{"manager": "m", "fieldsV1": {"f:spec": {}}}],
        },
        "spec": {
            "replicas": 0, "paused": true,
            "selector": {},
            "strategy": {"type": "RollingUpdate",
                "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": 0}},
            "template": {
                "metadata": {},
                "spec": {
                    "containers": [{
                        "name": "c", "image": "i",
                        "resources": {"limits": {"cpu": "500m", "memory": "1Gi"}},
                        "envFrom": [{"configMapRef": {"name": "cm", "optional": false}}],
                        "env": [{"name": "E", "valueFrom":
                            {"secretKeyRef": {"name": "s", "key": "k"}}}],
                        "readinessProbe": {"httpGet": {"port": "http", "path": "/"},
                            "periodSeconds": 3},
                        "securityContext": {"runAsUser": 0, "runAsNonRoot": false},
                    }],
                    "terminationGracePeriodSeconds": 0,
                    "volumes": [{"name": "v", "emptyDir": {}},
                        {"name": "w", "configMap": {"name": "x", "defaultMode": 420}}],
                },
            },
        },
        "status": {},
    });
    assert_eq!(decode_protobuf(&encode(&value)), Ok(value));
}

#[test]
fn unset_values_are_dropped() {
    // ServicePort{name: "", protocol: "TCP", port: 80, targetPort: {0}, nodePort: 0}
    let value = json!({"apiVersion": "v1", "kind": "Service", "metadata": {}, "spec": {
        "ports": [{"name": "", "protocol": "TCP", "port": 80, "targetPort": 0, "nodePort": 0}],
        "publishNotReadyAddresses": false,
    }});
    let expected = json!({"apiVersion": "v1", "kind": "Service", "metadata": {}, "spec": {
        "ports": [{"protocol": "TCP", "port": 80}],
    }});
    assert_eq!(decode_protobuf(&encode(&value)), Ok(expected));
}

#[test]
fn durations_read_as_in_go() {
    for (nanoseconds, text) in [
        (0, "0s"),
        (1, "1ns"),
        (1_500, "1.5µs"),
        (2_000_000, "2ms"),
        (1_500_000_000, "1.5s"),
        (90_000_000_000, "1m30s"),
        (3_600_000_000_000, "1h0m0s"),
        (-5_000_000_000, "-5s"),
        (i64::MIN, "-2562047h47m16.854775808s"),
    ] {
        assert_eq!(go_duration(nanoseconds), text);
    }
}

#[test]
fn envelopes_are_checked() {
    assert_eq!(decode_protobuf(b"{}"), Err(ProtobufError::NoEnvelope));
    assert_eq!(decode_protobuf(b"k8s\0\x0a\x05ab"), Err(ProtobufError::Truncated));
    let unknown = b"k8s\0\x0a\x07\x0a\x02v1\x12\x01X";
    assert_eq!(
        decode_protobuf(unknown).unwrap_err().to_string(),
        "no kind \"X\" is registered for version \"v1\" in scheme \
         \"pkg/api/legacyscheme/scheme.go:30\""
    );
    let object = decode_protobuf_or(b"k8s\0", "v1", "ConfigMap").unwrap();
    assert_eq!(object, json!({"apiVersion": "v1", "kind": "ConfigMap"}));
}

#[test]
fn random_objects_of_every_kind_go_round() {
    let mut random = Random::new(7);
    for entry in kinds() {
        for _ in 0..20 {
            let api_version = if entry.group().is_empty() {
                entry.version().to_owned()
            } else {
                format!("{}/{}", entry.group(), entry.version())
            };
            let mut object = crate::schema::encode::random(entry.message(), &mut random, 0);
            object.insert("apiVersion".to_owned(), api_version.into());
            object.insert("kind".to_owned(), entry.kind().into());
            let mut value = Value::Object(object);
            let decoded = decode_protobuf(&encode(&value)).unwrap();
            assert_eq!(decoded, value, "{}", entry.kind());
            assert_eq!(check(entry.message(), &mut value), Ok(Vec::new()));
            assert_eq!(decoded, value, "{}", entry.kind());
        }
    }
}

#[test]
fn random_bytes_never_panic() {
    let mut random = Random::new(3);
    let mut good = 0;
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"},
        "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let pod = encode(&pod);
    for _ in 0..20_000 {
        let mut body = pod.clone();
        for _ in 0..=random.below(4) {
            let at = random.below(body.len());
            match random.below(3) {
                0 => body[at] = random.next() as u8,
                1 => body.truncate(at.max(1)),
                _ => body.extend(random.bytes(8)),
            }
        }
        good += usize::from(decode_protobuf(&body).is_ok());
        let mut body = MAGIC.to_vec();
        body.extend(random.bytes(64));
        let _ = decode_protobuf_or(&body, "v1", "Pod");
    }
    assert!(good > 0);
}

#[test]
fn depth_is_limited() {
    // JSONSchemaProps.not nests in itself without end.
    let mut schema = json!({"type": "object"});
    for _ in 0..200 {
        schema = json!({"not": schema});
    }
    let value = json!({"apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition", "metadata": {}, "spec": {"versions": [
            {"name": "v1", "schema": {"openAPIV3Schema": schema}}]}});
    assert_eq!(decode_protobuf(&encode(&value)), Err(ProtobufError::TooDeep));
}
