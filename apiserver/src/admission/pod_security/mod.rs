//! The Pod Security Standards, as the labels of a namespace ask for them (upstream `PodSecurity`):
//! pods that violate what is enforced are refused, and who writes one, or something that will make
//! some, is warned.

mod baseline;
mod checks;
mod pod;
mod policy;
mod restricted;

use std::collections::BTreeMap;

use api::Subresource;
use serde_json::Value;

use self::pod::Pod;
use self::policy::{Level, Policy, Standard};
use crate::call::Call;
use crate::error::ApiError;
use crate::{meta, object, render};

/// How many pods of a namespace are looked at when its standard becomes stricter.
const MAX_PODS_CHECKED: usize = 3000;

/// What makes pods, and where their template is.
const TEMPLATES: &[(&str, &str, &str)] = &[
    ("", "PodTemplate", "/template"),
    ("", "ReplicationController", "/spec/template"),
    ("apps", "DaemonSet", "/spec/template"),
    ("apps", "Deployment", "/spec/template"),
    ("apps", "ReplicaSet", "/spec/template"),
    ("apps", "StatefulSet", "/spec/template"),
    ("batch", "CronJob", "/spec/jobTemplate/spec/template"),
    ("batch", "Job", "/spec/template"),
];

/// Before a valid new object is stored.
pub(super) fn create(call: &Call<'_>, new: &Value) -> Result<(), ApiError> {
    let stored = call.stored_as();
    match (stored.group, stored.kind) {
        ("", "Namespace") => labels_of(call, new, None),
        ("", "Pod") => check_pod(call, new),
        _ => warn_of_template(call, new),
    }
}

/// Before a valid changed object is stored.
pub(super) fn update(
    call: &Call<'_>,
    new: &Value,
    old: &Value,
    subresource: Subresource<'_>,
) -> Result<(), ApiError> {
    let stored = call.stored_as();
    let whole = subresource == Subresource::None;
    match (stored.group, stored.kind) {
        ("", "Namespace") if whole => labels_of(call, new, Some(old)),
        ("", "Pod") if subresource != Subresource::Status && matters(new, old) => {
            check_pod(call, new)
        }
        ("", "Pod") => Ok(()),
        _ if whole => warn_of_template(call, new),
        _ => Ok(()),
    }
}

fn check_pod(call: &Call<'_>, pod: &Value) -> Result<(), ApiError> {
    let Some(policy) = policy_of(call)? else { return Ok(()) };
    let pod_view = Pod::new(&pod["metadata"], &pod["spec"]);
    if let Some(detail) = checks::detail(&policy.enforce, &pod_view) {
        let why = format!("violates PodSecurity \"{}\": {detail}", policy.enforce);
        return Err(ApiError::forbidden(call.served, object::name(pod), &why));
    }
    warn(call, &policy.warn, &pod_view);
    Ok(())
}

fn warn_of_template(call: &Call<'_>, object: &Value) -> Result<(), ApiError> {
    let stored = call.stored_as();
    let known =
        TEMPLATES.iter().find(|(group, kind, _)| (*group, *kind) == (stored.group, stored.kind));
    let Some(template) = known.and_then(|(_, _, at)| object.pointer(at)) else { return Ok(()) };
    let Some(policy) = policy_of(call)? else { return Ok(()) };
    warn(call, &policy.warn, &Pod::new(&template["metadata"], &template["spec"]));
    Ok(())
}

fn warn(call: &Call<'_>, standard: &Standard, pod: &Pod<'_>) {
    if let Some(detail) = checks::detail(standard, pod) {
        call.warn(format!("would violate PodSecurity \"{standard}\": {detail}"));
    }
}

/// What the namespace of the request asks for; nothing when that is nothing.
fn policy_of(call: &Call<'_>) -> Result<Option<Policy>, ApiError> {
    let namespaces = call.server.builtin("", "namespaces")?;
    let Some(record) = call.server.store.get(&meta::key(namespaces, "", call.namespace())) else {
        return Ok(None);
    };
    let (policy, _) = Policy::of(|label| record.meta.label(label));
    Ok(policy.asks_for_something().then_some(policy))
}

/// The labels of a namespace must be understood; who makes its standard stricter is told which pods
/// would not be let in again.
fn labels_of(call: &Call<'_>, new: &Value, old: Option<&Value>) -> Result<(), ApiError> {
    let labels = |object: &Value| object["metadata"]["labels"].clone();
    let read = |labels: &Value| Policy::of(|label| labels[label].as_str());
    let (policy, errors) = read(&labels(new));
    let Some(old) = old else {
        return refuse(call, new, errors);
    };
    let (before, errors_before) = read(&labels(old));
    if errors != errors_before {
        refuse(call, new, errors)?;
    }
    let (enforce, was) = (policy.enforce, before.enforce);
    let relaxed = enforce.version == was.version && enforce.level <= was.level;
    if enforce.level == Level::Privileged || relaxed {
        return Ok(());
    }
    warn_of_pods(call, object::name(new), &enforce)
}

fn refuse(call: &Call<'_>, namespace: &Value, errors: api::ErrorList) -> Result<(), ApiError> {
    if errors.is_empty() {
        return Ok(());
    }
    Err(ApiError::invalid(call.served, object::name(namespace), errors))
}

fn warn_of_pods(call: &Call<'_>, namespace: &str, standard: &Standard) -> Result<(), ApiError> {
    let pods = call.server.builtin("", "pods")?;
    let records = call.server.store.list(&meta::prefix(pods, namespace), None, 0).records;
    // The reasons, each with the first pod that gives it and how many do.
    let mut reasons: BTreeMap<String, (String, usize)> = BTreeMap::new();
    for record in records.iter().take(MAX_PODS_CHECKED) {
        let pod = render::parse(record)?;
        if let Some(why) = checks::reasons(standard, &Pod::new(&pod["metadata"], &pod["spec"])) {
            let name = || (object::name(&pod).to_owned(), 0);
            reasons.entry(why).or_insert_with(name).1 += 1;
        }
    }
    if records.len() > MAX_PODS_CHECKED {
        call.warn(format!(
            "new PodSecurity enforce level only checked against the first {MAX_PODS_CHECKED} of {} \
             existing pods",
            records.len()
        ));
    }
    if !reasons.is_empty() {
        call.warn(format!(
            "existing pods in namespace {namespace:?} violate the new PodSecurity enforce level \
             \"{standard}\""
        ));
    }
    let mut texts: Vec<String> = reasons
        .into_iter()
        .map(|(why, (first, count))| match count {
            1 => format!("{first}: {why}"),
            2 => format!("{first} (and 1 other pod): {why}"),
            _ => format!("{first} (and {} other pods): {why}", count - 1),
        })
        .collect();
    texts.sort_unstable();
    call.warn_all(texts);
    Ok(())
}

/// Whether an update of a pod changes what the standards look at: what may change of a pod is few.
fn matters(new: &Value, old: &Value) -> bool {
    let images = |pod: &Value| -> Vec<(String, String)> {
        Pod::new(&pod["metadata"], &pod["spec"])
            .containers()
            .map(|c| (pod::name(c).to_owned(), c["image"].as_str().unwrap_or_default().to_owned()))
            .collect()
    };
    images(new) != images(old)
}
