//! `delete`: marks an object for deletion, or removes it if nothing holds it.

use api::Subresource;
use bytes::Bytes;
use http::{Response, StatusCode};
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use crate::body::{self, Body};
use crate::call::Call;
use crate::error::{self, ApiError};
use crate::negotiate::Encoding;
use crate::options::{DeleteOptions, Propagation};
use crate::write::{self, Committed, Plan, Room, Stored};
use crate::{admission, decode, object, render};

/// Held until every dependent is gone.
const FOREGROUND: &str = "foregroundDeletion";
/// Held until no dependent names it any longer.
const ORPHAN: &str = "orphan";
/// A pod's grace period when its spec names none.
const DEFAULT_POD_GRACE_S: i64 = 30;
const ATTEMPTS: usize = 64;
/// Types whose removal is answered with the object instead of a Status, as upstream does.
const RETURN_OBJECT: [&str; 7] = [
    "Pod",
    "Service",
    "ServiceAccount",
    "PersistentVolume",
    "PersistentVolumeClaim",
    "PodTemplate",
    "ResourceQuota",
];

/// Answers with the object that waits for its end, or with the Status of a finished deletion.
pub(crate) async fn answer(call: &Call<'_>, body: &Bytes) -> Result<Response<Body>, ApiError> {
    let options = options(call, body)?;
    let name = &call.info.name;
    let stored = delete(call, name, &options).await?;
    match &stored {
        Stored::Removed(record) if !RETURN_OBJECT.contains(&call.stored_as().kind) => {
            let status = error::deleted_status(call.served, name, &record.meta.uid);
            body::value(StatusCode::OK, &status, Encoding::Json, call.headers)
        }
        _ => stored.respond(call, StatusCode::OK),
    }
}

/// Reads the options from body and query.
pub(crate) fn options(call: &Call<'_>, body: &Bytes) -> Result<DeleteOptions, ApiError> {
    let value = if body.is_empty() {
        Value::Null
    } else {
        let value = decode::document(call.headers, body)?.value;
        let kind = value["kind"].as_str().unwrap_or("DeleteOptions");
        if kind != "DeleteOptions" {
            return Err(ApiError::bad_request(format!(
                "{kind} in the body of a deletion cannot be handled as DeleteOptions"
            )));
        }
        value
    };
    DeleteOptions::parse(&value, call.query)
}

/// Deletes the named object as far as it can be deleted now.
pub(crate) async fn delete(
    call: &Call<'_>,
    name: &str,
    options: &DeleteOptions,
) -> Result<Stored, ApiError> {
    admission::delete(call, name)?;
    let key = call.key(name);
    let mut record = call.server.store.get(&key).ok_or_else(|| call.not_found(name))?;
    for _ in 0..ATTEMPTS {
        let old = render::parse(&record)?;
        check_preconditions(call, name, options, &old)?;
        let mut new = old.clone();
        mark(call, &mut new, options, Timestamp::now());
        let plan = if !write::is_held(call.resource, &new) {
            Plan::Remove
        } else if new == old {
            Plan::Keep
        } else {
            Plan::Put(Room::Server)
        };
        if options.dry_run {
            return Ok(Stored::Imagined(new));
        }
        let mut durability = call.durability(Subresource::None);
        if plan == Plan::Remove && object::is_deleting(&old) {
            // The wish to delete is on disk already; that it came true can be found out again.
            durability = write::lazy(durability);
        }
        match write::commit(call, &key, &record, durability, plan, &new).await? {
            Committed::Done(stored) => {
                if matches!(stored, Stored::Removed(_)) {
                    call.server.services.release(call.resource, &old);
                }
                return Ok(stored);
            }
            Committed::Overtaken(Some(newer)) => record = newer,
            Committed::Overtaken(None) => return Err(call.not_found(name)),
        }
    }
    Err(ApiError::modified(call.served, name))
}

fn check_preconditions(
    call: &Call<'_>,
    name: &str,
    options: &DeleteOptions,
    stored: &Value,
) -> Result<(), ApiError> {
    for (what, wanted, field) in [
        ("UID", &options.uid, "uid"),
        ("ResourceVersion", &options.resource_version, "resourceVersion"),
    ] {
        let actual = object::metadata_str(stored, field);
        if let Some(wanted) = wanted
            && wanted != actual
        {
            return Err(ApiError::conflict(
                call.served,
                name,
                &format!(
                    "Precondition failed: {what} in precondition: {wanted}, {what} in object \
                     meta: {actual}"
                ),
            ));
        }
    }
    Ok(())
}

/// Writes into `object` that it is to go: finalizers for its dependents, the time and the grace.
fn mark(call: &Call<'_>, object: &mut Value, options: &DeleteOptions, now: Timestamp) {
    set_finalizers(object, options.propagation.or_else(|| default_propagation(call)));
    let kind = call.stored_as().kind;
    let grace = if kind == "Pod" { pod_grace_s(object, options) } else { 0 };
    let metadata = &object["metadata"];
    if object::is_deleting(object) {
        let old_grace = metadata["deletionGracePeriodSeconds"].as_i64().unwrap_or(0);
        let asked = options.grace_period_s.is_some() || grace == 0;
        if kind == "Pod" && asked && grace < old_grace {
            let at = metadata["deletionTimestamp"].as_str().and_then(|t| t.parse().ok());
            let at: Timestamp = at.unwrap_or(now);
            set_deletion(object, later(at, grace.saturating_sub(old_grace)), grace);
        }
        return;
    }
    if grace == 0 && !write::is_held(call.resource, object) {
        return;
    }
    set_deletion(object, later(now, grace), grace);
    if let Some(generation) = object["metadata"]["generation"].as_i64().filter(|g| *g > 0) {
        object["metadata"]["generation"] = generation.saturating_add(1).into();
    }
    if kind == "Namespace" {
        object::child_mut(object, "status").insert("phase".into(), "Terminating".into());
    }
}

/// So many seconds after `at`, or the end of time.
fn later(at: Timestamp, seconds: i64) -> Timestamp {
    at.checked_add(SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::MAX)
}

fn set_deletion(object: &mut Value, at: Timestamp, grace_s: i64) {
    let metadata = object::metadata_mut(object);
    metadata.insert("deletionTimestamp".into(), object::time(at).into());
    metadata.insert("deletionGracePeriodSeconds".into(), grace_s.into());
}

/// How long the node may take to stop a pod: nothing to stop takes no time.
fn pod_grace_s(pod: &Value, options: &DeleteOptions) -> i64 {
    let unscheduled = pod["spec"]["nodeName"].as_str().unwrap_or_default().is_empty();
    let finished = matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
    if unscheduled || finished {
        return 0;
    }
    let spec = || pod["spec"]["terminationGracePeriodSeconds"].as_i64();
    match options.grace_period_s.or_else(spec).unwrap_or(DEFAULT_POD_GRACE_S) {
        negative if negative < 0 => 1,
        seconds => seconds,
    }
}

/// Types whose dependents upstream leaves alone unless told otherwise.
fn default_propagation(call: &Call<'_>) -> Option<Propagation> {
    let orphans = match (call.served.group, call.served.version, call.served.kind) {
        ("", "v1", "ReplicationController") | ("batch", _, "Job") => true,
        ("extensions", "v1beta1", kind) | ("apps", "v1beta1" | "v1beta2", kind) => {
            matches!(kind, "Deployment" | "ReplicaSet" | "DaemonSet" | "StatefulSet")
        }
        _ => false,
    };
    orphans.then_some(Propagation::Orphan)
}

fn set_finalizers(object: &mut Value, propagation: Option<Propagation>) {
    let Some(propagation) = propagation else { return };
    let mut finalizers: Vec<String> = object::finalizers(object)
        .filter(|f| *f != FOREGROUND && *f != ORPHAN)
        .map(str::to_owned)
        .collect();
    match propagation {
        Propagation::Background => {}
        Propagation::Foreground => finalizers.push(FOREGROUND.into()),
        Propagation::Orphan => finalizers.push(ORPHAN.into()),
    }
    let metadata = object::metadata_mut(object);
    if finalizers.is_empty() {
        metadata.remove("finalizers");
    } else {
        metadata.insert("finalizers".into(), finalizers.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn grace_is_for_pods_that_run() {
        let options = |s| DeleteOptions { grace_period_s: s, ..DeleteOptions::default() };
        let pending = json!({"spec": {"terminationGracePeriodSeconds": 5}});
        assert_eq!(pod_grace_s(&pending, &options(None)), 0);
        let running = json!({"spec": {"nodeName": "n", "terminationGracePeriodSeconds": 5}});
        assert_eq!(pod_grace_s(&running, &options(None)), 5);
        assert_eq!(pod_grace_s(&running, &options(Some(0))), 0);
        assert_eq!(pod_grace_s(&running, &options(Some(-1))), 1);
        let done = json!({"spec": {"nodeName": "n"}, "status": {"phase": "Failed"}});
        assert_eq!(pod_grace_s(&done, &options(None)), 0);
        assert_eq!(pod_grace_s(&json!({"spec": {"nodeName": "n"}}), &options(None)), 30);
    }

    #[test]
    fn propagation_is_written_as_finalizers() {
        let mut object = json!({"metadata": {"finalizers": ["mine", "orphan"]}});
        set_finalizers(&mut object, Some(Propagation::Foreground));
        assert_eq!(object["metadata"]["finalizers"], json!(["mine", "foregroundDeletion"]));
        set_finalizers(&mut object, Some(Propagation::Background));
        assert_eq!(object["metadata"]["finalizers"], json!(["mine"]));
        let mut bare = json!({"metadata": {"finalizers": ["orphan"]}});
        set_finalizers(&mut bare, Some(Propagation::Background));
        assert_eq!(bare, json!({"metadata": {}}));
    }
}
