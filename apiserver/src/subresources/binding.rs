//! `pods/binding` and the old `bindings`: the scheduler gives a pod its node.

use api::Subresource;
use bytes::Bytes;
use http::{Response, StatusCode};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::body::{self, Body};
use crate::call::Call;
use crate::error::ApiError;
use crate::negotiate::Encoding;
use crate::options::WriteOptions;
use crate::write::{self, Edit};
use crate::{decode, object};

/// Answers `POST …/bindings`, where the body names the pod.
pub(crate) async fn answer_collection(
    call: &Call<'_>,
    binding: &Value,
) -> Result<Response<Body>, ApiError> {
    let pods = call.server.builtin("", "pods")?;
    bind(&call.about(pods), object::name(binding), binding).await
}

/// Answers `POST …/pods/<name>/binding`.
pub(crate) async fn answer(
    call: &Call<'_>,
    pod: &str,
    body: &Bytes,
) -> Result<Response<Body>, ApiError> {
    let binding = decode::document(call.headers, body)?.value;
    let named = object::name(&binding);
    if !named.is_empty() && named != pod {
        return Err(ApiError::bad_request("name in URL does not match name in Binding object"));
    }
    bind(call, pod, &binding).await
}

async fn bind(call: &Call<'_>, pod: &str, binding: &Value) -> Result<Response<Body>, ApiError> {
    let options = WriteOptions::parse(call, "CreateOptions")?;
    let target = &binding["target"];
    let kind = target["kind"].as_str().unwrap_or_default();
    if !kind.is_empty() && kind != "Node" {
        let error = api::FieldError::not_supported("target.kind", kind, &["Node", "<empty>"]);
        return Err(ApiError::invalid_kind("", "Binding", pod, vec![error]));
    }
    let node = target["name"].as_str().unwrap_or_default().to_owned();
    if node.is_empty() {
        let error = api::FieldError::required("target.name", "");
        return Err(ApiError::invalid_kind("", "Binding", pod, vec![error]));
    }
    // Losing a binding in a crash is harmless: the pod is pending again and is bound again.
    let edit = Edit {
        subresource: Subresource::Status,
        trusted: true,
        dry_run: options.dry_run,
        manager: None,
    };
    let conflict = |why: String| ApiError::conflict(call.served, pod, &why);
    let wanted_uid = object::metadata_str(binding, "uid");
    write::modify(call, pod, &edit, |current| {
        let mut bound = current.object.clone();
        let uid = object::metadata_str(&bound, "uid");
        if !wanted_uid.is_empty() && wanted_uid != uid {
            return Err(conflict(format!(
                "Precondition failed: UID in precondition: {wanted_uid}, UID in object meta: {uid}"
            )));
        }
        if object::is_deleting(&bound) {
            return Err(conflict(format!(
                "pod {pod} is being deleted, cannot be assigned to a host"
            )));
        }
        let present = bound["spec"]["nodeName"].as_str().unwrap_or_default();
        if !present.is_empty() {
            return Err(conflict(format!("pod {pod} is already assigned to node {present:?}")));
        }
        if bound["spec"]["schedulingGates"].as_array().is_some_and(|g| !g.is_empty()) {
            return Err(conflict(format!("pod {pod} has non-empty .spec.schedulingGates")));
        }
        bound["spec"]["nodeName"] = node.clone().into();
        if let Some(annotations) = binding["metadata"]["annotations"].as_object() {
            let metadata = object::metadata_mut(&mut bound);
            let own = metadata.entry("annotations").or_insert_with(|| json!({}));
            for (key, value) in annotations {
                own[key] = value.clone();
            }
        }
        set_scheduled(&mut bound, Timestamp::now());
        Ok(bound)
    })
    .await?;
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201,
    });
    body::value(StatusCode::CREATED, &status, Encoding::Json, call.headers)
}

fn set_scheduled(pod: &mut Value, now: Timestamp) {
    let status = object::child_mut(pod, "status");
    let conditions = status.entry("conditions").or_insert_with(|| json!([]));
    let Some(conditions) = conditions.as_array_mut() else { return };
    conditions.retain(|c| c["type"] != "PodScheduled");
    conditions.push(json!({
        "type": "PodScheduled",
        "status": "True",
        "lastProbeTime": null,
        "lastTransitionTime": object::time(now),
    }));
}
