//! Tokens, and what ends them.

#![allow(clippy::unwrap_used)]

use std::time::{Duration, SystemTime};

use serde_json::json;

use super::*;
use crate::security::Refusal;
use crate::security::rbac::tests::Fake;

const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

fn cluster() -> (Arc<Fake>, Tokens) {
    let fake = Arc::new(Fake::default());
    let object = |name: &str, uid: &str| json!({ "metadata": { "name": name, "namespace": "default", "uid": uid } });
    fake.put("", "serviceaccounts", &object("builder", "u-sa"));
    let mut pod = object("p", "u-pod");
    pod["spec"] = json!({ "serviceAccountName": "builder", "nodeName": "n1" });
    fake.put("", "pods", &pod);
    fake.put("", "nodes", &json!({ "metadata": { "name": "n1", "uid": "u-node" } }));
    let key = rcgen::KeyPair::generate().unwrap();
    let tokens = Tokens::new(key.serialized_der(), ISSUER, fake.clone()).unwrap();
    (fake, tokens)
}

fn token(answer: &Value) -> String {
    answer["status"]["token"].as_str().unwrap().to_owned()
}

#[test]
fn a_token_bound_to_a_pod_dies_with_it() {
    let (fake, tokens) = cluster();
    let now = SystemTime::now();
    let bound = json!({ "kind": "Pod", "apiVersion": "v1", "name": "p", "uid": "u-pod" });
    let request = json!({ "spec": { "expirationSeconds": 3607, "boundObjectRef": bound } });
    let answer = tokens.create("default", "builder", request, now).unwrap();
    assert_eq!(answer["spec"]["audiences"], json!([ISSUER]));
    let token = token(&answer);
    let user = tokens.verify(&token, &[], now).unwrap().user;
    assert_eq!(user.name, "system:serviceaccount:default:builder");
    assert_eq!(user.uid, "u-sa");
    assert!(user.in_group("system:serviceaccounts:default"));
    assert_eq!(user.extra["authentication.kubernetes.io/node-name"], ["n1"]);
    // Not for others, not after its time, not when tampered with.
    assert!(tokens.verify(&token, &["vault".to_owned()], now).is_none());
    assert!(tokens.verify(&token, &[], now + Duration::from_secs(3608)).is_none());
    assert!(tokens.verify(&token, &[], now - Duration::from_secs(86_400)).is_some());
    let (head, tail) = token.split_at(token.len() / 2);
    let flipped = if tail.starts_with('A') { "B" } else { "A" };
    assert!(tokens.verify(&format!("{head}{flipped}{}", &tail[1..]), &[], now).is_none());
    let (_, stranger) = cluster();
    assert!(stranger.verify(&token, &[], now).is_none());
    fake.remove("", "pods", "default", "p");
    assert!(tokens.verify(&token, &[], now).is_none());
}

#[test]
fn a_recreated_service_account_is_another_one() {
    let (fake, tokens) = cluster();
    let now = SystemTime::now();
    let request = json!({ "spec": { "audiences": ["vault", ISSUER] } });
    let token = token(&tokens.create("default", "builder", request, now).unwrap());
    let audiences = ["vault".to_owned(), "x".to_owned()];
    assert_eq!(tokens.verify(&token, &audiences, now).unwrap().audiences, ["vault"]);
    let again = json!({ "metadata": { "name": "builder", "namespace": "default", "uid": "new" } });
    fake.put("", "serviceaccounts", &again);
    assert!(tokens.verify(&token, &audiences, now).is_none());
}

#[test]
fn bad_requests_are_refused_as_upstream_does() {
    let (_, tokens) = cluster();
    let now = SystemTime::now();
    let refused = |request: Value| tokens.create("default", "builder", request, now).unwrap_err();
    let short = refused(json!({ "spec": { "expirationSeconds": 60 } }));
    assert!(short.to_string().ends_with("may not specify a duration less than 10 minutes"));
    let reference = |kind: &str, name: &str, uid: &str| {
        json!({ "spec": { "boundObjectRef":
            { "kind": kind, "apiVersion": "v1", "name": name, "uid": uid } } })
    };
    assert!(matches!(refused(reference("Pod", "q", "")), Refusal::NotFound(_)));
    assert!(matches!(refused(reference("Pod", "p", "other")), Refusal::Conflict(_)));
    assert!(matches!(refused(reference("ConfigMap", "p", "")), Refusal::BadRequest(_)));
    let unknown = tokens.create("default", "nobody", json!({}), now).unwrap_err();
    assert_eq!(unknown.to_string(), "serviceaccounts \"nobody\" not found");
}

#[test]
fn secrets_hold_tokens_too() {
    let (fake, tokens) = cluster();
    let mut secret = json!({
        "metadata": { "name": "s", "namespace": "default", "uid": "u",
            "annotations": { "kubernetes.io/service-account.name": "builder" } },
        "type": "kubernetes.io/service-account-token",
    });
    assert!(tokens.fill_secret(&mut secret, "PEM").unwrap());
    assert!(!tokens.fill_secret(&mut secret, "PEM").unwrap());
    use base64::Engine;
    let bytes = base64::engine::general_purpose::STANDARD
        .decode(secret["data"]["token"].as_str().unwrap())
        .unwrap();
    let token = String::from_utf8(bytes).unwrap();
    assert!(tokens.verify(&token, &[], SystemTime::now()).is_none());
    fake.put("", "secrets", &secret);
    assert!(tokens.verify(&token, &[], SystemTime::now()).is_some());
    fake.remove("", "secrets", "default", "s");
    assert!(tokens.verify(&token, &[], SystemTime::now()).is_none());
}

#[test]
fn garbage_is_not_a_token() {
    let (_, tokens) = cluster();
    for text in ["", ".", "..", "a.b.c", "e30.e30.AAAA", "\u{0}.\u{ff}.x"] {
        assert!(tokens.verify(text, &[], SystemTime::now()).is_none());
    }
    assert_eq!(tokens.key_set()["keys"][0]["kty"], "EC");
    assert_eq!(tokens.openid_configuration()["issuer"], ISSUER);
}
