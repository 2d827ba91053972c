//! The query parameters and bodies that say how a verb is meant.

use api::{FieldError, metadata};
use http::HeaderMap;
use http::header::USER_AGENT;
use serde_json::Value;

use crate::call::Call;
use crate::error::ApiError;
use crate::request::Query;

/// What to do about fields that the schema does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FieldValidation {
    Ignore,
    Warn,
    Strict,
}

/// Parameters of create, update and patch.
#[derive(Clone, Debug)]
pub(crate) struct WriteOptions {
    pub(crate) dry_run: bool,
    pub(crate) field_validation: FieldValidation,
    /// As given by `fieldManager`, else the program in `User-Agent`.
    pub(crate) manager: String,
    /// Whether `fieldManager` was given.
    pub(crate) manager_given: bool,
    pub(crate) force: bool,
}

impl WriteOptions {
    pub(crate) fn parse(call: &Call<'_>, kind: &str) -> Result<Self, ApiError> {
        let query = call.query;
        let given = query.get("fieldManager");
        let mut errors = metadata::validate_field_manager("fieldManager", given.unwrap_or(""));
        if !errors.is_empty() {
            return Err(ApiError::invalid_kind("meta.k8s.io", kind, "", errors));
        }
        let field_validation = match query.get("fieldValidation") {
            None | Some("Warn") => FieldValidation::Warn,
            Some("Ignore") => FieldValidation::Ignore,
            Some("Strict") => FieldValidation::Strict,
            Some(other) => {
                errors.push(FieldError::not_supported(
                    "fieldValidation",
                    other,
                    &["Ignore", "Strict", "Warn"],
                ));
                return Err(ApiError::invalid_kind("meta.k8s.io", kind, "", errors));
            }
        };
        Ok(Self {
            dry_run: dry_run(query.all("dryRun"), kind)?,
            field_validation,
            manager: given.map_or_else(|| program(call.headers), str::to_owned),
            manager_given: given.is_some(),
            force: query.flag("force"),
        })
    }
}

/// The program that a client names in `User-Agent`, as far as it can be a field manager.
fn program(headers: &HeaderMap) -> String {
    let agent = headers.get(USER_AGENT).and_then(|agent| agent.to_str().ok()).unwrap_or("");
    let name = agent.split('/').next().filter(|name| !name.is_empty()).unwrap_or("unknown");
    // `to_str` passes visible ASCII and tabs.
    name.chars().filter(|c| *c != '\t').take(metadata::FIELD_MANAGER_MAX_BYTES).collect()
}

fn dry_run<'a>(values: impl Iterator<Item = &'a str>, kind: &str) -> Result<bool, ApiError> {
    let mut dry = false;
    for value in values {
        if value != "All" {
            let errors = vec![FieldError::not_supported("dryRun", value, &["All"])];
            return Err(ApiError::invalid_kind("meta.k8s.io", kind, "", errors));
        }
        dry = true;
    }
    Ok(dry)
}

/// `resourceVersionMatch`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Match {
    Unset,
    Exact,
    NotOlderThan,
}

/// Parameters of list, watch and deletecollection.
#[derive(Clone, Debug)]
pub(crate) struct ListOptions {
    /// Absent when unset; `Some(0)` means any.
    pub(crate) resource_version: Option<u64>,
    pub(crate) resource_version_match: Match,
    pub(crate) limit: usize,
    pub(crate) continue_after: Option<Continue>,
    pub(crate) timeout_seconds: Option<u64>,
    pub(crate) bookmarks: bool,
    pub(crate) send_initial_events: Option<bool>,
}

/// Where a list in pages goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Continue {
    /// The revision of the first page.
    pub(crate) revision: u64,
    /// The last key of the page before.
    pub(crate) after: String,
    /// The number of objects after it when the first page was made; unknown for a selection.
    pub(crate) remaining: Option<usize>,
}

impl Continue {
    pub(crate) fn encode(&self) -> String {
        use base64::Engine;
        let token = serde_json::json!({
            "v": "meta.k8s.io/v1", "rv": self.revision, "start": self.after, "left": self.remaining,
        });
        base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(token.to_string())
    }

    fn decode(token: &str) -> Result<Self, ApiError> {
        use base64::Engine;
        let refused =
            |why: &str| ApiError::bad_request(format!("continue key is not valid: {why}"));
        let bytes = base64::engine::general_purpose::URL_SAFE_NO_PAD
            .decode(token.trim_end_matches('='))
            .map_err(|e| refused(&e.to_string()))?;
        let value: Value = serde_json::from_slice(&bytes).map_err(|e| refused(&e.to_string()))?;
        match (value["rv"].as_u64(), value["start"].as_str()) {
            (Some(revision), Some(after)) if value["v"] == "meta.k8s.io/v1" => {
                let remaining = value["left"].as_u64().and_then(|left| left.try_into().ok());
                Ok(Self { revision, after: after.to_owned(), remaining })
            }
            _ => Err(refused("incorrect encoded start resourceVersion (version meta.k8s.io/v1)")),
        }
    }
}

impl ListOptions {
    pub(crate) fn parse(query: &Query) -> Result<Self, ApiError> {
        let continue_after = query.get("continue").map(Continue::decode).transpose()?;
        let resource_version = query.get("resourceVersion").map(resource_version).transpose()?;
        let send_initial_events =
            query.get("sendInitialEvents").is_some().then(|| query.flag("sendInitialEvents"));
        let resource_version_match = match query.get("resourceVersionMatch") {
            None => Match::Unset,
            Some("Exact") => Match::Exact,
            Some("NotOlderThan") => Match::NotOlderThan,
            Some(other) => {
                return Err(list_invalid(FieldError::not_supported(
                    "resourceVersionMatch",
                    other,
                    &["Exact", "NotOlderThan", ""],
                )));
            }
        };
        let options = Self {
            resource_version,
            resource_version_match,
            limit: integer(query, "limit")?.unwrap_or(0) as usize,
            continue_after,
            timeout_seconds: integer(query, "timeoutSeconds")?,
            bookmarks: query.flag("allowWatchBookmarks"),
            send_initial_events,
        };
        options.check()?;
        Ok(options)
    }

    fn check(&self) -> Result<(), ApiError> {
        let forbidden =
            |field: &str, why: &str| Err(list_invalid(FieldError::forbidden(field, why)));
        if self.send_initial_events.is_some() {
            if self.resource_version_match != Match::NotOlderThan {
                return forbidden(
                    "resourceVersionMatch",
                    "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
                );
            }
            return Ok(());
        }
        if self.resource_version_match == Match::Unset {
            return Ok(());
        }
        if self.continue_after.is_some() {
            return forbidden(
                "resourceVersionMatch",
                "resourceVersionMatch is forbidden when continue is provided",
            );
        }
        if self.resource_version.is_none() {
            return forbidden(
                "resourceVersionMatch",
                "resourceVersionMatch is forbidden unless resourceVersion is provided",
            );
        }
        if self.resource_version_match == Match::Exact && self.resource_version == Some(0) {
            return forbidden(
                "resourceVersionMatch",
                "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"",
            );
        }
        Ok(())
    }
}

fn list_invalid(error: FieldError) -> ApiError {
    ApiError::invalid_kind("meta.k8s.io", "ListOptions", "", vec![error])
}

/// Reads a resource version.
pub(crate) fn resource_version(text: &str) -> Result<u64, ApiError> {
    text.parse().map_err(|_| {
        ApiError::bad_request(format!(
            "Invalid value: {text:?}: strconv.ParseUint: parsing {text:?}: invalid syntax"
        ))
    })
}

fn integer(query: &Query, name: &str) -> Result<Option<u64>, ApiError> {
    let Some(text) = query.get(name) else { return Ok(None) };
    let number: i64 = text.parse().map_err(|_| {
        ApiError::bad_request(format!("strconv.ParseInt: parsing {text:?}: invalid syntax"))
    })?;
    Ok(u64::try_from(number).ok())
}

/// What becomes of an object's dependents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Propagation {
    Background,
    Foreground,
    Orphan,
}

/// `DeleteOptions`, from the body and the query.
#[derive(Clone, Debug, Default)]
pub(crate) struct DeleteOptions {
    pub(crate) grace_period_s: Option<i64>,
    pub(crate) propagation: Option<Propagation>,
    pub(crate) uid: Option<String>,
    pub(crate) resource_version: Option<String>,
    pub(crate) dry_run: bool,
}

impl DeleteOptions {
    /// Combines the body (`Null` if there is none) with the query; the body wins.
    pub(crate) fn parse(body: &Value, query: &Query) -> Result<Self, ApiError> {
        let refused = |error: FieldError| {
            Err(ApiError::invalid_kind("meta.k8s.io", "DeleteOptions", "", vec![error]))
        };
        let from_query = body.is_null();
        let grace_period_s = match &body["gracePeriodSeconds"] {
            Value::Null if from_query => match query.get("gracePeriodSeconds") {
                None => None,
                Some(text) => Some(text.parse().map_err(|_| {
                    ApiError::bad_request(format!(
                        "strconv.ParseInt: parsing {text:?}: invalid syntax"
                    ))
                })?),
            },
            Value::Null => None,
            value => match value.as_i64() {
                Some(seconds) => Some(seconds),
                None => {
                    return Err(ApiError::bad_request(
                        "DeleteOptions.gracePeriodSeconds is not a number",
                    ));
                }
            },
        };
        let policy = body["propagationPolicy"]
            .as_str()
            .or_else(|| query.get("propagationPolicy").filter(|_| from_query));
        let orphan = body["orphanDependents"].as_bool().or_else(|| {
            (from_query && query.get("orphanDependents").is_some())
                .then(|| query.flag("orphanDependents"))
        });
        let propagation = match (policy, orphan) {
            (Some(_), Some(_)) => {
                return refused(FieldError::invalid(
                    "propagationPolicy",
                    policy.unwrap_or_default(),
                    "orphanDependents and deletionPropagation cannot be both set",
                ));
            }
            (Some("Background"), None) | (None, Some(false)) => Some(Propagation::Background),
            (Some("Foreground"), None) => Some(Propagation::Foreground),
            (Some("Orphan"), None) | (None, Some(true)) => Some(Propagation::Orphan),
            (Some(other), None) => {
                return refused(FieldError::not_supported(
                    "propagationPolicy",
                    other,
                    &["Background", "Foreground", "Orphan"],
                ));
            }
            (None, None) => None,
        };
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let body_dry = body["dryRun"].as_array().into_iter().flatten().filter_map(Value::as_str);
        Ok(Self {
            grace_period_s,
            propagation,
            uid: text(&body["preconditions"]["uid"]),
            resource_version: text(&body["preconditions"]["resourceVersion"]),
            dry_run: dry_run(body_dry.chain(query.all("dryRun")), "DeleteOptions")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;
    use serde_json::json;

    #[test]
    fn a_program_is_a_valid_field_manager() {
        let long = format!("{}/v1", "x".repeat(60_000));
        for (agent, expected) in [
            ("kubectl/v1.34 (linux)", "kubectl"),
            ("", "unknown"),
            ("/", "unknown"),
            ("a\tb/1", "ab"),
            (&long, &"x".repeat(128)),
        ] {
            let value = HeaderValue::from_str(agent).expect("no control characters");
            let headers = HeaderMap::from_iter([(USER_AGENT, value)]);
            assert_eq!(program(&headers), expected);
        }
    }

    #[test]
    fn continue_tokens_come_back() {
        let token = Continue { revision: 7, after: "core.pods/a/b".into(), remaining: Some(3) };
        assert_eq!(Continue::decode(&token.encode()).ok(), Some(token));
        assert!(Continue::decode("rubbish!").is_err());
    }

    #[test]
    fn list_options_that_contradict_are_refused() {
        let parse = |text: &str| ListOptions::parse(&Query::parse(text));
        assert!(parse("resourceVersionMatch=Exact").is_err());
        assert!(parse("resourceVersionMatch=Exact&resourceVersion=0").is_err());
        assert!(parse("sendInitialEvents=true").is_err());
        assert!(parse("resourceVersion=x").is_err());
        let watch_list =
            parse("sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=1");
        assert!(watch_list.is_ok_and(|o| o.send_initial_events == Some(true) && o.bookmarks));
    }

    #[test]
    fn the_body_of_a_deletion_wins() {
        let query = Query::parse("gracePeriodSeconds=5&propagationPolicy=Orphan");
        let options = DeleteOptions::parse(&Value::Null, &query).expect("valid");
        assert_eq!(options.grace_period_s, Some(5));
        assert_eq!(options.propagation, Some(Propagation::Orphan));
        let body = json!({"gracePeriodSeconds": 0, "propagationPolicy": "Background",
            "preconditions": {"uid": "u"}});
        let options = DeleteOptions::parse(&body, &query).expect("valid");
        assert_eq!(options.grace_period_s, Some(0));
        assert_eq!(options.uid.as_deref(), Some("u"));
    }
}
