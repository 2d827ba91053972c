//! Every pod runs as a ServiceAccount, whose token is mounted unless that is refused.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use crate::call::Call;
use crate::error::ApiError;
use crate::{intake, meta, object};

/// Where the token appears in containers.
const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const VOLUME_PREFIX: &str = "kube-api-access-";
/// The lifetime that upstream asks for, so that a renewal that fails for a while does no harm.
const TOKEN_SECONDS: i64 = 3607;
const POLL: Duration = Duration::from_millis(20);
/// Longest wait of a request for the account in a turn for heavy work.
const WAIT_IN_TURN: Duration = Duration::from_millis(100);
/// Pods that mirror a file on the node have no token.
const MIRROR_ANNOTATION: &str = "kubernetes.io/config.mirror";

pub(super) async fn create(call: &Call<'_>, pod: &mut Value) -> Result<(), ApiError> {
    if pod["metadata"]["annotations"][MIRROR_ANNOTATION].is_string() {
        return Ok(());
    }
    let spec = object::child_mut(pod, "spec");
    let named = |field: &str| {
        spec.get(field).and_then(Value::as_str).filter(|n| !n.is_empty()).map(str::to_owned)
    };
    let name = named("serviceAccountName")
        .or_else(|| named("serviceAccount"))
        .unwrap_or_else(|| "default".into());
    spec.insert("serviceAccountName".into(), name.clone().into());
    spec.insert("serviceAccount".into(), name.clone().into());
    let account = find(call, &name, object::name(pod)).await?;
    let wants_token = pod["spec"]["automountServiceAccountToken"]
        .as_bool()
        .or_else(|| account["automountServiceAccountToken"].as_bool())
        .unwrap_or(true);
    if wants_token {
        mount_token(pod);
    }
    let secrets = &account["imagePullSecrets"];
    let has_own = pod["spec"]["imagePullSecrets"].as_array().is_some_and(|s| !s.is_empty());
    if !has_own && secrets.as_array().is_some_and(|s| !s.is_empty()) {
        pod["spec"]["imagePullSecrets"] = secrets.clone();
    }
    Ok(())
}

/// The account, waiting a moment for one that a controller is about to make.
async fn find(call: &Call<'_>, name: &str, pod: &str) -> Result<Value, ApiError> {
    let resource = call.server.builtin("", "serviceaccounts")?;
    let key = meta::key(resource, call.namespace(), name);
    // Others wait for the turn of a request that has one.
    let longest = if intake::in_turn() { WAIT_IN_TURN } else { Duration::MAX };
    let deadline = Instant::now() + call.server.config.service_account_wait.min(longest);
    loop {
        if let Some(record) = call.server.store.get(&key) {
            return Ok(call.parse(vec![record]).await?.pop().unwrap_or_default());
        }
        if Instant::now() >= deadline {
            let why = format!(
                "error looking up service account {}/{name}: serviceaccount {name:?} not found",
                call.namespace()
            );
            return Err(ApiError::forbidden(call.served, pod, &why));
        }
        tokio::time::sleep(POLL).await;
    }
}

fn mount_token(pod: &mut Value) {
    let spec = object::child_mut(pod, "spec");
    let volumes = spec.get("volumes").and_then(Value::as_array).into_iter().flatten();
    let existing = volumes
        .filter_map(|v| v["name"].as_str())
        .find(|name| name.starts_with(VOLUME_PREFIX))
        .map(str::to_owned);
    let has_volume = existing.is_some();
    let volume = existing.unwrap_or_else(|| format!("{VOLUME_PREFIX}{}", object::random_suffix()));
    let mut mounted = false;
    for list in ["initContainers", "containers"] {
        for container in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            mounted |= mount_into(container, &volume);
        }
    }
    if mounted && !has_volume {
        let volumes = spec.entry("volumes").or_insert_with(|| json!([]));
        if volumes.is_null() {
            *volumes = json!([]);
        }
        if let Some(volumes) = volumes.as_array_mut() {
            volumes.push(token_volume(&volume));
        }
    }
}

fn mount_into(container: &mut Value, volume: &str) -> bool {
    let Some(container) = container.as_object_mut() else { return false };
    let mounts = container.entry("volumeMounts").or_insert_with(|| json!([]));
    if mounts.is_null() {
        *mounts = json!([]);
    }
    let Some(mounts) = mounts.as_array_mut() else { return false };
    let taken = mounts
        .iter()
        .any(|m| m["mountPath"].as_str().is_some_and(|p| p.trim_end_matches('/') == MOUNT_PATH));
    if taken {
        return false;
    }
    mounts.push(json!({ "name": volume, "readOnly": true, "mountPath": MOUNT_PATH }));
    true
}

fn token_volume(name: &str) -> Value {
    json!({
        "name": name,
        "projected": {
            "defaultMode": 0o644,
            "sources": [
                { "serviceAccountToken": { "expirationSeconds": TOKEN_SECONDS, "path": "token" } },
                { "configMap": {
                    "name": "kube-root-ca.crt",
                    "items": [{ "key": "ca.crt", "path": "ca.crt" }],
                } },
                { "downwardAPI": { "items": [{
                    "path": "namespace",
                    "fieldRef": { "apiVersion": "v1", "fieldPath": "metadata.namespace" },
                }] } },
            ],
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_is_mounted_once_and_not_over_something_else() {
        let mut pod = json!({"spec": {"containers": [
            {"name": "a"},
            {"name": "b", "volumeMounts": [{"name": "x", "mountPath": MOUNT_PATH}]},
        ]}});
        mount_token(&mut pod);
        mount_token(&mut pod);
        let spec = &pod["spec"];
        assert_eq!(spec["volumes"].as_array().map(Vec::len), Some(1));
        assert_eq!(spec["containers"][0]["volumeMounts"].as_array().map(Vec::len), Some(1));
        assert_eq!(spec["containers"][1]["volumeMounts"][0]["name"], "x");
        assert_eq!(spec["volumes"][0]["name"], spec["containers"][0]["volumeMounts"][0]["name"]);
    }
}
