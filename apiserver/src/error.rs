//! What the server answers when it does not do what was asked: one place that declares the HTTP
//! status, reason and message of each failure, worded as upstream (`apimachinery/pkg/api/errors`).

use std::collections::HashSet;
use std::fmt;

use api::{ErrorList, FieldError, Served};
use http::StatusCode;
use serde_json::{Map, Value, json};

use crate::security::Refusal;

/// A failure on its way to the client as a `metav1.Status`.
#[derive(Clone, Debug)]
pub struct ApiError(Box<Failure>);

#[derive(Clone, Debug)]
struct Failure {
    code: StatusCode,
    reason: &'static str,
    message: String,
    details: Option<Details>,
}

/// The `details` of a Status.
#[derive(Clone, Debug, Default)]
pub struct Details {
    /// The object's name.
    pub name: String,
    /// The API group.
    pub group: String,
    /// The plural resource name, or the kind for validation failures.
    pub kind: String,
    /// The object's uid.
    pub uid: String,
    /// Single causes.
    pub causes: Vec<Cause>,
    /// After how many seconds to come again; 0 when the client need not.
    pub retry_after_seconds: u32,
}

/// One cause in the details of a Status.
#[derive(Clone, Debug)]
pub struct Cause {
    /// A machine-readable word.
    pub reason: &'static str,
    /// The sentence.
    pub message: String,
    /// The field's path, if one is to blame.
    pub field: String,
}

/// `deployments.apps`, or `pods` in the core group.
pub(crate) fn qualified(group: &str, plural: &str) -> String {
    if group.is_empty() { plural.to_owned() } else { format!("{plural}.{group}") }
}

impl ApiError {
    /// Any failure, when none of the named constructors fits.
    pub fn new(code: StatusCode, reason: &'static str, message: impl Into<String>) -> Self {
        Self(Box::new(Failure { code, reason, message: message.into(), details: None }))
    }

    /// The same failure with what it is about in its details.
    pub(crate) fn about(mut self, group: &str, kind: &str, name: &str) -> Self {
        let details = self.0.details.get_or_insert_default();
        details.group = group.to_owned();
        details.kind = kind.to_owned();
        details.name = name.to_owned();
        self
    }

    fn with_cause(mut self, reason: &'static str, message: impl Into<String>, field: &str) -> Self {
        let cause = Cause { reason, message: message.into(), field: field.to_owned() };
        self.0.details.get_or_insert_default().causes.push(cause);
        self
    }

    fn retry_after(mut self, seconds: u32) -> Self {
        self.0.details.get_or_insert_default().retry_after_seconds = seconds;
        self
    }

    /// 404 `deployments.apps "x" not found`.
    pub fn not_found(served: &Served, name: &str) -> Self {
        let message = format!("{} {name:?} not found", qualified(served.group, served.plural));
        Self::new(StatusCode::NOT_FOUND, "NotFound", message).about(
            served.group,
            served.plural,
            name,
        )
    }

    /// 409 `deployments.apps "x" already exists`.
    pub fn already_exists(served: &Served, name: &str) -> Self {
        let message = format!("{} {name:?} already exists", qualified(served.group, served.plural));
        Self::new(StatusCode::CONFLICT, "AlreadyExists", message).about(
            served.group,
            served.plural,
            name,
        )
    }

    /// 409 `Operation cannot be fulfilled on deployments.apps "x": why`.
    pub fn conflict(served: &Served, name: &str, why: &str) -> Self {
        let message = format!(
            "Operation cannot be fulfilled on {} {name:?}: {why}",
            qualified(served.group, served.plural)
        );
        Self::new(StatusCode::CONFLICT, "Conflict", message).about(
            served.group,
            served.plural,
            name,
        )
    }

    /// 409, somebody else wrote first.
    pub fn modified(served: &Served, name: &str) -> Self {
        Self::conflict(
            served,
            name,
            "the object has been modified; please apply your changes to the latest version and \
             try again",
        )
    }

    /// 409 of server-side apply: `(manager and field)` pairs are in the way.
    pub fn apply_conflict(message: String, causes: Vec<(String, String)>) -> Self {
        causes
            .into_iter()
            .fold(Self::new(StatusCode::CONFLICT, "Conflict", message), |error, (cause, field)| {
                error.with_cause("FieldManagerConflict", cause, &field)
            })
    }

    /// 422 `Deployment.apps "x" is invalid: …`.
    pub fn invalid(served: &Served, name: &str, errors: impl Into<ErrorList>) -> Self {
        Self::invalid_kind(served.group, served.kind, name, errors)
    }

    /// 422 for a kind that has no resource of its own.
    pub fn invalid_kind(group: &str, kind: &str, name: &str, errors: impl Into<ErrorList>) -> Self {
        let errors = errors.into();
        // Of errors whose texts are the same, the message has the first.
        let (mut seen, mut distinct) = (HashSet::new(), Vec::new());
        for error in &errors {
            if seen.insert((error.kind.cause_reason(), &error.field, &error.value, &error.detail)) {
                distinct.push(error);
            }
        }
        let mut message = format!("{} {name:?} is invalid: ", qualified(group, kind));
        let (open, close) = if distinct.len() == 1 { ("", "") } else { ("[", "]") };
        message.push_str(open);
        for (index, error) in distinct.into_iter().enumerate() {
            message.push_str(if index == 0 { "" } else { ", " });
            message.push_str(&error.to_string());
        }
        message.push_str(close);
        errors.iter().fold(
            Self::new(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", message)
                .about(group, kind, name),
            |status, error: &FieldError| {
                status.with_cause(error.kind.cause_reason(), error.body(), &error.field)
            },
        )
    }

    /// 422 for a patch that cannot be applied to the object; upstream does not say why.
    pub fn unprocessable() -> Self {
        Self::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "Invalid",
            "the server rejected our request due to an error in our request",
        )
        .about("", "", "")
    }

    /// 400.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "BadRequest", message)
    }

    /// 403 `pods "x" is forbidden: why`.
    pub fn forbidden(served: &Served, name: &str, why: &str) -> Self {
        let what = qualified(served.group, served.plural);
        let message = if name.is_empty() {
            format!("{what} is forbidden: {why}")
        } else {
            format!("{what} {name:?} is forbidden: {why}")
        };
        Self::new(StatusCode::FORBIDDEN, "Forbidden", message).about(
            served.group,
            served.plural,
            name,
        )
    }

    /// 403 that says what is being torn down (`NamespaceTerminating`).
    pub fn namespace_terminating(served: &Served, name: &str, namespace: &str) -> Self {
        let text = format!("namespace {namespace} is being terminated");
        Self::forbidden(
            served,
            name,
            &format!(
                "unable to create new content in namespace {namespace} because it is being \
                 terminated"
            ),
        )
        .with_cause("NamespaceTerminating", text, "metadata.namespace")
    }

    /// 405.
    pub fn method_not_allowed() -> Self {
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "MethodNotAllowed",
            "the server does not allow this method on the requested resource",
        )
        .about("", "", "")
    }

    /// 406.
    pub fn not_acceptable(accepted: &[&str]) -> Self {
        let message =
            format!("only the following media types are accepted: {}", accepted.join(", "));
        Self::new(StatusCode::NOT_ACCEPTABLE, "NotAcceptable", message)
    }

    /// 415.
    pub fn unsupported_media_type(accepted: &[&str]) -> Self {
        let message = format!(
            "the body of the request was in an unknown format - accepted media types include: {}",
            accepted.join(", ")
        );
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "UnsupportedMediaType", message)
    }

    /// 410 with reason `Expired`: list again.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::new(StatusCode::GONE, "Expired", message)
    }

    /// 504: the client has seen a revision that the server has not.
    pub fn revision_too_large(wanted: u64, current: u64) -> Self {
        Self::new(
            StatusCode::GATEWAY_TIMEOUT,
            "Timeout",
            format!("Timeout: Too large resource version: {wanted}, current: {current}"),
        )
        .with_cause("ResourceVersionTooLarge", "Too large resource version", "")
        .retry_after(1)
    }

    /// 504: the request took too long.
    pub fn timed_out() -> Self {
        Self::new(
            StatusCode::GATEWAY_TIMEOUT,
            "Timeout",
            "Timeout: request did not complete within the allotted timeout",
        )
        .about("", "", "")
    }

    /// 504: the request took too long, and the store has not answered it.
    pub(crate) fn timed_out_while_writing() -> Self {
        Self::new(
            StatusCode::GATEWAY_TIMEOUT,
            "Timeout",
            "Timeout: request did not complete within the allotted timeout, and the outcome of the \
             write is unknown",
        )
        .about("", "", "")
    }

    /// 429 of a client that has to wait for others, or for its own requests.
    pub(crate) fn too_many() -> Self {
        Self::too_many_requests("Too many requests, please try again later.", 1)
    }

    /// 429, with the time to wait before another try.
    pub fn too_many_requests(message: impl Into<String>, retry_after_seconds: u32) -> Self {
        let error = Self::new(StatusCode::TOO_MANY_REQUESTS, "TooManyRequests", message);
        if retry_after_seconds == 0 { error } else { error.retry_after(retry_after_seconds) }
    }

    /// 429 of an eviction that a PodDisruptionBudget forbids.
    pub fn disruption_budget(why: String) -> Self {
        Self::new(
            StatusCode::TOO_MANY_REQUESTS,
            "TooManyRequests",
            "Cannot evict pod as it would violate the pod's disruption budget.",
        )
        .with_cause("DisruptionBudget", why, "")
    }

    /// 413 of a body that is too long.
    pub fn too_large(limit_bytes: usize) -> Self {
        Self::entity_too_large(format!("limit is {limit_bytes}"))
    }

    /// 413 `Request entity too large: why`.
    pub fn entity_too_large(why: impl fmt::Display) -> Self {
        Self::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "RequestEntityTooLarge",
            format!("Request entity too large: {why}"),
        )
    }

    /// 500.
    pub fn internal(why: impl fmt::Display) -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "InternalError",
            format!("Internal error occurred: {why}"),
        )
        .with_cause("", why.to_string(), "")
    }

    /// 507: the state file cannot grow.
    pub fn disk_full(why: impl fmt::Display) -> Self {
        Self::new(
            StatusCode::INSUFFICIENT_STORAGE,
            "InsufficientStorage",
            format!("nothing was stored, the disk is full: {why}"),
        )
        .retry_after(10)
    }

    /// 507: the store has reached its bound; the text is etcd's.
    pub fn store_full(why: impl fmt::Display) -> Self {
        Self::new(StatusCode::INSUFFICIENT_STORAGE, "InsufficientStorage", why.to_string())
    }

    /// 500 or 507: the disk failed in the middle of a write.
    pub fn outcome_unknown(error: &store::DiskError) -> Self {
        let (code, reason) = match error.is_full() {
            true => (StatusCode::INSUFFICIENT_STORAGE, "InsufficientStorage"),
            false => (StatusCode::INTERNAL_SERVER_ERROR, "InternalError"),
        };
        let message = format!(
            "the outcome of the write is unknown: it takes effect at the next start unless a later \
             write succeeds: {error}"
        );
        Self::new(code, reason, message).retry_after(10)
    }

    /// 503.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable", message).retry_after(1)
    }

    /// The HTTP status.
    pub fn code(&self) -> StatusCode {
        self.0.code
    }

    /// The machine-readable reason.
    pub fn reason(&self) -> &'static str {
        self.0.reason
    }

    /// The sentence.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// Seconds for a `Retry-After` header, if any.
    pub fn retry_after_seconds(&self) -> Option<u32> {
        self.0.details.as_ref().map(|d| d.retry_after_seconds).filter(|s| *s > 0)
    }

    /// Whether the named object is not there.
    pub fn is_not_found(&self) -> bool {
        self.0.reason == "NotFound"
    }

    /// Whether somebody else wrote first.
    pub fn is_conflict(&self) -> bool {
        self.0.reason == "Conflict"
    }

    /// Whether the name is taken.
    pub fn is_already_exists(&self) -> bool {
        self.0.reason == "AlreadyExists"
    }

    /// As a `metav1.Status` of API version `v1`.
    pub fn status(&self) -> Value {
        let failure = &self.0;
        let mut status = json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": failure.message,
            "code": failure.code.as_u16(),
        });
        // Upstream has failures without one.
        if !failure.reason.is_empty() {
            status["reason"] = failure.reason.into();
        }
        if let Some(details) = &failure.details {
            status["details"] = details.to_json();
        }
        status
    }
}

impl Details {
    fn to_json(&self) -> Value {
        let mut map = Map::new();
        for (key, text) in
            [("name", &self.name), ("group", &self.group), ("kind", &self.kind), ("uid", &self.uid)]
        {
            if !text.is_empty() {
                map.insert(key.into(), json!(text));
            }
        }
        if !self.causes.is_empty() {
            let causes = self.causes.iter().map(|cause| {
                let mut map = Map::new();
                for (key, text) in [
                    ("reason", cause.reason),
                    ("message", cause.message.as_str()),
                    ("field", cause.field.as_str()),
                ] {
                    if !text.is_empty() {
                        map.insert(key.into(), json!(text));
                    }
                }
                Value::Object(map)
            });
            map.insert("causes".into(), causes.collect());
        }
        if self.retry_after_seconds > 0 {
            map.insert("retryAfterSeconds".into(), json!(self.retry_after_seconds));
        }
        Value::Object(map)
    }
}

/// The Status of a finished deletion.
pub(crate) fn deleted_status(served: &Served, name: &str, uid: &str) -> Value {
    let details = Details {
        name: name.to_owned(),
        group: served.group.to_owned(),
        kind: served.plural.to_owned(),
        uid: uid.to_owned(),
        ..Details::default()
    };
    json!({
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Success",
        "details": details.to_json(),
    })
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl std::error::Error for ApiError {}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        let (code, reason) = refusal.code_and_reason();
        let code = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Self::new(code, reason, refusal.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEPLOYMENTS: Served = Served {
        group: "apps",
        version: "v1",
        kind: "Deployment",
        plural: "deployments",
        singular: "deployment",
        short_names: &[],
        categories: &[],
    };

    #[test]
    fn texts_are_upstreams() {
        assert_eq!(
            ApiError::not_found(&DEPLOYMENTS, "x").to_string(),
            "deployments.apps \"x\" not found"
        );
        assert_eq!(
            ApiError::modified(&DEPLOYMENTS, "x").to_string(),
            "Operation cannot be fulfilled on deployments.apps \"x\": the object has been \
             modified; please apply your changes to the latest version and try again"
        );
        let one = vec![FieldError::required("spec.selector", "")];
        let invalid = ApiError::invalid(&DEPLOYMENTS, "x", one);
        assert_eq!(
            invalid.to_string(),
            "Deployment.apps \"x\" is invalid: spec.selector: Required value"
        );
        let status = invalid.status();
        assert_eq!(status["code"], 422);
        assert_eq!(status["details"]["kind"], "Deployment");
        assert_eq!(status["details"]["causes"][0]["reason"], "FieldValueRequired");
        let two = vec![FieldError::required("a", ""), FieldError::required("b", "why")];
        assert_eq!(
            ApiError::invalid(&DEPLOYMENTS, "x", two).to_string(),
            "Deployment.apps \"x\" is invalid: [a: Required value, b: Required value: why]"
        );
    }

    #[test]
    fn a_refusal_is_bounded_whatever_the_object_is() {
        let long = "x".repeat(100_000);
        let same = FieldError::invalid("a", long.as_str(), "why");
        let mut errors = vec![same.clone(), same];
        errors.extend((0..5_000).map(|n| FieldError::invalid(format!("f{n}"), &long, "why")));
        let refusal = ApiError::invalid(&DEPLOYMENTS, "x", errors);
        let status = refusal.status();
        assert_eq!(status["details"]["causes"].as_array().map(Vec::len), Some(100));
        // The message has errors that are the same once.
        assert_eq!(refusal.message().matches("Invalid value").count(), 99);
        assert!(status.to_string().len() < 256 << 10);
    }

    #[test]
    fn conflict_of_a_deletion_has_the_details() {
        let status = deleted_status(&DEPLOYMENTS, "x", "u");
        assert_eq!(status["status"], "Success");
        assert_eq!(status["details"]["group"], "apps");
        assert_eq!(status["details"]["uid"], "u");
    }
}
