//! TokenRequest and the Secrets that hold tokens (upstream `registry/core/serviceaccount/storage`).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::claims::{Bound, Claims, Private, SECRET_ISSUER, SecretClaims};
use super::{Tokens, user_name};
use crate::security::Refusal;

/// One hour, when the request names no other duration.
const DEFAULT_SECONDS: i64 = 3600;
const MIN_SECONDS: i64 = 600;
const MAX_SECONDS: i64 = 1 << 32;

const UID_CHANGED: &str = "does not match the UID in record. The object might have been deleted \
                           and then recreated";

impl Tokens {
    /// Answers a `TokenRequest` for a ServiceAccount: the request with its status filled in.
    pub(in crate::security) fn create(
        &self,
        namespace: &str,
        name: &str,
        mut request: Value,
        now: SystemTime,
    ) -> Result<Value, Refusal> {
        let account = self
            .object("serviceaccounts", namespace, name)
            .ok_or_else(|| not_found("serviceaccounts", name))?;
        let own = |field: &str| request["metadata"][field].as_str().unwrap_or_default();
        if !own("namespace").is_empty() && own("namespace") != namespace {
            return Err(Refusal::BadRequest(
                "the namespace of the provided object does not match the namespace sent on the \
                 request"
                    .to_owned(),
            ));
        }
        if !own("name").is_empty() && own("name") != name {
            return Err(Refusal::BadRequest(format!(
                "metadata.name: Invalid value: {:?}: must match the service account name if \
                 specified",
                own("name")
            )));
        }
        let seconds = expiration_seconds(&request["spec"])?;
        let audiences = match request["spec"]["audiences"].as_array() {
            Some(list) if !list.is_empty() => {
                list.iter().filter_map(Value::as_str).map(str::to_owned).collect()
            }
            _ => vec![self.issuer.clone()],
        };
        let uid = uid_of(&account);
        let mut private = Private {
            namespace: namespace.to_owned(),
            node: None,
            pod: None,
            secret: None,
            serviceaccount: Bound { name: name.to_owned(), uid },
        };
        self.bind(&mut private, &request["spec"]["boundObjectRef"])?;
        let issued = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let expires = issued + seconds.unsigned_abs();
        let claims = Claims {
            aud: audiences,
            exp: expires,
            iat: issued,
            iss: self.issuer.clone(),
            jti: uuid::Uuid::new_v4().to_string(),
            private,
            nbf: issued,
            sub: user_name(namespace, name),
        };
        let token = self.key.sign(&claims).map_err(|error| Refusal::Internal(error.to_string()))?;
        let expiration = UNIX_EPOCH + Duration::from_secs(expires);
        let expiration = Timestamp::try_from(expiration)
            .map_err(|error| Refusal::Internal(error.to_string()))?;
        request["apiVersion"] = json!("authentication.k8s.io/v1");
        request["kind"] = json!("TokenRequest");
        request["metadata"]["name"] = json!(name);
        request["metadata"]["namespace"] = json!(namespace);
        request["metadata"]["creationTimestamp"] =
            Timestamp::try_from(now).map_or(Value::Null, |t| json!(seconds_only(t)));
        request["spec"]["audiences"] = json!(claims.aud);
        request["spec"]["expirationSeconds"] = json!(seconds);
        request["status"] =
            json!({ "token": token, "expirationTimestamp": seconds_only(expiration) });
        Ok(request)
    }

    /// Binds the token to the object that the request names.
    fn bind(&self, private: &mut Private, reference: &Value) -> Result<(), Refusal> {
        if !reference.is_object() {
            return Ok(());
        }
        let text = |field: &str| reference[field].as_str().unwrap_or_default();
        let (name, namespace) = (text("name"), private.namespace.clone());
        let found = |plural: &str, namespace: &str| -> Result<(Bound, Value), Refusal> {
            let object =
                self.object(plural, namespace, name).ok_or_else(|| not_found(plural, name))?;
            let uid = uid_of(&object);
            if !text("uid").is_empty() && text("uid") != uid {
                return Err(Refusal::Conflict(format!(
                    "Operation cannot be fulfilled on {plural} {name:?}: the UID in the bound \
                     object reference ({}) {UID_CHANGED}",
                    text("uid")
                )));
            }
            Ok((Bound { name: name.to_owned(), uid }, object))
        };
        match (text("apiVersion"), text("kind")) {
            ("v1", "Pod") => {
                let (bound, pod) = found("pods", &namespace)?;
                let account = &private.serviceaccount.name;
                if pod["spec"]["serviceAccountName"].as_str() != Some(account) {
                    return Err(Refusal::BadRequest(format!(
                        "cannot bind token for serviceaccount {account:?} to pod running with \
                         different serviceaccount name."
                    )));
                }
                private.pod = Some(bound);
                if let Some(node) = pod["spec"]["nodeName"].as_str()
                    && let Some(object) = self.object("nodes", "", node)
                {
                    private.node = Some(Bound { name: node.to_owned(), uid: uid_of(&object) });
                }
            }
            ("v1", "Secret") => private.secret = Some(found("secrets", &namespace)?.0),
            ("v1", "Node") => private.node = Some(found("nodes", "")?.0),
            (version, kind) => {
                let (group, version) = version.split_once('/').unwrap_or(("", version));
                return Err(Refusal::BadRequest(format!(
                    "cannot bind token to object of type {group}/{version}, Kind={kind}"
                )));
            }
        }
        Ok(())
    }

    /// Fills a Secret of type `kubernetes.io/service-account-token` with a token, the authority's
    /// certificate and the namespace, as far as they are missing. Returns whether it changed.
    pub(in crate::security) fn fill_secret(
        &self,
        secret: &mut Value,
        authority_pem: &str,
    ) -> Result<bool, Refusal> {
        if secret["type"] != "kubernetes.io/service-account-token" {
            return Ok(false);
        }
        let text = |pointer: &str| {
            secret.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned()
        };
        let account = text("/metadata/annotations/kubernetes.io~1service-account.name");
        let namespace = text("/metadata/namespace");
        let name = text("/metadata/name");
        let Some(object) = self.object("serviceaccounts", &namespace, &account) else {
            return Ok(false);
        };
        let uid = uid_of(&object);
        let wanted = text("/metadata/annotations/kubernetes.io~1service-account.uid");
        if !wanted.is_empty() && wanted != uid {
            return Ok(false);
        }
        let before = secret.clone();
        let annotations = &mut secret["metadata"]["annotations"];
        annotations["kubernetes.io/service-account.uid"] = json!(uid);
        if !secret["data"].is_object() {
            secret["data"] = json!({});
        }
        let data = &mut secret["data"];
        if data["token"].as_str().is_none_or(str::is_empty) {
            let claims = SecretClaims {
                iss: SECRET_ISSUER.to_owned(),
                sub: user_name(&namespace, &account),
                namespace: namespace.clone(),
                secret: name,
                account,
                account_uid: uid,
            };
            let token =
                self.key.sign(&claims).map_err(|error| Refusal::Internal(error.to_string()))?;
            data["token"] = json!(STANDARD.encode(token));
        }
        data["ca.crt"] = json!(STANDARD.encode(authority_pem));
        data["namespace"] = json!(STANDARD.encode(namespace));
        Ok(*secret != before)
    }
}

fn expiration_seconds(spec: &Value) -> Result<i64, Refusal> {
    let seconds = match &spec["expirationSeconds"] {
        Value::Null => DEFAULT_SECONDS,
        other => other.as_i64().unwrap_or(0),
    };
    let why = if seconds < MIN_SECONDS {
        "may not specify a duration less than 10 minutes"
    } else if seconds > MAX_SECONDS {
        "may not specify a duration larger than 2^32 seconds"
    } else {
        return Ok(seconds);
    };
    Err(Refusal::Invalid(format!(
        "TokenRequest.authentication.k8s.io \"\" is invalid: spec.expirationSeconds: Invalid value: \
         {seconds}: {why}"
    )))
}

fn not_found(plural: &str, name: &str) -> Refusal {
    Refusal::NotFound(format!("{plural} {name:?} not found"))
}

fn uid_of(object: &Value) -> String {
    object["metadata"]["uid"].as_str().unwrap_or_default().to_owned()
}

/// Kubernetes writes times without fractions.
fn seconds_only(time: Timestamp) -> String {
    Timestamp::from_second(time.as_second()).unwrap_or(time).to_string()
}
